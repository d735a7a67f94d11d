//! Ten updates under load, with the latency of a network: no client is refused. What else becomes of the
//! requests is the program's affair, and is counted: `crates/hotctl/README.md` has a table of it.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use integration_tests::process::needs::{GUNICORN, NODE, Need, PYTHON, UVICORN, have};
use integration_tests::{SOON, Sandbox, Status, eventually};

use super::latency;
use super::load::Load;
use super::support::{compiled, file, handoff, serving};

/// Each way.
const DELAY: Duration = Duration::from_millis(15);

const CLIENTS: u32 = 24;

const UPDATES: u32 = 10;

/// Answers between two updates, so that every connection is in use.
const BETWEEN: u32 = 150;

#[expect(clippy::print_stdout, reason = "the figures are for the documentation")]
fn ten_updates(program: &str, needs: &[Need], options: &[&str], command: &[&str]) {
    if !have(needs) {
        return;
    }
    let sandbox = Sandbox::new();
    let command: Vec<String> = match command {
        [] => vec![compiled(&sandbox).display().to_string()],
        words => words.iter().map(ToString::to_string).collect(),
    };
    let command = in_the_sandbox(&sandbox, command);
    let (_run, server) = serving(&sandbox, options, &command);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let proxy = runtime.block_on(latency::to(server, DELAY));
    let load = runtime.block_on(async { Load::start(proxy.address, CLIENTS) });
    for update in 1..=UPDATES {
        let before = load.answered();
        eventually("the clients are at work", SOON, || (load.answered() > before + BETWEEN).then_some(()));
        let outcome = handoff(&sandbox, &[], &command).expect_success();
        assert!(
            outcome.stderr.contains(&format!("serves now, generation {}", update + 1)),
            "{}",
            outcome.stderr
        );
    }
    let before = load.answered();
    eventually("the clients are at work", SOON, || (load.answered() > before + BETWEEN).then_some(()));
    let (tally, by_process) = runtime.block_on(load.end());
    let count = |counter: &std::sync::atomic::AtomicU32| counter.load(Relaxed);
    let refused = count(&proxy.refused) + count(&tally.refused);
    println!(
        "{program}: {UPDATES} updates, {CLIENTS} clients: {} answered, {} of them told to close; refused {refused}; lost on a kept \
         connection {}, on a new one {}, cut {}, silent {}",
        count(&tally.kept) + count(&tally.told),
        count(&tally.told),
        count(&tally.lost_kept),
        count(&tally.lost_new),
        count(&tally.cut),
        count(&tally.silent),
    );
    assert_eq!(refused, 0, "{tally:?}");
    assert_eq!(count(&tally.silent), 0, "a client waits for a version that has gone: {tally:?}");
    assert!(
        by_process.len() > usize::try_from(UPDATES).expect("few"),
        "every version has answered: {by_process:?}"
    );
    let status = Status::ask(&sandbox.control()).expect("it serves");
    assert_eq!(status.serving.generation, u64::from(UPDATES) + 1);
}

/// Python finds the application beside the tests, writes nothing there, and keeps its own files in the
/// sandbox.
fn in_the_sandbox(sandbox: &Sandbox, command: Vec<String>) -> Vec<String> {
    let home = format!("HOME={}", sandbox.path().display());
    let folder = file("");
    let path = std::env::var("PYTHONPATH").map_or(folder.clone(), |path| format!("{folder}:{path}"));
    let words =
        ["env".to_owned(), home, "PYTHONDONTWRITEBYTECODE=1".to_owned(), format!("PYTHONPATH={path}")];
    words.into_iter().chain(command).collect()
}

#[test]
fn of_gunicorn() {
    let command = ["python3", "-m", "gunicorn", "--worker-class", "gthread", "--threads", "32", "app:app"];
    ten_updates("gunicorn", &[PYTHON, GUNICORN], &["--ready-notify"], &command);
}

#[test]
fn of_uvicorn() {
    let command = ["python3", "-m", "uvicorn", "--fd", "3", "--log-level", "warning", "app:asgi"];
    ten_updates("uvicorn", &[PYTHON, UVICORN], &["--settle", "1"], &command);
}

#[test]
fn of_node() {
    ten_updates("Node", &[NODE], &["--settle", "1"], &["node", &file("server.js")]);
}

#[test]
fn of_a_program_in_c() {
    ten_updates("C", &[], &["--settle", "0.3"], &[]);
}
