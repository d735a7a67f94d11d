//! `hotctl hold`: clients are not refused although the last process crashed, and the keeper restarts what
//! no operator stopped.
//!
//! Deliberately absent: systemd, see `descriptor_store.rs`.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::time::Duration;

use integration_tests::client::{InFlight, who_answers};
use integration_tests::process::needs::{ROOT, have};
use integration_tests::process::{Exit, Operator, binary, eventually, listening_inode, spawn_hotctl};
use integration_tests::{Handover, SOON, Sandbox, Service, Serving, Status, Way, hotctl};
use rustix::process::Signal;

/// The predecessor lets go at once.
const ARGUMENTS: [&str; 2] = ["--probation", "0"];

fn hold<'a>(sandbox: &'a Sandbox, options: &[&str], command: &[String]) -> Operator<'a> {
    let mut arguments = vec!["hold", "--listen", "http=127.0.0.1:0"];
    arguments.extend(options);
    arguments.push("--");
    arguments.extend(command.iter().map(String::as_str));
    spawn_hotctl(sandbox, &arguments)
}

fn server(sandbox: &Sandbox, more: &[&str]) -> Vec<String> {
    let mut command = vec![binary("axum-server").to_string_lossy().into_owned()];
    command.extend(Service::arguments(sandbox, "v1", more));
    command
}

fn shell(script: &str) -> Vec<String> {
    ["/bin/sh", "-c", script].map(str::to_owned).to_vec()
}

/// A keeper with a service that serves.
#[track_caller]
fn start(sandbox: &Sandbox) -> (Operator<'_>, Serving) {
    let keeper = hold(sandbox, &[], &server(sandbox, &ARGUMENTS));
    let serving = serves_after(sandbox, &[]);
    let said = format!("hotctl: hold: {} (v1) serves\n", serving.pid);
    eventually("the keeper knows it", SOON, || sandbox.transcript().contains(&said).then_some(()));
    (keeper, serving)
}

/// The process that serves now, and is none of these.
#[track_caller]
fn serves_after(sandbox: &Sandbox, before: &[Serving]) -> Serving {
    eventually(&format!("another one than {before:?} serves"), SOON, || {
        let status = Status::ask(&sandbox.control()).ok()?.serving;
        let said = sandbox.servings().into_iter().find(|serving| serving.pid == status.process.pid)?;
        (status.state == "serving" && !before.contains(&said)).then_some(said)
    })
}

/// Kills the process that serves while the keeper cannot do anything about it; a client that connects
/// meanwhile is answered later.
#[track_caller]
fn survives_a_kill(sandbox: &Sandbox, keeper: &Operator<'_>, before: &[Serving]) -> Serving {
    let serving = *before.last().expect("a process served");
    let socket = listening_inode(serving.http);
    keeper.process().signal(Signal::STOP);
    Service::of(sandbox, serving.pid).signal(Signal::KILL);
    eventually("no process serves", SOON, || Status::ask(&sandbox.control()).err());
    let client = InFlight::start(serving.http, Duration::ZERO);
    keeper.process().signal(Signal::CONT);
    let after = serves_after(sandbox, before);
    assert_eq!(client.answer().expect("a client in the queue is answered").0, after.pid);
    assert_eq!((after.http, listening_inode(after.http)), (serving.http, socket), "it is another socket");
    after
}

/// hold ends with this status, and leaves nothing.
#[track_caller]
fn ends(sandbox: &Sandbox, keeper: Operator<'_>, code: i32) -> String {
    let outcome = keeper.wait();
    assert_eq!(outcome.code(), code, "{}", outcome.stderr);
    eventually("no process is left", SOON, || sandbox.processes().is_empty().then_some(()));
    outcome.stderr
}

#[test]
fn a_service_that_is_killed_is_started_again_with_the_clients_that_wait() {
    let sandbox = Sandbox::new();
    let (keeper, first) = start(&sandbox);
    let second = survives_a_kill(&sandbox, &keeper, &[first]);
    let _third = survives_a_kill(&sandbox, &keeper, &[first, second]);
    keeper.process().signal(Signal::TERM);
    let said = ends(&sandbox, keeper, 0);
    let line = format!("{} (v1) was killed by signal 9; starting ", first.pid);
    assert!(said.contains(&line) && said.contains(" again now (1 of 10)"), "{said}");
}

#[test]
fn a_new_version_that_crashes_is_followed_by_the_command() {
    let sandbox = Sandbox::new();
    let (keeper, first) = start(&sandbox);
    let second = Handover::run(&sandbox, Way::ByHand, first, "v2", &ARGUMENTS).to;
    Service::of(&sandbox, first.pid).wait_exit();
    assert_eq!(who_answers(second.http).expect("the service answers"), second.pid, "it was not replaced");
    let third = survives_a_kill(&sandbox, &keeper, &[first, second]);
    Service::of(&sandbox, third.pid).signal(Signal::HUP);
    let fourth = serves_after(&sandbox, &[first, second, third]);
    // It is no child of a test by now, and is stopped nevertheless.
    Service::of(&sandbox, third.pid).wait_exit();
    keeper.process().signal(Signal::TERM);
    let said = ends(&sandbox, keeper, 0);
    assert!(said.contains(&format!("{} (v1) is told to stop", fourth.pid)), "{said}");
    assert_eq!(sandbox.servings().len(), 4, "no other process was started");
}

/// Which version serves, and how it came to, if no handoff is the reason.
#[test]
fn it_says_that_a_version_serves_again() {
    let sandbox = Sandbox::new();
    let long = ["--probation", "60"];
    let keeper = hold(&sandbox, &[], &server(&sandbox, &long));
    let first = serves_after(&sandbox, &[]);
    let said = |line: String| {
        eventually(&format!("hold says {line:?}"), SOON, || {
            sandbox.transcript().contains(&line).then_some(())
        });
    };
    said(format!("hotctl: hold: {} (v1) serves\n", first.pid));
    let second = Handover::run(&sandbox, Way::ByHand, first, "v2", &long).to;
    said(format!("hotctl: hold: {} (v2) serves\n", second.pid));
    Service::of(&sandbox, second.pid).kill();
    let died = format!("{} (v2), generation 2, died soon after it took over", second.pid);
    said(format!("hotctl: hold: {died}; {} (v1) serves again\n", first.pid));
    let again = Serving { generation: 2, ..first };
    let third = Handover::run(&sandbox, Way::ByHand, again, "v3", &long).to;
    said(format!("hotctl: hold: {} (v3) serves\n", third.pid));
    let _rolls_back = hotctl(&sandbox, &["rollback"]).expect_success();
    let why = format!("instead of {} (v3), generation 3: an operator rolled it back", third.pid);
    said(format!("hotctl: hold: {} (v1) serves again {why}\n", first.pid));
    keeper.process().signal(Signal::TERM);
    ends(&sandbox, keeper, 0);
}

#[test]
fn a_crash_while_the_command_still_drains() {
    let sandbox = Sandbox::new();
    let (keeper, first) = start(&sandbox);
    // Longer than a handoff and a crash take on a busy machine.
    let slow = InFlight::start(first.http, Duration::from_secs(15));
    eventually("the request is in flight", SOON, || {
        (Status::ask(&sandbox.control()).ok()?.serving.connections.active == 1).then_some(())
    });
    let second = Handover::run(&sandbox, Way::ByHand, first, "v2", &ARGUMENTS).to;
    let _third = survives_a_kill(&sandbox, &keeper, &[first, second]);
    assert!(slow.is_waiting(), "the command has ended meanwhile");
    assert_eq!(slow.answer().expect("a drain goes on").0, first.pid);
    keeper.process().signal(Signal::TERM);
    ends(&sandbox, keeper, 0);
}

#[test]
fn a_service_that_is_stopped_on_purpose_is_not_started_again() {
    let sandbox = Sandbox::new();
    let (keeper, first) = start(&sandbox);
    let _done = hotctl(&sandbox, &["stop"]).expect_success();
    let said = ends(&sandbox, keeper, 0);
    assert!(said.contains("the service has stopped"), "{said}");
    assert!(TcpStream::connect(first.http).is_err(), "no process is left to answer");
    assert_eq!(sandbox.servings(), [first]);
}

/// A missing file says nothing, whatever removed it, and whether or not the service has made it again.
#[test]
fn a_service_whose_files_were_removed_is_started_again_when_it_is_killed() {
    let sandbox = Sandbox::new();
    let (keeper, mut serving) = start(&sandbox);
    let (control, lock) = (sandbox.control(), sandbox.path().join("control.sock.lock"));
    let mut before = vec![serving];
    let orders: [(&[&Path], bool); 5] = [
        (&[&control], false),
        (&[&lock], false),
        (&[&control, &lock], false),
        (&[&control, &lock], true),
        (&[&lock, &control], true),
    ];
    for (removed, is_made_again) in orders {
        let said = format!("hotctl: hold: {} (v1) serves\n", serving.pid);
        eventually("the keeper knows it", SOON, || sandbox.transcript().contains(&said).then_some(()));
        for file in removed {
            fs::remove_file(file).expect("it is there");
        }
        if is_made_again {
            eventually("it is made again", SOON, || {
                (lock.exists() && Status::ask(&control).is_ok()).then_some(())
            });
        }
        Service::of(&sandbox, serving.pid).signal(Signal::KILL);
        serving = serves_after(&sandbox, &before);
        assert_eq!(who_answers(serving.http).expect("it serves"), serving.pid, "{removed:?}");
        before.push(serving);
    }
    let said = format!("hotctl: hold: {} (v1) serves\n", serving.pid);
    eventually("the keeper knows it", SOON, || sandbox.transcript().contains(&said).then_some(()));
    let _done = hotctl(&sandbox, &["stop"]).expect_success();
    let said = ends(&sandbox, keeper, 0);
    assert!(said.contains("the service has stopped"), "{said}");
    assert_eq!(said.matches(" was killed by signal 9; starting ").count(), 5, "{said}");
}

/// As a service that gave up its rights: it says that it stops, and its files stay.
#[test]
fn a_service_that_cannot_remove_its_socket_is_stopped_on_purpose_all_the_same() {
    const USER: u32 = 65534;
    if !have(&[ROOT]) {
        return;
    }
    for stop in ["hotctl", "SIGTERM"] {
        let sandbox = Sandbox::new();
        chown(sandbox.path(), Some(USER), None).expect("root may");
        let user = USER.to_string();
        let mut command: Vec<_> =
            ["setpriv", "--reuid", &user, "--regid", &user, "--clear-groups"].map(str::to_owned).to_vec();
        command.extend(server(&sandbox, &ARGUMENTS));
        let keeper = hold(&sandbox, &[], &command);
        let serving = serves_after(&sandbox, &[]);
        let said = format!("hotctl: hold: {} (v1) serves\n", serving.pid);
        eventually("the keeper knows it", SOON, || sandbox.transcript().contains(&said).then_some(()));
        fs::set_permissions(sandbox.path(), fs::Permissions::from_mode(0o755)).expect("root may");
        chown(sandbox.path(), Some(0), None).expect("root may");
        match stop {
            "hotctl" => drop(hotctl(&sandbox, &["stop"]).expect_success()),
            _ => Service::of(&sandbox, serving.pid).signal(Signal::TERM),
        }
        let said = ends(&sandbox, keeper, 0);
        assert!(said.contains("the service has stopped"), "{said}");
        assert!(sandbox.control().exists(), "it could remove it");
        assert_eq!(sandbox.servings(), [serving], "nothing was started");
    }
}

#[test]
fn a_service_that_always_crashes_is_given_up() {
    let sandbox = Sandbox::new();
    let command = server(&sandbox, &["--fail-before-ready", "panic"]);
    let outcome = hold(&sandbox, &["--restarts", "3"], &command).wait();
    assert_eq!(outcome.code(), 3, "{}", outcome.stderr);
    let said: Vec<_> = outcome.stderr.lines().filter(|line| line.starts_with("hotctl: hold: ")).collect();
    for (line, when) in said[1..4].iter().zip(["now (1 of 3)", "in 100 ms (2 of 3)", "in 200 ms (3 of 3)"]) {
        assert!(line.contains("exited (status 101); starting ") && line.ends_with(when), "{line}");
    }
    let last = "exited (status 101); the service is down after 3 restarts in a row: giving up";
    assert!(outcome.error_line().ends_with(last), "{}", outcome.stderr);
    assert!(outcome.took >= Duration::from_millis(300), "it did not pause: {:?}", outcome.took);
    assert!(sandbox.processes().is_empty(), "{:?}", sandbox.processes());
}

#[test]
fn it_passes_a_signal_on_and_ends_as_its_command_does() {
    let sandbox = Sandbox::new();
    let script = "trap 'exit 7' TERM; echo ready > ready; while :; do sleep 0.05; done";
    let keeper = hold(&sandbox, &[], &shell(script));
    eventually("the command runs", SOON, || sandbox.path().join("ready").exists().then_some(()));
    keeper.process().signal(Signal::TERM);
    ends(&sandbox, keeper, 7);

    let keeper = hold(&sandbox, &[], &shell("exec sleep 1000"));
    eventually("the command runs", SOON, || {
        let left = sandbox.processes();
        (left.iter().any(|pid| fs::read(format!("/proc/{pid}/comm")).is_ok_and(|name| name == b"sleep\n")))
            .then_some(())
    });
    keeper.process().signal(Signal::INT);
    ends(&sandbox, keeper, 128 + 2);
}

#[test]
fn the_command_gets_the_sockets_as_from_systemd_and_no_others() {
    let sandbox = Sandbox::new();
    let script = "echo $LISTEN_FDS $LISTEN_FDNAMES $((LISTEN_PID - $$)); cd /proc/$$/fd; for fd in *; do \
                  echo $fd $(readlink $fd); done";
    let admin = format!("admin={}", sandbox.path().join("admin.sock").display());
    let outcome = hold(&sandbox, &["--listen", &admin], &shell(script)).wait();
    assert_eq!(outcome.exit, Exit::Status(0), "{}", outcome.stderr);
    let (facts, descriptors) = outcome.stdout.split_once('\n').expect("two kinds of lines");
    assert_eq!(facts, "2 http:admin 0");
    let sockets: Vec<_> = descriptors.lines().filter(|line| line.contains(" socket:[")).collect();
    let numbers: Vec<_> = sockets.iter().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(numbers, ["3", "4"], "{descriptors}");
}

#[test]
fn it_does_not_begin_what_it_could_not_do() {
    let sandbox = Sandbox::new();
    let service = Service::start(&sandbox, "v0", &[]);
    let serving = service.wait_serving();
    let outcome = hold(&sandbox, &[], &server(&sandbox, &[])).wait();
    assert_eq!(outcome.code(), 1);
    let line = format!("{} (v0) is still serving", serving.pid);
    assert!(outcome.error_line().ends_with(&line), "{}", outcome.stderr);
    service.kill();

    let listener = TcpListener::bind("127.0.0.1:0").expect("some port is free");
    let taken = format!("other={}", listener.local_addr().expect("it is bound"));
    let outcome = hold(&sandbox, &["--listen", &taken], &server(&sandbox, &[])).wait();
    assert_eq!(outcome.code(), 1);
    assert!(outcome.error_line().contains(&format!("cannot listen on {taken}: ")), "{}", outcome.stderr);

    let outcome = hold(&sandbox, &[], &["/nonexistent".to_owned()]).wait();
    assert_eq!(outcome.code(), 1);
    assert!(outcome.error_line().ends_with("/nonexistent could not be started: No such file or directory"));
    assert_eq!(sandbox.servings(), [serving], "nothing was started");
}
