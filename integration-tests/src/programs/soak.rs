//! `make soak`: a thousand handoffs under load, and what the serving process holds after each, as a table and
//! as a picture.
//!
//! Deliberately absent: judgement by eye. Whether something was left behind is decided here, and the exit
//! code says it.

use std::fs;
use std::io::{self, Write};
use std::panic;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crate::SOON;
use crate::Sandbox;
use crate::endurance::{Endurance, Holding};
use crate::load::{Load, LoadPlan, Report};
use crate::process::eventually;
use anyhow::Context as _;
use clap::Parser;

mod plot;

mod sample;
use sample::Sample;

/// After so many everything has been used once: all ways to start a successor, and a full house of
/// predecessors.
const WARM_UP: usize = 10;

/// tokio's threads for blocking work end after ten seconds without any.
const UNCHANGED: Duration = Duration::from_secs(12);

/// Two processes of the same program that did the same differ by this much.
const MEMORY_NOISE_KIB: u64 = 2 * 1024;

/// A line on the terminal after so many.
const TELL_EVERY: usize = 50;

/// Replaces a service under load a thousand times, and compares what is left with what was there after the
/// tenth.
#[derive(Debug, Parser)]
struct Options {
    /// How many times
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = parse_handoffs)]
    handoffs: usize,

    /// Where to write what was measured after each; a picture of it (SVG) is written next to it
    #[arg(long, value_name = "PATH", default_value = "soak.csv")]
    csv: PathBuf,
}

fn parse_handoffs(text: &str) -> Result<usize, String> {
    let number: usize = text.parse().map_err(|_| "not a number".to_owned())?;
    if number > WARM_UP { Ok(number) } else { Err(format!("more than {WARM_UP} are needed")) }
}

/// The whole program.
#[must_use]
pub fn main() -> ExitCode {
    let options = Options::parse();
    // The harness panics, as a test would: then the sandbox prints what the processes wrote, and ends them.
    match panic::catch_unwind(|| run(&options)) {
        Ok(Ok(true)) => ExitCode::SUCCESS,
        Ok(Ok(false)) | Err(_) => ExitCode::FAILURE,
        Ok(Err(error)) => {
            // There is nowhere else to report it.
            let _ = writeln!(io::stderr(), "soak: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether everything is as it was after the warm-up, and nothing failed.
fn run(options: &Options) -> anyhow::Result<bool> {
    let sandbox = Sandbox::new();
    let mut soak = Soak { service: Endurance::start(&sandbox), samples: Vec::new(), begun: Instant::now() };

    let early = soak.replace(&sandbox, WARM_UP, options.handoffs)?;
    let before = soak.service.quiet(UNCHANGED);
    let late = soak.replace(&sandbox, options.handoffs - WARM_UP, options.handoffs)?;
    let after = soak.service.quiet(UNCHANGED);
    let Soak { service, samples, .. } = soak;
    service.end();

    let failed = early.failed() + late.failed();
    let plot = options.csv.with_extension("svg");
    fs::write(&options.csv, sample::table(&samples))
        .with_context(|| format!("write {}", options.csv.display()))?;
    plot::draw(&samples, &plot).with_context(|| format!("draw {}", plot.display()))?;
    say(format_args!("\n{late}"))?;
    say(format_args!("{}", sample::gaps(&samples)))?;
    let same = compare(&before, &after)?;
    say(format_args!(
        "\n{} handoffs, {failed} requests failed; {} and {}",
        options.handoffs,
        options.csv.display(),
        plot.display()
    ))?;
    Ok(failed == 0 && same)
}

struct Soak<'a> {
    service: Endurance<'a>,
    samples: Vec<Sample>,
    begun: Instant,
}

impl Soak<'_> {
    /// So many more, under a load of their own: the process that is looked at afterwards has always served
    /// one.
    fn replace(&mut self, sandbox: &Sandbox, times: usize, all: usize) -> anyhow::Result<Report> {
        let load = Load::start(self.service.serving().http, LoadPlan::default());
        eventually("an answer to every client", SOON, || load.is_warm().then_some(()));
        for _ in 0..times {
            let handover = self.service.replace_under(&load);
            let holding = self.service.holding();
            sandbox.tidy();
            let number = self.samples.len() + 1;
            let sample = Sample::new(number, self.begun.elapsed(), &handover, &holding);
            if number.is_multiple_of(TELL_EVERY) || number == all {
                let progress = load.progress();
                let (answered, failed) = (progress.all_answered(), progress.all_failed());
                say(format_args!("{sample} of {all}; {answered} answers, {failed} failures"))?;
            }
            self.samples.push(sample);
        }
        Ok(load.stop())
    }
}

/// A line for each thing that must not grow; whether it did not.
fn compare(before: &Holding, after: &Holding) -> io::Result<bool> {
    let tenth = format!("after {WARM_UP}");
    say(format_args!("\n{:<22}{tenth:>12}{:>12}", "when all is quiet", "at the end"))?;
    let (was, is) = (before.facts, after.facts);
    let mut same = true;
    let mut line = |what: &str, was: String, is: String, fine: bool| {
        same &= fine;
        say(format_args!("{what:<22}{was:>12}{is:>12}{}", if fine { "" } else { "  <- differs" }))
    };
    line("descriptors", was.fds.to_string(), is.fds.to_string(), is.fds == was.fds)?;
    line("threads", was.threads.to_string(), is.threads.to_string(), is.threads == was.threads)?;
    let kib = |kib: u64| format!("{kib} KiB");
    let fits = is.rss_kib <= was.rss_kib + MEMORY_NOISE_KIB;
    line("resident memory", kib(was.rss_kib), kib(is.rss_kib), fits)?;
    let files = |holding: &Holding| holding.files.len().to_string();
    line("files", files(before), files(after), before.files == after.files)?;
    // Numbers in it grow, by a digit now and then.
    let bytes = |holding: &Holding| format!("{} B", holding.status_bytes);
    let fits = after.status_bytes <= before.status_bytes + 64;
    line("status", bytes(before), bytes(after), fits)?;
    let processes = |holding: &Holding| (1 + holding.predecessors).to_string();
    line("processes", processes(before), processes(after), before.predecessors == after.predecessors)?;
    Ok(same)
}

fn say(what: std::fmt::Arguments<'_>) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{what}")?;
    stdout.flush()
}
