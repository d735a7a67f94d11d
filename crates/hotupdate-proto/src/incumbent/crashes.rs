//! Successors that died soon after they took over: when the next one may try.
//!
//! Deliberately absent: deaths before a successor serves. No connection has moved to it then, and no client
//! notices.

use std::time::{Duration, Instant};

use crate::error::Refusal;
use crate::identity::Process;
use crate::message::Join;
use crate::timing::{after, millis};

/// How many times as long the longest wait is as the first.
const LONGEST: u32 = 8;

/// The deaths in a row that this process took the service over again after.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Crashes {
    /// The process that died last.
    successor: Process,
    attempt: Option<String>,
    /// How often.
    times: u32,
    /// No successor is taken before.
    until: Instant,
}

impl Crashes {
    /// One more process has died. The first in a row may be bad luck, and the next one need not wait;
    /// `backoff` is how long it has to after the second, and doubles with each further one.
    pub(super) fn one_more(
        before: Option<Self>,
        now: Instant,
        backoff: Duration,
        successor: Process,
        attempt: Option<String>,
    ) -> Self {
        let forgotten = backoff.saturating_mul(LONGEST);
        let in_a_row = before.filter(|before| now <= after(before.until, forgotten));
        let times = in_a_row.map_or(1, |before| before.times.saturating_add(1));
        let wait = match times.checked_sub(2) {
            None => Duration::ZERO,
            Some(doublings) => backoff.saturating_mul(2u32.saturating_pow(doublings).min(LONGEST)),
        };
        Self { successor, attempt, times, until: after(now, wait) }
    }

    /// Whether this successor may come now.
    pub(super) fn admit(&self, now: Instant, join: &Join) -> Result<(), Refusal> {
        let Self { successor, attempt, times, until } = self;
        // An operator's own handoff has a name. The same name again is what that operator started coming
        // again by itself.
        let is_asked_for = join.attempt.is_some() && join.attempt != *attempt;
        if is_asked_for || now >= *until {
            return Ok(());
        }
        let wait_ms = millis(*until - now);
        Err(Refusal::BackingOff { successor: successor.clone(), times: *times, wait_ms })
    }
}
