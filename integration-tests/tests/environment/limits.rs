//! At the limits of the machine: descriptors, disk, memory, the clock. A handoff succeeds, or fails with one
//! line that says why and who serves; the incumbent is as it was, and the next attempt works.
//!
//! Deliberately absent: limits of the protocol, which are tests of `hotupdate`.

mod clock;
mod descriptors;
mod disk;
mod memory;

use std::path::Path;

use integration_tests::client::who_answers;
use integration_tests::process::{binary, eventually};
use integration_tests::steady::Steady;
use integration_tests::{Handover, Outcome, SOON, Sandbox, Service, Serving, Status, Way, hotctl};

/// No time in which the old process can take over again, so that it leaves as soon as nothing is left in it.
const ARGUMENTS: [&str; 2] = ["--probation", "0"];

fn incumbent(sandbox: &Sandbox) -> (Service<'_>, Serving) {
    let service = Service::start(sandbox, "v1", &ARGUMENTS);
    let serving = service.wait_serving();
    (service, serving)
}

/// `axum-server` started by a shell, after `before` was done to the shell.
fn after(sandbox: &Sandbox, version: &str, more: &[&str], before: &str) -> Vec<String> {
    let script = format!("{before} && exec \"$@\"");
    let mut command = vec!["sh".to_owned(), "-c".to_owned(), script, "sh".to_owned()];
    command.push(binary("axum-server").display().to_string());
    command.extend(Service::arguments(sandbox, version, &ARGUMENTS));
    command.extend(more.iter().map(|argument| (*argument).to_owned()));
    command
}

/// The same by hand.
fn start_after<'a>(sandbox: &'a Sandbox, version: &str, more: &[&str], before: &str) -> Service<'a> {
    Service::spawn(sandbox, Path::new("/usr/bin/env"), &after(sandbox, version, more, before))
}

/// The same by `hotctl handoff --`.
fn handoff_after(sandbox: &Sandbox, version: &str, before: &str) -> Outcome {
    let log = sandbox.log_path("axum-server", "log").display().to_string();
    let command = after(sandbox, version, &[], before);
    let mut arguments = vec!["handoff", "--log", &log, "--"];
    arguments.extend(command.iter().map(String::as_str));
    hotctl(sandbox, &arguments)
}

/// One line, with all of these words, that says who serves: still the same.
#[track_caller]
fn fails(outcome: &Outcome, serving: Serving, words: &[&str]) {
    assert_eq!(outcome.code(), 1, "{}", outcome.stderr);
    let lines: Vec<_> = outcome.stderr.lines().filter(|line| line.starts_with("hotctl: handoff: ")).collect();
    let [line] = lines[..] else { panic!("one line was due:\n{}", outcome.stderr) };
    assert!(line.ends_with(&format!("; {} (v1) is still serving", serving.pid)), "{line}");
    assert!(words.iter().all(|word| line.contains(word)), "{words:?} are not in {line:?}");
}

#[track_caller]
fn next_attempt_works(sandbox: &Sandbox, serving: Serving) -> Serving {
    let next = Handover::run(sandbox, Way::Hotctl, serving, "v2", &ARGUMENTS).to;
    assert_eq!(who_answers(serving.http).expect("it serves"), next.pid);
    next
}

/// The connection moves to this process: what is asked meanwhile is answered by one or the other.
fn comes_to(client: &mut Steady, pid: u32) {
    eventually("an answer of the next version", SOON, || {
        (client.who().expect("an answer at any time") == pid).then_some(())
    });
}

/// The status, once it is as wanted.
fn status_when(sandbox: &Sandbox, what: &str, mut wanted: impl FnMut(&Status) -> bool) -> Status {
    eventually(what, SOON, || Status::ask(&sandbox.control()).ok().filter(&mut wanted))
}
