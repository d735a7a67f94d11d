//! Signals, exits, and what is left.

use std::net::TcpStream;
use std::time::Duration;

use integration_tests::client::{InFlight, who_answers};
use integration_tests::process::needs::{NAMESPACES, PYTHON, have};
use integration_tests::process::{Exit, binary, spawn_hotctl};
use integration_tests::{SOON, Sandbox, Service, Status, eventually, hotctl};
use rustix::process::Signal;

use super::support::{
    another, handoff, in_flight, nothing_is_left, only, said, server, serving, serving_run,
};

/// What is in flight is answered, the exit code is that of the program, and nothing is left.
#[test]
fn sigterm_stops_the_program_as_it_stops() {
    if !have(&[PYTHON]) {
        return;
    }
    for (options, variables, code) in
        [(&[][..], &[][..], 0), (&[], &["EXIT=7"], 7), (&["--stop-signal", "QUIT"], &[], 0)]
    {
        let sandbox = Sandbox::new();
        let (run, address) = serving(&sandbox, options, &server(variables));
        let program = who_answers(address).expect("it answers");
        let slow = in_flight(&sandbox, address, program);
        run.process().signal(Signal::TERM);
        assert_eq!(slow.answer().expect("it is answered").0, program);
        let outcome = run.wait();
        assert_eq!(outcome.code(), code, "{}", outcome.stderr);
        nothing_is_left(&sandbox);
        assert!(TcpStream::connect(address).is_err() && !sandbox.control().exists());
    }
}

/// As after exec: the signal that stops a program is no failure, and a program that does not stop is killed.
#[test]
fn a_program_that_does_not_listen_to_signals() {
    let sandbox = Sandbox::new();
    let sleep = ["sleep", "1000"].map(str::to_owned);
    let (run, _) = serving(&sandbox, &[], &sleep);
    run.process().signal(Signal::TERM);
    assert_eq!(run.wait().code(), 0);
    nothing_is_left(&sandbox);

    let deaf = ["sh", "-c", "trap '' TERM; sleep 1000"].map(str::to_owned);
    let (run, _) = serving(&sandbox, &["--stop-within", "1"], &deaf);
    let _told = hotctl(&sandbox, &["stop", "--wait"]).expect_success();
    assert_eq!(run.wait().code(), 137);
    nothing_is_left(&sandbox);

    let (run, _) = serving(&sandbox, &[], &deaf);
    let _told = hotctl(&sandbox, &["stop", "--deadline", "0.2"]).expect_success();
    assert_eq!(run.wait().code(), 137, "an operator says when");
    nothing_is_left(&sandbox);
}

#[test]
fn a_program_that_does_not_stop_after_a_handoff_is_drained() {
    if !have(&[PYTHON]) {
        return;
    }
    let sandbox = Sandbox::new();
    let (run, address) = serving(&sandbox, &[], &server(&["DEAF=1"]));
    let first = who_answers(address).expect("it answers");
    let _new = handoff(&sandbox, &[], &server(&[])).expect_success();
    let predecessor = || Status::ask(&sandbox.control()).ok()?.predecessors.into_iter().next();
    let task = eventually("operators see what it waits for", SOON, || {
        predecessor()?.tasks.into_iter().next().filter(|task| task.ends_with(&format!("process {first}")))
    });
    let shown = hotctl(&sandbox, &["status"]).expect_success().stdout;
    assert!(
        shown.contains(&format!("still running: 1 task ({task})")) && shown.contains("its own"),
        "{shown}"
    );
    let outcome = hotctl(&sandbox, &["drain", "--deadline", "0"]).expect_success();
    assert!(outcome.stderr.contains("ends its program now"), "{}", outcome.stderr);
    assert_eq!(run.wait().code(), 0, "the service goes on");
    only(address, another(address, &[first]));
}

#[test]
fn other_signals_are_passed_on() {
    if !have(&[PYTHON]) {
        return;
    }
    let sandbox = Sandbox::new();
    let (run, address) = serving(&sandbox, &[], &server(&[]));
    let program = who_answers(address).expect("it answers");
    run.process().signal(Signal::USR1);
    said(&sandbox, "SIGUSR1\n");
    // A program that does not know the signal ends of it, as after exec.
    run.process().signal(Signal::HUP);
    let outcome = run.wait();
    assert_eq!(outcome.code(), 129, "{}", outcome.stderr);
    assert!(
        outcome.stderr.contains(&format!("process {program}, was killed by signal 1")),
        "{}",
        outcome.stderr
    );
    nothing_is_left(&sandbox);
}

/// No process would supervise the program, or could take over its listener.
#[test]
fn the_program_stops_when_its_keeper_is_killed() {
    if !have(&[PYTHON]) {
        return;
    }
    let sandbox = Sandbox::new();
    let (run, address) = serving(&sandbox, &[], &server(&[]));
    let program = who_answers(address).expect("it answers");
    let slow = in_flight(&sandbox, address, program);
    run.process().signal(Signal::KILL);
    assert_eq!(run.process().wait_exit(), Exit::Signal(9));
    assert!(slow.answer().is_ok(), "it stops as it stops");
    nothing_is_left(&sandbox);
    assert!(TcpStream::connect(address).is_err(), "it holds the port");
    let (_run, address) = serving(&sandbox, &[], &server(&[]));
    assert!(who_answers(address).is_ok(), "the next one begins");
}

#[test]
fn the_end_of_the_program_is_that_of_its_keeper() {
    if !have(&[PYTHON]) {
        return;
    }
    let sandbox = Sandbox::new();
    for (variables, signal, code) in [(&[][..], Some(Signal::KILL), 137), (&["DIES=2"], None, 3)] {
        let (run, address) = serving(&sandbox, &[], &server(variables));
        let program = who_answers(address).expect("it answers");
        signal.into_iter().for_each(|signal| Service::of(&sandbox, program).signal(signal));
        assert_eq!(run.wait().code(), code);
        nothing_is_left(&sandbox);
    }
}

/// After a crash, and no client is refused meanwhile.
#[test]
fn hold_starts_it_again() {
    if !have(&[PYTHON]) {
        return;
    }
    let sandbox = Sandbox::new();
    let hotctl_run = binary("hotctl").display().to_string();
    let control = sandbox.control().display().to_string();
    let run = [
        "--",
        &hotctl_run,
        "run",
        "--socket",
        &control,
        "--listen",
        "http=127.0.0.1:0",
        "--settle",
        "0.2",
        "--",
    ];
    let server = server(&[]);
    let hold = ["hold", "--listen", "http=127.0.0.1:0"].into_iter().chain(run);
    let all: Vec<&str> = hold.chain(server.iter().map(String::as_str)).collect();
    let hold = spawn_hotctl(&sandbox, &all);
    let serves = || {
        let status = Status::ask(&sandbox.control()).ok()?;
        (status.serving.state == "serving").then_some(status)
    };
    let status = eventually("it serves", SOON, serves);
    assert_eq!(status.listeners[0].origin, "systemd", "it has the listener of hold");
    let address = status.listeners[0].address.parse().expect("an address");
    let mut before = vec![who_answers(address).expect("it answers")];
    for victim in ["the program", "hotctl run"] {
        let program = *before.last().expect("one was there");
        let killed = if victim == "the program" { program } else { serving_run(&sandbox) };
        said(&sandbox, &format!("hotctl: hold: {} (env python3 ", serving_run(&sandbox)));
        Service::of(&sandbox, killed).signal(Signal::KILL);
        // Not refused, and answered by the next one: the one before may still answer, but not for long.
        before.push(another(address, &before));
        eventually("it serves", SOON, serves);
    }
    hold.process().signal(Signal::TERM);
    let outcome = hold.wait();
    assert_eq!(outcome.code(), 0, "{}", outcome.stderr);
    nothing_is_left(&sandbox);
}

/// It reaps orphans, ends last, and with the code of its program; a later version is started beside it.
#[test]
fn as_process_1() {
    if !have(&[PYTHON, NAMESPACES]) {
        return;
    }
    let sandbox = Sandbox::new();
    let words = ["--pid", "--fork", "--kill-child", "--mount-proc"].map(str::to_owned).to_vec();
    let control = sandbox.control().display().to_string();
    let run = [
        &binary("hotctl").display().to_string(),
        "run",
        "--socket",
        &control,
        "--listen",
        "http=127.0.0.1:0",
    ];
    let run: Vec<String> = run.iter().chain(&["--settle", "0.2", "--"]).map(ToString::to_string).collect();
    let unshare = Service::spawn(
        &sandbox,
        std::path::Path::new("unshare"),
        &[words, run, server(&["EXIT=7"])].concat(),
    );
    let status = eventually("it serves", SOON, || {
        Status::ask(&sandbox.control()).ok().filter(|status| status.serving.state == "serving")
    });
    assert_eq!(status.serving.process.pid, 1);
    let address: std::net::SocketAddr = status.listeners[0].address.parse().expect("an address");
    let first = who_answers(address).expect("it answers");
    let keeper = children(unshare.pid())[0];
    let beside = |script: &str| {
        let words = ["-t", &keeper.to_string(), "-p", "-m", "sh", "-euc", script].map(str::to_owned);
        Service::spawn(&sandbox, std::path::Path::new("nsenter"), &words).wait_exit()
    };
    let is_alone = || eventually("orphans are reaped", SOON, || (children(keeper).len() == 1).then_some(()));
    is_alone();
    assert_eq!(beside("(sleep 0.2 & sleep 0.2 &) >/dev/null 2>&1"), Exit::Status(0));
    is_alone();
    let log = sandbox.log_path("v2", "log").display().to_string();
    let new = format!(
        "{} --socket {control} handoff --log {log} -- {}",
        binary("hotctl").display(),
        server(&[]).join(" ")
    );
    assert_eq!(beside(&new), Exit::Status(0));
    let second = another(address, &[first]);
    only(address, second);
    // The runtime tells process 1 alone, which has drained.
    let asked = sandbox.transcript().matches("asked ").count();
    let slow = InFlight::start(address, Duration::from_secs(2));
    eventually("it is in flight", SOON, || {
        (sandbox.transcript().matches("asked ").count() > asked).then_some(())
    });
    Service::of(&sandbox, keeper).signal(Signal::TERM);
    assert_eq!(slow.answer().expect("it is answered").0, second);
    assert_eq!(unshare.wait_exit(), Exit::Status(0));
    nothing_is_left(&sandbox);
}

fn children(pid: u32) -> Vec<u32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}
