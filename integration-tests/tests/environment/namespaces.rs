//! Peers in other namespaces, and of other users: a legitimate one works, any other one is told that it is
//! not, and the service goes on.
//!
//! Deliberately absent: containers; these are the kernel's means that they are made of (namespaces(7)). It
//! has to be root that runs this.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use integration_tests::client::who_answers;
use integration_tests::process::needs::{NAMESPACES, ROOT, USER_NAMESPACES, have};
use integration_tests::process::{Exit, binary};
use rustix::process::Signal;

use integration_tests::{SOON, Sandbox, Service, Status, eventually, hotctl};

/// A command line with words before it, as a shell would have it.
fn arguments(before: &[&str], program: &Path, after: &[String]) -> Vec<String> {
    let before = before.iter().map(|word| (*word).to_owned());
    before.chain([program.to_string_lossy().into_owned()]).chain(after.iter().cloned()).collect()
}

fn start<'a>(sandbox: &'a Sandbox, before: &[&str], version: &str) -> Service<'a> {
    let server = Service::arguments(sandbox, version, &["--probation", "1"]);
    let all = arguments(&before[1..], &binary("axum-server"), &server);
    Service::spawn(sandbox, Path::new(before[0]), &all)
}

/// Runs `hotctl <arguments>` after these words.
fn hotctl_in(sandbox: &Sandbox, before: &[&str], hotctl: &Path, words: &[&str]) -> (Exit, String) {
    let socket = sandbox.control().to_string_lossy().into_owned();
    let words =
        ["--socket".to_owned(), socket].into_iter().chain(words.iter().map(|word| (*word).to_owned()));
    let all = arguments(&before[1..], hotctl, &words.collect::<Vec<_>>());
    let operator = Service::spawn(sandbox, Path::new(before[0]), &all);
    (operator.wait_exit(), sandbox.transcript())
}

/// Another user may reach everything of the sandbox, and finds a hotctl there.
fn open_to_all(sandbox: &Sandbox) -> PathBuf {
    let set =
        |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("it is ours");
    set(sandbox.path(), 0o755);
    set(&sandbox.control(), 0o666);
    let program = sandbox.path().join("hotctl");
    fs::copy(binary("hotctl"), &program).expect("hotctl was built");
    set(&program, 0o755);
    program
}

const NOBODY: [&str; 4] = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];

/// A service, its successor after these words, and a third one as the second was started by hand.
fn hands_over_in(before: &[&str]) {
    let sandbox = Sandbox::new();
    let first = Service::start(&sandbox, "v1", &["--probation", "1"]);
    let at = first.wait_serving().http;
    let second = start(&sandbox, before, "v2");
    let there = sandbox.wait_generation(2);
    assert_eq!(there.http, at, "the same listener");
    assert_eq!(who_answers(at).expect("it serves"), there.pid);
    first.wait_drained();
    let (exit, text) = hotctl_in(&sandbox, before, &binary("hotctl"), &["status"]);
    assert!(matches!(exit, Exit::Status(0)) && text.contains("serving"), "{exit:?}\n{text}");

    let third = Service::start(&sandbox, "v3", &["--probation", "1"]);
    assert_eq!((third.wait_serving().generation, who_answers(at).expect("it serves")), (3, third.pid()));
    // Process 1 of a namespace stays until it is told to go, if the process that serves is not in there.
    if there.pid == 1 {
        eventually("it has drained", SOON, || {
            let status = Status::ask(&sandbox.control()).ok()?;
            (status.predecessors.iter().any(|it| it.state == "drained" && !it.probation)).then_some(())
        });
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", second.pid()));
        let first = children.ok().and_then(|children| children.trim().parse().ok());
        Service::of(&sandbox, first.expect("unshare has a child")).signal(Signal::TERM);
    }
    let exit = second.wait_exit();
    assert!(matches!(exit, Exit::Status(0)), "{exit:?}");
}

#[test]
fn in_another_pid_namespace() {
    if !have(&[NAMESPACES]) {
        return;
    }
    hands_over_in(&["unshare", "--pid", "--fork", "--kill-child"]);
}

/// A listener stays in the network namespace that it was made in, wherever its owner lives.
#[test]
fn in_another_network_namespace() {
    if !have(&[NAMESPACES]) {
        return;
    }
    hands_over_in(&["unshare", "--net"]);
}

/// The user of the service, seen from a namespace in which it has another number.
#[test]
fn in_another_user_namespace_that_maps_the_user() {
    if !have(&[USER_NAMESPACES]) {
        return;
    }
    hands_over_in(&["unshare", "--user", "--map-root-user"]);
}

#[test]
fn in_all_other_namespaces_as_in_a_container() {
    if !have(&[USER_NAMESPACES]) {
        return;
    }
    hands_over_in(&[
        "unshare",
        "--user",
        "--map-root-user",
        "--pid",
        "--net",
        "--ipc",
        "--uts",
        "--cgroup",
        "--fork",
        "--kill-child",
    ]);
}

/// It cannot know whom it would take over from.
#[test]
fn a_successor_whose_user_namespace_does_not_map_the_user_does_not_join() {
    if !have(&[USER_NAMESPACES]) {
        return;
    }
    let sandbox = Sandbox::new();
    let first = Service::start(&sandbox, "v1", &[]);
    let at = first.wait_serving().http;
    let second = start(&sandbox, &["unshare", "--user"], "v2");
    let exit = second.wait_exit();
    let text = sandbox.transcript();
    assert!(matches!(exit, Exit::Status(code) if code != 0), "{exit:?}\n{text}");
    assert!(text.contains("it belongs to uid 65534, which is neither ours nor root's"), "{text}");
    assert_eq!(who_answers(at).expect("it serves on"), first.pid());
    assert_eq!(Status::ask(&sandbox.control()).expect("it answers").serving.generation, 1);
}

/// To the service every user that its namespace does not map has the same number, so none of them may.
#[test]
fn a_caller_that_the_user_namespace_of_the_service_does_not_map_is_refused() {
    if !have(&[ROOT, USER_NAMESPACES]) {
        return;
    }
    let sandbox = Sandbox::new();
    let before = ["unshare", "--user", "--map-root-user"];
    let first = start(&sandbox, &before, "v1");
    let at = sandbox.wait_generation(1).http;
    let program = open_to_all(&sandbox);
    let (exit, text) = hotctl_in(&sandbox, &NOBODY, &program, &["status"]);
    assert!(matches!(exit, Exit::Status(1)), "{exit:?}\n{text}");
    refused(
        &text,
        "uid 65534 is neither the owner of the service",
        "a user that our user namespace does not map",
    );
    assert_eq!(who_answers(at).expect("it serves on"), first.pid());
    let outcome = hotctl(&sandbox, &["status"]).expect_success();
    assert!(outcome.stdout.contains("serving"), "{}", outcome.stdout);
}

/// One line for the caller, and one line in the log of the service that says who serves.
fn refused(text: &str, why: &str, more: &str) {
    let said = text.lines().find(|line| line.contains("hotctl: status: not allowed"));
    assert!(said.is_some_and(|line| line.contains(why)), "{text}");
    let logged = text.lines().find(|line| line.contains("a caller on the control socket is turned away"));
    let logged = logged.unwrap_or_else(|| panic!("nothing was logged\n{text}"));
    assert!(
        logged.contains(why) && logged.contains(more) && logged.contains("(v1) is still serving"),
        "{logged}"
    );
}

#[test]
fn another_user_is_refused_even_where_the_files_would_let_it() {
    if !have(&[ROOT]) {
        return;
    }
    let sandbox = Sandbox::new();
    let first = Service::start(&sandbox, "v1", &[]);
    let at = first.wait_serving().http;
    let program = open_to_all(&sandbox);
    let (exit, text) = hotctl_in(&sandbox, &NOBODY, &program, &["stop"]);
    assert!(matches!(exit, Exit::Status(1)), "{exit:?}\n{text}");
    let logged = text.lines().find(|line| line.contains("is turned away")).expect("a line in the log");
    assert!(logged.contains("uid 65534") && logged.contains("(v1) is still serving"), "{logged}");
    assert_eq!(who_answers(at).expect("it serves on"), first.pid());
}

/// What the kernel does where the files were not opened to it.
#[test]
fn another_user_does_not_even_reach_the_socket() {
    if !have(&[ROOT]) {
        return;
    }
    let sandbox = Sandbox::new();
    let first = Service::start(&sandbox, "v1", &[]);
    first.wait_serving();
    let program = open_to_all(&sandbox);
    fs::set_permissions(sandbox.control(), fs::Permissions::from_mode(0o600)).expect("it is ours");
    let (exit, text) = hotctl_in(&sandbox, &NOBODY, &program, &["status"]);
    assert!(matches!(exit, Exit::Status(1)) && text.contains("Permission denied"), "{exit:?}\n{text}");
}

/// Files that are open to all make no right.
#[test]
fn another_user_cannot_succeed() {
    if !have(&[ROOT]) {
        return;
    }
    let sandbox = Sandbox::new();
    let first = Service::start(&sandbox, "v1", &[]);
    let at = first.wait_serving().http;
    open_to_all(&sandbox);
    let server = sandbox.path().join("axum-server");
    fs::copy(binary("axum-server"), &server).expect("the server was built");
    let words = arguments(&NOBODY[1..], &server, &Service::arguments(&sandbox, "v2", &[]));
    let exit = Service::spawn(&sandbox, Path::new(NOBODY[0]), &words).wait_exit();
    let text = sandbox.transcript();
    assert!(matches!(exit, Exit::Status(code) if code != 0), "{exit:?}\n{text}");
    assert!(
        text.contains("not allowed: uid 65534 is neither the owner of the service, nor root, nor in its"),
        "{text}"
    );
    assert_eq!(who_answers(at).expect("it serves on"), first.pid());
}
