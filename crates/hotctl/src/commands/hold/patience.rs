//! How often a service that crashes is started again, and after which pause.
//!
//! Deliberately absent: waiting.

use std::time::{Duration, Instant};

/// The second pause; the first restart is at once, because most crashes do not come back at once.
const SHORTEST: Duration = Duration::from_millis(100);

/// Pauses double up to here.
const LONGEST: Duration = Duration::from_secs(5);

/// Who served this long was well: what happens then is a new story.
const WELL: Duration = Duration::from_secs(10);

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Patience {
    limit: u32,
    used: u32,
    since: Option<Instant>,
}

impl Patience {
    pub(super) fn new(limit: u32) -> Self {
        Self { limit, used: 0, since: None }
    }

    /// Somebody serves from now on.
    pub(super) fn served(&mut self) {
        self.since = Some(Instant::now());
    }

    /// The pause before the next restart; `None` when there have been enough.
    pub(super) fn next(&mut self) -> Option<Duration> {
        if self.since.take().is_some_and(|since| since.elapsed() >= WELL) {
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
        let mut patience = Patience::new(9);
        let pauses: Vec<_> = std::iter::from_fn(|| patience.next()).map(|pause| pause.as_millis()).collect();
        assert_eq!(pauses, [0, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(Patience::new(0).next(), None);
    }

    #[test]
    fn who_was_well_begins_anew() {
        let mut patience = Patience { limit: 2, used: 2, since: Instant::now().checked_sub(WELL) };
        assert_eq!(patience.next(), Some(Duration::ZERO));
        patience.served();
        assert_eq!(patience.next(), Some(SHORTEST));
        assert_eq!(patience.next(), None);
    }
}
