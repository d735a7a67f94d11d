//! The new version fails: the old one serves on, `hotctl` says why in one line, and the next attempt works.
//!
//! Deliberately absent: the death of a process that serves or drains, see `kill.rs`.

use std::io::Write;
use std::os::unix::net::UnixStream;

use integration_tests::client::who_answers;
use integration_tests::load::{Load, LoadPlan};
use integration_tests::process::{binary, eventually};
use integration_tests::{Handover, Outcome, SOON, Sandbox, Service, Serving, Status, Way, hotctl};
use rustix::process::Signal;

/// A service that serves, and what it serves on.
fn incumbent(sandbox: &Sandbox) -> (Service<'_>, Serving) {
    let service = Service::start(sandbox, "v1", &["--probation", "1"]);
    let serving = service.wait_serving();
    (service, serving)
}

/// `hotctl handoff -- sh -c <script>` ends with this code, in one line that says why and who serves.
fn fails(sandbox: &Sandbox, serving: Serving, arguments: &[&str], code: i32) -> Outcome {
    let outcome = hotctl(sandbox, arguments);
    assert_eq!(outcome.code(), code, "{}", outcome.stderr);
    let line = outcome.error_line();
    assert!(line.starts_with("hotctl: handoff: "), "{line}");
    assert!(line.ends_with(&format!("; {} (v1) is still serving", serving.pid)), "{line}");
    let errors = outcome.stderr.lines().filter(|line| line.starts_with("hotctl: ")).count();
    assert_eq!(errors, 1, "more than one line: {}", outcome.stderr);
    assert_eq!(who_answers(serving.http).expect("it serves on"), serving.pid);
    outcome
}

fn next_attempt_works(sandbox: &Sandbox, serving: Serving) {
    let handover = Handover::run(sandbox, Way::Hotctl, serving, "v2", &["--probation", "1"]);
    assert_eq!(who_answers(serving.http).expect("it serves"), handover.to.pid);
}

/// A successor that is ready and waits for a command.
fn standby(sandbox: &Sandbox) -> Service<'_> {
    let successor = Service::start(sandbox, "v2", &["--standby", "--probation", "1"]);
    eventually("a successor in standby", SOON, || {
        let waiting = Status::ask(&sandbox.control()).ok()?.successor?;
        (waiting.process.pid == successor.pid() && waiting.state == "standby").then_some(())
    });
    successor
}

#[test]
fn it_exits() {
    let sandbox = Sandbox::new();
    let (_, serving) = incumbent(&sandbox);
    let outcome = fails(&sandbox, serving, &["handoff", "--", "sh", "-c", "exit 3"], 1);
    assert!(outcome.error_line().contains("exited (status 3) before it was ready"), "{}", outcome.stderr);
    next_attempt_works(&sandbox, serving);
}

#[test]
fn it_rejects_its_arguments() {
    let sandbox = Sandbox::new();
    let (_, serving) = incumbent(&sandbox);
    let server = binary("axum-server").to_string_lossy().into_owned();
    let outcome = fails(&sandbox, serving, &["handoff", "--", &server, "--no-such-flag"], 1);
    assert!(outcome.error_line().contains("exited (status 2)"), "{}", outcome.stderr);
    next_attempt_works(&sandbox, serving);
}

#[test]
fn it_aborts() {
    let sandbox = Sandbox::new();
    let (_, serving) = incumbent(&sandbox);
    let outcome = fails(&sandbox, serving, &["handoff", "--", "sh", "-c", "kill -ABRT $$"], 1);
    assert!(outcome.error_line().contains("signal 6"), "{}", outcome.stderr);
    next_attempt_works(&sandbox, serving);
}

#[test]
fn it_does_not_exist() {
    let sandbox = Sandbox::new();
    let (_, serving) = incumbent(&sandbox);
    let outcome = fails(&sandbox, serving, &["handoff", "--", "/no/such/program"], 1);
    assert!(outcome.error_line().contains("/no/such/program"), "{}", outcome.stderr);
    next_attempt_works(&sandbox, serving);
}

#[test]
fn it_never_joins() {
    let sandbox = Sandbox::new();
    let (service, serving) = incumbent(&sandbox);
    fails(&sandbox, serving, &["--timeout", "1", "handoff", "--", "sleep", "1000"], 4);
    eventually("the end of what hotctl started", SOON, || {
        (sandbox.processes() == [service.pid()]).then_some(())
    });
    next_attempt_works(&sandbox, serving);
}

#[test]
fn it_dies_in_standby() {
    let sandbox = Sandbox::new();
    let (_, serving) = incumbent(&sandbox);
    standby(&sandbox).kill();
    failure_is_known(&sandbox);
    let outcome = fails(&sandbox, serving, &["handoff"], 1);
    assert!(outcome.error_line().contains("no successor"), "{}", outcome.stderr);
    next_attempt_works(&sandbox, serving);
}

#[test]
fn it_hangs_when_it_is_released() {
    let sandbox = Sandbox::new();
    let (service, serving) = incumbent(&sandbox);
    let load = Load::start(serving.http, LoadPlan::default());
    eventually("an answer to every client", SOON, || load.is_warm().then_some(()));
    let successor = standby(&sandbox);
    successor.signal(Signal::STOP);

    fails(&sandbox, serving, &["handoff"], 1);

    failure_is_known(&sandbox);
    successor.signal(Signal::CONT);
    successor.wait_exit();
    assert!(
        sandbox.servings().iter().all(|announced| announced.pid == service.pid()),
        "it served nevertheless"
    );
    load.stop().assert_nothing_failed();
    next_attempt_works(&sandbox, serving);
}

#[test]
fn an_operator_aborts_it() {
    let sandbox = Sandbox::new();
    let (_, serving) = incumbent(&sandbox);
    let successor = standby(&sandbox);
    let _done = hotctl(&sandbox, &["abort"]).expect_success();
    assert_ne!(
        successor.wait_exit(),
        integration_tests::process::Exit::Status(0),
        "an aborted start is no success"
    );
    assert_eq!(who_answers(serving.http).expect("it serves on"), serving.pid);
    next_attempt_works(&sandbox, serving);
}

#[test]
fn a_second_one_is_told_about_the_first() {
    let sandbox = Sandbox::new();
    let (_, serving) = incumbent(&sandbox);
    let first = standby(&sandbox);
    let server = binary("axum-server").to_string_lossy().into_owned();
    let arguments = Service::arguments(&sandbox, "v3", &[]);
    let mut all = vec!["handoff", "--", server.as_str()];
    all.extend(arguments.iter().map(String::as_str));
    let outcome = fails(&sandbox, serving, &all, 1);
    assert!(outcome.error_line().contains(&first.pid().to_string()), "{}", outcome.stderr);
    assert!(first.is_alive());
    let _done = hotctl(&sandbox, &["handoff"]).expect_success();
    assert_eq!(who_answers(serving.http).expect("it serves"), first.pid());
}

#[test]
fn ten_failures_then_a_success() {
    let sandbox = Sandbox::new();
    let (service, serving) = incumbent(&sandbox);
    standby(&sandbox).kill();
    failure_is_known(&sandbox);
    let before = quiet_fds(&service, &sandbox);
    for number in 0..10 {
        match number % 3 {
            0 => drop(fails(&sandbox, serving, &["handoff", "--", "sh", "-c", "exit 101"], 1)),
            1 => drop(fails(&sandbox, serving, &["handoff", "--", "sh", "-c", "kill -SEGV $$"], 1)),
            _ => {
                standby(&sandbox).kill();
                failure_is_known(&sandbox);
            }
        }
    }
    // A question costs a descriptor for a moment, also the last one that was asked; what leaked would stay.
    eventually("no more descriptors than before the failed attempts", SOON, || {
        (quiet_fds(&service, &sandbox) <= before).then_some(())
    });
    next_attempt_works(&sandbox, serving);
}

/// The successor is gone from the status, and the failure is in it.
fn failure_is_known(sandbox: &Sandbox) {
    eventually("the status names the failure", SOON, || {
        let status = Status::ask(&sandbox.control()).ok()?;
        (status.successor.is_none() && status.last_failure.is_some()).then_some(())
    });
}

/// The descriptors of a service that no client talks to: a count that was the same twice in a row.
fn quiet_fds(service: &Service<'_>, sandbox: &Sandbox) -> usize {
    let mut last = None;
    eventually("a quiet service", SOON, || {
        let connections = Status::ask(&sandbox.control()).ok()?.serving.connections;
        let fds = service.facts().fds;
        let calm = last.replace(fds) == Some(fds);
        (calm && connections.idle + connections.active == 0).then_some(fds)
    })
}

/// A caller that joins and then says nothing: ended by an operator, and nothing is left of it.
#[test]
fn it_joins_and_says_nothing() -> anyhow::Result<()> {
    let sandbox = Sandbox::new();
    let (_, serving) = incumbent(&sandbox);
    let silent = join_and_say_nothing(&sandbox)?;
    eventually("a successor that starts", SOON, || {
        (Status::ask(&sandbox.control()).ok()?.successor?.state == "starting").then_some(())
    });
    let _done = hotctl(&sandbox, &["abort"]).expect_success();
    failure_is_known(&sandbox);
    drop(silent);
    next_attempt_works(&sandbox, serving);
    Ok(())
}

fn join_and_say_nothing(sandbox: &Sandbox) -> anyhow::Result<UnixStream> {
    let call = serde_json::json!({
        "method": "io.hotupdate.Join", "upgrade": true,
        "parameters": {
            "versions": {"min": 1, "max": 1}, "features": [],
            "process": {"instance": "0123456789abcdef0123456789abcdef", "pid": 1, "version": "silent"},
        },
    });
    let mut stream = UnixStream::connect(sandbox.control())?;
    stream.write_all(format!("{call}\0").as_bytes())?;
    Ok(stream)
}
