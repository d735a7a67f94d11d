//! How a connection learns that its process drains, and when it should be closed.
//!
//! Deliberately absent: closing anything. The code that serves a connection does that, and the table closes
//! what is left at the deadline.

use std::future::pending;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// What the process wants of its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Phase {
    /// Go on.
    Serving,
    /// Come to an end.
    Draining(Plan),
    /// The deadline has passed; what is left is closed.
    Forced,
}

impl Phase {
    pub(super) fn is_draining(&self) -> bool {
        matches!(self, Self::Draining(_))
    }
}

/// The times of a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Plan {
    /// When it began.
    pub since: Instant,
    /// When the rest is forced.
    pub until: Instant,
    /// How long idle connections are left alone.
    pub grace: Duration,
    /// The window after the grace over which idle connections are closed, so that not all clients come back
    /// at once.
    pub spread: Duration,
    /// How long requests may wait so that their connection can migrate.
    pub hold: Duration,
}

impl Plan {
    /// For tests of what serves connections.
    #[doc(hidden)]
    #[must_use]
    pub fn new(since: Instant, until: Instant, grace: Duration, spread: Duration) -> Self {
        Self { since, until, grace, spread, hold: Duration::ZERO }
    }

    /// When an idle connection with this id is closed: after the grace, at its own place in the window, and
    /// before the deadline.
    #[must_use]
    pub fn scheduled_close(&self, id: u64) -> Instant {
        // Ids count up; multiplying by 2^64 divided by the golden ratio spreads neighbours evenly (Knuth,
        // 6.4).
        let place = (id.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as f64 / f64::from(1 << 24);
        (self.since + self.grace + self.spread.mul_f64(place)).min(self.until)
    }
}

/// Tells a connection, or a handler, what its process wants of it. Cheap to clone.
///
/// ```
/// # async fn example(mut drain: hotupdate::Drain) {
/// loop {
///     tokio::select! {
///         () = drain.started() => break,       // say goodbye
///         () = async { /* the next event */ } => {}
///     }
///     # break;
/// }
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Drain {
    phase: watch::Receiver<Phase>,
}

impl Drain {
    pub(crate) fn new(phase: watch::Receiver<Phase>) -> Self {
        Self { phase }
    }

    /// What the process wants now.
    #[must_use]
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Whether connections are to come to an end.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.phase() != Phase::Serving
    }

    /// Resolves when connections are to come to an end, at once if that is so already.
    pub async fn started(&mut self) {
        self.wait(|phase| *phase != Phase::Serving).await;
    }

    /// Resolves when there is no drain (any more): after a rollback or when the successor died, the process
    /// serves on.
    pub async fn ended(&mut self) {
        self.wait(|phase| *phase == Phase::Serving).await;
    }

    /// Resolves when the deadline has passed.
    pub async fn forced(&mut self) {
        self.wait(|phase| *phase == Phase::Forced).await;
    }

    /// Resolves with every change of the phase.
    pub async fn changed(&mut self) -> Phase {
        if self.phase.changed().await.is_err() {
            pending::<()>().await;
        }
        *self.phase.borrow_and_update()
    }

    async fn wait(&mut self, wanted: impl FnMut(&Phase) -> bool) {
        // The sender lives as long as the table of connections; without it nothing can change any more.
        if self.phase.wait_for(wanted).await.is_err() {
            pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        let since = Instant::now();
        let second = Duration::from_secs(1);
        Plan {
            since,
            until: since + 60 * second,
            grace: 5 * second,
            spread: 10 * second,
            hold: Duration::ZERO,
        }
    }

    #[test]
    fn turns_are_spread_evenly_over_the_window() {
        let plan = plan();
        let mut tenths = [0u32; 10];
        for id in 1..=1000 {
            let place = plan.scheduled_close(id) - plan.since - plan.grace;
            assert!(place < plan.spread, "{place:?} is outside of the window");
            tenths[usize::try_from(place.as_millis() / 1000).unwrap()] += 1;
        }
        assert!(tenths.iter().all(|n| (90..=110).contains(n)), "{tenths:?}");
    }

    #[test]
    fn a_turn_never_comes_after_the_deadline() {
        let mut plan = plan();
        plan.until = plan.since + Duration::from_secs(1);
        assert!((0..100).all(|id| plan.scheduled_close(id) == plan.until));
    }
}
