//! The READMEs: no command is in them that no test runs, those of the examples are run as they stand, and the
//! program is the example.
//!
//! They use fixed ports, so they run in a network namespace of their own (unshare(1)), and in a process
//! namespace, with which everything ends that they started.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use hotupdate::testing::{self, Process};
use integration_tests::Readme;
use integration_tests::process::binary;
use integration_tests::process::needs::{CURL, IP, NAMESPACES, have};
use integration_tests::readme::repository;
use tempfile::TempDir;

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

/// Every file below a folder with this name or ending, but for what cargo and git put there.
fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        let name = path.file_name().unwrap().to_string_lossy();
        if !path.is_dir() {
            found.extend(name.ends_with(ending).then(|| path.clone()));
        } else if !path.is_symlink() && !name.starts_with('.') && name != "target" {
            found.extend(files(&path, ending));
        }
    }
    found
}

/// Each block of commands is one that a test asks for by the folder of the README and its name, or says why
/// it is none. Each example has some.
#[test]
fn every_command_is_run_by_a_test_or_says_why_not() {
    let root = repository();
    let tests = files(&root.join("integration-tests/tests"), ".rs");
    let tests: Vec<_> = tests.iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    let run = |folder: &str, name: &str| {
        let words = [folder, name].map(|word| format!("\"{word}\""));
        tests.iter().any(|test| words.iter().all(|word| test.contains(word)))
    };
    let (mut wrong, mut with_commands) = (Vec::new(), Vec::new());
    for path in files(&root, "README.md") {
        let folder = path.parent().unwrap().strip_prefix(&root).unwrap().to_str().unwrap();
        let folder = if folder.is_empty() { "." } else { folder };
        let blocks = Readme::of(folder).blocks();
        for block in
            blocks.iter().filter(|block| ["sh", "bash", "shell", "console"].contains(&&*block.language))
        {
            let fault = match block.comment.as_deref().and_then(|comment| comment.split_once(": ")) {
                Some(("run", name)) if block.language == "sh" && run(folder, name) => continue,
                Some(("run", _)) => "no test asks for it",
                Some(("not run", _)) => continue,
                _ => "it has no comment `run: NAME` or `not run: REASON`",
            };
            wrong.push(format!("{folder}/README.md:{}: {fault}", block.line));
        }
        if blocks.iter().any(|block| block.name().is_some()) {
            with_commands.push(root.join(folder));
        }
    }
    let examples = fs::read_dir(root.join("examples")).unwrap().map(|entry| entry.unwrap().path());
    let without = examples.filter(|path| path.is_dir() && !with_commands.contains(path));
    wrong.extend(without.map(|path| format!("{}: no README with commands that are run", path.display())));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_walk_does_what_it_says() {
    if !have(&[CURL, IP, NAMESPACES]) {
        return;
    }
    let [first, second, third, operator, signal, rollback] =
        ["first", "second", "third", "operator", "signal", "rollback"]
            .map(|name| Readme::of("examples").commands(name));
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
    let readme = Readme::of("crates/hotctl");
    let [deploy, failure, hold, probes] =
        ["deploy", "failure", "hold", "probes"].map(|name| readme.commands(name));
    let operate = Readme::of(".").commands("operate");
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
        echo "--- operate"
        {{ {operate} }} 2>&1
        echo "--- deploy"
        {{ {deploy} }} 2>&1
        echo "--- probes"
        HOTUPDATE_NAME=shop@v2 ./server-v2 >named.log 2>&1 &
        until grep -q ^serving named.log; do sleep 0.05; done
        {{ {probes} }} 2>&1
        hotctl stop --wait 2>&1
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

    let said = readme.blocks().into_iter().find(|block| block.comment.as_deref() == Some("said: failure"));
    // Between the two, the service may have been quick enough to say what it heard.
    let said = said.unwrap().text;
    let (begins, ends) = said.lines().next().unwrap().split_once(';').unwrap();
    let without_digits = |text: &str| text.replace(|character: char| character.is_ascii_digit(), "");
    let failure = part("failure");
    let line = without_digits(failure.trim().lines().next().unwrap());
    assert!(line.starts_with(&without_digits(begins)) && line.ends_with(&without_digits(ends)), "{shown}");
    assert!(failure.contains("exited (status 1)") && failure.contains("exit code 1"), "{shown}");

    let operate = part("operate");
    assert!(operate.contains(" (v2) serves now, ") && operate.contains(" (v1) serves again, "), "{shown}");
    assert!(part("probes").contains("shop@v2 is ready: "), "{shown}");
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
    let blocks = Readme::of(".").blocks();
    let program = &blocks.iter().find(|block| block.language == "rust").unwrap().text;
    let example = fs::read_to_string(repository().join("examples/axum-hello/src/main.rs")).unwrap();
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
    let [first, second, third] =
        ["first", "second", "third"].map(|name| Readme::of("examples/axum-tls").commands(name));
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

/// What a script printed that succeeds, in a network of its own.
#[track_caller]
fn succeeds(script: &str) -> String {
    let output = run(&format!("ip link set lo up\n{script}"));
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{}\n{stdout}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    stdout
}

#[test]
fn the_readme_of_axum_hello_does_what_it_says() {
    if !have(&[CURL, IP, NAMESPACES]) {
        return;
    }
    let readme = Readme::of("examples/axum-hello");
    let said = succeeds(&["first", "second"].map(|name| readme.commands(name)).concat());
    assert!(said.starts_with("hellohello"), "{said}");
    assert!(said.contains("\n2 ") && said.contains("http"), "generation 2 serves: {said}");
}

#[test]
fn the_readme_of_axum_server_does_what_it_says() {
    if !have(&[CURL, IP, NAMESPACES]) {
        return;
    }
    let readme = Readme::of("examples/axum-server");
    let [first, second, third] = ["first", "second", "third"].map(|name| readme.commands(name));
    let said = succeeds(&format!("{first}\n{second}\n{third}\ngrep -c handoff v1.json v2.json"));
    assert!(said.contains("\nv1exit code 1\nv1") && said.contains("hotupdate_requests_total 2\n"), "{said}");
    assert!(said.contains("v1.json:") && !said.contains(".json:0"), "{said}");
}

#[test]
fn the_readme_of_tcp_echo_does_what_it_says() {
    if !have(&[IP, NAMESPACES]) {
        return;
    }
    let readme = Readme::of("examples/tcp-echo");
    let said = succeeds(&["first", "second"].map(|name| readme.commands(name)).concat());
    let answers: Vec<Vec<_>> =
        said.lines().filter(|line| line.starts_with('v')).map(|line| line.splitn(4, ' ').collect()).collect();
    let [[first, old, "1", "one"], [second, new, "2", "two, which goes on"]] =
        [&answers[0][..], &answers[1][..]].map(|answer| <[&str; 4]>::try_from(answer).unwrap())
    else {
        panic!("{said}")
    };
    assert!((first, second) == ("v1", "v2") && old != new, "{said}");
}

#[test]
fn the_readme_of_tonic_greeter_does_what_it_says() {
    if !have(&[IP, NAMESPACES]) {
        return;
    }
    let readme = Readme::of("examples/tonic-greeter");
    let said = succeeds(&["handoffs", "tls"].map(|name| readme.commands(name)).concat());
    assert_eq!(said.matches("connections=1 failed=0").count(), 2, "{said}");
    assert!(said.contains("serving generation=3"), "{said}");
}

/// The pages themselves are those of the tests with a browser.
#[test]
fn the_readme_of_websocket_chat_does_what_it_says() {
    if !have(&[CURL, IP, NAMESPACES]) {
        return;
    }
    let readme = Readme::of("examples/websocket-chat");
    let [first, second] = ["first", "second"].map(|name| readme.commands(name));
    let said = succeeds(&format!(
        r#"
        ({first}) >first.out 2>&1 &
        until grep -q ^serving first.out; do sleep 0.05; done
        curl --silent http://127.0.0.1:8080/ | grep -c '<script'
        ({second}) >second.out 2>&1 &
        until grep -q ^drained first.out; do sleep 0.05; done
        target/release/hotctl status
        "#
    ));
    assert!(said.starts_with("1\n") && said.contains("\n2 "), "{said}");
}
