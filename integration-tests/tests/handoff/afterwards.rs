//! `hotctl status` tells the truth afterwards: what failed, what was taken back, which process died.
//!
//! Deliberately absent: what clients notice; see `kill.rs` and `failures.rs`.

use std::time::Duration;

use integration_tests::client::{InFlight, who_answers};
use integration_tests::process::eventually;
use integration_tests::{Handover, SOON, Sandbox, Service, Serving, Status, Way, hotctl};
use rustix::process::Signal;

/// The predecessor waits longer than the test.
const ARGUMENTS: [&str; 2] = ["--probation", "60"];

fn first(sandbox: &Sandbox) -> (Service<'_>, Serving) {
    let service = Service::start(sandbox, "v1", &ARGUMENTS);
    let serving = service.wait_serving();
    (service, serving)
}

/// What `hotctl status` says, once the status has an event of this kind first.
#[track_caller]
fn status_with(sandbox: &Sandbox, kind: &str) -> String {
    eventually(&format!("{kind} in the status"), SOON, || {
        let history = Status::ask(&sandbox.control()).ok()?.history;
        (history.first()?.kind == kind).then_some(())
    });
    let text = hotctl(sandbox, &["status"]).expect_success().stdout;
    let json = hotctl(sandbox, &["--json", "status"]).expect_success().stdout;
    assert!(json.contains(&format!("\"history\":[{{\"kind\":\"{kind}\"")), "{json}");
    text
}

#[test]
fn a_rollback() {
    let sandbox = Sandbox::new();
    let (_, old) = first(&sandbox);
    let new = Handover::run(&sandbox, Way::ByHand, old, "v2", &ARGUMENTS).to;
    let _ = hotctl(&sandbox, &["rollback"]).expect_success();
    let said = format!(
        "{} (v1) serves again instead of {} (v2), generation 2: an operator rolled it back",
        old.pid, new.pid
    );
    let text = status_with(&sandbox, "rolled_back");
    assert!(text.contains(&said) && text.contains("AGO"), "{text}");
    // The next version knows it, too.
    let _ = sandbox.handoff("v3", &ARGUMENTS).expect_success();
    let text = status_with(&sandbox, "rolled_back");
    assert!(text.contains(&said) && text.contains(" v3 "), "{text}");
}

/// What a supervisor does that stops the new version.
#[test]
fn a_service_that_was_given_back() {
    let sandbox = Sandbox::new();
    let (_, old) = first(&sandbox);
    let new = Handover::run(&sandbox, Way::ByHand, old, "v2", &ARGUMENTS).to;
    Service::of(&sandbox, new.pid).signal(Signal::TERM);
    let said = format!(
        "{} (v1) serves again instead of {} (v2), generation 2: it was told to stop",
        old.pid, new.pid
    );
    let text = status_with(&sandbox, "rolled_back");
    assert!(text.contains(&said), "{text}");
}

#[test]
fn a_rollback_of_a_version_that_has_seen_failures() {
    let sandbox = Sandbox::new();
    let (_, old) = first(&sandbox);
    let _ = Handover::run(&sandbox, Way::ByHand, old, "v2", &ARGUMENTS);
    assert_eq!(sandbox.handoff("v3", &["--fail-before-ready", "exit"]).code(), 1);
    let _ = hotctl(&sandbox, &["rollback"]).expect_success();
    let text = status_with(&sandbox, "rolled_back");
    let lines: Vec<_> = text.lines().skip_while(|line| !line.starts_with("AGO")).collect();
    assert_eq!(lines.len(), 3, "the rollback and the failure: {text}");
    assert!(lines[2].contains("(v3) failed while it was"), "{text}");
}

#[test]
fn a_takeover_after_a_crash() {
    let sandbox = Sandbox::new();
    let (_, old) = first(&sandbox);
    let new = Handover::run(&sandbox, Way::ByHand, old, "v2", &ARGUMENTS).to;
    Service::of(&sandbox, new.pid).kill();
    let text = status_with(&sandbox, "took_over");
    let said = format!(
        "{} (v2), generation 2, died soon after it took over; {} (v1) serves again",
        new.pid, old.pid
    );
    assert!(text.contains(&said), "{text}");
    assert_eq!(who_answers(old.http).expect("it answers"), old.pid);
}

#[test]
fn a_successor_that_steps_in_for_a_dead_incumbent() {
    let sandbox = Sandbox::new();
    let (old, serving) = first(&sandbox);
    let successor = Service::start(&sandbox, "v2", &["--standby", "--probation", "60"]);
    eventually("a successor in standby", SOON, || {
        (Status::ask(&sandbox.control()).ok()?.successor?.state == "standby").then_some(())
    });
    old.kill();
    let new = successor.wait_serving();
    let text = status_with(&sandbox, "stepped_in");
    let said =
        format!("{} (v1), generation 1, died during the handoff; {} (v2) serves", serving.pid, new.pid);
    assert!(text.contains(&said), "{text}");
}

#[test]
fn an_attempt_that_failed() {
    let sandbox = Sandbox::new();
    let _old = first(&sandbox);
    assert_eq!(sandbox.handoff("v2", &["--fail-before-ready", "exit"]).code(), 1);
    let text = status_with(&sandbox, "failed");
    let line = text.lines().find(|line| line.starts_with("last failure: ")).expect("it has a line");
    assert!(line.contains("(v2), generation 2, ") && line.contains(" ago: "), "{text}");
    assert!(!text.contains("AGO"), "it is told once: {text}");
    // And an older one beside it.
    assert_eq!(sandbox.handoff("v3", &["--fail-before-ready", "exit"]).code(), 1);
    let text = eventually("both are told", SOON, || {
        let text = hotctl(&sandbox, &["status"]).expect_success().stdout;
        (text.contains("AGO") && text.contains("(v3), generation 3, ")).then_some(text)
    });
    assert!(text.contains("(v2) failed while it was"), "{text}");
}

#[test]
fn a_predecessor_that_dies_with_connections() {
    let sandbox = Sandbox::new();
    let (old, serving) = first(&sandbox);
    let slow = InFlight::start(serving.http, Duration::from_secs(60));
    let _ = Handover::run(&sandbox, Way::ByHand, serving, "v2", &ARGUMENTS);
    old.kill();
    let text = status_with(&sandbox, "lost");
    assert!(text.contains("generation 1 died while it was draining, with 1 connection (1 active"), "{text}");
    assert!(slow.answer().is_err(), "its request is lost, and nothing else");
}
