//! How far the exchange of requests and responses on a connection has come: what the I/O and the parser of a
//! protocol report, and what the task that serves the connection asks between two polls of them.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use super::activity::ConnectionActivity;
use super::record::{Record, Status};

/// For the crate `hotupdate-axum`. Everything but the end of a request happens in the task that serves the
/// connection.
#[doc(hidden)]
impl ConnectionActivity {
    /// As [`ConnectionActivity::begin_request`], for a caller that says itself when the request ends.
    #[inline]
    pub fn request_begins(&self) {
        self.record.begin_request();
    }

    /// Exactly once for each call of [`ConnectionActivity::request_begins`].
    #[inline]
    pub fn request_ends(&self) {
        self.record.end_request();
    }

    /// Bytes were read.
    #[inline]
    pub fn bytes_read(&self) {
        self.record.update(|status| status.with(Status::HEAD_BEGUN).without(Status::RESTS));
    }

    /// Bytes were written.
    #[inline]
    pub fn bytes_written(&self) {
        self.record.set(Status::WROTE);
    }

    /// Everything that was written is with the kernel.
    #[inline]
    pub fn flushed(&self) {
        self.record.update(|status| status.without(Status::UNFLUSHED).with(Status::FLUSHED));
    }

    /// The body of the request that has just begun. The request is in flight until that is dropped, too.
    #[must_use = "the request ends when this is dropped"]
    pub fn body_demand(&self) -> BodyDemand {
        self.record.begin_body();
        BodyDemand { record: self.record.clone(), number: self.record.requests.load(SeqCst) }
    }

    /// Whether what the client sends now is not for this process.
    #[inline]
    #[must_use]
    pub fn holds_back(&self) -> bool {
        self.record.holds_back()
    }

    /// Whether a request is in flight, or bytes of a response are.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        let status = self.record.status();
        status.is_serving() || status.has(Status::UNFLUSHED)
    }

    /// Whether a request is in flight, or a stream was handed out.
    #[inline]
    #[must_use]
    pub fn is_serving(&self) -> bool {
        self.record.status().is_serving()
    }

    /// To be called right before hyper is polled, and if `holds_back`, requests behind the one in flight are
    /// for the next version; the answer is for [`ConnectionActivity::is_between_messages`].
    #[inline]
    #[must_use]
    pub fn begin_poll(&self, holds_back: bool) -> PollSnapshot {
        let before = self.record.update(|status| {
            let status = status.without(Status::BEGAN | Status::FLUSHED | Status::WAITS | Status::HOLDS_BACK);
            if holds_back { status.with(Status::HOLDS_BACK) } else { status }
        });
        PollSnapshot { idle: !before.is_serving() }
    }

    /// To be called after hyper was polled, before anything is asked: from here on the end of a request wakes
    /// the task. An end during the poll does not, as the task is awake and about to ask.
    pub fn wait(&self) {
        self.record.set(Status::WAITS);
    }

    /// Whether hyper is between two messages, so that what it has read and not parsed is the beginning of a
    /// head. To be called right after it was polled and is pending.
    ///
    /// That nothing is in flight does not say it: a body that its handler dropped half-read, perhaps just now
    /// and in another thread, is still being read as far as hyper knows, and the rest of it would be taken
    /// for a request. So the last use of both bodies has to lie *before* the poll: `poll_read`, with which
    /// each poll begins, then finds the receiver gone and skips the rest of the body, if it is there, or
    /// gives the connection up. And the poll has to end with a flush that went through and no new request:
    /// then `Conn::try_keep_alive` has been passed with both sides done, and reading and writing are `Init`
    /// (hyper 1.12, `proto/h1/dispatch.rs` and `conn.rs`).
    #[must_use]
    pub fn is_between_messages(&self, poll: PollSnapshot) -> bool {
        let status = self.record.status();
        poll.idle && status.has(Status::FLUSHED) && !status.has(Status::BEGAN) && !status.is_serving()
    }

    /// Whether another poll of hyper would find it between two messages, as far as is known.
    #[must_use]
    pub fn comes_to_rest(&self) -> bool {
        let status = self.record.status();
        status.has(Status::FLUSHED) && !status.is_serving()
    }

    /// Whether part of a head was read.
    #[inline]
    #[must_use]
    pub fn has_begun_head(&self) -> bool {
        self.record.status().has(Status::HEAD_BEGUN)
    }

    /// Whether a request has ended since the last call.
    #[must_use]
    pub fn take_ended(&self) -> bool {
        self.record.take(Status::ENDED)
    }

    /// Whether bytes went either way, or a request ended, since the last call. For HTTP/2, where bytes belong
    /// to many requests at once.
    #[must_use]
    pub fn take_moved(&self) -> bool {
        self.record.take(Status::ENDED | Status::WROTE | Status::HEAD_BEGUN)
    }
}

impl Record {
    #[inline]
    fn holds_back(&self) -> bool {
        let status = self.status();
        status.has(Status::HOLDS_BACK)
            && !status.has(Status::UPGRADED)
            && self.body_wanted.load(SeqCst) != self.requests.load(SeqCst)
    }
}

/// What was known before a poll.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct PollSnapshot {
    idle: bool,
}

/// Whether more of a request's body is wanted. If it is dropped before all was read, hyper skips the rest.
#[doc(hidden)]
#[derive(Debug)]
pub struct BodyDemand {
    record: Arc<Record>,
    number: u64,
}

impl BodyDemand {
    /// The handler waits for more.
    pub fn wanted(&self) {
        let Self { record, number } = self;
        let held = record.holds_back();
        // Of a request that is over this changes nothing.
        record.body_wanted.fetch_max(*number, SeqCst);
        if held {
            record.wake();
        }
    }

    /// The handler does not wait: a part has come, or nothing more will.
    pub fn satisfied(&self) {
        let _ = self.record.body_wanted.compare_exchange(self.number, 0, SeqCst, SeqCst);
    }

    /// That was all.
    pub fn finished(mut self) {
        self.satisfied();
        self.number = 0;
    }
}

impl Drop for BodyDemand {
    fn drop(&mut self) {
        if self.number > 0 {
            self.wanted();
        }
        self.record.end_body();
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use hotupdate_proto::ConnectionState;

    use super::super::fixture::{Fixture, Woken};
    use super::*;

    fn activity() -> ConnectionActivity {
        Fixture::new().connection().activity()
    }

    #[tokio::test]
    async fn busy_until_the_last_request_is_flushed() {
        let activity = activity();
        let (first, second) = (activity.begin_request(), activity.begin_request());
        assert_eq!((activity.in_flight(), activity.requests()), (2, 2));
        activity.flushed();
        assert!(activity.is_busy());
        drop(first);
        assert!(activity.is_serving());
        drop(second);
        assert!(!activity.is_serving() && activity.is_busy());
        activity.flushed();
        assert!(!activity.is_busy());
    }

    #[tokio::test]
    async fn between_messages_only_if_a_whole_poll_saw_nothing_in_flight() {
        let activity = activity();
        let poll = activity.begin_poll(false);
        assert!(!activity.is_between_messages(poll) && !activity.comes_to_rest(), "nothing was flushed");
        activity.flushed();
        assert!(activity.is_between_messages(poll));
        let request = activity.begin_request();
        assert!(!activity.is_between_messages(poll) && !activity.comes_to_rest());
        // The body is dropped elsewhere, in the middle of a poll.
        let poll = activity.begin_poll(false);
        drop(request);
        activity.flushed();
        assert!(!activity.is_between_messages(poll) && activity.comes_to_rest());
        // A request comes and goes within one poll.
        let poll = activity.begin_poll(false);
        drop(activity.begin_request());
        activity.flushed();
        assert!(!activity.is_between_messages(poll) && activity.comes_to_rest());
        let poll = activity.begin_poll(false);
        assert!(!activity.comes_to_rest(), "the client does not read");
        activity.flushed();
        assert!(activity.is_between_messages(poll));
        activity.set_upgraded("raw");
        assert!(!activity.is_between_messages(poll) && activity.is_serving());
    }

    #[tokio::test]
    async fn what_follows_is_held_back_and_bodies_are_not() {
        let activity = activity();
        let request = activity.begin_request();
        assert!(!activity.holds_back());
        let _ = activity.begin_poll(true);
        assert!(activity.holds_back());
        let body = activity.body_demand();
        body.wanted();
        assert!(!activity.holds_back());
        body.satisfied();
        assert!(activity.holds_back());
        drop(body);
        assert!(!activity.holds_back(), "the rest was not read");
        drop(request);
        let _request = activity.begin_request();
        assert!(activity.holds_back());
        let body = activity.body_demand();
        body.wanted();
        body.finished();
        assert!(activity.holds_back());
        let _ = activity.begin_poll(false);
        assert!(!activity.holds_back());
        let _ = activity.begin_poll(true);
        activity.set_upgraded("raw");
        assert!(!activity.holds_back(), "the new owner reads");
    }

    #[tokio::test]
    async fn the_body_of_an_earlier_request_says_nothing_about_this_one() {
        let activity = activity();
        let _ = activity.begin_poll(true);
        let first = activity.begin_request();
        let body = activity.body_demand();
        drop(first);
        let _second = activity.begin_request();
        body.wanted();
        assert!(activity.holds_back());
        let of_second = activity.body_demand();
        of_second.wanted();
        body.satisfied();
        assert!(!activity.holds_back(), "the second still wants more");
    }

    #[tokio::test]
    async fn bytes_of_a_body_are_no_head() {
        let activity = activity();
        assert!(!activity.has_begun_head());
        activity.bytes_read();
        assert!(activity.has_begun_head());
        let request = activity.begin_request();
        assert!(!activity.has_begun_head());
        activity.bytes_read();
        drop(request);
        assert!(!activity.has_begun_head());
        assert!(activity.take_ended() && !activity.take_ended());
    }

    #[tokio::test]
    async fn bytes_either_way_and_the_end_of_a_request_are_movement() {
        let activity = activity();
        assert!(!activity.take_moved());
        let read: fn(&ConnectionActivity) = ConnectionActivity::bytes_read;
        for report in [read, ConnectionActivity::bytes_written, |activity| drop(activity.begin_request())] {
            report(&activity);
            assert!(activity.take_moved() && !activity.take_moved());
        }
    }

    /// A wake from within its own poll would make the task run, and another thread look for work, for
    /// nothing.
    #[tokio::test]
    async fn the_end_of_a_request_wakes_a_task_that_waits_and_no_other() {
        let activity = activity();
        let woken = Arc::new(Woken::default());
        let count = || woken.count();
        activity.record.register(&Waker::from(Arc::new(Woken::default())));
        activity.record.register(&Waker::from(woken.clone()));
        let _ = activity.begin_poll(false);
        drop(activity.begin_request());
        assert_eq!(count(), 0, "it is awake");
        let request = activity.begin_request();
        activity.wait();
        drop(request);
        assert_eq!(count(), 1);
        let _ = activity.begin_poll(false);
        drop(activity.begin_request());
        assert_eq!(count(), 1, "it is awake again");
    }

    #[tokio::test]
    async fn a_body_that_is_wanted_wakes_if_it_is_held_back() {
        let activity = activity();
        let woken = Arc::new(Woken::default());
        let count = || woken.count();
        activity.record.register(&Waker::from(woken.clone()));
        let _request = activity.begin_request();
        let body = activity.body_demand();
        body.wanted();
        body.satisfied();
        assert_eq!(count(), 0);
        let _ = activity.begin_poll(true);
        body.wanted();
        assert_eq!(count(), 1);
        body.wanted();
        assert_eq!(count(), 1, "it knows");
    }

    #[tokio::test]
    async fn what_happens_after_the_end_is_not_counted() {
        let fixture = Fixture::new();
        let (connections, connection) = (&fixture.connections, fixture.connection());
        let activity = connection.activity();
        let request = activity.begin_request();
        assert_eq!((connections.summary().active, connections.rows()[0].state), (1, ConnectionState::Active));
        activity.set_forced();
        let summary = connections.summary();
        assert_eq!((summary.idle, summary.active, connections.forced()), (0, 0, 1));
        drop(request);
        activity.set_upgraded("raw");
        drop(connection);
        let (summary, totals) = (connections.summary(), connections.totals());
        assert_eq!((summary.idle, summary.active, summary.upgraded), (0, 0, 0));
        assert_eq!((totals.forced, totals.finished, totals.closed), (1, 0, 0));
        assert!(connections.rows().is_empty());
    }
}
