//! What one hyper has been told, and what it believes that its client does not know.

use bytes::BytesMut;

use crate::connection::Connection;
use crate::frame::{
    DEFAULT_MAX_FRAME_SIZE, INITIAL_WINDOW, MAX_WINDOW, PREFACE, flag, kind, put, put_block,
    put_window_update,
};
use crate::settings::{Setting, Settings};

/// The payload of the PING that ends the start: what hyper writes before its answer, it writes about the
/// start.
pub(crate) const BARRIER: &[u8; 8] = b"hotupdat";

/// A hyper that shares the client's window with another one believes in so much of it at most, unless it had
/// more before; what it has used is lent again at once.
pub(crate) const SHARED_WINDOW: i64 = 256 * 1024;

/// So many frames for streams that are over are dropped. hyper sees what follows, and puts an end to it as to
/// a client that has not moved.
const LATE_FRAMES: u32 = 1024;

/// A hyper that serves a connection.
#[derive(Debug)]
pub(crate) struct Backend {
    /// It has the connection from its beginning.
    is_first: bool,
    /// Streams up to this one were served by another hyper, and are over. 0 for the first hyper of a
    /// connection.
    pub(crate) base: u32,
    /// How many late frames for them are still dropped.
    pub(crate) late: u32,
    /// What it has not yet said at the start.
    pub(crate) starts: Starts,
    /// It will reset the stream that gave it the header table.
    pub(crate) resets_prime: bool,
    /// Its header table is not that of the client: it gets header blocks that need none.
    pub(crate) flat: bool,
    /// How much larger it believes the client's receive window to be.
    pub(crate) ahead: i64,
    /// How much larger it believes its send window to be.
    pub(crate) debt: i64,
    /// Answers of the client to its predecessors: the first ones that come.
    pub(crate) foreign_acks: u32,
    pub(crate) foreign_pongs: u32,
    /// It has not yet written all of a header block.
    pub(crate) answering: bool,
    /// It has said something about a stream of its own, so that its GOAWAY knows that one.
    pub(crate) has_streams: bool,
    /// The client has sent something since, and does not just leave.
    pub(crate) spoken_to: bool,
    /// What it allows less than its predecessor.
    pub(crate) lowers: Option<Setting>,
}

/// What a hyper still has to say before it gets a frame of the client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Starts {
    /// Its SETTINGS.
    pub(crate) settings: bool,
    /// Its acknowledgements of what it was told.
    pub(crate) acks: u8,
    /// Its answer to the barrier.
    pub(crate) pong: bool,
}

impl Starts {
    #[inline]
    pub(crate) fn is_done(&self) -> bool {
        *self == Self::default()
    }
}

impl Backend {
    /// Of a new connection: it hears what the client says.
    pub(crate) fn first() -> Self {
        Self {
            is_first: true,
            base: 0,
            late: LATE_FRAMES,
            starts: Starts::default(),
            resets_prime: false,
            flat: false,
            ahead: 0,
            debt: 0,
            foreign_acks: 0,
            foreign_pongs: 0,
            answering: false,
            has_streams: false,
            spoken_to: true,
            lowers: None,
        }
    }

    /// Of a connection that another hyper has served. Writes what it hears first.
    /// If it `shares` the connection with the one before, it believes in little of the client's window.
    pub(crate) fn next(connection: &Connection, shares: bool, out: &mut BytesMut) -> Self {
        out.extend_from_slice(PREFACE);
        // The first table size is 0 and the second the client's: its encoder begins with two size updates, of
        // which the first empties the client's decoder (RFC 7541, section 4.2).
        let mut first = connection.client;
        first.set(Setting::HeaderTableSize, 0);
        put(out, kind::SETTINGS, 0, 0, &first.payload());
        let mut second = Settings::default();
        second.set(Setting::HeaderTableSize, connection.client.value(Setting::HeaderTableSize));
        put(out, kind::SETTINGS, 0, 0, &second.payload());
        let debt = INITIAL_WINDOW - connection.send_window;
        Self {
            is_first: false,
            base: connection.streams.last(),
            starts: Starts { settings: true, acks: 2, pong: true },
            ahead: INITIAL_WINDOW - connection.receive_window,
            debt: if shares { debt } else { debt.max(0) },
            foreign_acks: connection.unacknowledged,
            foreign_pongs: connection.unanswered,
            spoken_to: false,
            ..Self::first()
        }
    }

    /// Its first SETTINGS, which are not for the client: that keeps to those of its predecessor, and hears
    /// what has changed, which is returned. Writes what else it hears at its start.
    pub(crate) fn announces(
        &mut self,
        connection: &Connection,
        payload: &[u8],
        shares: bool,
        out: &mut BytesMut,
    ) -> Settings {
        self.starts.settings = false;
        let mut announced = Settings::default();
        announced.follow(payload);
        self.lowers = announced.lowers(&connection.server);
        put(out, kind::SETTINGS, flag::ACK, 0, &[]);
        let believes = if shares { connection.send_window + self.debt } else { INITIAL_WINDOW };
        let most = if shares { SHARED_WINDOW } else { MAX_WINDOW };
        let more = connection.send_window.min(most) - believes;
        if more > 0 {
            put_window_update(out, more);
            self.debt += if shares { more } else { 0 };
        }
        // No request yet, no table yet.
        if self.base != 0 {
            let mut server = connection.server;
            server.follow(payload);
            self.prime(connection, &server, out);
        }
        put(out, kind::PING, 0, 0, BARRIER);
        announced.changes(&connection.server)
    }

    /// A malformed request that gives it the client's header table. h2 reads it to its end, because the table
    /// is the connection's, and resets the stream: no service sees it (RFC 9113, section 8.1.1).
    fn prime(&mut self, connection: &Connection, server: &Settings, out: &mut BytesMut) {
        // h2 closes a connection for a list of headers that is four times as long as it announces.
        let longest = server.value(Setting::MaxHeaderListSize) as usize;
        if connection.table.most() > longest.saturating_mul(2) {
            self.flat = true;
            return;
        }
        let block = connection.table.prime(server.value(Setting::HeaderTableSize));
        debug_assert!(block.len() < 4 * DEFAULT_MAX_FRAME_SIZE as usize, "h2 reads five CONTINUATION frames");
        put_block(out, flag::END_STREAM, self.base, &block);
        self.resets_prime = true;
    }

    /// Whether it hears every frame of the client as it is, as long as nothing waits: it believes what its
    /// client does, and has its table.
    #[inline]
    pub(crate) fn hears_all(&self) -> bool {
        self.is_first && !self.flat
    }

    /// Whether it writes nothing but what the client may hear as it is.
    #[inline]
    pub(crate) fn is_settled(&self) -> bool {
        let has_ended = self.starts.is_done() && !self.resets_prime && !self.answering;
        let knows_last = self.has_streams || self.base == 0;
        has_ended && knows_last && self.ahead >= 0 && self.debt == 0
    }
}
