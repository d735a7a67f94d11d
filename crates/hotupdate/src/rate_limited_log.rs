//! Lines in the log that a peer can cause as often as it likes: it must not be able to fill a disk with them.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use hotupdate_proto::timing::fixed::process::LOG_PAUSE;

/// Counts the lines that are left out.
#[derive(Debug)]
pub(crate) struct RateLimitedLog {
    begun: Instant,
    /// In milliseconds from the beginning.
    not_before: AtomicU64,
    suppressed: AtomicU64,
}

/// How many lines were left out since the last one, for the end of this one.
#[derive(Debug)]
pub(crate) struct Suppressed(u64);

impl fmt::Display for Suppressed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => Ok(()),
            suppressed => write!(f, " (and {suppressed} more)"),
        }
    }
}

impl Default for RateLimitedLog {
    fn default() -> Self {
        Self { begun: Instant::now(), not_before: AtomicU64::new(0), suppressed: AtomicU64::new(0) }
    }
}

impl RateLimitedLog {
    /// Whether to write a line now.
    pub(crate) fn due(&self) -> Option<Suppressed> {
        let now = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let pause = u64::try_from(LOG_PAUSE.as_millis()).unwrap_or(u64::MAX);
        let next = |not_before| (now >= not_before).then(|| now.saturating_add(pause));
        match self.not_before.fetch_update(Relaxed, Relaxed, next) {
            Ok(_) => Some(Suppressed(self.suppressed.swap(0, Relaxed))),
            Err(_) => {
                self.suppressed.fetch_add(1, Relaxed);
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
        let log = RateLimitedLog::default();
        let due = || log.due().map(|suppressed| suppressed.to_string());
        assert_eq!([due(), due(), due()], [Some(String::new()), None, None]);
        log.not_before.store(0, Relaxed);
        assert_eq!(due().as_deref(), Some(" (and 2 more)"));
    }
}
