//! When systemd is to hear next that the service is well (sd_watchdog_enabled(3)).
//!
//! Deliberately absent: a thread of its own. It would say so while everything else of the process hangs.

use std::time::Duration;

use hotupdate_proto::timing::fixed::process::WATCHDOG_LEAST;
use tokio::time::{Interval, MissedTickBehavior, interval};

#[derive(Debug)]
pub(crate) struct Watchdog {
    within: Duration,
    half: Interval,
}

impl Watchdog {
    /// As systemd tells it to the process that it has started. One that `ExecReload=` starts is told nothing.
    pub(crate) fn of_this_process() -> Option<Self> {
        Self::within(sd_notify::watchdog_enabled()?)
    }

    /// As a predecessor tells it.
    pub(crate) fn of_predecessor(us: u64) -> Option<Self> {
        Self::within(Duration::from_micros(us))
    }

    fn within(within: Duration) -> Option<Self> {
        if within.is_zero() {
            return None;
        }
        // As sd_watchdog_enabled(3) recommends.
        let mut half = interval((within / 2).max(WATCHDOG_LEAST));
        half.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Some(Self { within, half })
    }

    /// How often systemd wants to hear of it, in microseconds.
    pub(crate) fn us(&self) -> u64 {
        u64::try_from(self.within.as_micros()).unwrap_or(u64::MAX)
    }

    /// Resolves when it is time. Safe to cancel.
    pub(crate) async fn next(&mut self) {
        self.half.tick().await;
    }
}
