//! Version skew: today's code hands over to, and takes over from, a process of the first protocol version.
//!
//! That process is a recording: its exact texts and the descriptors that they own, in `v1/*.jsonl`. A
//! replaying peer says exactly that, with the addresses and cookies of real sockets put in, and checks that
//! it would have understood what it hears.
//!
//! Deliberately absent: making the recordings anew. See `recorder.rs`.

mod negotiation;
mod record;
mod recorder;
mod recording;
mod replay;
mod scene;
mod wire;

use std::time::Duration;

use self::replay::{End, Replay};
use self::scene::{Service, ask, client, serve};
use crate::common::peer::{call, status};
use crate::common::{self, Folder, SOON, eventually, refused};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::timeout;

pub(crate) const HANDOFF: &str = include_str!("skew/v1/handoff.jsonl");
const ROLLBACK: &str = include_str!("skew/v1/rollback.jsonl");
const FAREWELL: &str = include_str!("skew/v1/farewell.jsonl");
const STATUS: &str = include_str!("skew/v1/status.json");

/// A probation that outlasts the scene.
const LONG: Duration = Duration::from_secs(60);

pub(crate) async fn patient(folder: &Folder, version: &str, name: u8) -> Service {
    serve(folder.builder(version).probation(LONG), name).await
}

/// The replay has said and heard everything.
pub(crate) async fn ended(replay: JoinHandle<End>) -> End {
    match timeout(SOON, replay).await.expect("the conversation ends") {
        Ok(end) => end,
        Err(failed) => std::panic::resume_unwind(failed.into_panic()),
    }
}

/// The whole of the recorded handoff, from an old process to today's.
pub(crate) async fn hand_over_from(mut old: Replay, folder: &Folder) {
    let (address, mut moves) = (old.address(), old.client());
    let old = tokio::spawn(old.run());
    let new = patient(folder, "v2", b'2').await;
    assert_eq!(
        (new.address, new.hits.as_deref()),
        (address, Some("1")),
        "its listener and its state are inherited"
    );
    assert_eq!(new.hot.import("hits").unwrap().bytes, b"1", "and the final word of it");
    assert_eq!(ask(&mut client(address, b's').await).await, ('2', 2));
    assert_eq!(ask(&mut moves).await, ('2', 2), "the connection moves with what was known of it");
    let status = status(&folder.control()).await;
    let predecessors: Vec<_> = status["predecessors"].as_array().unwrap().iter().map(generation).collect();
    assert_eq!((generation(&status["serving"]), predecessors), (3, vec![2, 1]));

    call(&folder.control(), "io.hotupdate.Drain", json!({ "deadline_ms": 50_000 })).await;
    let next = patient(folder, "v3", b'3').await;
    ended(old).await;
    assert_eq!(ask(&mut client(next.address, b's').await).await, ('3', 2));
    eventually("the old process is forgotten", async || {
        let status = common::peer::status(&folder.control()).await;
        status["predecessors"].as_array().unwrap().iter().all(|p| generation(p) != 2).then_some(())
    })
    .await;
}

/// The whole of the recorded handoff, from today's process to an old one.
pub(crate) async fn hand_over_to(alter: fn(&mut Value), folder: &Folder) {
    let oldest = serve(folder.builder("v0"), b'0').await;
    let _keeps_the_oldest = client(oldest.address, b's').await;
    let old = patient(folder, "v1", b'1').await;
    let (moves, mut stays) = (client(old.address, b'm').await, client(old.address, b's').await);
    let new = Replay::successor(folder, HANDOFF).await.altered(alter);
    let new = tokio::spawn(new.run());
    timeout(SOON, old.hot.retired()).await.expect("it lets go");
    assert_eq!(ask(&mut stays).await, ('1', 2), "what cannot move is finished where it is");
    drop(stays);
    timeout(SOON, old.hot.drained()).await.expect("the drain ends");
    let end = ended(new).await;
    assert_eq!(end.connections[0].peer_addr().unwrap(), moves.local_addr().unwrap());
    assert_eq!(end.listener.local_addr().unwrap(), old.address);
    let late = std::net::TcpStream::connect(old.address).unwrap();
    let (accepted, _) = end.listener.accept().unwrap();
    assert_eq!(accepted.peer_addr().unwrap(), late.local_addr().unwrap(), "only the new process accepts");
    end.stays_quiet().await;
}

fn generation(process: &Value) -> u64 {
    process["generation"].as_u64().unwrap()
}

#[tokio::test]
async fn a_handoff_from_version_1() {
    let folder = Folder::new();
    hand_over_from(Replay::incumbent(&folder, HANDOFF), &folder).await;
}

#[tokio::test]
async fn a_handoff_to_version_1() {
    hand_over_to(|_| {}, &Folder::new()).await;
}

#[tokio::test]
async fn a_rollback_to_version_1() {
    let folder = Folder::new();
    let mut old = Replay::incumbent(&folder, ROLLBACK);
    let (address, mut moves) = (old.address(), old.client());
    let old = tokio::spawn(old.run());
    let new = patient(&folder, "v2", b'2').await;
    assert_eq!(ask(&mut moves).await, ('2', 3));
    let reply = call(&folder.control(), "io.hotupdate.Rollback", json!({})).await;
    assert_eq!(reply["parameters"]["to"]["version"], "v1", "{reply}");
    let end = ended(old).await;
    assert_eq!(end.connections[0].peer_addr().unwrap(), moves.local_addr().unwrap(), "it moved back");
    assert!(new.hot.drain().is_draining());
    let late = std::net::TcpStream::connect(address).unwrap();
    let (accepted, _) = end.listener.accept().unwrap();
    assert_eq!(accepted.peer_addr().unwrap(), late.local_addr().unwrap());
}

#[tokio::test]
async fn a_rollback_from_version_1() {
    let folder = Folder::new();
    let old = patient(&folder, "v1", b'1').await;
    let mut moves = client(old.address, b'm').await;
    let new = tokio::spawn(Replay::successor(&folder, ROLLBACK).await.run());
    let _end = ended(new).await;
    assert_eq!(ask(&mut moves).await, ('1', 4), "it was away, and its count came back with it");
    assert_eq!(ask(&mut client(old.address, b's').await).await, ('1', 2));
    assert_eq!(generation(&status(&folder.control()).await["serving"]), 1);
}

#[tokio::test]
async fn a_farewell_to_version_1() {
    let folder = Folder::new();
    let old = Replay::incumbent(&folder, FAREWELL);
    let address = old.address();
    let old = tokio::spawn(old.run());
    let new = patient(&folder, "v2", b'2').await;
    call(&folder.control(), "io.hotupdate.Stop", json!({})).await;
    timeout(SOON, new.hot.drained()).await.expect("the drain ends");
    drop(ended(old).await);
    refused(address).await;
}

#[tokio::test]
async fn a_farewell_from_version_1() {
    let folder = Folder::new();
    let old = patient(&folder, "v1", b'1').await;
    let new = tokio::spawn(Replay::successor(&folder, FAREWELL).await.run());
    timeout(SOON, old.hot.drained()).await.expect("it lets go, and has nothing left");
    drop(ended(new).await);
    refused(old.address).await;
}

#[tokio::test]
async fn what_version_1_tells_an_operator_and_what_it_is_told() {
    let then: Value = serde_json::from_str(STATUS).unwrap();
    recording::fits(&then, &record::whole_status().await);
    let read: hotupdate_proto::operator::Status = serde_json::from_value(then).unwrap();
    assert_eq!((read.serving.generation.0, read.predecessors[0].generation.0), (2, 1));
    assert!(read.successor.is_some() && read.last_failure.is_some() && read.last_handoff.is_some());
}
