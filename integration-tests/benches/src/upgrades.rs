//! Upgrades under three loads, of this project and of its peers, interleaved.

use std::time::Duration;

use serde_json::json;

use crate::plot;
use crate::report::{self, Round};
use crate::results::Findings;
use crate::say;
use crate::scenario::{self, Times};
use crate::systems::System;

#[derive(Clone, clap::Args)]
pub(crate) struct Upgrades {
    /// Upgrades of each system.
    #[arg(long, default_value_t = 3)]
    pub(crate) rounds: usize,
    /// One upgrade of each, with a shorter time before it.
    #[arg(long)]
    pub(crate) quick: bool,
    /// These systems alone.
    #[arg(long, value_delimiter = ',')]
    pub(crate) systems: Vec<System>,
    /// Options of the load, such as `--paced 1000`.
    #[arg(last = true)]
    pub(crate) load: Vec<String>,
}

/// What the clients do meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// A bit of everything.
    Mixed,
    /// The same, and ten thousand idle connections.
    Idle,
    /// 64 connections without a pause.
    Saturated,
}

impl Work {
    fn name(self) -> &'static str {
        match self {
            Self::Mixed => "upgrades",
            Self::Idle => "idle",
            Self::Saturated => "saturated",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Mixed => "Upgrades under a mixed load",
            Self::Idle => "Upgrades with 10,000 idle connections",
            Self::Saturated => "Upgrades under 64 connections without a pause",
        }
    }

    fn load(self) -> &'static [&'static str] {
        match self {
            Self::Mixed => &[],
            Self::Idle => &["--idle", "10000", "--ask", "5000"],
            Self::Saturated => &[
                "--closed",
                "64",
                "--thinks",
                "0",
                "--paced",
                "0",
                "--fresh",
                "0",
                "--idle",
                "0",
                "--streams",
                "0",
            ],
        }
    }

    fn times(self, is_quick: bool) -> Times {
        let millis = Duration::from_millis;
        match self {
            Self::Mixed => Times {
                before: millis(if is_quick { 2_000 } else { 4_000 }),
                after: millis(2_000),
                ask: millis(1_500),
                // Longer than the deadlines of those that have one.
                release: millis(8_200),
                gone: millis(9_500),
            },
            Self::Idle => Times {
                before: millis(1_500),
                after: millis(2_000),
                ask: millis(2_300),
                release: millis(4_500),
                gone: millis(4_500),
            },
            Self::Saturated => Times {
                before: millis(1_500),
                after: millis(2_000),
                ask: millis(300),
                release: millis(2_200),
                gone: millis(2_500),
            },
        }
    }
}

impl Upgrades {
    pub(crate) fn run(&self, work: Work) -> anyhow::Result<Findings> {
        let rounds = if self.quick { 1 } else { self.rounds };
        let wanted = |system: &System| self.systems.is_empty() || self.systems.contains(system);
        let (systems, absent): (Vec<_>, Vec<_>) =
            System::ALL.into_iter().filter(wanted).partition(|system| system.program().is_some());
        let mut missing: Vec<_> =
            absent.iter().map(|system| format!("{}: it is not installed", system.name())).collect();
        let load: Vec<_> =
            work.load().iter().map(|&option| option.to_owned()).chain(self.load.clone()).collect();
        let echo = scenario::echo()?;
        let (mut results, mut all) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            // Each begins with another one, so that none has always the same neighbour.
            let first = round % systems.len().max(1);
            for &system in systems[first..].iter().chain(&systems[..first]) {
                say(&format!("{}, round {} of {rounds}: {}", work.title(), round + 1, system.name()))?;
                match scenario::upgrade(system, &load, work.times(self.quick), echo) {
                    Ok(seen) => {
                        results.push(Round::of(&seen));
                        all.push(seen);
                    }
                    Err(error) => missing.push(format!("{}, round {}: {error:#}", system.name(), round + 1)),
                }
            }
        }
        let versions: Vec<_> = systems.iter().filter_map(|system| system.version()).collect();
        let lines = |title: &str, lines: &[String]| match lines {
            [] => String::new(),
            _ => format!("\n{title}\n\n* {}\n", lines.join("\n* ")),
        };
        let text = format!(
            "{}{}{}",
            report::tables(&results),
            lines("Versions:", &versions),
            lines("Not measured:", &missing)
        );
        let (disturbed, of) = report::disturbed(&results);
        Ok(Findings {
            name: work.name(),
            title: work.title(),
            text,
            plot: Some(plot::draw(work.title(), &all)),
            figures: json!({
                "load": load, "versions": versions, "missing": missing, "rounds": results,
            }),
            disturbed: (disturbed > 0).then(|| {
                format!("in {disturbed} of {of} rounds the host stood still or other processes worked")
            }),
        })
    }
}
