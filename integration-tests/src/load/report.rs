//! What the load came to.
//!
//! Deliberately absent: judgement beyond one question, whether anything failed.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::tally::{Kind, Sample, Tally};

/// Latencies up to a minute, to three digits.
const LONGEST_MICROS: u64 = 60_000_000;

/// From when to when something else went on.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// Its begin.
    pub begun: Instant,
    /// Its end.
    pub ended: Instant,
}

impl Window {
    fn overlaps(&self, sample: &Sample) -> bool {
        sample.begun <= self.ended && self.begun <= sample.begun + sample.took
    }
}

/// The tallies of all clients, added up by kind.
#[derive(Clone, Debug)]
pub struct Report {
    /// What each kind counted; only kinds that had clients.
    pub kinds: BTreeMap<Kind, Tally>,
    /// From the start of the load to its end.
    pub lasted: Duration,
}

impl Report {
    pub(super) fn new(tallies: Vec<(Kind, Tally)>, begun: Instant, ended: Instant) -> Self {
        let mut kinds: BTreeMap<Kind, Tally> = BTreeMap::new();
        for (kind, tally) in tallies {
            kinds.entry(kind).or_default().merge(tally);
        }
        Self { kinds, lasted: ended - begun }
    }

    /// One count of all kinds: `report.sum(|tally| tally.sent)`.
    #[must_use]
    pub fn sum(&self, count: impl Fn(&Tally) -> u64) -> u64 {
        self.kinds.values().map(count).sum()
    }

    /// All failures.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.sum(Tally::failed)
    }

    /// Answers by process.
    #[must_use]
    pub fn pids(&self) -> BTreeMap<u32, u64> {
        add_up(self.kinds.values().map(|tally| &tally.pids))
    }

    /// Answers by version.
    #[must_use]
    pub fn versions(&self) -> BTreeMap<String, u64> {
        add_up(self.kinds.values().map(|tally| &tally.versions))
    }

    /// What the first failures of each kind said, and how often.
    #[must_use]
    pub fn texts(&self) -> Vec<String> {
        let of_kind = |(kind, tally): (&Kind, &Tally)| -> Vec<String> {
            tally.texts.iter().map(|(text, count)| format!("{count} x {kind}: {text}")).collect()
        };
        self.kinds.iter().flat_map(of_kind).collect()
    }

    /// The latency of one kind, apart for requests that ran during one of the windows.
    ///
    /// # Panics
    ///
    /// Never: the bounds of the histogram are constants.
    #[must_use]
    pub fn latency(&self, kinds: &[Kind], windows: &[Window]) -> Latency {
        let mut latency = Latency { outside: histogram(), during: histogram() };
        let samples = kinds.iter().filter_map(|kind| self.kinds.get(kind)).flat_map(|tally| &tally.samples);
        for sample in samples {
            let during = windows.iter().any(|window| window.overlaps(sample));
            let histogram = if during { &mut latency.during } else { &mut latency.outside };
            histogram.saturating_record(u64::try_from(sample.took.as_micros()).unwrap_or(LONGEST_MICROS));
        }
        latency
    }

    /// Passes if nothing failed and the books balance.
    ///
    /// # Panics
    ///
    /// Otherwise; the message is the whole report.
    #[track_caller]
    pub fn assert_nothing_failed(&self) {
        assert_eq!(self.failed(), 0, "requests failed\n{self}");
        for (kind, tally) in &self.kinds {
            assert!(tally.answered > 0, "no {kind} was answered\n{self}");
            let accounted = tally.answered + tally.failed() + tally.unechoed + tally.retried;
            assert_eq!(tally.sent, accounted, "{kind}: requests without an outcome\n{self}");
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<18}{:>9}{:>10}{:>8}{:>13}{:>9}{:>13}{:>10}",
            "client", "requests", "answered", "failed", "connections", "asked", "closed idle", "crossed"
        )?;
        for (kind, tally) in &self.kinds {
            writeln!(
                f,
                "{kind:<18}{:>9}{:>10}{:>8}{:>13}{:>9}{:>13}{:>10}",
                tally.sent,
                tally.answered,
                tally.failed(),
                tally.connections,
                tally.asked,
                tally.closed_idle,
                tally.unechoed + tally.retried
            )?;
        }
        for text in self.texts() {
            writeln!(f, "  {text}")?;
        }
        Ok(())
    }
}

/// Latencies in microseconds.
#[derive(Clone, Debug)]
pub struct Latency {
    /// Of requests that ran while nothing else went on.
    pub outside: Histogram<u64>,
    /// Of requests that ran at least partly during a window.
    pub during: Histogram<u64>,
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_max(LONGEST_MICROS, 3).expect("the bounds are good")
}

fn add_up<'a, K: Ord + Clone + 'a>(counts: impl Iterator<Item = &'a BTreeMap<K, u64>>) -> BTreeMap<K, u64> {
    let mut sums = BTreeMap::new();
    for (key, count) in counts.flatten() {
        *sums.entry(key.clone()).or_default() += count;
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_requests_during_a_window_from_others() {
        let zero = Instant::now();
        let at = |millis| zero + Duration::from_millis(millis);
        let took = Duration::from_millis(10);
        let samples = [0, 95, 150, 195, 300].map(|begun| Sample { begun: at(begun), took }).to_vec();
        let tally = Tally { samples, ..Tally::default() };
        let report = Report::new(vec![(Kind::KeepAlive, tally)], zero, at(400));
        let latency = report.latency(&[Kind::KeepAlive], &[Window { begun: at(100), ended: at(200) }]);
        assert_eq!((latency.during.len(), latency.outside.len()), (3, 2));
        assert!((9_900..=10_100).contains(&latency.during.max()));
    }

    #[test]
    #[should_panic(expected = "requests without an outcome")]
    fn books_that_do_not_balance_are_noticed() {
        let zero = Instant::now();
        let tally = Tally { sent: 3, answered: 2, ..Tally::default() };
        Report::new(vec![(Kind::Post, tally)], zero, zero).assert_nothing_failed();
    }
}
