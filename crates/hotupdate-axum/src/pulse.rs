//! What moves on one connection: set by its I/O and its service, read by the loop that owns it.
//!
//! Deliberately absent: clocks, see [`crate::silence`]. The flags are plain atomics, because all but the end of a
//! request happen in the task of the loop, just before it looks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};

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
    }

    /// The head of a request is complete.
    pub(crate) fn begin(self: &Arc<Self>) -> Beat {
        self.in_flight.fetch_add(1, SeqCst);
        self.head_begun.store(false, SeqCst);
        Beat { pulse: self.clone() }
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

/// A request in flight; it ends when the value is dropped.
#[derive(Debug)]
pub(crate) struct Beat {
    pulse: Arc<Pulse>,
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
