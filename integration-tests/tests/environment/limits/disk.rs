//! A disk that is full: under the log, under the control socket, and behind hotctl's output.
//!
//! Deliberately absent: state on disk. There is none.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, io};

use integration_tests::client::who_answers;
use integration_tests::process::needs::{NAMESPACES, ROOT, have};
use integration_tests::process::{Exit, binary, eventually};
use integration_tests::steady::Steady;
use integration_tests::{Sandbox, Service, Status, hotctl};
use rustix::process::Signal;

use super::{ARGUMENTS, SOON, incumbent, next_attempt_works, start_after, status_when};

/// Set in the process that has mounts of its own.
const INSIDE: &str = "HOTUPDATE_TEST_MOUNTS";

/// Runs the test of this name again, in a mount namespace of its own; true in there.
fn is_inside(test: &str) -> bool {
    if env::var_os(INSIDE).is_some() {
        return true;
    }
    let mut again = Command::new("unshare");
    again.args(["--mount", "--"]).arg(env::current_exe().unwrap()).args(["--exact", test, "--nocapture"]);
    let again = again.env(INSIDE, "1").output().expect("unshare(1) of util-linux runs");
    let (said, errors) = (String::from_utf8_lossy(&again.stdout), String::from_utf8_lossy(&again.stderr));
    let passed = again.status.success() && said.contains("1 passed");
    assert!(passed, "{test}, in a mount namespace: {} (root is needed)\n{said}{errors}", again.status);
    false
}

/// A small file system in memory.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: &Path, size: &str) -> Self {
        fs::create_dir_all(at).unwrap();
        let options = format!("size={size},nr_inodes=64,mode=700");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "none"]).arg(at).status();
        assert!(mounted.expect("mount(8) runs").success());
        Self(at.to_owned())
    }

    /// Until there is no room for one byte, nor for one more name.
    fn fill(&self) {
        let mut zeros = File::create(self.0.join("zeros")).unwrap();
        let full = (0..).find_map(|_| zeros.write_all(&[0; 1024]).err()).unwrap();
        assert_eq!(full.kind(), ErrorKind::StorageFull);
        let full = (0..).find_map(|n| File::create(self.0.join(format!("empty-{n}"))).err()).unwrap();
        assert_eq!(full.kind(), ErrorKind::StorageFull);
    }

    fn names(&self) -> Vec<String> {
        let names =
            fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.filter(|name| !name.starts_with("empty-")).collect();
        names.sort();
        names
    }

    fn make_room(&self) {
        for entry in fs::read_dir(&self.0).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if name == "zeros" || name.starts_with("empty-") {
                fs::remove_file(path).unwrap();
            }
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: processes that write there are ended with the sandbox.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

fn address(status: &Status) -> SocketAddr {
    status.listeners[0].address.parse().unwrap()
}

#[test]
fn under_the_log() {
    if !have(&[ROOT, NAMESPACES]) || !is_inside("limits::disk::under_the_log") {
        return;
    }
    let sandbox = Sandbox::new();
    let disk = Disk::mount(&sandbox.path().join("disk"), "64k");
    disk.fill();
    // Everything that is said is lost.
    let log = disk.0.join("zeros").display().to_string();
    let redirected = format!("exec >>{log} 2>&1");
    let first = start_after(&sandbox, "v1", &[], &redirected);
    let http = address(&status_when(&sandbox, "the first", |status| status.serving.state == "serving"));
    assert_eq!(who_answers(http).unwrap(), first.pid());

    let server = binary("axum-server").display().to_string();
    let command = Service::arguments(&sandbox, "v2", &ARGUMENTS);
    let mut arguments = vec!["handoff", "--log", &log, "--", &server];
    arguments.extend(command.iter().map(String::as_str));
    let outcome = hotctl(&sandbox, &arguments).expect_success();
    assert!(outcome.stderr.contains("serves now"), "{}", outcome.stderr);
    let second = status_when(&sandbox, "the second", |status| status.serving.process.version == "v2");
    let second = Service::of(&sandbox, second.serving.process.pid);
    assert_eq!(who_answers(http).unwrap(), second.pid());
    assert_eq!(first.wait_exit(), Exit::Status(0));

    second.signal(Signal::HUP);
    let third =
        status_when(&sandbox, "the third", |status| status.serving.generation == 3).serving.process.pid;
    assert_eq!(who_answers(http).unwrap(), third);
    assert_eq!(second.wait_exit(), Exit::Status(0));
    Service::of(&sandbox, third).signal(Signal::TERM);
    assert_eq!(Service::of(&sandbox, third).wait_exit(), Exit::Status(0));
}

#[test]
fn under_the_control_socket() {
    if !have(&[ROOT, NAMESPACES]) || !is_inside("limits::disk::under_the_control_socket") {
        return;
    }
    let sandbox = Sandbox::new();
    let disk = Disk::mount(sandbox.path(), "64k");
    let _logs = Disk::mount(&sandbox.path().join("logs"), "16m");
    disk.fill();
    let refused = Service::start(&sandbox, "v1", &ARGUMENTS);
    assert_eq!(refused.wait_exit(), Exit::Status(1));
    let said = sandbox.transcript();
    let lines: Vec<_> = said.lines().filter(|line| line.starts_with("axum-server: ")).collect();
    let [line] = lines[..] else { panic!("one line was due:\n{said}") };
    assert!(line.contains("control.sock") && line.contains("No space left on device"), "{line}");

    disk.make_room();
    let (_, mut serving) = incumbent(&sandbox);
    disk.fill();
    for _ in 0..3 {
        serving = next_attempt_works(&sandbox, serving);
    }
    assert_eq!(disk.names(), ["control.sock", "control.sock.lock", "logs", "zeros"]);
}

/// hotctl with its output at a place that takes nothing: `/dev/full` (full(4)), or a pipe that is not read.
fn hotctl_to(sandbox: &Sandbox, stdout: impl Into<Stdio>, arguments: &[&str]) -> (i32, String) {
    let (mut command, output) = sandbox.command(&binary("hotctl"));
    command.arg("--socket").arg(sandbox.control()).args(arguments).stdout(stdout);
    let status = command.status().unwrap();
    (status.code().expect("it exits by itself"), fs::read_to_string(output.stderr).unwrap())
}

fn nobody() -> Stdio {
    io::pipe().unwrap().1.into()
}

fn full() -> Stdio {
    File::options().write(true).open("/dev/full").unwrap().into()
}

#[test]
fn behind_hotctl() {
    let sandbox = Sandbox::new();
    let (service, serving) = incumbent(&sandbox);
    let client = Steady::connect(serving.http).unwrap();
    status_when(&sandbox, "a connection", |status| status.serving.connections.idle == 1);
    for command in ["status", "connections", "list", "watch"] {
        for json in [&["--json"][..], &[]] {
            if command == "watch" && json.is_empty() {
                // It asks for a terminal.
                continue;
            }
            let arguments: Vec<_> = json.iter().copied().chain([command]).collect();
            assert_eq!(hotctl_to(&sandbox, nobody(), &arguments), (0, String::new()), "{arguments:?}");
            let (code, said) = hotctl_to(&sandbox, full(), &arguments);
            let why = "cannot write to stdout: No space left on device";
            assert_eq!((code, said), (1, format!("hotctl: {command}: {why}\n")), "{arguments:?}");
        }
    }
    for arguments in
        [&["--help"][..], &["--version"], &["help", "handoff"], &["man"], &["completions", "bash"]]
    {
        assert_eq!(hotctl_to(&sandbox, nobody(), arguments), (0, String::new()), "{arguments:?}");
        let (code, said) = hotctl_to(&sandbox, full(), arguments);
        assert!(code <= 1 && !said.contains("panicked"), "{arguments:?}: {said}");
    }
    drop(client);
    // What was done is done: an exit code of 1 would say that the old version still serves.
    let server = binary("axum-server").display().to_string();
    let log = sandbox.log_path("axum-server", "log").display().to_string();
    let successor = Service::arguments(&sandbox, "v2", &["--probation", "30"]);
    let mut arguments = vec!["--json", "handoff", "--log", &log, "--", &server];
    arguments.extend(successor.iter().map(String::as_str));
    let (code, said) = hotctl_to(&sandbox, full(), &arguments);
    let next = status_when(&sandbox, "the next", |status| status.serving.process.version == "v2").serving;
    let pid = next.process.pid;
    let line =
        format!("hotctl: handoff: cannot write to stdout: No space left on device; {pid} (v2) serves now\n");
    assert_eq!((code, said), (0, line));
    assert_eq!(who_answers(serving.http).unwrap(), pid);
    assert_eq!(service.wait_exit(), Exit::Status(0));
    let (code, said) = hotctl_to(&sandbox, nobody(), &["stop"]);
    assert_eq!(code, 0, "{said}");
    eventually("the end of the service", SOON, || sandbox.processes().is_empty().then_some(()));
}
