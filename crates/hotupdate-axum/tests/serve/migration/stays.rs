//! Connections that cannot migrate, between those that can.
//!
//! Deliberately absent: those that a body holds back, see [`super::bodies`].

use super::HEAD;
use crate::server::{MIGRATING, PATIENT, Server, until, within};

#[tokio::test]
async fn a_client_that_asked_to_close_is_closed_and_http10_migrates_if_it_keeps_alive() {
    let server = Server::start(MIGRATING).await;
    let (mut closes, mut old, mut kept) =
        (server.client().await, server.client().await, server.client().await);
    closes.send(&format!("GET /held HTTP/1.1\r\nConnection: close\r\n{HEAD}")).await;
    old.send(&format!("GET /held HTTP/1.0\r\n{HEAD}")).await;
    kept.send(&format!("GET / HTTP/1.0\r\nConnection: keep-alive\r\n{HEAD}")).await;
    assert!(kept.answer().await.head.contains("connection: keep-alive"));
    until(|| server.hot.connections().summary().active == 2).await;
    let new = server.hand_off_to(MIGRATING).await;
    server.release.add_permits(2);
    assert!(closes.answer().await.says_close());
    closes.ends().await;
    assert_eq!(old.answer().await.body, "old");
    old.ends().await;
    drop((closes, old));
    server.leaves_to(&new, 1).await;
    kept.send(&format!("GET / HTTP/1.0\r\nConnection: keep-alive\r\n{HEAD}")).await;
    assert_eq!(kept.answer().await.body, "new");
}

#[tokio::test]
async fn a_successor_that_does_not_know_of_migration() {
    let server = Server::start(MIGRATING).await;
    let mut client = server.client().await;
    client.is_answered_by("old").await;
    let new = server.hand_off_to(PATIENT).await;
    let answer = client.get("/").await;
    assert_eq!((answer.body.as_str(), answer.says_close()), ("old", true));
    client.ends().await;
    drop(client);
    assert_eq!(server.drained().await, 0);
    assert_eq!(new.hot.connections().adopted(), 0);
}

#[tokio::test]
async fn a_successor_that_accepts_those_of_another_listener() {
    let server = Server::start(MIGRATING).await;
    let mut client = server.client().await;
    client.is_answered_by("old").await;
    let (_listener, mut starting) = server.successor(MIGRATING).await;
    starting.on_migrated_bytes("http/1.1", Some("another"), |_| None).unwrap();
    let new = starting.ready().await.unwrap();
    within(server.hot.drain().started()).await;
    while !client.get("/").await.says_close() {}
    client.ends().await;
    drop(client);
    assert_eq!(server.drained().await, 0);
    assert_eq!(new.connections().adopted(), 0);
}

#[tokio::test]
async fn a_head_that_is_too_long_to_migrate_stays() {
    let server = Server::start(MIGRATING).await;
    let mut client = server.client().await;
    let long = "x".repeat(hotupdate::connections::MAX_STATE);
    client.send(&format!("GET / HTTP/1.1\r\nLong: {long}")).await;
    until(|| server.hot.connections().rows().first().is_some_and(|row| row.protocol == "http/1.1")).await;
    let new = server.hand_off_to(MIGRATING).await;
    assert_eq!(new.client().await.get("/").await.body, "new");
    client.send(&format!("\r\n{HEAD}")).await;
    let answer = client.answer().await;
    assert_eq!(answer.body, "old");
    assert!(answer.says_close());
    client.ends().await;
    drop(client);
    assert_eq!(server.drained().await, 0);
}
