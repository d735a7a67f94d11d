//! Clients that pipeline without a pause: there is always a request in flight, and still they migrate.
//!
//! Deliberately absent: pipelines that end, see [`crate::migration`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use axum::Router;
use axum::routing::{get, post};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::Semaphore;

use crate::client::Client;
use crate::server::{MIGRATING, Server, until, within};

/// How many requests are always ahead of their answers.
const AHEAD: usize = 50;

fn request(number: usize) -> String {
    if number.is_multiple_of(2) {
        return format!("GET /at?{number} HTTP/1.1\r\nHost: test\r\n\r\n");
    }
    let body = format!("/at?{number}");
    format!("POST /slow-echo HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// Each answer takes its time, so that the client is always ahead.
async fn start(server: Option<&Server>) -> Server {
    let pause = || tokio::time::sleep(Duration::from_millis(1));
    let more = |router: Router<Arc<Semaphore>>| {
        let at = get(move |uri: http::Uri| async move {
            pause().await;
            uri.to_string()
        });
        let slow_echo = post(move |body: String| async move {
            pause().await;
            body
        });
        router.route("/at", at).route("/slow-echo", slow_echo)
    };
    match server {
        None => Server::start_with(MIGRATING, more).await,
        Some(old) => old.hand_off_with(MIGRATING, more).await,
    }
}

/// Until told to stop; returns how many requests were answered, each in its turn.
async fn pour(mut client: Client, stop: Arc<AtomicBool>) -> usize {
    let first: String = (0..AHEAD).map(request).collect();
    client.send(&first).await;
    let (mut asked, mut answered) = (AHEAD, 0);
    while answered < asked {
        let answer = client.answer().await;
        assert_eq!((answer.body, answer.head.contains("connection")), (format!("/at?{answered}"), false));
        answered += 1;
        if !stop.load(Relaxed) {
            client.stream.write_all(request(asked).as_bytes()).await.unwrap();
            asked += 1;
        }
    }
    answered
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_always_has_a_request_in_flight_migrates_all_the_same() {
    const HANDOFFS: usize = 10;
    let mut server = start(None).await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(tokio::spawn(pour(server.client().await, stop.clone())));
    }
    for _ in 0..HANDOFFS {
        let before = server.hot.connections().requests();
        until(|| server.hot.connections().requests() > before + 100).await;
        let new = start(Some(&server)).await;
        assert_eq!(server.drained().await, 0);
        server = new;
    }
    until(|| server.hot.connections().adopted() == 4).await;
    stop.store(true, Relaxed);
    for client in clients {
        assert!(within(client).await.unwrap() > 50 * HANDOFFS);
    }
}

/// A client that leaves while its request is in flight is noticed, also while what it could say is held back.
#[tokio::test]
async fn a_client_that_leaves_in_the_middle_does_not_hold_the_drain() {
    let server = Server::start(MIGRATING).await;
    let (_idle, mut client) = (server.client().await, server.client().await);
    client.ask("/held").await;
    until(|| server.hot.connections().summary().active == 1).await;
    let new = server.hand_off_to(MIGRATING).await;
    // The new version has said what it takes.
    until(|| new.hot.connections().adopted() == 1).await;
    drop(client);
    assert_eq!(server.drained().await, 0);
    assert_eq!(new.hot.connections().adopted(), 1);
}
