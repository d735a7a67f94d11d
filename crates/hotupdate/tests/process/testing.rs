//! What `hotupdate::testing` says of real processes.

use std::io;
use std::process::Command;

use hotupdate::testing::{Process, status};

use crate::service::BROKEN;
use crate::stage::Stage;

fn start(stage: &Stage) -> io::Result<Process> {
    Process::start(stage.prepare(&mut Command::new(stage.program())), stage.control())
}

#[test]
fn a_process_is_replaced_by_another_and_drains() {
    let stage = Stage::new();
    let old = start(&stage).unwrap();
    let new = start(&stage).unwrap();
    assert!(old.wait().unwrap().success());
    let now = status(stage.control()).unwrap();
    assert_eq!((now.serving.process.pid, now.serving.generation.0), (new.id(), 2));
    new.terminate().unwrap();
    assert!(new.wait().unwrap().success());
    let gone = status(stage.control()).unwrap_err();
    assert_eq!(gone.kind(), io::ErrorKind::NotFound, "it has taken its socket with it: {gone}");
}

#[test]
fn a_version_that_ends_before_it_serves_is_an_error_and_the_old_one_serves_on() {
    let stage = Stage::new();
    let old = start(&stage).unwrap();
    std::fs::write(stage.file(BROKEN), "").unwrap();
    let error = start(&stage).unwrap_err().to_string();
    assert!(error.contains("ended before it served: exit status"), "{error}");
    assert_eq!(status(stage.control()).unwrap().serving.process.pid, old.id());
}

#[test]
fn a_process_that_is_dropped_is_gone() {
    let stage = Stage::new();
    let process = start(&stage).unwrap();
    let proc = format!("/proc/{}", process.id());
    assert!(std::fs::exists(&proc).unwrap());
    drop(process);
    assert!(!std::fs::exists(&proc).unwrap());
    assert_eq!(status(stage.control()).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
}

#[test]
fn a_program_that_is_not_there_is_named_by_the_system() {
    let stage = Stage::new();
    let error = Process::start(&mut Command::new(stage.file("nothing")), stage.control()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
}
