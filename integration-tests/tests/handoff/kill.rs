//! `kill -9` on either side at every moment: the service answers afterwards, and the next handoff works.
//!
//! Deliberately absent: load. A request that a killed process had read is lost, and that cannot be helped.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use integration_tests::client::{InFlight, who_answers};
use integration_tests::process::eventually;
use integration_tests::{Handover, SOON, Sandbox, Service, Serving, Status, Way, hotctl};

/// The predecessor waits longer than the test.
const ARGUMENTS: [&str; 2] = ["--probation", "30"];

fn first(sandbox: &Sandbox) -> (Service<'_>, Serving) {
    let service = Service::start(sandbox, "v1", &ARGUMENTS);
    let serving = service.wait_serving();
    (service, serving)
}

fn standby(sandbox: &Sandbox) -> Service<'_> {
    let successor = Service::start(sandbox, "v2", &["--standby", "--probation", "30"]);
    eventually("a successor in standby", SOON, || {
        let waiting = Status::ask(&sandbox.control()).ok()?.successor?;
        (waiting.process.pid == successor.pid() && waiting.state == "standby").then_some(())
    });
    successor
}

/// From before the successor has opened a file until after it serves, in steps that fall into each step of a
/// handoff.
fn moments() -> impl Iterator<Item = Duration> {
    (0..48).step_by(3).map(Duration::from_millis)
}

fn pass(moment: Duration) {
    let begun = Instant::now();
    eventually("a moment", SOON, || (begun.elapsed() >= moment).then_some(()));
}

/// Who answers, and owns the control socket.
fn settled(sandbox: &Sandbox, address: SocketAddr, pid: u32) {
    assert_eq!(who_answers(address).expect("the service answers"), pid);
    eventually("the one who answers owns the control socket", SOON, || {
        let status = Status::ask(&sandbox.control()).ok()?;
        (status.serving.process.pid == pid && status.successor.is_none()).then_some(())
    });
}

/// Hands off from the process that serves at the moment.
fn next_handoff_works(sandbox: &Sandbox, address: SocketAddr) {
    let status = Status::ask(&sandbox.control()).expect("a process serves");
    let (pid, generation) = (status.serving.process.pid, newest_generation(sandbox, &status));
    let handover =
        Handover::run(sandbox, Way::ByHand, Serving { pid, generation, http: address }, "v9", &ARGUMENTS);
    assert_eq!(who_answers(address).expect("the service answers"), handover.to.pid);
}

/// Numbers never go back, so the next one is above every one that was announced.
fn newest_generation(sandbox: &Sandbox, status: &Status) -> u64 {
    let announced = sandbox.servings().iter().map(|serving| serving.generation).max().unwrap_or_default();
    announced.max(status.serving.generation)
}

#[test]
fn the_successor_at_every_moment() {
    for moment in moments() {
        let sandbox = Sandbox::new();
        let (old, serving) = first(&sandbox);
        let successor = Service::start(&sandbox, "v2", &ARGUMENTS);
        pass(moment);
        successor.kill();
        settled(&sandbox, serving.http, old.pid());
        next_handoff_works(&sandbox, serving.http);
    }
}

#[test]
fn the_incumbent_at_every_moment() {
    for moment in moments() {
        let sandbox = Sandbox::new();
        let (old, _) = first(&sandbox);
        let successor = Service::start(&sandbox, "v2", &ARGUMENTS);
        pass(moment);
        old.kill();
        // Before the inventory is complete it starts as a first start would, on a port of its own.
        let serving = successor.wait_serving();
        settled(&sandbox, serving.http, successor.pid());
        next_handoff_works(&sandbox, serving.http);
    }
}

#[test]
fn the_incumbent_while_the_successor_stands_by() {
    let sandbox = Sandbox::new();
    let (old, serving) = first(&sandbox);
    let successor = standby(&sandbox);
    old.kill();
    assert_eq!(successor.wait_serving().http, serving.http, "it serves with what it holds");
    settled(&sandbox, serving.http, successor.pid());
    next_handoff_works(&sandbox, serving.http);
}

#[test]
fn the_new_version_in_probation() {
    let sandbox = Sandbox::new();
    let (old, serving) = first(&sandbox);
    let handover = Handover::run(&sandbox, Way::ByHand, serving, "v2", &ARGUMENTS);
    Service::of(&sandbox, handover.to.pid).kill();
    settled(&sandbox, serving.http, old.pid());
    let status = Status::ask(&sandbox.control()).expect("it serves again");
    assert_eq!(status.serving.generation, 1, "it takes over under its own generation");
    next_handoff_works(&sandbox, serving.http);
}

#[test]
fn the_new_version_in_probation_ten_times() {
    let sandbox = Sandbox::new();
    let (old, serving) = first(&sandbox);
    for _ in 0..10 {
        let generation = newest_generation(&sandbox, &Status::ask(&sandbox.control()).expect("it serves"));
        // An operator may try as often as it takes; a supervisor has to wait, see `crash_loop.rs`.
        let handover =
            Handover::run(&sandbox, Way::Hotctl, Serving { generation, ..serving }, "v2", &ARGUMENTS);
        Service::of(&sandbox, handover.to.pid).kill();
        settled(&sandbox, serving.http, old.pid());
    }
    let _next = sandbox.handoff("v9", &ARGUMENTS).expect_success();
}

/// The oldest sees no end of its link, because the newest holds it too: it is asked.
#[test]
fn the_new_version_in_probation_while_the_next_one_warms_up() {
    let sandbox = Sandbox::new();
    let (old, serving) = first(&sandbox);
    let handover = Handover::run(&sandbox, Way::ByHand, serving, "v2", &ARGUMENTS);
    let next = Service::start(&sandbox, "v3", &["--probation", "30", "--warm-up", "3600"]);
    eventually("the next one warms up", SOON, || {
        hotctl(&sandbox, &["handoff"]).stderr.contains("warming up").then_some(())
    });
    Service::of(&sandbox, handover.to.pid).kill();
    settled(&sandbox, serving.http, old.pid());
    next.kill();
    next_handoff_works(&sandbox, serving.http);
}

#[test]
fn the_old_version_while_it_drains() {
    let sandbox = Sandbox::new();
    let (old, serving) = first(&sandbox);
    let slow = InFlight::start(serving.http, Duration::from_secs(30));
    eventually("the request is in flight", SOON, || {
        (Status::ask(&sandbox.control()).ok()?.serving.connections.active == 1).then_some(())
    });
    let handover = Handover::run(&sandbox, Way::ByHand, serving, "v2", &ARGUMENTS);
    old.kill();
    assert!(slow.answer().is_err(), "the request died with its process");
    settled(&sandbox, serving.http, handover.to.pid);
    eventually("a status without the dead", SOON, || {
        Status::ask(&sandbox.control()).ok()?.predecessors.is_empty().then_some(())
    });
    next_handoff_works(&sandbox, serving.http);
}

#[test]
fn an_operator_takes_it_back() {
    let sandbox = Sandbox::new();
    let (old, serving) = first(&sandbox);
    let handover = Handover::run(&sandbox, Way::ByHand, serving, "v2", &ARGUMENTS);
    let _done = hotctl(&sandbox, &["rollback"]).expect_success();
    settled(&sandbox, serving.http, old.pid());
    assert_eq!(Service::of(&sandbox, handover.to.pid).wait_drained().forced, 0);
    next_handoff_works(&sandbox, serving.http);
}
