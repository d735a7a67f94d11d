//! When a connection was accepted, by a wall clock that may be set meanwhile: an age stays an age.
//!
//! Deliberately absent: deadlines. They know nothing of wall clocks.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// The two clocks are read one after the other, and the wall clock is slewed all the time: only more than this is a step.
const NOISE_MS: u64 = 1000;

/// A moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Accepted {
    /// In milliseconds since the Unix epoch, by the clock as it was.
    wall_ms: u64,
    steady: Instant,
}

impl Accepted {
    pub(crate) fn now() -> Self {
        Self { wall_ms: wall_ms(), steady: Instant::now() }
    }

    /// As another process said, just now.
    pub(crate) fn at(wall_ms: u64) -> Self {
        let age = Duration::from_millis(self::wall_ms().saturating_sub(wall_ms));
        let now = Instant::now();
        Self { wall_ms, steady: now.checked_sub(age).unwrap_or(now) }
    }

    /// By the clock as it is.
    pub(crate) fn ms(self) -> u64 {
        let age = u64::try_from(self.steady.elapsed().as_millis()).unwrap_or(u64::MAX);
        let now = wall_ms().saturating_sub(age);
        if now.abs_diff(self.wall_ms) < NOISE_MS { self.wall_ms } else { now }
    }
}

fn wall_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}
