//! How a connection leaves a server whose streams stay open: the server is told to use no header table, and
//! when it has heard so, the transport goes. From then on it hears of its client over a relay.

use bytes::BytesMut;

use crate::connection::Connection;
use crate::core::{Core, Side};
use crate::frame::{kind, put};
use crate::rest::Stays;
use crate::settings::{Setting, Settings};
use crate::state::State;

/// How far a connection is that leaves its streams behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Split {
    /// Not at all.
    #[default]
    Whole,
    /// The server shall be told, in front of the next frame of the client.
    Begins,
    /// It was told, and what it writes may still refer to its table.
    Told,
    /// What it writes from here on is for the relay, and the client's next frame waits.
    Ready,
    /// The transport has gone.
    Done,
    /// The connection stays. The server shall be told so, in front of the next frame of the client.
    Returns,
    /// It was told.
    Untold,
}

impl Split {
    /// Whether frames of the client wait.
    #[inline]
    pub(crate) fn holds(self) -> bool {
        match self {
            Self::Begins | Self::Told | Self::Ready | Self::Returns => true,
            Self::Whole | Self::Done | Self::Untold => false,
        }
    }

    /// Whether it is as it was.
    #[inline]
    pub(crate) fn is_over(self) -> bool {
        matches!(self, Self::Whole | Self::Done)
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
        if self.backend.resets_prime || self.backend.debt != 0 || !self.queue.is_empty() {
            return Err(Stays::Busy);
        }
        if self.split == Split::Done { Err(Stays::Closed) } else { Ok(()) }
    }

    /// The connection moves as soon as it can, and its streams stay.
    pub(crate) fn split(&mut self) {
        if self.split == Split::Whole && self.can_split().is_ok() {
            self.plain = false;
            self.split = Split::Begins;
        }
    }

    /// Whether the transport can go.
    pub(crate) fn is_split(&self) -> Result<(), Stays> {
        self.can_split()?;
        if self.split == Split::Ready { Ok(()) } else { Err(Stays::Busy) }
    }

    /// What travels. The server that is here goes on with all that was given to it.
    pub(crate) fn take_split(&mut self) -> State {
        let mut waiting = self.hold.take().map(|hold| hold.frames).unwrap_or_default();
        waiting.unsplit(self.pending.split_off(self.passing));
        let unsent = std::mem::replace(&mut self.out, std::mem::take(&mut self.behind));
        self.split = Split::Done;
        self.plain = false;
        State { connection: self.connection.clone(), waiting, unsent }
    }

    /// It has not moved after all.
    pub(crate) fn give_back(&mut self, state: State) {
        let State { connection: _, waiting, mut unsent } = state;
        unsent.unsplit(std::mem::take(&mut self.out));
        self.out = unsent;
        self.pending.unsplit(waiting);
        self.plain = false;
        self.split = Split::Returns;
    }

    /// It stays whole.
    pub(crate) fn unsplit(&mut self) {
        self.split = match self.split {
            Split::Begins => Split::Whole,
            Split::Told | Split::Ready => {
                let behind = std::mem::take(&mut self.behind);
                self.out.unsplit(behind);
                Split::Returns
            }
            other => other,
        };
    }

    /// Between two frames of the client, when the server has nothing else to hear: tells it which table its
    /// encoder may use.
    pub(crate) fn tell_table(&mut self) {
        let between =
            self.from_client.is_between() && self.block.is_none() && self.connection.block.is_none();
        // Its next acknowledgement has to be the one of this.
        if !between || self.connection.owed > 0 {
            return;
        }
        let (size, next) = match self.split {
            Split::Begins => (0, Split::Told),
            Split::Returns => (self.connection.client.value(Setting::HeaderTableSize), Split::Untold),
            _ => return,
        };
        let mut settings = Settings::default();
        settings.set(Setting::HeaderTableSize, size);
        put(&mut self.ready, kind::SETTINGS, 0, 0, &settings.payload());
        self.split = next;
    }

    /// The server acknowledges SETTINGS. Returns whether they were not the client's.
    pub(crate) fn has_told_table(&mut self) -> bool {
        self.split = match self.split {
            Split::Told => Split::Ready,
            Split::Untold => Split::Whole,
            _ => return false,
        };
        true
    }

    /// Where frames go that the server writes.
    pub(crate) fn output(&mut self) -> &mut BytesMut {
        if self.split == Split::Ready { &mut self.behind } else { &mut self.out }
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
    pub(crate) fn without_streams(mut self) -> (Self, crate::streams::Streams) {
        let after = crate::streams::Streams::after(self.streams.last());
        let streams = std::mem::replace(&mut self.streams, after);
        (self, streams)
    }
}
