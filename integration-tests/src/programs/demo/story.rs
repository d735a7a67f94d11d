//! What the demo says: a line for each handoff, then the tables; or the same as JSON lines.
//!
//! Deliberately absent: colours and terminals. The output reads the same in a log.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Duration;

use crate::load::{Kind, Latency, Report};
use crate::process::Drained;
use crate::{Handover, Serving, Way};
use serde_json::{Value, json};

/// One handoff.
#[derive(Clone, Copy)]
pub(crate) struct Line {
    pub(crate) way: Way,
    pub(crate) handover: Handover,
    pub(crate) version: &'static str,
    pub(crate) answered: u64,
    pub(crate) failed: u64,
}

/// What is known when all is over.
pub(crate) struct Ending {
    pub(crate) report: Report,
    pub(crate) drained: Vec<Drained>,
}

/// All handoffs so far.
pub(crate) struct Story {
    json: bool,
    first: Option<Serving>,
    lines: Vec<Line>,
}

impl Story {
    pub(crate) fn new(json: bool) -> Self {
        Self { json, first: None, lines: Vec::new() }
    }

    pub(crate) fn begin(&mut self, handoffs: usize, first: Serving, clients: usize) -> io::Result<()> {
        self.first = Some(first);
        if self.json {
            return say(&json!({"type": "begin", "http": first.http, "clients": clients, "pid": first.pid}));
        }
        say(&format!(
            "Process {} (v1) serves on {}, and {clients} clients keep it busy.\n\
             It will be replaced {handoffs} times. Each line is one handoff; in the gap, while no process\n\
             accepts, a client that connects waits in the kernel's queue and is not refused.\n\n\
             {:>3}  {:<15}{:>8}        {:>8}       {:>16}{:>10}{:>11}{:>8}",
            first.pid, first.http, "#", "how", "from", "to", "gap", "took", "answered", "failed"
        ))
    }

    pub(crate) fn tell(&mut self, line: Line) -> io::Result<()> {
        let before = self.version_before();
        self.lines.push(line);
        let (number, Line { way, handover, version, answered, failed }) = (self.lines.len(), line);
        let Handover { from, to, gap, took, window: _ } = handover;
        if self.json {
            return say(&json!({
                "type": "handoff", "number": number, "way": way.to_string(),
                "from": {"generation": from.generation, "pid": from.pid, "version": before},
                "to": {"generation": to.generation, "pid": to.pid, "version": version},
                "gap_ns": gap.map(|gap| gap.as_nanos()), "took_ms": took.as_millis(),
                "answered": answered, "failed": failed,
            }));
        }
        say(&format!(
            "{number:>3}  {way:<15}{:>8} ({before}) -> {:>8} ({version}){:>18}{:>10}{answered:>11}{failed:>8}",
            from.pid,
            to.pid,
            gap.map_or_else(|| "unknown".to_owned(), span),
            span(took),
        ))
    }

    /// The tables. Returns whether nothing failed.
    pub(crate) fn end(&self, ending: &Ending) -> anyhow::Result<bool> {
        let Ending { report, drained } = ending;
        let forced = drained.iter().map(|drained| drained.forced).sum::<u64>();
        let windows: Vec<_> = self.lines.iter().map(|line| line.handover.window).collect();
        let latency = report.latency(&Kind::TIMED, &windows);
        match self.json {
            true => say(&self.record(report, &latency, forced))?,
            false => self.tables(report, &latency, forced)?,
        }
        Ok(report.failed() == 0 && forced == 0)
    }

    fn tables(&self, report: &Report, latency: &Latency, forced: u64) -> io::Result<()> {
        say(&format!("\nWhat the clients saw in {:.1} s\n\n{report}", report.lasted.as_secs_f64()))?;
        say(
            &"asked: the server asked to come again (Connection: close, GOAWAY, a close frame, an end of events)",
        )?;
        say(&"crossed: was on its way when the server asked that, was not begun, and was sent again")?;
        say(&"\nWho served what\n")?;
        say(&format!("{:>10}{:>9}{:>9}{:>22}", "generation", "pid", "version", "answers with its pid"))?;
        for (serving, version, answers) in self.served(report) {
            say(&format!("{:>10}{:>9}{version:>9}{answers:>22}", serving.generation, serving.pid))?;
        }
        if let Some((median, worst)) = self.gaps() {
            say(&format!(
                "\nGap in which no process accepted: median {}, worst {}",
                span(median),
                span(worst)
            ))?;
        }
        say(&format!(
            "\n{:<24}{:>9}{:>10}{:>10}{:>10}",
            "Latency of requests", "count", "p50", "p99", "max"
        ))?;
        for (name, histogram) in
            [("outside of handoffs", &latency.outside), ("during handoffs", &latency.during)]
        {
            let [p50, p99, max] = quantiles(histogram).map(|micros| span(Duration::from_micros(micros)));
            say(&format!("{name:<24}{:>9}{p50:>10}{p99:>10}{max:>10}", histogram.len()))?;
        }
        say(&match (report.failed(), forced) {
            (0, 0) => format!("\n{} handoffs, and no client noticed.", self.lines.len()),
            (failed, forced) => {
                format!("\n{failed} requests failed; {forced} connections were closed by force.")
            }
        })
    }

    fn record(&self, report: &Report, latency: &Latency, forced: u64) -> Value {
        let kinds: BTreeMap<_, _> = report
            .kinds
            .iter()
            .map(|(kind, tally)| {
                let counts = json!({
                    "requests": tally.sent, "answered": tally.answered, "failed": tally.failed(),
                    "asked": tally.asked, "closed_idle": tally.closed_idle, "unechoed": tally.unechoed,
                    "retried": tally.retried, "connections": tally.connections, "failures": tally.texts,
                });
                (kind.to_string(), counts)
            })
            .collect();
        let served: Vec<_> = self
            .served(report)
            .into_iter()
            .map(|(serving, version, answers)| {
                let Serving { generation, pid, .. } = serving;
                json!({ "generation": generation, "pid": pid, "version": version, "answers": answers })
            })
            .collect();
        let [outside, during] = [&latency.outside, &latency.during].map(|histogram| {
            let [p50, p99, max] = quantiles(histogram);
            json!({"count": histogram.len(), "p50_us": p50, "p99_us": p99, "max_us": max})
        });
        let gap = self
            .gaps()
            .map(|(median, worst)| json!({"median": median.as_nanos(), "worst": worst.as_nanos()}));
        json!({
            "type": "report", "handoffs": self.lines.len(), "failed": report.failed(), "forced": forced,
            "clients": kinds, "served": served, "gap_ns": gap,
            "latency": {"outside_handoffs": outside, "during_handoffs": during},
        })
    }

    /// Every process with its version and its share.
    fn served(&self, report: &Report) -> Vec<(Serving, &'static str, u64)> {
        let pids = report.pids();
        let others = self.lines.iter().map(|line| (line.handover.to, line.version));
        let all = self.first.map(|first| (first, "v1")).into_iter().chain(others);
        all.map(|(serving, version)| (serving, version, pids.get(&serving.pid).copied().unwrap_or_default()))
            .collect()
    }

    /// Median and worst time in which no process accepted.
    fn gaps(&self) -> Option<(Duration, Duration)> {
        let mut gaps: Vec<_> = self.lines.iter().filter_map(|line| line.handover.gap).collect();
        gaps.sort_unstable();
        Some((*gaps.get(gaps.len() / 2)?, *gaps.last()?))
    }

    fn version_before(&self) -> &'static str {
        self.lines.last().map_or("v1", |line| line.version)
    }
}

fn quantiles(histogram: &hdrhistogram::Histogram<u64>) -> [u64; 3] {
    [histogram.value_at_quantile(0.5), histogram.value_at_quantile(0.99), histogram.max()]
}

fn span(span: Duration) -> String {
    match span.as_micros() {
        micros @ ..1000 => format!("{micros} us"),
        1000..10_000 => format!("{:.1} ms", span.as_secs_f64() * 1e3),
        micros => format!("{} ms", micros / 1000),
    }
}

/// Each line goes out at once, also into a pipe.
fn say(what: &dyn std::fmt::Display) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{what}")?;
    stdout.flush()
}
