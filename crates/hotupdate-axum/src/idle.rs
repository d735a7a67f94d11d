//! When an idle connection is closed.
//!
//! Deliberately absent: sockets, and the clock: `now` is an argument.

use std::time::Duration;

use hotupdate::drain::{Phase, Plan};
use hotupdate_proto::timing::fixed::http::{HALF_HEAD, LINGER};
use tokio::time::Instant;

/// How long one connection has been idle.
#[derive(Debug)]
pub(crate) struct IdleTimeout {
    id: u64,
    header_timeout: Duration,
    /// Nothing has been in flight since then.
    idle_since: Option<Instant>,
    /// A head has begun then and is not complete.
    head_since: Option<Instant>,
}

/// What the loop sees of its connection after a poll.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Observation {
    pub(crate) now: Instant,
    /// Something is in flight.
    pub(crate) busy: bool,
    /// Something has moved since the last poll.
    pub(crate) moved: bool,
    /// A head has begun.
    pub(crate) head: bool,
}

impl IdleTimeout {
    pub(crate) fn new(id: u64, header_timeout: Duration) -> Self {
        Self { id, header_timeout, idle_since: None, head_since: None }
    }

    /// When this connection is closed if it goes on like this; `None` if it is not.
    pub(crate) fn ends(&mut self, phase: Phase, observation: Observation) -> Option<Instant> {
        let Observation { now, busy, moved, head } = observation;
        if busy {
            self.reset();
            return None;
        }
        if moved {
            self.idle_since = None;
        }
        let idle_since = *self.idle_since.get_or_insert(now);
        self.head_since = head.then(|| self.head_since.unwrap_or(now));
        match phase {
            // Without half a head a client may be idle as long as it likes, as with `axum::serve`: closing an
            // idle connection races with the next request.
            Phase::Serving => self.head_since.map(|since| since + self.header_timeout),
            Phase::Draining(plan) => Some(self.scheduled_close(&plan, idle_since)),
            _ => Some(now),
        }
    }

    /// Nothing is awaited of the client: it may be idle as long as it likes.
    pub(crate) fn reset(&mut self) {
        (self.idle_since, self.head_since) = (None, None);
    }

    /// Bytes have arrived at the very moment of the timeout.
    pub(crate) fn begin_head(&mut self, now: Instant) {
        self.head_since = Some(now);
    }

    fn scheduled_close(&self, plan: &Plan, idle_since: Instant) -> Instant {
        // A client that got an answer without `Connection: close` believes that it may go on: a grace for it
        // too.
        let close = plan.scheduled_close(self.id).max(idle_since + plan.grace);
        let close = self.head_since.map_or(close, |since| close.max(since + HALF_HEAD));
        close.min(plan.until - 2 * margin(plan))
    }
}

/// How long a connection that is closed now, in this phase, is still read from.
pub(crate) fn linger(phase: Phase, now: Instant) -> Instant {
    match phase {
        Phase::Serving => now + LINGER,
        // A connection that lingered until the deadline would be counted as forced, and is not.
        Phase::Draining(plan) => (now + LINGER).min(plan.until - margin(&plan)),
        _ => now,
    }
}

/// What is kept free before the deadline.
fn margin(plan: &Plan) -> Duration {
    (LINGER / 2).min((plan.until - plan.since) / 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn plan(since: Instant) -> Plan {
        Plan::new(since, since + 60 * SECOND, 5 * SECOND, Duration::ZERO)
    }

    fn idle(now: Instant) -> Observation {
        Observation { now, busy: false, moved: false, head: false }
    }

    #[test]
    fn a_client_may_be_idle_while_the_process_serves() {
        let now = Instant::now();
        assert_eq!(IdleTimeout::new(1, SECOND).ends(Phase::Serving, idle(now)), None);
    }

    #[test]
    fn half_a_head_may_not() {
        let now = Instant::now();
        let mut timeout = IdleTimeout::new(1, 30 * SECOND);
        let head = Observation { head: true, ..idle(now) };
        assert_eq!(timeout.ends(Phase::Serving, head), Some(now + 30 * SECOND));
        // One more byte of it changes nothing.
        let later = Observation { now: now + SECOND, ..head };
        assert_eq!(timeout.ends(Phase::Serving, later), Some(now + 30 * SECOND));
        assert_eq!(timeout.ends(Phase::Serving, Observation { busy: true, ..later }), None);
        assert_eq!(timeout.ends(Phase::Serving, idle(now)), None);
    }

    #[test]
    fn a_drain_leaves_a_grace_from_its_beginning_and_from_the_last_answer() {
        let now = Instant::now();
        let drain = Phase::Draining(plan(now));
        let mut timeout = IdleTimeout::new(1, SECOND);
        assert_eq!(timeout.ends(drain, idle(now)), Some(now + 5 * SECOND));
        let answered = Observation { moved: true, ..idle(now + 4 * SECOND) };
        assert_eq!(timeout.ends(drain, answered), Some(now + 9 * SECOND));
        assert_eq!(timeout.ends(drain, Observation { busy: true, ..answered }), None);
    }

    #[test]
    fn a_head_that_begins_at_the_last_moment_gets_a_second() {
        let now = Instant::now();
        let drain = Phase::Draining(plan(now));
        let mut timeout = IdleTimeout::new(1, SECOND);
        timeout.ends(drain, idle(now));
        let head = Observation { head: true, ..idle(now + 5 * SECOND) };
        assert_eq!(timeout.ends(drain, head), Some(now + 6 * SECOND));
    }

    #[test]
    fn a_drain_that_ended_is_forgotten() {
        let now = Instant::now();
        let mut timeout = IdleTimeout::new(1, SECOND);
        assert!(timeout.ends(Phase::Draining(plan(now)), idle(now)).is_some());
        assert_eq!(timeout.ends(Phase::Serving, idle(now)), None);
    }

    #[test]
    fn everything_is_over_before_the_deadline() {
        let since = Instant::now();
        for millis in [0, 1, 100, 1_000, 60_000] {
            let until = since + Duration::from_millis(millis);
            let drain = Phase::Draining(Plan::new(since, until, 5 * SECOND, Duration::ZERO));
            let close = IdleTimeout::new(1, SECOND).ends(drain, idle(since)).unwrap();
            assert!(since <= close && close <= linger(drain, close) && linger(drain, close) <= until);
        }
    }
}
