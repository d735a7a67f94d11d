//! Connections over TLS that migrate: their clients see nothing, and shake hands once.

use std::sync::Arc;
use std::time::Duration;

use hotupdate_axum::tls::Tls;
use hotupdate_axum::tls::rustls::{ClientConfig, HandshakeKind};
use tokio::io::AsyncWriteExt as _;

use super::world::{Http2Client, Identity, Secure, SecureClient, kinds};
use crate::server::{MIGRATING, Times, until, within};

struct World {
    identity: Identity,
    config: Arc<ClientConfig>,
}

impl World {
    fn new() -> Self {
        let identity = Identity::new();
        let config = Arc::new(identity.client());
        Self { identity, config }
    }

    fn tls(&self) -> Tls {
        Tls::new(self.identity.server()).move_connections(true)
    }

    async fn start(&self) -> (Secure, SecureClient) {
        let old = Secure::start(MIGRATING, self.tls()).await;
        let client = old.client(&self.config).await;
        (old, client)
    }

    async fn moves(&self, old: Secure, version: &'static str) -> Secure {
        let new = old.hand_off(version, MIGRATING, self.tls()).await;
        until(|| new.hot.connections().adopted() == 1).await;
        assert_eq!(old.drained().await, 0);
        new
    }
}

#[tokio::test]
async fn between_requests_with_every_suite_and_again_and_again() {
    let identity = Identity::new();
    for (provider, version) in kinds() {
        let tls = || Tls::new(identity.server_with(provider.clone())).move_connections(true);
        let mut old = Secure::start(MIGRATING, tls()).await;
        let mut client = old.client(&Arc::new(identity.client_with(provider.clone(), version))).await;
        client.is_answered_by("old").await;
        let (protocol, info) = (old.protocol(), client.get("/info").await.body);
        for generation in ["second", "third", "fourth"] {
            let new = old.hand_off(generation, MIGRATING, tls()).await;
            until(|| new.hot.connections().adopted() == 1).await;
            assert_eq!(old.drained().await, 0);
            client.is_answered_by(generation).await;
            assert_eq!(client.get("/info").await.body, info);
            assert_eq!(new.protocol(), protocol);
            assert_eq!(client.get("/large").await.body.len(), 1_000_000);
            old = new;
        }
        assert_eq!(client.handshake(), HandshakeKind::Full, "and there was no other");
    }
}

#[tokio::test]
async fn http2() {
    let world = World::new();
    let mut old = Secure::start(MIGRATING, world.tls()).await;
    let mut client = Http2Client::connect(&old, world.identity.client()).await;
    assert_eq!(client.get("/").await, "old");
    let (protocol, info) = (old.protocol(), client.get("/info").await);
    for version in ["second", "third"] {
        old = world.moves(old, version).await;
        assert_eq!(client.get("/").await, version);
        assert_eq!((client.get("/info").await, old.protocol()), (info.clone(), protocol.clone()));
        assert_eq!(client.get("/large").await.len(), 1_000_000);
    }
    client.leave().await;
}

#[tokio::test]
async fn http2_while_streams_are_open() {
    let world = World::new();
    let old = Secure::start(MIGRATING, world.tls()).await;
    let mut client = Http2Client::connect(&old, world.identity.client()).await;
    let info = client.get("/info").await;
    let (body, answer) = client.upload();
    body.send("first".into()).unwrap();
    until(|| old.hot.connections().summary().active == 1).await;
    let new = old.hand_off("new", MIGRATING, world.tls()).await;
    until(|| new.hot.connections().adopted() == 1).await;
    assert_eq!((client.get("/").await.as_str(), client.get("/info").await), ("new", info));
    assert_eq!(client.get("/large").await.len(), 1_000_000);
    let large = vec![7; 100_000];
    for _ in 0..10 {
        body.send(large.clone().into()).unwrap();
    }
    drop(body);
    assert_eq!(within(answer).await.unwrap(), "1000005");
    let totals = old.hot.connections().totals();
    assert_eq!((totals.relayed, totals.goaways.sum()), (1, 0));
    assert_eq!(old.drained().await, 0);
    assert_eq!((client.get("/").await.as_str(), new.protocol().as_str()), ("new", "tls1.3+h2"));
    client.leave().await;
}

#[tokio::test]
async fn before_the_first_request() {
    let world = World::new();
    let (old, mut client) = world.start().await;
    until(|| old.protocol() == "tls1.3").await;
    let new = world.moves(old, "new").await;
    client.is_answered_by("new").await;
    assert_eq!(new.protocol(), "tls1.3+http/1.1");
}

/// With half a head, which was decrypted, and half a record, which was not.
#[tokio::test]
async fn in_the_middle_of_a_head_and_of_a_record() {
    let world = World::new();
    let (old, mut client) = world.start().await;
    client.is_answered_by("old").await;
    client.send("GET / HT").await;
    let (mut tcp, mut tls) = client.stream.into_inner();
    std::io::Write::write_all(&mut tls.writer(), b"TP/1.1\r\nHost: test\r\n\r\n").unwrap();
    let mut record = Vec::new();
    tls.write_tls(&mut record).unwrap();
    let (begin, end) = record.split_at(record.len() / 2);
    tcp.write_all(begin).await.unwrap();
    let new = world.moves(old, "new").await;
    tcp.write_all(end).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"new") {
        tcp.readable().await.unwrap();
        let mut bytes = [0; 4096];
        let Ok(length) = tcp.try_read(&mut bytes) else { continue };
        let mut bytes = &bytes[..length];
        while !bytes.is_empty() {
            tls.read_tls(&mut bytes).unwrap();
            tls.process_new_packets().unwrap();
        }
        let _ = std::io::Read::read_to_end(&mut tls.reader(), &mut answer);
    }
    assert!(answer.starts_with(b"HTTP/1.1 200 OK"));
    drop(new);
}

#[tokio::test]
async fn an_upload_is_finished_where_it_began_and_the_next_request_is_not() {
    let world = World::new();
    let (old, mut client) = world.start().await;
    let body = "x".repeat(200_000);
    client
        .send(&format!("POST /upload HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n", body.len()))
        .await;
    client.send(&body[..100_000]).await;
    until(|| old.hot.connections().summary().active == 1).await;
    let new = old.hand_off("new", MIGRATING, world.tls()).await;
    client.send(&body[100_000..]).await;
    let answer = client.answer().await;
    assert_eq!((answer.body.as_str(), answer.says_close()), ("200000", false));
    until(|| new.hot.connections().adopted() == 1).await;
    client.is_answered_by("new").await;
    assert_eq!(old.drained().await, 0);
}

#[tokio::test]
async fn pipelined_requests_are_answered_by_both_and_in_order() {
    let world = World::new();
    let (old, mut client) = world.start().await;
    client.is_answered_by("old").await;
    let new = old.hand_off("new", MIGRATING, world.tls()).await;
    let requests = 50;
    client.send(&"GET / HTTP/1.1\r\nHost: test\r\n\r\n".repeat(requests)).await;
    let mut answers = Vec::new();
    for _ in 0..requests {
        answers.push(client.answer().await.body);
    }
    assert!(answers.is_sorted_by_key(|version| version == "new"), "{answers:?}");
    until(|| new.hot.connections().adopted() == 1).await;
    client.is_answered_by("new").await;
    assert_eq!(old.drained().await, 0);
}

#[tokio::test]
async fn back_at_a_rollback() {
    let world = World::new();
    let times = Times { probation: Duration::from_secs(60), ..MIGRATING };
    let old = Secure::start(times, world.tls()).await;
    let mut client = old.client(&world.config).await;
    client.is_answered_by("old").await;
    let new = old.hand_off("new", times, world.tls()).await;
    until(|| new.hot.connections().adopted() == 1).await;
    client.is_answered_by("new").await;
    old.roll_back().await;
    until(|| old.hot.connections().adopted() == 1).await;
    client.is_answered_by("old").await;
    assert_eq!(client.handshake(), HandshakeKind::Full);
}

/// The client asks for other keys, before a migration and after it.
#[tokio::test]
async fn keys_change() {
    let world = World::new();
    let (mut old, mut client) = world.start().await;
    for version in ["second", "third"] {
        client.stream.get_mut().1.refresh_traffic_keys().unwrap();
        client.is_answered_by(if version == "second" { "old" } else { "second" }).await;
        client.stream.get_mut().1.refresh_traffic_keys().unwrap();
        client.stream.flush().await.unwrap();
        old = world.moves(old, version).await;
        client.is_answered_by(version).await;
    }
}
