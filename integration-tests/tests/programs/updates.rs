//! Ten updates under load, with the latency of a network: no client is refused. What else becomes of the
//! requests is the program's affair, and is counted: `crates/hotctl/README.md` has a table of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use integration_tests::process::needs::{GO, GUNICORN, NODE, Need, PUMA, PYTHON, UVICORN, have};
use integration_tests::{SOON, Sandbox, Status, eventually};

use super::latency;
use super::load::{Load, Tally};
use super::support::{built, compiled, file, handoff, serving};

/// Each way.
const DELAY: Duration = Duration::from_millis(15);

const CLIENTS: u32 = 24;

const UPDATES: u32 = 10;

/// Answers between two updates, so that every connection is in use.
const BETWEEN: u32 = 150;

/// What clients saw.
struct Seen {
    tally: Arc<Tally>,
    refused: u32,
    /// How many answers each process has given.
    by_process: BTreeMap<u32, u32>,
}

/// What clients see of a program while something is done to it, which can wait until they are at work.
fn under_load(sandbox: &Sandbox, options: &[&str], command: &[String], done: impl FnOnce(&dyn Fn())) -> Seen {
    let (_run, server) = serving(sandbox, options, command);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let proxy = runtime.block_on(latency::to(server, DELAY));
    let load = runtime.block_on(async { Load::start(proxy.address, CLIENTS) });
    let at_work = || {
        let before = load.answered();
        eventually("the clients are at work", SOON, || (load.answered() > before + BETWEEN).then_some(()));
    };
    at_work();
    done(&at_work);
    at_work();
    let (tally, by_process) = runtime.block_on(load.end());
    let refused = count(&proxy.refused) + count(&tally.refused);
    Seen { tally, refused, by_process }
}

fn count(counter: &AtomicU32) -> u32 {
    counter.load(Relaxed)
}

#[expect(clippy::print_stdout, reason = "the figures are for the documentation")]
fn ten_updates(program: &str, needs: &[Need], options: &[&str], command: impl Fn(&Sandbox) -> Vec<String>) {
    if !have(needs) {
        return;
    }
    let sandbox = Sandbox::new();
    let command = in_the_sandbox(&sandbox, command(&sandbox));
    let Seen { tally, refused, by_process } = under_load(&sandbox, options, &command, |at_work| {
        for update in 1..=UPDATES {
            let outcome = handoff(&sandbox, &[], &command).expect_success();
            assert!(
                outcome.stderr.contains(&format!("serves now, generation {}", update + 1)),
                "{}",
                outcome.stderr
            );
            at_work();
        }
        let status = Status::ask(&sandbox.control()).expect("it serves");
        assert_eq!(status.serving.generation, u64::from(UPDATES) + 1);
    });
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
}

/// Its workers are started with the listener on which the old version answers.
#[test]
fn a_version_that_cannot_be_imported_loses_nothing() {
    if !have(&[PYTHON, GUNICORN]) {
        return;
    }
    let sandbox = Sandbox::new();
    let gunicorn = |application: &str| {
        let command =
            format!("python3 -m gunicorn --worker-class gthread --threads 32 --keep-alive 60 {application}");
        in_the_sandbox(&sandbox, words(&command))
    };
    let (good, bad) = (gunicorn("app:app"), gunicorn("nowhere:app"));
    // gunicorn says that it is ready before, and may need seconds to notice that its worker is gone.
    let options = ["--ready-http", "/"];
    let Seen { tally, refused, by_process } = under_load(&sandbox, &options, &good, |at_work| {
        for _ in 0..2 {
            let outcome = handoff(&sandbox, &[], &bad);
            assert_eq!(outcome.code(), 1, "{}", outcome.stderr);
            at_work();
        }
    });
    let Tally { kept: _, told, lost_kept, lost_new, cut, silent, refused: _ } = &*tally;
    assert_eq!([told, lost_kept, lost_new, cut, silent].map(count), [0; 5], "{tally:?}");
    assert_eq!((refused, by_process.len()), (0, 1), "{by_process:?}");
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

fn words(line: &str) -> Vec<String> {
    line.split(' ').map(str::to_owned).collect()
}

#[test]
fn of_gunicorn() {
    let command = words("python3 -m gunicorn --worker-class gthread --threads 32 app:app");
    ten_updates("gunicorn", &[PYTHON, GUNICORN], &["--ready-notify"], |_| command.clone());
}

#[test]
fn of_uvicorn() {
    let command = words("python3 -m uvicorn --fd 3 --log-level warning app:asgi");
    ten_updates("uvicorn", &[PYTHON, UVICORN], &["--settle", "1"], |_| command.clone());
}

#[test]
fn of_node() {
    ten_updates("Node", &[NODE], &["--settle", "1"], |_| vec!["node".to_owned(), file("server.js")]);
}

#[test]
fn of_puma() {
    let command = words("puma --no-config --bind-to-activated-sockets only --threads 32:32");
    let command = [command, vec![file("config.ru")]].concat();
    ten_updates("puma", &[PUMA], &["--settle", "1.5"], |_| command.clone());
}

#[test]
fn of_a_program_in_c() {
    ten_updates("C", &[], &["--settle", "0.3"], |sandbox| vec![compiled(sandbox).display().to_string()]);
}

#[test]
fn of_a_program_in_go() {
    ten_updates("Go", &[GO], &["--settle", "0.3"], |sandbox| vec![built(sandbox).display().to_string()]);
}
