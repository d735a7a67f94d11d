//! What the upgrades showed, in numbers and as tables.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::load::{Kind, Outcome, Sample};
use crate::machine::MUCH;
use crate::numbers::{median, quantile};
use crate::scenario::Seen;
use crate::systems::System;
use crate::table::{NOTHING, Table, number};

/// An answer that takes longer is slow, in nanoseconds.
const SLOW: u64 = 10_000_000;

/// The first half second belongs to the start of the load.
const BEGIN: u64 = 500_000_000;

/// The host stood still for more than this share of the time that is compared: take latencies with care.
const STOOD_STILL: f64 = 0.01;

const NEW: u32 = 2;

/// One upgrade in numbers. Times are in milliseconds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Round {
    pub(crate) system: System,
    /// Requests without an answer after the upgrade was asked for.
    lost: ByKind,
    /// Those for which no connection could be opened.
    refused: usize,
    /// What became of connections that are in use: seen closed before their next request, or told to close.
    closed: usize,
    told: usize,
    idle: Idle,
    raw: Raw,
    /// What the time after it added to that before.
    added: Latencies,
    /// Answers that took longer than 10 ms in the time after it, and all of them.
    slow: usize,
    answers: usize,
    /// Answers in a second, before it and after it.
    rate_before: f64,
    rate_after: f64,
    /// Until the first answer of the new version.
    new_after: Option<f64>,
    /// Until the old process was gone; and whether it went only when the clients had ended the raw streams.
    old_gone: Option<f64>,
    old_waits: bool,
    /// How long no process accepted, in microseconds, and until the old one had no connection any more: of
    /// this project alone.
    gap_us: Option<f64>,
    moved: Option<f64>,
    /// Of connections in use that have moved, the first answer afterwards: what a request waits at most
    /// because its connection is on its way.
    first: Option<First>,
    host: Host,
}

/// What became of the idle connections: each of them counts once.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Idle {
    /// Answered by the new version, or by the old one, and open afterwards.
    new: usize,
    old: usize,
    /// Told to close with the answer, closed, or lost with their question.
    told: usize,
    closed: usize,
    lost: usize,
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Raw {
    streams: usize,
    cut: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct ByKind {
    paced: usize,
    fresh: usize,
    closed_loop: usize,
    idle: usize,
}

impl ByKind {
    fn all(self) -> usize {
        let Self { paced, fresh, closed_loop, idle } = self;
        paced + fresh + closed_loop + idle
    }
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Latencies {
    paced: Option<Added>,
    fresh: Option<Added>,
    closed_loop: Option<Added>,
    raw: Option<Added>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct First {
    median: f64,
    worst: f64,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Added {
    p99: f64,
    p999: f64,
    max: f64,
}

/// Whether the numbers can be trusted.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Host {
    /// How often it stood still, and for how long, where that was watched.
    stalls: Option<usize>,
    stalled: f64,
    /// Samples that are left out for that.
    left_out: usize,
    /// Shares of the processors: what other processes used just before, and what the host took meanwhile.
    others: f64,
    stolen: f64,
    is_disturbed: bool,
}

impl Round {
    pub(crate) fn of(seen: &Seen) -> Self {
        let all = || seen.samples.iter().filter(|sample| sample.at + sample.took >= seen.at);
        let count =
            |kind, outcome| all().filter(|sample| sample.kind == kind && sample.outcome == outcome).count();
        let busy = |outcome| {
            [Kind::Closed, Kind::Paced, Kind::Fresh].into_iter().map(|kind| count(kind, outcome)).sum()
        };
        let answered = |is_new: bool| {
            let idle =
                all().filter(|sample| (sample.kind, sample.outcome) == (Kind::Idle, Outcome::Answered));
            idle.filter(|sample| (sample.version == NEW) == is_new).count()
        };
        let is_cut = |sample: &&Sample| sample.kind == Kind::Raw && sample.outcome != Outcome::Answered;
        let new = all().filter(|sample| sample.version == NEW).map(|sample| sample.at + sample.took).min();
        let (before, after) = (seen.before(), seen.after());
        let in_use = |from: u64, until: u64| {
            let busy = |kind| matches!(kind, Kind::Closed | Kind::Paced | Kind::Fresh);
            let answers = seen.samples.iter().filter(move |sample| is_answer(sample) && busy(sample.kind));
            answers.filter(move |sample| (from..until).contains(&(sample.at + sample.took)))
        };
        let rate =
            |(from, until): (u64, u64)| in_use(from, until).count() as f64 * 1e9 / (until - from) as f64;
        let slow = |sample: &&Sample| SLOW < sample.took && !is_stalled(seen, sample);
        let added = |kind| added(seen, kind);
        Self {
            system: seen.system,
            lost: ByKind {
                paced: count(Kind::Paced, Outcome::Lost),
                fresh: count(Kind::Fresh, Outcome::Lost),
                closed_loop: count(Kind::Closed, Outcome::Lost),
                idle: count(Kind::Idle, Outcome::Lost),
            },
            refused: busy(Outcome::Refused),
            closed: busy(Outcome::ClosedBefore),
            told: busy(Outcome::Told),
            idle: Idle {
                new: answered(true),
                old: answered(false),
                told: count(Kind::Idle, Outcome::Told),
                closed: count(Kind::Idle, Outcome::ClosedBefore),
                lost: count(Kind::Idle, Outcome::Lost),
            },
            raw: Raw { streams: seen.streams, cut: all().filter(is_cut).count() },
            added: Latencies {
                paced: added(Kind::Paced),
                fresh: added(Kind::Fresh),
                closed_loop: added(Kind::Closed),
                raw: added(Kind::Raw),
            },
            slow: in_use(after.0, after.1).filter(slow).count(),
            answers: in_use(after.0, after.1).count(),
            rate_before: rate(before),
            rate_after: rate(after),
            new_after: new.map(|new| millis(new - seen.at)),
            old_gone: seen.gone.map(|gone| gone.as_secs_f64() * 1e3),
            old_waits: seen.streams > 0 && seen.gone.is_some_and(|gone| seen.times.release <= gone),
            gap_us: seen.own.and_then(|own| own.gap).map(|gap| gap.as_secs_f64() * 1e6),
            moved: seen.own.and_then(|own| own.moved).map(|moved| moved.as_secs_f64() * 1e3),
            first: First::of(seen),
            host: Host::of(seen),
        }
    }

    pub(crate) fn has_cut_streams(&self) -> bool {
        self.raw.cut > 0
    }
}

impl First {
    fn of(seen: &Seen) -> Option<Self> {
        let has_moved = |sample: &&Sample| sample.has_moved && sample.kind != Kind::Idle && is_answer(sample);
        let moved = seen.samples.iter().filter(has_moved).filter(|sample| !is_stalled(seen, sample));
        let mut all: Vec<_> = moved.map(|sample| millis(sample.took)).collect();
        all.sort_by(f64::total_cmp);
        Some(Self { median: quantile(&all, 0.5)?, worst: quantile(&all, 1.0)? })
    }
}

impl Host {
    fn of(seen: &Seen) -> Self {
        let (from, until) = (seen.before().0, seen.after().1);
        let stalls = seen.stalls.as_deref().unwrap_or_default();
        let within =
            |stall: &std::ops::Range<u64>| stall.end.min(until).saturating_sub(stall.start.max(from));
        let stalled: u64 = stalls.iter().map(within).sum();
        let share = stalled as f64 / (until - from) as f64;
        Self {
            stalls: seen.stalls.as_ref().map(Vec::len),
            stalled: millis(stalled),
            left_out: seen.samples.iter().filter(|sample| is_stalled(seen, sample)).count(),
            others: seen.others,
            stolen: seen.stolen,
            is_disturbed: STOOD_STILL < share || MUCH < seen.others || MUCH < seen.stolen,
        }
    }
}

impl Seen {
    /// What is compared, in nanoseconds: the time before the upgrade, and that after it.
    fn before(&self) -> (u64, u64) {
        (self.at - nanos(self.times.before) + BEGIN, self.at)
    }

    fn after(&self) -> (u64, u64) {
        (self.at, self.at + nanos(self.times.after))
    }
}

fn millis(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e6
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn is_answer(sample: &Sample) -> bool {
    matches!(sample.outcome, Outcome::Answered | Outcome::Told)
}

/// Whether the machine stood still while this request was under way.
pub(crate) fn is_stalled(seen: &Seen, sample: &Sample) -> bool {
    let stalls = seen.stalls.as_deref().unwrap_or_default();
    stalls.iter().any(|stall| sample.at < stall.end && stall.start < sample.at + sample.took)
}

/// Latencies of answers to requests of this time, in milliseconds, sorted.
fn latencies(seen: &Seen, kind: Kind, (from, until): (u64, u64)) -> Vec<f64> {
    let fits = |sample: &&Sample| {
        let is_then = (from..until).contains(&sample.at);
        sample.kind == kind && is_then && is_answer(sample) && !is_stalled(seen, sample)
    };
    let mut all: Vec<_> = seen.samples.iter().filter(fits).map(|sample| millis(sample.took)).collect();
    all.sort_by(f64::total_cmp);
    all
}

fn added(seen: &Seen, kind: Kind) -> Option<Added> {
    let (before, after) = (latencies(seen, kind, seen.before()), latencies(seen, kind, seen.after()));
    let added = |q| Some(quantile(&after, q)? - quantile(&before, q)?);
    Some(Added { p99: added(0.99)?, p999: added(0.999)?, max: added(1.0)? })
}

// ---- tables -----------------------------------------------------------------------------------------------

/// The rounds of one system.
struct Rounds<'a>(Vec<&'a Round>);

impl<'a> Rounds<'a> {
    /// Of every system that was measured.
    fn all(rounds: &'a [Round]) -> impl Iterator<Item = (System, Self)> {
        let of = |system| rounds.iter().filter(move |round| round.system == system).collect::<Vec<_>>();
        System::ALL
            .into_iter()
            .map(move |system| (system, Self(of(system))))
            .filter(|(_, of)| !of.0.is_empty())
    }

    fn sum(&self, of: impl Fn(&Round) -> usize) -> usize {
        self.0.iter().map(|round| of(round)).sum()
    }

    fn median(&self, of: impl Fn(&Round) -> Option<f64>) -> Option<f64> {
        median(self.0.iter().filter_map(|round| of(round)))
    }

    fn added(&self, of: impl Fn(&Latencies) -> Option<Added>) -> String {
        let one = |which: fn(Added) -> f64| self.median(|round| of(&round.added).map(which));
        match (one(|added| added.p99), one(|added| added.p999), one(|added| added.max)) {
            (Some(p99), Some(p999), Some(max)) => format!("{p99:+.1} / {p999:+.1} / {max:+.1}"),
            _ => NOTHING.to_owned(),
        }
    }

    fn time(&self, of: impl Fn(&Round) -> Option<f64>) -> String {
        match self.median(of) {
            Some(millis) if millis >= 1e3 => format!("{:.1} s", millis / 1e3),
            Some(millis) => format!("{millis:.0} ms"),
            None => NOTHING.to_owned(),
        }
    }

    fn old_gone(&self) -> String {
        if self.0.iter().any(|round| round.old_waits) {
            return "its last stream".to_owned();
        }
        self.time(|round| round.old_gone)
    }

    /// Requests that were lost, and whose they were.
    fn lost(&self) -> String {
        let of = |of: fn(&ByKind) -> usize| self.sum(|round| of(&round.lost));
        let kinds = [
            (of(|lost| lost.paced), "paced"),
            (of(|lost| lost.fresh), "fresh"),
            (of(|lost| lost.closed_loop), "closed loop"),
            (of(|lost| lost.idle), "idle"),
        ];
        let kinds: Vec<_> =
            kinds.iter().filter(|(n, _)| *n > 0).map(|(n, kind)| format!("{n} {kind}")).collect();
        let all = self.sum(|round| round.lost.all());
        if kinds.is_empty() { all.to_string() } else { format!("**{all}** ({})", kinds.join(", ")) }
    }

    /// What became of the idle connections.
    fn idle(&self) -> String {
        let of = |of: fn(&Idle) -> usize| self.sum(|round| of(&round.idle));
        let fates = [
            (of(|idle| idle.new), "in the new version"),
            (of(|idle| idle.old), "in the old one"),
            (of(|idle| idle.told), "told to close"),
            (of(|idle| idle.closed), "closed"),
            (of(|idle| idle.lost), "lost"),
        ];
        let all: usize = fates.iter().map(|(n, _)| n).sum();
        let fates: Vec<_> = fates.iter().filter(|(n, _)| *n > 0).collect();
        match &fates[..] {
            [] => NOTHING.to_owned(),
            [(_, fate)] => format!("all {all} {fate}"),
            _ => fates.iter().map(|(n, fate)| format!("{n} {fate}")).collect::<Vec<_>>().join(", "),
        }
    }

    fn raw(&self) -> String {
        match self.sum(|round| round.raw.streams) {
            0 => NOTHING.to_owned(),
            all => format!("{} of {all}", self.sum(|round| round.raw.cut)),
        }
    }

    fn slow(&self) -> String {
        format!("{} of {}", self.sum(|round| round.slow), self.sum(|round| round.answers))
    }
}

/// Everything.
pub(crate) fn tables(rounds: &[Round]) -> String {
    let mut clients = Table::new(&[
        "requests and connections",
        "upgrades",
        "requests lost",
        "refused",
        "in use: told to close",
        "in use: closed",
        "idle connections",
        "raw streams cut",
    ]);
    let mut latency = Table::new(&[
        "added latency (ms): p99 / p99.9 / worst",
        "paced",
        "fresh",
        "closed loop",
        "raw",
        "slower than 10 ms",
        "answers in a second, before",
        "after",
    ]);
    let mut times = Table::new(&[
        "times",
        "new version answers after",
        "old process gone after",
        "hotupdate alone: no process accepts for (µs)",
        "all connections moved after",
        "their first answers (ms): median",
        "worst",
    ]);
    let mut host = Table::new(&[
        "host",
        "times it stood still",
        "for (ms)",
        "samples left out",
        "others used before",
        "host took",
    ]);
    for (system, of) in Rounds::all(rounds) {
        let name = || system.name().to_owned();
        clients.row([
            name(),
            of.0.len().to_string(),
            of.lost(),
            of.sum(|round| round.refused).to_string(),
            of.sum(|round| round.told).to_string(),
            of.sum(|round| round.closed).to_string(),
            of.idle(),
            of.raw(),
        ]);
        latency.row([
            name(),
            of.added(|added| added.paced),
            of.added(|added| added.fresh),
            of.added(|added| added.closed_loop),
            of.added(|added| added.raw),
            of.slow(),
            number(of.median(|round| Some(round.rate_before)), 0),
            number(of.median(|round| Some(round.rate_after)), 0),
        ]);
        if system != System::Control {
            times.row([
                name(),
                of.time(|round| round.new_after),
                of.old_gone(),
                number(of.median(|round| round.gap_us), 0),
                of.time(|round| round.moved),
                number(of.median(|round| Some(round.first?.median)), 1),
                number(of.0.iter().filter_map(|round| Some(round.first?.worst)).reduce(f64::max), 1),
            ]);
        }
        let most = |of: &Rounds<'_>, share: fn(&Host) -> f64| {
            of.0.iter().map(|round| share(&round.host)).fold(0.0, f64::max) * 100.0
        };
        let watched = of.0.iter().all(|round| round.host.stalls.is_some());
        let stalls = of.sum(|round| round.host.stalls.unwrap_or(0));
        host.row([
            name(),
            if watched { stalls.to_string() } else { NOTHING.to_owned() },
            number(watched.then(|| of.0.iter().map(|round| round.host.stalled).sum()), 0),
            of.sum(|round| round.host.left_out).to_string(),
            format!("{:.0} %", most(&of, |host| host.others)),
            format!("{:.0} %", most(&of, |host| host.stolen)),
        ]);
    }
    format!("{clients}\n{latency}\n{times}\n{host}")
}

/// The table of the README.
pub(crate) fn summary(rounds: &[Round]) -> String {
    let mut table = Table::new(&[
        "",
        "requests lost",
        "idle connections",
        "raw streams cut",
        "added latency, paced (ms): p99 / p99.9 / worst",
        "slower than 10 ms",
        "new version answers after",
        "old process gone after",
    ]);
    for (system, of) in Rounds::all(rounds) {
        let refused = of.sum(|round| round.refused);
        let refused = if refused > 0 { format!(", {refused} refused") } else { String::new() };
        table.row([
            system.name().to_owned(),
            format!("{}{refused}", of.lost()),
            of.idle(),
            of.raw(),
            of.added(|added| added.paced),
            of.slow(),
            of.time(|round| round.new_after),
            of.old_gone(),
        ]);
    }
    table.to_string()
}

/// What became of most idle connections, in a word or two.
pub(crate) fn idle(rounds: &[Round]) -> Option<&'static str> {
    let of = |of: fn(&Idle) -> usize| rounds.iter().map(|round| of(&round.idle)).sum::<usize>();
    let fates = [
        (of(|idle| idle.new), "moved"),
        (of(|idle| idle.old), "stay"),
        (of(|idle| idle.told), "told to close"),
        (of(|idle| idle.closed), "closed"),
        (of(|idle| idle.lost), "lost"),
    ];
    fates.into_iter().max().filter(|(n, _)| *n > 0).map(|(_, fate)| fate)
}

/// How many rounds were disturbed, and of how many.
pub(crate) fn disturbed(rounds: &[Round]) -> (usize, usize) {
    (rounds.iter().filter(|round| round.host.is_disturbed).count(), rounds.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Times;

    const SECOND: u64 = 1_000_000_000;
    const AT: u64 = 10 * SECOND;

    fn sample(at: u64, took: u64, version: u32) -> Sample {
        Sample { kind: Kind::Paced, outcome: Outcome::Answered, at, took, version, has_moved: false }
    }

    fn seen(stalls: Vec<std::ops::Range<u64>>) -> Seen {
        let mut samples: Vec<_> =
            (0..1_000).map(|n| sample(AT - 2 * SECOND + n * 1_000_000, 1_000_000, 1)).collect();
        samples.extend((0..1_000).map(|n| sample(AT + n * 1_000_000, 3_000_000, 2)));
        samples.push(Sample { outcome: Outcome::Lost, ..sample(AT + 5, 1, 0) });
        samples.push(Sample { outcome: Outcome::Lost, ..sample(AT - SECOND, 1, 0) });
        let second = Duration::from_secs(1);
        let times =
            Times { before: 3 * second, after: 2 * second, ask: second, release: second, gone: second };
        Seen {
            system: System::Hotupdate,
            samples,
            at: AT,
            times,
            streams: 0,
            gone: Some(3 * second),
            stalls: Some(stalls),
            others: 0.0,
            stolen: 0.0,
            own: None,
        }
    }

    #[test]
    fn what_an_upgrade_adds_and_loses() {
        let round = Round::of(&seen(Vec::new()));
        assert_eq!((round.lost, round.refused), (ByKind { paced: 1, ..ByKind::default() }, 0));
        assert_eq!((round.host.left_out, round.new_after, round.slow), (0, Some(3.0), 0));
        let Added { p99, p999, max } = round.added.paced.unwrap();
        assert!([p99, p999, max].iter().all(|added| (added - 2.0).abs() < 1e-9), "{p99} {p999} {max}");
        assert!(round.added.fresh.is_none() && !round.host.is_disturbed);
        let table = tables(&[round]);
        assert!(table.contains("| hotupdate | 1 | **1** (1 paced) | 0 |"), "{table}");
        assert!(!table.contains("raw streams"), "there were none: {table}");
    }

    #[test]
    fn samples_of_a_stall_are_left_out_but_what_is_lost_counts() {
        let stall = AT..AT + SECOND / 2;
        let round = Round::of(&seen(vec![stall]));
        assert_eq!((round.lost.all(), round.host.left_out), (1, 501));
        assert!(round.host.is_disturbed);
    }

    #[test]
    fn slow_answers_count_and_those_of_idle_connections_have_one_fate_each() {
        let mut seen = seen(Vec::new());
        seen.samples.push(sample(AT + 7, SLOW + 1, 2));
        let idle = |outcome, version| Sample { kind: Kind::Idle, outcome, ..sample(AT + 9, 1, version) };
        for (outcome, version) in
            [(Outcome::Answered, 1), (Outcome::Answered, 2), (Outcome::Told, 1), (Outcome::ClosedBefore, 0)]
        {
            seen.samples.push(idle(outcome, version));
        }
        let round = Round::of(&seen);
        assert_eq!((round.slow, round.closed, round.told), (1, 0, 0));
        let Idle { new, old, told, closed, lost } = round.idle;
        assert_eq!((new, old, told, closed, lost), (1, 1, 1, 1, 0));
    }
}
