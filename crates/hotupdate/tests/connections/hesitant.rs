//! A successor that is slow to say that it has prepared, and a predecessor that stands still meanwhile.
//!
//! Deliberately absent: the same with whole processes
//! (`integration-tests/tests/connections/migration/hanging.rs`).

use std::sync::mpsc;
use std::time::Duration;

use hotupdate::{Connection, Timing};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use crate::common::peer::Peer;
use crate::common::{Folder, Log, SOON, patient};
use crate::migration::{ask, clients, serve};

/// How long the predecessor waits for `prepared`.
const PREPARED: Duration = Duration::from_millis(500);

fn timing() -> Timing {
    patient().prepared(PREPARED)
}

/// A successor that serves, and accepts connections that count.
async fn takes_over(folder: &Folder) -> Peer {
    let mut peer = Peer::connect(&folder.control()).await;
    let mut join = crate::common::peer::join("v2");
    join["parameters"]["features"] = json!(["migrate"]);
    peer.say(&join).await;
    peer.next().await.expect("a reply to `Join`");
    peer.receive_inventory().await;
    let ready =
        json!({ "type": "ready", "adopted": ["count"], "bound": [], "unclaimed": [], "release": "now" });
    peer.say(&ready).await;
    peer.next_of("released").await;
    peer.say(&json!({ "type": "serving" })).await;
    peer.say(&json!({ "type": "accepts", "kinds": [{ "kind": "count" }] })).await;
    peer
}

fn prepared(prepare: &Value) -> Value {
    json!({ "type": "prepared", "batch": prepare["batch"], "refused": [] })
}

#[tokio::test]
async fn connections_stay_until_the_successor_answers_again() {
    let (folder, (log, _guard)) = (Folder::new(), Log::begin());
    let (first, address) = serve(folder.builder("v1").timing(timing()), b'1', true).await;
    let mut client = clients(address, 1).await.remove(0);
    let mut peer = takes_over(&folder).await;
    let prepare = peer.next_of("prepare").await;
    let abort = peer.next_of("abort").await;
    assert_eq!(abort["batch"], prepare["batch"]);
    for count in 2..5 {
        assert_eq!(ask(&mut client).await, (b'1', count), "it is served where it is");
    }
    log.says(&["the serving process does not answer (deadline `prepared`)"]);
    peer.say(&prepared(&prepare)).await;
    let again = peer.next_of("prepare").await;
    peer.say(&prepared(&again)).await;
    assert_eq!(peer.next_of("commit").await["batch"], again["batch"]);
    timeout(SOON, first.drained()).await.expect("it has migrated");
    assert_eq!(first.connections().migrated(), 1);
    log.says(&["connections do not wait for the serving process any more"]);
}

/// Tries to migrate at each byte, and says when that has failed, and whether it may still come to that.
async fn tries(mut connection: Connection) {
    while connection.read_u8().await.is_ok() {
        match connection.migrate("count", &0_u8).await {
            Ok(()) => return,
            Err(stays) => connection = stays.connection,
        }
        let waits = connection.can_migrate("count");
        connection.write_all(if waits { b"w" } else { b"-" }).await.unwrap();
    }
}

#[tokio::test]
async fn while_the_successor_does_not_answer_an_attempt_fails_at_once() {
    let folder = Folder::new();
    let mut starting = folder.builder("v1").timing(timing()).join().await.unwrap();
    let mut listener = starting.tcp("count", "127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().ip().unwrap();
    let first = starting.ready().await.unwrap();
    tokio::spawn(async move {
        while let Some(connection) = listener.accept().await {
            tokio::spawn(tries(connection));
        }
    });
    let mut clients =
        [TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap()];
    let fails = async |client: &mut TcpStream, how| {
        client.write_u8(b'?').await.unwrap();
        let answer = timeout(SOON, client.read_u8()).await;
        assert_eq!(answer.expect("it does not wait for the successor").unwrap(), how);
    };
    for client in &mut clients {
        fails(client, b'-').await;
    }
    let mut peer = takes_over(&folder).await;
    first.drain().started().await;
    let first_attempt = async {
        // No client is told to leave: it would wait for the same process.
        fails(&mut clients[0], b'w').await;
        fails(&mut clients[0], b'w').await;
        fails(&mut clients[1], b'w').await;
    };
    let offers = async {
        let prepare = peer.next_of("prepare").await;
        assert_eq!(peer.next_of("abort").await["batch"], prepare["batch"]);
    };
    tokio::join!(first_attempt, offers);
}

/// The only thread of the service does nothing until the returned value is dropped.
fn stands_still(service: &Runtime) -> mpsc::Sender<()> {
    let (stands, stood) = mpsc::channel();
    let (goes_on, waits) = mpsc::channel::<()>();
    service.spawn(async move {
        stands.send(()).unwrap();
        let _ = waits.recv();
    });
    stood.recv().unwrap();
    goes_on
}

/// The successor may have given up meanwhile to wait for the end of the migration.
#[test]
fn an_answer_that_is_read_too_late_is_none() {
    let folder = Folder::new();
    let service = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let outside = Builder::new_current_thread().enable_all().build().unwrap();
    outside.block_on(async {
        let builder = folder.builder("v1").timing(timing());
        let (_first, address) = service.spawn(serve(builder, b'1', true)).await.unwrap();
        let mut client: TcpStream = clients(address, 1).await.remove(0);
        let mut peer = takes_over(&folder).await;
        let prepare = peer.next_of("prepare").await;
        let standstill = stands_still(&service);
        peer.say(&prepared(&prepare)).await;
        std::thread::sleep(2 * PREPARED);
        drop(standstill);
        let answer = loop {
            let message = peer.next().await.unwrap();
            if message["type"] == "abort" || message["type"] == "commit" {
                break message;
            }
        };
        assert_eq!((&answer["type"], &answer["batch"]), (&json!("abort"), &prepare["batch"]));
        assert_eq!(ask(&mut client).await, (b'1', 2), "it is served where it is");
    });
    service.shutdown_background();
}
