//! `bench`: the same load on this project and on its peers, interleaved, while each of them is upgraded.
//!
//! Deliberately absent: assertions. What must hold is a test; here is what it costs.

mod floor;
mod load;
mod moves;
mod numbers;
mod plot;
mod process;
mod report;
mod scenario;
mod stalls;
mod systems;

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use serde_json::json;

use crate::load::Load;
use crate::moves::Moves;
use crate::report::{Round, Table};
use crate::scenario::Times;
use crate::systems::System;

/// Measures upgrades of network services under load.
#[derive(Parser)]
enum Cli {
    /// Upgrades each system in turn, again and again, and prints one table.
    Upgrades(Upgrades),
    /// Moves idle connections to the next version, and says what each costs.
    Moves(Moves),
    /// The load alone.
    #[command(hide = true)]
    Load(Load),
    /// When the machine stands still.
    #[command(hide = true)]
    Stalls { path: PathBuf },
    /// Takes descriptors from standard input.
    #[command(hide = true)]
    Receive,
}

#[derive(clap::Args)]
struct Upgrades {
    /// Upgrades of each system.
    #[arg(long, default_value_t = 4)]
    rounds: usize,
    /// One upgrade of each, with a shorter time before it.
    #[arg(long)]
    quick: bool,
    /// These systems alone.
    #[arg(long, value_delimiter = ',')]
    systems: Vec<System>,
    /// Where `upgrades.md`, `upgrades.json` and `upgrades.svg` go.
    #[arg(long)]
    out: PathBuf,
    /// Options of the load, such as `--paced 1000`.
    #[arg(last = true)]
    load: Vec<String>,
}

fn main() -> ExitCode {
    // A journal of a disk must not be what is measured.
    let _there_is_memory = tempfile::env::override_temp_dir(Path::new("/dev/shm"));
    let ended = match Cli::parse() {
        Cli::Upgrades(upgrades) => run(&upgrades),
        Cli::Load(load) => load::run(&load),
        Cli::Stalls { path } => stalls::run(&path),
        Cli::Moves(moves) => moves.run().map(drop),
        Cli::Receive => floor::receive(),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // There is nowhere else to report it.
            let _ = writeln!(io::stderr(), "bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Upgrades) -> anyhow::Result<()> {
    let rounds = if cli.quick { 1 } else { cli.rounds };
    let times = Times {
        before: Duration::from_secs(if cli.quick { 3 } else { 5 }),
        after: Duration::from_secs(2),
        gone: Duration::from_secs(if cli.quick { 9 } else { 15 }),
    };
    let wanted = |system: &System| cli.systems.is_empty() || cli.systems.contains(system);
    let (mut systems, mut missing) = (Vec::new(), Vec::new());
    for system in System::ALL.into_iter().filter(wanted) {
        match system.program() {
            Some(_) => systems.push(system),
            None => missing.push((system, "it is not installed".to_owned())),
        }
    }
    let echo = scenario::echo()?;
    fs::create_dir_all(&cli.out).with_context(|| format!("making {}", cli.out.display()))?;
    let (mut results, mut drawn) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        // Each begins with another one, so that none has always the same neighbour.
        let first = round % systems.len().max(1);
        for &system in systems[first..].iter().chain(&systems[..first]) {
            say(&format!("round {} of {rounds}: {}", round + 1, system.name()))?;
            match scenario::upgrade(system, &cli.load, times, echo) {
                Ok(seen) => {
                    results.push(Round::of(&seen));
                    if round == 0 {
                        drawn.push(seen);
                    }
                }
                Err(error) => missing.push((system, format!("round {}: {error:#}", round + 1))),
            }
        }
    }
    drawn.sort_by_key(|seen| seen.system);
    plot::draw(&cli.out.join("upgrades.svg"), &drawn)?;
    let about = about(cli, &systems);
    let text = format!("{about}\n{}", Table { rounds: &results, missing: &missing });
    write(&cli.out.join("upgrades.md"), &text)?;
    let all = json!({ "about": about, "rounds": results });
    write(&cli.out.join("upgrades.json"), &serde_json::to_string_pretty(&all)?)?;
    say(&format!("\n{text}\nIn {}: upgrades.md, upgrades.json, upgrades.svg.", cli.out.display()))
}

/// Machine, versions and command.
fn about(cli: &Upgrades, systems: &[System]) -> String {
    let output = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().ok();
        output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
    };
    let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let processor = processor.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let versions = systems.iter().filter_map(|system| system.version());
    let versions: Vec<_> = versions.map(|version| format!("* {version}")).collect();
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    format!(
        "# Upgrades under load\n\n{date}, {commit}; {cores} cores ({processor}), Linux {kernel}; load average {load}.\n\
         `bench upgrades --rounds {rounds}{quick} -- {options}`\n\n{versions}\n",
        date = output("date", &["--utc", "+%Y-%m-%d %H:%M UTC"]),
        commit = output("git", &["describe", "--always", "--dirty"]),
        processor = processor.trim_start_matches([' ', '\t', ':']),
        kernel = output("uname", &["-r"]),
        load = load.split(' ').next().unwrap_or_default(),
        rounds = cli.rounds,
        quick = if cli.quick { " --quick" } else { "" },
        options = cli.load.join(" "),
        versions = versions.join("\n"),
    )
}

pub(crate) fn say(line: &str) -> anyhow::Result<()> {
    Ok(writeln!(io::stdout(), "{line}")?)
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}
