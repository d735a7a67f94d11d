//! What happened to the service lately, for operators that ask afterwards.
//!
//! Deliberately absent: handoffs that went well, and progress. Who serves and since when is in the status
//! anyway.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use hotupdate_proto::Generation;
use hotupdate_proto::operator::{MAX_HISTORY, PastEvent};

use super::status::millis_since;

/// The kinds of events that are remembered.
const REMEMBERED: [&str; 5] = ["failed", "rolled_back", "took_over", "lost", "stepped_in"];

/// The last events, newest first. It goes with the service, from each process that serves to the next.
#[derive(Debug, Default)]
pub(super) struct History {
    events: VecDeque<(Instant, PastEvent)>,
}

impl History {
    /// What another process remembers.
    pub(super) fn from_events(events: &[PastEvent]) -> Self {
        let now = Instant::now();
        // A time before the start of the machine is as good as its start.
        let at = |event: &PastEvent| now.checked_sub(Duration::from_millis(event.ago_ms)).unwrap_or(now);
        let event = |event: &PastEvent| {
            (at(event), PastEvent::new(&event.kind, event.generation, &event.text, event.ago_ms))
        };
        Self { events: events.iter().take(MAX_HISTORY).map(event).collect() }
    }

    /// Something happened, and is remembered if it is of a kind that is.
    pub(super) fn add(&mut self, kind: &str, generation: Generation, text: &str) {
        if REMEMBERED.contains(&kind) {
            self.events.truncate(MAX_HISTORY - 1);
            self.events.push_front((Instant::now(), PastEvent::new(kind, generation, text, 0)));
        }
    }

    pub(super) fn events(&self) -> Vec<PastEvent> {
        let aged = |(at, event): &(Instant, PastEvent)| {
            let mut event = event.clone();
            event.ago_ms = millis_since(*at);
            event
        };
        self.events.iter().map(aged).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_events_are_remembered_and_passed_on() {
        let mut history = History::default();
        history.add("progress", Generation(1), "it goes on");
        assert_eq!(history.events(), []);
        for number in 0..MAX_HISTORY as u64 + 2 {
            history.add("failed", Generation(number), &"x".repeat(10_000));
        }
        let events = history.events();
        assert_eq!((events.len(), events[0].generation), (MAX_HISTORY, Generation(MAX_HISTORY as u64 + 1)));
        assert!(events[0].text.len() < 1000, "a long text is cut off");

        let mut old = PastEvent::new("lost", Generation(3), "it died", 90_000);
        let next = History::from_events(&[events, vec![old.clone()]].concat());
        assert_eq!(next.events().len(), MAX_HISTORY, "no list is without a limit");
        let next = History::from_events(std::slice::from_ref(&old)).events();
        assert!((90_000..100_000).contains(&next[0].ago_ms), "{next:?}");
        old.ago_ms = u64::MAX;
        assert_eq!(History::from_events(&[old]).events().len(), 1);
    }
}
