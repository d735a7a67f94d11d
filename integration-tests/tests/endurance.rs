//! Fifty handoffs in a row under the mixed load: nothing fails, and nothing is left behind.
//!
//! Deliberately absent: how fast. That is a bench's question; here is only whether.

use std::time::Duration;

use integration_tests::load::{Kind, Load, LoadPlan};
use integration_tests::process::{Facts, eventually};
use integration_tests::{Handover, Sandbox, Service, Serving, Status, Way};

const HANDOFFS: usize = 50;

/// Predecessors leave soon, so that fifty of them fit into a test.
const ARGUMENTS: [&str; 4] = ["--probation", "0.3", "--drain-deadline", "20"];

/// From the eighth predecessor on the oldest is hurried, which closes connections; a test that goes on for ever in
/// this tempo has to wait for them as an operator would.
const MOST_DRAINING: usize = 4;

/// For predecessors to leave, and for the last connections of the load to go.
const QUIET: Duration = Duration::from_secs(40);

/// Two processes of the same program that did the same differ by this much.
const RSS_NOISE_KIB: u64 = 4 * 1024;

/// A process that served a load keeps this much more of the heap than one that served nothing.
const RSS_OF_LOAD_KIB: u64 = 24 * 1024;

#[test]
fn fifty_handoffs_under_load() {
    let sandbox = Sandbox::new();
    let mut serving = Service::start(&sandbox, "v1", &ARGUMENTS).wait_serving();
    serving = Handover::run(&sandbox, Way::ByHand, serving, "v2", &ARGUMENTS).to;
    let first = quiet_facts(&sandbox, serving);

    let load = Load::start(serving.http, LoadPlan::default());
    eventually("an answer to every client", QUIET, || load.is_warm().then_some(()));
    let mut gaps = Vec::new();
    for number in 0..HANDOFFS {
        let version = if number % 2 == 0 { "v1" } else { "v2" };
        let handover = Handover::run(&sandbox, Way::turn(number), serving, version, &ARGUMENTS);
        assert_eq!(handover.to.generation, serving.generation + 1);
        serving = handover.to;
        gaps.extend(handover.gap);
        wait_for_room(&sandbox);
        answers_go_on(&load);
    }
    let loaded = Service::of(&sandbox, serving.pid).facts();
    let report = load.stop();
    report.assert_nothing_failed();
    // HTTP/2 gets GOAWAY, which is how these clients come to the new version; HTTP/1.1 moves, and its clients see nothing.
    assert!(report.kinds[&Kind::Http2].asked > 0, "HTTP/2 clients never changed over\n{report}");
    for kind in [Kind::KeepAlive, Kind::Post, Kind::Slow] {
        let tally = &report.kinds[&kind];
        assert_eq!(
            (tally.asked, tally.closed_idle),
            (0, 0),
            "{kind} was asked to leave, or closed\n{report}"
        );
    }

    let after_load = quiet_facts(&sandbox, serving);
    assert_same(&first, &after_load, RSS_OF_LOAD_KIB);
    assert!(loaded.fds < first.fds + 64, "descriptors: {loaded:?} under load, {first:?} without");
    serving = Handover::run(&sandbox, Way::ByHand, serving, "v2", &ARGUMENTS).to;
    assert_same(&first, &quiet_facts(&sandbox, serving), RSS_NOISE_KIB);

    assert_eq!(gaps.len(), HANDOFFS, "the service measures each gap");
    gaps.sort_unstable();
    println!("nobody accepted for {:?} (median), {:?} (worst)", gaps[gaps.len() / 2], gaps[gaps.len() - 1]);
    all_end_well(&sandbox, serving);
}

/// What the survivor holds when it is alone and nobody is connected.
fn quiet_facts(sandbox: &Sandbox, serving: Serving) -> Facts {
    eventually("the survivor is alone and quiet", QUIET, || {
        let status = Status::ask(&sandbox.control()).ok()?;
        let connections = status.serving.connections;
        let open = connections.idle + connections.active + connections.upgraded;
        (status.predecessors.is_empty() && open == 0).then_some(())
    });
    // The question itself costs a descriptor for a moment, so the least of some looks counts: a leak is in all of them.
    let mut looks = Vec::new();
    eventually("some looks at the survivor", QUIET, || {
        looks.push(Facts::of(serving.pid)?);
        (looks.len() == 30).then_some(())
    });
    looks.into_iter().min_by_key(|facts| facts.fds).expect("there are some")
}

fn assert_same(first: &Facts, now: &Facts, rss_noise_kib: u64) {
    assert!(now.fds <= first.fds, "descriptors: {first:?} after the first handoff, now {now:?}");
    assert!(now.threads <= first.threads, "threads: {first:?} after the first handoff, now {now:?}");
    assert!(
        now.rss_kib <= first.rss_kib + rss_noise_kib,
        "memory: {first:?} after the first handoff, now {now:?}"
    );
}

fn wait_for_room(sandbox: &Sandbox) {
    eventually("fewer predecessors", QUIET, || {
        let status = Status::ask(&sandbox.control()).ok()?;
        (status.predecessors.len() <= MOST_DRAINING).then_some(())
    });
}

/// The load must meet each generation, or the handoffs would only meet each other.
fn answers_go_on(load: &Load) {
    let before = load.progress().all_answered();
    eventually("some more answers", QUIET, || (load.progress().all_answered() > before + 100).then_some(()));
}

fn all_end_well(sandbox: &Sandbox, last: Serving) {
    Service::of(sandbox, last.pid).signal(rustix::process::Signal::TERM);
    for serving in sandbox.servings() {
        assert_eq!(Service::of(sandbox, serving.pid).wait_drained().forced, 0, "{serving:?}");
    }
    assert_eq!(sandbox.processes(), [0; 0], "processes are left over");
}
