//! How long no process accepts: one handoff after the other, beside one round trip between two processes.

use std::time::Duration;

use anyhow::Context as _;
use integration_tests::{SOON, Sandbox, Status, eventually};
use serde::Serialize;
use serde_json::json;

use crate::floor;
use crate::numbers::quantile;
use crate::process::server;
use crate::results::Findings;
use crate::say;
use crate::table::{Table, number};

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Gap {
    /// How many handoffs.
    #[arg(long, default_value_t = 1_000)]
    handoffs: usize,
}

/// In microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
struct Spread {
    median: f64,
    p99: f64,
    worst: f64,
}

impl Spread {
    fn of(all: &[Duration]) -> anyhow::Result<Self> {
        let mut micros: Vec<_> = all.iter().map(|one| one.as_secs_f64() * 1e6).collect();
        micros.sort_by(f64::total_cmp);
        let at = |q| quantile(&micros, q).context("nothing was measured");
        Ok(Self { median: at(0.5)?, p99: at(0.99)?, worst: at(1.0)? })
    }
}

impl Gap {
    pub(crate) fn all(is_quick: bool) -> Self {
        Self { handoffs: if is_quick { 200 } else { 1_000 } }
    }

    pub(crate) fn run(&self) -> anyhow::Result<Findings> {
        say(&format!("gap: {} handoffs", self.handoffs))?;
        let (gaps, handoffs) = self.handoffs()?;
        let rows = [
            ("no process accepts", Spread::of(&gaps)?),
            ("floor: one round trip over a socket pair", Spread::of(&floor::round_trips(self.handoffs)?)?),
            ("the whole handoff, from the request to join", Spread::of(&handoffs)?),
        ];
        let mut table = Table::new(&["µs", "median", "p99", "worst"]);
        for (name, Spread { median, p99, worst }) in &rows {
            let cells = [median, p99, worst].map(|value| number(Some(*value), 0));
            table.row([(*name).to_owned()].into_iter().chain(cells));
        }
        let [(_, gap), (_, floor), (_, handoff)] = rows;
        Ok(Findings {
            name: "gap",
            title: "The gap in which no process accepts",
            text: format!(
                "{table}\nOf {} handoffs of a process with one listener, one after the other.\n",
                self.handoffs
            ),
            figures: json!({
                "handoffs": self.handoffs, "gap_us": gap, "floor_us": floor, "handoff_us": handoff,
            }),
            plot: None,
            disturbed: None,
        })
    }

    /// The gap of each handoff, and how long all of it took.
    fn handoffs(&self) -> anyhow::Result<(Vec<Duration>, Vec<Duration>)> {
        let sandbox = Sandbox::new();
        let arguments = ["--probation", "0"];
        server(&sandbox, 0, &arguments)?.wait_serving();
        let mut all = (Vec::new(), Vec::new());
        for _ in 0..self.handoffs {
            let next = server(&sandbox, 0, &arguments)?;
            next.wait_serving();
            let (gap, took) = last_handoff(&sandbox, next.pid())?;
            all.0.push(gap);
            all.1.push(took);
            sandbox.tidy();
        }
        Ok(all)
    }
}

/// The gap of the handoff to this process, and how long all of it took.
pub(crate) fn last_handoff(sandbox: &Sandbox, to: u32) -> anyhow::Result<(Duration, Duration)> {
    let handoff = eventually("the process serves", SOON, || {
        let status = Status::ask(&sandbox.control()).ok()?;
        status.last_handoff.filter(|_| status.serving.process.pid == to)
    });
    let nanos = |nanos: Option<u64>| nanos.map(Duration::from_nanos).context("a handoff has its times");
    Ok((nanos(handoff.gap_ns)?, nanos(handoff.took_ns)?))
}
