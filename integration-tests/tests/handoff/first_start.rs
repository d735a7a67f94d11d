//! First starts of real processes: two at once, after a crash, with the worst umask.
//!
//! Deliberately absent: what may be at the path of the control socket, see
//! `crates/hotupdate/tests/control/control_socket.rs`.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use integration_tests::client::who_answers;
use integration_tests::process::{binary, eventually};
use integration_tests::{Handover, SOON, Sandbox, Service, Status, Way};

#[test]
fn of_two_at_once_one_is_first_and_the_other_takes_over() {
    for _ in 0..5 {
        let sandbox = Sandbox::new();
        let one = Service::start(&sandbox, "v1", &["--probation", "0"]);
        let two = Service::start(&sandbox, "v1", &["--probation", "0"]);
        let (one, two) = (one.wait_serving(), two.wait_serving());
        let (old, new) = if one.generation < two.generation { (one, two) } else { (two, one) };
        assert_eq!((old.generation, new.generation), (1, 2));
        assert_eq!(old.http, new.http, "both serve the same socket");
        assert_eq!(who_answers(new.http).expect("the service answers"), new.pid);
        Service::of(&sandbox, old.pid).wait_drained();
        assert_eq!(Status::ask(&sandbox.control()).expect("a status").serving.process.pid, new.pid);
    }
}

#[test]
fn after_a_crash_the_next_one_is_first() {
    let sandbox = Sandbox::new();
    for _ in 0..3 {
        let service = Service::start(&sandbox, "v1", &[]);
        let serving = service.wait_serving();
        assert_eq!(serving.generation, 1, "there was no process to succeed");
        service.kill();
        assert!(sandbox.control().exists(), "a crash leaves the socket behind");
    }
    let serving = Service::start(&sandbox, "v1", &[]).wait_serving();
    let _done = Handover::run(&sandbox, Way::ByHand, serving, "v2", &[]);
}

#[test]
fn the_files_are_for_the_owner_whatever_the_umask() {
    let sandbox = Sandbox::new();
    let server = binary("axum-server").to_string_lossy().into_owned();
    let mut arguments = vec!["-c".to_owned(), "umask 000; exec \"$@\"".to_owned(), "sh".to_owned(), server];
    arguments.extend(Service::arguments(&sandbox, "v1", &[]));
    let service = Service::spawn(&sandbox, Path::new("/bin/sh"), &arguments);
    service.wait_serving();
    eventually("the control socket and its lock", SOON, || {
        let files: Vec<_> = fs::read_dir(sandbox.path()).ok()?.flatten().collect();
        let mut modes = Vec::new();
        for file in files.iter().filter(|file| file.file_name().to_string_lossy().starts_with("control.")) {
            modes.push(file.metadata().ok()?.mode() & 0o7777);
        }
        (modes == [0o600, 0o600]).then_some(())
    });
}
