//! The layer without I/O: bytes of the client and of hyper go in, and come out for the other side.

use std::collections::VecDeque;
use std::ops::{Add, Sub};

use bytes::{Buf as _, Bytes, BytesMut};

use crate::backend::{BARRIER, Backend};
use crate::connection::{Block, Connection, FromClient, FromServer, MAX_BLOCK, increment};
use crate::frame::{
    HEAD, Head, MAX_WINDOW, PREFACE, flag, kind, put, put_block, put_window_update, strip_headers,
};
use crate::relay::{Relayed, loan};
use crate::rest::Stays;
use crate::scanner::{Follow, Scanner, Want};
use crate::settings::Settings;
use crate::split::{MAX_UNSENT, Split};
use crate::state::State;
use crate::streams::Streams;

/// After so many resets h2 ends a connection. It counts anew after each move, and this layer does not.
const MAX_RESETS: u32 = 1024;

/// So many bytes for the client are buffered before hyper, or the relay that they come from, waits.
pub(crate) const BUFFERED: usize = 64 * 1024;

/// The most bytes that wait behind DATA for which the client has no room. The DATA itself is limited by the
/// room in which a hyper may believe and which is not there.
const MAX_QUEUED: usize = 256 * 1024;

/// The most CONTINUATION frames of a header block that does not pass as it is.
const MAX_BLOCK_FRAMES: u32 = 64;

/// A header block that no decoder accepts: the index 0.
const INVALID_BLOCK: &[u8] = &[0x80];

/// What a connection may hold back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// The most bytes of new streams that wait while old ones finish. They travel with the state. 256 KiB by
    /// default.
    pub held: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { held: 256 * 1024 }
    }
}

/// New streams wait.
#[derive(Debug)]
pub(crate) struct Hold {
    /// The first one that does.
    first: u32,
    /// Their frames; their header blocks need no table.
    pub(crate) frames: BytesMut,
}

/// A server that writes to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// The hyper that is here.
    Server,
    /// The version before.
    Relay,
}

/// The layer of one connection.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) connection: Connection,
    pub(crate) backend: Backend,
    /// Streams that the version before still serves.
    pub(crate) relay: Option<Box<Relayed>>,
    /// The connection leaves its open streams here.
    pub(crate) split: Split,
    limits: Limits,
    pub(crate) hold: Option<Hold>,
    /// It is closed, by the client.
    ended: bool,
    /// Both sides hear all of the other one, as it is: nothing waits here.
    pub(crate) plain: bool,

    pub(crate) from_client: Scanner,
    /// A header block that does not pass as it is.
    pub(crate) block: Option<Block>,
    /// From the client: the first bytes pass as they are, what follows is not decided.
    pub(crate) pending: BytesMut,
    pub(crate) passing: usize,
    /// What hyper hears instead, before that.
    pub(crate) ready: BytesMut,

    pub(crate) from_server: Scanner,
    /// From hyper, a part of a frame.
    unwritten: BytesMut,
    /// For the client.
    pub(crate) out: BytesMut,
    /// Frames for which the client has no room, and what follows them.
    pub(crate) queue: VecDeque<(Side, Bytes)>,
    /// Bytes of those that no window limits.
    pub(crate) queued: usize,
    /// And bytes of DATA.
    pub(crate) queued_data: usize,
}

impl Core {
    pub(crate) fn new(limits: Limits) -> Self {
        Self::with(Connection::new(), Backend::first(), limits, PREFACE.len())
    }

    fn with(connection: Connection, backend: Backend, limits: Limits, first_frame: usize) -> Self {
        Self {
            connection,
            backend,
            relay: None,
            split: Split::default(),
            limits,
            hold: None,
            ended: false,
            plain: false,
            from_client: Scanner::after(first_frame),
            block: None,
            pending: BytesMut::new(),
            passing: 0,
            ready: BytesMut::new(),
            from_server: Scanner::after(0),
            unwritten: BytesMut::new(),
            out: BytesMut::new(),
            queue: VecDeque::new(),
            queued: 0,
            queued_data: 0,
        }
    }

    pub(crate) fn resume(state: State, limits: Limits) -> Self {
        let State { connection, waiting, unsent } = state;
        let (connection, streams) = connection.without_streams();
        let mut ready = BytesMut::new();
        let is_relayed = !streams.is_empty();
        let backend = Backend::next(&connection, is_relayed, &mut ready);
        let relay = is_relayed.then(|| Box::new(Relayed::new(streams, &connection)));
        let mut core = Self::with(connection, backend, limits, 0);
        (core.ready, core.pending, core.out) = (ready, waiting, unsent);
        core.relay = relay;
        core
    }

    /// At rest: what travels. The bytes that wait are those of held streams and then what was not read.
    pub(crate) fn into_state(self) -> State {
        let mut waiting = self.hold.map(|hold| hold.frames).unwrap_or_default();
        waiting.extend_from_slice(&self.pending);
        State { connection: self.connection, waiting, unsent: self.out }
    }

    /// Whether the connection can move now, as far as frames say it.
    pub(crate) fn rest(&self) -> Result<(), Stays> {
        self.rest_of_frames()?;
        let busy = !self.ready.is_empty() || self.passing > 0;
        if busy { Err(Stays::Busy) } else { Ok(()) }
    }

    fn rest_of_frames(&self) -> Result<(), Stays> {
        let connection = &self.connection;
        if let Some(stays) = self.stays() {
            return Err(stays);
        }
        if !self.backend.starts.is_done() || !connection.announced {
            return Err(Stays::Starting);
        }
        if !connection.streams.is_empty() {
            return Err(Stays::Streams(connection.streams.len()));
        }
        if let Some(relay) = &self.relay {
            return Err(Stays::Relayed(relay.len()));
        }
        if !self.split.is_over() {
            return Err(Stays::Busy);
        }
        let between =
            self.from_client.is_between() && self.from_server.is_between() && self.unwritten.is_empty();
        if connection.block.is_some() || self.block.is_some() || connection.answering || !between {
            return Err(Stays::Incomplete);
        }
        if connection.owed > 0 || !self.queue.is_empty() {
            return Err(Stays::Busy);
        }
        if connection.lowers {
            return Err(Stays::Unacknowledged);
        }
        Ok(())
    }

    /// Why it can never move.
    pub(crate) fn stays(&self) -> Option<Stays> {
        let resets = self.connection.resets >= MAX_RESETS;
        let ended = self.ended.then_some(Stays::Closed);
        self.connection
            .stays
            .or(ended)
            .or(self.connection.exceeded.then_some(Stays::Held))
            .or(self.backend.lowers.map(Stays::Settings))
            .or(resets.then_some(Stays::Resets))
    }

    /// Whether both sides hear all of the other one, as it is, so that there is nothing to be done but to
    /// follow what passes. It is so nearly always.
    #[inline]
    pub(crate) fn is_plain(&mut self) -> bool {
        self.plain || self.becomes_plain()
    }

    #[cold]
    fn becomes_plain(&mut self) -> bool {
        self.plain = self.nothing_waits();
        self.plain
    }

    fn nothing_waits(&self) -> bool {
        let from_client = self.hold.is_none()
            && self.block.is_none()
            && self.reads_directly()
            && !self.ended
            && self.relay.is_none();
        from_client && self.writes_directly() && self.backend.ahead == 0
    }

    /// New streams wait from here on, and at rest nothing more is read.
    pub(crate) fn hold(&mut self) {
        self.plain = false;
        self.connection.exceeded = false;
        self.hold.get_or_insert_with(|| Hold { first: u32::MAX, frames: BytesMut::new() });
    }

    /// What was held is for this hyper after all.
    pub(crate) fn release(&mut self) {
        if let Some(hold) = self.hold.take()
            && !hold.frames.is_empty()
        {
            // What passes already is in front of it.
            let after = self.pending.split_off(self.passing);
            self.pending.unsplit(hold.frames);
            self.pending.unsplit(after);
        }
    }

    pub(crate) fn streams(&self) -> &Streams {
        &self.connection.streams
    }

    pub(crate) fn is_holding(&self) -> bool {
        self.hold.is_some()
    }

    // The client's bytes.

    /// Whether bytes of the client can be read to where hyper wants them, and given to [`pass`](Self::pass).
    #[inline]
    pub(crate) fn reads_directly(&self) -> bool {
        self.pending.is_empty() && self.ready.is_empty()
    }

    /// How many of these bytes pass to hyper. The others have to be kept.
    #[inline(always)]
    pub(crate) fn pass(&mut self, bytes: &[u8]) -> usize {
        if self.plain && self.backend.hears_all() {
            // So it is for nearly every request, and there is nothing to decide.
            return self.from_client.pass(bytes, &mut FromClient(&mut self.connection));
        }
        self.scan(bytes)
    }

    fn scan(&mut self, bytes: &[u8]) -> usize {
        let Self { from_client, connection, backend, hold, block, relay, split, .. } = self;
        let server_is_between =
            self.from_server.is_between() && self.unwritten.is_empty() && self.queue.is_empty();
        let mut decide = Decide {
            connection,
            backend,
            relay: relay.as_deref_mut(),
            holds_all: split.holds(),
            hold: hold.as_ref(),
            block: block.is_some(),
            server_is_between,
        };
        from_client.pass(bytes, &mut decide)
    }

    /// Bytes that do not pass yet.
    pub(crate) fn keep(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.plain = false;
        self.pending.extend_from_slice(bytes);
    }

    /// Whether more bytes of the client are of use.
    pub(crate) fn reads(&self) -> bool {
        // A whole frame at the front waits for something.
        let has_a_frame = self.pending.len() >= HEAD + self.connection.longest_frame() as usize;
        let is_open = self.backend.starts.is_done() && !self.is_at_rest() && !self.ended;
        is_open && !has_a_frame && !self.waits_for_split() && self.has_room_for_relay()
    }

    fn is_at_rest(&self) -> bool {
        self.hold.is_some() && self.rest_of_frames().is_ok()
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended
    }

    /// The client sends nothing more.
    pub(crate) fn end(&mut self) {
        self.ended = true;
        self.plain = false;
        self.release();
    }

    /// What hyper gets next; empty if the client has to send more, or hyper to answer.
    pub(crate) fn for_server(&mut self) -> &[u8] {
        if self.ready.is_empty() && self.passing == 0 {
            self.tell_table();
            self.lend();
        }
        while self.ready.is_empty() && self.passing == 0 && !self.pending.is_empty() {
            self.passing = self.scan_pending();
            if self.passing == 0 && !self.take() {
                // What is left of a frame when the client has closed: hyper sees that it ends within it.
                if self.ended && self.backend.starts.is_done() {
                    self.passing = self.pending.len();
                }
                break;
            }
        }
        if self.ready.is_empty() { &self.pending[..self.passing] } else { &self.ready }
    }

    pub(crate) fn given_to_server(&mut self, bytes: usize) {
        if self.ready.is_empty() {
            self.pending.advance(bytes);
            self.passing -= bytes;
        } else {
            self.ready.advance(bytes);
        }
    }

    fn scan_pending(&mut self) -> usize {
        let pending = std::mem::take(&mut self.pending);
        let n = self.scan(&pending);
        self.pending = pending;
        n
    }

    /// Treats the frame at the front, which does not pass as it is. `false` if it has to wait.
    fn take(&mut self) -> bool {
        let Some(head) = Head::parse(&self.pending) else { return false };
        let waits = head.kind == kind::DATA && head.stream > self.backend.base && !self.is_held(head.stream);
        // A header block that has begun is gathered to its end.
        let splits = self.split.holds() && self.block.is_none();
        if !self.backend.starts.is_done()
            || self.is_at_rest()
            || splits
            || waits
            || self.pending.len() < head.frame_length()
        {
            return false;
        }
        let frame = self.pending.split_to(head.frame_length()).freeze();
        self.backend.spoken_to |= head.kind != kind::GOAWAY;
        self.treat(head, &frame);
        true
    }

    fn is_held(&self, stream: u32) -> bool {
        self.hold.as_ref().is_some_and(|hold| stream >= hold.first)
    }

    fn treat(&mut self, head: Head, frame: &[u8]) {
        let payload = &frame[HEAD..];
        if let Some(block) = self.block.take() {
            return self.continue_block(block, head, payload);
        }
        let late = head.stream != 0 && head.stream <= self.backend.base;
        let relay = self.relay.as_deref_mut().filter(|relay| late && relay.serves(head.stream));
        if late && relay.is_none() {
            self.backend.late = self.backend.late.saturating_sub(1);
        }
        match head.kind {
            kind::HEADERS => self.begin_block(head, payload),
            kind::DATA if late => {
                let length = i64::from(head.length);
                self.connection.receive_window -= length;
                self.backend.ahead += length;
                match relay {
                    Some(relay) => relay.send(head, frame),
                    None => self.relay.iter_mut().for_each(|relay| relay.not_sent(head.length)),
                }
            }
            _ if late => relay.into_iter().for_each(|relay| relay.send(head, frame)),
            _ if self.is_held(head.stream) => self.hold_frame(frame),
            kind::SETTINGS if head.has(flag::ACK) && self.backend.foreign_acks > 0 => {
                self.backend.foreign_acks -= 1;
                self.connection.acknowledges();
                self.relay.iter_mut().for_each(|relay| relay.send_ack());
            }
            kind::PING if head.has(flag::ACK) && self.backend.foreign_pongs > 0 => {
                self.backend.foreign_pongs -= 1;
                self.connection.unanswered = self.connection.unanswered.saturating_sub(1);
                self.relay.iter_mut().for_each(|relay| relay.send(head, frame));
            }
            kind::WINDOW_UPDATE if head.stream == 0 => self.pay(frame),
            // It passes after all.
            _ => {
                if head.kind == kind::SETTINGS
                    && !head.has(flag::ACK)
                    && let Some(relay) = &mut self.relay
                {
                    relay.send_settings(&self.connection.client, payload);
                }
                let mut follow = FromClient(&mut self.connection);
                if follow.head(head) == Want::Payload {
                    follow.payload(head, payload);
                }
                self.ready.extend_from_slice(frame);
            }
        }
    }

    /// The client has room: what hyper believes to have already is not added again.
    fn pay(&mut self, frame: &[u8]) {
        let room = increment(&frame[HEAD..]);
        // It is for hyper to say that it is no increment, or too much, which it may not know.
        if room == 0 || self.connection.send_window + room > MAX_WINDOW {
            self.connection.gives_up();
            if room > 0 {
                put_window_update(&mut self.ready, MAX_WINDOW);
            }
            return self.ready.extend_from_slice(frame);
        }
        let paid = if self.relay.is_some() { room } else { room.min(self.backend.debt) };
        self.backend.debt -= paid;
        self.relay.iter_mut().for_each(|relay| relay.not_told(room));
        self.connection.send_window += room;
        if room > paid {
            put_window_update(&mut self.ready, room - paid);
        }
        while let Some((side, frame)) = self.queue.pop_front() {
            self.count_queued(&frame, Sub::sub);
            if let Some(rest) = self.say_what_fits(side, frame) {
                self.count_queued(&rest, Add::add);
                self.queue.push_front((side, rest));
                break;
            }
        }
    }

    /// Of two servers each can send at once, as long as the client has room. What the one before had of it is
    /// for the other one when it has ended.
    fn lend(&mut self) {
        let Connection { send_window, .. } = self.connection;
        let more = match &self.relay {
            Some(_) => loan(send_window, self.backend.debt),
            None => -self.backend.debt,
        };
        if more > 0 && self.from_client.is_between() {
            put_window_update(&mut self.ready, more);
            self.backend.debt += more;
        }
    }

    fn begin_block(&mut self, head: Head, payload: &[u8]) {
        let Some((priority, bytes)) = strip_headers(head, payload) else {
            return self.refuse_block(head.stream);
        };
        let block = Block {
            stream: head.stream,
            end_stream: head.has(flag::END_STREAM),
            priority: priority.to_vec(),
            bytes: bytes.to_vec(),
            frames: 0,
        };
        if head.has(flag::END_HEADERS) { self.end_block(block) } else { self.block = Some(block) }
    }

    fn continue_block(&mut self, mut block: Block, head: Head, payload: &[u8]) {
        let continues = (head.kind, head.stream) == (kind::CONTINUATION, block.stream);
        block.frames += 1;
        if !continues || block.bytes.len() + payload.len() > MAX_BLOCK || block.frames > MAX_BLOCK_FRAMES {
            return self.refuse_block(block.stream);
        }
        block.bytes.extend_from_slice(payload);
        if head.has(flag::END_HEADERS) { self.end_block(block) } else { self.block = Some(block) }
    }

    /// A header block is complete that hyper does not get as it is.
    fn end_block(&mut self, block: Block) {
        let Block { stream, end_stream, priority, bytes, .. } = block;
        // Its decoder does not see what the table learns from this one.
        self.backend.flat = true;
        let mut flat = priority;
        let has_priority = !flat.is_empty();
        if self.connection.table.flatten(&bytes, &mut flat).is_err() {
            return self.refuse_block(stream);
        }
        let end = if end_stream { flag::END_STREAM } else { 0 };
        let flags = end | if has_priority { flag::PRIORITY } else { 0 };
        if stream <= self.backend.base {
            if let Some(relay) = self.relay.as_mut().filter(|relay| relay.serves(stream)) {
                relay.send_block(flags, stream, &flat);
            }
            return;
        }
        match &mut self.hold {
            Some(hold) if stream > self.connection.streams.last() => {
                hold.first = hold.first.min(stream);
                put_block(&mut hold.frames, flags, stream, &flat);
                self.check_held();
            }
            _ => {
                put_block(&mut self.ready, flags, stream, &flat);
                self.connection.opens(stream, end_stream);
            }
        }
    }

    fn hold_frame(&mut self, frame: &[u8]) {
        if let Some(hold) = &mut self.hold {
            hold.frames.extend_from_slice(frame);
            self.check_held();
        }
    }

    fn check_held(&mut self) {
        if self.hold.as_ref().is_some_and(|hold| hold.frames.len() > self.limits.held) {
            self.release();
            self.connection.exceeded = true;
        }
    }

    /// hyper ends the connection, as it would have done.
    fn refuse_block(&mut self, stream: u32) {
        self.connection.gives_up();
        put(&mut self.ready, kind::HEADERS, flag::END_HEADERS, stream.max(1), INVALID_BLOCK);
    }

    // hyper's bytes.

    /// Whether the client may hear what hyper writes as it is, so that it can be written at once and shown to
    /// [`written`](Self::written).
    #[inline]
    pub(crate) fn writes_directly(&self) -> bool {
        self.passes_writes() && self.unwritten.is_empty() && self.out.is_empty()
    }

    /// Whether nothing of what hyper writes has to be corrected or to wait.
    #[inline]
    fn passes_writes(&self) -> bool {
        let alone = self.relay.is_none() && self.split.is_over();
        self.backend.is_settled() && self.queue.is_empty() && alone
    }

    /// The client has been sent these bytes.
    #[inline]
    pub(crate) fn written(&mut self, bytes: &[u8]) {
        self.from_server.passed(bytes, &mut FromServer(&mut self.connection));
    }

    /// How much hyper can write now that does not reach the client at once.
    pub(crate) fn room(&mut self) -> usize {
        self.tell_window();
        let (most, waiting) = match self.split {
            split if split.is_over() => (BUFFERED, self.out.len()),
            split if split.is_ready() => (BUFFERED, self.unwritten.len()),
            _ => (MAX_UNSENT, self.out.len()),
        };
        most.saturating_sub(waiting)
    }

    /// hyper writes, and the client hears what is for it.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        let passed = if self.unwritten.is_empty() { self.end_frame(bytes) } else { 0 };
        self.unwritten.extend_from_slice(&bytes[passed..]);
        while !self.split.is_ready()
            && let Some(head) = Head::parse(&self.unwritten)
            && self.unwritten.len() >= head.frame_length()
        {
            let frame = self.unwritten.split_to(head.frame_length()).freeze();
            self.correct(head, frame);
        }
        // A frame that has begun goes on as it is, once nothing has to be corrected.
        if self.passes_writes() && self.from_server.is_between() {
            let rest = std::mem::take(&mut self.unwritten);
            self.emit(Side::Server, &rest);
        }
    }

    fn correct(&mut self, head: Head, frame: Bytes) {
        let (payload, base) = (&frame[HEAD..], self.backend.base);
        self.backend.has_streams |= head.stream > base;
        if matches!(head.kind, kind::HEADERS | kind::CONTINUATION) {
            self.backend.answering = !head.has(flag::END_HEADERS);
        }
        match head.kind {
            kind::SETTINGS if head.has(flag::ACK) && self.backend.starts.acks > 0 => {
                self.backend.starts.acks -= 1;
            }
            kind::SETTINGS if head.has(flag::ACK) && self.has_told_table() => {}
            kind::SETTINGS if head.has(flag::ACK) => {
                if self.relay.as_mut().is_none_or(|relay| relay.acknowledged_here()) {
                    self.emit(Side::Server, &frame);
                }
            }
            kind::SETTINGS if self.backend.starts.settings => self.announces(payload),
            kind::PING if head.has(flag::ACK) && self.backend.starts.pong && payload == BARRIER => {
                self.backend.starts.pong = false;
            }
            kind::RST_STREAM if head.stream == base => self.backend.resets_prime = false,
            _ if head.stream != 0 && head.stream <= base => {}
            kind::WINDOW_UPDATE if head.stream == 0 && (self.backend.ahead != 0 || self.relay.is_some()) => {
                self.backend.ahead += increment(payload);
            }
            // A window of a stream waits for none of the connection.
            kind::WINDOW_UPDATE => self.emit(Side::Server, &frame),
            _ if head.stream != 0 => self.say(Side::Server, frame),
            kind::GOAWAY if error_of(payload).is_some() => {
                // Nothing more comes of what its streams have said, nor of those of the version before.
                self.relay = None;
                self.queue.clear();
                (self.queued, self.queued_data) = (0, 0);
                self.emit(Side::Server, &last_at_least(&frame, base));
            }
            kind::GOAWAY => {
                let frame = last_at_least(&frame, base);
                if self.waits_for_room() {
                    self.enqueue(Side::Server, frame);
                } else {
                    self.emit(Side::Server, &frame);
                }
            }
            _ => self.emit(Side::Server, &frame),
        }
    }

    /// hyper announces its settings, which are not for the client: that hears what has changed.
    fn announces(&mut self, payload: &[u8]) {
        let shares = self.relay.is_some();
        let changed = self.backend.announces(&self.connection, payload, shares, &mut self.ready);
        if changed == Settings::default() {
            return;
        }
        match &mut self.relay {
            Some(relay) => relay.puts_off(changed.payload()),
            None => self.tell_settings(&changed.payload()),
        }
    }

    /// The client hears of settings. hyper has its acknowledgement.
    pub(crate) fn tell_settings(&mut self, payload: &[u8]) {
        put(&mut self.out, kind::SETTINGS, 0, 0, payload);
        self.connection.announces(payload);
        self.backend.foreign_acks += 1;
    }

    /// A frame of a stream: it waits for room, and for those before it, because header blocks keep their
    /// order.
    pub(crate) fn say(&mut self, side: Side, frame: Bytes) {
        let rest = if self.queue.is_empty() { self.say_what_fits(side, frame) } else { Some(frame) };
        if let Some(rest) = rest {
            self.enqueue(side, rest);
        }
    }

    /// Sends a frame, or as much of its DATA as the client has room for. Returns what is left.
    fn say_what_fits(&mut self, side: Side, frame: Bytes) -> Option<Bytes> {
        let room = self.connection.send_window;
        let Some(head) =
            Head::parse(&frame).filter(|head| head.kind == kind::DATA && i64::from(head.length) > room)
        else {
            self.emit(side, &frame);
            return None;
        };
        if room <= 0 || head.has(flag::PADDED) {
            return Some(frame);
        }
        let (first, rest) = frame[HEAD..].split_at(room as usize);
        let mut pieces = BytesMut::new();
        Head { length: first.len() as u32, flags: 0, ..head }.put(&mut pieces);
        pieces.extend_from_slice(first);
        self.emit(side, &pieces);
        pieces.clear();
        Head { length: rest.len() as u32, ..head }.put(&mut pieces);
        pieces.extend_from_slice(rest);
        Some(pieces.freeze())
    }

    fn enqueue(&mut self, side: Side, frame: Bytes) {
        self.count_queued(&frame, Add::add);
        self.queue.push_back((side, frame));
    }

    fn count_queued(&mut self, frame: &[u8], count: impl Fn(usize, usize) -> usize) {
        match data_length(frame) as usize {
            0 => self.queued = count(self.queued, frame.len()),
            length => self.queued_data = count(self.queued_data, length),
        }
    }

    /// The client hears these bytes.
    pub(crate) fn emit(&mut self, side: Side, bytes: &[u8]) {
        match (side, &mut self.relay) {
            (Side::Relay, _) => self.backend.debt += i64::from(data_length(bytes)),
            (Side::Server, Some(relay)) => relay.not_written(data_length(bytes)),
            (Side::Server, None) => {}
        }
        self.written(bytes);
        self.out.extend_from_slice(bytes);
    }

    /// More waits for room than a client causes that means well.
    pub(crate) fn queues_too_much(&self) -> bool {
        self.queued > MAX_QUEUED
    }

    /// Whether the client has to give room before it has all that hyper has written.
    pub(crate) fn waits_for_room(&self) -> bool {
        !self.queue.is_empty()
    }

    /// What the client gets next.
    pub(crate) fn for_client(&mut self) -> &[u8] {
        self.tell_window();
        &self.out
    }

    pub(crate) fn given_to_client(&mut self, bytes: usize) {
        self.out.advance(bytes);
    }

    /// The client learns how large its window is, once it has sent something: an idle client hears nothing.
    fn tell_window(&mut self) {
        let ahead = self.backend.ahead;
        let owed = self.relay.as_ref().map_or(ahead, |relay| relay.owes(ahead));
        let may = self.is_between_blocks() && self.split.is_over();
        if owed > 0 && may && self.backend.spoken_to && self.backend.starts.is_done() {
            put_window_update(&mut self.out, owed);
            self.connection.receive_window += owed;
            self.backend.ahead -= owed;
            let window = self.connection.receive_window;
            self.relay.iter_mut().for_each(|relay| relay.told(owed, window));
        }
    }
}

/// The code of a GOAWAY that ends the connection at once: the client has done something wrong (RFC 9113,
/// section
/// 6.8).
pub(crate) fn error_of(payload: &[u8]) -> Option<u32> {
    let code = payload.get(4..8)?.try_into().ok()?;
    Some(u32::from_be_bytes(code)).filter(|code| *code != 0)
}

/// How much of the client's window a frame takes.
fn data_length(frame: &[u8]) -> u32 {
    Head::parse(frame).filter(|head| head.kind == kind::DATA).map_or(0, |head| head.length)
}

/// A GOAWAY whose last stream is this one at least: the version before has served them. A client would ask
/// again for what has come later.
fn last_at_least(frame: &[u8], least: u32) -> Bytes {
    let mut bytes = BytesMut::from(frame);
    if let Some(last) = bytes.get_mut(HEAD..HEAD + 4)
        && let Ok(number) = <[u8; 4]>::try_from(&*last)
    {
        last.copy_from_slice(&u32::from_be_bytes(number).max(least).to_be_bytes());
    }
    bytes.freeze()
}

/// Which frames of the client pass as they are.
struct Decide<'a> {
    connection: &'a mut Connection,
    backend: &'a mut Backend,
    relay: Option<&'a mut Relayed>,
    /// None does: the connection moves between two of them.
    holds_all: bool,
    hold: Option<&'a Hold>,
    /// A header block is gathered.
    block: bool,
    server_is_between: bool,
}

impl Decide<'_> {
    /// Whether the layer has to treat it.
    #[inline]
    fn takes(&self, head: Head) -> bool {
        let Self { connection, backend, .. } = self;
        if !connection.is_followed() {
            return false;
        }
        if !backend.starts.is_done() || self.block {
            return true;
        }
        // In the middle of a block nothing else may come, and that is for hyper to say.
        if connection.block.is_some() {
            return false;
        }
        if self.holds_all {
            return true;
        }
        if head.length > connection.longest_frame() {
            return false;
        }
        let is_relayed = self.relay.is_some();
        if head.stream != 0 && head.stream <= backend.base && (backend.late > 0 || is_relayed) {
            return true;
        }
        if let Some(hold) = self.hold
            && (self.is_at_rest()
                || head.stream >= hold.first
                || (head.kind == kind::HEADERS && head.stream > connection.streams.last()))
        {
            return true;
        }
        match head.kind {
            kind::HEADERS => backend.flat,
            kind::SETTINGS if !head.has(flag::ACK) => is_relayed,
            kind::SETTINGS => backend.foreign_acks > 0,
            kind::PING => head.has(flag::ACK) && backend.foreign_pongs > 0,
            kind::WINDOW_UPDATE => head.stream == 0 && (backend.debt > 0 || is_relayed),
            kind::DATA => {
                backend.ahead < 0 && connection.receive_window + backend.ahead < i64::from(head.length)
            }
            _ => false,
        }
    }

    fn is_at_rest(&self) -> bool {
        let connection = &self.connection;
        connection.streams.is_empty()
            && self.relay.is_none()
            && self.backend.lowers.is_none()
            && connection.resets < MAX_RESETS
            && connection.owed == 0
            && !connection.lowers
            && connection.announced
            && !connection.answering
            && self.server_is_between
    }
}

impl Follow for Decide<'_> {
    #[inline]
    fn head(&mut self, head: Head) -> Want {
        if self.takes(head) {
            return Want::Stop;
        }
        self.backend.spoken_to |= head.kind != kind::GOAWAY;
        if head.kind == kind::DATA {
            self.relay.iter_mut().for_each(|relay| relay.not_sent(head.length));
        }
        FromClient(self.connection).head(head)
    }

    #[inline]
    fn payload(&mut self, head: Head, payload: &[u8]) {
        FromClient(self.connection).payload(head, payload);
    }
}
