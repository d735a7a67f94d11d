//! Whatever kills or freezes the successor in the middle of a move, each connection has exactly one server.

use std::time::{Duration, Instant};

use integration_tests::process::eventually;
use integration_tests::steady::{Fate, answer_until, ask_all, idle};
use integration_tests::{Sandbox, Service, Serving, status};
use rustix::process::Signal;

use integration_tests::SOON;

/// Waits, busily, until the process holds so many descriptors.
pub(crate) fn wait_for_descriptors(pid: u32, how_many: u64) {
    // Since Linux 6.2 the size of this folder is the number of open descriptors.
    let open = || std::fs::metadata(format!("/proc/{pid}/fd")).map_or(0, |folder| folder.len());
    let until = Instant::now() + SOON;
    // Before exec(2) a child has copies of ours.
    eventually("the program of the successor", SOON, || {
        std::fs::read_link(format!("/proc/{pid}/exe"))
            .is_ok_and(|exe| exe.ends_with("axum-server"))
            .then_some(())
    });
    while open() < how_many {
        assert!(Instant::now() < until, "{pid} never held {how_many} descriptors");
    }
}

fn migrated(sandbox: &Sandbox, serving: Serving) -> u64 {
    eventually("the status of the old process", SOON, || {
        let status = status::call(&sandbox.control(), "io.hotupdate.Status").ok()?;
        let serving_now = &status["status"]["serving"];
        (serving_now["process"]["pid"] == serving.pid).then(|| serving_now["totals"]["migrated"].as_u64())?
    })
}

#[test]
fn killed_in_the_middle_of_a_move() {
    const CONNECTIONS: usize = 1_000;
    let mut in_the_middle = 0;
    for descriptors in [40, 150, 300, 600, 900] {
        let sandbox = Sandbox::new();
        let serving = Service::start(&sandbox, "v1", &["--probation", "60"]).wait_serving();
        let mut clients = idle(serving.http, CONNECTIONS).expect("the service answers");
        let successor = Service::start(&sandbox, "v2", &["--probation", "60"]);
        wait_for_descriptors(successor.pid(), descriptors);
        successor.kill();
        let fates = ask_all(&mut clients, SOON);
        let count = |fate| fates.iter().filter(|f| **f == fate).count();
        let (given, answered) = (count(Fate::Ended), count(Fate::AnsweredBy(serving.pid)));
        println!(
            "killed at {descriptors} descriptors: {given} were given, {answered} are answered by the old process"
        );
        assert_eq!(given + answered, CONNECTIONS, "{fates:?}");
        assert_eq!(migrated(&sandbox, serving), given as u64, "as the old process counts");
        in_the_middle += usize::from(given > 0 && answered > 0);
    }
    assert!(in_the_middle > 0, "no kill fell into a move");
}

#[test]
fn frozen_in_the_middle_of_a_move() {
    const CONNECTIONS: usize = 1_000;
    let sandbox = Sandbox::new();
    let serving = Service::start(&sandbox, "v1", &["--probation", "60"]).wait_serving();
    let mut clients = idle(serving.http, CONNECTIONS).expect("the service answers");
    let successor = Service::start(&sandbox, "v2", &["--probation", "60"]);
    wait_for_descriptors(successor.pid(), 300);
    successor.signal(Signal::STOP);
    // The old process takes back what is on its way (deadline `prepared`, 5 s), and serves it.
    let before = ask_all(&mut clients, Duration::from_secs(8));
    successor.signal(Signal::CONT);
    let until = Instant::now() + SOON;
    let mut after = Vec::new();
    for (client, fate) in clients.iter_mut().zip(&before) {
        if *fate == Fate::Waits {
            after.push(answer_until(client, until));
        }
    }
    // A signal takes a moment to arrive, in which the new one may answer too.
    let answered = |pid| before.iter().chain(&after).filter(|fate| **fate == Fate::AnsweredBy(pid)).count();
    let (old, new) = (answered(serving.pid), answered(successor.pid()));
    println!("frozen: {old} are answered by the old process, {new} by the new one, when it goes on");
    assert_eq!(old + new, CONNECTIONS, "{before:?} {after:?}");
}
