//! How a connection leaves a server whose streams stay open: the server is told to use no header table, and
//! when it has heard so, the transport goes. From then on it hears of its client over a relay.

use crate::connection::Connection;
use crate::core::{Core, Side};
use crate::frame::{kind, put};
use crate::rest::Stays;
use crate::settings::{Setting, Settings};
use crate::state::State;
use crate::streams::Streams;

/// So many bytes for the client may travel: it has not taken them yet. The frame that the server was just
/// writing fits.
pub(crate) const MAX_UNSENT: usize = 24 * 1024;

/// Whether a connection leaves its open streams here, and how far it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Split {
    /// It shall.
    wanted: bool,
    encoder: Encoder,
    /// The transport has gone for good.
    done: bool,
}

/// The header table of the server's encoder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Encoder {
    /// It has the size that the client allows.
    #[default]
    Whole,
    /// The server was told to use none, and what it writes may still refer to one.
    Empties,
    /// There is none.
    Empty,
    /// The server was told to use one again.
    Returns,
}

impl Split {
    /// Whether frames of the client wait. What the encoder may use is said in front of the next one.
    #[inline]
    pub(crate) fn holds(self) -> bool {
        !self.done && (self.wanted || self.encoder == Encoder::Empty)
    }

    /// Whether nothing of it is to be done.
    #[inline]
    pub(crate) fn is_over(self) -> bool {
        self.done || (!self.wanted && self.encoder == Encoder::Whole)
    }

    /// Whether the transport can go: what the server writes from here on is for the relay.
    #[inline]
    pub(crate) fn is_ready(self) -> bool {
        self.wanted && self.encoder == Encoder::Empty && !self.done
    }
}

impl Core {
    /// Whether the connection can move while its streams stay, and else why not.
    pub(crate) fn can_split(&self) -> Result<(), Stays> {
        let connection = &self.connection;
        if let Some(stays) = self.stays() {
            return Err(stays);
        }
        if let Some(relay) = &self.relay {
            return Err(Stays::Relayed(relay.len()));
        }
        if !self.backend.starts.is_done() || !connection.announced {
            return Err(Stays::Starting);
        }
        if connection.lowers {
            return Err(Stays::Unacknowledged);
        }
        if self.split.done { Err(Stays::Closed) } else { Ok(()) }
    }

    /// The connection moves as soon as it can, and its streams stay.
    pub(crate) fn split(&mut self) {
        if self.can_split().is_ok() {
            self.plain = false;
            self.split.wanted = true;
        }
    }

    /// Whether the transport can go.
    pub(crate) fn is_split(&self) -> Result<(), Stays> {
        self.can_split()?;
        if self.split.is_ready() && self.out.len() <= MAX_UNSENT { Ok(()) } else { Err(Stays::Busy) }
    }

    /// Whether nothing is left to be done but that the client takes what is for it.
    pub(crate) fn is_ready_to_part(&self) -> bool {
        self.split.is_ready()
    }

    /// What travels. The server that is here goes on with all that was given to it; what it writes waits.
    pub(crate) fn take_split(&mut self) -> State {
        let mut waiting = self.hold.take().map(|hold| hold.frames).unwrap_or_default();
        waiting.unsplit(self.pending.split_off(self.passing));
        State { connection: self.connection.clone(), waiting, unsent: std::mem::take(&mut self.out) }
    }

    /// It has moved: what the server writes is for the relay.
    pub(crate) fn part(&mut self) {
        self.split.done = true;
        self.plain = false;
        self.write(&[]);
    }

    /// It has not moved after all.
    pub(crate) fn give_back(&mut self, state: State) {
        let State { connection: _, waiting, unsent } = state;
        self.out = unsent;
        self.pending.unsplit(waiting);
        self.unsplit();
    }

    /// It stays whole.
    pub(crate) fn unsplit(&mut self) {
        if self.split.wanted && !self.split.done {
            self.plain = false;
            self.split.wanted = false;
            self.write(&[]);
        }
    }

    /// Whether no byte of the client is of use before the connection has moved, or stays.
    pub(crate) fn waits_for_split(&self) -> bool {
        self.split.holds() && self.is_between_blocks_of_client()
    }

    fn is_between_blocks_of_client(&self) -> bool {
        self.from_client.is_between() && self.block.is_none() && self.connection.block.is_none()
    }

    /// Between two frames of the client, when the server has nothing else to hear: tells it which table its
    /// encoder may use.
    pub(crate) fn tell_table(&mut self) {
        // Its next acknowledgement has to be the one of this.
        if self.split.is_over() || self.connection.owed > 0 || !self.is_between_blocks_of_client() {
            return;
        }
        let (size, next) = match (self.split.encoder, self.split.wanted) {
            (Encoder::Whole, true) => (0, Encoder::Empties),
            (Encoder::Empty, false) => {
                (self.connection.client.value(Setting::HeaderTableSize), Encoder::Returns)
            }
            _ => return,
        };
        let mut settings = Settings::default();
        settings.set(Setting::HeaderTableSize, size);
        put(&mut self.ready, kind::SETTINGS, 0, 0, &settings.payload());
        self.split.encoder = next;
    }

    /// The server acknowledges SETTINGS. Returns whether they were not the client's.
    pub(crate) fn has_told_table(&mut self) -> bool {
        self.split.encoder = match self.split.encoder {
            Encoder::Empties => Encoder::Empty,
            Encoder::Returns => Encoder::Whole,
            Encoder::Whole | Encoder::Empty => return false,
        };
        true
    }

    /// Bytes of a frame of which a part has passed already: they follow it. Returns how many these are.
    pub(crate) fn end_frame(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while let n @ 1.. = self.from_server.missing().min(bytes.len() - at) {
            self.emit(Side::Server, &bytes[at..at + n]);
            at += n;
        }
        at
    }
}

impl Connection {
    /// As the next server gets it, to which no stream is open.
    pub(crate) fn without_streams(mut self) -> (Self, Streams) {
        let after = Streams::after(self.streams.last());
        let streams = std::mem::replace(&mut self.streams, after);
        (self, streams)
    }
}
