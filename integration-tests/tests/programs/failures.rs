//! A new version that fails, in every way: the old one serves on, and an operator is told why.

use integration_tests::client::who_answers;
use integration_tests::process::needs::{GUNICORN, PYTHON, have};
use integration_tests::{Sandbox, Status, hotctl};
use rustix::process::Signal;

use super::support::{another, handoff, only, said, script, server, serving, serving_run, start};

/// `hotctl handoff` says this, with exit code 1, and the process that answered before does so still. Then a
/// good one takes over: nothing is left of the attempt.
#[track_caller]
fn fails(options: &[&str], new: &[String], why: &str) {
    let sandbox = Sandbox::new();
    let (run, address) = serving(&sandbox, options, &server(&[]));
    let before = who_answers(address).expect("it answers");
    for _ in 0..2 {
        let outcome = handoff(&sandbox, &[], new);
        assert_eq!(outcome.code(), 1, "{}", outcome.stderr);
        let still = format!("; {} (env python3 ", run.process().pid());
        let line = outcome.error_line();
        assert!(line.contains(why) && line.contains(&still) && line.ends_with(" is still serving"), "{line}");
        only(address, before);
    }
    let _good = handoff(&sandbox, &[], &server(&["GOOD=1"])).expect_success();
    only(address, another(address, &[before]));
    assert_eq!(run.wait().code(), 0, "it drains as if nothing had been");
}

#[test]
fn one_that_ends_at_once() {
    if have(&[PYTHON]) {
        fails(&[], &["false".to_owned()], "false: exited (status 1) ");
    }
}

#[test]
fn one_that_is_not_there() {
    if have(&[PYTHON]) {
        let why = "./nowhere: could not be started: No such file or directory";
        fails(&[], &["./nowhere".to_owned()], why);
    }
}

/// As gunicorn does, which is ready before its workers import the application.
#[test]
fn one_that_ends_after_it_was_ready() {
    if have(&[PYTHON]) {
        fails(&["--ready-notify", "--settle", "2"], &server(&["DIES=0.5"]), "exited (status 3) ");
    }
}

#[test]
fn one_that_is_killed_while_it_settles() {
    if have(&[PYTHON]) {
        fails(&[], &["sh".to_owned(), "-c".to_owned(), "kill -9 $$".to_owned()], "was killed by signal 9 ");
    }
}

#[test]
fn one_that_never_says_that_it_is_ready() {
    if have(&[PYTHON]) {
        let options = ["--ready-notify", "--ready-within", "2"];
        fails(&options, &server(&["SILENT=1"]), "has not said READY=1 within 2 s");
    }
}

#[test]
fn one_that_is_not_well() {
    if have(&[PYTHON]) {
        let options = ["--ready-http", "/health", "--ready-within", "3"];
        fails(&options, &server(&["HEALTH=/nowhere"]), "/health answers 503 ");
    }
}

/// The real one.
#[test]
fn an_application_that_cannot_be_imported() {
    if !have(&[PYTHON, GUNICORN]) {
        return;
    }
    let gunicorn = ["python3", "-m", "gunicorn", "nowhere:app"].map(str::to_owned);
    fails(&["--ready-http", "/"], &gunicorn, "exited (status 3) ");
}

/// Over a listener of the service, the old version would answer.
#[test]
fn an_address_at_which_another_version_answers() {
    if !have(&[PYTHON]) {
        return;
    }
    let sandbox = Sandbox::new();
    let (_run, address) = serving(&sandbox, &[], &server(&[]));
    let hotctl_run = integration_tests::process::binary("hotctl").display().to_string();
    let control = sandbox.control().display().to_string();
    let url = format!("http://{address}/");
    let new = [&hotctl_run, "run", "--socket", &control, "--ready-http", &url, "--"].map(str::to_owned);
    let outcome = handoff(&sandbox, &[], &[new.to_vec(), server(&[])].concat());
    assert_eq!(outcome.code(), 1);
    assert!(outcome.error_line().contains("is that of a listener of the service"), "{}", outcome.stderr);

    let other = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let url = format!("http://{}/", other.local_addr().expect("it is bound"));
    let new = [&hotctl_run, "run", "--socket", &control, "--ready-http", &url, "--"].map(str::to_owned);
    let outcome = handoff(&sandbox, &[], &[new.to_vec(), server(&[])].concat());
    assert_eq!(outcome.code(), 1);
    assert!(outcome.error_line().contains("is taken by another process already"), "{}", outcome.stderr);
}

#[test]
fn a_first_version_that_fails_ends_as_it_did() {
    let sandbox = Sandbox::new();
    for (script, code) in [("exit 7", 7), ("kill -9 $$", 137), ("exit 0", 1)] {
        let command = ["sh", "-c", script].map(str::to_owned);
        let outcome = start(&sandbox, &[], &command).wait();
        assert_eq!(outcome.code(), code, "{script}: {}", outcome.stderr);
    }
    let outcome = start(&sandbox, &[], &["./nowhere".to_owned()]).wait();
    assert_eq!(outcome.code(), 127, "{}", outcome.stderr);
    assert!(outcome.error_line().contains("could not be started: No such file"), "{}", outcome.stderr);
    let outcome = hotctl(&sandbox, &["run", "--", "true"]);
    assert_eq!(outcome.code(), 1);
    assert!(outcome.error_line().contains("name the listeners (--listen "), "{}", outcome.stderr);
}

/// A crash in the probation is taken back: the old program is started again, and clients wait in the queue.
#[test]
fn a_crash_in_the_probation_is_taken_back() {
    if !have(&[PYTHON]) {
        return;
    }
    for victim in ["the program", "hotctl run"] {
        let sandbox = Sandbox::new();
        let (run, address) = serving(&sandbox, &[], &server(&[]));
        let first = who_answers(address).expect("it answers");
        let _new = handoff(&sandbox, &[], &server(&["NEW=1"])).expect_success();
        let second = another(address, &[first]);
        only(address, second);
        let killed = if victim == "the program" { second } else { serving_run(&sandbox) };
        integration_tests::Service::of(&sandbox, killed).signal(Signal::KILL);
        let third = another(address, &[first, second]);
        only(address, third);
        assert_eq!(serving_run(&sandbox), run.process().pid(), "{victim}");
        said(&sandbox, &format!("was started again as process {third}\n"));
        let _next = handoff(&sandbox, &[], &server(&["NEXT=1"])).expect_success();
        only(address, another(address, &[first, second, third]));
    }
}

#[test]
fn a_rollback_starts_the_old_program_again() {
    if !have(&[PYTHON]) {
        return;
    }
    let sandbox = Sandbox::new();
    let (run, address) = serving(&sandbox, &[], &server(&[]));
    let first = who_answers(address).expect("it answers");
    let _new = handoff(&sandbox, &[], &server(&["NEW=1"])).expect_success();
    let second = another(address, &[first]);
    let outcome = hotctl(&sandbox, &["rollback"]).expect_success();
    assert!(outcome.stderr.contains("its program is started again, and clients wait"), "{}", outcome.stderr);
    let third = another(address, &[first, second]);
    only(address, third);
    assert_eq!(serving_run(&sandbox), run.process().pid());
    // And the other way round, since the one that was taken back is in probation now.
    let _again = hotctl(&sandbox, &["rollback"]).expect_success();
    only(address, another(address, &[first, second, third]));
}

/// `LISTEN_PID` is that of the shell then.
#[test]
fn a_script_without_exec_is_named() {
    if !have(&[PYTHON]) {
        return;
    }
    let sandbox = Sandbox::new();
    let path = script(&sandbox, &format!("{}; echo ended", server(&["LOOSE=1"]).join(" ")));
    let (run, address) = serving(&sandbox, &["--settle", "2"], std::slice::from_ref(&path));
    let shell = format!("has started a program instead of becoming it: LISTEN_PID is {}", {
        let status = Status::ask(&sandbox.control()).expect("it serves");
        let program = &status.serving.tasks[0];
        program.rsplit(' ').next().expect("it ends with the process id").to_owned()
    });
    said(&sandbox, &shell);
    // The program that the shell has left behind is asked to stop, too.
    let before = who_answers(address).expect("it takes a descriptor by its number");
    let _new = handoff(&sandbox, &[], &server(&[])).expect_success();
    only(address, another(address, &[before]));
    assert_eq!(run.wait().code(), 0);
}

#[test]
fn a_script_with_exec_is_the_program() {
    if !have(&[PYTHON]) {
        return;
    }
    let sandbox = Sandbox::new();
    let path = script(&sandbox, &format!("cd /\nexec {}", server(&[]).join(" ")));
    let (run, address) = serving(&sandbox, &["--ready-notify"], std::slice::from_ref(&path));
    let first = who_answers(address).expect("LISTEN_PID is that of the program");
    let _new = handoff(&sandbox, &[], &[path]).expect_success();
    only(address, another(address, &[first]));
    assert_eq!(run.wait().code(), 0);
    assert!(!sandbox.transcript().contains("instead of becoming it"));
}
