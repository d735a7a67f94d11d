//! An attempt belongs to the hotctl that began it, and so does its output until the new version serves.
//!
//! Deliberately absent: what a service does when the connection of the operator ends, see
//! `hotupdate/tests/control/attempt.rs`. The service here does not notice.

use std::fs;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use crate::support::eventually;
use crate::support::fake::{Answer, join, take_over};
use crate::support::run::{Place, Running, is_alive};
use hotupdate_proto::operator::ProcessState;
use rustix::process::{Pid, Signal, kill_process};

const STILL: &str = "4100 (v1.2.9) is still serving";

fn send(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process has a pid");
    kill_process(pid, signal).expect("it runs");
}

fn ends(pid: u32) {
    eventually("it ends", || (!is_alive(pid)).then_some(()));
}

/// The processes that look after the COMMAND of this attempt.
fn attendants(attempt: &str) -> usize {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|process| fs::read(process.path().join("cmdline")).ok());
    lines
        .filter(|line| {
            String::from_utf8_lossy(line).contains("__attend\0")
                && String::from_utf8_lossy(line).contains(attempt)
        })
        .count()
}

/// An attempt whose COMMAND has joined; the service can abort it.
fn joined(place: &Place) -> (Running, u32) {
    place.fake.on("Abort", |status| {
        status.successor = None;
        Answer::Reply(serde_json::json!({}))
    });
    let running = place.start(&["handoff", "--", "sh", "-c", &place.server()]);
    let (attempt, pid) = place.started();
    place.fake.change(|status| join(status, pid, &attempt, ProcessState::Starting));
    (running, pid)
}

#[test]
fn signals_end_the_attempt_and_what_it_has_started() {
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let place = Place::new();
        let (running, pid) = joined(&place);
        send(running.pid(), signal);
        let ran = running.end().code(130);
        // It may have come before hotctl knew the version.
        let begins = format!("err\nhotctl: handoff: interrupted, and the attempt with it; {pid}");
        let ends_with = format!(" was sent SIGTERM; {STILL}\n");
        assert!(ran.stderr.starts_with(&begins) && ran.stderr.ends_with(&ends_with), "{ran:#?}");
        assert_eq!(place.fake.called("Abort"), 1);
        ends(pid);
    }
}

#[test]
fn the_end_of_hotctl_ends_a_command_that_has_not_joined() {
    let place = Place::new();
    let running = place.start(&["handoff", "--", "sh", "-c", &place.server()]);
    let (attempt, pid) = place.started();
    assert_eq!(attendants(&attempt), 1);
    send(running.pid(), Signal::KILL);
    ends(pid);
    eventually("nothing is left behind", || (attendants(&attempt) == 0).then_some(()));
    assert_eq!(place.fake.called("Attempt"), 1);
    assert_eq!(place.fake.called("Abort"), 0, "there was nothing to abort");
}

#[test]
fn the_end_of_hotctl_ends_an_attempt_that_the_service_holds_on_to() {
    let place = Place::new();
    let (running, pid) = joined(&place);
    send(running.pid(), Signal::KILL);
    ends(pid);
    assert!(place.fake.called("Abort") >= 1);
}

/// hotctl is killed in the moment in which it would have said so.
#[test]
fn what_serves_is_left_alone() {
    let place = Place::new();
    let running = place.start(&["handoff", "--until", "drained", "--", "sh", "-c", &place.server()]);
    let (attempt, pid) = place.started();
    send(running.pid(), Signal::STOP);
    place.fake.change(|status| join(status, pid, &attempt, ProcessState::Starting));
    place.fake.change(take_over);
    send(running.pid(), Signal::KILL);
    eventually("nothing is left behind", || (attendants(&attempt) == 0).then_some(()));
    assert!(is_alive(pid));
    place.end_server(pid);
}

#[test]
fn a_command_that_has_ended_is_told_at_once() {
    let place = Place::new();
    let begun = Instant::now();
    let ran = place.hotctl(&["handoff", "--", "true"]).code(1);
    let why =
        "exited (status 0) before it was ready: no successor has joined, and nothing that it started is left";
    assert!(ran.line().ends_with(&format!("{why}; {STILL}")), "{ran:#?}");
    let ran = place.hotctl(&["handoff", "--", "sh", "-c", "(sleep 0.2; exit 1) & exit 0"]).code(1);
    assert!(ran.line().ends_with(&format!("{why}; {STILL}")), "{ran:#?}");
    assert!(begun.elapsed().as_secs() < 60, "long before the timeout");
    assert_eq!(place.fake.called("Abort"), 0, "there was nothing of ours to abort");
}

/// It forks twice and leads a session of its own, as daemons do.
#[test]
fn a_command_that_puts_itself_into_the_background_is_followed() {
    let place = Place::new();
    fs::write(place.file("server.sh"), place.server()).unwrap();
    let daemon = format!("(setsid sh {} &) & exit 0", place.file("server.sh").display());
    let running = place.start(&["handoff", "--", "sh", "-c", &daemon]);
    let (attempt, pid) = place.started();
    place.fake.change(|status| join(status, pid, &attempt, ProcessState::Starting));
    place.fake.change(take_over);
    running.end().code(0);
    assert!(is_alive(pid));
    place.end_server(pid);
}

#[test]
fn what_a_command_leaves_behind_is_ended_with_the_attempt() {
    let place = Place::new();
    fs::write(place.file("server.sh"), place.server()).unwrap();
    let daemon = format!("setsid sh {} & exit 0", place.file("server.sh").display());
    let running = place.start(&["--timeout", "2", "handoff", "--", "sh", "-c", &daemon]);
    let (_, pid) = place.started();
    let ran = running.end().code(4);
    assert!(ran.stderr.contains("left behind is starting, and was sent SIGTERM"), "{ran:#?}");
    ends(pid);
}

// ---- its output -------------------------------------------------------------------------------------------

/// hotctl with a pipe for both outputs, as in `$(… 2>&1)`.
fn captured(place: &Place, arguments: &[&str]) -> (Child, std::io::PipeReader) {
    let (reader, writer) = std::io::pipe().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_hotctl"));
    command.arg("--socket").arg(&place.fake.path).args(arguments).stdin(Stdio::null());
    command.stdout(writer.try_clone().unwrap()).stderr(OwnedFd::from(writer));
    let child = command.spawn().unwrap();
    (child, reader)
}

fn all(mut reader: std::io::PipeReader) -> String {
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn a_command_that_fails_early_is_heard_through_a_pipe() {
    let place = Place::new();
    let (mut child, reader) =
        captured(&place, &["handoff", "--", "sh", "-c", "echo one; echo two >&2; exit 7"]);
    let text = all(reader);
    assert!(text.starts_with("one\ntwo\nhotctl: handoff: successor "), "{text}");
    assert!(text.ends_with(&format!("exited (status 7) before it was ready; {STILL}\n")), "{text}");
    assert_eq!(child.wait().unwrap().code(), Some(1));
}

/// The caller reads until the end of the pipe, and the service has no end of it; one that goes on writing
/// into hotctl's does not notice that hotctl has gone.
#[test]
fn a_pipe_is_not_left_to_the_service() {
    let place = Place::new();
    let server = place.server().replace("while", "trap 'echo broken > broken' PIPE; while");
    let server =
        server.replace("do sleep 0.05;", "do sleep 0.05; echo more && echo . >> written || touch failed;");
    let (mut child, reader) = captured(&place, &["--json", "handoff", "--", "sh", "-c", &server]);
    let (attempt, pid) = place.started();
    place.fake.change(|status| join(status, pid, &attempt, ProcessState::Starting));
    place.fake.change(take_over);
    let text = all(reader);
    assert!(text.starts_with("out\nerr\n") && text.contains(r#"{"type":"changed""#), "{text}");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let written = || fs::read(place.file("written")).map_or(0, |bytes| bytes.len());
    let before = written();
    eventually("it writes on", || (written() > before + 5).then_some(()));
    assert!(!place.file("broken").exists() && !place.file("failed").exists());
    assert_eq!(attendants(&attempt), 1, "it reads what is written");
    place.end_server(pid);
    eventually("it is not needed any more", || (attendants(&attempt) == 0).then_some(()));
}

#[test]
fn where_the_output_goes_is_said() {
    let place = Place::new();
    // As the library does when the process serves.
    let server = place.server().replace("while", "exec > /dev/null 2>&1; while");
    let (mut child, reader) = captured(&place, &["handoff", "--", "sh", "-c", &server]);
    let (attempt, pid) = place.started();
    place.fake.change(|status| join(status, pid, &attempt, ProcessState::Starting));
    place.fake.change(take_over);
    let text = all(reader);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(text.contains(&format!("the output of {pid} goes to ")), "{text}");
    eventually("nothing is left behind", || (attendants(&attempt) == 0).then_some(()));
    assert!(is_alive(pid));
    place.end_server(pid);
}
