//! Noticing that the whole process has stood still (SIGSTOP, a suspended machine).

use std::time::Instant;

use hotupdate_proto::timing::fixed::driver::{CATCH_UP, LATE};

/// After a standstill no deadline counts before what has arrived meanwhile.
#[derive(Debug, Default)]
pub(super) struct Standstill {
    catches_up: Option<Instant>,
}

impl Standstill {
    /// When to wake up for what is due then.
    pub(super) fn wake_at(&self, due: Instant) -> Instant {
        self.catches_up.map_or(due, |until| due.max(until))
    }

    /// Whether what is due has to wait, because the process has just stood still. Once for each deadline, so
    /// that a process that is always late ticks, too.
    pub(super) fn postpones(&mut self, now: Instant, due: Instant) -> bool {
        let granted = self.catches_up.is_some_and(|until| until >= due);
        let late = !granted && now.saturating_duration_since(due) > LATE;
        if late {
            self.catches_up = Some(now + CATCH_UP);
        }
        late
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn now() -> Instant {
        tokio::time::Instant::now().into_std()
    }

    #[test]
    fn a_deadline_that_is_met_counts() {
        let (mut standstill, due) = (Standstill::default(), now());
        assert_eq!(standstill.wake_at(due), due);
        for late in [Duration::ZERO, LATE / 2, LATE] {
            assert!(!standstill.postpones(due + late, due), "{late:?}");
        }
        assert_eq!(standstill.wake_at(due), due);
    }

    #[test]
    fn after_a_standstill_it_waits_for_what_has_arrived() {
        let (mut standstill, due) = (Standstill::default(), now());
        let wakes = due + SECOND;
        assert!(standstill.postpones(wakes, due));
        assert_eq!(standstill.wake_at(due), wakes + CATCH_UP);
        // Then it counts, however late that is.
        assert!(!standstill.postpones(wakes + CATCH_UP, due));
        assert!(!standstill.postpones(wakes + SECOND, due));
    }

    #[test]
    fn the_next_standstill_is_noticed_too() {
        let (mut standstill, due) = (Standstill::default(), now());
        assert!(standstill.postpones(due + SECOND, due));
        let next = due + 10 * SECOND;
        assert_eq!(standstill.wake_at(next), next, "no deadline is put off for nothing");
        assert!(!standstill.postpones(next, next));
        assert!(standstill.postpones(next + SECOND, next));
    }
}
