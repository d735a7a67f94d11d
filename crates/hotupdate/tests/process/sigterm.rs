//! SIGTERM and SIGINT: what is open may end first, unless a person does not want to wait.
//!
//! Deliberately absent: requests in flight, see `integration-tests/tests/handoff/signals.rs`.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt as _;

use rustix::process::Signal;
use serde_json::json;

use crate::common::peer::{call, status};
use crate::common::{eventually, refused};
use crate::service::{ON_COMMAND, PROBATION, STAYS, TASK, WARMS_UP, WORK};
use crate::stage::{Client, Process, Stage, who};

/// What a process logs of a signal that finds it about to end already.
const WAITS: &str = "before it ends, this process waits for";

/// Sends the signal, and waits until the process has logged a line with these words about it.
async fn signal_and_see(stage: &Stage, process: &Process<'_>, signal: Signal, words: &[&str]) {
    let count = || stage.log().lines().filter(|line| words.iter().all(|word| line.contains(word))).count();
    let before = count();
    process.signal(signal);
    eventually("the signal is in the log", async || (count() > before).then_some(())).await;
}

#[tokio::test]
async fn sigterm_lets_clients_finish_however_often_it_comes() {
    let stage = Stage::new();
    let mut first = stage.start(&[]);
    let serving = stage.serves(1).await;
    let mut client = Client::connect(serving.address).await;
    assert_eq!(client.ask().await, first.pid());
    first.signal(Signal::TERM);
    refused(serving.address).await;
    // A supervisor may say it again, and a person may do so once.
    for signal in [Signal::TERM, Signal::TERM, Signal::INT] {
        signal_and_see(&stage, &first, signal, &[WAITS, "open=1"]).await;
        assert_eq!(client.ask().await, first.pid());
    }
    drop(client);
    first.drains(0).await;
    assert!(!stage.control().exists(), "no process serves any more");
}

#[tokio::test]
async fn sigint_lets_them_finish_once() {
    let stage = Stage::new();
    let mut first = stage.start(&[]);
    let serving = stage.serves(1).await;
    let mut client = Client::connect(serving.address).await;
    assert_eq!(client.ask().await, first.pid());
    first.signal(Signal::INT);
    refused(serving.address).await;
    assert_eq!(client.ask().await, first.pid());
    first.signal(Signal::INT);
    client.end().await;
    first.drains(1).await;
}

#[tokio::test]
async fn to_a_successor_that_warms_up() {
    for signal in [Signal::TERM, Signal::INT] {
        let stage = Stage::new();
        let first = stage.start(&[]);
        let serving = stage.serves(1).await;
        let mut second = stage.start(&[(WARMS_UP, "1")]);
        let joined = format!("joined {}\n", second.pid());
        eventually("it has joined", async || stage.said().contains(&joined).then_some(())).await;
        second.signal(signal);
        // As if it had no handler: a supervisor takes that for the end that it wanted.
        assert_eq!(second.end().await.signal(), Some(signal.as_raw()), "{}", stage.log());
        let now = eventually("the end of the attempt", async || {
            Some(status(&stage.control()).await).filter(|status| status.get("successor").is_none())
        })
        .await;
        assert!(now["last_failure"]["reason"].as_str().unwrap().contains("stopped by SIG"), "{now}");
        assert_eq!(who(serving.address).await, first.pid());
    }
}

/// It asks again and again, because the first start is not ready.
#[tokio::test]
async fn to_one_that_looks_for_the_process_that_serves() {
    let stage = Stage::new();
    let mut first = stage.start(&[(WARMS_UP, "1")]);
    let joined = format!("joined {}\n", first.pid());
    eventually("it owns the control socket", async || stage.said().contains(&joined).then_some(())).await;
    let mut second = stage.start(&[]);
    eventually("it listens to signals", async || listens_to_sigterm(second.pid()).then_some(())).await;
    second.signal(Signal::TERM);
    assert!(!second.end().await.success());
    stage.logs(&["joining at", "stopped by SIGTERM"]).await;
    first.signal(Signal::TERM);
    assert_eq!(first.end().await.signal(), Some(Signal::TERM.as_raw()));
    assert!(!stage.control().exists(), "nothing of a first start is left");
}

/// proc_pid_status(5): the signals that have a handler.
fn listens_to_sigterm(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap_or_default();
    u64::from_str_radix(caught.trim(), 16)
        .is_ok_and(|caught| caught & (1 << (Signal::TERM.as_raw() - 1)) != 0)
}

#[tokio::test]
async fn what_a_task_is_waited_for_is_said() {
    let stage = Stage::new();
    File::create(stage.file(TASK)).unwrap();
    let mut first = stage.start(&[]);
    stage.serves(1).await;
    signal_and_see(&stage, &first, Signal::TERM, &["stopping"]).await;
    for _ in 0..2 {
        signal_and_see(&stage, &first, Signal::TERM, &[WAITS, "open=0", "report"]).await;
    }
    fs::remove_file(stage.file(TASK)).unwrap();
    first.drains(0).await;
    // A person need not wait for it.
    File::create(stage.file(TASK)).unwrap();
    let mut second = stage.start(&[]);
    stage.serves(2).await;
    signal_and_see(&stage, &second, Signal::INT, &["stopping"]).await;
    signal_and_see(&stage, &second, Signal::TERM, &[WAITS, "report"]).await;
    second.signal(Signal::INT);
    second.drains(0).await;
}

/// Nothing of the service is left, but the application has more to do.
#[tokio::test]
async fn a_main_that_goes_on_after_the_drain_is_not_cut_short() {
    let stage = Stage::new();
    File::create(stage.file(WORK)).unwrap();
    let mut first = stage.start(&[]);
    stage.serves(1).await;
    first.signal(Signal::TERM);
    let drained = format!("drained {} 0\n", first.pid());
    eventually("it has drained", async || stage.said().contains(&drained).then_some(())).await;
    for _ in 0..2 {
        signal_and_see(&stage, &first, Signal::TERM, &["drained already", "`main` has not returned yet"])
            .await;
    }
    fs::remove_file(stage.file(WORK)).unwrap();
    first.drains(0).await;
    // A person need not wait for it.
    File::create(stage.file(WORK)).unwrap();
    let mut second = stage.start(&[]);
    stage.serves(2).await;
    second.signal(Signal::TERM);
    let drained = format!("drained {} 0\n", second.pid());
    eventually("it has drained", async || stage.said().contains(&drained).then_some(())).await;
    signal_and_see(&stage, &second, Signal::INT, &["drained already"]).await;
    second.signal(Signal::INT);
    assert_eq!(second.end().await.signal(), Some(Signal::INT.as_raw()));
}

/// A version that was replaced, and whose application has more to do, is there for operators until it ends.
#[tokio::test]
async fn a_main_that_goes_on_after_it_was_replaced_is_seen() {
    let stage = Stage::new();
    File::create(stage.file(WORK)).unwrap();
    let mut first = stage.start(&[]);
    stage.serves(1).await;
    let _second = stage.start(&[]);
    stage.serves(2).await;
    let seen = eventually("it has drained, and goes on", async || {
        let first = status(&stage.control()).await["predecessors"][0].take();
        (first["tasks"] == json!(["main"])).then_some(first)
    });
    let seen = seen.await;
    assert_eq!((&seen["state"], &seen["process"]["pid"]), (&json!("drained"), &json!(first.pid())), "{seen}");
    // The versions after the next one know it, too.
    let _third = stage.start(&[]);
    stage.serves(3).await;
    eventually("the third has its link", async || {
        let status = status(&stage.control()).await;
        let predecessors = status["predecessors"].as_array().unwrap();
        let first = predecessors.iter().find(|it| it["process"]["pid"] == first.pid())?;
        (status["serving"]["generation"] == 3 && first["tasks"] == json!(["main"])).then_some(())
    })
    .await;
    fs::remove_file(stage.file(WORK)).unwrap();
    first.drains(0).await;
    eventually("no predecessor is left", async || {
        (status(&stage.control()).await["predecessors"] == json!([])).then_some(())
    })
    .await;
}

/// The process that takes over may crash, too.
#[tokio::test]
async fn in_probation_the_service_goes_back() {
    let stage = Stage::new();
    let mut first = stage.start(&[(PROBATION, "60")]);
    let serving = stage.serves(1).await;
    let mut second = stage.start(&[(PROBATION, "60")]);
    stage.serves(2).await;
    let mut client = Client::connect(serving.address).await;
    assert_eq!(client.ask().await, second.pid());
    second.signal(Signal::TERM);
    eventually("the first serves again", async || {
        (status(&stage.control()).await["serving"]["process"]["pid"] == first.pid()).then_some(())
    })
    .await;
    assert_eq!(who(serving.address).await, first.pid());
    assert_eq!(client.ask().await, second.pid(), "the client finishes first");
    drop(client);
    second.drains(0).await;
    // Now it is the only one.
    first.signal(Signal::TERM);
    first.drains(0).await;
    assert!(!stage.control().exists());
}

#[tokio::test]
async fn to_a_successor_that_stands_by() {
    let stage = Stage::new();
    let mut first = stage.start(&[]);
    let serving = stage.serves(1).await;
    let mut second = stage.start(&[(ON_COMMAND, "1")]);
    eventually("it stands by", async || {
        (status(&stage.control()).await["successor"]["state"] == "standby").then_some(())
    })
    .await;
    second.signal(Signal::TERM);
    assert!(!second.end().await.success());
    let now = eventually("the end of the attempt", async || {
        Some(status(&stage.control()).await).filter(|status| status.get("successor").is_none())
    })
    .await;
    assert!(now["last_failure"]["reason"].as_str().unwrap().contains("stopped by SIGTERM"), "{now}");
    assert_eq!(who(serving.address).await, first.pid());

    // And the next one is not kept from anything.
    let mut third = stage.start(&[(ON_COMMAND, "1")]);
    eventually("it is released", async || {
        call(&stage.control(), "io.hotupdate.Handoff", json!({})).await.get("error").is_none().then_some(())
    })
    .await;
    first.drains(0).await;
    assert_eq!(who(serving.address).await, third.pid());
    third.signal(Signal::TERM);
    third.drains(0).await;
}

/// A container runtime that stops an old version while it drains has said all that it is going to say.
#[tokio::test]
async fn one_that_would_stay_does_not_when_it_came_before() {
    let stage = Stage::new();
    let mut first = stage.start(&[(STAYS, "1")]);
    let serving = stage.serves(1).await;
    let mut client = Client::connect(serving.address).await;
    assert_eq!(client.ask().await, first.pid());
    let mut second = stage.start(&[]);
    stage.serves(2).await;
    first.signal(Signal::TERM);
    assert_eq!(client.ask().await, first.pid(), "the client finishes first");
    drop(client);
    first.drains(0).await;
    second.signal(Signal::TERM);
    second.drains(0).await;
}
