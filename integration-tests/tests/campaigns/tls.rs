//! HTTPS: what its clients notice of handoffs and of processes that are killed.

use std::time::Duration;

use integration_tests::process::needs::{ROOT, have};
use integration_tests::tls::{self, Moment, Moments, Victim, kill};

use crate::alone;

#[test]
fn two_hundred_busy_and_two_thousand_silent_clients_outlive_fifty_versions() {
    let _alone = alone();
    tls::outlive(200, 2_000, 50);
}

#[test]
fn either_process_is_killed_at_every_moment() {
    let _alone = alone();
    for moment in (0..200).step_by(2).map(Duration::from_millis) {
        for victim in [Victim::Incumbent, Victim::Successor] {
            kill(victim, Moment::After(moment)).expect("nothing is traced");
        }
    }
}

/// At a time; most of a run is waiting.
const JOBS: usize = 3;

/// Of the calls of each side in a handoff; `make crash` kills before far more of them.
const SAMPLE: Moments = Moments { of_a_process: Some(24), of_a_call: 60 };

#[test]
fn either_process_is_killed_at_a_sample_of_its_calls() -> anyhow::Result<()> {
    if !have(&[ROOT]) {
        return Ok(());
    }
    let _alone = alone();
    let tally = tls::kill_everywhere(SAMPLE, JOBS, |_| {})?;
    assert!(tally.failed.is_empty(), "{}", tally.failed.join("\n"));
    // What differs from run to run are single calls.
    assert!(tally.met * 100 >= tally.cases * 75, "only {} of {} were killed", tally.met, tally.cases);
    assert!(tally.answered > 0, "no client has outlived a process that was killed");
    Ok(())
}
