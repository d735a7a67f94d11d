//! A Varlink client that this project did not write: PyPI's `varlink`, by its command line.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use integration_tests::process::eventually;
use integration_tests::process::needs::{VARLINK, have};
use integration_tests::{Handover, SOON, Sandbox, Service, Serving, Way};
use serde_json::Value;

/// Python in the sandbox, and the files that it writes to.
fn python(sandbox: &Sandbox, arguments: &[&str]) -> (Command, PathBuf, PathBuf) {
    let (mut command, output) = sandbox.command(Path::new("python3"));
    command.args(arguments).env("PYTHONUNBUFFERED", "1");
    (command, output.stdout, output.stderr)
}

const CLI: [&str; 2] = ["-m", "varlink.cli"];

/// Runs the command line to its end: what it printed, on both outputs.
fn run(sandbox: &Sandbox, arguments: &[&str]) -> (String, String) {
    run_python(sandbox, &[&CLI, arguments].concat())
}

fn run_python(sandbox: &Sandbox, arguments: &[&str]) -> (String, String) {
    let (mut command, stdout, stderr) = python(sandbox, arguments);
    let status = command.status().expect("python3 runs");
    let [stdout, stderr] = [stdout, stderr].map(|path| fs::read_to_string(path).expect("its output"));
    assert!(status.success(), "{arguments:?}: {status}\n{stdout}\n{stderr}");
    (stdout, stderr)
}

fn address(sandbox: &Sandbox, method: &str) -> String {
    format!("unix:{}/io.hotupdate.{method}", sandbox.control().display())
}

fn service(sandbox: &Sandbox) -> Serving {
    Service::start(sandbox, "v1", &["--probation", "0"]).wait_serving()
}

/// The replies so far; the last may be only half written.
fn replies(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    serde_json::Deserializer::from_str(&text).into_iter().map_while(Result::ok).collect()
}

#[test]
fn it_reads_the_status() {
    if !have(&[VARLINK]) {
        return;
    }
    let sandbox = Sandbox::new();
    let serving = service(&sandbox);
    let (stdout, stderr) = run(&sandbox, &["call", &address(&sandbox, "Status")]);
    let reply: Value =
        serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {stdout}{stderr}"));
    let status = &reply["status"]["serving"];
    assert_eq!(status["process"]["pid"], serving.pid);
    assert_eq!((&status["generation"], &status["state"]), (&1.into(), &"serving".into()));
    assert_eq!(reply["status"]["listeners"][0]["address"], serving.http.to_string());
}

#[test]
fn it_follows_a_handoff() {
    if !have(&[VARLINK]) {
        return;
    }
    let sandbox = Sandbox::new();
    let serving = service(&sandbox);
    let monitor = address(&sandbox, "Monitor");
    let arguments = [&CLI[..], &["call", "--more", &monitor]].concat();
    let (mut command, stdout, stderr) = python(&sandbox, &arguments);
    let mut watcher = command.spawn().expect("python3 runs");
    eventually("the status as it is", SOON, || (replies(&stdout).len() == 1).then_some(()));

    let handover = Handover::run(&sandbox, Way::ByHand, serving, "v2", &["--probation", "0"]);

    // The rest of the story is told by the next owner of the control socket, so the connection ends.
    eventually("the watcher ends", SOON, || watcher.try_wait().expect("it is our child"));
    let told = replies(&stdout);
    let kinds: Vec<_> = told.iter().filter_map(|reply| reply["event"]["kind"].as_str()).collect();
    let said = fs::read_to_string(stderr).unwrap_or_default();
    assert_eq!(kinds, ["joined", "served"], "{told:#?}\n{said}");
    assert!(told[0].get("event").is_none_or(Value::is_null), "the first is the status as it is");
    assert_eq!(told[1]["status"]["successor"]["process"]["pid"], handover.to.pid);
    assert!(
        told[2]["event"]["text"].as_str().is_some_and(|text| text.contains(&handover.to.pid.to_string()))
    );

    let (status, _) = run(&sandbox, &["call", &address(&sandbox, "Status")]);
    let status: Value = serde_json::from_str(&status).expect("a status of the new owner");
    assert_eq!(status["status"]["serving"]["process"]["pid"], handover.to.pid);
}

#[test]
fn it_understands_the_interface() {
    if !have(&[VARLINK]) {
        return;
    }
    let sandbox = Sandbox::new();
    let _serving = service(&sandbox);
    let control = format!("unix:{}", sandbox.control().display());
    let (info, _) = run(&sandbox, &["info", &control]);
    assert!(info.contains("io.hotupdate") && info.contains("org.varlink.service"), "{info}");
    let (help, _) = run(&sandbox, &["help", &format!("{control}/io.hotupdate")]);
    for word in ["interface io.hotupdate", "method Monitor(", "type ServiceStatus", "error NoPredecessor"] {
        assert!(help.contains(word), "no {word:?} in:\n{help}");
    }
    let (help, _) = run(&sandbox, &["help", &format!("{control}/org.varlink.service")]);
    assert!(help.contains("method GetInterfaceDescription("), "{help}");
}

/// Its client object has a method for each method that its parser found in our description.
#[test]
fn it_makes_methods_of_the_interface() {
    if !have(&[VARLINK]) {
        return;
    }
    const SCRIPT: &str = "
import sys, varlink
with varlink.Client.new_with_address(sys.argv[1]) as client:
    with client.open('io.hotupdate') as service:
        print(service.Status()['status']['serving']['process']['pid'])
        try:
            service.Rollback()
        except varlink.VarlinkError as error:
            print(error.error())
    with client.open('io.hotupdate') as service:
        print(next(service.Monitor(_more=True))['status']['serving']['generation'])
";
    let sandbox = Sandbox::new();
    let serving = service(&sandbox);
    let control = format!("unix:{}", sandbox.control().display());
    let (stdout, stderr) = run_python(&sandbox, &["-c", SCRIPT, &control]);
    let expected = format!("{}\nio.hotupdate.NoPredecessor\n1\n", serving.pid);
    assert_eq!(stdout, expected, "{stderr}");
}

#[test]
fn it_is_told_what_cannot_be() {
    if !have(&[VARLINK]) {
        return;
    }
    let sandbox = Sandbox::new();
    let serving = service(&sandbox);
    let (_, stderr) = run(&sandbox, &["call", &address(&sandbox, "Rollback")]);
    assert!(stderr.contains("io.hotupdate.NoPredecessor"), "{stderr}");
    let (stdout, stderr) = run(&sandbox, &["call", &address(&sandbox, "Monitor")]);
    assert!(stderr.contains("ExpectedMore"), "{stdout}\n{stderr}");
    assert_eq!(integration_tests::client::who_answers(serving.http).expect("it serves"), serving.pid);
}
