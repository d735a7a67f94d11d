//! What people start by mistake: each ends in a line that says what to do, and the service goes on.
//!
//! Deliberately absent: versions that are broken; see `handoff/failures.rs`.

use std::net::{SocketAddr, TcpListener};

use integration_tests::client::who_answers;
use integration_tests::process::{Facts, Operator, binary, eventually, spawn_hotctl};
use integration_tests::{SOON, Sandbox, Service, Serving, Status, hotctl};
use rustix::process::Signal;

fn first(sandbox: &Sandbox) -> (Service<'_>, Serving) {
    let service = Service::start(sandbox, "v1", &["--probation", "60"]);
    let serving = service.wait_serving();
    (service, serving)
}

/// `hotctl handoff -- PROGRAM --control … ARGUMENTS` fails with these words, and the same process serves on.
#[track_caller]
fn fails(sandbox: &Sandbox, serving: Serving, program: &str, arguments: &[&str], words: &[&str]) {
    let (program, control) = (binary(program), sandbox.control());
    let mut command =
        vec!["handoff", "--", program.to_str().unwrap(), "--control", control.to_str().unwrap()];
    command.extend(arguments);
    let outcome = hotctl(sandbox, &command);
    assert_eq!(outcome.code(), 1, "{}", outcome.stderr);
    let line = outcome.error_line();
    let still = format!("; {} (", serving.pid);
    for word in
        words.iter().chain(&["exited (status 1) before it was ready: ", &*still, ") is still serving"])
    {
        assert!(line.contains(word), "no {word:?} in {line}");
    }
    assert_eq!(who_answers(serving.http).unwrap(), serving.pid);
    let known = Status::ask(&sandbox.control()).unwrap().last_failure.unwrap();
    assert!(words.iter().all(|word| known.reason.contains(word)), "{}", known.reason);
}

#[test]
fn an_address_that_covers_that_of_the_old_version() {
    let sandbox = Sandbox::new();
    let (_, serving) = first(&sandbox);
    let wanted = format!("0.0.0.0:{}", serving.http.port());
    let words = [&*wanted, &*serving.http.to_string(), "keep that address, take another port", "hotctl stop"];
    fails(&sandbox, serving, "axum-server", &["--listen", &wanted], &words);
}

#[test]
fn a_port_of_another_program() {
    let sandbox = Sandbox::new();
    let (_, serving) = first(&sandbox);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let wanted = taken.local_addr().unwrap().to_string();
    let words = ["binding the tcp listener \"http\"", &*wanted, "Address already in use"];
    fails(&sandbox, serving, "axum-server", &["--listen", &wanted], &words);
}

/// The version before the one that serves still has that address, since it can take over again.
#[test]
fn an_address_that_was_changed_and_is_changed_back() {
    let sandbox = Sandbox::new();
    let (_, serving) = first(&sandbox);
    let control = sandbox.control().display().to_string();
    let elsewhere =
        ["--control", &control, "--listen", "127.0.0.2:0", "--app-version", "v2"].map(str::to_owned);
    let elsewhere = Service::spawn(&sandbox, &binary("axum-server"), &elsewhere).wait_serving();
    let wanted = serving.http.to_string();
    let who = format!("{} (v1) still does, which can take over again", serving.pid);
    let words = ["Address already in use", &*wanted, &*who, "(hotctl rollback)", "or repeat this when"];
    fails(&sandbox, elsewhere, "axum-server", &["--listen", &wanted], &words);
}

#[test]
fn another_service_on_the_same_control_socket() {
    let sandbox = Sandbox::new();
    let (_, serving) = first(&sandbox);
    let words = ["claims none of the listeners", "(http)", "give it a control socket of its own"];
    fails(&sandbox, serving, "tcp-echo", &["--listen", "127.0.0.1:0"], &words);
}

/// `hotctl hold -- sh -c 'axum-server …'`: the sockets are for the shell.
fn hold<'a>(sandbox: &'a Sandbox, at: SocketAddr, script: &str) -> Operator<'a> {
    let mut command = vec![binary("axum-server").to_string_lossy().into_owned()];
    command.extend(Service::arguments(sandbox, "v1", &["--listen", &at.to_string()]));
    // Without the usual `--listen`, which is for any port.
    command.drain(1..3);
    let script = format!("{script} {}", command.join(" "));
    let listen = format!("http={at}");
    spawn_hotctl(sandbox, &["hold", "--restarts", "0", "--listen", &listen, "--", "sh", "-c", &script])
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[test]
fn a_script_that_does_not_exec() {
    let sandbox = Sandbox::new();
    let outcome = hold(&sandbox, free_address(), "true;").wait();
    assert_ne!(outcome.code(), 0, "{}", outcome.stderr);
    let words = ["Address already in use", "; LISTEN_FDS passes a socket to ", "has to `exec` it"];
    assert!(words.iter().all(|word| outcome.stderr.contains(word)), "{}", outcome.stderr);
}

#[test]
fn a_script_that_does() {
    let sandbox = Sandbox::new();
    let at = free_address();
    let keeper = hold(&sandbox, at, "exec");
    let serving = eventually("it serves", SOON, || sandbox.servings().first().copied());
    assert_eq!(serving.http, at);
    let status = Status::ask(&sandbox.control()).unwrap();
    assert!(status.warnings.is_empty() && status.listeners[0].origin == "systemd", "{status:?}");
    keeper.process().signal(Signal::TERM);
    assert_eq!(keeper.wait().code(), 0);
}

/// A program that the service starts has its environment: it is neither the successor that an operator waits
/// for, nor started to leave its session.
#[test]
fn variables_of_a_handoff_in_a_program_that_the_service_starts() {
    let sandbox = Sandbox::new();
    let _first = first(&sandbox);
    let _ = sandbox.handoff("v2", &["--probation", "60"]).expect_success();
    let v2 = Status::ask(&sandbox.control()).unwrap().serving;
    let attempt = v2.attempt.expect("hotctl gave it a name");

    let (mut helper, _) = sandbox.command(&binary("axum-server"));
    helper.args(Service::arguments(&sandbox, "helper", &["--standby"]));
    helper.env("HOTUPDATE_ATTEMPT", &attempt).env("HOTUPDATE_DETACH", v2.process.pid.to_string());
    let helper = Service::run(&sandbox, &mut helper);
    let joined = eventually("it has joined", SOON, || Status::ask(&sandbox.control()).ok()?.successor);
    assert_eq!((joined.process.version.as_str(), joined.attempt), ("helper", None));
    let ours = Facts::of(std::process::id()).expect("this process is there").session;
    assert_eq!(helper.facts().session, ours, "it left its session");
}
