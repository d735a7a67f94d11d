//! `make demo`: a service is replaced ten times under load, and clients notice nothing.
//!
//! Deliberately absent: options for the load. It is the same on each machine, so that numbers can be compared.

use std::io::{self, Write};
use std::panic;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use crate::load::{Kind, Load, LoadPlan};
use crate::process::{Drained, eventually};
use crate::{Handover, Sandbox, Service, Way, hotctl};
use anyhow::{Context, ensure};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

mod story;
use story::{Ending, Line, Story};

/// Until every client had its first answer.
const WARM_UP: Duration = Duration::from_secs(20);

/// Short, so that old versions leave while one watches; the default is some seconds.
const ARGUMENTS: [&str; 4] = ["--probation", "1", "--drain-deadline", "20"];

/// Replaces a service under load, again and again, in all three ways, and counts what its clients saw.
#[derive(Debug, Parser)]
struct Options {
    /// How many times
    #[arg(long, value_name = "N", default_value_t = 10)]
    handoffs: usize,

    /// How long to wait after each
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    seconds_between: Duration,

    /// JSON lines, each with a `type`
    #[arg(long)]
    json: bool,
}

/// The whole program.
#[must_use]
pub fn main() -> ExitCode {
    let options = Options::parse();
    panic::set_hook(Box::new(|info| complain(reason(info.payload()))));
    let interrupted = Arc::new(AtomicBool::new(false));
    // The harness panics, as a test would: then the sandbox prints what the processes wrote, and ends them.
    let outcome = panic::catch_unwind(|| run(&options, &interrupted));
    while interrupted.load(Ordering::SeqCst) {
        // The other thread tidies up and ends the program.
        thread::park();
    }
    match outcome {
        Ok(Ok(true)) => ExitCode::SUCCESS,
        Ok(Ok(false)) | Err(_) => ExitCode::FAILURE,
        Ok(Err(error)) => {
            complain(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Whether nothing failed.
fn run(options: &Options, interrupted: &Arc<AtomicBool>) -> anyhow::Result<bool> {
    let sandbox = Arc::new(Sandbox::new());
    end_if_interrupted(Arc::downgrade(&sandbox), Arc::clone(interrupted));
    let mut story = Story::new(options.json);

    let mut serving = Service::start(&sandbox, "v1", &ARGUMENTS).wait_serving();
    let plan = LoadPlan::default();
    let clients = Kind::ALL.iter().map(|kind| plan.clients(*kind)).sum();
    let load = Load::start(serving.http, plan);
    eventually("an answer to every client", WARM_UP, || load.is_warm().then_some(()));
    story.begin(options.handoffs, serving, clients)?;

    let mut version = "v1";
    for number in 0..options.handoffs {
        let way = Way::turn(number);
        version = next_version(way, version);
        let handover = Handover::run(&sandbox, way, serving, version, &ARGUMENTS);
        serving = handover.to;
        let progress = load.progress();
        let (answered, failed) = (progress.all_answered(), progress.all_failed());
        story.tell(Line { way, handover, version, answered, failed })?;
        linger(options.seconds_between);
    }
    let report = load.stop();
    let drained = end(&sandbox)?;
    story.end(&Ending { report, drained })
}

/// SIGHUP starts the same version again; the other ways alternate.
fn next_version(way: Way, version: &str) -> &'static str {
    match (way, version) {
        (Way::Sighup, "v1") | (Way::ByHand | Way::Hotctl, "v2") => "v1",
        _ => "v2",
    }
}

/// Stops the service, and sees that all of them have ended as they should.
fn end(sandbox: &Sandbox) -> anyhow::Result<Vec<Drained>> {
    let _stops = hotctl(sandbox, &["stop"]).expect_success();
    let drained =
        sandbox.servings().iter().map(|serving| Service::of(sandbox, serving.pid).wait_drained()).collect();
    let left = sandbox.processes();
    ensure!(left.is_empty(), "these processes are left: {left:?}");
    Ok(drained)
}

fn linger(span: Duration) {
    let begun = Instant::now();
    eventually("time to pass", span * 2, || (begun.elapsed() >= span).then_some(()));
}

/// Ctrl-C ends a program without a drop, and detached successors would stay.
fn end_if_interrupted(sandbox: Weak<Sandbox>, interrupted: Arc<AtomicBool>) {
    thread::spawn(move || -> anyhow::Result<()> {
        wait_for_signal().context("wait for a signal")?;
        interrupted.store(true, Ordering::SeqCst);
        // The main thread breaks off when its processes go; that is no news.
        panic::set_hook(Box::new(|_| {}));
        if let Some(sandbox) = sandbox.upgrade() {
            sandbox.end();
        }
        std::process::exit(130);
    });
}

fn wait_for_signal() -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (mut interrupt, mut terminate) =
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        Ok(())
    })
}

fn reason(payload: &(dyn std::any::Any + Send)) -> &str {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref().copied()).unwrap_or("it broke off")
}

/// Talk goes to stderr; a closed pipe is no reason to fail.
fn complain(what: &str) {
    let _nobody_listens = writeln!(io::stderr(), "demo: {what}");
}

fn seconds(text: &str) -> Result<Duration, String> {
    let number: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(number).map_err(|error| error.to_string())
}
