//! HTTP/1.1 connections that move to the next version while their clients see nothing.
//!
//! Deliberately absent: those that stay, see [`crate::http1`] and [`crate::idle`]; streams of requests that nobody has
//! thought of, see [`crate::any_stream`].

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::routing::{get, post};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Semaphore;

use crate::client::Client;
use crate::server::{LONG, MOVING, PATIENT, Server, Times, until, within};

const HEAD: &str = "Host: test\r\n\r\n";

impl Server {
    /// Everything has left this version for `new`, and it was told to none.
    async fn leaves_to(self, new: &Self, moved: u64) {
        until(|| new.hot.connections().adopted() == moved).await;
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
    let server = Server::start(MOVING).await;
    let mut client = server.client().await;
    client.is_answered_by("old").await;
    let before = server.hot.connections().rows().remove(0);
    let new = server.hand_off_to(MOVING).await;
    server.leaves_to(&new, 1).await;
    let after = new.hot.connections().rows().remove(0);
    assert_eq!((&after.peer, &after.local, &after.listener), (&before.peer, &before.local, &before.listener));
    assert_eq!((after.accepted_ms, after.requests), (before.accepted_ms, 1), "its history goes on");
    let peer = client.get("/peer").await;
    assert_eq!(peer.body, client.stream.local_addr().unwrap().to_string(), "ConnectInfo goes on too");
    client.is_answered_by("new").await;
}

#[tokio::test]
async fn never_a_byte() {
    let server = Server::start(MOVING).await;
    let mut client = server.client().await;
    until(|| server.hot.connections().summary().idle == 1).await;
    let new = server.hand_off_to(MOVING).await;
    server.leaves_to(&new, 1).await;
    client.is_answered_by("new").await;
}

#[tokio::test]
async fn half_a_preface() {
    let server = Server::start(MOVING).await;
    let (mut http1, mut http2) = (server.client().await, server.client().await);
    http1.send("P").await;
    http2.send("PRI * HTTP/2.0\r\n").await;
    until(|| server.hot.connections().summary().idle == 2).await;
    let new = server.hand_off_to(MOVING).await;
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
    let server = Server::start(MOVING).await;
    let mut client = server.client().await;
    client.is_answered_by("old").await;
    client.send("PRI").await;
    let new = server.hand_off_to(MOVING).await;
    server.leaves_to(&new, 1).await;
    client.send(" * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    // As without a move: hyper has no answer to that. HTTP/2 would begin with SETTINGS.
    client.ends().await;
}

/// One connection for each place at which the stream can be cut by the handoff.
#[tokio::test]
async fn half_a_head_or_pipelined_requests_cut_anywhere() {
    let stream = format!(
        "\r\nPOST /echo HTTP/1.1\r\nContent-Length: 3\r\n{HEAD}abcGET /same HTTP/1.1\r\n{HEAD}\
         POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n{HEAD}2\r\nde\r\n1\r\nf\r\n0\r\n\r\n"
    );
    let server = Server::start(MOVING).await;
    let mut clients = Vec::new();
    for cut in 0..=stream.len() {
        let mut client = server.client().await;
        client.send(&stream[..cut]).await;
        clients.push((client, cut));
    }
    until(|| server.hot.connections().rows().len() == clients.len()).await;
    let new = server.hand_off_to(MOVING).await;
    for (client, cut) in &mut clients {
        client.send(&stream[*cut..]).await;
        client.is_answered("abc").await;
        client.is_answered("same").await;
        client.is_answered("def").await;
    }
    let moved = clients.len().try_into().unwrap();
    server.leaves_to(&new, moved).await;
    for (client, _) in &mut clients {
        client.is_answered_by("new").await;
    }
}

#[tokio::test]
async fn a_request_in_flight_is_finished_first() {
    let server = Server::start(MOVING).await;
    let mut client = server.client().await;
    client.ask("/held").await;
    server.is_active().await;
    let new = server.hand_off_to(MOVING).await;
    assert_eq!(new.client().await.get("/").await.body, "new");
    assert_eq!(new.hot.connections().adopted(), 0);
    server.release.add_permits(1);
    client.is_answered("old").await;
    server.leaves_to(&new, 1).await;
    client.is_answered_by("new").await;
}

#[tokio::test]
async fn a_pipelined_request_behind_one_in_flight_is_answered() {
    let server = Server::start(MOVING).await;
    let mut client = server.client().await;
    client.ask("/held").await;
    server.is_active().await;
    client.send("GET /peer HTTP/1.1\r\nHost: test\r\n\r\nGET / HT").await;
    let new = server.hand_off_to(MOVING).await;
    server.release.add_permits(1);
    client.is_answered("old").await;
    client.is_answered(&client.stream.local_addr().unwrap().to_string()).await;
    server.leaves_to(&new, 1).await;
    client.send("TP/1.1\r\nHost: test\r\n\r\n").await;
    client.is_answered("new").await;
}

#[tokio::test]
async fn a_body_that_is_being_sent_is_read_first() {
    for (header, pieces) in [
        ("Content-Length: 6", ["abc", "def"]),
        ("Transfer-Encoding: chunked", ["3\r\nabc\r\n3\r\nd", "ef\r\n0\r\n\r\n"]),
    ] {
        let server = Server::start(MOVING).await;
        let mut client = server.client().await;
        client.send(&format!("POST /echo HTTP/1.1\r\n{header}\r\n{HEAD}{}", pieces[0])).await;
        server.is_active().await;
        let new = server.hand_off_to(MOVING).await;
        client.send(pieces[1]).await;
        client.is_answered("abcdef").await;
        server.leaves_to(&new, 1).await;
        client.is_answered_by("new").await;
    }
}

#[tokio::test]
async fn a_client_that_waits_for_100_continue_gets_it() {
    let server = Server::start(MOVING).await;
    let mut client = server.client().await;
    client.send(&format!("POST /echo HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 3\r\n{HEAD}")).await;
    assert_eq!(client.until("\r\n\r\n").await, "HTTP/1.1 100 Continue");
    let new = server.hand_off_to(MOVING).await;
    client.send("abc").await;
    client.is_answered("abc").await;
    server.leaves_to(&new, 1).await;
    // And one whose head came to the new version only in part.
    client.send("POST /echo HTTP/1.1\r\nExpect: 100-con").await;
    let newer = new.hand_off_to(MOVING).await;
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
async fn the_rest_of_a_body_that_nobody_read_is_never_a_request() {
    let bait = format!("GET /trap HTTP/1.1\r\n{HEAD}");
    let chunk = format!("{:x}\r\n{bait}\r\n", bait.len());
    for path in ["/ignore", "/shelve", "/first"] {
        for (length, piece, end) in [
            (format!("Content-Length: {}", 2 * bait.len()), &bait, ""),
            ("Transfer-Encoding: chunked".to_owned(), &chunk, "0\r\n\r\n"),
        ] {
            for complete in [false, true] {
                let (trapped, shelf) = (Arc::new(AtomicU64::new(0)), Shelf::default());
                let server = Server::start_with(MOVING, |router| trap(router, &trapped, &shelf)).await;
                let mut client = server.client().await;
                client.send(&format!("POST {path} HTTP/1.1\r\n{length}\r\n{HEAD}{piece}")).await;
                if complete {
                    client.send(&format!("{piece}{end}")).await;
                }
                until(|| server.hot.connections().requests() == 1).await;
                if path == "/shelve" {
                    until(|| shelf.lock().unwrap().len() == 1).await;
                }
                let new = server.hand_off_with(MOVING, |router| trap(router, &trapped, &shelf)).await;
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
                // Closed, as without a move, or kept: then it is the new version's, and in step.
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
async fn a_body_let_go_in_the_moment_of_the_move() {
    for _ in 0..20 {
        let (trapped, shelf) = (Arc::new(AtomicU64::new(0)), Shelf::default());
        let server = Server::start_with(MOVING, |router| trap(router, &trapped, &shelf)).await;
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
        let new = server.hand_off_with(MOVING, |router| trap(router, &trapped, &shelf)).await;
        letting_go.join().unwrap();
        server.leaves_to(&new, 10).await;
        for client in &mut clients {
            client.is_answered_by("new").await;
        }
        assert_eq!(trapped.load(Relaxed), 0);
    }
}

#[tokio::test]
async fn a_response_that_its_client_reads_slowly_comes_whole() {
    const LENGTH: usize = 16 << 20;
    let big = |router: Router<Arc<Semaphore>>| router.route("/big", get(|| async { vec![b'x'; LENGTH] }));
    let server = Server::start_with(MOVING, big).await;
    let mut client = server.client().await;
    client.ask("/big").await;
    assert!(client.until("\r\n\r\n").await.contains("content-length: 16777216"));
    let new = server.hand_off_to(MOVING).await;
    // The handler is done long ago; what it said is not.
    assert_eq!(new.client().await.get("/").await.body, "new");
    assert_eq!(server.hot.connections().rows().len(), 1);
    assert_eq!(client.exactly(LENGTH).await.bytes().filter(|byte| *byte == b'x').count(), LENGTH);
    server.leaves_to(&new, 1).await;
    client.is_answered_by("new").await;
}

#[tokio::test]
async fn a_stream_whose_head_went_out_before_is_finished_first() {
    async fn pieces(State(release): State<Arc<Semaphore>>) -> Body {
        Body::from_stream(futures_util::stream::unfold((release, 0), |(release, n)| async move {
            release.acquire().await.unwrap().forget();
            (n < 3).then(|| (Ok::<_, std::io::Error>(n.to_string()), (release, n + 1)))
        }))
    }
    let server = Server::start_with(MOVING, |router| router.route("/pieces", get(pieces))).await;
    let mut client = server.client().await;
    client.ask("/pieces").await;
    server.release.add_permits(1);
    assert!(!client.until("\r\n\r\n").await.contains("connection"));
    assert_eq!(client.chunk().await, "0");
    let new = server.hand_off_to(MOVING).await;
    server.release.add_permits(3);
    assert_eq!(client.chunks().await, "12");
    server.leaves_to(&new, 1).await;
    client.is_answered_by("new").await;
}

#[tokio::test]
async fn a_head_request_has_no_body_in_the_way() {
    let server = Server::start(MOVING).await;
    let mut client = server.client().await;
    client.send(&format!("HEAD / HTTP/1.1\r\n{HEAD}")).await;
    assert!(client.until("\r\n\r\n").await.contains("content-length: 3"));
    let new = server.hand_off_to(MOVING).await;
    server.leaves_to(&new, 1).await;
    client.is_answered_by("new").await;
}

#[tokio::test]
async fn who_asked_to_close_is_closed_and_http10_moves_if_it_keeps_alive() {
    let server = Server::start(MOVING).await;
    let (mut closes, mut old, mut kept) =
        (server.client().await, server.client().await, server.client().await);
    closes.send(&format!("GET /held HTTP/1.1\r\nConnection: close\r\n{HEAD}")).await;
    old.send(&format!("GET /held HTTP/1.0\r\n{HEAD}")).await;
    kept.send(&format!("GET / HTTP/1.0\r\nConnection: keep-alive\r\n{HEAD}")).await;
    assert!(kept.answer().await.head.contains("connection: keep-alive"));
    until(|| server.hot.connections().summary().active == 2).await;
    let new = server.hand_off_to(MOVING).await;
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
async fn a_successor_that_does_not_know_of_moves() {
    let server = Server::start(MOVING).await;
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

/// The next version picks up connections of another listener first, and of this one a moment later.
#[tokio::test]
async fn nobody_is_told_to_leave_before_the_new_version_has_said_everything() {
    let server = Server::start(MOVING).await;
    let mut client = server.client().await;
    client.is_answered_by("old").await;
    let new = server.starting_successor(MOVING).await;
    let (listener, hot) = new;
    hot.adopt_bytes("http/1.1", Some("another"), |_| None);
    within(server.hot.drain().started()).await;
    client.is_answered_by("old").await;
    let app = Router::new().route("/", get(|| async { "new" }));
    let _served =
        tokio::spawn(std::future::IntoFuture::into_future(hotupdate_axum::serve(listener, app, &hot)));
    until(|| hot.connections().adopted() == 1).await;
    assert_eq!(server.drained().await, 0);
    client.is_answered_by("new").await;
}

#[tokio::test]
async fn a_head_that_is_too_long_to_move_stays() {
    let server = Server::start(MOVING).await;
    let mut client = server.client().await;
    let long = "x".repeat(hotupdate::connection::MAX_STATE);
    client.send(&format!("GET / HTTP/1.1\r\nLong: {long}")).await;
    until(|| server.hot.connections().rows().first().is_some_and(|row| row.protocol == "http/1.1")).await;
    let new = server.hand_off_to(MOVING).await;
    assert_eq!(new.client().await.get("/").await.body, "new");
    client.send(&format!("\r\n{HEAD}")).await;
    let answer = client.answer().await;
    assert_eq!(answer.body, "old");
    assert!(answer.says_close());
    client.ends().await;
    drop(client);
    assert_eq!(server.drained().await, 0);
}

#[tokio::test]
async fn a_rollback_moves_them_back() {
    let server = Server::start(Times { probation: LONG, ..MOVING }).await;
    let (mut idle, mut half) = (server.client().await, server.client().await);
    idle.is_answered_by("old").await;
    half.send("GET / HT").await;
    let new = server.hand_off_to(MOVING).await;
    until(|| new.hot.connections().adopted() == 2).await;
    idle.is_answered_by("new").await;
    server.roll_back().await;
    until(|| server.hot.connections().adopted() == 2).await;
    until(|| new.hot.connections().rows().is_empty()).await;
    idle.is_answered_by("old").await;
    half.send(&format!("TP/1.1\r\n{HEAD}")).await;
    half.is_answered("old").await;
}

/// Clients that always ask, so that some of them ask in the very moment of each move.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_handoffs_under_busy_clients() {
    let mut server = Server::start(MOVING).await;
    let (address, stop) = (server.address, Arc::new(AtomicBool::new(false)));
    let clients: Vec<_> = (0..16).map(|n| tokio::spawn(busy(address, n, stop.clone()))).collect();
    for _ in 0..100 {
        let new = server.hand_off_to(MOVING).await;
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
