//! What the upgrades showed, as a table and as JSON.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::load::{Kind, Outcome, Sample};
use crate::numbers::{median, quantile};
use crate::scenario::Seen;
use crate::systems::System;

/// One upgrade in numbers. Times are in milliseconds.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Round {
    pub(crate) system: System,
    /// Requests without an answer after the upgrade was asked for, and those for which no connection could be
    /// opened.
    lost: usize,
    refused: usize,
    /// Connections that were seen closed before their next request, and those that were told to close.
    closed_before: usize,
    told: usize,
    idle: Idle,
    raw_cut: usize,
    /// What the two seconds after it added to those before: p99 and p99.9.
    paced: Option<(f64, f64)>,
    fresh: Option<(f64, f64)>,
    closed_loop: Option<(f64, f64)>,
    raw: Option<(f64, f64)>,
    /// Until the first answer of the new version.
    new_after: Option<f64>,
    /// Until the old process was gone.
    old_gone: Option<f64>,
    /// Samples left out because the machine stood still, and how often it did.
    left_out: usize,
    stalls: Option<usize>,
}

/// What became of the idle connections.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Idle {
    /// Answered by the new version, or by the old one.
    new: usize,
    old: usize,
    /// Closed before they asked again, lost with their question, or told to close with the answer.
    closed: usize,
    lost: usize,
    told: usize,
}

const NEW: u32 = 2;

impl Round {
    pub(crate) fn of(seen: &Seen) -> Self {
        let after = |sample: &&Sample| sample.at + sample.took >= seen.at;
        let all = || seen.samples.iter().filter(after);
        let count =
            |outcome| all().filter(|sample| sample.outcome == outcome && sample.kind != Kind::Raw).count();
        let idle = |wanted: fn(&Sample) -> bool| {
            all().filter(|sample| sample.kind == Kind::Idle && wanted(sample)).count()
        };
        let new = all().filter(|sample| sample.version == NEW).map(|sample| sample.at + sample.took).min();
        Self {
            system: seen.system,
            lost: count(Outcome::Lost),
            refused: count(Outcome::Refused),
            closed_before: count(Outcome::ClosedBefore),
            told: count(Outcome::Told),
            idle: Idle {
                new: idle(|sample| sample.outcome == Outcome::Answered && sample.version == NEW),
                old: idle(|sample| sample.outcome == Outcome::Answered && sample.version != NEW),
                closed: idle(|sample| sample.outcome == Outcome::ClosedBefore),
                lost: idle(|sample| sample.outcome == Outcome::Lost),
                told: idle(|sample| sample.outcome == Outcome::Told),
            },
            raw_cut: all()
                .filter(|sample| sample.kind == Kind::Raw && sample.outcome != Outcome::Answered)
                .count(),
            paced: added(seen, Kind::Paced),
            fresh: added(seen, Kind::Fresh),
            closed_loop: added(seen, Kind::Closed),
            raw: added(seen, Kind::Raw),
            new_after: new.map(|new| millis(new - seen.at)),
            old_gone: seen.gone.map(|gone| gone.as_secs_f64() * 1e3),
            left_out: seen.samples.iter().filter(|sample| stalled(seen, sample)).count(),
            stalls: seen.stalls.as_ref().map(Vec::len),
        }
    }
}

fn millis(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e6
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Whether the machine stood still while this request was under way.
fn stalled(seen: &Seen, sample: &Sample) -> bool {
    let stalls = seen.stalls.as_deref().unwrap_or_default();
    stalls.iter().any(|stall| sample.at < stall.end && stall.start < sample.at + sample.took)
}

/// Latencies of answers to requests of this time, in milliseconds, sorted.
fn latencies(seen: &Seen, kind: Kind, from: u64, until: u64) -> Vec<f64> {
    let fits = |sample: &&Sample| {
        sample.kind == kind
            && (from..until).contains(&sample.at)
            && matches!(sample.outcome, Outcome::Answered | Outcome::Told)
            && !stalled(seen, sample)
    };
    let mut all: Vec<_> = seen.samples.iter().filter(fits).map(|sample| millis(sample.took)).collect();
    all.sort_by(f64::total_cmp);
    all
}

fn added(seen: &Seen, kind: Kind) -> Option<(f64, f64)> {
    let Seen { at, times, .. } = seen;
    // The first half second belongs to the start of the load.
    let before = latencies(seen, kind, at - nanos(times.before) + 500_000_000, *at);
    let after = latencies(seen, kind, *at, at + nanos(times.after));
    let added = |q| Some(quantile(&after, q)? - quantile(&before, q)?);
    Some((added(0.99)?, added(0.999)?))
}

/// The medians of all rounds, and what they lost together.
pub(crate) struct Table<'a> {
    pub(crate) rounds: &'a [Round],
    pub(crate) missing: &'a [(System, String)],
}

fn pair(rounds: &[&Round], of: impl Fn(&Round) -> Option<(f64, f64)>) -> String {
    let one = |which: fn((f64, f64)) -> f64| median(rounds.iter().filter_map(|round| of(round).map(which)));
    match (one(|(p99, _)| p99), one(|(_, p999)| p999)) {
        (Some(p99), Some(p999)) => format!("{p99:+.1} / {p999:+.1}"),
        _ => "–".to_owned(),
    }
}

fn one(rounds: &[&Round], of: impl Fn(&Round) -> Option<f64>) -> String {
    match median(rounds.iter().filter_map(|round| of(round))) {
        Some(millis) if millis >= 1e3 => format!("{:.1} s", millis / 1e3),
        Some(millis) => format!("{millis:.0} ms"),
        None => "–".to_owned(),
    }
}

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "| | upgrades | lost | refused | told to close, closed before use | idle: in the new version, in the \
             old, closed, lost, told | raw streams cut | added p99 / p99.9: paced (ms) | fresh | closed loop | \
             raw | new version after | old process gone |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|"
        )?;
        for system in System::ALL {
            let rounds: Vec<_> = self.rounds.iter().filter(|round| round.system == system).collect();
            if rounds.is_empty() {
                continue;
            }
            let sum = |of: fn(&Round) -> usize| rounds.iter().map(|round| of(round)).sum::<usize>();
            writeln!(
                f,
                "| {} | {} | {} | {} | {}, {} | {}, {}, {}, {}, {} | {} | {} | {} | {} | {} | {} | {} |",
                system.name(),
                rounds.len(),
                sum(|round| round.lost),
                sum(|round| round.refused),
                sum(|round| round.told),
                sum(|round| round.closed_before),
                sum(|round| round.idle.new),
                sum(|round| round.idle.old),
                sum(|round| round.idle.closed),
                sum(|round| round.idle.lost),
                sum(|round| round.idle.told),
                sum(|round| round.raw_cut),
                pair(&rounds, |round| round.paced),
                pair(&rounds, |round| round.fresh),
                pair(&rounds, |round| round.closed_loop),
                pair(&rounds, |round| round.raw),
                one(&rounds, |round| round.new_after),
                one(&rounds, |round| round.old_gone),
            )?;
        }
        let left_out: usize = self.rounds.iter().map(|round| round.left_out).sum();
        match self.rounds.iter().map(|round| round.stalls).sum::<Option<usize>>() {
            Some(stalls) => {
                writeln!(f, "\nThe host stood still {stalls} times; {left_out} samples are left out.")?
            }
            None => {
                writeln!(f, "\nNot watched: whether the host stood still (no real-time thread is allowed).")?
            }
        }
        for (system, why) in self.missing {
            writeln!(f, "Not measured: {}: {why}.", system.name())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::scenario::Times;

    fn seen(stalls: Vec<std::ops::Range<u64>>) -> Seen {
        let second = 1_000_000_000;
        let at = 10 * second;
        let sample = |at: u64, took: u64, version| Sample {
            kind: Kind::Paced,
            outcome: Outcome::Answered,
            at,
            took,
            version,
        };
        let mut samples: Vec<_> =
            (0..1_000).map(|n| sample(at - 2 * second + n * 1_000_000, 1_000_000, 1)).collect();
        samples.extend((0..1_000).map(|n| sample(at + n * 1_000_000, 3_000_000, 2)));
        samples.push(Sample { outcome: Outcome::Lost, ..sample(at + 5, 1, 0) });
        samples.push(Sample { outcome: Outcome::Lost, ..sample(at - second, 1, 0) });
        let (before, after) = (Duration::from_secs(3), Duration::from_secs(2));
        let times = Times { before, after, gone: after };
        Seen { system: System::Hotupdate, samples, at, times, gone: Some(before), stalls: Some(stalls) }
    }

    #[test]
    fn what_an_upgrade_adds_and_loses() {
        let round = Round::of(&seen(Vec::new()));
        assert_eq!((round.lost, round.left_out, round.new_after), (1, 0, Some(3.0)));
        let (p99, p999) = round.paced.unwrap();
        assert!((p99 - 2.0).abs() < 1e-9 && (p999 - 2.0).abs() < 1e-9, "{p99} {p999}");
        assert_eq!(round.fresh, None);
    }

    #[test]
    fn samples_of_a_stall_are_left_out_but_what_is_lost_counts() {
        let second = 1_000_000_000;
        let stall = 10 * second..10 * second + 500_000_000;
        let round = Round::of(&seen(vec![stall]));
        assert_eq!((round.lost, round.left_out), (1, 501));
    }
}
