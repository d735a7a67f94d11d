//! What a successor that serves may do to its predecessor: its death brings the predecessor back, nonsense
//! does not.
//!
//! Deliberately absent: real deaths, see `integration-tests/tests/handoff/kill.rs`.

use std::net::SocketAddr;
use std::time::Duration;

use crate::common::peer::{Peer, status};
use crate::common::{
    self, BRIEF, Folder, Log, SOON, alone, ask, descriptors, eventually, nothing_leaked, replace_by, serve,
};
use hotupdate::{Serving, Timing};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A predecessor whose successor says that it serves, and that no process answers for.
struct Scene {
    folder: Folder,
    first: Serving,
    address: SocketAddr,
    successor: Peer,
    before: usize,
    _open: Vec<TcpStream>,
}

async fn scene(probation: Duration) -> Scene {
    crowded_scene(probation, 0).await
}

/// The first one has so many connections that all stay open.
async fn crowded_scene(probation: Duration, clients: usize) -> Scene {
    let folder = Folder::new();
    let timing = Timing::default().probation(probation).write(BRIEF);
    let starting = folder.builder("v1").timing(timing).join().await.unwrap();
    let (first, address) = serve(starting, "v1").await;
    assert_eq!(ask(address).await, "v1");
    let mut open = Vec::new();
    for _ in 0..clients {
        open.push(TcpStream::connect(address).await.unwrap());
    }
    let all = async || (first.connections().summary().open() == clients as u64).then_some(());
    eventually("all clients are accepted", all).await;
    let before = descriptors();
    let mut successor = Peer::successor(&folder.control()).await;
    successor.receive_inventory().await;
    let ready =
        json!({ "type": "ready", "adopted": [], "bound": [], "unclaimed": ["echo"], "release": "now" });
    successor.say(&ready).await;
    successor.next_of("released").await;
    successor.say(&json!({ "type": "serving" })).await;
    // The rows follow the word that it drains: it believes us.
    first.drain().started().await;
    Scene { folder, first, address, successor, before, _open: open }
}

const LONG: Duration = Duration::from_secs(60);

/// The first one serves again, and everything goes on from there.
async fn comes_back(scene: Scene) {
    let Scene { folder, first, address, successor, before, _open } = scene;
    drop(successor);
    assert_eq!(ask(address).await, "v1", "the first serves again");
    let status = status(&folder.control()).await;
    assert_eq!(status["serving"]["generation"], 1);
    nothing_leaked(before).await;
    let (second, same) = folder.serve("v3").await;
    assert_eq!(same, address);
    assert_eq!(second.generation().0, 3, "a number that was given away is not given again");
    assert_eq!(ask(address).await, "v3");
    drop(first);
}

#[test]
fn its_death_brings_the_predecessor_back() {
    alone(async { comes_back(scene(LONG).await).await });
}

#[test]
fn so_does_a_death_in_the_middle_of_a_message() {
    alone(async {
        let mut scene = scene(LONG).await;
        scene.successor.send(b"{\"type\":\"set", &[]).await.unwrap();
        comes_back(scene).await;
    });
}

#[test]
fn nonsense_is_reported_and_does_not_end_the_link() {
    alone(async {
        let (log, _guard) = Log::begin();
        let mut scene = scene(LONG).await;
        scene.successor.send(b"nonsense\0", &[]).await.unwrap();
        eventually("the violation is reported", async || log.text().contains("violation").then_some(()))
            .await;
        // A peer that talks nonsense lives: the predecessor neither hangs up nor serves.
        let waiting = nobody_serves(scene.address).await;
        scene.successor.send(b"more nonsense\0{\"type\":", &[]).await.unwrap();
        let unserved = nobody_serves(scene.address).await;
        // That it dies afterwards is noticed, and who waited is served.
        drop(scene.successor);
        is_served(waiting).await;
        is_served(unserved).await;
    });
}

/// The counter of generations does not come to its end by what one process says.
#[test]
fn generations_that_nobody_can_follow() {
    alone(async {
        let (log, _guard) = Log::begin();
        let mut scene = scene(LONG).await;
        scene.successor.say(&json!({ "type": "issued", "generation": u64::MAX })).await;
        let violation = async || log.text().contains("violation").then_some(());
        eventually("the violation is reported", violation).await;
        log.says(&["generation=2", "gave away the generation 18446744073709551615", "the successor serves"]);
        comes_back(scene).await;
    });
}

#[test]
fn not_reading_does_not_end_the_link() {
    alone(async {
        let (log, _guard) = Log::begin();
        // Their rows are more than a socket holds.
        let scene = crowded_scene(LONG, 2000).await;
        let cannot = async || log.text().contains("a link cannot be written").then_some(());
        eventually("the predecessor gives up telling it", cannot).await;
        let waiting = nobody_serves(scene.address).await;
        drop(scene.successor);
        is_served(waiting).await;
    });
}

/// A client that waits, because the one who says that it serves does not.
async fn nobody_serves(address: SocketAddr) -> TcpStream {
    let mut waiting = TcpStream::connect(address).await.unwrap();
    waiting.write_all(b"?").await.unwrap();
    let early = timeout(BRIEF, waiting.readable()).await;
    assert!(early.is_err(), "two processes serve");
    waiting
}

async fn is_served(mut waiting: TcpStream) {
    let mut answer = [0; 2];
    timeout(SOON, waiting.read_exact(&mut answer)).await.expect("a client that waited is served").unwrap();
    assert_eq!(answer, *b"v1");
}

#[test]
fn after_the_probation_its_death_changes_nothing() {
    alone(async {
        let Scene { folder, first, address, successor, before, .. } = scene(BRIEF).await;
        first.retired().await;
        common::refused(address).await;
        drop(successor);
        first.drained().await;
        nothing_leaked(before - 3).await;
        let (_second, address) = folder.serve("v2").await;
        assert_eq!(ask(address).await, "v2", "the next start is a first start");
    });
}

#[test]
fn a_farewell_lets_go_before_the_end_of_the_probation() {
    alone(async {
        let Scene { folder, first, address, mut successor, .. } = scene(LONG).await;
        successor.say(&json!({ "type": "farewell" })).await;
        first.drained().await;
        common::refused(address).await;
        let (second, _) = folder.serve("v2").await;
        replace_by(&folder, &second, "v3").await;
    });
}
