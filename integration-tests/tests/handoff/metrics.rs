//! `GET /metrics`: the figures are right, before a handoff, after it, and after a failed one.
//!
//! Deliberately absent: load. Each request is one that is counted here, too.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use integration_tests::client::{InFlight, get};
use integration_tests::process::eventually;
use integration_tests::{Handover, SOON, Sandbox, Service, Status, Way, hotctl};

/// Samples by name and labels, as they stand there; the labels of a name are sorted.
fn scrape(address: SocketAddr) -> anyhow::Result<BTreeMap<String, f64>> {
    let text = get(address, "/metrics")?;
    let samples = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let mut all = BTreeMap::new();
    for line in samples {
        let (series, value) = line.rsplit_once(' ').expect("a sample is a series and a value");
        let (name, labels) = series.trim_end_matches('}').split_once('{').unwrap_or((series, ""));
        let mut labels: Vec<_> = labels.split(',').collect();
        labels.sort_unstable();
        let before = all.insert(format!("{name}{{{}}}", labels.join(",")), value.parse()?);
        assert_eq!(before, None, "twice in one answer: {line}");
    }
    Ok(all)
}

fn connections(event: &str, generation: u64) -> String {
    format!("hotupdate_connections_total{{event=\"{event}\",generation=\"{generation}\"}}")
}

fn of(name: &str, generation: u64) -> String {
    format!("{name}{{generation=\"{generation}\"}}")
}

fn handoffs(result: &str, generation: u64) -> String {
    format!("hotupdate_handoffs_total{{generation=\"{generation}\",result=\"{result}\"}}")
}

fn state(state: &str, generation: u64) -> String {
    format!("hotupdate_connections{{generation=\"{generation}\",state=\"{state}\"}}")
}

fn entered(seen: &BTreeMap<String, f64>, generation: u64) -> f64 {
    ["accepted", "adopted"].map(|event| seen[&connections(event, generation)]).iter().sum()
}

fn ended(seen: &BTreeMap<String, f64>, generation: u64) -> f64 {
    let events = ["finished", "migrated", "closed", "forced"];
    events.map(|event| seen[&connections(event, generation)]).iter().sum()
}

#[test]
fn the_figures_are_right_before_and_after_a_handoff() -> anyhow::Result<()> {
    let sandbox = Sandbox::new();
    let arguments = ["--probation", "0"];
    let first = Service::start(&sandbox, "v1", &arguments).wait_serving();
    for _ in 0..5 {
        get(first.http, "/version")?;
    }
    let slow = InFlight::start(first.http, Duration::from_secs(3));
    // The connection of a request that was answered ends a moment after its client has gone.
    let before = eventually("five have finished", SOON, || {
        let seen = scrape(first.http).ok()?;
        // This scrape is the only one that is open, beside the slow request.
        let open = (seen.get(&state("active", 1))?, seen.get(&state("idle", 1))?);
        let balanced = entered(&seen, 1) == ended(&seen, 1) + 2.0;
        let one_each = seen.get(&of("hotupdate_requests_total", 1))? == &entered(&seen, 1);
        (open == (&2.0, &0.0) && balanced && one_each).then_some(seen)
    });
    let accepted = before[&connections("accepted", 1)];
    assert!(accepted >= 7.0, "{before:?}");
    for event in ["adopted", "migrated", "closed", "forced"] {
        assert_eq!(before[&connections(event, 1)], 0.0, "{event}: {before:?}");
    }

    // One that fails is counted by the process that serves on.
    let broken = ["--fail-before-ready", "exit"];
    assert_eq!(sandbox.handoff("broken", &broken).code(), 1);
    assert_eq!(scrape(first.http)?[&handoffs("failed", 1)], 1.0);

    let second = Handover::run(&sandbox, Way::ByHand, first, "v2", &arguments).to;
    let generation = second.generation;
    let during = eventually("the predecessor has told", SOON, || {
        let seen = scrape(first.http).ok()?;
        (seen.get(&state("active", 1)) == Some(&1.0)).then_some(seen)
    });
    assert_eq!(during[&handoffs("served", generation)], 1.0, "{during:?}");
    assert_eq!(during[&of("hotupdate_gap_seconds_count", generation)], 1.0, "{during:?}");
    let gap =
        Status::ask(&sandbox.control())?.last_handoff.and_then(|handoff| handoff.gap_ns).expect("a gap");
    let sum = during[&of("hotupdate_gap_seconds_sum", generation)];
    assert!((sum - Duration::from_nanos(gap).as_secs_f64()).abs() < 1e-9, "{sum} s is not {gap} ns");

    slow.answer()?;
    let after = eventually("the predecessor has ended", SOON, || {
        let seen = scrape(first.http).ok()?;
        let open = ["idle", "active", "upgraded"].map(|name| seen[&state(name, 1)]).iter().sum::<f64>();
        // A scrape takes one figure after the other, so the first one with no connection may have older counts.
        (open == 0.0 && ended(&seen, 1) == entered(&seen, 1)).then_some(seen)
    });
    // Its last word stays.
    let entered = entered(&after, 1);
    assert!(entered > accepted && after[&of("hotupdate_requests_total", 1)] >= entered, "{after:?}");
    let moved = after[&connections("migrated", 1)];
    assert_eq!(after[&connections("adopted", generation)], moved, "{after:?}");
    Ok(())
}

#[test]
fn a_rollback_is_counted_by_the_process_that_serves_again() -> anyhow::Result<()> {
    let sandbox = Sandbox::new();
    let arguments = ["--probation", "60"];
    let first = Service::start(&sandbox, "v1", &arguments).wait_serving();
    let _ = Handover::run(&sandbox, Way::ByHand, first, "v2", &arguments);
    let _ = hotctl(&sandbox, &["rollback"]).expect_success();
    let seen = scrape(first.http)?;
    assert_eq!(seen[&handoffs("rolled_back", 1)], 1.0, "{seen:?}");
    assert!(!seen.contains_key(&handoffs("served", 1)), "{seen:?}");
    Ok(())
}
