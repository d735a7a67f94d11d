//! A process that serves again while its connections are on their way to the next version: it has them back
//! at once, tells no client to leave, and everything moves at the next attempt.
//!
//! Deliberately absent: other ends of a move, see `moving.rs`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use crate::common::peer::{Peer, call, join};
use crate::common::{Folder, SOON, eventually};
use hotupdate::{Connection, Listener, Serving};
use hotupdate_proto::migration::WINDOW;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// More than are on their way at once, so that some wait for their turn: the first batches are small.
const MANY: usize = 300;

const LONG: Duration = Duration::from_secs(60);

/// What happened to the connections of one version.
#[derive(Clone, Default)]
struct Seen {
    /// They came back.
    returned: Arc<AtomicU32>,
    /// They came back, had nowhere to go, and were to come to an end.
    unwanted: Arc<AtomicU32>,
}

/// Answers each byte with the name of the version and how many there were. After `(` it is busy until the
/// next byte; else it moves when told to.
async fn count(mut connection: Connection, name: u8, mut counted: u8, seen: Seen) {
    let (mut drain, mut busy, mut byte) = (connection.drain(), false, [0]);
    loop {
        let read = tokio::select! {
            read = connection.read(&mut byte) => read,
            () = drain.started(), if !busy => match connection.migrate("count", &counted).await {
                Ok(()) => return,
                Err(stays) => {
                    connection = stays.connection;
                    seen.returned.fetch_add(1, Relaxed);
                    let stranded = !connection.can_migrate("count") && drain.is_draining();
                    seen.unwanted.fetch_add(stranded.into(), Relaxed);
                    tokio::select! {
                        read = connection.read(&mut byte) => read,
                        () = drain.ended() => continue,
                    }
                }
            },
        };
        if !matches!(read, Ok(1)) {
            return;
        }
        (counted, busy) = (counted + 1, byte == *b"(");
        connection.write_all(&[name, counted]).await.unwrap();
    }
}

async fn serve(folder: &Folder, name: u8) -> (Serving, SocketAddr, Seen) {
    let mut starting =
        folder.builder(&format!("v{}", char::from(name))).probation(LONG).join().await.unwrap();
    let listener = starting.tcp("count", "127.0.0.1:0").await.unwrap();
    let (address, seen) = (listener.local_addr().ip().unwrap(), Seen::default());
    let taken = seen.clone();
    let go_on = move |connection, counted: u8| count(connection, name, counted, taken.clone());
    starting.on_migrated("count", go_on).unwrap();
    let hot = timeout(SOON, starting.ready()).await.expect("it serves").unwrap();
    tokio::spawn(accept(listener, name, seen.clone()));
    (hot, address, seen)
}

async fn accept(mut listener: Listener, name: u8, seen: Seen) {
    while let Some(connection) = listener.accept().await {
        tokio::spawn(count(connection, name, 0, seen.clone()));
    }
}

async fn ask(stream: &mut TcpStream, word: &[u8; 1]) -> (u8, u8) {
    stream.write_all(word).await.unwrap();
    let mut answer = [0; 2];
    timeout(SOON, stream.read_exact(&mut answer)).await.expect("an answer").unwrap();
    (answer[0], answer[1])
}

async fn clients(address: SocketAddr, how_many: usize) -> Vec<TcpStream> {
    let mut clients = Vec::new();
    for _ in 0..how_many {
        let mut client = TcpStream::connect(address).await.unwrap();
        assert_eq!(ask(&mut client, b"?").await, (b'1', 1));
        clients.push(client);
    }
    clients
}

/// A successor that serves, takes connections, and never says that it holds them; returns when as many
/// batches are on their way as may be.
async fn silent_taker(folder: &Folder) -> Peer {
    let mut call = join("silent");
    call["parameters"]["features"] = json!(["migrate"]);
    let mut peer = Peer::connect(&folder.control()).await;
    peer.say(&call).await;
    assert_eq!(peer.next().await.expect("a reply")["error"], Value::Null);
    peer.receive_inventory().await;
    let ready = json!({
        "type": "ready", "adopted": ["count"], "bound": [], "unclaimed": [], "release": "now",
        "accepts": [{ "kind": "count" }],
    });
    peer.say(&ready).await;
    peer.next_of("released").await;
    peer.say(&json!({ "type": "serving" })).await;
    let (mut batches, mut moving) = (0, 0);
    while batches < WINDOW && moving < MANY {
        moving += peer.next_of("prepare").await["items"].as_array().unwrap().len();
        batches += 1;
    }
    peer
}

/// Each client is served by the first version, was told nothing, and moves with the next handoff.
async fn all_is_as_before(folder: &Folder, first: &Serving, seen: &Seen, mut clients: Vec<TcpStream>) {
    for client in &mut clients {
        assert_eq!(ask(client, b"?").await, (b'1', 2), "the first version has it again");
    }
    let returned = seen.returned.load(Relaxed);
    assert!(returned > 0, "nothing was on its way");
    assert_eq!(seen.unwanted.load(Relaxed), 0, "of {returned} that came back were told to leave");
    assert_eq!(first.connections().migrated(), 0);
    let (second, _, _) = serve(folder, b'2').await;
    let moved = async || (second.connections().adopted() as usize == MANY).then_some(());
    eventually("all move to the next version", moved).await;
    for client in &mut clients {
        assert_eq!(ask(client, b"?").await, (b'2', 3));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn its_successor_rolls_back_while_connections_move() {
    let folder = Folder::new();
    let (first, address, seen) = serve(&folder, b'1').await;
    let clients = clients(address, MANY).await;
    let mut taker = silent_taker(&folder).await;
    taker.say(&json!({ "type": "resume", "stopped_at_ns": 0, "links": [] })).await;
    taker.next_of("serving").await;
    drop(taker);
    all_is_as_before(&folder, &first, &seen, clients).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn its_successor_dies_while_connections_move() {
    let folder = Folder::new();
    let (first, address, seen) = serve(&folder, b'1').await;
    let clients = clients(address, MANY).await;
    drop(silent_taker(&folder).await);
    all_is_as_before(&folder, &first, &seen, clients).await;
}

/// Batches of an older generation went on to the process that steps back: what was known of them is out of
/// date.
#[tokio::test]
async fn after_a_rollback_connections_of_an_older_generation_move_again() {
    let folder = Folder::new();
    let (first, address, _) = serve(&folder, b'1').await;
    let [mut early, mut middle, mut late] = clients(address, 3).await.try_into().unwrap();
    for busy in [&mut middle, &mut late] {
        assert_eq!(ask(busy, b"(").await, (b'1', 2));
    }
    let adopted = async |hot: &Serving, how_many: u64| {
        let enough = async || (hot.connections().adopted() == how_many).then_some(());
        eventually("a connection moves", enough).await;
    };
    let (second, _, _) = serve(&folder, b'2').await;
    adopted(&second, 1).await;
    let (third, _, _) = serve(&folder, b'3').await;
    adopted(&third, 1).await;
    assert_eq!(ask(&mut middle, b")").await, (b'1', 3));
    adopted(&third, 2).await;
    let reply = call(&folder.control(), "io.hotupdate.Rollback", json!({})).await;
    assert!(reply.get("error").is_none(), "{reply}");
    adopted(&second, 3).await;
    assert_eq!(ask(&mut late, b")").await, (b'1', 3));
    adopted(&second, 4).await;
    timeout(SOON, first.drained()).await.expect("everything moved");
    assert_eq!(ask(&mut early, b"?").await, (b'2', 2));
    assert_eq!(ask(&mut middle, b"?").await, (b'2', 4));
    assert_eq!(ask(&mut late, b"?").await, (b'2', 4));
}

/// What had moved moves back, what had not stays, and no connection is lost on the way.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_rollback_right_after_a_handoff() {
    let folder = Folder::new();
    let (first, address, seen) = serve(&folder, b'1').await;
    let mut clients = clients(address, MANY).await;
    let (second, _, others) = serve(&folder, b'2').await;
    let reply = call(&folder.control(), "io.hotupdate.Rollback", json!({})).await;
    assert!(reply.get("error").is_none(), "{reply}");
    let open = async || (first.connections().summary().open() as usize == MANY).then_some(());
    eventually("all are with the first version", open).await;
    for client in &mut clients {
        assert_eq!(ask(client, b"?").await, (b'1', 2));
    }
    assert_eq!(first.connections().migrated(), second.connections().adopted());
    assert_eq!(second.connections().migrated(), first.connections().adopted());
    for seen in [seen, others] {
        assert_eq!(seen.unwanted.load(Relaxed), 0, "of {} that came back", seen.returned.load(Relaxed));
    }
}
