//! What removes the control socket of a service that runs: cleaners, scripts, an operator. Handoffs go on.
//!
//! Deliberately absent: `hotctl hold`, whose tests are in `handoff/hold.rs`, and directories of units, which
//! are in `supervisors/runtime_directory.rs`.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use integration_tests::client::who_answers;
use integration_tests::process::needs::{ROOT, TMPFILES, have};
use integration_tests::process::{binary, eventually};
use integration_tests::{Handover, Outcome, SOON, Sandbox, Service, Serving, Status, Way, hotctl};

/// The predecessor lets go at once.
const ARGUMENTS: [&str; 2] = ["--probation", "0"];

fn lock(sandbox: &Sandbox) -> PathBuf {
    sandbox.path().join("control.sock.lock")
}

/// What stat(2) says is the same file, as long as it is there.
fn inode(path: &Path) -> Option<u64> {
    fs::symlink_metadata(path).ok().map(|file| file.ino())
}

/// The path leads to this process, and its lock is there, too.
#[track_caller]
fn leads_to(sandbox: &Sandbox, serving: Serving) {
    eventually(&format!("the control socket leads to {}", serving.pid), SOON, || {
        let status = Status::ask(&sandbox.control()).ok()?;
        (status.serving.process.pid == serving.pid && lock(sandbox).exists()).then_some(())
    });
}

/// systemd-tmpfiles(8) with a rule as for `/tmp`, but of one second.
fn clean(sandbox: &Sandbox) -> Outcome {
    let (folder, rules) = (sandbox.path().display(), sandbox.path().with_extension("conf"));
    // What the test needs itself.
    let text = format!("d {folder} 0700 root root 1s\nx {folder}/logs\n");
    fs::write(&rules, text).expect("the rules can be written");
    let (mut command, output) = sandbox.command(Path::new("systemd-tmpfiles"));
    command.arg("--clean").arg(&rules);
    let outcome = sandbox.outcome(command, output);
    fs::remove_file(&rules).expect("the rules are there");
    outcome
}

#[test]
fn systemd_tmpfiles_knows_the_control_socket_through_every_handoff() {
    if !have(&[TMPFILES]) {
        return;
    }
    let sandbox = Sandbox::new();
    let service = Service::start(&sandbox, "v1", &ARGUMENTS);
    let mut serving = service.wait_serving();
    let socket = inode(&sandbox.control()).expect("it is there");
    let bound = fs::read_to_string("/proc/net/unix").expect("there is /proc");
    assert!(bound.contains(&format!(" {}\n", sandbox.control().display())), "{bound}");
    for way in [Way::Hotctl, Way::Sighup, Way::ByHand] {
        let before = inode(&lock(&sandbox)).expect("it is there");
        // It removes what is older than a second; the lock is a file as any other.
        eventually("the cleaner has removed the lock", SOON, || {
            let cleaned = clean(&sandbox);
            assert_eq!(cleaned.code(), 0, "{}", cleaned.stderr);
            (inode(&lock(&sandbox)) != Some(before)).then_some(())
        });
        leads_to(&sandbox, serving);
        serving = Handover::run(&sandbox, way, serving, "vn", &ARGUMENTS).to;
        assert_eq!(inode(&sandbox.control()), Some(socket), "the socket itself was left alone");
    }
    let _done = hotctl(&sandbox, &["stop", "--wait"]).expect_success();
}

#[test]
fn whatever_is_removed_the_next_version_takes_over_in_every_way() {
    let sandbox = Sandbox::new();
    let service = Service::start(&sandbox, "v1", &ARGUMENTS);
    let mut serving = service.wait_serving();
    let (control, lock) = (sandbox.control(), lock(&sandbox));
    let orders: [&[&Path]; 4] = [&[&control], &[&lock], &[&control, &lock], &[&lock, &control]];
    for (number, removed) in orders.into_iter().enumerate() {
        for file in removed {
            fs::remove_file(file).expect("it is there");
        }
        leads_to(&sandbox, serving);
        let way = Way::turn(number);
        serving = Handover::run(&sandbox, way, serving, "vn", &ARGUMENTS).to;
        leads_to(&sandbox, serving);
    }
    let log = sandbox.transcript();
    let said = log.matches("the control socket was removed from its path, and is made again").count();
    assert_eq!(said, 4, "once for each: {log}");
    let _done = hotctl(&sandbox, &["stop", "--wait"]).expect_success();
    assert!(!control.exists(), "what was made again is removed as ever");
}

/// As a deploy script does it: `rm -f run/*.sock*; kill -HUP`.
#[test]
fn sighup_at_once_after_it_was_removed() {
    let sandbox = Sandbox::new();
    let service = Service::start(&sandbox, "v1", &ARGUMENTS);
    let mut serving = service.wait_serving();
    for _ in 0..3 {
        fs::remove_file(sandbox.control()).expect("it is there");
        fs::remove_file(lock(&sandbox)).expect("it is there");
        let next = Handover::run(&sandbox, Way::Sighup, serving, "", &[]).to;
        assert_eq!(who_answers(next.http).expect("it serves"), next.pid);
        serving = next;
    }
}

/// The version that serves dies before it has made anything again: its predecessor in probation serves at the
/// same path, where a version that is started at once meets it.
#[test]
fn a_predecessor_that_takes_over_makes_it_again() {
    for removed in ["control.sock", "control.sock.lock", "both"] {
        let sandbox = Sandbox::new();
        let service = Service::start(&sandbox, "v1", &["--probation", "60"]);
        let first = service.wait_serving();
        let second = Handover::run(&sandbox, Way::ByHand, first, "v2", &["--probation", "60"]).to;
        for file in ["control.sock", "control.sock.lock"] {
            if removed == file || removed == "both" {
                fs::remove_file(sandbox.path().join(file)).expect("it is there");
            }
        }
        Service::of(&sandbox, second.pid).kill();
        leads_to(&sandbox, first);
        let _done = hotctl(&sandbox, &["stop", "--wait"]).expect_success();
    }
}

/// As one that gave up its rights after its start: it says once why it cannot, serves on, and does it when it
/// can.
#[test]
fn a_service_that_may_not_write_there_any_more_says_so_once() {
    const USER: u32 = 65534;
    if !have(&[ROOT]) {
        return;
    }
    let sandbox = Sandbox::new();
    let owned_by = |user: u32| chown(sandbox.path(), Some(user), None).expect("root may");
    owned_by(USER);
    let user = USER.to_string();
    let mut command: Vec<_> =
        ["--reuid", &user, "--regid", &user, "--clear-groups"].map(str::to_owned).to_vec();
    command.push(binary("axum-server").display().to_string());
    command.extend(Service::arguments(&sandbox, "v1", &ARGUMENTS));
    let service = Service::spawn(&sandbox, Path::new("/usr/bin/setpriv"), &command);
    let serving = service.wait_serving();
    fs::set_permissions(sandbox.path(), fs::Permissions::from_mode(0o755)).expect("root may");
    owned_by(0);
    fs::remove_file(sandbox.control()).expect("it is there");
    let said = "removed from its path, and cannot be made again yet";
    eventually("it says why", SOON, || sandbox.transcript().contains(said).then_some(()));
    assert_eq!(who_answers(serving.http).expect("it serves on"), serving.pid);
    owned_by(USER);
    leads_to(&sandbox, serving);
    let log = sandbox.transcript();
    assert_eq!(log.matches(said).count(), 1, "{log}");
    assert!(log.contains("Permission denied"), "{log}");
}
