//! What a running load has counted so far, to be looked at from outside.
//!
//! Deliberately absent: everything that the report tells at the end. These are two numbers per kind, not a
//! second bookkeeping.

use std::sync::atomic::{AtomicU64, Ordering};

use super::tally::Kind;

/// Counts that grow while the load runs.
#[derive(Debug, Default)]
pub struct Progress {
    answered: [AtomicU64; Kind::ALL.len()],
    failed: [AtomicU64; Kind::ALL.len()],
}

impl Progress {
    /// Requests of this kind that were answered.
    #[must_use]
    pub fn answered(&self, kind: Kind) -> u64 {
        self.answered[kind as usize].load(Ordering::Relaxed)
    }

    /// Requests of all kinds that were answered.
    #[must_use]
    pub fn all_answered(&self) -> u64 {
        Kind::ALL.iter().map(|kind| self.answered(*kind)).sum()
    }

    /// Requests of all kinds that failed.
    #[must_use]
    pub fn all_failed(&self) -> u64 {
        self.failed.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    pub(super) fn count_answered(&self, kind: Kind) {
        self.answered[kind as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_failed(&self, kind: Kind) {
        self.failed[kind as usize].fetch_add(1, Ordering::Relaxed);
    }
}
