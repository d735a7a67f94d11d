//! Moments that real processes meet too seldom for a test, on a table of connections without a process.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use hotupdate::testing::Table;
use http::{Request, Response};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::Semaphore;

use crate::http2;
use crate::server::{until, within};

async fn same(_: Request<Body>) -> Result<Response<Body>, Infallible> {
    Ok(Response::new(Body::from("same")))
}

/// Everything that was sent until now is known to the runtime: what comes later over another socket has
/// arrived.
async fn is_noticed() {
    let (mut from, mut to) = UnixStream::pair().unwrap();
    from.write_all(b"!").await.unwrap();
    within(to.read_exact(&mut [0])).await.unwrap();
}

/// The version that was to take a connection is dead, and another one is there before the connection knows
/// either.
#[tokio::test]
async fn a_connection_that_comes_back_may_still_leave_for_the_next_version() {
    let mut old = Table::new();
    let (mut client, server) = UnixStream::pair().unwrap();
    let connection = old.accept("http", server);
    tokio::spawn(hotupdate_axum::serve_one(connection, None, tower::service_fn(same)));
    old.drain();
    old.takes(&["http/1.1"]);
    until(|| old.has_leaving()).await;
    client.write_all(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n").await.unwrap();
    is_noticed().await;
    old.serve_again();
    old.drain();
    let mut answer = [0; 1024];
    let n = within(client.read(&mut answer)).await.unwrap();
    let answer = String::from_utf8_lossy(&answer[..n]);
    assert!(answer.ends_with("same") && !answer.contains("connection: close"), "{answer}");

    old.takes(&["http/1.1"]);
    until(|| old.has_leaving()).await;
    let new = Table::new();
    let (connection, state) = old.migrate_to(&new).unwrap().remove(0);
    tokio::spawn(hotupdate_axum::serve_one(connection, Some(state), tower::service_fn(same)));
    client.write_all(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    within(client.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.ends_with("same"), "{answer}");
    assert_eq!((old.connections().migrated(), new.connections().requests()), (1, 1));
}

/// Between two requests, before the first one, and with half a head: the client notices nothing.
#[tokio::test]
async fn a_connection_that_rests_answers_when_its_client_is_back() {
    let table = Table::new();
    let (mut client, server) = UnixStream::pair().unwrap();
    let connection = table.accept("http", server);
    let activity = connection.activity();
    tokio::spawn(hotupdate_axum::serve_one(connection, None, tower::service_fn(same)));
    for piece in ["GET / HTTP/1.1\r\nHost: test\r\n\r\n", "GET / HT", "TP/1.1\r\nHost: test\r\n\r\n"] {
        table.rest();
        assert_eq!(activity.rests(), activity.requests() == 1 && !activity.has_begun_head());
        until(|| !activity.rests()).await;
        client.write_all(piece.as_bytes()).await.unwrap();
        if piece.ends_with("\r\n\r\n") {
            let mut answer = [0; 1024];
            let n = within(client.read(&mut answer)).await.unwrap();
            assert!(answer[..n].ends_with(b"same"));
            until(|| !activity.is_busy()).await;
        } else {
            until(|| activity.has_begun_head()).await;
        }
    }
    assert_eq!(table.connections().requests(), 2);
}

/// The version that was to take the connection dies while it is on its way without its streams.
#[tokio::test]
async fn a_connection_comes_back_to_its_streams() {
    let release = Arc::new(Semaphore::new(0));
    let app = {
        let release = release.clone();
        tower::service_fn(move |request: Request<Body>| {
            let release = release.clone();
            async move {
                if request.uri().path() == "/held" {
                    release.acquire().await.unwrap().forget();
                }
                Ok::<_, Infallible>(Response::new(Body::from("same")))
            }
        })
    };
    let mut old = Table::new();
    let (client, server) = UnixStream::pair().unwrap();
    tokio::spawn(hotupdate_axum::serve_one(old.accept("http", server), None, app));
    let mut client = http2::Client::over(client).await;
    let held = tokio::spawn(client.get("/held"));
    until(|| old.connections().summary().active == 1).await;
    for _ in 0..3 {
        old.drain();
        old.takes(&["h2", "h2/relayed"]);
        until(|| old.has_leaving()).await;
        let waits = tokio::spawn(client.get("/"));
        old.serve_again();
        assert_eq!(http2::text(within(waits).await.unwrap().unwrap()).await, "same");
    }
    release.add_permits(1);
    assert_eq!(http2::text(within(held).await.unwrap().unwrap()).await, "same");
    let totals = old.connections().totals();
    assert_eq!((totals.relayed, totals.requests, totals.goaways.sum()), (0, 4, 0));
    assert!(!client.requests.is_closed());
}
