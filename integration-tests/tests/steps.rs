//! `kill -9` on either side before each message that it sends during a handoff: the service answers, and the next works.
//!
//! Deliberately absent: chance. strace(1) kills the process when it calls sendmsg(2) for the n-th time, and only links use
//! that call; with one worker thread the n-th call is always the same step.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use integration_tests::client::who_answers;
use integration_tests::process::{Facts, binary, eventually};
use integration_tests::{Handover, Sandbox, Service, Serving, Status, Way, hotctl};

const SOON: Duration = Duration::from_secs(20);
const ARGUMENTS: [&str; 2] = ["--probation", "30"];

/// More messages than either side sends in a handoff with one listener; the last runs are those in which nobody dies.
const STEPS: u32 = 9;

/// The program, which dies when it is about to send its `n`-th message.
fn mortal<'a>(sandbox: &'a Sandbox, version: &str, n: u32) -> Service<'a> {
    let inject = format!("inject=sendmsg:signal=KILL:when={n}");
    let mut arguments: Vec<String> = ["TOKIO_WORKER_THREADS=1", "strace", "-f", "-qq", "-o", "/dev/null"]
        .iter()
        .chain(&["-e", "trace=sendmsg", "-e", &inject])
        .map(|argument| (*argument).to_owned())
        .collect();
    arguments.push(binary("axum-server").display().to_string());
    arguments.extend(Service::arguments(sandbox, version, &ARGUMENTS));
    Service::spawn(sandbox, Path::new("/usr/bin/env"), &arguments)
}

/// Somebody answers, the same owns the control socket, and hands over to the next version.
fn goes_on(sandbox: &Sandbox, http: SocketAddr, step: u32) {
    let serving = eventually("an owner that answers, and nobody on the way", SOON, || {
        let status = Status::ask(&sandbox.control()).ok()?;
        let pid = status.serving.process.pid;
        let settled = status.serving.state == "serving" && status.successor.is_none();
        (settled && who_answers(http).ok()? == pid).then_some(status.serving)
    });
    // Numbers never go back: the next is above all that were given.
    let generation = sandbox.servings().iter().map(|serving| serving.generation).max().unwrap();
    let before = Serving { pid: serving.process.pid, generation: generation.max(serving.generation), http };
    let handover = Handover::run(sandbox, Way::ByHand, before, "v3", &ARGUMENTS);
    assert_eq!(who_answers(http).unwrap(), handover.to.pid, "step {step}");
}

/// It is over for the tracer when its program is dead, or when the program serves.
fn has_its_fate(sandbox: &Sandbox, tracer: &Service<'_>, version: &str) {
    eventually("the death of the program, or its service", SOON, || {
        let dead = Facts::of(tracer.pid()).is_none();
        let serves =
            Status::ask(&sandbox.control()).is_ok_and(|status| status.serving.process.version == version);
        (dead || serves).then_some(())
    });
}

#[test]
fn the_successor_at_each_step() {
    let mut died = 0;
    for step in 1..=STEPS {
        let sandbox = Sandbox::new();
        let old = Service::start(&sandbox, "v1", &ARGUMENTS);
        let serving = old.wait_serving();
        let successor = mortal(&sandbox, "v2", step);
        has_its_fate(&sandbox, &successor, "v2");
        died += u32::from(Facts::of(successor.pid()).is_none());
        goes_on(&sandbox, serving.http, step);
    }
    // Join, received (listeners), received (control); the calls are counted by thread, so the last two have tests of their
    // own.
    assert!(died >= 3, "only {died} steps were met");
}

/// Kills a process that runs already when any of its threads is about to send a message.
fn doom<'a>(sandbox: &'a Sandbox, victim: &Service<'_>) -> Service<'a> {
    let pid = victim.pid().to_string();
    let arguments = [
        "-f",
        "-qq",
        "-o",
        "/dev/null",
        "-e",
        "trace=sendmsg",
        "-e",
        "inject=sendmsg:signal=KILL",
        "-p",
        &pid,
    ];
    let tracer = Service::spawn(sandbox, Path::new("/usr/bin/strace"), &arguments.map(ToOwned::to_owned));
    eventually("a tracer on each thread", SOON, || {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?;
        let traced = |task: std::fs::DirEntry| {
            let status = std::fs::read_to_string(task.path().join("status")).unwrap_or_default();
            !status.contains("TracerPid:\t0\n")
        };
        tasks.filter_map(Result::ok).all(traced).then_some(())
    });
    tracer
}

#[test]
fn the_successor_before_ready() {
    let sandbox = Sandbox::new();
    let serving = Service::start(&sandbox, "v1", &ARGUMENTS).wait_serving();
    let successor = Service::start(&sandbox, "v2", &["--warm-up", "1"]);
    eventually("a successor that warms up", SOON, || Status::ask(&sandbox.control()).ok()?.successor);
    let _tracer = doom(&sandbox, &successor);
    eventually("its death", SOON, || Facts::of(successor.pid()).is_none().then_some(()));
    goes_on(&sandbox, serving.http, 4);
}

#[test]
fn the_successor_before_serving() {
    let sandbox = Sandbox::new();
    let serving = Service::start(&sandbox, "v1", &ARGUMENTS).wait_serving();
    let successor = Service::start(&sandbox, "v2", &["--standby"]);
    eventually("a successor in standby", SOON, || {
        let successor = Status::ask(&sandbox.control()).ok()?.successor?;
        (successor.state == "standby").then_some(())
    });
    let _tracer = doom(&sandbox, &successor);
    let outcome = hotctl(&sandbox, &["handoff"]);
    assert_eq!(outcome.code(), 1, "{}", outcome.stderr);
    assert!(outcome.error_line().ends_with("is still serving"), "{}", outcome.stderr);
    goes_on(&sandbox, serving.http, 5);
}

#[test]
fn the_incumbent_at_each_step() {
    let mut died = 0;
    for step in 1..=STEPS {
        let sandbox = Sandbox::new();
        let old = mortal(&sandbox, "v1", step);
        eventually("the first version", SOON, || (!sandbox.servings().is_empty()).then_some(()));
        let new = Service::start(&sandbox, "v2", &ARGUMENTS);
        // Whatever happened to the old one, a new one was started: it serves in the end, at the address that it inherited
        // if the inventory was complete, and at one of its own otherwise.
        let now = eventually("the new version serves", SOON, || {
            let status = Status::ask(&sandbox.control()).ok()?;
            let serves = status.serving.process.version == "v2" && status.serving.state == "serving";
            let announced = sandbox.servings().into_iter().find(|serving| serving.pid == new.pid());
            announced.filter(|_| serves).map(|serving| serving.http)
        });
        died += u32::from(Facts::of(old.pid()).is_none());
        goes_on(&sandbox, now, step);
    }
    // The reply, listeners, control, complete, released.
    assert!(died >= 5, "only {died} steps were met");
}
