//! `kill -9` on either side at some of the system calls of a handoff and of a rollback, and a kernel that is
//! short of something at others; `make crash` tries each of them, and other faults.
//!
//! Deliberately absent: chance. The calls are counted in a dry run, and the sample is spread evenly over
//! them.

use std::fs;

use integration_tests::crash::campaign::{Kind, Verdict, calls, cases, sample};
use integration_tests::crash::{Campaign, Case, Fault, Side, Speaks};
use integration_tests::process::needs::{ROOT, have};
use nix::errno::Errno;
use syscalls::Sysno;

/// At a time; most of a run is waiting.
const JOBS: usize = 4;

/// Of each side.
const KILLS: usize = 12;

/// Of each side and kind.
const ERRORS: usize = 8;

/// With the logs, which go away.
fn describe(verdict: &Verdict) -> String {
    let Verdict { case, complaints, logs, .. } = verdict;
    let text = logs.as_ref().and_then(|path| {
        let text = fs::read_to_string(path).ok();
        fs::remove_file(path).ok();
        text
    });
    format!("target/debug/crash one {case}: {}\n{}", complaints.join("\n"), text.unwrap_or_default())
}

/// Runs so many of each side. At least so many of a hundred have to meet the fault: what differs from run to
/// run are single calls.
fn survive(all: &[Case], size: usize, percent: usize) {
    let mut some = Vec::new();
    for side in Side::ALL {
        let of_side: Vec<_> = all.iter().filter(|case| case.side == side).copied().collect();
        some.extend(sample(&of_side, size));
    }
    let tally = Campaign { cases: some, jobs: JOBS }.run(|_| {});
    let failed: Vec<_> = tally.failed.iter().map(describe).collect();
    assert!(failed.is_empty(), "survived {} of {}\n{}", tally.survived(), tally.cases, failed.join("\n"));
    assert!(tally.met * 100 >= tally.cases * percent, "only {} of {} met the fault", tally.met, tally.cases);
}

#[test]
fn a_sample_of_the_calls() -> anyhow::Result<()> {
    sample_of(Speaks::Http1)
}

#[test]
fn a_sample_of_the_calls_under_http2() -> anyhow::Result<()> {
    sample_of(Speaks::Http2)
}

/// A process that is short of descriptors while streams of its connections shall stay with it: it tries again.
#[test]
fn no_connection_is_lost_for_want_of_a_relay() -> anyhow::Result<()> {
    if !have(&[ROOT]) {
        return Ok(());
    }
    let _alone = super::alone();
    let mut relays = cases(Speaks::Http2, Kind::Error, &calls(Speaks::Http2)?);
    relays.retain(|case| case.at.call == Sysno::socketpair);
    survive(&relays, relays.len(), 100);
    Ok(())
}

fn sample_of(speaks: Speaks) -> anyhow::Result<()> {
    if !have(&[ROOT]) {
        return Ok(());
    }
    let _alone = super::alone();
    let calls = calls(speaks)?;
    survive(&cases(speaks, Kind::Kill, &calls), KILLS, 75);
    let (messages, rest): (Vec<_>, Vec<_>) =
        cases(speaks, Kind::Error, &calls).into_iter().partition(|case| case.at.call == Sysno::sendmsg);
    survive(&messages, ERRORS, 75);
    let mut no_memory = rest;
    no_memory.retain(|case| case.fault == Fault::Error(Errno::ENOMEM));
    // Calls that take something away, which do not fail for want of memory, are left alone.
    survive(&no_memory, ERRORS, 50);
    Ok(())
}
