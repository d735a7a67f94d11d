//! The classic walk: a slow request in flight, a handoff, a new request; in all three ways to start a
//! successor.
//!
//! Deliberately absent: load. One request each, as a person with two terminals would do it.

use std::time::{Duration, Instant};

use integration_tests::client::{InFlight, get, who_answers};
use integration_tests::process::eventually;
use integration_tests::{Handover, Sandbox, Service, Status, Way};

/// The slow request; a person would take 20 seconds.
const SLEEP: Duration = Duration::from_secs(3);

/// No person would call a second "at once", but a machine with two cores may be busy.
const AT_ONCE: Duration = Duration::from_secs(1);

fn walk(way: Way) -> anyhow::Result<()> {
    let sandbox = Sandbox::new();
    let old = Service::start(&sandbox, "v1", &["--probation", "1"]);
    let serving = old.wait_serving();
    assert_eq!((serving.pid, serving.generation), (old.pid(), 1));
    let slow = InFlight::start(serving.http, SLEEP);
    eventually("the slow request is in flight", AT_ONCE * 5, || {
        let status = Status::ask(&sandbox.control()).ok()?;
        (status.serving.connections.active == 1).then_some(())
    });

    let handover = Handover::run(&sandbox, way, serving, "v2", &["--probation", "1"]);

    assert!(slow.is_waiting(), "the handoff took longer than the slow request");
    let begun = Instant::now();
    assert_eq!(who_answers(serving.http)?, handover.to.pid);
    assert!(begun.elapsed() < AT_ONCE, "the new version took {:?}", begun.elapsed());
    assert_ne!(handover.to.pid, old.pid());
    assert_eq!(handover.to.generation, 2);
    let expected = if way == Way::Sighup { "v1" } else { "v2" };
    assert_eq!(get(serving.http, "/version")?.trim(), expected);

    let (pid, took) = slow.answer()?;
    assert_eq!(pid, old.pid(), "the slow request was answered by another process");
    assert!(took >= SLEEP, "the slow request was cut to {took:?}");
    assert_eq!(old.wait_drained().forced, 0);

    let new = Service::of(&sandbox, handover.to.pid);
    assert!(new.is_alive());
    let ours = integration_tests::process::Facts::of(std::process::id()).expect("this test runs").session;
    assert!(way == Way::ByHand || new.facts().session != ours, "{way}: the successor is not detached");
    assert_eq!(who_answers(serving.http)?, new.pid());
    Ok(())
}

#[test]
fn started_by_hand() -> anyhow::Result<()> {
    walk(Way::ByHand)
}

#[test]
fn started_by_hotctl() -> anyhow::Result<()> {
    walk(Way::Hotctl)
}

#[test]
fn started_by_sighup() -> anyhow::Result<()> {
    walk(Way::Sighup)
}
