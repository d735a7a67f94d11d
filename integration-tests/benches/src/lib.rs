//! `bench`: what a hot update costs, measured beside its peers and beside what the kernel alone takes.
//!
//! Deliberately absent: assertions. What must hold is a test; here is what it costs.
//!
//! # Reading order
//!
//! 1. `systems`: this project and its peers, each started, upgraded in its own way, and stopped
//! 2. `load`: what the clients do, and what became of each request
//! 3. `scenario`: one upgrade of one system under load
//! 4. `upgrades`, `report`, `plot`: all of them, as tables and as an image
//! 5. `moves`, `listeners`, `gap`, beside the `floor`: this project alone, and its `growth`
//! 6. `steady`: what it costs when nothing is updated
//! 7. `tls`: HTTPS beside that of nginx and of axum-server with rustls
//! 8. `results`, `table`, `svg`: where figures go; `machine`, `stalls`: whether they can be trusted

// Elsewhere it is empty, so that the workspace builds where developers work.
#![cfg(target_os = "linux")]

mod floor;
mod gap;
mod growth;
mod listeners;
mod load;
mod machine;
mod moves;
mod numbers;
mod plot;
mod process;
mod report;
mod results;
mod scenario;
pub mod server;
mod stalls;
mod steady;
mod svg;
mod systems;
mod table;
mod tls;
mod upgrades;

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::gap::Gap;
use crate::listeners::Listeners;
use crate::load::Load;
use crate::moves::Moves;
use crate::results::keep;
use crate::steady::Steady;
use crate::tls::Tls;
use crate::upgrades::{Upgrades, Work};

/// Measures what hot updates cost: beside peers, and beside what the kernel alone takes.
#[derive(Parser)]
struct Cli {
    /// Keep what is found in this folder: NAME.md, NAME.json, and NAME.svg where there is an image.
    #[arg(long, global = true)]
    out: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Upgrades each system in turn, again and again, under a mixed load.
    Upgrades(Upgrades),
    /// The same with ten thousand idle connections.
    Idle(Upgrades),
    /// The same under 64 connections without a pause.
    Saturated(Upgrades),
    /// Moves idle connections to the next version: time, processor time and memory.
    Moves(Moves),
    /// Passes listeners to the next version.
    Listeners(Listeners),
    /// One handoff after the other: how long no process accepts.
    Gap(Gap),
    /// Requests and idle connections without an update, beside `axum::serve`.
    Steady(Steady),
    /// HTTPS beside nginx and axum-server with rustls: handshakes, requests, idle connections, and a move.
    Tls(Tls),
    /// All of these; when one fails, the rest is still measured.
    All {
        /// Upgrades of each system, and rounds of everything else.
        #[arg(long, default_value_t = 3)]
        rounds: usize,
        /// One round, and less of everything, in less than five minutes.
        #[arg(long)]
        quick: bool,
    },
    /// Writes the table of the upgrades of RESULTS into README, between the two lines that are there for it.
    Report { results: PathBuf, readme: PathBuf },
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

/// The whole program.
#[must_use]
pub fn main() -> ExitCode {
    // A journal of a disk must not be what is measured.
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        let _it_is_the_first = tempfile::env::override_temp_dir(memory);
    }
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // There is nowhere else to report it.
            let _ = writeln!(io::stderr(), "bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(Cli { out, command }: Cli) -> anyhow::Result<()> {
    let out = out.as_deref();
    match command {
        Command::Upgrades(upgrades) => keep(out, || upgrades.run(Work::Mixed)),
        Command::Idle(upgrades) => keep(out, || upgrades.run(Work::Idle)),
        Command::Saturated(upgrades) => keep(out, || upgrades.run(Work::Saturated)),
        Command::Moves(moves) => keep(out, || moves.run()),
        Command::Listeners(listeners) => keep(out, || listeners.run()),
        Command::Gap(gap) => keep(out, || gap.run()),
        Command::Steady(steady) => keep(out, || steady.run()),
        Command::Tls(tls) => keep(out, || tls.run()),
        Command::All { rounds, quick } => all(out, rounds, quick),
        Command::Report { results, readme } => results::report(&results, &readme),
        Command::Load(load) => load::run(&load),
        Command::Stalls { path } => stalls::run(&path),
        Command::Receive => floor::receive(),
    }
}

fn all(out: Option<&Path>, rounds: usize, quick: bool) -> anyhow::Result<()> {
    let upgrades = Upgrades { rounds, quick, systems: Vec::new(), load: Vec::new() };
    let ended = [
        keep(out, || upgrades.run(Work::Mixed)),
        keep(out, || upgrades.run(Work::Idle)),
        keep(out, || upgrades.run(Work::Saturated)),
        keep(out, || Moves::all(rounds, quick).run()),
        keep(out, || Listeners::all(rounds, quick).run()),
        keep(out, || Gap::all(quick).run()),
        keep(out, || Steady::all(rounds, quick).run()),
        keep(out, || Tls::all(rounds, quick).run()),
    ];
    let mut failed = ended.into_iter().filter_map(Result::err).peekable();
    let first = failed.peek().map(|error| format!("{error:#}"));
    first.map_or(Ok(()), |first| anyhow::bail!("{} of 8 scenarios failed; {first}", failed.count()))
}

pub(crate) fn say(line: &str) -> anyhow::Result<()> {
    Ok(writeln!(io::stdout(), "{line}")?)
}
