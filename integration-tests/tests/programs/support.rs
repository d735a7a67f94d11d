//! Starting `hotctl run` with a program, and asking which process answers.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use integration_tests::client::{InFlight, who_answers};
use integration_tests::process::{Operator, Outcome, spawn_hotctl};
use integration_tests::{SOON, Sandbox, Status, eventually, hotctl};

/// A file beside the tests.
pub(crate) fn file(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/servers").join(name);
    path.display().to_string()
}

/// `server.py` with these variables.
pub(crate) fn server(variables: &[&str]) -> Vec<String> {
    let env = ["env"].iter().chain(variables).map(ToString::to_string);
    env.chain(["python3".to_owned(), file("server.py")]).collect()
}

/// A script in the sandbox that can be run.
pub(crate) fn script(sandbox: &Sandbox, text: &str) -> String {
    use std::os::unix::fs::PermissionsExt;
    let path = sandbox.path().join("wrapper.sh");
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("the sandbox takes a file");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it is ours");
    path.display().to_string()
}

/// `server.c`, compiled.
pub(crate) fn compiled(sandbox: &Sandbox) -> PathBuf {
    let path = sandbox.path().join("server");
    let status = Command::new("cc").args(["-O1", "-pthread", "-o"]).arg(&path).arg(file("server.c")).status();
    assert!(status.expect("there is a compiler").success(), "it does not compile");
    path
}

/// `server.go`, compiled.
pub(crate) fn built(sandbox: &Sandbox) -> PathBuf {
    let path = sandbox.path().join("server");
    let mut go = Command::new("go");
    go.args(["build", "-o"])
        .arg(&path)
        .arg(file("server.go"))
        .envs([("GO111MODULE", "off"), ("CGO_ENABLED", "0")]);
    // Where the user of the test has none, as in some machines of continuous integration.
    if std::env::var_os("HOME").is_none() {
        go.env("GOCACHE", sandbox.path().join("go"));
    }
    assert!(go.status().expect("there is a compiler").success(), "it does not compile");
    path
}

/// Starts `hotctl run` on one listener.
pub(crate) fn start<'a>(sandbox: &'a Sandbox, options: &[&str], command: &[String]) -> Operator<'a> {
    let settle: &[&str] = if options.contains(&"--settle") { &[] } else { &["--settle", "0.2"] };
    let all = [&["run", "--listen", "http=127.0.0.1:0"], settle, options, &["--"]].concat();
    let all: Vec<&str> = all.into_iter().chain(command.iter().map(String::as_str)).collect();
    spawn_hotctl(sandbox, &all)
}

/// The same, once it serves; and its address.
#[track_caller]
pub(crate) fn serving<'a>(
    sandbox: &'a Sandbox,
    options: &[&str],
    command: &[String],
) -> (Operator<'a>, SocketAddr) {
    let run = start(sandbox, options, command);
    eventually("it serves, or has ended", SOON, || {
        let serves = Status::ask(&sandbox.control()).is_ok_and(|status| status.serving.state == "serving");
        (serves || run.process().try_exit().is_some()).then_some(())
    });
    let address = serves(sandbox, run.process().pid());
    (run, address)
}

/// Waits until this process serves.
#[track_caller]
pub(crate) fn serves(sandbox: &Sandbox, pid: u32) -> SocketAddr {
    let status = eventually(&format!("{pid} serves"), SOON, || {
        let status = Status::ask(&sandbox.control()).ok()?;
        (status.serving.process.pid == pid && status.serving.state == "serving").then_some(status)
    });
    status.listeners[0].address.parse().expect("an address")
}

/// `hotctl handoff -- COMMAND`.
#[track_caller]
pub(crate) fn handoff(sandbox: &Sandbox, options: &[&str], command: &[String]) -> Outcome {
    let log = sandbox.log_path("run", "log").display().to_string();
    let all = [&["handoff", "--log", &log], options, &["--"]].concat();
    let all: Vec<&str> = all.into_iter().chain(command.iter().map(String::as_str)).collect();
    hotctl(sandbox, &all)
}

/// The process that runs the program which serves.
pub(crate) fn serving_run(sandbox: &Sandbox) -> u32 {
    Status::ask(&sandbox.control()).expect("it answers").serving.process.pid
}

/// Waits until no other process answers than this one, several times in a row.
#[track_caller]
pub(crate) fn only(address: SocketAddr, pid: u32) {
    eventually(&format!("only {pid} answers"), SOON, || {
        (0..5).all(|_| who_answers(address).is_ok_and(|answers| answers == pid)).then_some(())
    });
}

/// Waits until a process answers that is none of these.
#[track_caller]
pub(crate) fn another(address: SocketAddr, before: &[u32]) -> u32 {
    eventually(&format!("another one than {before:?} answers"), SOON, || {
        who_answers(address).ok().filter(|pid| !before.contains(pid))
    })
}

/// Waits until a process has said this.
#[track_caller]
pub(crate) fn said(sandbox: &Sandbox, line: &str) {
    eventually(&format!("it is said: {line}"), SOON, || sandbox.transcript().contains(line).then_some(()));
}

/// A request that takes two seconds, and that this program has read.
#[track_caller]
pub(crate) fn in_flight(sandbox: &Sandbox, address: SocketAddr, program: u32) -> InFlight {
    let slow = InFlight::start(address, std::time::Duration::from_secs(2));
    said(sandbox, &format!("asked {program}\n"));
    slow
}

/// Nothing of the service is left.
#[track_caller]
pub(crate) fn nothing_is_left(sandbox: &Sandbox) {
    eventually("no process is left", SOON, || sandbox.processes().is_empty().then_some(()));
}
