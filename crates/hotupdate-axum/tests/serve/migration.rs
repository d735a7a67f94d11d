//! HTTP/1.1 connections that migrate to the next version while their clients see nothing.
//!
//! Deliberately absent: servers that migrate none, see [`crate::http1`] and [`crate::idle`]; streams of
//! requests that no test has thought of, see [`crate::any_stream`].

mod bodies;
mod in_flight;
mod stays;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use tokio::io::AsyncReadExt as _;

use crate::client::Client;
use crate::server::{LONG, MIGRATING, Server, Times, until, within};

const HEAD: &str = "Host: test\r\n\r\n";

impl Server {
    /// Everything has left this version for `new`, and it was told to none.
    async fn leaves_to(self, new: &Self, migrated: u64) {
        until(|| new.hot.connections().adopted() == migrated).await;
        assert_eq!(self.drained().await, 0);
    }

    async fn is_active(&self) {
        until(|| self.hot.connections().summary().active == 1).await;
    }
}

impl Client {
    /// The next request is answered by this version, and the connection is kept.
    async fn is_answered_by(&mut self, version: &str) {
        let answer = self.get("/").await;
        assert_eq!((answer.body.as_str(), answer.says_close()), (version, false));
    }

    async fn is_answered(&mut self, body: &str) {
        let answer = self.answer().await;
        assert_eq!((answer.body.as_str(), answer.says_close()), (body, false));
    }
}

#[tokio::test]
async fn between_requests() {
    let server = Server::start(MIGRATING).await;
    let mut client = server.client().await;
    client.is_answered_by("old").await;
    let before = server.hot.connections().rows().remove(0);
    let new = server.hand_off_to(MIGRATING).await;
    server.leaves_to(&new, 1).await;
    let after = new.hot.connections().rows().remove(0);
    assert_eq!((&after.peer, &after.local, &after.listener), (&before.peer, &before.local, &before.listener));
    assert!(after.age_ms >= before.age_ms && after.requests == 1, "its history goes on: {after:?}");
    let peer = client.get("/peer").await;
    assert_eq!(peer.body, client.stream.local_addr().unwrap().to_string(), "the address goes on too");
    client.is_answered_by("new").await;
}

#[tokio::test]
async fn never_a_byte() {
    let server = Server::start(MIGRATING).await;
    let mut client = server.client().await;
    until(|| server.hot.connections().summary().idle == 1).await;
    let new = server.hand_off_to(MIGRATING).await;
    server.leaves_to(&new, 1).await;
    client.is_answered_by("new").await;
}

#[tokio::test]
async fn half_a_preface() {
    let server = Server::start(MIGRATING).await;
    let (mut http1, mut http2) = (server.client().await, server.client().await);
    http1.send("P").await;
    http2.send("PRI * HTTP/2.0\r\n").await;
    until(|| server.hot.connections().summary().idle == 2).await;
    let new = server.hand_off_to(MIGRATING).await;
    server.leaves_to(&new, 2).await;
    http1.send(&format!("OST /echo HTTP/1.1\r\nContent-Length: 3\r\n{HEAD}abc")).await;
    http1.is_answered("abc").await;
    http2.send("\r\nSM\r\n\r\n").await;
    let mut settings = [0; 4];
    within(http2.stream.read_exact(&mut settings)).await.unwrap();
    assert_eq!(settings[3], 4, "the new version speaks HTTP/2: SETTINGS come first (RFC 9113, section 6.5)");
}

#[tokio::test]
async fn a_second_request_is_never_taken_for_http2() {
    let server = Server::start(MIGRATING).await;
    let mut client = server.client().await;
    client.is_answered_by("old").await;
    client.send("PRI").await;
    let new = server.hand_off_to(MIGRATING).await;
    server.leaves_to(&new, 1).await;
    client.send(" * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    // As without a migration: hyper has no answer to that. HTTP/2 would begin with SETTINGS.
    client.ends().await;
}

/// One connection for each place at which the stream can be cut by the handoff.
#[tokio::test]
async fn half_a_head_or_pipelined_requests_cut_anywhere() {
    let stream = format!(
        "\r\nPOST /echo HTTP/1.1\r\nContent-Length: 3\r\n{HEAD}abcGET /same HTTP/1.1\r\n{HEAD}\
         POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n{HEAD}2\r\nde\r\n1\r\nf\r\n0\r\n\r\n"
    );
    let server = Server::start(MIGRATING).await;
    let mut clients = Vec::new();
    for cut in 0..=stream.len() {
        let mut client = server.client().await;
        client.send(&stream[..cut]).await;
        clients.push((client, cut));
    }
    until(|| server.hot.connections().rows().len() == clients.len()).await;
    let new = server.hand_off_to(MIGRATING).await;
    for (client, cut) in &mut clients {
        client.send(&stream[*cut..]).await;
        client.is_answered("abc").await;
        client.is_answered("same").await;
        client.is_answered("def").await;
    }
    let migrated = clients.len().try_into().unwrap();
    server.leaves_to(&new, migrated).await;
    for (client, _) in &mut clients {
        client.is_answered_by("new").await;
    }
}

#[tokio::test]
async fn a_rollback_migrates_them_back() {
    let server = Server::start(Times { probation: LONG, ..MIGRATING }).await;
    let (mut idle, mut half) = (server.client().await, server.client().await);
    idle.is_answered_by("old").await;
    half.send("GET / HT").await;
    let new = server.hand_off_to(MIGRATING).await;
    until(|| new.hot.connections().adopted() == 2).await;
    idle.is_answered_by("new").await;
    server.roll_back().await;
    until(|| server.hot.connections().adopted() == 2).await;
    until(|| new.hot.connections().rows().is_empty()).await;
    idle.is_answered_by("old").await;
    half.send(&format!("TP/1.1\r\n{HEAD}")).await;
    half.is_answered("old").await;
}

/// Clients that always ask, so that some of them ask in the very moment of each migration.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_handoffs_under_busy_clients() {
    let mut server = Server::start(MIGRATING).await;
    let (address, stop) = (server.address, Arc::new(AtomicBool::new(false)));
    let clients: Vec<_> = (0..16).map(|n| tokio::spawn(busy(address, n, stop.clone()))).collect();
    for _ in 0..100 {
        let new = server.hand_off_to(MIGRATING).await;
        assert_eq!(server.drained().await, 0);
        server = new;
    }
    stop.store(true, Relaxed);
    let mut answered = 0;
    for client in clients {
        answered += client.await.unwrap();
    }
    assert!(answered > 1000, "{answered}");
}

/// One connection, for ever: any other end than `stop` fails.
async fn busy(address: SocketAddr, number: u64, stop: Arc<AtomicBool>) -> u64 {
    let mut client = Client::connect(address).await;
    let peer = client.stream.local_addr().unwrap().to_string();
    let mut answered = 0;
    while !stop.load(Relaxed) {
        let body = format!("{number}:{answered}");
        client
            .send(&format!(
                "GET /peer HTTP/1.1\r\n{HEAD}POST /echo HTTP/1.1\r\nContent-Length: {}\r\n{HEAD}{body}",
                body.len()
            ))
            .await;
        client.is_answered(&peer).await;
        client.is_answered(&body).await;
        answered += 2;
    }
    answered
}
