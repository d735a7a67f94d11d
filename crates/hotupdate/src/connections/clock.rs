//! The clock by which clients are heard. A look at the system's clock for every read would be one of a
//! hundred parts of what a small request costs; what is asked about clients is answered in seconds, as long
//! as the process serves.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::Instant;

/// A time in milliseconds after the clock began, rounded up; 0 is never.
pub(super) type Millis = u64;

#[derive(Debug)]
pub(super) struct Clock {
    begun: Instant,
    /// Every read looks at the time: the process drains, and a moment counts.
    is_exact: AtomicBool,
    /// What a read takes for the time otherwise, if something looks again before then; 0: nothing does, and
    /// the read looks.
    next_look: AtomicU64,
    heard: Heard,
}

/// When any client sent something last. All that is read above is read with each request, by all threads, and
/// seldom changes: it has to stay in their caches when this is written.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Heard(AtomicU64);

impl Clock {
    pub(super) fn new() -> Self {
        Self {
            begun: Instant::now(),
            is_exact: AtomicBool::new(false),
            next_look: AtomicU64::new(0),
            heard: Heard::default(),
        }
    }

    pub(super) fn now(&self) -> Millis {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX - 1) + 1
    }

    /// The time of a read that happens now, or the latest that it can be: a client seems to be silent for a
    /// second less than it is, and not for more.
    #[inline]
    pub(super) fn of_a_read(&self) -> Millis {
        match self.next_look.load(Relaxed) {
            next if next > 0 && !self.is_exact.load(Relaxed) => next,
            _ => self.now(),
        }
    }

    /// A client sent something then.
    pub(super) fn heard(&self, at: Millis) {
        // All workers would write here with every read.
        if self.heard.0.load(Relaxed) != at {
            self.heard.0.store(at, Relaxed);
        }
    }

    pub(super) fn since(&self, at: Millis) -> Duration {
        Duration::from_millis(self.now().saturating_sub(at))
    }

    /// Whether a client has sent something in this time.
    pub(super) fn is_busy(&self, within: Duration) -> bool {
        let heard = self.heard.0.load(Relaxed);
        heard > 0 && self.since(heard) <= within
    }

    /// Whether every read looks at the time from here on. What was heard in the last second was heard just
    /// now, as far as is known.
    pub(super) fn set_exact(&self, exact: bool) {
        if !self.is_exact.swap(exact, Relaxed) && exact {
            self.heard.0.fetch_min(self.now(), Relaxed);
        }
    }

    /// Something looks at the clock, and does so again after this time, unless the result is dropped.
    pub(super) fn look(&self, again: Duration) -> Looks<'_> {
        let again = u64::try_from(again.as_millis()).unwrap_or(u64::MAX);
        self.next_look.store(self.now().saturating_add(again), Relaxed);
        Looks(self)
    }
}

/// Something looks at the clock again and again, until this is dropped.
#[derive(Debug)]
pub(super) struct Looks<'a>(&'a Clock);

impl Drop for Looks<'_> {
    fn drop(&mut self) {
        // If something else looks as well, it says so when it does.
        self.0.next_look.store(0, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const MILLISECOND: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn a_read_looks_unless_something_else_does() {
        let clock = Clock::new();
        assert_eq!(clock.of_a_read(), 1, "0 is never");
        advance(SECOND).await;
        assert_eq!((clock.of_a_read(), clock.now()), (1_001, 1_001));
        let looks = clock.look(SECOND);
        advance(SECOND / 2).await;
        let read = clock.of_a_read();
        assert_eq!((read, clock.since(read)), (2_001, Duration::ZERO), "it cannot be later");
        advance(SECOND).await;
        assert_eq!(clock.since(read), SECOND / 2);
        clock.set_exact(true);
        assert_eq!(clock.of_a_read(), clock.now());
        clock.set_exact(false);
        assert_eq!(clock.of_a_read(), read);
        drop(looks);
        assert_eq!(clock.of_a_read(), clock.now());
    }

    #[tokio::test(start_paused = true)]
    async fn clients_are_being_served_if_one_was_heard_just_now() {
        let clock = Clock::new();
        assert!(!clock.is_busy(SECOND), "none was heard ever");
        clock.heard(clock.of_a_read());
        advance(SECOND).await;
        assert!(clock.is_busy(SECOND) && !clock.is_busy(SECOND - MILLISECOND));
    }

    /// From then on it is known again after this time, and not only a second later.
    #[tokio::test(start_paused = true)]
    async fn what_was_heard_before_each_read_looked_was_heard_just_then() {
        let clock = Clock::new();
        let _looks = clock.look(60 * SECOND);
        clock.heard(clock.of_a_read());
        clock.set_exact(true);
        assert!(clock.is_busy(MILLISECOND));
        advance(2 * MILLISECOND).await;
        clock.set_exact(true);
        assert!(!clock.is_busy(MILLISECOND));
        clock.heard(clock.of_a_read());
        assert!(clock.is_busy(Duration::ZERO));
    }
}
