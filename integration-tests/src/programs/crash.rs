//! A fault at each system call of a handoff, for both sides, and whether clients or operators notice.
//!
//! Deliberately absent: the runs themselves, see `crate::crash`.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::crash::campaign::{Calls, Kind, Tally, Verdict, calls, cases, judge, sample};
use crate::crash::tracer::{Order, follow};
use crate::crash::{Campaign, Case, Fault, Point, Speaks};
use crate::tls::{self, kill_everywhere};
use anyhow::ensure;
use clap::{Parser, Subcommand, ValueEnum};
use syscalls::Sysno;

/// A fault at each system call of a handoff.
#[derive(Debug, Parser)]
#[command(name = "crash")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// All cases of these kinds
    All {
        /// Which faults [default: all]
        #[arg(long, value_enum, value_delimiter = ',')]
        kinds: Vec<KindName>,
        /// What clients speak: http1 or http2
        #[arg(long, default_value_t)]
        speaks: Speaks,
        /// How many at a time; most of a run is waiting
        #[arg(long, default_value_t = 6)]
        jobs: usize,
        /// Only so many of each kind, spread evenly
        #[arg(long)]
        sample: Option<usize>,
        /// One line for each case
        #[arg(long)]
        verbose: bool,
    },
    /// One case: `crash one successor sendmsg 3 kill`
    One {
        /// SIDE CALL NTH FAULT PROTOCOL (or none)
        #[arg(num_args = 4..=5)]
        case: Vec<String>,
        /// So many times
        #[arg(long, default_value_t = 1)]
        times: usize,
    },
    /// `kill -9` at each system call of either process, while connections over TLS migrate
    Tls {
        /// How many at a time; most of a run is waiting
        #[arg(long, default_value_t = 4)]
        jobs: usize,
        /// Only so many of each process, spread evenly
        #[arg(long)]
        sample: Option<usize>,
        /// One line for each run
        #[arg(long)]
        verbose: bool,
    },
    /// Which calls there are
    Calls {
        /// What clients speak: http1 or http2
        #[arg(long, default_value_t)]
        speaks: Speaks,
    },
    /// Follows a process, for the runs
    #[command(hide = true)]
    Follow {
        #[arg(long)]
        pid: i32,
        #[arg(long)]
        log: PathBuf,
        #[arg(long)]
        after_exec: bool,
        call: String,
        nth: u32,
        fault: Fault,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum KindName {
    Kill,
    Freeze,
    Error,
}

impl KindName {
    fn kind(self) -> Kind {
        match self {
            Self::Kill => Kind::Kill,
            Self::Freeze => Kind::Freeze,
            Self::Error => Kind::Error,
        }
    }
}

/// The whole program.
#[expect(clippy::print_stderr, reason = "a program that a person runs")]
#[must_use]
pub fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("crash: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        Command::All { kinds, speaks, jobs, sample, verbose } => {
            let kinds = if kinds.is_empty() { KindName::value_variants().to_vec() } else { kinds };
            all(&kinds, speaks, jobs, sample, verbose)
        }
        Command::One { case, times } => {
            let case: Case = case.join(" ").parse()?;
            let mut failed = 0;
            for _ in 0..times {
                let verdict = judge(case);
                tell(&verdict);
                failed += usize::from(!verdict.survived());
            }
            ensure!(failed == 0, "{failed} of {times} failed");
            Ok(())
        }
        Command::Tls { jobs, sample, verbose } => over_tls(jobs, sample, verbose),
        Command::Calls { speaks } => {
            show(&calls(speaks)?);
            Ok(())
        }
        Command::Follow { pid, log, after_exec, call, nth, fault } => {
            let call: Sysno = call.parse().map_err(|()| anyhow::anyhow!("{call:?} is not a system call"))?;
            follow(Order { pid, at: Point { call, nth }, fault, after_exec }, &log)
        }
    }
}

#[expect(clippy::print_stdout, reason = "a program that a person runs")]
fn all(
    kinds: &[KindName],
    speaks: Speaks,
    jobs: usize,
    size: Option<usize>,
    verbose: bool,
) -> anyhow::Result<()> {
    let calls = calls(speaks)?;
    show(&calls);
    let (mut survived, mut total, mut failed) = (0, 0, Vec::new());
    for kind in kinds {
        let mut cases = cases(speaks, kind.kind(), &calls);
        if let Some(size) = size {
            cases = sample(&cases, size);
        }
        // Processes that stand still need no processor.
        let jobs = if *kind == KindName::Freeze { jobs * 2 } else { jobs };
        let tally = Campaign { cases, jobs }.run(|verdict| {
            if verbose || !verdict.survived() {
                tell(verdict);
            }
        });
        let Tally { cases, met, longest_wait, took, .. } = &tally;
        println!(
            "{kind:?}: survived {} of {met}, no client waited longer than {longest_wait:.0?}; {took:.0?}; {} \
             more without a fault, because the process did not make that call this time, or the call cannot fail",
            tally.survived(),
            cases - met
        );
        survived += tally.survived();
        total += met;
        failed.extend(tally.failed);
    }
    for verdict in &failed {
        println!("failed: {} one {}", program(), verdict.case);
    }
    println!("survived {survived} of {total}");
    ensure!(failed.is_empty(), "{} failed", failed.len());
    Ok(())
}

#[expect(clippy::print_stdout, reason = "a program that a person runs")]
fn over_tls(jobs: usize, sample: Option<usize>, verbose: bool) -> anyhow::Result<()> {
    let tally = kill_everywhere(sample, jobs, |line| {
        if verbose || line.starts_with("FAILED") {
            println!("{line}");
        }
    })?;
    let tls::Tally { cases, met, answered, records, failed, took } = &tally;
    println!(
        "TLS: survived {} of {met} kills; {answered} silent clients went on, {records} records opened, each at \
         its number; {took:.0?}; {} more without a fault, because the process did not make that call this time",
        met.saturating_sub(failed.len()),
        cases - met
    );
    ensure!(failed.is_empty(), "{} failed", failed.len());
    Ok(())
}

#[expect(clippy::print_stdout, reason = "a program that a person runs")]
fn show(calls: &Calls) {
    for side in crate::crash::Side::ALL {
        let of_side = calls.iter().filter(|((of, _), _)| *of == side);
        let list: Vec<_> = of_side.map(|((_, call), count)| format!("{} {count}", call.name())).collect();
        println!("{side}: {}", list.join(", "));
    }
}

#[expect(clippy::print_stdout, reason = "a program that a person runs")]
fn tell(verdict: &Verdict) {
    let Verdict { case, met, complaints, longest_wait, said, logs } = verdict;
    let met = met.as_deref().unwrap_or("never made");
    let outcome = if verdict.survived() { "ok" } else { "FAILED" };
    println!("{outcome}: {case} ({met}; {longest_wait:.0?}): {said}");
    for complaint in complaints {
        println!("    {complaint}");
    }
    if let Some(logs) = logs {
        println!("    again: {} one {case}", program());
        println!("    logs: {}", logs.display());
    }
}

fn program() -> String {
    std::env::current_exe().map_or_else(|_| "crash".to_owned(), |path| path.display().to_string())
}
