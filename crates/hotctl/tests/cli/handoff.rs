//! `hotctl handoff`, with a command and without: how it goes well, and how it does not.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::support::eventually;
use crate::support::fake::{Answer, fail, join, process, take_over};
use crate::support::run::{Place, is_alive, stat};
use hotupdate_proto::Summary;
use hotupdate_proto::operator::{HandoffResult, ProcessState, Status};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

const STILL: &str = "4100 (v1.2.9) is still serving";

/// The service releases its successor when it is asked.
fn release(status: &mut Status) -> Answer {
    let from = status.serving.process.clone();
    take_over(status);
    let (to, generation) = (status.serving.process.clone(), status.serving.generation);
    let mut changed = HandoffResult::new(from, to, generation);
    changed.gap_ns = Some(180_000);
    Answer::Reply(serde_json::to_value(changed).expect("it is JSON"))
}

#[test]
fn the_successor_in_standby_is_released() {
    let place = Place::new();
    place.fake.change(|status| join(status, 4242, "another", ProcessState::Standby));
    place.fake.on("Handoff", release);
    place.hotctl(&["handoff"]).code(0).says(
        "4242 (v1.3.0) serves now, generation 3; 4100 (v1.2.9) is draining 17 connections; \
         new connections waited up to 180 µs",
    );
}

#[test]
fn no_successor_is_in_standby() {
    let place = Place::new();
    let reason = json!({ "reason": "no successor is waiting" });
    place.fake.on("Handoff", move |_| Answer::Error("io.hotupdate.NoSuccessor", reason.clone()));
    let line = format!("hotctl: handoff: no successor is waiting; {STILL}");
    place.hotctl(&["handoff"]).code(1).says(&line);
}

#[test]
fn an_answer_that_is_lost_in_the_change_is_read_from_the_status() {
    let place = Place::new();
    place.fake.change(|status| join(status, 4242, "another", ProcessState::Standby));
    place.fake.on("Handoff", |status| {
        take_over(status);
        Answer::Close
    });
    let ran = place.hotctl(&["handoff"]).code(0);
    assert!(ran.line().starts_with("4242 (v1.3.0) serves now, generation 3; "), "{ran:#?}");
    place.fake.on("Rollback", |_| Answer::Close);
    let line = "hotctl: rollback: the service ended the connection before it answered";
    place.hotctl(&["rollback"]).code(1).says(&format!("{line}; 4242 (v1.3.0) is still serving"));
}

#[test]
fn rollback_gives_the_service_back() {
    let place = Place::new();
    place.fake.on("Rollback", |status| {
        status.successor = Some(process(1, 4000, "v1.2.8", ProcessState::Draining));
        release(status)
    });
    let ran = place.hotctl(&["rollback"]).code(0);
    assert!(
        ran.line().starts_with("4000 (v1.2.8) serves again, generation 1; 4100 (v1.2.9) is draining"),
        "{ran:#?}"
    );
}

#[test]
fn a_command_is_started_in_its_own_session_and_stays() {
    let place = Place::new();
    let running = place.start(&["handoff", "--", "sh", "-c", &place.server()]);
    let (attempt, pid) = place.started();
    let session = stat(pid).unwrap().session;
    assert_eq!(session, pid);
    assert_ne!(session, stat(running.pid()).unwrap().session);
    assert_eq!(fs::read_link(format!("/proc/{pid}/fd/0")).unwrap().to_str(), Some("/dev/null"));
    place.fake.change(|status| join(status, pid, &attempt, ProcessState::Starting));
    place.fake.change(take_over);
    let ran = running.end().code(0);
    let line = format!(
        "{pid} (v1.3.0) serves now, generation 3; 4100 (v1.2.9) is draining 17 connections; \
         new connections waited up to 180 µs"
    );
    assert_eq!((ran.stdout.as_str(), ran.stderr), ("out\n", format!("err\n{line}\n")));
    assert_eq!(place.fake.called("Handoff"), 0, "it took over by itself");
    assert!(is_alive(pid));
    place.end_server(pid);
}

#[test]
fn a_started_successor_in_standby_is_released_and_the_drain_awaited() {
    let place = Place::new();
    place.fake.on("Handoff", release);
    let log = place.file("log");
    let arguments = ["--json", "handoff", "--until", "drained", "--log", log.to_str().unwrap(), "--"];
    let running = place.start(&[&arguments[..], &["sh", "-c", &place.server()]].concat());
    let (attempt, pid) = place.started();
    place.fake.change(|status| join(status, pid, &attempt, ProcessState::Standby));
    eventually("the successor is released", || (place.fake.called("Handoff") == 1).then_some(()));
    // The old process goes, and its streams with it; the new one answers on the same path.
    place.fake.end_monitors();
    place.fake.change(|status| status.predecessors.clear());
    let ran = running.end().code(0);
    assert_eq!(ran.stderr, "");
    let [changed, drained] = ran.json().try_into().unwrap();
    assert_eq!((&changed["type"], &changed["to"]["pid"]), (&json!("changed"), &json!(pid)));
    assert_eq!(changed["gap_ns"], 180_000);
    assert_eq!((&drained["type"], &drained["pid"]), (&json!("drained"), &json!(4100)));
    assert_eq!(place.fake.called("Handoff"), 1);
    assert_eq!(fs::read_to_string(&log).unwrap(), "out\nerr\n");
    assert_eq!(fs::metadata(&log).unwrap().permissions().mode() & 0o777, 0o600);
    place.end_server(pid);
}

#[test]
fn the_log_is_appended_to() {
    let place = Place::new();
    let log = place.file("log");
    fs::write(&log, "before\n").unwrap();
    place
        .hotctl(&["handoff", "--log", log.to_str().unwrap(), "--", "sh", "-c", "echo after; exit 3"])
        .code(1);
    assert_eq!(fs::read_to_string(&log).unwrap(), "before\nafter\n");
    let ran = place.hotctl(&["handoff", "--log", "/nowhere/log", "--", "true"]).code(1);
    assert_eq!(
        ran.line(),
        format!("hotctl: handoff: cannot open /nowhere/log: No such file or directory; {STILL}")
    );
}

#[test]
fn a_successor_that_exits_is_told_with_its_status() {
    let place = Place::new();
    let ran = place.hotctl(&["handoff", "--", "sh", "-c", "exit 101"]).code(1);
    let pid = first_number(ran.line());
    let line = format!("hotctl: handoff: successor {pid} exited (status 101) before it was ready; {STILL}");
    assert_eq!(ran.line(), line);
    let ran = place.hotctl(&["handoff", "--", "sh", "-c", "kill -9 $$"]).code(1);
    let pid = first_number(ran.line());
    let line =
        format!("hotctl: handoff: successor {pid} was killed by signal 9 before it was ready; {STILL}");
    assert_eq!(ran.line(), line);
}

fn first_number(line: &str) -> u32 {
    line.split(' ').find_map(|word| word.parse().ok()).unwrap_or_default()
}

#[test]
fn a_program_that_cannot_be_started_is_told_as_such() {
    let place = Place::new();
    let line =
        format!("hotctl: handoff: ./no-such-server could not be started: No such file or directory; {STILL}");
    place.hotctl(&["handoff", "--", "./no-such-server"]).code(1).says(&line);
    let file = place.file("not-executable").display().to_string();
    fs::write(&file, "").unwrap();
    let line = format!("hotctl: handoff: {file} could not be started: Permission denied; {STILL}");
    place.hotctl(&["handoff", "--", &file]).code(1).says(&line);
    fs::write(&file, "#!/no/such/interpreter\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o700)).unwrap();
    let why = "No such file or directory: its interpreter or loader is missing";
    let line = format!("hotctl: handoff: {file} could not be started: {why}; {STILL}");
    place.hotctl(&["handoff", "--", &file]).code(1).says(&line);
}

#[test]
fn a_wrapper_may_fork_and_exit_0() {
    let place = Place::new();
    let wrapper = format!("( {} ) & exit 0", place.server());
    let running = place.start(&["handoff", "--", "sh", "-c", &wrapper]);
    let (attempt, pid) = place.started();
    place.fake.change(|status| join(status, pid, &attempt, ProcessState::Starting));
    place.fake.change(take_over);
    running.end().code(0);
    fs::remove_file(place.file("keep")).unwrap();
}

#[test]
fn a_successor_that_hangs_is_aborted_and_told_to_end() {
    let place = Place::new();
    place.fake.on("Abort", |status| {
        status.successor = None;
        Answer::Reply(json!({}))
    });
    let running = place.start(&["--timeout", "3", "handoff", "--", "sh", "-c", &place.server()]);
    let (attempt, pid) = place.started();
    place.fake.change(|status| join(status, pid, &attempt, ProcessState::Starting));
    let ran = running.end().code(4);
    let line = format!("timed out after 3 s: successor {pid} is warming up, and was sent SIGTERM");
    assert_eq!(ran.stderr, format!("err\nhotctl: handoff: {line}; {STILL}\n"));
    assert_eq!(place.fake.called("Abort"), 1);
    eventually("the successor ends", || (!is_alive(pid)).then_some(()));
}

/// Time is over when the service has just released it.
#[test]
fn a_successor_that_is_released_is_waited_for() {
    let place = Place::new();
    let running = place.start(&["--timeout", "3", "handoff", "--", "sh", "-c", &place.server()]);
    let (attempt, pid) = place.started();
    place.fake.change(|status| join(status, pid, &attempt, ProcessState::Starting));
    let asked = AtomicUsize::new(0);
    place.fake.on("Abort", move |status| {
        if asked.fetch_add(1, Relaxed) == 2 {
            take_over(status);
        }
        Answer::Error("io.hotupdate.Busy", json!({ "reason": "the successor is released" }))
    });
    let ran = running.end().code(0);
    assert!(ran.stderr.starts_with(&format!("err\n{pid} (v1.3.0) serves now")), "{ran:#?}");
    assert_eq!(place.fake.called("Abort"), 3);
    place.end_server(pid);
}

#[test]
fn an_attempt_that_the_service_gave_up_is_told_with_its_reason() {
    let place = Place::new();
    let running = place.start(&["handoff", "--", "sh", "-c", &place.server()]);
    let (attempt, pid) = place.started();
    place.fake.change(|status| join(status, pid, &attempt, ProcessState::Starting));
    place.fake.change(|status| fail(status, "it was not ready when its lease ended (deadline `lease`)"));
    let ran = running.end().code(1);
    let line =
        format!("successor {pid} (v1.3.0) failed: it was not ready when its lease ended (deadline `lease`)");
    assert_eq!(ran.stderr, format!("err\nhotctl: handoff: {line}; {pid} was sent SIGTERM; {STILL}\n"));
    eventually("the successor ends", || (!is_alive(pid)).then_some(()));
}

#[test]
fn an_exit_is_told_instead_of_the_end_of_file_that_the_service_saw() {
    let place = Place::new();
    let dies =
        place.server().replace("while", "while [ ! -e die ] && ").replace("&&  [", "&& [") + "; exit 101";
    let running = place.start(&["handoff", "--", "sh", "-c", &dies]);
    let (attempt, pid) = place.started();
    place.fake.change(|status| join(status, pid, &attempt, ProcessState::Standby));
    place.fake.on("Handoff", |_| Answer::Silence);
    eventually("the successor is released", || (place.fake.called("Handoff") == 1).then_some(()));
    fs::write(place.file("die"), "").unwrap();
    place.fake.change(|status| fail(status, "the other side is gone (its end of the link was closed)"));
    let ran = running.end().code(1);
    let line = format!("successor {pid} exited (status 101) before it served; {STILL}");
    assert_eq!(ran.stderr, format!("err\nhotctl: handoff: {line}\n"));
}

/// The service aborts it, and it has gone before hotctl could end it.
#[test]
fn a_successor_that_ends_with_an_attempt_that_takes_too_long() {
    let place = Place::new();
    let running = place.start(&["--timeout", "2", "handoff", "--", "sh", "-c", &place.server()]);
    let (attempt, pid) = place.started();
    place.fake.change(|status| join(status, pid, &attempt, ProcessState::Starting));
    let keep = place.file("keep");
    place.fake.on("Abort", move |status| {
        let _once = fs::remove_file(&keep);
        eventually("it ends", || (!is_alive(pid)).then_some(()));
        status.successor = None;
        Answer::Reply(json!({}))
    });
    let line = format!("hotctl: handoff: timed out after 2 s: successor {pid} was warming up; {STILL}");
    assert_eq!(running.end().code(4).stderr, format!("err\n{line}\n"));
    assert_eq!(place.fake.parameters("Abort").unwrap()["why"], "`hotctl handoff` timed out after 2 s");
}

/// Another operator stops the service, or a supervisor does.
#[test]
fn a_service_that_stops_is_not_said_to_serve() {
    let place = Place::new();
    let running = place.start(&["handoff", "--", "sh", "-c", &place.server()]);
    let (attempt, pid) = place.started();
    place.fake.change(|status| join(status, pid, &attempt, ProcessState::Starting));
    place.fake.change(|status| {
        status.serving.state = ProcessState::Draining;
        fail(status, "this process is stopping");
    });
    let ran = running.end().code(3);
    let line = format!("successor {pid} (v1.3.0) failed: this process is stopping; {pid} was sent SIGTERM");
    assert_eq!(ran.stderr, format!("err\nhotctl: handoff: {line}; 4100 (v1.2.9) is stopping\n"));
    place.fake.on("Rollback", |_| {
        Answer::Error("io.hotupdate.Busy", json!({ "reason": "busy: the service is stopping" }))
    });
    let line = "hotctl: rollback: busy: the service is stopping; 4100 (v1.2.9) is stopping";
    place.hotctl(&["rollback"]).code(3).says(line);
}

#[test]
fn a_process_that_does_not_answer_is_not_said_to_serve() {
    let place = Place::new();
    let dies = format!("{}; exit 3", place.server());
    let running = place.start(&["handoff", "--", "sh", "-c", &dies]);
    let (_, pid) = place.started();
    place.fake.on("Status", |_| Answer::Silence);
    place.end_server(pid);
    let ran = running.end().code(4);
    let line = format!("successor {pid} exited (status 3) before it was ready");
    let silent = "4100 (v1.2.9) served before, and does not answer";
    assert_eq!(ran.stderr, format!("err\nhotctl: handoff: {line}; {silent}\n"));
}

#[test]
fn a_release_that_failed_is_told_with_its_reason() {
    let place = Place::new();
    let running = place.start(&["handoff", "--", "sh", "-c", &place.server()]);
    let (attempt, pid) = place.started();
    place.fake.on("Handoff", |_| {
        Answer::Error("io.hotupdate.Failed", json!({ "reason": "the loops did not stop" }))
    });
    place.fake.change(|status| join(status, pid, &attempt, ProcessState::Standby));
    let ran = running.end().code(1);
    assert_eq!(ran.stderr, format!("err\nhotctl: handoff: the loops did not stop; {STILL}\n"));
    eventually("the successor ends", || (!is_alive(pid)).then_some(()));
}

#[test]
fn the_successor_that_was_there_first_is_named() {
    let place = Place::new();
    place.fake.change(|status| join(status, 4300, "another", ProcessState::Starting));
    let ran = place.hotctl(&["handoff", "--", "sh", "-c", "exit 1"]).code(1);
    let pid = first_number(ran.line());
    let line = format!(
        "successor {pid} exited (status 1) before it was ready: 4300 (v1.3.0) is already there (starting)"
    );
    assert_eq!(ran.line(), format!("hotctl: handoff: {line}; {STILL}"));
    assert_eq!(place.fake.called("Abort"), 0, "the attempt of the other one goes on");
}

#[test]
fn ctrl_c_while_the_old_version_drains() {
    let place = Place::new();
    place.fake.change(|status| join(status, 4242, "another", ProcessState::Standby));
    place.fake.on("Handoff", release);
    let running = place.start(&["handoff", "--until", "drained"]);
    eventually("hotctl waits for the drain", || (place.fake.called("Monitor") == 1).then_some(()));
    interrupt(running.pid());
    let line = "hotctl: handoff: interrupted; 4100 (v1.2.9) is still draining; 4242 (v1.3.0) serves now";
    running.end().code(130).says(line);
}

fn interrupt(pid: u32) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("hotctl has a pid");
    kill_process(pid, Signal::INT).expect("hotctl waits");
}

#[test]
fn a_drain_that_takes_too_long_says_that_the_new_version_serves() {
    let place = Place::new();
    place.fake.change(|status| join(status, 4242, "another", ProcessState::Standby));
    place.fake.on("Handoff", release);
    place.hotctl(&["--timeout", "1", "handoff", "--until", "drained"]).code(4).says(
        "hotctl: handoff: timed out after 1 s: 4100 (v1.2.9) is still draining 17 connections; \
         4242 (v1.3.0) serves now",
    );
}

/// No connection is left in the old version, and work that is no connection goes on in it.
#[test]
fn tasks_that_keep_an_old_version_are_named() {
    let place = Place::new();
    place.fake.change(|status| join(status, 4242, "another", ProcessState::Standby));
    place.fake.on("Handoff", |status| {
        let answer = release(status);
        let old = &mut status.predecessors[0];
        old.connections = Summary::default();
        old.tasks = vec!["mail".to_owned(), "re\nport".to_owned()];
        answer
    });
    place.hotctl(&["--timeout", "1", "handoff", "--until", "drained"]).code(4).says(
        "hotctl: handoff: timed out after 1 s: 4100 (v1.2.9) has drained, still running: 2 tasks \
         (mail, re\\nport); 4242 (v1.3.0) serves now",
    );
}

/// A process that has nothing left to do may still be there.
#[test]
fn a_drained_process_is_not_said_to_be_gone() {
    let place = Place::new();
    place.fake.change(|status| join(status, 4242, "another", ProcessState::Standby));
    place.fake.on("Handoff", |status| {
        let answer = release(status);
        status.predecessors[0].connections = Summary::default();
        status.predecessors[0].probation = false;
        answer
    });
    let arguments = ["--timeout", "1", "handoff", "--until", "drained"];
    let left = "4100 (v1.2.9) has drained, and is still running";
    let line = format!("hotctl: handoff: timed out after 1 s: {left}; 4242 (v1.3.0) serves now");
    place.hotctl(&arguments).code(4).says(&line);
    let shown = place.hotctl(&["status"]).code(0).stdout;
    let row = shown.lines().find(|line| line.contains("4100")).expect("it is still there");
    assert!(row.contains("draining") && row.ends_with("drained"), "{shown}");
}

/// A service whose old version has drained when the new one serves.
fn drains_at_once() -> Place {
    let place = Place::new();
    place.fake.change(|status| join(status, 4242, "another", ProcessState::Standby));
    place.fake.on("Handoff", |status| {
        let answer = release(status);
        let old = &mut status.predecessors[0];
        (old.connections, old.probation, old.state) = (Summary::default(), false, ProcessState::Drained);
        answer
    });
    place
}

/// It tells that it has drained a moment before it exits, and one that stays for its supervisor tells no
/// more.
#[test]
fn a_process_that_has_drained_is_waited_for_a_moment() {
    let place = drains_at_once();
    let running = place.start(&["handoff", "--until", "drained"]);
    eventually("hotctl waits for its exit", || (place.fake.called("Monitor") == 1).then_some(()));
    place.fake.change(|status| status.predecessors.clear());
    let said = running.end().code(0).stderr;
    assert!(said.contains("4100 (v1.2.9) has exited"), "{said}");

    let place = drains_at_once();
    let said = place.hotctl(&["handoff", "--until", "drained"]).code(0).stderr;
    assert!(said.contains("4100 (v1.2.9) has drained, and is still running"), "{said}");
}

/// It has said what it still does, and `main` may do it for long.
#[test]
fn a_process_whose_main_goes_on_after_its_drain_is_waited_for() {
    let place = drains_at_once();
    place.fake.on("Handoff", |status| {
        let answer = release(status);
        let old = &mut status.predecessors[0];
        (old.connections, old.probation, old.state) = (Summary::default(), false, ProcessState::Drained);
        old.tasks = vec!["main".to_owned()];
        answer
    });
    place.hotctl(&["--timeout", "2", "handoff", "--until", "drained"]).code(4).says(
        "hotctl: handoff: timed out after 2 s: 4100 (v1.2.9) has drained, still running: 1 task (main); \
         4242 (v1.3.0) serves now",
    );
    let shown = place.hotctl(&["status"]).code(0).stdout;
    let row = shown.lines().find(|line| line.contains("4100")).expect("it is still there");
    assert!(row.contains(" drained ") && row.ends_with("  still running: 1 task (main)"), "{shown}");
}

#[test]
fn a_version_that_is_taken_back_while_the_old_one_drains_is_a_failure() {
    let place = Place::new();
    place.fake.change(|status| join(status, 4242, "another", ProcessState::Standby));
    place.fake.on("Handoff", release);
    let running = place.start(&["handoff", "--until", "drained"]);
    eventually("hotctl waits for the drain", || (place.fake.called("Monitor") == 1).then_some(()));
    place.fake.change(|status| status.serving = status.predecessors.remove(0));
    let line = format!("hotctl: handoff: 4242 (v1.3.0) served, but does not any more; {STILL}");
    running.end().code(1).says(&line);
}

#[test]
fn a_version_that_dies_as_soon_as_it_serves_is_a_failure() {
    let place = Place::new();
    place.fake.change(|status| join(status, 4242, "another", ProcessState::Standby));
    place.fake.on("Handoff", |status| {
        let answer = release(status);
        status.serving = status.predecessors.remove(0);
        answer
    });
    let line = format!("hotctl: handoff: 4242 (v1.3.0) served, but does not any more; {STILL}");
    place.hotctl(&["handoff"]).code(1).says(&line);
}
