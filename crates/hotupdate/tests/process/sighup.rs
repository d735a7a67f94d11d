//! SIGHUP: the process starts its own program anew, and tells what became of it.
//!
//! Deliberately absent: how a handoff goes, which is the same whatever starts the successor.

use std::fs;
use std::process::Command;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, waitid};

use serde_json::{Value, json};

use crate::common::eventually;
use crate::common::peer::Peer;
use crate::manager::{KEEP, Manager};
use crate::service::{BROKEN, LEASE, ON_COMMAND, PROBATION, WARMS_UP};
use crate::stage::{Client, Stage, is_dead, signal, stat, who};

/// What the process that serves answers.
async fn call(stage: &Stage, method: &str) -> Value {
    let mut operator = Peer::connect(&stage.control()).await;
    operator.say(&json!({ "method": format!("io.hotupdate.{method}") })).await;
    let reply = operator.next().await.unwrap();
    assert!(reply["error"].is_null(), "{reply}");
    reply["parameters"].clone()
}

async fn status(stage: &Stage) -> Value {
    call(stage, "Status").await["status"].clone()
}

fn children(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap()
}

/// Started in this way, the program is found again, also when the process has changed its directory.
async fn starts_itself(stage: &Stage, command: &mut Command) {
    let mut first = stage.run(stage.prepare(command));
    let serving = stage.serves(1).await;
    let second = stage.sighup(serving).await;
    first.drains(0).await;
    let [_, _, _, session] = stat(second.pid).unwrap();
    assert_eq!(session, second.pid.to_string(), "a session of its own: no terminal can end it");
    stage.logs(&["started a successor", &format!("pid={}", second.pid), "server"]).await;
    let third = stage.sighup(second).await;
    signal(third.pid, Signal::TERM);
    is_dead(third.pid).await;
    assert!(!stage.control().exists(), "no process serves any more");
}

#[tokio::test]
async fn by_an_absolute_path() {
    let stage = Stage::new();
    starts_itself(&stage, &mut Command::new(stage.program())).await;
}

#[tokio::test]
async fn by_a_relative_path() {
    let stage = Stage::new();
    let folder = stage.program().parent().unwrap().to_owned();
    starts_itself(&stage, Command::new("./server").current_dir(folder)).await;
}

#[tokio::test]
async fn by_its_name_in_path() {
    let stage = Stage::new();
    let folder = stage.program().parent().unwrap().to_owned();
    starts_itself(&stage, Command::new("server").env("PATH", folder)).await;
}

/// What was installed does not come so far as to join: the log says how it ended, and the next one works.
async fn does_not_start(install: impl FnOnce(&Stage), words: &[&str]) {
    let stage = Stage::new();
    let mut first = stage.start(&[]);
    let serving = stage.serves(1).await;
    install(&stage);
    first.signal(Signal::HUP);
    stage.logs(&[words, &["this process serves on"]].concat()).await;
    let status = status(&stage).await;
    let failure = &status["last_failure"];
    assert_eq!(failure["stage"], "starting", "{status}");
    assert!(failure["reason"].as_str().unwrap().contains(words[1]), "{status}");
    assert_eq!(who(serving.address).await, first.pid());
    assert_eq!(children(first.pid()), "", "it waits for no process");

    stage.install(&std::env::current_exe().unwrap());
    let second = stage.sighup(serving).await;
    first.drains(0).await;
    assert_eq!(who(second.address).await, second.pid);
}

#[tokio::test]
async fn a_new_version_that_exits() {
    let words = ["the successor ended before it joined", "exit status: 3"];
    does_not_start(|stage| stage.install_script("exit 3"), &words).await;
}

#[tokio::test]
async fn a_new_version_that_is_killed() {
    let words = ["the successor ended before it joined", "signal: 9 (SIGKILL)"];
    does_not_start(|stage| stage.install_script("kill -9 $$"), &words).await;
}

#[tokio::test]
async fn a_new_version_that_is_not_there() {
    let words = ["the successor cannot be started", "No such file or directory"];
    does_not_start(|stage| fs::remove_file(stage.program()).unwrap(), &words).await;
}

/// One that hangs does not keep the next one out for ever.
#[tokio::test]
async fn a_new_version_that_never_joins() {
    let stage = Stage::new();
    let mut first = stage.start(&[(LEASE, "1")]);
    let serving = stage.serves(1).await;
    stage.install_script("exec sleep 1000");
    first.signal(Signal::HUP);
    stage.logs(&["started a successor"]).await;
    first.signal(Signal::HUP);
    stage.logs(&["SIGHUP is ignored: the successor", "was started", "has not joined yet"]).await;
    stage.logs(&["the successor has not joined and is killed; this process serves on"]).await;
    let status = status(&stage).await;
    assert_eq!(status["last_failure"]["reason"], "it did not join in 1s", "{status}");
    eventually("nothing is left of it", async || children(first.pid()).is_empty().then_some(())).await;
    stage.install(&std::env::current_exe().unwrap());
    stage.sighup(serving).await;
    first.drains(0).await;
}

/// The end of the process is no news then.
#[tokio::test]
async fn a_new_version_that_joins_and_fails_is_reported_once() {
    let stage = Stage::new();
    let mut first = stage.start(&[]);
    let serving = stage.serves(1).await;
    fs::write(stage.file(BROKEN), "").unwrap();
    first.signal(Signal::HUP);
    stage.logs(&["the handoff failed", "is still serving"]).await;
    eventually("its child has ended", async || children(first.pid()).is_empty().then_some(())).await;
    assert_eq!(who(serving.address).await, first.pid());

    fs::remove_file(stage.file(BROKEN)).unwrap();
    stage.sighup(serving).await;
    first.drains(0).await;
    assert!(!stage.log().contains("ended before it joined"), "{}", stage.log());
}

/// It has served, so its end is as it should be.
#[tokio::test]
async fn a_new_version_that_is_taken_back_did_not_fail() {
    let stage = Stage::new();
    let first = stage.start(&[(PROBATION, "60")]);
    let serving = stage.serves(1).await;
    let second = stage.sighup(serving).await;
    call(&stage, "Rollback").await;
    assert_eq!(who(serving.address).await, first.pid());
    signal(second.pid, Signal::TERM);
    eventually("nothing is left of it", async || stat(second.pid).is_none().then_some(())).await;
    assert_eq!(who(serving.address).await, first.pid());
    assert!(!stage.log().contains("ended before it joined"), "{}", stage.log());
}

/// What was taken back is not started again, unless something else is installed.
#[tokio::test]
async fn after_a_rollback_the_bad_version_is_not_started_again() {
    let stage = Stage::new();
    let bad = stage.copy_program("bad");
    let mut first = stage.start(&[(PROBATION, "60")]);
    let serving = stage.serves(1).await;
    stage.install(&bad);
    let second = stage.sighup(serving).await;
    call(&stage, "Rollback").await;
    first.signal(Signal::HUP);
    let why = format!("SIGHUP is ignored: {} (", second.pid);
    stage.logs(&[&why, "has not changed since", "hotctl handoff -- "]).await;
    signal(second.pid, Signal::HUP);
    stage
        .logs(&[&format!("this process does not serve any more; it handed over to {} (", first.pid())])
        .await;
    assert_eq!(who(serving.address).await, first.pid());
    assert_eq!(stage.log().matches("started a successor").count(), 1, "{}", stage.log());

    stage.install(&std::env::current_exe().unwrap());
    stage.sighup(serving).await;
    first.signal(Signal::TERM);
    first.drains(0).await;
}

/// The same version as the one that serves again is a good one.
#[tokio::test]
async fn after_a_rollback_the_version_that_serves_is_started_again() {
    let stage = Stage::new();
    let first = stage.start(&[(PROBATION, "60")]);
    let serving = stage.serves(1).await;
    signal(stage.sighup(serving).await.pid, Signal::KILL);
    stage.logs(&["the successor died in probation"]).await;
    assert_eq!(who(serving.address).await, first.pid());
    stage.sighup(serving).await;
}

/// As `pkill -HUP` asks all of them.
#[tokio::test]
async fn only_the_process_that_serves_starts_a_successor() {
    let stage = Stage::new();
    let first = stage.start(&[(ON_COMMAND, "")]);
    let serving = stage.serves(1).await;
    first.signal(Signal::HUP);
    let waits = async || {
        let status = status(&stage).await;
        let pid = status["successor"]["process"]["pid"].as_u64()?.try_into().ok()?;
        (status["successor"]["state"] == "standby").then_some(pid)
    };
    let second: u32 = eventually("the successor stands by", waits).await;
    signal(second, Signal::HUP);
    stage.logs(&["SIGHUP is ignored: this process does not serve yet"]).await;
    first.signal(Signal::HUP);
    stage.logs(&[&format!("SIGHUP is ignored: the successor {second} ("), "is there already"]).await;

    let mut client = Client::connect(serving.address).await;
    assert_eq!(client.ask().await, first.pid());
    call(&stage, "Handoff").await;
    first.signal(Signal::HUP);
    let why =
        format!("SIGHUP is ignored: this process does not serve any more; it handed over to {second} (");
    stage.logs(&[&why]).await;
    assert_eq!(client.ask().await, first.pid(), "the signal does nothing else");
    assert_eq!(stage.log().matches("started a successor").count(), 1, "{}", stage.log());
}

#[tokio::test]
async fn one_that_warms_up_does_not_start_another() {
    let stage = Stage::new();
    let mut first = stage.start(&[(WARMS_UP, "1")]);
    let joined = format!("joined {}\n", first.pid());
    eventually("it has joined", async || stage.said().contains(&joined).then_some(())).await;
    first.signal(Signal::HUP);
    stage.logs(&["SIGHUP is ignored: this process does not serve yet"]).await;
    first.signal(Signal::TERM);
    first.end().await;
    assert!(!stage.log().contains("started a successor"), "{}", stage.log());
}

/// The process that adopts orphans, which is systemd in a unit, is the parent of the new version as soon as
/// that serves, and learns at once how it ended.
#[tokio::test]
async fn the_manager_is_the_parent_of_the_new_version() {
    let stage = Stage::new();
    let manager = Manager::at(&stage);
    let mut first = stage.start(&manager.environment());
    let serving = stage.serves(1).await;
    let mut client = Client::connect(serving.address).await;
    assert_eq!(client.ask().await, first.pid());
    let second = stage.sighup(serving).await;
    manager.hears(&format!("MAINPID={}\n", second.pid)).await;

    let [_, parent, ..] = stat(second.pid).unwrap();
    assert_eq!(parent, std::process::id().to_string(), "no process stands between");
    eventually("it is told that it is the main process", async || (manager.times(KEEP) == 2).then_some(()))
        .await;

    signal(second.pid, Signal::KILL);
    let pid = Pid::from_raw(second.pid.cast_signed()).unwrap();
    let ended = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED).unwrap().unwrap();
    assert_eq!(ended.terminating_signal(), Some(9));
    assert_eq!(client.ask().await, first.pid(), "a drain goes on");
    drop(client);
    first.drains(0).await;
}

#[tokio::test]
async fn without_a_manager_nothing_is_left_of_a_crash() {
    let stage = Stage::new();
    let mut first = stage.start(&[]);
    let serving = stage.serves(1).await;
    let mut client = Client::connect(serving.address).await;
    assert_eq!(client.ask().await, first.pid());
    let second = stage.sighup(serving).await;
    signal(second.pid, Signal::KILL);
    eventually("its corpse is gone", async || stat(second.pid).is_none().then_some(())).await;
    assert_eq!(client.ask().await, first.pid(), "a drain goes on");
    drop(client);
    first.drains(0).await;
}
