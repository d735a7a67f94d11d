//! SIGHUP: the process starts its own program anew, and tells what became of it.
//!
//! Deliberately absent: how a handoff goes, which is the same whoever starts the successor.

use std::fs;
use std::process::Command;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, waitid};

use serde_json::json;

use crate::common::eventually;
use crate::common::peer::Peer;
use crate::manager::Manager;
use crate::service::{BROKEN, PROBATION};
use crate::stage::{Client, Stage, is_dead, signal, stat, who};

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
    assert!(!stage.control().exists(), "nobody serves any more");
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
    assert_eq!(who(serving.address).await, first.pid());
    let children = format!("/proc/{0}/task/{0}/children", first.pid());
    assert_eq!(fs::read_to_string(children).unwrap(), "", "it waits for nobody");

    stage.install(&std::env::current_exe().unwrap());
    let second = stage.sighup(serving).await;
    first.drains(0).await;
    assert_eq!(who(second.address).await, second.pid);
}

#[tokio::test]
async fn a_new_version_that_exits() {
    let words = ["the successor ended before it served", "exit status: 3"];
    does_not_start(|stage| stage.install_script("exit 3"), &words).await;
}

#[tokio::test]
async fn a_new_version_that_is_killed() {
    let words = ["the successor ended before it served", "signal: 9 (SIGKILL)"];
    does_not_start(|stage| stage.install_script("kill -9 $$"), &words).await;
}

#[tokio::test]
async fn a_new_version_that_is_not_there() {
    let words = ["the successor cannot be started", "No such file or directory"];
    does_not_start(|stage| fs::remove_file(stage.program()).unwrap(), &words).await;
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
    let children = format!("/proc/{0}/task/{0}/children", first.pid());
    eventually("its child has ended", async || {
        fs::read_to_string(&children).unwrap().is_empty().then_some(())
    })
    .await;
    assert_eq!(who(serving.address).await, first.pid());

    fs::remove_file(stage.file(BROKEN)).unwrap();
    stage.sighup(serving).await;
    first.drains(0).await;
    assert!(!stage.log().contains("ended before it served"), "{}", stage.log());
}

/// It has served, so its end is as it should be.
#[tokio::test]
async fn a_new_version_that_is_taken_back_did_not_fail() {
    let stage = Stage::new();
    let first = stage.start(&[(PROBATION, "60")]);
    let serving = stage.serves(1).await;
    let second = stage.sighup(serving).await;
    let mut operator = Peer::connect(&stage.control()).await;
    operator.say(&json!({ "method": "io.hotupdate.Rollback" })).await;
    let reply = operator.next().await.unwrap();
    assert!(reply["error"].is_null(), "{reply}");
    assert_eq!(who(serving.address).await, first.pid());
    signal(second.pid, Signal::TERM);
    eventually("nothing is left of it", async || stat(second.pid).is_none().then_some(())).await;
    assert_eq!(who(serving.address).await, first.pid());
    assert!(!stage.log().contains("ended before it served"), "{}", stage.log());
}

/// systemd is the parent of the old version only; as what it inherits it learns how the new one ended.
#[tokio::test]
async fn the_manager_inherits_the_news_of_a_crash() {
    let stage = Stage::new();
    let manager = Manager::at(&stage);
    let mut first = stage.start(&manager.environment());
    let serving = stage.serves(1).await;
    let mut client = Client::connect(serving.address).await;
    assert_eq!(client.ask().await, first.pid());
    let second = stage.sighup(serving).await;
    manager.hears(&format!("MAINPID={}\n", second.pid)).await;

    signal(second.pid, Signal::KILL);
    stage.logs(&["the new version has ended", "signal: 9 (SIGKILL)", "when this process has drained"]).await;
    assert_eq!(client.ask().await, first.pid(), "a drain goes on");
    let [state, parent, ..] = stat(second.pid).unwrap();
    assert_eq!((state.as_str(), parent), ("Z", first.pid().to_string()), "nobody has asked how it ended");
    drop(client);
    first.drains(0).await;

    let second = Pid::from_raw(second.pid.cast_signed()).unwrap();
    let ended = waitid(WaitId::Pid(second), WaitIdOptions::EXITED).unwrap().unwrap();
    assert_eq!(ended.terminating_signal(), Some(9));
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
