//! Every exit code, and the line that comes with it.

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::eventually;
use crate::support::fake::{Answer, Fake, join, lock, process, take_over};
use crate::support::run::{Place, start, stat};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use hotupdate_proto::Summary;
use hotupdate_proto::operator::ProcessState;

#[test]
fn done_is_0() {
    let place = Place::new();
    place.hotctl(&["abort"]).code(0).says("aborted; 4100 (v1.2.9) is still serving");
    assert_eq!(place.fake.called("Abort"), 1);
}

#[test]
fn refused_is_1_and_says_who_serves() {
    let place = Place::new();
    let reason = "no predecessor is in probation any more; hand off to the old version instead";
    place
        .fake
        .on("Rollback", move |_| Answer::Error("io.hotupdate.NoPredecessor", json!({ "reason": reason })));
    let line = format!("hotctl: rollback: {reason}; 4100 (v1.2.9) is still serving");
    place.hotctl(&["rollback"]).code(1).says(&line);
}

#[test]
fn errors_of_varlink_itself_become_words() {
    let place = Place::new();
    let parameters = json!({ "method": "io.hotupdate.Drain" });
    place.fake.on("Drain", move |_| Answer::Error("org.varlink.service.MethodNotFound", parameters.clone()));
    place.hotctl(&["drain"]).code(1).says(
        "hotctl: drain: the service does not know io.hotupdate.Drain; is it older than hotctl?; \
         4100 (v1.2.9) is still serving",
    );
}

#[test]
fn usage_is_2() {
    let place = Place::new();
    place.hotctl(&[]).code(2);
    let see = "see `hotctl --help`";
    let bad = [
        (&["xyz"][..], "unrecognized subcommand 'xyz'"),
        (&["stauts"], "unrecognized subcommand 'stauts'; a similar subcommand exists: 'status'"),
        (
            &["status", "--timeout=-1"],
            "invalid value '-1' for '--timeout <SECONDS>': not between 0 and a year",
        ),
        (&["handoff", "--log", "x"], "the following required arguments were not provided: <COMMAND>..."),
        (&["handoff", "--"], "COMMAND is empty"),
        (&["handoff", "--", ""], "COMMAND is empty"),
        (&["hold", "--listen", "http=127.0.0.1:0", "--", ""], "COMMAND is empty"),
        (
            &["hold", "--listen", "http=80", "--", "true"],
            "invalid value 'http=80' for '--listen <NAME=ADDRESS>': an address is HOST:PORT, or a path with \
             a slash in it",
        ),
    ];
    for (arguments, why) in bad {
        place.hotctl(arguments).code(2).says(&format!("hotctl: {why}; {see}"));
    }
    assert_eq!(place.fake.called("Handoff"), 0, "an empty COMMAND releases no successor");
    place.hotctl(&["man", "launch"]).code(2).says("hotctl: man: there is no command `launch`");
}

#[test]
fn a_path_that_cannot_be_a_socket_is_usage() {
    let place = Place::new();
    let long = format!("/tmp/{}", "x".repeat(200));
    let ran = start(place.folder.path(), Some(Path::new(&long)), &["status"]).end().code(2);
    assert_eq!(ran.line(), format!("hotctl: status: {long} is no control socket: File name too long"));
}

/// connect(2) says "Connection refused" of them, as if a service had crashed.
#[test]
fn a_directory_and_a_file_are_no_sockets() {
    let place = Place::new();
    let file = place.file("keep");
    for (path, what) in [(place.folder.path(), "a directory"), (&file, "a file")] {
        let line = format!("{} is no control socket: it is {what}", path.display());
        for command in [&["status"][..], &["hold", "--listen", "http=127.0.0.1:0", "--", "true"]] {
            let ran = start(place.folder.path(), Some(path), command).end().code(2);
            assert_eq!(ran.line(), format!("hotctl: {}: {line}", command[0]));
        }
    }
}

#[test]
fn not_running_is_3_and_nothing_is_started() {
    let mut place = Place::new();
    place.fake.stop();
    let path = place.fake.path.display().to_string();
    let rest = "start it, or find running ones with `hotctl list`";
    let line = format!("no service listens on {path} (Connection refused); {rest}");
    place.hotctl(&["status"]).code(3).says(&format!("hotctl: status: {line}"));
    let touched = place.file("touched").display().to_string();
    place.hotctl(&["handoff", "--", "touch", &touched]).code(3).says(&format!("hotctl: handoff: {line}"));
    assert!(!place.file("touched").exists());
    std::fs::remove_file(&place.fake.path).unwrap();
    let line = format!("hotctl: status: no service listens on {path} (No such file or directory); {rest}");
    place.hotctl(&["status"]).code(3).says(&line);
}

#[test]
fn timed_out_is_4() {
    let place = Place::new();
    place.fake.on("Status", |_| Answer::Silence);
    let ran = place.hotctl(&["--timeout", "0.2", "status"]).code(4);
    let line =
        format!("hotctl: status: timed out after 200 ms: no answer from {}", place.fake.path.display());
    assert_eq!(ran.line(), line);
}

/// A process that does not outlive its test, also if that fails: a stopped one would never end by itself.
struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The service as an operator finds it whose debugger, or SIGSTOP, has stopped it: whatever is asked, the line
/// says which process it is, and what to do.
#[test]
fn a_service_that_is_stopped_is_named() {
    let place = Place::new();
    for method in ["Status", "Connections"] {
        place.fake.on(method, |_| Answer::Silence);
    }
    let path = place.fake.path.display().to_string();
    let lock = std::fs::File::open(lock(&place.fake.path)).unwrap();
    let server = Killed(Command::new("sleep").arg("60").stdin(lock).spawn().unwrap());
    let pid = server.0.id();
    kill_process(Pid::from_child(&server.0), Signal::STOP).unwrap();
    eventually("it is stopped", || stat(pid).filter(|stat| stat.state == 'T'));
    let why = format!(
        "no answer from {path}: process {pid} is stopped (SIGSTOP or a debugger), and its clients wait; \
         `kill -CONT {pid}` lets it go on"
    );
    let touched = place.file("touched").display().to_string();
    let commands: [&[&str]; 7] = [
        &["status"],
        &["connections"],
        &["abort"],
        &["rollback"],
        &["drain"],
        &["stop", "--wait"],
        &["handoff", "--", "touch", &touched],
    ];
    for command in commands {
        let ran = place.hotctl(&[&["--timeout", "0.2"], command].concat()).code(4);
        assert_eq!(ran.line(), format!("hotctl: {}: timed out after 200 ms: {why}", command[0]));
    }
    assert!(!place.file("touched").exists());
    let list = place.hotctl(&["--timeout", "0.2", "list"]).code(0);
    assert!(list.stdout.contains(&format!("process {pid} is stopped")), "{list:#?}");
}

#[test]
fn a_change_that_does_not_come_times_out_with_who_serves() {
    let place = Place::new();
    place.fake.on("Handoff", |_| Answer::Silence);
    let ran = place.hotctl(&["--timeout", "1", "handoff"]).code(4);
    assert!(
        ran.line().contains(": timed out after 1 s: ")
            && ran.line().ends_with("; 4100 (v1.2.9) is still serving"),
        "{ran:#?}"
    );
}

#[test]
fn another_service_is_no_control_socket() {
    let place = Place::new();
    place.fake.on("Status", |_| Answer::Bytes(b"HTTP/1.1 400 Bad Request\r\n\r\n\0".to_vec()));
    let ran = place.hotctl(&["status"]).code(1);
    assert!(ran.line().contains("is not a control socket of hotupdate: "), "{ran:#?}");
    place.fake.on("Status", |_| Answer::Close);
    let ran = place.hotctl(&["status"]).code(1);
    assert!(ran.line().ends_with("closed the connection without an answer"), "{ran:#?}");
    place.fake.on("Status", |_| Answer::Bytes(vec![b'x'; 3 << 20]));
    place.hotctl(&["status"]).code(1);
}

/// It crashed, or handed off: the next call reaches another process.
#[test]
fn a_process_that_closes_instead_of_answering_is_followed_by_the_next() {
    let place = Place::new();
    let asked = AtomicUsize::new(0);
    place.fake.on("Status", move |status| match asked.fetch_add(1, Ordering::Relaxed) {
        0 => Answer::Close,
        _ => Answer::Reply(json!({ "status": status })),
    });
    let ran = place.hotctl(&["abort"]).code(0);
    assert_eq!(ran.line(), "aborted; 4100 (v1.2.9) is still serving");
    assert_eq!((place.fake.called("Status"), place.fake.called("Abort")), (2, 1));
}

#[test]
fn a_path_that_is_not_unicode_is_a_path() {
    let place = Place::new();
    let path = place.folder.path().join(OsStr::from_bytes(b"n\xff.sock"));
    let _fake = Fake::serve(path.clone());
    for command in ["status", "list"] {
        let ran = start(place.folder.path(), Some(&path), &["--json", command]).end().code(0);
        let sockets = ran.json().into_iter().map(|record| record["socket"].to_string());
        assert!(sockets.into_iter().any(|socket| socket.ends_with("n\u{fffd}.sock\"")), "{ran:#?}");
    }
}

#[test]
fn an_error_is_a_record_too() {
    let place = Place::new();
    place.fake.on("Rollback", |_| Answer::Error("io.hotupdate.Busy", json!({ "reason": "busy" })));
    let ran = place.hotctl(&["--json", "rollback"]).code(1);
    let serving =
        json!({ "instance": "instance-of-4100", "name": "web-4100", "pid": 4100, "version": "v1.2.9" });
    let record =
        json!({ "type": "error", "command": "rollback", "exit": 1, "reason": "busy", "serving": serving });
    assert_eq!(ran.json(), [record]);
    assert_eq!(ran.line(), "hotctl: rollback: busy; 4100 (v1.2.9) is still serving");
}

#[test]
fn a_reader_that_closes_stdout_is_no_failure() {
    let place = Place::new();
    let reply = json!({ "generation": 2, "rows": [row(1), row(2), row(3)] });
    // A table without end, in small pieces: what hotctl waits for is there at once on any machine.
    place.fake.on("Connections", move |_| Answer::Replies(Box::new(std::iter::repeat(reply.clone()))));
    let mut child = Command::new(env!("CARGO_BIN_EXE_hotctl"))
        .args(["--timeout", "60", "connections", "--socket"])
        .arg(&place.fake.path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0; 100]).unwrap();
    drop(stdout);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

fn row(id: u64) -> serde_json::Value {
    json!({ "id": id, "listener": "http", "peer": "192.0.2.1:5000", "local": "192.0.2.2:80",
            "protocol": "http/1.1", "age_ms": 1, "requests": 3, "state": "idle" })
}

#[test]
fn what_a_service_says_stays_on_one_line() {
    let place = Place::new();
    place.fake.change(|status| status.serving.process.version = "v1\n\u{1b}[2J".to_owned());
    place.fake.on("Abort", |_| Answer::Error("io.hotupdate.NoHandoff", json!({ "reason": "a\nb" })));
    let ran = place.hotctl(&["abort"]).code(1);
    assert_eq!(ran.line(), "hotctl: abort: a\\nb; 4100 (v1\\n\\u{1b}[2J) is still serving");
}

#[test]
fn the_only_socket_is_found_and_two_are_a_question() {
    let place = Place::new();
    let found = start(place.folder.path(), None, &["--json", "status"]).end().code(0);
    assert_eq!(found.json()[0]["socket"], place.fake.path.display().to_string());
    let folder = place.file("other");
    std::fs::create_dir(&folder).unwrap();
    let other = Fake::serve(folder.join("b.sock"));
    let ran = start(place.folder.path(), None, &["status"]).end().code(2);
    let both = format!("{}, {}", place.fake.path.display(), other.path.display());
    let line =
        format!("hotctl: status: there is more than one control socket: {both}; name one with --socket");
    assert_eq!(ran.line(), line);
}

#[test]
fn stop_waits_until_the_service_has_stopped() {
    let mut place = Place::new();
    place.hotctl(&["stop"]).code(0).says("4100 (v1.2.9) is stopping");
    let running = place.start(&["stop", "--wait", "--deadline", "1.5"]);
    eventually("hotctl asks to stop", || (place.fake.called("Stop") == 2).then_some(()));
    assert_eq!(place.fake.parameters("Stop").unwrap()["deadline_ms"], 1500);
    place.fake.stop();
    let line = format!("4100 (v1.2.9) has stopped; no process listens on {}", place.fake.path.display());
    running.end().code(0).says(&line);
}

#[test]
fn stop_says_when_the_service_was_started_again() {
    let place = Place::new();
    let running = place.start(&["stop", "--wait"]);
    eventually("hotctl asks to stop", || (place.fake.called("Stop") == 1).then_some(()));
    place.fake.change(|status| status.serving = process(1, 5000, "v1.2.9", ProcessState::Serving));
    running.end().code(1).says(
        "hotctl: stop: 4100 (v1.2.9) has stopped, but the service was started again; \
         5000 (v1.2.9) serves now",
    );
}

#[test]
fn drain_sends_its_deadline() {
    let place = Place::new();
    place.hotctl(&["drain"]).code(0).says("no version is draining; 4100 (v1.2.9) serves");
    assert_eq!(place.fake.parameters("Drain").unwrap()["deadline_ms"], 0);
    place.hotctl(&["drain", "--deadline", "10"]).code(0);
    assert_eq!(place.fake.parameters("Drain").unwrap()["deadline_ms"], 10_000);
}

#[test]
fn drain_says_what_is_left_to_be_closed() {
    let place = Place::new();
    place.fake.change(|status| {
        join(status, 4242, "a", ProcessState::Starting);
        take_over(status);
    });
    let says = |arguments: &[&str], line: &str| place.hotctl(arguments).code(0).says(line);
    says(&["drain"], "4100 (v1.2.9) closes its 17 connections now");
    says(&["drain", "--deadline", "2"], "4100 (v1.2.9) closes its 17 connections in 2 s at the latest");
    place.fake.change(|status| status.predecessors.push(process(1, 4000, "v1", ProcessState::Drained)));
    says(&["drain"], "4100 (v1.2.9) closes its 17 connections now");
    place.fake.change(|status| status.predecessors[0].connections = Summary::default());
    says(&["drain"], "2 versions have drained already; 4242 (v1.3.0) serves");
    place.fake.change(|status| status.predecessors.truncate(1));
    says(&["drain"], "4100 (v1.2.9) has drained, and can take over again; 4242 (v1.3.0) serves");
    place.fake.change(|status| status.predecessors[0].tasks = vec!["mail".to_owned()]);
    says(&["drain"], "4100 (v1.2.9) has drained, still running: 1 task (mail); 4242 (v1.3.0) serves");
}
