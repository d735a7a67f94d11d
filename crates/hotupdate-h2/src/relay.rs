//! Streams that the version before serves to their end, when their connection has moved on without them: the
//! layer routes their frames to it, and makes one connection of both servers.
//!
//! Header blocks need no table on either side of a relay. Those of the client are written anew, and the other
//! server was told to use none before the connection left it, so that the server which is here owns the table
//! of the client's decoder alone.

use bytes::{Buf as _, Bytes, BytesMut};

use crate::backend::SHARED_WINDOW;
use crate::connection::{Block, Connection, MAX_BLOCK, increment};
use crate::core::{BUFFERED, Core, Side, error_of};
use crate::frame::{HEAD, Head, flag, kind, put, put_block, strip_headers};
use crate::hpack::integer;
use crate::settings::{Setting, Settings};
use crate::streams::Streams;
use crate::table::Table;

/// So many bytes of the client wait for the version before, beside all the DATA for which it has given room,
/// until the client has to wait, too. They wait here only if that process does not run.
const MAX_WAITING: usize = 256 * 1024;

/// The most DATA of the version before that waits because the client has no room for it. It believes in the
/// room that there was when the connection left it.
const MAX_QUEUED_DATA: usize = 1 << 20;

/// The code of a stream that ends because the version before does not serve it any more (RFC 9113, section 7).
/// That it was refused must not be said of one that may have been processed (section 8.7).
const INTERNAL_ERROR: u32 = 2;

/// The other server of a connection.
#[derive(Debug)]
pub(crate) struct Relayed {
    /// The streams that it serves.
    streams: Streams,
    /// How much larger it believes the client's receive window to be.
    ahead: i64,
    /// How much larger it believes its send window to be.
    debt: i64,
    /// What it has announced, as far as it is known here: its client here is this layer.
    announced: Settings,
    /// SETTINGS of the client that it has not acknowledged.
    owed: u32,
    /// How many of them the server that is here has acknowledged before it.
    early: u32,
    /// From it, a part of a frame, or frames for which the client has no room.
    input: BytesMut,
    /// A header block from it, of which some frames are missing.
    block: Option<Block>,
    /// For it.
    out: BytesMut,
    /// Acknowledgements of the client that are for it.
    acks: u32,
    /// What the client hears about settings when it has ended: they are not those of its streams.
    later: Vec<u8>,
    /// The most that the client could send of DATA before it would have heard of more room.
    window: i64,
    /// Nothing more reaches it.
    deaf: bool,
    /// Nothing more comes from it.
    closed: bool,
    /// The connection cannot go on like this: its streams are reset, with this code.
    broken: Option<u32>,
}

impl Relayed {
    /// It serves these streams of a connection.
    pub(crate) fn new(streams: Streams, connection: &Connection) -> Self {
        Self {
            streams,
            ahead: 0,
            debt: 0,
            announced: connection.server,
            owed: 0,
            early: 0,
            input: BytesMut::new(),
            block: None,
            out: BytesMut::new(),
            acks: connection.unacknowledged,
            later: Vec::new(),
            window: connection.receive_window,
            deaf: false,
            closed: false,
            broken: None,
        }
    }

    /// How many streams it still serves.
    pub(crate) fn len(&self) -> usize {
        self.streams.len()
    }

    /// Whether frames of this stream are for it.
    #[inline]
    pub(crate) fn serves(&self, stream: u32) -> bool {
        self.streams.is_open(stream)
    }

    /// The client has sent DATA that is not for it.
    #[inline]
    pub(crate) fn not_sent(&mut self, bytes: u32) {
        self.ahead += i64::from(bytes);
    }

    /// The client has been sent DATA that is not its own.
    #[inline]
    pub(crate) fn not_written(&mut self, bytes: u32) {
        self.debt += i64::from(bytes);
    }

    /// What the client may be told that its window has more: neither server knows of less.
    pub(crate) fn owes(&self, ahead: i64) -> i64 {
        ahead.min(self.ahead)
    }

    /// The client was told so, and its window is this now.
    pub(crate) fn told(&mut self, bytes: i64, window: i64) {
        self.ahead -= bytes;
        self.window = self.window.max(window);
    }

    /// A frame of the client for it.
    pub(crate) fn send(&mut self, head: Head, frame: &[u8]) {
        self.out.extend_from_slice(frame);
        match head.kind {
            kind::DATA if head.has(flag::END_STREAM) => self.streams.requested(head.stream),
            kind::RST_STREAM => self.streams.reset(head.stream),
            _ => {}
        }
    }

    /// The client acknowledges SETTINGS of a version before.
    pub(crate) fn send_ack(&mut self) {
        if self.acks > 0 {
            self.acks -= 1;
            put(&mut self.out, kind::SETTINGS, flag::ACK, 0, &[]);
        }
    }

    /// The server that is here announces settings: the client hears of them later.
    pub(crate) fn puts_off(&mut self, settings: Vec<u8>) {
        self.later = settings;
    }

    /// A header block of the client for it, which needs no table.
    pub(crate) fn send_block(&mut self, flags: u8, stream: u32, block: &[u8]) {
        put_block(&mut self.out, flags, stream, block);
        if flags & flag::END_STREAM != 0 {
            self.streams.requested(stream);
        }
    }

    /// SETTINGS of the client. It keeps to its table of no size.
    pub(crate) fn send_settings(&mut self, before: &Settings, payload: &[u8]) {
        let mut after = *before;
        after.follow(payload);
        // The next block has to begin with a smaller size, and which one is the next is known to no encoder.
        if after.value(Setting::HeaderTableSize) < before.value(Setting::HeaderTableSize) {
            self.breaks(INTERNAL_ERROR);
        }
        let mut told = Vec::with_capacity(payload.len());
        for setting in payload.chunks_exact(6).filter(|setting| setting[..2] != [0, 1]) {
            told.extend_from_slice(setting);
        }
        put(&mut self.out, kind::SETTINGS, 0, 0, &told);
        self.owed += 1;
    }

    /// The server that is here has acknowledged SETTINGS. Returns whether the client hears it now.
    pub(crate) fn acknowledged_here(&mut self) -> bool {
        let both = self.early >= self.owed;
        self.early += u32::from(!both);
        both
    }

    /// It has. Returns whether the client hears it now.
    fn acknowledges(&mut self) -> bool {
        self.owed = self.owed.saturating_sub(1);
        let both = self.early > self.owed;
        self.early -= u32::from(both);
        both
    }

    /// The client has room for so much more, and it does not know.
    pub(crate) fn not_told(&mut self, room: i64) {
        self.debt -= room;
    }

    /// It can send at once, as long as the client has room.
    fn lend(&mut self, send_window: i64) {
        let more = loan(send_window, self.debt);
        self.debt += more;
        self.give(more);
    }

    fn give(&mut self, room: i64) {
        if room > 0 {
            put(&mut self.out, kind::WINDOW_UPDATE, 0, 0, &(room as u32).to_be_bytes());
        }
    }

    fn breaks(&mut self, code: u32) {
        self.broken.get_or_insert(code);
    }

    /// Whether there is nothing left that it has to do, or can do.
    fn is_over(&self) -> bool {
        let has_all = self.out.is_empty() || self.deaf;
        (self.streams.is_empty() && has_all) || self.broken.is_some() || (self.closed && !self.has_frame())
    }

    fn has_room(&self) -> bool {
        let most = MAX_WAITING + usize::try_from(self.window).unwrap_or(0);
        self.deaf || self.out.len() < most
    }

    /// Its next frame, if all of it is there.
    fn next(&mut self) -> Option<(Head, Bytes)> {
        let head = Head::parse(&self.input)?;
        let length = head.frame_length();
        (self.input.len() >= length).then(|| (head, self.input.split_to(length).freeze()))
    }

    fn has_frame(&self) -> bool {
        Head::parse(&self.input).is_some_and(|head| self.input.len() >= head.frame_length())
    }

    /// A frame with a header block, or a part of one. Returns the block when all of it is there: its stream,
    /// whether it ends that, and the block for a decoder whose table is another one.
    fn gather(&mut self, head: Head, payload: &[u8]) -> Option<(u32, bool, Vec<u8>)> {
        let block = match (head.kind, self.block.take()) {
            (kind::HEADERS, None) => strip_headers(head, payload).map(|(_, bytes)| Block {
                stream: head.stream,
                end_stream: head.has(flag::END_STREAM),
                priority: Vec::new(),
                bytes: bytes.to_vec(),
                frames: 0,
            }),
            (kind::CONTINUATION, Some(mut block)) => {
                block.bytes.extend_from_slice(payload);
                (block.stream == head.stream && block.bytes.len() <= MAX_BLOCK).then_some(block)
            }
            _ => None,
        };
        let Some(block) = block else {
            self.breaks(INTERNAL_ERROR);
            return None;
        };
        if !head.has(flag::END_HEADERS) {
            self.block = Some(block);
            return None;
        }
        let mut flat = Vec::with_capacity(block.bytes.len());
        let fields = &block.bytes[end_of_sizes(&block.bytes)..];
        // Its encoder has no table any more: what refers to one is not understood.
        if Table::new().flatten(fields, &mut flat).is_err() {
            self.breaks(INTERNAL_ERROR);
            return None;
        }
        Some((block.stream, block.end_stream, flat))
    }

    /// It announces settings. Its client has not heard of them: what they add to the windows of its streams is
    /// said with WINDOW_UPDATE.
    fn announces(&mut self, payload: &[u8], to_client: &mut BytesMut) {
        let before = self.announced.value(Setting::InitialWindowSize);
        self.announced.follow(payload);
        let more = i64::from(self.announced.value(Setting::InitialWindowSize)) - i64::from(before);
        if more > 0 {
            for stream in self.streams.numbers() {
                put(to_client, kind::WINDOW_UPDATE, 0, stream, &(more as u32).to_be_bytes());
            }
        }
        if more < 0 {
            self.breaks(INTERNAL_ERROR);
        }
        put(&mut self.out, kind::SETTINGS, flag::ACK, 0, &[]);
    }
}

/// How much more a server that shares the client's window has to believe in, whose debt this is: it can go on
/// at once as long as there is room, and both together believe in little that is not there.
pub(crate) fn loan(send_window: i64, debt: i64) -> i64 {
    let (most, believes) = (send_window.min(SHARED_WINDOW), send_window + debt);
    if believes * 2 < most { most - believes } else { 0 }
}

/// Where the sizes end with which a block begins (RFC 7541, section 4.2). They are about a table that is not
/// the client's any more.
fn end_of_sizes(block: &[u8]) -> usize {
    let mut at = 0;
    while block.get(at).is_some_and(|first| first & 0xe0 == 0x20) {
        if integer(block, &mut at, 5).is_err() {
            return block.len();
        }
    }
    at
}

impl Core {
    pub(crate) fn relay(&self) -> Option<&Relayed> {
        self.relay.as_deref()
    }

    /// What the version before gets next.
    pub(crate) fn for_relay(&mut self) -> &[u8] {
        let Some(relay) = &mut self.relay else { return &[] };
        relay.lend(self.connection.send_window);
        if relay.deaf {
            relay.out.clear();
        }
        &relay.out
    }

    pub(crate) fn given_to_relay(&mut self, bytes: usize) {
        if let Some(relay) = &mut self.relay {
            relay.out.advance(bytes);
        }
    }

    /// Whether more bytes of the client can be taken, of which some may be for the version before.
    pub(crate) fn has_room_for_relay(&self) -> bool {
        self.relay.as_deref().is_none_or(Relayed::has_room)
    }

    /// Nothing more reaches the version before. It may have said something until then.
    pub(crate) fn deafen_relay(&mut self) {
        if let Some(relay) = &mut self.relay {
            relay.deaf = true;
        }
    }

    /// Whether more bytes of the version before are of use.
    pub(crate) fn reads_relay(&self) -> bool {
        self.relay.as_ref().is_some_and(|relay| !relay.has_frame() && !relay.is_over())
    }

    /// The version before has sent something.
    pub(crate) fn keep_of_relay(&mut self, bytes: &[u8]) {
        if let Some(relay) = &mut self.relay {
            relay.input.extend_from_slice(bytes);
        }
    }

    /// Nothing more comes from the version before.
    pub(crate) fn close_relay(&mut self) {
        if let Some(relay) = &mut self.relay {
            relay.closed = true;
        }
    }

    /// Gives the client what the version before says, between the frames of the server that is here.
    pub(crate) fn pass_of_relay(&mut self) {
        while self.takes_of_relay()
            && let Some(relay) = &mut self.relay
            && let Some((head, frame)) = relay.next()
        {
            self.route(head, frame);
        }
    }

    fn takes_of_relay(&self) -> bool {
        let waits = self.queued >= BUFFERED || self.queued_data >= MAX_QUEUED_DATA;
        self.is_between_blocks() && self.out.len() < BUFFERED && !waits
    }

    /// Whether any frame may follow what the client hears: between a head and its CONTINUATION none other may
    /// come (RFC 9113, section 6.10).
    pub(crate) fn is_between_blocks(&self) -> bool {
        self.from_server.is_between() && !self.connection.answering && !self.backend.answering
    }

    /// Whether the version before has no part in the connection any more.
    pub(crate) fn relay_is_over(&self) -> bool {
        self.is_between_blocks() && self.relay.as_deref().is_some_and(Relayed::is_over)
    }

    /// A frame of the version before.
    fn route(&mut self, head: Head, frame: Bytes) {
        let Some(relay) = &mut self.relay else { return };
        let payload = &frame[HEAD..];
        match head.kind {
            kind::HEADERS | kind::CONTINUATION => {
                if let Some((stream, ends, block)) = relay.gather(head, payload)
                    && relay.serves(stream)
                {
                    let flags = if ends { flag::END_STREAM } else { 0 };
                    let mut frames = BytesMut::new();
                    put_block(&mut frames, flags, stream, &block);
                    if ends {
                        relay.streams.answered(stream);
                    }
                    while let Some(head) = Head::parse(&frames) {
                        let frame = frames.split_to(head.frame_length()).freeze();
                        self.say(Side::Relay, frame);
                    }
                }
            }
            // Its stream is over, and it does not know yet.
            kind::DATA if !relay.serves(head.stream) => relay.give(head.length.into()),
            kind::DATA => {
                if head.has(flag::END_STREAM) {
                    relay.streams.answered(head.stream);
                }
                self.say(Side::Relay, frame);
            }
            kind::RST_STREAM if relay.serves(head.stream) => {
                relay.streams.reset(head.stream);
                self.say(Side::Relay, frame);
            }
            kind::WINDOW_UPDATE if head.stream == 0 => {
                relay.ahead += increment(payload);
                // Its client may wait for that, and says nothing meanwhile.
                self.backend.spoken_to = true;
            }
            kind::WINDOW_UPDATE if relay.serves(head.stream) => self.emit(Side::Relay, &frame),
            kind::SETTINGS if head.has(flag::ACK) => {
                let both = relay.acknowledges();
                if both {
                    self.acknowledge();
                }
            }
            kind::SETTINGS => relay.announces(payload, &mut self.out),
            kind::PING if !head.has(flag::ACK) => put(&mut relay.out, kind::PING, flag::ACK, 0, payload),
            // The connection is not its own any more: an error ends its streams only.
            kind::GOAWAY => {
                if let Some(code) = error_of(payload) {
                    relay.breaks(code);
                }
            }
            _ => {}
        }
    }

    fn acknowledge(&mut self) {
        let mut ack = BytesMut::new();
        put(&mut ack, kind::SETTINGS, flag::ACK, 0, &[]);
        self.emit(Side::Server, &ack);
    }

    /// Nothing more comes from the version before. Streams that it has not ended are reset.
    pub(crate) fn end_relay(&mut self) {
        let Some(relay) = self.relay.take() else { return };
        for _ in 0..relay.early {
            self.acknowledge();
        }
        for stream in relay.streams.numbers() {
            let mut reset = BytesMut::new();
            let code = relay.broken.unwrap_or(INTERNAL_ERROR);
            put(&mut reset, kind::RST_STREAM, 0, stream, &code.to_be_bytes());
            self.say(Side::Relay, reset.freeze());
        }
        if !relay.later.is_empty() {
            self.tell_settings(&relay.later);
        }
        // What it had of the client's window is the other one's now.
        self.backend.spoken_to |= self.backend.ahead > 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relay() -> Relayed {
        Relayed::new(Streams::default(), &Connection::new())
    }

    #[test]
    fn both_can_go_on_while_there_is_room() {
        assert_eq!(loan(1 << 20, 0), 0, "it believes in all of it");
        assert_eq!(loan(1 << 20, 65_535 - (1 << 20)), SHARED_WINDOW - 65_535);
        assert_eq!(loan(1 << 20, -(1 << 20)), SHARED_WINDOW);
        assert_eq!(loan(1, -1), 1);
        for debt in [-1, 0, 1, 65_535] {
            assert_eq!(loan(0, debt), if debt < 0 { -debt } else { 0 });
        }
        assert_eq!(loan(-5, 0), 0, "a client may take room back");
        let mut relay = relay();
        relay.not_written(1 << 20);
        relay.lend(0);
        relay.not_told(1 << 21);
        relay.lend(1 << 21);
        assert!(relay.out.is_empty(), "it still believes in what the other one has sent");
        relay.not_told(1 << 21);
        relay.lend(1 << 22);
        assert_eq!(relay.out.len(), 0);
    }

    #[test]
    fn settings_are_acknowledged_when_both_have() {
        let mut relay = relay();
        assert!(relay.acknowledged_here());
        relay.send_settings(&Settings::default(), b"\0\x01\0\0\x10\0\0\x04\0\0\0\x07");
        relay.send_settings(&Settings::default(), &[]);
        assert_eq!(&relay.out[HEAD..HEAD + 6], b"\0\x04\0\0\0\x07");
        assert_eq!(relay.broken, None);
        assert!(!relay.acknowledged_here() && !relay.acknowledged_here());
        assert!(relay.acknowledges() && relay.acknowledges());
        relay.send_settings(&Settings::default(), &[]);
        assert!(!relay.acknowledges() && relay.acknowledged_here());
        relay.send_settings(&Settings::default(), b"\0\x01\0\0\0\0");
        assert_eq!(relay.broken, Some(INTERNAL_ERROR));
    }

    #[test]
    fn sizes_end_where_fields_begin() {
        assert_eq!(end_of_sizes(b"\x20\x3f\xe1\x1f\x88"), 4);
        assert_eq!(end_of_sizes(b"\x88\x20"), 0);
        assert_eq!(end_of_sizes(b"\x3f\xff\xff\xff\xff\xff"), 6);
    }
}
