//! What takes over from what: another `hotctl run`, a service that speaks for itself, and the other way
//! round.

use integration_tests::client::who_answers;
use integration_tests::process::needs::{PYTHON, have};
use integration_tests::process::{binary, spawn_hotctl};
use integration_tests::{Sandbox, Service, Status, hotctl};

use super::support::{another, handoff, only, server, serves, serving, serving_run};

/// As everything else here: what is started later takes the listeners, and what is not said is as before.
#[test]
fn a_second_run_takes_over() {
    if !have(&[PYTHON]) {
        return;
    }
    let sandbox = Sandbox::new();
    let (first_run, address) = serving(&sandbox, &["--ready-http", "/health"], &server(&[]));
    let first = who_answers(address).expect("it answers");
    let command = server(&["NEW=1"]);
    let all = ["run", "--label", "v2", "--"].into_iter().chain(command.iter().map(String::as_str));
    let second_run = spawn_hotctl(&sandbox, &all.collect::<Vec<_>>());
    assert_eq!(serves(&sandbox, second_run.process().pid()), address);
    only(address, another(address, &[first]));
    assert_eq!(first_run.wait().code(), 0);
    let shown = hotctl(&sandbox, &["status"]).expect_success().stdout;
    assert!(shown.contains(" v2 ") && shown.contains("inherited"), "{shown}");
    // The listener on which it was asked was passed again.
    let said = sandbox.transcript();
    assert_eq!(said.matches("accepts ").count(), 2, "{said}");
    let outcome = hotctl(&sandbox, &["connections"]).expect_success();
    assert!(outcome.stderr.contains("(v2) are those of its program: see `ss -tnp`"), "{}", outcome.stderr);
}

/// A service that was built with the library has listeners of the same names.
#[test]
fn a_service_takes_over_and_gives_back() {
    if !have(&[PYTHON]) {
        return;
    }
    let sandbox = Sandbox::new();
    let (run, address) = serving(&sandbox, &[], &server(&[]));
    let first = who_answers(address).expect("it answers");
    let axum =
        [vec![binary("axum-server").display().to_string()], Service::arguments(&sandbox, "v2", &[])].concat();
    let _new = handoff(&sandbox, &["--native"], &axum).expect_success();
    let second = another(address, &[first]);
    only(address, second);
    assert_eq!(serving_run(&sandbox), second, "it serves by itself");
    assert_eq!(run.wait().code(), 0);

    let hotctl_run = binary("hotctl").display().to_string();
    let control = sandbox.control().display().to_string();
    let back = [&hotctl_run, "run", "--socket", &control, "--"].map(str::to_owned);
    let outcome = handoff(&sandbox, &[], &[back.to_vec(), server(&[])].concat());
    assert_eq!(outcome.code(), 1);
    assert!(outcome.error_line().contains("name the listeners (--listen "), "{}", outcome.stderr);
    let listen = format!("http={address}");
    let back = [&hotctl_run, "run", "--socket", &control, "--listen", &listen, "--settle", "0.2", "--"];
    let back = back.map(str::to_owned).to_vec();
    let _back = handoff(&sandbox, &[], &[back, server(&[])].concat()).expect_success();
    only(address, another(address, &[first, second]));
}

/// Two listeners, of which one is a Unix socket, in the order of the command line.
#[test]
fn several_listeners() {
    if !have(&[PYTHON]) {
        return;
    }
    let sandbox = Sandbox::new();
    let path = sandbox.path().join("app.sock");
    let unix = format!("unix={}", path.display());
    let (_run, address) = serving(&sandbox, &["--listen", &unix], &server(&[]));
    let first = who_answers(address).expect("it answers");
    let _new = handoff(&sandbox, &["--until", "drained"], &server(&[])).expect_success();
    only(address, another(address, &[first]));
    assert!(std::os::unix::net::UnixStream::connect(&path).is_ok());
    let listeners = Status::ask(&sandbox.control()).expect("it serves").listeners;
    let names: Vec<_> = listeners.iter().map(|listener| listener.name.as_str()).collect();
    assert_eq!(names, ["http", "unix"]);
}

/// A program that waits in accept(2), and knows no signal.
#[test]
fn sockets_on_which_accept_waits() {
    if !have(&[PYTHON]) {
        return;
    }
    const SERVER: &str = "
import os, socket
listener = socket.socket(fileno=3)
while True:
    connection, _ = listener.accept()
    connection.recv(4096)
    body = b'ospid:%d\\n' % os.getpid()
    connection.sendall(b'HTTP/1.1 200 OK\\r\\nConnection: close\\r\\nContent-Length: %d\\r\\n\\r\\n' % len(body) + body)
    connection.close()
";
    let sandbox = Sandbox::new();
    let command = ["python3", "-c", SERVER].map(str::to_owned);
    let (run, address) = serving(&sandbox, &["--blocking"], &command);
    let first = who_answers(address).expect("it answers");
    let _new = handoff(&sandbox, &[], &command).expect_success();
    only(address, another(address, &[first]));
    assert_eq!(run.wait().code(), 0);
}
