//! How the recordings were made: `cargo test -p hotupdate --test handoff -- --ignored skew::record`, once for
//! each version of the protocol, before the first release that speaks it.
//!
//! Deliberately absent: assertions; a recording is proved by being replayed.

use std::time::Duration;

use serde_json::json;
use tokio::time::timeout;

use super::recorder::{Recorder, write};
use super::scene::{Service, ask, client, serve};
use crate::common::peer::{Peer, call, status};
use crate::common::{Folder, SOON, eventually};

/// A probation that outlasts the scene.
const LONG: Duration = Duration::from_secs(60);

async fn patient(folder: &Folder, version: &str, name: u8) -> Service {
    serve(folder.builder(version).probation(LONG), name).await
}

async fn said(recorder: &Recorder, word: &str) {
    eventually(&format!("`{word}`"), async || recorder.has(word).then_some(())).await;
}

/// Two generations drain, one connection moves, an operator is in a hurry, a third generation follows.
#[tokio::test]
#[ignore = "recordings are made once"]
async fn record_a_handoff() {
    let folder = Folder::new();
    let oldest = serve(folder.builder("v0"), b'0').await;
    let _keeps_the_oldest = client(oldest.address, b's').await;
    let old = patient(&folder, "v1", b'1').await;
    let (mut moves, stays) = (client(old.address, b'm').await, client(old.address, b's').await);

    let recorder = Recorder::at(&folder);
    let _new = patient(&folder, "v2", b'2').await;
    said(&recorder, "commit").await;
    assert_eq!(ask(&mut moves).await.0, '2');
    call(&folder.control(), "io.hotupdate.Drain", json!({ "deadline_ms": 50_000 })).await;
    said(&recorder, "hurry").await;
    let _next = patient(&folder, "v3", b'3').await;
    said(&recorder, "let_go").await;
    drop(stays);
    timeout(SOON, old.hot.drained()).await.unwrap();
    said(&recorder, "drained").await;
    recorder.write("v1/handoff.jsonl");
}

/// What moved with the handoff moves back.
#[tokio::test]
#[ignore = "recordings are made once"]
async fn record_a_rollback() {
    let folder = Folder::new();
    let old = patient(&folder, "v1", b'1').await;
    let mut moves = client(old.address, b'm').await;
    let recorder = Recorder::at(&folder);
    let new = patient(&folder, "v2", b'2').await;
    eventually("it moves", async || (ask(&mut moves).await.0 == '2').then_some(())).await;
    call(&folder.control(), "io.hotupdate.Rollback", json!({})).await;
    eventually("it moves back", async || (ask(&mut moves).await.0 == '1').then_some(())).await;
    said(&recorder, "drained").await;
    assert_eq!(status(&folder.control()).await["serving"]["generation"], 1);
    recorder.write("v1/rollback.jsonl");
    drop((old, new));
}

/// The new version is stopped while the old one could still take over.
#[tokio::test]
#[ignore = "recordings are made once"]
async fn record_a_farewell() {
    let folder = Folder::new();
    let old = patient(&folder, "v1", b'1').await;
    let recorder = Recorder::at(&folder);
    let new = patient(&folder, "v2", b'2').await;
    call(&folder.control(), "io.hotupdate.Stop", json!({})).await;
    timeout(SOON, old.hot.drained()).await.unwrap();
    timeout(SOON, new.hot.drained()).await.unwrap();
    said(&recorder, "farewell").await;
    recorder.write("v1/farewell.jsonl");
}

/// Everything that a status can hold: a predecessor, a successor, the last handoff and the last failure.
pub(crate) async fn whole_status() -> serde_json::Value {
    let folder = Folder::new();
    let oldest = patient(&folder, "v0", b'0').await;
    let _keeps_the_oldest = client(oldest.address, b's').await;
    let _old = patient(&folder, "v1", b'1').await;
    drop(Peer::successor(&folder.control()).await);
    eventually("the end of an attempt", async || {
        status(&folder.control()).await.get("last_failure").is_some().then_some(())
    })
    .await;
    let _peer = Peer::successor(&folder.control()).await;
    status(&folder.control()).await
}

#[tokio::test]
#[ignore = "recordings are made once"]
async fn record_a_status() {
    write("v1/status.json", &format!("{:#}\n", whole_status().await));
}
