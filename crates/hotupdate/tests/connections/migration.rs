//! Live connections that move from one version to the next, and what happens when they cannot.
//!
//! Deliberately absent: HTTP and WebSockets, which are the business of `hotupdate-axum`.

use std::net::SocketAddr;
use std::time::Duration;

use hotupdate::{Builder, Connection, Listener, Serving, Timing};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::common::SOON;

fn directory() -> tempfile::TempDir {
    tempfile::Builder::new()
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o700))
        .tempdir()
        .unwrap()
}

fn builder(directory: &tempfile::TempDir, version: &str) -> Builder {
    let path = directory.path().join("control.sock");
    let timing = Timing::default().path_check(Duration::MAX);
    hotupdate::builder(path).version(version).stop_signals(false).timing(timing).probation(Duration::ZERO)
}

/// Counts bytes: each one is answered with the name of the version, and their number so far; moves when it is
/// its turn.
async fn count(mut connection: Connection, name: u8, mut counted: u8) {
    let mut slot = connection.migration_slot();
    loop {
        let mut byte = [0];
        let read = tokio::select! {
            read = connection.read(&mut byte) => read,
            () = slot.acquire("count") => match connection.migrate("count", &counted).await {
                Ok(()) => return,
                Err(stays) => {
                    connection = stays.connection;
                    continue;
                }
            },
        };
        match read {
            Ok(1) => {
                counted += 1;
                connection.write_all(&[name, counted]).await.unwrap();
            }
            _ => return,
        }
    }
}

pub(crate) async fn serve(builder: Builder, name: u8, accepts: bool) -> (Serving, SocketAddr) {
    let mut starting = builder.join().await.unwrap();
    let listener = starting.tcp("count", "127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().ip().unwrap();
    if accepts {
        let go_on = move |connection, counted: u8| count(connection, name, counted);
        starting.on_migrated("count", go_on).unwrap();
    }
    let hot = starting.ready().await.unwrap();
    tokio::spawn(accept(listener, name));
    (hot, address)
}

async fn accept(mut listener: Listener, name: u8) {
    while let Some(connection) = listener.accept().await {
        tokio::spawn(count(connection, name, 0));
    }
}

pub(crate) async fn ask(stream: &mut TcpStream) -> (u8, u8) {
    stream.write_all(b"?").await.unwrap();
    let mut answer = [0; 2];
    timeout(SOON, stream.read_exact(&mut answer)).await.expect("an answer").unwrap();
    (answer[0], answer[1])
}

pub(crate) async fn clients(address: SocketAddr, how_many: usize) -> Vec<TcpStream> {
    let mut clients = Vec::new();
    for _ in 0..how_many {
        let mut client = TcpStream::connect(address).await.unwrap();
        assert_eq!(ask(&mut client).await, (b'1', 1));
        clients.push(client);
    }
    clients
}

#[tokio::test]
async fn connections_move_with_their_state_and_the_old_version_is_gone() {
    let directory = directory();
    let (first, address) = serve(builder(&directory, "v1"), b'1', true).await;
    let mut clients = clients(address, 300).await;
    let (second, _) = serve(builder(&directory, "v2"), b'2', true).await;
    timeout(SOON, first.drained()).await.expect("everything moved");
    for client in &mut clients {
        assert_eq!(ask(client).await, (b'2', 2), "the count goes on in the new version");
    }
    assert_eq!((first.connections().migrated(), second.connections().adopted()), (300, 300));
    let rows = second.connections().rows();
    assert!(rows.iter().all(|row| row.listener == "count" && row.age_ms < 60_000), "{rows:?}");
    let peers: Vec<hotupdate::ShortText> =
        clients.iter().map(|client| client.local_addr().unwrap().to_string().into()).collect();
    assert!(rows.iter().all(|row| peers.contains(&row.peer)), "{rows:?}");
}

#[tokio::test]
async fn a_client_sees_the_end_when_the_new_version_closes() {
    let directory = directory();
    let (first, address) = serve(builder(&directory, "v1"), b'1', true).await;
    let mut client = clients(address, 1).await.remove(0);
    let mut starting = builder(&directory, "v2").join().await.unwrap();
    let _listener = starting.tcp("count", "127.0.0.1:0").await.unwrap();
    starting.on_migrated("count", |connection, _: u8| async move { drop(connection) }).unwrap();
    let _second = starting.ready().await.unwrap();
    let mut rest = Vec::new();
    timeout(SOON, client.read_to_end(&mut rest)).await.expect("no copy keeps it open").unwrap();
    timeout(SOON, first.drained()).await.unwrap();
}

#[tokio::test]
async fn what_nobody_takes_stays() {
    for (old_moves, new_moves, accepts) in [(true, true, false), (true, false, true), (false, true, true)] {
        let directory = directory();
        let old = builder(&directory, "v1").migrate_connections(old_moves);
        let (first, address) = serve(old, b'1', true).await;
        let mut clients = clients(address, 3).await;
        let new = builder(&directory, "v2").migrate_connections(new_moves);
        let (second, _) = serve(new, b'2', accepts).await;
        timeout(SOON, first.retired()).await.unwrap();
        for client in &mut clients {
            assert_eq!(ask(client).await, (b'1', 2));
        }
        assert_eq!(second.connections().adopted(), 0);
        drop(clients);
        timeout(SOON, first.drained()).await.unwrap();
    }
}

#[tokio::test]
async fn a_state_that_the_new_version_cannot_read_stays_in_the_old_one() {
    let directory = directory();
    let (first, address) = serve(builder(&directory, "v1"), b'1', true).await;
    let mut clients = clients(address, 3).await;
    let mut starting = builder(&directory, "v2").join().await.unwrap();
    let _listener = starting.tcp("count", "127.0.0.1:0").await.unwrap();
    starting.on_migrated("count", |connection, _: String| async move { drop(connection) }).unwrap();
    let _second = starting.ready().await.unwrap();
    timeout(SOON, first.retired()).await.unwrap();
    for client in &mut clients {
        assert_eq!(ask(client).await, (b'1', 2));
    }
}

/// A handler that tries again at once would try for ever.
#[tokio::test]
async fn after_a_move_that_failed_the_turn_comes_again_when_something_changes() {
    let directory = directory();
    let mut starting = builder(&directory, "v1").join().await.unwrap();
    let mut listener = starting.tcp("count", "127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().ip().unwrap();
    let first = starting.ready().await.unwrap();
    let _client = TcpStream::connect(address).await.unwrap();
    let mut connection = listener.accept().await.unwrap();

    let mut starting = builder(&directory, "v2").join().await.unwrap();
    let _listener = starting.tcp("count", "127.0.0.1:0").await.unwrap();
    starting.on_migrated("count", |connection, _: String| async move { drop(connection) }).unwrap();
    let _second = starting.ready().await.unwrap();

    let mut slot = connection.migration_slot();
    timeout(SOON, slot.acquire("count")).await.expect("the new version takes this kind");
    connection = connection.migrate("count", &1).await.expect_err("and cannot read the state").connection;
    let again = slot.acquire("count");
    tokio::pin!(again);
    assert!(timeout(Duration::from_millis(200), &mut again).await.is_err(), "nothing has changed");
    let (_third, _) = serve(builder(&directory, "v3"), b'3', true).await;
    timeout(SOON, again).await.expect("another version serves");
    drop(connection);
    timeout(SOON, first.drained()).await.unwrap();
}

#[tokio::test]
async fn the_turn_comes_only_for_kinds_that_somebody_takes() {
    let directory = directory();
    let mut starting = builder(&directory, "v1").join().await.unwrap();
    let mut listener = starting.tcp("count", "127.0.0.1:0").await.unwrap();
    let _client = TcpStream::connect(listener.local_addr().ip().unwrap()).await.unwrap();
    let hot = starting.ready().await.unwrap();
    let connection = listener.accept().await.unwrap();
    let mut slot = connection.migration_slot();
    let turn = slot.acquire("count");
    tokio::pin!(turn);
    let a_while = Duration::from_millis(50);
    assert!(timeout(a_while, &mut turn).await.is_err(), "nothing drains");

    let (_second, _) = serve(builder(&directory, "v2"), b'2', false).await;
    timeout(SOON, hot.retired()).await.unwrap();
    assert!(timeout(a_while, &mut turn).await.is_err(), "the second version does not accept it");
    let (_third, _) = serve(builder(&directory, "v3"), b'3', true).await;
    timeout(SOON, turn).await.expect("the third does");
}

#[tokio::test]
async fn through_three_generations() {
    let directory = directory();
    let (first, address) = serve(builder(&directory, "v1"), b'1', true).await;
    let mut clients = clients(address, 50).await;
    let mut before = first;
    for name in b'2'..=b'9' {
        let (next, _) = serve(builder(&directory, "next"), name, true).await;
        for client in &mut clients {
            let (version, count) = ask(client).await;
            assert!(version <= name && count == name - b'0', "{version} {count}");
        }
        timeout(SOON, before.drained()).await.expect("everything moved");
        before = next;
    }
}
