//! Fifty handoffs in a row under the mixed load: nothing fails, and nothing is left behind. `make soak` does
//! it a thousand times.
//!
//! Deliberately absent: how fast. That is a bench's question; here is only whether.

use std::time::Duration;

use integration_tests::endurance::Endurance;
use integration_tests::load::{Kind, Load, LoadPlan};
use integration_tests::process::{Facts, eventually};
use integration_tests::{Sandbox, Way};

const HANDOFFS: usize = 50;

const QUIET: Duration = Duration::from_secs(40);

/// A question costs a descriptor for a moment; what leaked stays.
const UNCHANGED: Duration = Duration::from_millis(200);

/// Two processes of the same program that did the same differ by this much.
const RSS_NOISE_KIB: u64 = 4 * 1024;

/// A process that served a load keeps this much more of the heap than one that served nothing.
const RSS_OF_LOAD_KIB: u64 = 24 * 1024;

#[test]
fn fifty_handoffs_under_load() {
    let _alone = super::alone();
    let sandbox = Sandbox::new();
    let mut service = Endurance::start(&sandbox);
    let _second = service.replace(Way::ByHand);
    let first = service.quiet(UNCHANGED).facts;

    let load = Load::start(service.serving().http, LoadPlan::default());
    eventually("an answer to every client", QUIET, || load.is_warm().then_some(()));
    let mut gaps = Vec::new();
    for _ in 0..HANDOFFS {
        gaps.extend(service.replace_under(&load).gap);
    }
    let loaded = service.holding().facts;
    let report = load.stop();
    report.assert_nothing_failed();
    for kind in [Kind::KeepAlive, Kind::Post, Kind::Slow, Kind::Http2] {
        let tally = &report.kinds[&kind];
        assert_eq!(
            (tally.asked, tally.closed_idle),
            (0, 0),
            "{kind} was asked to leave, or closed\n{report}"
        );
    }

    assert_same(&first, &service.quiet(UNCHANGED).facts, RSS_OF_LOAD_KIB);
    assert!(loaded.fds < first.fds + 64, "descriptors: {loaded:?} under load, {first:?} without");
    let _last = service.replace(Way::ByHand);
    assert_same(&first, &service.quiet(UNCHANGED).facts, RSS_NOISE_KIB);

    assert_eq!(gaps.len(), HANDOFFS, "the service measures each gap");
    gaps.sort_unstable();
    println!(
        "no process accepted for {:?} (median), {:?} (worst)",
        gaps[gaps.len() / 2],
        gaps[gaps.len() - 1]
    );
    service.end();
}

fn assert_same(first: &Facts, now: &Facts, rss_noise_kib: u64) {
    assert!(now.fds <= first.fds, "descriptors: {first:?} after the first handoff, now {now:?}");
    assert!(now.threads <= first.threads, "threads: {first:?} after the first handoff, now {now:?}");
    assert!(
        now.rss_kib <= first.rss_kib + rss_noise_kib,
        "memory: {first:?} after the first handoff, now {now:?}"
    );
}
