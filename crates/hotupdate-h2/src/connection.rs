//! What is known of a connection from the frames that have passed in both directions.

use crate::frame::{DEFAULT_MAX_FRAME_SIZE, Head, INITIAL_WINDOW, flag, kind, strip_headers};
use crate::rest::Stays;
use crate::scanner::{Follow, Want};
use crate::settings::{Setting, Settings};
use crate::streams::Streams;
use crate::table::Table;

/// The most bytes of a header block that comes in several frames. hyper reads 64 KiB by default.
pub(crate) const MAX_BLOCK: usize = 128 * 1024;

/// A header block of which some frames are missing.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    pub(crate) stream: u32,
    pub(crate) end_stream: bool,
    pub(crate) priority: Vec<u8>,
    pub(crate) bytes: Vec<u8>,
    /// CONTINUATION frames so far.
    pub(crate) frames: u32,
}

/// A connection, as its client sees it: whichever server is behind.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    pub(crate) table: Table,
    pub(crate) client: Settings,
    pub(crate) streams: Streams,
    /// What the server may still send.
    pub(crate) send_window: i64,
    /// What the client may still send.
    pub(crate) receive_window: i64,
    pub(crate) server: Settings,
    /// The server has announced its settings.
    pub(crate) announced: bool,
    /// SETTINGS of servers that the client has not acknowledged.
    pub(crate) unacknowledged: u32,
    /// One of them lowers a limit, so that it is not known yet which one the client keeps to.
    pub(crate) lowers: bool,
    /// PINGs of servers that the client has not answered.
    pub(crate) unanswered: u32,
    /// SETTINGS and PINGs of the client that the server has not answered.
    pub(crate) owed: u32,
    /// Streams that servers have reset.
    pub(crate) resets: u32,
    /// The client's header block that is passing.
    pub(crate) block: Option<Block>,
    /// A header block of the server is passing.
    pub(crate) answering: bool,
    /// More was held than allowed.
    pub(crate) exceeded: bool,
    /// Why it can never move. After anything but a GOAWAY, what is followed here means nothing any more.
    pub(crate) stays: Option<Stays>,
}

impl Connection {
    pub(crate) fn new() -> Self {
        Self {
            table: Table::new(),
            client: Settings::default(),
            streams: Streams::default(),
            send_window: INITIAL_WINDOW,
            receive_window: INITIAL_WINDOW,
            server: Settings::default(),
            announced: false,
            unacknowledged: 0,
            lowers: false,
            unanswered: 0,
            owed: 0,
            resets: 0,
            block: None,
            answering: false,
            exceeded: false,
            stays: None,
        }
    }

    /// One of both sides says that it opens no stream any more. Those that are open go on.
    fn closes(&mut self) {
        self.stays.get_or_insert(Stays::GoAway);
    }

    /// From here on the bytes pass as they are: the server says what is wrong with them.
    pub(crate) fn gives_up(&mut self) {
        self.stays = Some(Stays::NotUnderstood);
        self.block = None;
    }

    /// Whether the frames of the client still mean something here.
    #[inline]
    pub(crate) fn is_followed(&self) -> bool {
        self.stays != Some(Stays::NotUnderstood)
    }

    /// All of a header block of the client has passed.
    #[inline]
    fn follow_block(&mut self, stream: u32, end_stream: bool, block: &[u8]) {
        match self.table.follow(block) {
            Ok(()) => self.opens(stream, end_stream),
            Err(_) => self.gives_up(),
        }
    }

    #[inline]
    pub(crate) fn opens(&mut self, stream: u32, end_stream: bool) {
        self.streams.open(stream);
        if end_stream {
            self.streams.requested(stream);
        }
    }

    /// The server announces settings: what they lower is not certain until the client acknowledges them.
    pub(crate) fn announces(&mut self, payload: &[u8]) {
        let before = self.server;
        self.server.follow(payload);
        self.table.allow(self.server.value(Setting::HeaderTableSize));
        self.lowers |= self.server.lowers(&before).is_some();
        self.announced = true;
        self.unacknowledged += 1;
    }

    pub(crate) fn acknowledges(&mut self) {
        self.unacknowledged = self.unacknowledged.saturating_sub(1);
        self.lowers &= self.unacknowledged > 0;
    }

    /// The longest frame that a server with these settings reads.
    #[inline]
    pub(crate) fn longest_frame(&self) -> u32 {
        self.server.value(Setting::MaxFrameSize).max(DEFAULT_MAX_FRAME_SIZE)
    }
}

/// Follows the frames of the client that pass as they are.
pub(crate) struct FromClient<'a>(pub(crate) &'a mut Connection);

impl Follow for FromClient<'_> {
    #[inline]
    fn head(&mut self, head: Head) -> Want {
        let Self(connection) = self;
        if !connection.is_followed() {
            return Want::Nothing;
        }
        if head.length > connection.longest_frame() {
            connection.gives_up();
            return Want::Nothing;
        }
        if let Some(block) = &connection.block
            && (head.kind, head.stream) != (kind::CONTINUATION, block.stream)
        {
            connection.gives_up();
            return Want::Nothing;
        }
        match head.kind {
            kind::DATA => {
                connection.receive_window -= i64::from(head.length);
                if head.has(flag::END_STREAM) {
                    connection.streams.requested(head.stream);
                }
            }
            kind::HEADERS | kind::CONTINUATION => return Want::Payload,
            kind::RST_STREAM => connection.streams.reset(head.stream),
            kind::SETTINGS if head.has(flag::ACK) => connection.acknowledges(),
            kind::SETTINGS => {
                connection.owed += 1;
                return Want::Payload;
            }
            kind::PING if head.has(flag::ACK) => {
                connection.unanswered = connection.unanswered.saturating_sub(1);
            }
            kind::PING => connection.owed += 1,
            kind::GOAWAY => connection.closes(),
            kind::WINDOW_UPDATE if head.stream == 0 => return Want::Payload,
            _ => {}
        }
        Want::Nothing
    }

    #[inline]
    fn payload(&mut self, head: Head, payload: &[u8]) {
        let Self(connection) = self;
        match head.kind {
            kind::HEADERS => {
                let Some((_, block)) = strip_headers(head, payload) else {
                    return connection.gives_up();
                };
                let end_stream = head.has(flag::END_STREAM);
                if head.has(flag::END_HEADERS) {
                    connection.follow_block(head.stream, end_stream, block);
                } else {
                    let bytes = block.to_vec();
                    connection.block = Some(Block {
                        stream: head.stream,
                        end_stream,
                        priority: Vec::new(),
                        bytes,
                        frames: 0,
                    });
                }
            }
            kind::CONTINUATION => {
                let Some(mut block) = connection.block.take() else {
                    return connection.gives_up();
                };
                block.bytes.extend_from_slice(payload);
                if head.has(flag::END_HEADERS) {
                    connection.follow_block(block.stream, block.end_stream, &block.bytes);
                } else if block.bytes.len() > MAX_BLOCK {
                    connection.gives_up();
                } else {
                    connection.block = Some(block);
                }
            }
            kind::SETTINGS => connection.client.follow(payload),
            _ => connection.send_window += increment(payload),
        }
    }
}

/// Follows the frames of the server.
pub(crate) struct FromServer<'a>(pub(crate) &'a mut Connection);

impl Follow for FromServer<'_> {
    #[inline(always)]
    fn head(&mut self, head: Head) -> Want {
        let Self(connection) = self;
        match head.kind {
            kind::DATA => {
                connection.send_window -= i64::from(head.length);
                if head.has(flag::END_STREAM) {
                    connection.streams.answered(head.stream);
                }
            }
            kind::HEADERS | kind::CONTINUATION => {
                connection.answering = !head.has(flag::END_HEADERS);
                if head.kind == kind::HEADERS && head.has(flag::END_STREAM) {
                    connection.streams.answered(head.stream);
                }
            }
            kind::RST_STREAM => {
                connection.streams.reset(head.stream);
                connection.resets += 1;
            }
            kind::SETTINGS | kind::PING if head.has(flag::ACK) => {
                connection.owed = connection.owed.saturating_sub(1);
            }
            kind::SETTINGS => return Want::Payload,
            kind::PING => connection.unanswered += 1,
            kind::GOAWAY => connection.closes(),
            kind::PUSH_PROMISE => connection.gives_up(),
            kind::WINDOW_UPDATE if head.stream == 0 => return Want::Payload,
            _ => {}
        }
        Want::Nothing
    }

    #[inline]
    fn payload(&mut self, head: Head, payload: &[u8]) {
        let Self(connection) = self;
        match head.kind {
            kind::SETTINGS => connection.announces(payload),
            _ => connection.receive_window += increment(payload),
        }
    }
}

/// What a WINDOW_UPDATE adds; 0 if it is not one.
pub(crate) fn increment(payload: &[u8]) -> i64 {
    let Ok(bytes) = <[u8; 4]>::try_from(payload) else { return 0 };
    i64::from(u32::from_be_bytes(bytes) & 0x7fff_ffff)
}
