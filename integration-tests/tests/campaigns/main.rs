//! Many faults, many handoffs, many callers. Each of these wants the machine for itself, so they run one
//! after the other.

#![cfg(target_os = "linux")]

mod abuse;
mod crash;
mod endurance;
mod tls;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Returns when no other test of this program runs, and keeps the others waiting until it is dropped.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}
