//! Idle clients: left alone for the grace, then closed without a reset, and never in the way of a drain.
//!
//! Deliberately absent: clients that ask, see [`crate::http1`].

use std::time::Instant;

use tokio::io::AsyncWriteExt as _;

use crate::server::{BRISK, PATIENT, SHORT, Server, Times, until};

/// A drain that begins now closes this client after the grace, and is over then.
async fn closes_after_the_grace(server: Server, client: &mut crate::client::Client) {
    let began = Instant::now();
    let _new = server.hand_off().await;
    client.ends().await;
    assert!(began.elapsed() >= SHORT, "closed after {:?}", began.elapsed());
    client.stream.shutdown().await.unwrap();
    assert_eq!(server.drained().await, 0);
}

#[tokio::test]
async fn between_requests() {
    let server = Server::start(BRISK).await;
    let mut client = server.client().await;
    client.get("/").await;
    closes_after_the_grace(server, &mut client).await;
}

#[tokio::test]
async fn never_a_byte() {
    let server = Server::start(BRISK).await;
    let mut client = server.client().await;
    until(|| server.hot.connections().summary().idle == 1).await;
    closes_after_the_grace(server, &mut client).await;
}

#[tokio::test]
async fn half_a_head() {
    let server = Server::start(BRISK).await;
    let mut client = server.client().await;
    client.send("GET / HTTP/1.1\r\nHo").await;
    until(|| server.hot.connections().rows().first().is_some_and(|row| row.protocol == "http/1.1")).await;
    closes_after_the_grace(server, &mut client).await;
}

#[tokio::test]
async fn half_a_head_after_a_request() {
    let server = Server::start(BRISK).await;
    let mut client = server.client().await;
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\nGET / HTTP/1.1\r\nHo").await;
    client.answer().await;
    closes_after_the_grace(server, &mut client).await;
}

#[tokio::test]
async fn half_a_preface() {
    let server = Server::start(BRISK).await;
    let mut client = server.client().await;
    client.send("PRI * HT").await;
    until(|| server.hot.connections().summary().idle == 1).await;
    closes_after_the_grace(server, &mut client).await;
}

#[tokio::test]
async fn what_is_sent_into_a_closed_connection_meets_no_reset() {
    let server = Server::start(BRISK).await;
    let mut client = server.client().await;
    client.get("/").await;
    let _new = server.hand_off().await;
    client.ends().await;
    client.ask("/").await;
    client.ends().await;
    client.ask("/").await;
    client.ends().await;
    drop(client);
    assert_eq!(server.drained().await, 0);
}

#[tokio::test]
async fn silent_ones_are_not_forced_even_when_the_deadline_is_shorter_than_the_grace() {
    let times = Times { deadline: 12 * SHORT, ..PATIENT };
    let server = Server::start(times).await;
    let mut clients = [server.client().await, server.client().await];
    clients[0].get("/").await;
    until(|| server.hot.connections().summary().idle == 2).await;
    let _new = server.hand_off().await;
    for client in &mut clients {
        client.ends().await;
    }
    // They do not close their side: reading on ends before the deadline too.
    assert_eq!(server.drained().await, 0);
}

#[tokio::test]
async fn half_a_head_is_closed_in_time_and_silence_is_not() {
    let server = Server::start(Times { header: SHORT, ..PATIENT }).await;
    let (mut silent, mut half) = (server.client().await, server.client().await);
    silent.get("/").await;
    half.send("GET / HT").await;
    half.ends().await;
    assert_eq!(silent.get("/").await.body, "old");
}

#[tokio::test]
async fn a_head_sent_slowly_is_served_when_its_turn_comes() {
    let server = Server::start(BRISK).await;
    let (mut client, mut silent) = (server.client().await, server.client().await);
    client.get("/").await;
    silent.get("/").await;
    let _new = server.hand_off().await;
    // Begun within the grace, complete after it.
    client.send("GET / HT").await;
    silent.ends().await;
    client.send("TP/1.1\r\nHost: test\r\n\r\n").await;
    let answer = client.answer().await;
    assert_eq!((answer.body.as_str(), answer.says_close()), ("old", true));
    client.ends().await;
    drop((client, silent));
    assert_eq!(server.drained().await, 0);
}
