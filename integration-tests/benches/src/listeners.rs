//! What it costs to pass listeners to the next version, beside what the kernel alone takes.

use std::time::Duration;

use integration_tests::Sandbox;
use serde::Serialize;
use serde_json::json;

use crate::floor;
use crate::gap::last_handoff;
use crate::growth::{self, Curve};
use crate::numbers::median;
use crate::process::{Clock, raise_limit, server, used_until_gone};
use crate::results::Findings;
use crate::say;
use crate::table::{Table, number};

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Listeners {
    /// How many listeners.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 10, 100, 1_000, 3_000])]
    listeners: Vec<usize>,
    /// Times that each is measured; the medians are told.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

/// The medians for one number of listeners. Processor time is that of both processes.
#[derive(Clone, Copy, Debug, Serialize)]
struct Row {
    listeners: usize,
    gap_us: Option<f64>,
    handoff_ms: Option<f64>,
    processor_ms: Option<f64>,
    floor_ms: Option<f64>,
}

impl Listeners {
    pub(crate) fn all(rounds: usize, is_quick: bool) -> Self {
        let listeners = if is_quick { vec![1, 1_000] } else { vec![1, 10, 100, 1_000, 3_000] };
        Self { listeners, rounds: if is_quick { 1 } else { rounds } }
    }

    pub(crate) fn run(&self) -> anyhow::Result<Findings> {
        raise_limit()?;
        let mut rows = Vec::new();
        for &listeners in &self.listeners {
            say(&format!("listeners: {listeners}"))?;
            let rounds = (0..self.rounds).map(|_| round(listeners)).collect::<Result<Vec<_>, _>>()?;
            let of = |of: fn(&Round) -> Duration, times: f64| {
                median(rounds.iter().map(|round| of(round).as_secs_f64() * times))
            };
            rows.push(Row {
                listeners,
                gap_us: of(|round| round.gap, 1e6),
                handoff_ms: of(|round| round.handoff, 1e3),
                processor_ms: of(|round| round.processor, 1e3),
                floor_ms: of(|round| round.floor, 1e3),
            });
        }
        let mut table = Table::new(&[
            "listeners",
            "no process accepts for (µs)",
            "the whole handoff (ms)",
            "processor time of both (ms)",
            "floor (ms)",
        ]);
        for Row { listeners, gap_us, handoff_ms, processor_ms, floor_ms } in &rows {
            table.row([
                listeners.to_string(),
                number(*gap_us, 0),
                number(*handoff_ms, 1),
                number(*processor_ms, 1),
                number(*floor_ms, 2),
            ]);
        }
        Ok(Findings {
            name: "listeners",
            title: "Passing listeners to the next version",
            text: table.to_string(),
            plot: (rows.len() > 1).then(|| plot(&rows)),
            figures: json!({ "rounds": self.rounds, "rows": rows }),
            disturbed: None,
        })
    }
}

fn plot(rows: &[Row]) -> String {
    let points = |millis: fn(&Row) -> Option<f64>| {
        rows.iter().filter_map(|row| Some((row.listeners as f64, millis(row)?))).collect()
    };
    growth::draw(
        "Passing listeners on",
        &[
            Curve { name: "the whole handoff", class: "time", points: points(|row| row.handoff_ms) },
            Curve {
                name: "no process accepts",
                class: "lost",
                points: points(|row| Some(row.gap_us? / 1e3)),
            },
            Curve { name: "the kernel alone", class: "floor", points: points(|row| row.floor_ms) },
        ],
    )
}

struct Round {
    gap: Duration,
    handoff: Duration,
    /// Of the old process from the start of the new one to its own end, and of the new one in all.
    processor: Duration,
    floor: Duration,
}

fn round(listeners: usize) -> anyhow::Result<Round> {
    let floor = floor::pass(listeners)?.took;
    let sandbox = Sandbox::new();
    // The server has one without that.
    let more = listeners.saturating_sub(1).to_string();
    let arguments = ["--probation", "0", "--listeners", &more];
    let old = server(&sandbox, 1, &arguments)?;
    old.wait_serving();
    let before = Clock::of(old.pid())?.settled()?;
    let new = server(&sandbox, 2, &arguments)?;
    new.wait_serving();
    let (gap, handoff) = last_handoff(&sandbox, new.pid())?;
    let old_used = used_until_gone(&old)? - before;
    let new_used = Clock::of(new.pid())?.settled()?;
    Ok(Round { gap, handoff, processor: old_used + new_used, floor })
}
