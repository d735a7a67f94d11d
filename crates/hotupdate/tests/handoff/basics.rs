//! Two processes' worth of handoff in one process: the library as an application uses it.
//!
//! Deliberately absent: process death; that takes real processes, see `integration-tests`.

use std::time::Duration;

use hotupdate::{Serving, Starting, Timing};
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

async fn start(directory: &tempfile::TempDir, version: &str) -> Starting {
    let path = directory.path().join("control.sock");
    hotupdate::builder(path)
        .version(version)
        .stop_signals(false)
        .timing(Timing::default().path_check(Duration::MAX))
        .probation(Duration::ZERO)
        .join()
        .await
        .unwrap()
}

/// Serves connections that say one byte: the answer is `name`.
async fn serve(mut starting: Starting, name: &'static [u8]) -> (Serving, std::net::SocketAddr) {
    let mut listener = starting.tcp("echo", "127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().ip().unwrap();
    let hot = starting.ready().await.unwrap();
    tokio::spawn(async move {
        while let Some(mut connection) = listener.accept().await {
            tokio::spawn(async move {
                let mut byte = [0];
                while connection.read_exact(&mut byte).await.is_ok() {
                    connection.write_all(name).await.unwrap();
                }
            });
        }
    });
    (hot, address)
}

async fn ask(stream: &mut TcpStream) -> u8 {
    stream.write_all(b"?").await.unwrap();
    let mut answer = [0];
    stream.read_exact(&mut answer).await.unwrap();
    answer[0]
}

#[tokio::test]
async fn new_connections_go_to_the_successor_and_old_ones_stay() {
    let directory = directory();
    let (first, address) = serve(start(&directory, "v1").await, b"1").await;
    let mut old = TcpStream::connect(address).await.unwrap();
    assert_eq!(ask(&mut old).await, b'1');

    let (second, same) = serve(start(&directory, "v2").await, b"2").await;
    assert_eq!((second.generation().0, same), (2, address));
    timeout(SOON, first.retired()).await.expect("the first lets go");
    assert_eq!(ask(&mut TcpStream::connect(address).await.unwrap()).await, b'2');
    assert_eq!(ask(&mut old).await, b'1', "what was accepted stays until it ends");

    drop(old);
    timeout(SOON, first.drained()).await.expect("nothing is left in the first");
}

#[tokio::test]
async fn state_travels_twice() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
    let directory = directory();
    let counter = Arc::new(AtomicU64::new(1));
    let mut first = start(&directory, "v1").await;
    let said = counter.clone();
    first.export("hits", "u64 as text", move || said.load(Relaxed).to_string().into_bytes()).unwrap();
    let _first = first.ready().await.unwrap();

    let second = start(&directory, "v2").await;
    assert_eq!(second.import("hits").unwrap().bytes, b"1");
    assert_eq!(second.import("hits").unwrap().schema, "u64 as text");
    counter.store(2, Relaxed);
    let second = second.ready().await.unwrap();
    assert_eq!(second.import("hits").unwrap().bytes, b"2", "the final word");
}

#[tokio::test]
async fn a_successor_that_gives_up_changes_nothing_ten_times() {
    let directory = directory();
    let (_first, address) = serve(start(&directory, "v1").await, b"1").await;
    for _ in 0..10 {
        drop(start(&directory, "broken").await);
        assert_eq!(ask(&mut TcpStream::connect(address).await.unwrap()).await, b'1');
    }
    let (_second, _) = serve(start(&directory, "v2").await, b"2").await;
    assert_eq!(ask(&mut TcpStream::connect(address).await.unwrap()).await, b'2');
}

#[tokio::test]
async fn three_hundred_listeners_travel() {
    let directory = directory();
    let mut first = start(&directory, "v1").await;
    let mut listeners = Vec::new();
    for n in 0..300 {
        listeners.push(first.tcp(&format!("l{n}"), "127.0.0.1:0").await.unwrap());
    }
    let _first = first.ready().await.unwrap();
    let mut second = start(&directory, "v2").await;
    let mut inherited = Vec::new();
    for before in &listeners {
        let listener = second.tcp(before.name(), "127.0.0.1:0").await.unwrap();
        assert_eq!(listener.local_addr(), before.local_addr());
        inherited.push(listener);
    }
    second.ready().await.unwrap();
}
