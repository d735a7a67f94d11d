//! `kill -9` on either side at some of the system calls of a handoff; `make crash` tries each of them, and other faults.
//!
//! Deliberately absent: chance. The calls are counted in a dry run, and the sample is spread evenly over them.

use std::fs;

use integration_tests::crash::campaign::{Kind, Verdict, calls, cases, sample};
use integration_tests::crash::{Campaign, Side};

/// At a time; most of a run is waiting.
const JOBS: usize = 4;

/// Of each side.
const SAMPLE: usize = 20;

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

#[test]
fn a_sample_of_the_calls() -> anyhow::Result<()> {
    let all = cases(Kind::Kill, &calls()?);
    let mut some = Vec::new();
    for side in Side::ALL {
        let of_side: Vec<_> = all.iter().filter(|case| case.side == side).copied().collect();
        some.extend(sample(&of_side, SAMPLE));
    }
    let tally = Campaign { cases: some, jobs: JOBS }.run(|_| {});
    let failed: Vec<_> = tally.failed.iter().map(describe).collect();
    assert!(failed.is_empty(), "survived {} of {}\n{}", tally.survived(), tally.cases, failed.join("\n"));
    // What differs from run to run are single calls.
    assert!(tally.met * 10 >= tally.cases * 9, "only {} of {} met the fault", tally.met, tally.cases);
    Ok(())
}
