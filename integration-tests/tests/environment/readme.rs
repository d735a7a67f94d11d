//! The READMEs: the commands of the walk are run as they stand, and the program is the example.
//!
//! Deliberately absent: `make demo` and `make test`, which run this.
//!
//! The walk uses port 8080, so it runs in a network namespace of its own (unshare(1)), and in a process
//! namespace, with which everything ends that it started.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use hotupdate::testing::{self, Process};
use integration_tests::process::binary;
use integration_tests::process::needs::{CURL, IP, NAMESPACES, have};
use tempfile::TempDir;

fn readme(folder: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder).join("README.md")).unwrap()
}

/// The commands after the comment `<!-- walk: name -->`.
fn commands(readme: &str, name: &str) -> String {
    let (_, rest) = readme.split_once(&format!("<!-- walk: {name} -->\n```sh\n")).expect(name);
    rest.split_once("```").unwrap().0.to_owned()
}

fn private_folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
    folder
}

/// Runs a script in a folder where `target/release` leads to the programs under test.
fn run(script: &str) -> Output {
    let folder = private_folder();
    fs::create_dir(folder.path().join("target")).unwrap();
    let programs = binary("hotctl").parent().unwrap().to_owned();
    std::os::unix::fs::symlink(programs, folder.path().join("target/release")).unwrap();
    fs::write(folder.path().join("walk"), script).unwrap();
    Command::new("unshare")
        .args(["--net", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .args(["bash", "-euo", "pipefail", "walk"])
        .current_dir(&folder)
        // Where `axum-server` puts its socket, and where `hotctl` looks for any.
        .env("RUNTIME_DIRECTORY", folder.path().join("axum-server"))
        .env("XDG_RUNTIME_DIR", folder.path())
        .env_remove("HOTUPDATE_SOCKET")
        .output()
        .unwrap()
}

#[test]
fn the_walk_does_what_it_says() {
    if !have(&[CURL, IP, NAMESPACES]) {
        return;
    }
    let readme = readme("../examples");
    let [first, second, third, operator, signal, rollback] =
        ["first", "second", "third", "operator", "signal", "rollback"].map(|name| commands(&readme, name));
    // The shell plays the person: the first two terminals run in the background.
    let script = format!(
        r#"
        ip link set lo up
        ({first}) >first.out 2>&1 &
        until grep -q ^serving first.out; do sleep 0.05; done
        ({second}) >slow.out 2>/dev/null &
        slow=$!
        until target/release/hotctl status | grep -q ' 1/0/0'; do sleep 0.05; done
        echo "--- third"
        {third}
        echo "--- slow"
        wait $slow; cat slow.out; echo
        until grep -q ^drained first.out; do sleep 0.05; done
        cat first.out
        echo "--- operator"
        {operator}
        grep ^serving v3.log
        echo "--- signal"
        {signal}
        echo "--- rollback"
        {rollback}
        target/release/hotctl status
        "#
    );
    let output = run(&script);
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    let shown = format!("{}\n{stdout}\n{stderr}", output.status);
    assert!(output.status.success(), "{shown}");

    let part =
        |name: &str| stdout.split("--- ").find_map(|part| part.strip_prefix(name)).expect(name).to_owned();
    let pid_after = |text: &str, mark: &str| -> u32 {
        let (_, rest) = text.split_once(mark).unwrap_or_else(|| panic!("no {mark:?}: {shown}"));
        rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap()
    };
    let (third, slow) = (part("third"), part("slow"));
    let (old, new) = (pid_after(&slow, "generation=1 pid="), pid_after(&third, "generation=2 pid="));
    assert_eq!(pid_after(&third, "ospid:"), new, "{shown}");
    assert_eq!(pid_after(&slow, "ospid:"), old, "{shown}");
    assert!(third.contains("serving") && third.contains("draining"), "{shown}");
    assert!(slow.contains("drained generation=1"), "{shown}");
    assert!(part("operator").contains("serving generation=3"), "{shown}");
    assert!(part("signal").contains("\n4 "), "generation 4 serves: {shown}");
    assert!(part("rollback").contains("\n3 "), "generation 3 serves again: {shown}");
}

#[test]
fn the_readme_of_hotctl_does_what_it_says() {
    if !have(&[IP, NAMESPACES]) {
        return;
    }
    let readme = readme("../crates/hotctl");
    let [deploy, failure, hold] = ["deploy", "failure", "hold"].map(|name| commands(&readme, name));
    let script = format!(
        r#"
        ip link set lo up
        export PATH="$PWD/target/release:$PATH"
        for version in v1 v2 v3; do
            printf '#!/bin/sh\nexec axum-server --app-version %s "$@"\n' $version >server-$version
            chmod +x server-$version
        done
        ./server-v1 >v1.log 2>&1 &
        until grep -q ^serving v1.log; do sleep 0.05; done
        echo "--- failure"
        code=0; {{ {failure} }} 2>failure.out || code=$?
        grep ^hotctl: failure.out; echo "exit code $code"
        echo "--- deploy"
        {{ {deploy} }} 2>&1
        echo "--- hold"
        {{ {hold} }} 2>hold.out &
        hold=$!
        until grep -q ' serves$' hold.out; do sleep 0.05; done
        kill -9 $(hotctl --socket ./shop.sock --json status | grep -o '"pid":[0-9]*' | head -1 | cut -d: -f2)
        until [ $(grep -c ' serves$' hold.out) = 2 ]; do sleep 0.05; done
        hotctl --socket ./shop.sock stop --wait 2>&1
        wait $hold; cat hold.out
        "#
    );
    let output = run(&script);
    let stdout = String::from_utf8_lossy(&output.stdout);
    let shown = format!("{}\n{stdout}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{shown}");
    let part =
        |name: &str| stdout.split("--- ").find_map(|part| part.strip_prefix(name)).expect(name).to_owned();

    let (_, said) = readme.split_once("<!-- said: failure -->\n```\n").unwrap();
    // Between the two, the service may have been quick enough to say what it heard.
    let (begins, ends) = said.lines().next().unwrap().split_once(';').unwrap();
    let without_digits = |text: &str| text.replace(|character: char| character.is_ascii_digit(), "");
    let failure = part("failure");
    let line = without_digits(failure.trim().lines().next().unwrap());
    assert!(line.starts_with(&without_digits(begins)) && line.ends_with(&without_digits(ends)), "{shown}");
    assert!(failure.contains("exited (status 1)") && failure.contains("exit code 1"), "{shown}");

    let deploy = part("deploy");
    for line in [" (v2) serves now, ", " (v1) serves again, ", " (v3) serves now, ", " (v3) has stopped; "] {
        assert!(deploy.contains(line), "no {line:?}: {shown}");
    }
    assert!(deploy.contains(" (v1) has exited"), "--until drained: {shown}");
    let hold = part("hold");
    for line in ["holding http=127.0.0.1:8081", "was killed by signal 9; starting", "the service has stopped"]
    {
        assert!(hold.contains(line), "no {line:?}: {shown}");
    }
}

#[test]
fn its_fifteen_lines_are_the_example() {
    let readme = readme("..");
    let (_, rest) = readme.split_once("```rust\n").unwrap();
    let program = rest.split_once("```").unwrap().0;
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/axum-hello/src/main.rs");
    let example = fs::read_to_string(example).unwrap();
    let code: Vec<_> =
        example.lines().skip_while(|line| line.starts_with("//!") || line.is_empty()).collect();
    assert_eq!(program.trim_end(), code.join("\n"));
    let lines = program.lines().filter(|line| !line.trim().is_empty()).count();
    assert!(lines <= 15, "{lines} lines");
}

/// In a network of its own, where port 3000 is free, and with a socket where it is told: two versions of it,
/// one after the other.
#[test]
fn its_fifteen_lines_are_replaced_while_they_run() {
    if !have(&[NAMESPACES]) {
        return;
    }
    let folder = private_folder();
    let control = folder.path().join("hello.sock");
    let start = || {
        let mut hello = Command::new("unshare");
        hello.arg("--net").arg(binary("axum-hello")).env("HOTUPDATE_SOCKET", &control);
        Process::start(&mut hello, &control).unwrap()
    };
    let old = start();
    let new = start();
    assert!(old.wait().unwrap().success(), "the old one drains and ends");
    let status = testing::status(&control).unwrap();
    assert_eq!((status.serving.process.pid, status.listeners[0].name.as_str()), (new.id(), "http"));
    assert_eq!(status.listeners[0].origin, "inherited");
}

#[test]
fn it_takes_no_arguments_and_leaves_nothing() {
    let folder = private_folder();
    let control = folder.path().join("hello.sock");
    for argument in [OsStr::new("--help"), OsStr::new("/run/hello.sock"), OsStr::from_bytes(b"\xff")] {
        let mut hello = Command::new(binary("axum-hello"));
        let output = hello
            .arg(argument)
            .env("HOTUPDATE_SOCKET", &control)
            .env("RUST_BACKTRACE", "0")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(
            (output.status.code(), said.as_ref()),
            (Some(1), "Error: axum-hello takes no arguments\n")
        );
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// curl connects once, and each of its requests is answered.
#[test]
fn the_readme_of_axum_tls_does_what_it_says() {
    if !have(&[CURL, IP, NAMESPACES]) {
        return;
    }
    let readme = readme("../examples/axum-tls");
    let [first, second, third] = ["first", "second", "third"].map(|name| commands(&readme, name));
    let script = format!(
        r#"
        ip link set lo up
        {first}
        stat -c %a tls/key.pem
        echo "--- second"
        {second}
        echo "--- third"
        {third}
        "#
    );
    let output = run(&script);
    let stdout = String::from_utf8_lossy(&output.stdout);
    let shown = format!("{}\n{stdout}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{shown}");
    assert!(stdout.starts_with("hello over TLSv1_3\n600\n--- second\n"), "{shown}");
    let connects: Vec<_> = stdout.lines().filter(|line| ["0", "1"].contains(line)).collect();
    assert_eq!(connects, ["1", "0", "0", "0", "0"], "{shown}");
    assert_eq!(stdout.matches("hello over TLSv1_3\n").count(), 6, "{shown}");
    assert!(stdout.contains("PROTOCOL"), "{shown}");
}
