//! The peer in Python beside the one in Rust: each takes over from the other, fails and dies, and no
//! client is lost.
//!
//! Deliberately absent: connections that migrate, and a probation of the peer in Python. It names no
//! feature, and lets go as soon as its successor serves.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::{self, JoinHandle};

use integration_tests::client::who_answers;
use integration_tests::process::{Exit, eventually, needs};
use integration_tests::{Readme, SOON, Sandbox, Service, Serving, Status, hotctl};
use rustix::process::Signal;

fn python() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/python-join/service.py")
}

fn start_python<'a>(sandbox: &'a Sandbox, version: &str, more: &[&str]) -> Service<'a> {
    Service::spawn(sandbox, &python(), &Service::arguments(sandbox, version, more))
}

fn start_rust<'a>(sandbox: &'a Sandbox, version: &str, more: &[&str]) -> Service<'a> {
    Service::start(sandbox, version, &[&["--probation", "60"], more].concat())
}

/// Starts a version of this name, with these arguments beside the usual ones.
type Start = for<'s> fn(&'s Sandbox, &str, &[&str]) -> Service<'s>;

fn have_python() -> bool {
    needs::have(&[needs::PYTHON])
}

/// Clients that connect anew for each request.
struct Clients {
    over: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    threads: Vec<JoinHandle<anyhow::Result<()>>>,
}

impl Clients {
    fn start(serving: Serving) -> Self {
        let (over, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let client = |_| {
            let (over, answered) = (over.clone(), answered.clone());
            thread::spawn(move || {
                while !over.load(Relaxed) {
                    who_answers(serving.http)?;
                    answered.fetch_add(1, Relaxed);
                }
                Ok(())
            })
        };
        let threads = (0..4).map(client).collect();
        Self { over, answered, threads }
    }

    /// Some more requests are answered.
    fn go_on(&self) {
        let before = self.answered.load(Relaxed);
        eventually("clients are answered", SOON, || {
            (self.answered.load(Relaxed) > before + 20).then_some(())
        });
    }

    /// Every request was answered.
    fn end(self) {
        self.over.store(true, Relaxed);
        for client in self.threads {
            client.join().expect("a client does not panic").expect("no request is lost");
        }
    }
}

#[track_caller]
fn serves(sandbox: &Sandbox, serving: Serving, service: &Service<'_>) {
    eventually("the process serves", SOON, || {
        (who_answers(serving.http).ok()? == service.pid()).then_some(())
    });
    eventually("it says so", SOON, || {
        (Status::ask(&sandbox.control()).ok()?.serving.process.pid == service.pid()).then_some(())
    });
}

#[track_caller]
fn stands_by(sandbox: &Sandbox, service: &Service<'_>) {
    eventually("a successor in standby", SOON, || {
        let waiting = Status::ask(&sandbox.control()).ok()?.successor?;
        (waiting.process.pid == service.pid() && waiting.state == "standby").then_some(())
    });
}

#[test]
fn rust_python_rust_python_and_no_client_is_lost() {
    if !have_python() {
        return;
    }
    let sandbox = Sandbox::new();
    let mut old = start_rust(&sandbox, "v1", &[]);
    let serving = old.wait_serving();
    let clients = Clients::start(serving);
    for (version, generation) in [("v2", 2), ("v3", 3), ("v4", 4), ("v5", 5), ("v6", 6)] {
        clients.go_on();
        let start = if generation % 2 == 0 { start_python as Start } else { start_rust };
        let new = start(&sandbox, version, &[]);
        let Serving { generation: given, http, .. } = new.wait_serving();
        assert_eq!((given, http), (generation, serving.http));
        serves(&sandbox, serving, &new);
        let status = hotctl(&sandbox, &["status", "--json"]).expect_success();
        assert!(status.stdout.contains(&format!("\"pid\":{}", new.pid())), "{}", status.stdout);
        // One in Rust is in its probation. One in Python has ended, or does in a moment.
        let before = Status::ask(&sandbox.control()).unwrap().predecessors;
        let is_there = before.iter().any(|older| older.generation == generation - 1);
        assert!(is_there || generation % 2 == 1, "{before:?}");
        // Those before that one are told that a later version serves: they end.
        if generation > 3 {
            eventually("older generations end", SOON, || {
                let older = Status::ask(&sandbox.control()).ok()?.predecessors;
                older.iter().all(|older| older.generation == generation - 1).then_some(())
            });
        }
        old = new;
    }
    clients.go_on();
    clients.end();
    old.signal(Signal::TERM);
    old.wait_drained();
    // The one before it was told so, and ends at the same time.
    eventually("all have drained", SOON, || {
        let drained = sandbox.drained();
        assert!(drained.iter().all(|drained| drained.forced == 0), "{drained:?}");
        drained.iter().map(|drained| drained.generation).eq(1..=6).then_some(())
    });
    assert!(!sandbox.control().exists(), "the service was stopped");
}

#[test]
fn hotctl_hands_over_both_ways() {
    if !have_python() {
        return;
    }
    let sandbox = Sandbox::new();
    let first = start_python(&sandbox, "v1", &[]);
    let serving = first.wait_serving();
    let clients = Clients::start(serving);

    let path = python().display().to_string();
    let program = |service: &str, more: &[&str]| {
        let arguments = Service::arguments(&sandbox, "next", more);
        let handoff = ["handoff", "--until", "drained", "--timeout", "40", "--log", "/dev/null", "--"];
        let command = handoff.iter().map(ToString::to_string).chain([service.to_owned()]).chain(arguments);
        let command: Vec<_> = command.collect();
        let outcome =
            hotctl(&sandbox, &command.iter().map(String::as_str).collect::<Vec<_>>()).expect_success();
        assert!(outcome.stderr.contains("serves now"), "{}", outcome.stderr);
    };
    let rust = integration_tests::process::binary("axum-server").display().to_string();
    program(&rust, &["--probation", "0.5"]);
    first.wait_exit();
    program(&path, &[]);
    clients.go_on();

    let waits = start_rust(&sandbox, "v4", &["--standby"]);
    stands_by(&sandbox, &waits);
    let refused = hotctl(&sandbox, &["handoff", "--", "true"]);
    assert_ne!(refused.code(), 0, "it is busy: {}", refused.stderr);
    let _said = hotctl(&sandbox, &["handoff"]).expect_success();
    serves(&sandbox, serving, &waits);
    let waits = start_python(&sandbox, "v5", &["--standby"]);
    stands_by(&sandbox, &waits);
    let _said = hotctl(&sandbox, &["handoff"]).expect_success();
    serves(&sandbox, serving, &waits);
    clients.go_on();
    clients.end();
}

#[test]
fn a_version_that_fails_costs_nothing() {
    if !have_python() {
        return;
    }
    let sandbox = Sandbox::new();
    let rust = start_rust(&sandbox, "v1", &[]);
    let serving = rust.wait_serving();
    let clients = Clients::start(serving);
    let failing = start_python(&sandbox, "bad", &["--listen", "192.0.2.1:9"]);
    assert_eq!(failing.wait_exit(), Exit::Status(1));
    serves(&sandbox, serving, &rust);
    let dies = start_python(&sandbox, "bad", &["--standby"]);
    stands_by(&sandbox, &dies);
    dies.kill();
    eventually("it is forgotten", SOON, || {
        Status::ask(&sandbox.control()).ok()?.successor.is_none().then_some(())
    });

    let python = start_python(&sandbox, "v2", &[]);
    serves(&sandbox, serving, &python);
    for _ in 0..3 {
        let dies = start_rust(&sandbox, "bad", &["--standby"]);
        stands_by(&sandbox, &dies);
        dies.kill();
        eventually("it is forgotten", SOON, || {
            Status::ask(&sandbox.control()).ok()?.successor.is_none().then_some(())
        });
        serves(&sandbox, serving, &python);
    }
    let next = start_rust(&sandbox, "v3", &[]);
    serves(&sandbox, serving, &next);
    clients.go_on();
    clients.end();
}

#[test]
fn whichever_dies_the_other_one_serves() {
    if !have_python() {
        return;
    }
    let pairs = [
        (start_rust as Start, start_python as Start, true),
        (start_python, start_rust, false),
        (start_python, start_python, false),
    ];
    for (old, new, takes_over_again) in pairs {
        let sandbox = Sandbox::new();
        let first: Service<'_> = old(&sandbox, "v1", &[]);
        let serving = first.wait_serving();
        // Before it serves, or in a probation: the one before it serves, and the next attempt works.
        let more: &[&str] = if takes_over_again { &[] } else { &["--standby"] };
        let second: Service<'_> = new(&sandbox, "v2", more);
        if takes_over_again {
            serves(&sandbox, serving, &second);
        } else {
            stands_by(&sandbox, &second);
        }
        second.kill();
        serves(&sandbox, serving, &first);
        eventually("it is forgotten", SOON, || {
            Status::ask(&sandbox.control()).ok()?.successor.is_none().then_some(())
        });
        // The incumbent dies when the successor has everything.
        let third: Service<'_> = new(&sandbox, "v3", &["--standby"]);
        stands_by(&sandbox, &third);
        first.kill();
        serves(&sandbox, serving, &third);
        let fourth: Service<'_> = old(&sandbox, "v4", &[]);
        serves(&sandbox, serving, &fourth);
    }
}

/// Before it has given everything: what it gave ends with it, and the next process is the first. With the
/// lock a successor has everything, and no client is lost.
#[test]
fn an_incumbent_dies_while_it_is_joined() {
    if !have_python() {
        return;
    }
    let dies = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/operations/python_join/dies.py");
    for start in [start_python as Start, start_rust] {
        for after in ["listeners", "control"] {
            let sandbox = Sandbox::new();
            let (mut command, _) = sandbox.command(&dies);
            command.env("PYTHON_JOIN", python().parent().expect("it is in a folder"));
            let first = Service::run(&sandbox, command.arg(sandbox.control()).arg(after));
            let before = first.wait_serving();
            let second = start(&sandbox, "v2", &[]);
            let serving = second.wait_serving();
            assert_eq!(
                (serving.http == before.http, serving.generation),
                match after {
                    "control" => (true, 2),
                    _ => (false, 1),
                }
            );
            serves(&sandbox, serving, &second);
            let third = start_rust(&sandbox, "v3", &[]);
            serves(&sandbox, serving, &third);
        }
    }
}

/// The peer in Python gives the service to later versions only, and operators read that, whichever serves.
#[test]
fn a_rollback_from_or_to_it_is_refused_in_one_line() {
    if !have_python() {
        return;
    }
    let sandbox = Sandbox::new();
    let first = start_rust(&sandbox, "v1", &[]);
    let serving = first.wait_serving();
    let clients = Clients::start(serving);
    let refused = |serves: &Service<'_>, version: &str, why: &str| {
        let outcome = hotctl(&sandbox, &["rollback"]);
        let still = format!("{} ({version}) is still serving", serves.pid());
        assert_eq!((outcome.code(), outcome.stderr.lines().count()), (1, 1), "{}", outcome.stderr);
        assert!(outcome.stderr.contains(why) && outcome.stderr.contains(&still), "{}", outcome.stderr);
    };
    let python = start_python(&sandbox, "v2", &[]);
    serves(&sandbox, serving, &python);
    refused(&python, "v2", "it gives nothing back; hand off to the old version instead");
    clients.go_on();
    let rust = start_rust(&sandbox, "v3", &[]);
    serves(&sandbox, serving, &rust);
    assert_eq!(python.wait_exit(), Exit::Status(0));
    refused(&rust, "v3", "no predecessor is in probation any more; hand off to the old version instead");
    let last = start_python(&sandbox, "v4", &[]);
    serves(&sandbox, serving, &last);
    clients.go_on();
    clients.end();
}

/// What stands by does not begin to serve then.
#[test]
fn it_stops_while_a_successor_stands_by() {
    if !have_python() {
        return;
    }
    let sandbox = Sandbox::new();
    let first = start_python(&sandbox, "v1", &[]);
    let _serving = first.wait_serving();
    let waits = start_rust(&sandbox, "v2", &["--standby"]);
    stands_by(&sandbox, &waits);
    let _said = hotctl(&sandbox, &["stop", "--wait"]).expect_success();
    assert_eq!(first.wait_drained().forced, 0);
    assert_ne!(waits.wait_exit(), Exit::Status(0));
    assert!(!sandbox.control().exists(), "the service was stopped");
}

/// Nothing that is not a socket is taken for one that a dead process has left.
#[test]
fn a_file_on_the_path_of_the_control_socket_is_left_alone() {
    if !have_python() {
        return;
    }
    let sandbox = Sandbox::new();
    std::fs::write(sandbox.control(), "notes").unwrap();
    let service = start_python(&sandbox, "python", &[]);
    assert_eq!(service.wait_exit(), Exit::Status(1));
    assert_eq!(std::fs::read_to_string(sandbox.control()).unwrap(), "notes");
}

/// Less than 200 lines of code, or else it would be no page that is read to learn the protocol.
#[test]
fn it_stays_short() {
    let mut files = std::fs::read_dir(python().parent().unwrap()).unwrap().map(|file| file.unwrap().path());
    let code = files.find(|file| file.extension().is_some_and(|extension| extension == "py")).unwrap();
    assert!(files.all(|file| file.extension().is_none_or(|extension| extension != "py")), "one file");
    let text = std::fs::read_to_string(code).unwrap();
    let (mut in_words, mut of_code) = (false, 0);
    for line in text.lines().map(str::trim) {
        let marks = line.matches("\"\"\"").count();
        let is_code = !in_words && marks == 0 && !line.is_empty() && !line.starts_with('#');
        of_code += usize::from(is_code);
        in_words ^= marks == 1;
    }
    assert!(of_code < 200 && text.lines().all(|line| line.len() <= 110), "{of_code} lines of code");
}

#[test]
fn the_commands_of_its_readme_work() {
    if !have_python() {
        return;
    }
    let readme = Readme::of("examples/python-join");
    let script = readme.commands("chain");
    let sandbox = Sandbox::new();
    let programs = [integration_tests::process::binary("hotctl"), python()];
    let folders = programs.iter().map(|program| program.parent().unwrap().to_owned());
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(folders.chain(std::env::split_paths(&path))).unwrap();
    let (mut command, output) = sandbox.command("sh".as_ref());
    command.env("PATH", path).args(["-e", "-c", &script]);
    let outcome = sandbox.outcome(command, output).expect_success();
    assert!(outcome.stdout.contains("http      tcp") && outcome.stderr.contains("stop"), "{outcome:?}");
}
