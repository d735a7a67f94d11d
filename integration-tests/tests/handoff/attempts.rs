//! An attempt belongs to its `hotctl`: what becomes of it, and of its output, when that ends.

use std::fs;
use std::io::Read as _;
use std::process::{Command, Stdio};
use std::time::Instant;

use integration_tests::client::who_answers;
use integration_tests::process::{binary, eventually, spawn_hotctl};
use integration_tests::{Handover, SOON, Sandbox, Service, Serving, Status, Way, hotctl};
use rustix::process::Signal;

fn incumbent(sandbox: &Sandbox) -> (Service<'_>, Serving) {
    let service = Service::start(sandbox, "v1", &["--probation", "1"]);
    let serving = service.wait_serving();
    (service, serving)
}

fn command(sandbox: &Sandbox, more: &[&str]) -> Vec<String> {
    let server = binary("axum-server").display().to_string();
    [vec![server], Service::arguments(sandbox, "v2", more)].concat()
}

/// It is killed before it could say a word: the service aborts the attempt, and COMMAND ends.
#[test]
fn hotctl_is_killed_while_the_successor_warms_up() {
    let sandbox = Sandbox::new();
    let (_service, serving) = incumbent(&sandbox);
    for signal in [Signal::KILL, Signal::TERM, Signal::HUP] {
        let command = command(&sandbox, &["--warm-up", "600", "--probation", "1"]);
        let arguments: Vec<_> =
            ["handoff", "--"].into_iter().chain(command.iter().map(String::as_str)).collect();
        let hotctl = spawn_hotctl(&sandbox, &arguments);
        let pid = eventually("the successor warms up", SOON, || {
            Some(Status::ask(&sandbox.control()).ok()?.successor?.process.pid)
        });
        hotctl.process().signal(signal);
        eventually("the attempt is over", SOON, || {
            Status::ask(&sandbox.control()).ok()?.successor.is_none().then_some(())
        });
        let successor = Service::of(&sandbox, pid);
        eventually("the successor has ended", SOON, || (!successor.is_alive()).then_some(()));
        assert_eq!(who_answers(serving.http).expect("it serves on"), serving.pid);
    }
    let handover = Handover::run(&sandbox, Way::Hotctl, serving, "v2", &["--probation", "1"]);
    assert_eq!(who_answers(serving.http).expect("it serves"), handover.to.pid);
}

/// A person that looks at the status later reads what ended the attempt.
#[test]
fn why_an_attempt_was_aborted_is_told_afterwards() {
    let sandbox = Sandbox::new();
    let (_service, serving) = incumbent(&sandbox);
    let command = command(&sandbox, &["--warm-up", "600"]);
    let abort = ["--socket", &sandbox.control().display().to_string(), "abort"].map(str::to_owned);
    let ways = [
        ("timeout", "`hotctl handoff` timed out after 2 s"),
        ("SIGINT", "`hotctl handoff` was interrupted (Ctrl-C)"),
        ("SIGTERM", "`hotctl handoff` was told to end (SIGTERM)"),
        ("SIGHUP", "`hotctl handoff` lost its terminal (SIGHUP)"),
        ("SIGKILL", "the operator that began the attempt has gone"),
        ("hotctl abort", "by an operator"),
    ];
    for (way, why) in ways {
        let seconds = if way == "timeout" { "2" } else { "600" };
        let arguments = ["--timeout", seconds, "handoff", "--"].into_iter();
        let arguments: Vec<_> = arguments.chain(command.iter().map(String::as_str)).collect();
        let hotctl = spawn_hotctl(&sandbox, &arguments);
        eventually("the successor warms up", SOON, || Status::ask(&sandbox.control()).ok()?.successor);
        match way {
            "SIGINT" => hotctl.process().signal(Signal::INT),
            "SIGTERM" => hotctl.process().signal(Signal::TERM),
            "SIGHUP" => hotctl.process().signal(Signal::HUP),
            "SIGKILL" => hotctl.process().signal(Signal::KILL),
            "hotctl abort" => drop(Service::spawn(&sandbox, &binary("hotctl"), &abort).wait_exit()),
            _ => {}
        }
        let _outcome = hotctl.wait();
        let said = if way == "hotctl abort" { format!("aborted {why}") } else { format!("aborted: {why}") };
        let told = eventually(&format!("{way} in the status"), SOON, || {
            let status = Status::ask(&sandbox.control()).ok()?;
            status.successor.is_none().then_some(status.last_failure?.reason)
        });
        assert_eq!(told, said, "{way}");
    }
    assert_eq!(who_answers(serving.http).expect("it serves on"), serving.pid);
}

/// Two operators at once: one deploys, the other stops the service.
#[test]
fn an_attempt_in_a_service_that_another_operator_stops() {
    let sandbox = Sandbox::new();
    let (service, _) = incumbent(&sandbox);
    let command = command(&sandbox, &["--warm-up", "600"]);
    let arguments: Vec<_> = ["handoff", "--"].into_iter().chain(command.iter().map(String::as_str)).collect();
    let handoff = spawn_hotctl(&sandbox, &arguments);
    eventually("the successor warms up", SOON, || Status::ask(&sandbox.control()).ok()?.successor);
    let _stops = hotctl(&sandbox, &["stop", "--wait"]).expect_success();
    let outcome = handoff.wait();
    // It may be gone before hotctl hears of it.
    let line = outcome.error_line();
    assert!(!line.contains("still serving"), "{line}");
    assert!(matches!(outcome.code(), 3 | 4), "{line}");
    eventually("the service has ended", SOON, || (!service.is_alive()).then_some(()));
    eventually("no process is left", SOON, || sandbox.processes().is_empty().then_some(()));
}

/// A shell that captures the output, a connection of ssh, ansible: they wait for the end of a pipe.
#[test]
fn it_returns_into_a_pipe_and_the_service_writes_elsewhere() {
    let sandbox = Sandbox::new();
    let (_service, serving) = incumbent(&sandbox);
    let begun = Instant::now();
    let (mut command_line, _) = sandbox.command(&binary("hotctl"));
    command_line.arg("--socket").arg(sandbox.control()).args(["handoff", "--"]);
    command_line.args(command(&sandbox, &["--probation", "1"]));
    let (mut reader, writer) = std::io::pipe().expect("a pipe");
    command_line.stdin(Stdio::null()).stdout(writer.try_clone().expect("a duplicate")).stderr(writer);
    let mut hotctl = command_line.spawn().expect("hotctl starts");
    drop(command_line);
    let mut text = String::new();
    reader.read_to_string(&mut text).expect("text");
    assert!(hotctl.wait().expect("it is a child").success(), "{text}");
    assert!(begun.elapsed() < SOON, "{text}");
    let pid = who_answers(serving.http).expect("it serves");
    assert!(text.contains(&format!("{pid} (v2) serves now")), "{text}");
    assert!(text.contains(&format!("the output of {pid} goes to ")), "{text}");
    // What it logged until it served is there, and no pipe is left.
    assert!(text.contains("joined"), "{text}");
    for descriptor in [1, 2] {
        let target = fs::read_link(format!("/proc/{pid}/fd/{descriptor}")).expect("it is open");
        assert!(!target.to_string_lossy().starts_with("pipe:"), "{}", target.display());
    }
    eventually("no process is left beside it", SOON, || {
        let attends = |pid: &u32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains("__attend")
        };
        (!sandbox.processes().iter().any(attends)).then_some(())
    });
    let stop = Command::new(binary("hotctl")).arg("--socket").arg(sandbox.control()).args(["stop"]).status();
    assert!(stop.expect("hotctl runs").success());
}
