//! How often a service that crashes is started again, and after which pause.

use std::time::{Duration, Instant};

use hotupdate_proto::timing::fixed::hold::{LONGEST, SHORTEST, STABLE_AFTER};

/// Counts restarts in a row.
#[derive(Debug)]
pub(super) struct RestartBackoff {
    limit: u32,
    used: u32,
    since: Option<Instant>,
}

impl RestartBackoff {
    pub(super) fn new(limit: u32) -> Self {
        Self { limit, used: 0, since: None }
    }

    /// The service runs from now on.
    pub(super) fn served(&mut self) {
        self.since = Some(Instant::now());
    }

    /// The pause before the next restart; `None` when the limit is reached.
    pub(super) fn next(&mut self) -> Option<Duration> {
        if self.since.take().is_some_and(|since| since.elapsed() >= STABLE_AFTER) {
            self.used = 0;
        }
        if self.used == self.limit {
            return None;
        }
        self.used += 1;
        Some(match self.used {
            1 => Duration::ZERO,
            more => SHORTEST.saturating_mul(1 << (more - 2).min(16)).min(LONGEST),
        })
    }

    /// `1 of 10`
    pub(super) fn number(&self) -> String {
        format!("{} of {}", self.used, self.limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_end() {
        let mut backoff = RestartBackoff::new(9);
        let pauses: Vec<_> = std::iter::from_fn(|| backoff.next()).map(|pause| pause.as_millis()).collect();
        assert_eq!(pauses, [0, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(RestartBackoff::new(0).next(), None);
    }

    #[test]
    fn a_stable_service_resets_the_count() {
        let mut backoff =
            RestartBackoff { limit: 2, used: 2, since: Instant::now().checked_sub(STABLE_AFTER) };
        assert_eq!(backoff.next(), Some(Duration::ZERO));
        backoff.served();
        assert_eq!(backoff.next(), Some(SHORTEST));
        assert_eq!(backoff.next(), None);
    }
}
