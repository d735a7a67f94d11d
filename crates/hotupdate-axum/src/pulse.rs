//! What moves on one connection: set by its I/O and its service, read by the loop that owns it.
//!
//! Deliberately absent: clocks, see [`crate::idle`]. The flags are plain atomics, because all but the end of a
//! request happen in the task of the loop, just before it looks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};

use futures_util::task::AtomicWaker;

/// Shared by the loop, the I/O and the service of one connection.
#[derive(Debug, Default)]
pub(crate) struct Pulse {
    in_flight: AtomicU32,
    /// A request has ended, and its last bytes may still be in hyper's buffer.
    unflushed: AtomicBool,
    /// Bytes have been read that belong to no request yet: a head has begun.
    head_begun: AtomicBool,
    request_ended: AtomicBool,
    wrote: AtomicBool,
    upgraded: AtomicBool,
    /// Since the last [`Pulse::turn`]: a request has begun, everything was flushed.
    began: AtomicBool,
    flushed: AtomicBool,
    /// The other process did not take the connection.
    stays: AtomicBool,
    /// How many requests have begun: the number of the last one.
    requests: AtomicU64,
    /// The number of a request of whose body more is wanted.
    wanted: AtomicU64,
    /// What the client sends behind the request in flight is left for the next version.
    holds_back: AtomicBool,
    owner: AtomicWaker,
}

impl Pulse {
    pub(crate) fn bytes_read(&self) {
        self.head_begun.store(true, SeqCst);
    }

    pub(crate) fn bytes_written(&self) {
        self.wrote.store(true, SeqCst);
    }

    pub(crate) fn flushed(&self) {
        self.unflushed.store(false, SeqCst);
        self.flushed.store(true, SeqCst);
    }

    /// The head of a request is complete.
    pub(crate) fn begin(self: &Arc<Self>) -> Beat {
        self.in_flight.fetch_add(1, SeqCst);
        self.head_begun.store(false, SeqCst);
        self.began.store(true, SeqCst);
        self.requests.fetch_add(1, SeqCst);
        Beat { pulse: self.clone() }
    }

    /// The body of the request that has just begun.
    pub(crate) fn body(self: &Arc<Self>) -> BodyDemand {
        BodyDemand { pulse: self.clone(), number: self.requests.load(SeqCst) }
    }

    /// Whether requests behind the one in flight are for somebody else.
    pub(crate) fn hold_back(&self, holds: bool) {
        self.holds_back.store(holds, SeqCst);
    }

    /// Whether what the client sends now is not for hyper.
    pub(crate) fn holds_back(&self) -> bool {
        let wanted = self.wanted.load(SeqCst) == self.requests.load(SeqCst);
        self.holds_back.load(SeqCst) && !wanted && !self.upgraded.load(SeqCst)
    }

    /// Somebody else owns the connection from now on, or a stream of it.
    pub(crate) fn upgraded(&self) {
        self.upgraded.store(true, SeqCst);
    }

    /// Whether a request is in flight, or bytes of a response are.
    pub(crate) fn is_busy(&self) -> bool {
        self.is_serving() || self.unflushed.load(SeqCst)
    }

    /// Whether a request is in flight, or a stream was handed out.
    pub(crate) fn is_serving(&self) -> bool {
        self.in_flight.load(SeqCst) > 0 || self.upgraded.load(SeqCst)
    }

    /// To be called right before hyper is polled; the answer is for [`Pulse::is_between_messages`].
    pub(crate) fn turn(&self) -> PollSnapshot {
        self.began.store(false, SeqCst);
        self.flushed.store(false, SeqCst);
        PollSnapshot { quiet: !self.is_serving() }
    }

    /// Whether hyper is between two messages, so that what it has read and not parsed is the beginning of a head. To be
    /// called right after it was polled and is pending.
    ///
    /// That nothing is in flight does not say it: a body that its handler dropped half-read, perhaps just now and in
    /// another thread, is still being read as far as hyper knows, and the rest of it would be taken for a request. So the
    /// last use of both bodies has to lie *before* the poll: `poll_read`, with which each poll begins, then finds the
    /// receiver gone and skips the rest of the body, if it is there, or gives the connection up. And the poll has to end
    /// with a flush that went through and no new request: then `Conn::try_keep_alive` has been passed with both sides
    /// done, and reading and writing are `Init` (hyper 1.12, `proto/h1/dispatch.rs` and `conn.rs`).
    pub(crate) fn is_between_messages(&self, turn: PollSnapshot) -> bool {
        turn.quiet && self.flushed.load(SeqCst) && !self.began.load(SeqCst) && !self.is_serving()
    }

    /// Whether another poll of hyper would find it between two messages, as far as is known.
    pub(crate) fn comes_to_rest(&self) -> bool {
        self.flushed.load(SeqCst) && !self.is_serving()
    }

    /// Whether the other process did not take the connection.
    pub(crate) fn stays(&self) -> bool {
        self.stays.load(SeqCst)
    }

    pub(crate) fn set_stays(&self, stays: bool) {
        self.stays.store(stays, SeqCst);
    }

    /// Whether part of a head was read.
    pub(crate) fn has_begun_head(&self) -> bool {
        self.head_begun.load(SeqCst)
    }

    /// Whether a request has ended since the last call.
    pub(crate) fn take_ended(&self) -> bool {
        self.request_ended.swap(false, SeqCst)
    }

    /// Whether bytes went either way since the last call. For HTTP/2, where they belong to many requests at once.
    pub(crate) fn take_moved(&self) -> bool {
        // Both have to be reset.
        self.wrote.swap(false, SeqCst) | self.head_begun.swap(false, SeqCst)
    }

    /// The task to wake when a request ends elsewhere.
    pub(crate) fn register(&self, waker: &std::task::Waker) {
        self.owner.register(waker);
    }
}

/// What was known before a poll.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PollSnapshot {
    quiet: bool,
}

/// A request in flight; it ends when the value is dropped.
#[derive(Debug)]
pub(crate) struct Beat {
    pulse: Arc<Pulse>,
}

/// Whether more of a request's body is wanted. Its drop says that nobody has read it to its end: hyper reads past the rest.
#[derive(Debug)]
pub(crate) struct BodyDemand {
    pulse: Arc<Pulse>,
    number: u64,
}

impl BodyDemand {
    /// Somebody waits for more.
    pub(crate) fn wanted(&self) {
        let Self { pulse, number } = self;
        let held = pulse.holds_back();
        // Of a request that is over this changes nothing.
        pulse.wanted.fetch_max(*number, SeqCst);
        if held {
            pulse.owner.wake();
        }
    }

    /// Nobody waits: it has come, or nothing more will.
    pub(crate) fn satisfied(&self) {
        let _ = self.pulse.wanted.compare_exchange(self.number, 0, SeqCst, SeqCst);
    }

    /// That was all.
    pub(crate) fn finished(mut self) {
        self.satisfied();
        self.number = 0;
    }
}

impl Drop for BodyDemand {
    fn drop(&mut self) {
        self.wanted();
    }
}

impl Drop for Beat {
    fn drop(&mut self) {
        let Self { pulse } = self;
        // Before the count: whoever sees zero has to see these too. Bytes read until now were the request's body.
        pulse.head_begun.store(false, SeqCst);
        pulse.unflushed.store(true, SeqCst);
        pulse.request_ended.store(true, SeqCst);
        pulse.in_flight.fetch_sub(1, SeqCst);
        pulse.owner.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_until_the_last_request_is_flushed() {
        let pulse = Arc::new(Pulse::default());
        let (first, second) = (pulse.begin(), pulse.begin());
        pulse.flushed();
        assert!(pulse.is_busy());
        drop(first);
        assert!(pulse.is_serving());
        drop(second);
        assert!(!pulse.is_serving() && pulse.is_busy());
        pulse.flushed();
        assert!(!pulse.is_busy());
    }

    #[test]
    fn between_messages_only_if_a_whole_poll_saw_nothing_in_flight() {
        let pulse = Arc::new(Pulse::default());
        let turn = pulse.turn();
        assert!(!pulse.is_between_messages(turn), "nothing was flushed");
        pulse.flushed();
        assert!(pulse.is_between_messages(turn));
        let request = pulse.begin();
        assert!(!pulse.is_between_messages(turn));
        // The body is dropped elsewhere, in the middle of a poll.
        let turn = pulse.turn();
        drop(request);
        pulse.flushed();
        assert!(!pulse.is_between_messages(turn) && pulse.comes_to_rest());
        // A request comes and goes within one poll.
        let turn = pulse.turn();
        drop(pulse.begin());
        pulse.flushed();
        assert!(!pulse.is_between_messages(turn) && pulse.comes_to_rest());
        let turn = pulse.turn();
        assert!(!pulse.comes_to_rest(), "the client does not read");
        pulse.flushed();
        assert!(pulse.is_between_messages(turn));
        pulse.upgraded();
        assert!(!pulse.is_between_messages(turn));
    }

    #[test]
    fn what_follows_is_held_back_and_bodies_are_not() {
        let pulse = Arc::new(Pulse::default());
        assert!(!pulse.holds_back());
        pulse.hold_back(true);
        let request = pulse.begin();
        assert!(pulse.holds_back());
        let body = pulse.body();
        body.wanted();
        assert!(!pulse.holds_back());
        body.satisfied();
        assert!(pulse.holds_back());
        drop(body);
        assert!(!pulse.holds_back(), "nobody has read the rest");
        drop(request);
        let _request = pulse.begin();
        assert!(pulse.holds_back());
        let body = pulse.body();
        body.wanted();
        body.finished();
        assert!(pulse.holds_back());
        pulse.upgraded();
        assert!(!pulse.holds_back(), "somebody else reads");
    }

    #[test]
    fn bytes_of_a_body_are_no_head() {
        let pulse = Arc::new(Pulse::default());
        pulse.bytes_read();
        assert!(pulse.has_begun_head());
        let request = pulse.begin();
        assert!(!pulse.has_begun_head());
        pulse.bytes_read();
        drop(request);
        assert!(!pulse.has_begun_head());
        assert!(pulse.take_ended() && !pulse.take_ended());
    }
}
