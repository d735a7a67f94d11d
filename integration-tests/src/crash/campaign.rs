//! All cases: found in dry runs, run some at a time, counted.
//!
//! Deliberately absent: chance. The sample is spread evenly over all calls, and is the same for the same
//! calls.

use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use nix::errno::Errno;
use syscalls::Sysno;

use super::case::{Case, Fault, Point, Side};
use super::clients::Speaks;
use super::run::{Record, run};
use super::verdict::{complaints, longest_wait};
use crate::process::Sandbox;

/// How a case went.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// The case.
    pub case: Case,
    /// The call, with what it was about to say; `None` if the process never made it.
    pub met: Option<String>,
    /// What is wrong.
    pub complaints: Vec<String>,
    /// The longest wait of a visitor.
    pub longest_wait: Duration,
    /// The last line of hotctl.
    pub said: String,
    /// Where the logs are, if something is wrong.
    pub logs: Option<PathBuf>,
}

impl Verdict {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn survived(&self) -> bool {
        self.complaints.is_empty()
    }
}

/// Runs one case, and keeps the logs if something is wrong.
#[must_use]
pub fn judge(case: Case) -> Verdict {
    let sandbox = Sandbox::new();
    let result = catch_unwind(AssertUnwindSafe(|| run(&sandbox, case)));
    let mut verdict = Verdict {
        case,
        met: None,
        complaints: Vec::new(),
        longest_wait: Duration::ZERO,
        said: String::new(),
        logs: None,
    };
    match result {
        Ok(Ok(record)) => {
            verdict.met = record.harm.map(|_| record.trace.describe(case.at));
            verdict.complaints = complaints(&record);
            verdict.longest_wait = longest_wait(&record);
            verdict.said = what_was_said(&record);
        }
        Ok(Err(error)) => verdict.complaints.push(format!("{error:#}")),
        Err(panic) => verdict.complaints.push(words(panic.as_ref())),
    }
    if !verdict.survived() {
        verdict.logs = keep(&sandbox, &verdict);
    }
    verdict
}

fn what_was_said(record: &Record) -> String {
    let text = if record.said.stderr.trim().is_empty() { &record.said.stdout } else { &record.said.stderr };
    text.lines().last().unwrap_or_default().to_owned()
}

pub(crate) fn words(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without words").to_owned()
}

fn keep(sandbox: &Sandbox, verdict: &Verdict) -> Option<PathBuf> {
    let name = verdict.case.to_string().replace([' ', '=', '.'], "-");
    let path = std::env::temp_dir().join(format!("crash-{name}-{}.log", std::process::id()));
    let text = format!("{}\n{}\n{}", verdict.case, verdict.complaints.join("\n"), sandbox.transcript());
    fs::write(&path, text).ok().map(|()| path)
}

/// How often each side makes each call.
pub type Calls = BTreeMap<(Side, Sysno), u32>;

/// Looks at handoffs without a fault. What depends on the order in which threads run differs from one to the
/// next, so there are some, and the largest count is taken.
///
/// # Errors
///
/// If the handoff fails without a fault.
pub fn calls(speaks: Speaks) -> anyhow::Result<Calls> {
    const LOOKS: usize = 2;
    let mut calls = Calls::new();
    for side in Side::ALL {
        for _ in 0..LOOKS {
            let sandbox = Sandbox::new();
            let record = run(&sandbox, Case::dry(speaks, side)).context("a handoff without a fault")?;
            let wrong = complaints(&record);
            ensure!(wrong.is_empty(), "a handoff without a fault: {wrong:?}\n{}", sandbox.transcript());
            for (call, count) in record.trace.counts() {
                let known = calls.entry((side, call)).or_default();
                *known = count.max(*known);
            }
        }
    }
    Ok(calls)
}

/// Which faults are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// SIGKILL at every call.
    Kill,
    /// Standing still at every message.
    Freeze,
    /// Errors of calls that can fail on a machine that is short of something, and short writes.
    Error,
}

/// Longer than every deadline, as `run.rs` sets them.
const FREEZE: Duration = Duration::from_secs(20);

/// Which calls can fail in which way while the machine, and not the program, is at fault. Not EAGAIN: a
/// descriptor that is ready and says so would lie, and with an edge-triggered epoll(7) the program would
/// never ask again.
const FAILURES: [(Sysno, &[Errno]); 10] = [
    (Sysno::sendmsg, &[Errno::ENOBUFS, Errno::ENOMEM, Errno::ETOOMANYREFS, Errno::EINTR]),
    (Sysno::recvmsg, &[Errno::ENOMEM, Errno::EINTR]),
    (Sysno::accept4, &[Errno::EMFILE, Errno::ENFILE, Errno::ENOBUFS, Errno::ECONNABORTED, Errno::EINTR]),
    (Sysno::fcntl, &[Errno::EMFILE]),
    (Sysno::bind, &[Errno::EADDRINUSE]),
    (Sysno::socket, &[Errno::EMFILE]),
    (Sysno::socketpair, &[Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM]),
    (Sysno::epoll_ctl, &[Errno::ENOSPC, Errno::ENOMEM]),
    (Sysno::memfd_create, &[Errno::EMFILE]),
    (Sysno::openat, &[Errno::EMFILE]),
];

/// Which calls are shortened.
const WRITES: [Sysno; 1] = [Sysno::sendmsg];

/// The cases of one kind, of clients that speak this.
#[must_use]
pub fn cases(speaks: Speaks, kind: Kind, calls: &Calls) -> Vec<Case> {
    let mut cases = Vec::new();
    for ((side, call), count) in calls {
        for nth in 1..=*count {
            let at = Point { call: *call, nth };
            let faults: Vec<Fault> = match kind {
                Kind::Kill => vec![Fault::Kill],
                Kind::Freeze if matches!(*call, Sysno::sendmsg | Sysno::recvmsg) => {
                    vec![Fault::Freeze(FREEZE)]
                }
                Kind::Freeze => Vec::new(),
                Kind::Error => {
                    let failures =
                        FAILURES.iter().find(|(name, _)| name == call).map_or(&[][..], |(_, errors)| errors);
                    let short = WRITES.contains(call).then_some(Fault::Short);
                    failures.iter().map(|errno| Fault::Error(*errno)).chain(short).collect()
                }
            };
            cases.extend(faults.into_iter().map(|fault| Case { speaks, side: *side, at, fault }));
        }
    }
    cases
}

/// This many of them, spread evenly.
#[must_use]
pub fn sample(cases: &[Case], size: usize) -> Vec<Case> {
    let size = size.min(cases.len());
    (0..size).map(|number| cases[number * cases.len() / size]).collect()
}

/// Cases that run some at a time.
#[derive(Clone, Debug)]
pub struct Campaign {
    /// What is run.
    pub cases: Vec<Case>,
    /// How many at a time.
    pub jobs: usize,
}

impl Campaign {
    /// Runs all, and tells of each when it is over.
    pub fn run(self, told: impl Fn(&Verdict) + Sync) -> Tally {
        let begun = Instant::now();
        let queue = Mutex::new(self.cases.into_iter());
        let tally = Mutex::new(Tally::default());
        thread::scope(|scope| {
            for _ in 0..self.jobs {
                scope.spawn(|| {
                    loop {
                        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
                        let Some(case) = next else { return };
                        let verdict = judge(case);
                        told(&verdict);
                        tally.lock().unwrap_or_else(PoisonError::into_inner).add(verdict);
                    }
                });
            }
        });
        let mut tally = tally.into_inner().unwrap_or_else(PoisonError::into_inner);
        tally.took = begun.elapsed();
        tally
    }
}

/// What a campaign came to.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// How many cases there were.
    pub cases: usize,
    /// In how many of them the process made the call.
    pub met: usize,
    /// Those in which something is wrong.
    pub failed: Vec<Verdict>,
    /// The longest wait of a visitor in any of them.
    pub longest_wait: Duration,
    /// How long it took.
    pub took: Duration,
}

impl Tally {
    fn add(&mut self, verdict: Verdict) {
        self.cases += 1;
        self.met += usize::from(verdict.met.is_some());
        self.longest_wait = self.longest_wait.max(verdict.longest_wait);
        if !verdict.survived() {
            self.failed.push(verdict);
        }
    }

    /// Those that met the fault, and in which nothing is wrong.
    #[must_use]
    pub fn survived(&self) -> usize {
        self.met - self.failed.iter().filter(|verdict| verdict.met.is_some()).count()
    }
}
