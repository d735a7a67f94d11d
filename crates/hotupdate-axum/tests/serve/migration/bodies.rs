//! The body of a request is on its way, or it is not read: it is never taken for the next request.
//!
//! Deliberately absent: bodies of responses, see [`super::in_flight`].

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::routing::{get, post};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Semaphore;

use super::HEAD;
use crate::server::{MIGRATING, Server, until, within};

#[tokio::test]
async fn a_body_that_is_being_sent_is_read_first() {
    for (header, pieces) in [
        ("Content-Length: 6", ["abc", "def"]),
        ("Transfer-Encoding: chunked", ["3\r\nabc\r\n3\r\nd", "ef\r\n0\r\n\r\n"]),
    ] {
        let server = Server::start(MIGRATING).await;
        let mut client = server.client().await;
        client.send(&format!("POST /echo HTTP/1.1\r\n{header}\r\n{HEAD}{}", pieces[0])).await;
        server.is_active().await;
        let new = server.hand_off_to(MIGRATING).await;
        client.send(pieces[1]).await;
        client.is_answered("abcdef").await;
        server.leaves_to(&new, 1).await;
        client.is_answered_by("new").await;
    }
}

#[tokio::test]
async fn a_client_that_waits_for_100_continue_gets_it() {
    let server = Server::start(MIGRATING).await;
    let mut client = server.client().await;
    client.send(&format!("POST /echo HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 3\r\n{HEAD}")).await;
    assert_eq!(client.until("\r\n\r\n").await, "HTTP/1.1 100 Continue");
    let new = server.hand_off_to(MIGRATING).await;
    client.send("abc").await;
    client.is_answered("abc").await;
    server.leaves_to(&new, 1).await;
    // And one whose head came to the new version only in part.
    client.send("POST /echo HTTP/1.1\r\nExpect: 100-con").await;
    let newer = new.hand_off_to(MIGRATING).await;
    new.leaves_to(&newer, 1).await;
    client.send(&format!("tinue\r\nContent-Length: 3\r\n{HEAD}")).await;
    assert_eq!(client.until("\r\n\r\n").await, "HTTP/1.1 100 Continue");
    client.send("def").await;
    client.is_answered("def").await;
}

/// What a handler has taken and not read.
type Shelf = Arc<Mutex<Vec<Body>>>;

/// Routes that would be met by a body that is taken for a request.
fn trap(router: Router<Arc<Semaphore>>, trapped: &Arc<AtomicU64>, shelf: &Shelf) -> Router<Arc<Semaphore>> {
    let (trapped, shelf) = (trapped.clone(), shelf.clone());
    router
        .route("/trap", get(move || async move { trapped.fetch_add(1, Relaxed).to_string() }))
        .route(
            "/shelve",
            post(move |body: Body| async move {
                shelf.lock().unwrap().push(body);
                "shelved"
            }),
        )
        .route("/first", post(|body: Body| async move { first(body).await }))
}

/// The first piece of a body; the rest of it is dropped unread.
async fn first(body: Body) -> Bytes {
    let mut data = body.into_data_stream();
    futures_util::StreamExt::next(&mut data).await.unwrap().unwrap()
}

/// The handler is done with a body that has not come to its end: whatever happens, the rest is no request.
#[tokio::test]
async fn the_rest_of_a_body_that_was_not_read_is_never_a_request() {
    let bait = format!("GET /trap HTTP/1.1\r\n{HEAD}");
    let chunk = format!("{:x}\r\n{bait}\r\n", bait.len());
    for path in ["/ignore", "/shelve", "/first"] {
        for (length, piece, end) in [
            (format!("Content-Length: {}", 2 * bait.len()), &bait, ""),
            ("Transfer-Encoding: chunked".to_owned(), &chunk, "0\r\n\r\n"),
        ] {
            for complete in [false, true] {
                let (trapped, shelf) = (Arc::new(AtomicU64::new(0)), Shelf::default());
                let server = Server::start_with(MIGRATING, |router| trap(router, &trapped, &shelf)).await;
                let mut client = server.client().await;
                client.send(&format!("POST {path} HTTP/1.1\r\n{length}\r\n{HEAD}{piece}")).await;
                if complete {
                    client.send(&format!("{piece}{end}")).await;
                }
                until(|| server.hot.connections().requests() == 1).await;
                if path == "/shelve" {
                    until(|| shelf.lock().unwrap().len() == 1).await;
                }
                let new = server.hand_off_with(MIGRATING, |router| trap(router, &trapped, &shelf)).await;
                if path == "/shelve" {
                    assert_eq!(new.hot.connections().adopted(), 0, "a body that is held is in flight");
                    // Dropped in another thread than the connection's.
                    let shelf = shelf.clone();
                    std::thread::spawn(move || shelf.lock().unwrap().clear()).join().unwrap();
                }
                if !complete {
                    // It may be closed by now.
                    let _ = client.stream.write_all(format!("{piece}{end}").as_bytes()).await;
                }
                assert!(client.until("\r\n\r\n").await.starts_with("HTTP/1.1 200"));
                // Closed, as without a migration, or kept: then it is the new version's, and in step.
                let mut rest = Vec::new();
                let _ = client
                    .stream
                    .write_all(format!("GET / HTTP/1.1\r\nConnection: close\r\n{HEAD}").as_bytes())
                    .await;
                let _ = within(client.stream.read_to_end(&mut rest)).await;
                drop(client);
                assert_eq!(server.drained().await, 0);
                assert_eq!(trapped.load(Relaxed), 0, "{path} {length} {complete}: smuggled");
            }
        }
    }
}

/// A body that is all there is read past by hyper, in whichever thread and at whichever moment it is let go.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_let_go_in_the_moment_of_the_migration() {
    for _ in 0..20 {
        let (trapped, shelf) = (Arc::new(AtomicU64::new(0)), Shelf::default());
        let server = Server::start_with(MIGRATING, |router| trap(router, &trapped, &shelf)).await;
        let bait = format!("GET /trap HTTP/1.1\r\n{HEAD}");
        let mut clients = Vec::new();
        for _ in 0..10 {
            let mut client = server.client().await;
            client
                .send(&format!("POST /shelve HTTP/1.1\r\nContent-Length: {}\r\n{HEAD}{bait}", bait.len()))
                .await;
            client.is_answered("shelved").await;
            clients.push(client);
        }
        let letting_go = {
            let shelf = shelf.clone();
            std::thread::spawn(move || {
                for body in std::mem::take(&mut *shelf.lock().unwrap()) {
                    drop(body);
                    std::thread::yield_now();
                }
            })
        };
        let new = server.hand_off_with(MIGRATING, |router| trap(router, &trapped, &shelf)).await;
        letting_go.join().unwrap();
        server.leaves_to(&new, 10).await;
        for client in &mut clients {
            client.is_answered_by("new").await;
        }
        assert_eq!(trapped.load(Relaxed), 0);
    }
}
