//! The counts: what came in is open or has ended in exactly one way, here and in the status.
//!
//! Deliberately absent: metrics, which `integration-tests` reads from a real process.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use crate::common::peer::call;
use crate::common::{Folder, SOON, eventually};
use hotupdate::{Builder, Connection, Serving, Totals};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The client's first byte says how its connection ends.
async fn serve_one(mut connection: Connection) {
    let mut drain = connection.drain();
    let mut how = [0];
    if connection.read_exact(&mut how).await.is_err() || connection.write_all(b".").await.is_err() {
        return;
    }
    match how[0] {
        b'u' => connection.activity().set_upgraded("raw"),
        b'm' => {
            drain.started().await;
            connection.migrate("line", &()).await.unwrap();
            return;
        }
        b'c' => {
            drain.started().await;
            return connection.activity().set_closing();
        }
        _ => {}
    }
    let request = (how[0] == b'a').then(|| connection.activity().begin_request());
    let _ = connection.read(&mut how).await;
    drop(request);
}

async fn serve(builder: Builder) -> (Serving, SocketAddr) {
    let mut starting = builder.join().await.unwrap();
    let mut listener = starting.tcp("line", "127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().ip().unwrap();
    let go_on = |mut connection: Connection, (): ()| async move {
        let _ = connection.read(&mut [0]).await;
    };
    starting.on_migrated("line", go_on).unwrap();
    let hot = starting.ready().await.unwrap();
    tokio::spawn(async move {
        while let Some(connection) = listener.accept().await {
            tokio::spawn(serve_one(connection));
        }
    });
    (hot, address)
}

async fn client(address: SocketAddr, how: u8) -> TcpStream {
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(&[how]).await.unwrap();
    timeout(SOON, client.read_exact(&mut [0])).await.expect("an answer").unwrap();
    client
}

async fn status(path: &Path) -> Value {
    call(path, "io.hotupdate.Status", json!({})).await["parameters"]["status"].take()
}

fn totals(status: &Value) -> Totals {
    serde_json::from_value(status["totals"].clone()).unwrap()
}

/// `of`, with these counts instead of its own.
fn with(of: Totals, set: impl FnOnce(&mut Totals)) -> Totals {
    let mut totals = of;
    set(&mut totals);
    totals
}

/// Open connections as the status shows them.
fn open(status: &Value) -> u64 {
    status["connections"].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum()
}

#[tokio::test]
async fn what_came_in_is_open_or_has_ended_in_one_way() {
    let folder = Folder::new();
    let (first, address) = serve(folder.builder("v1").drain_deadline(Duration::from_millis(800))).await;
    let mut clients = Vec::new();
    for how in *b"ffffmmmcciuuaaa" {
        clients.push(client(address, how).await);
    }
    drop(clients.drain(..4));
    eventually("four have finished", async || (first.connections().finished() == 4).then_some(())).await;
    let before = status(&folder.control()).await;
    let expected = with(Totals::default(), |t| (t.accepted, t.finished, t.requests) = (15, 4, 3));
    assert_eq!(totals(&before["serving"]), expected);
    assert_eq!(before["serving"]["connections"], json!({ "idle": 6, "active": 3, "upgraded": 2 }));

    let (second, _) = serve(folder.builder("v2")).await;
    let told = eventually("the predecessor tells", async || {
        let status = status(&folder.control()).await;
        let told = status["predecessors"].get(0)?.clone();
        (totals(&told).migrated == 3 && totals(&told).closed == 2).then_some((status, told))
    });
    let (now, told) = told.await;
    assert_eq!(totals(&told), with(expected, |t| (t.migrated, t.closed) = (3, 2)));
    assert_eq!((open(&told), totals(&told).open()), (6, 6));
    assert_eq!((totals(&now["serving"]).adopted, open(&now["serving"])), (3, 3));

    timeout(SOON, first.drained()).await.expect("a drain ends");
    let end = first.connections().totals();
    assert_eq!(end, with(expected, |t| (t.migrated, t.closed, t.forced) = (3, 2, 6)));
    assert_eq!((end.open(), first.connections().rows().len()), (0, 0));
    drop(clients);
    eventually("they finish where they are now", async || {
        (second.connections().finished() == 3).then_some(())
    })
    .await;
    let end = second.connections().totals();
    assert_eq!(end, with(Totals::default(), |t| (t.adopted, t.finished) = (3, 3)));
    assert_eq!(second.connections().summary().open(), 0);
}

/// Its client has the end of the stream; that its owner does not let go changes nothing about it.
#[tokio::test]
async fn a_connection_that_was_forced_is_not_open() {
    let folder = Folder::new();
    let mut starting = folder.builder("v1").drain_deadline(Duration::ZERO).join().await.unwrap();
    let mut listener = starting.tcp("line", "127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().ip().unwrap();
    let first = starting.ready().await.unwrap();
    let mut client = TcpStream::connect(address).await.unwrap();
    let kept = listener.accept().await.unwrap();
    let request = kept.activity().begin_request();
    let _second = serve(folder.builder("v2")).await;
    assert_eq!(timeout(SOON, client.read(&mut [0])).await.expect("an end").unwrap(), 0);
    let counts = first.connections();
    assert_eq!((counts.summary().open(), counts.forced(), counts.rows().len()), (0, 1, 1));
    drop(request);
    drop(kept);
    let expected = with(Totals::default(), |t| (t.accepted, t.forced, t.requests) = (1, 1, 1));
    assert_eq!((counts.totals(), counts.summary()), (expected, Default::default()));
}
