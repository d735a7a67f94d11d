//! Any stream of requests, cut anywhere by migrations: the bytes of the answers are those of a connection
//! that stays.
//!
//! Deliberately absent: bodies that their handler does not read. Whether their connection is closed depends
//! on how much of them has arrived, with or without a migration.

use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::client::Client;
use crate::server::{MIGRATING, Server, within};

/// One request as it goes over the wire.
fn request() -> impl Strategy<Value = Vec<u8>> {
    let body = prop::collection::vec(
        prop_oneof![Just(b"GET / HTTP/1.1\r\n\r\n".to_vec()), any::<[u8; 5]>().prop_map(Vec::from)],
        0..4,
    );
    let version = prop_oneof![4 => Just("HTTP/1.1\r\n"), 1 => Just("HTTP/1.0\r\nConnection: keep-alive\r\n")];
    prop_oneof![
        version.prop_map(|version| format!("GET /same {version}Host: test\r\n\r\n").into_bytes()),
        Just(b"HEAD /same HTTP/1.1\r\nHost: test\r\n\r\n".to_vec()),
        Just(b"\r\nGET /nowhere HTTP/1.1\r\nHost: test\r\n\r\n".to_vec()),
        body.clone().prop_map(|body| {
            let body = body.concat();
            let head =
                format!("POST /bytes HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n", body.len());
            [head.as_bytes(), &body].concat()
        }),
        body.prop_map(|chunks| {
            let mut request =
                b"POST /bytes HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
            for chunk in chunks {
                request.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                request.extend_from_slice(&chunk);
                request.extend_from_slice(b"\r\n");
            }
            request.extend_from_slice(b"0\r\n\r\n");
            request
        }),
    ]
}

/// A stream, and where it is cut: at each cut another version takes over, and the rest follows at once or
/// after the migration.
fn stream() -> impl Strategy<Value = (Vec<u8>, Vec<(prop::sample::Index, bool)>)> {
    let requests = prop::collection::vec(request(), 1..8).prop_map(|requests| {
        let mut stream = requests.concat();
        stream.extend_from_slice(b"GET /same HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        stream
    });
    (requests, prop::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 1..4))
}

#[test]
fn is_answered_as_if_nothing_had_migrated() {
    let config = Config { cases: 40, failure_persistence: None, ..Config::default() };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let migrated = std::sync::atomic::AtomicU64::new(0);
    proptest!(config, |((stream, cuts) in stream())| {
        let mut cuts: Vec<_> = cuts.iter().map(|(cut, waits)| (cut.index(stream.len()), *waits)).collect();
        cuts.sort_unstable();
        let (stays, migrates, how_often) = runtime.block_on(both(&stream, &cuts));
        migrated.fetch_add(how_often, std::sync::atomic::Ordering::Relaxed);
        if stays != migrates {
            let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
            return Err(TestCaseError::fail(format!("{cuts:?}\n{}\n----\n{}", text(&stays), text(&migrates))));
        }
    });
    assert!(migrated.into_inner() > 10, "hardly anything has migrated");
}

/// The answers to the same bytes, without a migration and with one at each cut.
async fn both(stream: &[u8], cuts: &[(usize, bool)]) -> (Vec<u8>, Vec<u8>, u64) {
    let mut server = Server::start(MIGRATING).await;
    let mut unmoved = server.client().await;
    unmoved.stream.write_all(stream).await.unwrap();
    let stays = to_end(&mut unmoved).await;
    drop(unmoved);

    let mut client = server.client().await;
    let (mut sent, mut migrated) = (0, 0);
    for (cut, waits) in cuts {
        client.stream.write_all(&stream[sent..*cut]).await.unwrap();
        sent = *cut;
        let new = server.hand_off_to(MIGRATING).await;
        if *waits {
            // Long enough to migrate, unless the cut is in a body.
            let gone = server.hot.connections().wait_until_empty();
            let _ = tokio::time::timeout(Duration::from_millis(200), gone).await;
        }
        migrated += server.hot.connections().migrated();
        server = new;
    }
    client.stream.write_all(&stream[sent..]).await.unwrap();
    let migrates = to_end(&mut client).await;
    (stays, migrates, migrated)
}

/// Everything up to the end, without what depends on the time.
async fn to_end(client: &mut Client) -> Vec<u8> {
    let mut bytes = Vec::new();
    within(client.stream.read_to_end(&mut bytes)).await.unwrap();
    let lines: Vec<_> =
        bytes.split_inclusive(|byte| *byte == b'\n').filter(|line| !line.starts_with(b"date: ")).collect();
    lines.concat()
}
