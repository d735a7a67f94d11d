//! Complaints about callers: a caller must not be able to fill a disk with them.
//!
//! Deliberately absent: what is complained about.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// One line in this time is enough to know.
const PAUSE: Duration = Duration::from_secs(1);

/// Counts what is not said.
#[derive(Debug)]
pub(crate) struct Complaint {
    begun: Instant,
    /// In milliseconds from the beginning.
    not_before: AtomicU64,
    unsaid: AtomicU64,
}

impl Complaint {
    pub(crate) fn new() -> Self {
        Self { begun: Instant::now(), not_before: AtomicU64::new(0), unsaid: AtomicU64::new(0) }
    }

    /// Whether to complain now; if so, how many complaints were not made since the last one.
    pub(crate) fn due(&self) -> Option<u64> {
        let now = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let pause = u64::try_from(PAUSE.as_millis()).unwrap_or(u64::MAX);
        let next = |not_before| (now >= not_before).then(|| now.saturating_add(pause));
        match self.not_before.fetch_update(Relaxed, Relaxed, next) {
            Ok(_) => Some(self.unsaid.swap(0, Relaxed)),
            Err(_) => {
                self.unsaid.fetch_add(1, Relaxed);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_stands_for_many() {
        let complaint = Complaint::new();
        assert_eq!(complaint.due(), Some(0));
        assert_eq!([complaint.due(), complaint.due()], [None, None]);
        complaint.not_before.store(0, Relaxed);
        assert_eq!(complaint.due(), Some(2));
    }
}
