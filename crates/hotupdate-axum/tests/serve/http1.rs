//! HTTP/1.1: keep-alive, `Connection: close` while draining, bodies, pipelining, every kind of application.
//!
//! Deliberately absent: silence, see [`crate::idle`].

use std::convert::Infallible;
use std::future::IntoFuture;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, FromRequestParts as _, Request};
use axum::middleware::{Next, from_fn};
use axum::routing::get;
use hotupdate::Address;
use hotupdate_axum::{Draining, Peer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use crate::client::Client;
use crate::server::{BRISK, LONG, PATIENT, Server, Times, builder, until, within};

#[tokio::test]
async fn a_connection_is_kept_and_counted() {
    let server = Server::start(PATIENT).await;
    let mut client = server.client().await;
    let peer = client.get("/peer").await;
    assert_eq!(peer.body, client.stream.local_addr().unwrap().to_string());
    assert!(!peer.says_close());
    assert_eq!(client.get("/").await.body, "old");
    let rows = server.hot.connections().rows();
    assert_eq!((rows.len(), rows[0].requests, rows[0].protocol.as_str()), (1, 2, "http/1.1"));
    until(|| server.hot.connections().summary().idle == 1).await;
    client.ask("/held").await;
    until(|| server.hot.connections().summary().active == 1).await;
    server.release.add_permits(1);
    client.answer().await;
    drop(client);
    until(|| server.hot.connections().rows().is_empty()).await;
}

#[tokio::test]
async fn a_client_that_asks_during_the_drain_is_answered_and_told_to_close() {
    let server = Server::start(PATIENT).await;
    let mut kept = server.client().await;
    assert!(!kept.get("/").await.says_close());
    let new = server.hand_off().await;
    let answer = kept.get("/").await;
    assert_eq!((answer.body.as_str(), answer.says_close()), ("old", true));
    kept.ends().await;
    drop(kept);
    assert_eq!(new.client().await.get("/").await.body, "new");
    assert_eq!(server.drained().await, 0);
}

#[tokio::test]
async fn a_connection_accepted_just_before_is_served() {
    let server = Server::start(PATIENT).await;
    let mut client = server.client().await;
    until(|| server.hot.connections().summary().idle == 1).await;
    let _new = server.hand_off().await;
    let answer = client.get("/").await;
    assert_eq!((answer.body.as_str(), answer.says_close()), ("old", true));
    client.ends().await;
    drop(client);
    assert_eq!(server.drained().await, 0);
}

#[tokio::test]
async fn a_drain_that_ends_is_forgotten() {
    let server = Server::start(Times { probation: LONG, ..PATIENT }).await;
    let mut kept = server.client().await;
    kept.get("/").await;
    server.hand_off_in_vain().await;
    let answer = kept.get("/").await;
    assert_eq!((answer.body.as_str(), answer.says_close()), ("old", false));
    let answer = server.client().await.get("/").await;
    assert_eq!((answer.body.as_str(), answer.says_close()), ("old", false));
}

/// Clients that pause between their requests, through handoffs whose grace is longer than the pauses.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn busy_clients_lose_nothing() {
    let mut server = Server::start(PATIENT).await;
    let (address, stop) = (server.address, Arc::new(AtomicBool::new(false)));
    let clients: Vec<_> = (0..20).map(|n| tokio::spawn(busy(address, n, stop.clone()))).collect();
    for _ in 0..5 {
        let new = server.hand_off_to(PATIENT).await;
        assert_eq!(server.drained().await, 0);
        server = new;
    }
    stop.store(true, Relaxed);
    for client in clients {
        assert!(client.await.unwrap() > 1);
    }
}

async fn busy(address: SocketAddr, number: u64, stop: Arc<AtomicBool>) -> u32 {
    let mut connections = 0;
    while !stop.load(Relaxed) {
        connections += 1;
        let mut client = Client::connect(address).await;
        while !stop.load(Relaxed) && !client.get("/").await.says_close() {
            tokio::time::sleep(Duration::from_millis(1 + number)).await;
        }
    }
    connections
}

#[tokio::test]
async fn a_request_in_flight_is_finished() {
    let server = Server::start(PATIENT).await;
    let mut client = server.client().await;
    client.ask("/held").await;
    until(|| server.hot.connections().summary().active == 1).await;
    let new = server.hand_off().await;
    assert_eq!(new.client().await.get("/").await.body, "new");
    server.release.add_permits(1);
    let answer = client.answer().await;
    assert_eq!((answer.body.as_str(), answer.says_close()), ("old", true));
    client.ends().await;
    drop(client);
    assert_eq!(server.drained().await, 0);
}

#[tokio::test]
async fn a_body_that_is_still_being_sent_is_read() {
    let server = Server::start(PATIENT).await;
    let mut client = server.client().await;
    client.send("POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 6\r\n\r\nabc").await;
    until(|| server.hot.connections().summary().active == 1).await;
    let _new = server.hand_off().await;
    client.send("def").await;
    let answer = client.answer().await;
    assert_eq!((answer.body.as_str(), answer.says_close()), ("abcdef", true));
    client.ends().await;
    drop(client);
    assert_eq!(server.drained().await, 0);
}

#[tokio::test]
async fn an_answer_survives_a_body_that_was_not_read() {
    let server = Server::start(PATIENT).await;
    let mut client = server.client().await;
    client.get("/").await;
    let _new = server.hand_off().await;
    // More is on its way than the server reads: without lingering this is a reset, which can destroy the
    // answer.
    let body = "x".repeat(100_000);
    client
        .send(&format!("POST /ignore HTTP/1.1\r\nHost: test\r\nContent-Length: 100000\r\n\r\n{body}"))
        .await;
    let answer = client.answer().await;
    assert_eq!((answer.body.as_str(), answer.says_close()), ("ignored", true));
    client.ends().await;
    drop(client);
    assert_eq!(server.drained().await, 0);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let server = Server::start(PATIENT).await;
    let mut client = server.client().await;
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\nGET /peer HTTP/1.1\r\nHost: test\r\n\r\nGET / HT").await;
    assert_eq!(client.answer().await.body, "old");
    assert_eq!(client.answer().await.body, client.stream.local_addr().unwrap().to_string());
    client.send("TP/1.1\r\nHost: test\r\n\r\n").await;
    assert_eq!(client.answer().await.body, "old");
}

#[tokio::test]
async fn a_client_may_wait_for_100_continue() {
    let server = Server::start(PATIENT).await;
    let mut client = server.client().await;
    let head = "POST /echo HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n";
    client.send(head).await;
    assert_eq!(client.until("\r\n\r\n").await, "HTTP/1.1 100 Continue");
    client.send("abc").await;
    assert_eq!(client.answer().await.body, "abc");
}

/// In the task that answers the request; in another one, if that is asked for; and of its own request, when
/// several are answered by turns.
#[tokio::test]
async fn a_request_finds_its_connection() {
    let who = || get(|Peer(peer): Peer| async move { peer.to_string() });
    let waits = get(|Peer(before): Peer| async move {
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        let (mut parts, ()) = http::Request::new(()).into_parts();
        let Peer(now) = Peer::from_request_parts(&mut parts, &()).await.unwrap();
        format!("{before} {now}")
    });
    let elsewhere = from_fn(|request: Request, next: Next| async move {
        tokio::spawn(async move { next.run(request).await }).await.unwrap()
    });
    let app = Router::new()
        .route("/here", who())
        .route("/waits", waits)
        .route("/elsewhere", who().layer(elsewhere));
    let dir = tempfile::tempdir().unwrap();
    let mut hot = builder(&dir, PATIENT).join().await.unwrap();
    let bare = hot.tcp("bare", "127.0.0.1:0").await.unwrap();
    let extended = hot.tcp("extended", "127.0.0.1:0").await.unwrap();
    let [bare_addr, extended_addr] = [bare.local_addr().ip().unwrap(), extended.local_addr().ip().unwrap()];
    tokio::spawn(hotupdate_axum::serve(bare, app.clone(), &mut hot).into_future());
    tokio::spawn(hotupdate_axum::serve(extended, app, &mut hot).connect_info().into_future());
    let _hot = hot.ready().await.unwrap();
    let ask = async |server, path| {
        let mut client = Client::connect(server).await;
        let answer = client.get(path).await;
        (answer, client.stream.local_addr().unwrap().to_string())
    };
    for server in [bare_addr, extended_addr] {
        let (answer, client) = ask(server, "/here").await;
        assert_eq!(answer.body, client);
        let both = tokio::join!(ask(server, "/waits"), ask(server, "/waits"));
        for (answer, client) in [both.0, both.1] {
            assert_eq!(answer.body, format!("{client} {client}"));
        }
    }
    let (answer, _) = ask(bare_addr, "/elsewhere").await;
    assert!(answer.head.starts_with("HTTP/1.1 500 "), "it says so: {}", answer.head);
    let (answer, client) = ask(extended_addr, "/elsewhere").await;
    assert_eq!(answer.body, client);
}

#[tokio::test]
async fn any_service_can_be_served() {
    let dir = tempfile::tempdir().unwrap();
    let mut hot = builder(&dir, PATIENT).join().await.unwrap();
    let methods = hot.tcp("methods", "127.0.0.1:0").await.unwrap();
    let service = hot.tcp("service", "127.0.0.1:0").await.unwrap();
    let addresses = [methods.local_addr().ip().unwrap(), service.local_addr().ip().unwrap()];
    tokio::spawn(hotupdate_axum::serve(methods, get(|| async { "methods" }), &mut hot).into_future());
    let own = tower::service_fn(|_: Request| async move {
        assert!(!Draining::current().is_draining());
        Ok::<_, Infallible>(http::Response::new(http_body_util::Full::new(bytes::Bytes::from("service"))))
    });
    tokio::spawn(hotupdate_axum::serve(service, own, &mut hot).into_future());
    let _hot = hot.ready().await.unwrap();
    for (address, wanted) in addresses.into_iter().zip(["methods", "service"]) {
        assert_eq!(Client::connect(address).await.get("/").await.body, wanted);
    }
}

/// Also with the second request, and those behind it.
#[tokio::test]
async fn connect_info_is_there_if_it_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let mut hot = builder(&dir, PATIENT).join().await.unwrap();
    let (with, without) =
        (hot.tcp("with", "127.0.0.1:0").await.unwrap(), hot.tcp("without", "127.0.0.1:0").await.unwrap());
    let addresses = [&with, &without].map(|listener| listener.local_addr().ip().unwrap());
    let both = |ConnectInfo(peer): ConnectInfo<Address>, ConnectInfo(ip): ConnectInfo<SocketAddr>| async move {
        assert_eq!(peer, Address::Ip(ip));
        ip.to_string()
    };
    let app = Router::new().route("/", get(both));
    tokio::spawn(hotupdate_axum::serve(with, app.clone(), &mut hot).connect_info().into_future());
    tokio::spawn(hotupdate_axum::serve(without, app, &mut hot).into_future());
    let _hot = hot.ready().await.unwrap();
    let mut client = Client::connect(addresses[0]).await;
    for _ in 0..3 {
        assert_eq!(client.get("/").await.body, client.stream.local_addr().unwrap().to_string());
    }
    assert!(Client::connect(addresses[1]).await.get("/").await.head.contains(" 500 "));
}

#[tokio::test]
async fn a_unix_socket_is_served_and_drained() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("http.sock");
    let mut hot = builder(&dir, BRISK).join().await.unwrap();
    let listener = hot.unix("http", &path).await.unwrap();
    let peer = |Peer(peer): Peer| async move { format!("{peer:?}") };
    let app = Router::new().route("/", get(peer));
    let done = tokio::spawn(hotupdate_axum::serve(listener, app, &mut hot).into_future());
    let hot = hot.ready().await.unwrap();
    let mut client = UnixStream::connect(&path).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n").await.unwrap();
    until(|| hot.connections().requests() == 1 && hot.connections().summary().idle == 1).await;

    let mut new = builder(&dir, PATIENT).join().await.unwrap();
    let _listener = new.unix("http", &path).await.unwrap();
    let _new = new.ready().await.unwrap();
    let mut answer = String::new();
    within(client.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.ends_with("Unix(None)"), "{answer}");
    drop(client);
    within(done).await.unwrap().unwrap();
    assert_eq!(hot.connections().forced(), 0);
}

#[tokio::test]
async fn plain_axum_serve_works_too() {
    let dir = tempfile::tempdir().unwrap();
    let mut hot = builder(&dir, PATIENT).join().await.unwrap();
    let listener = hot.tcp("http", "127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().ip().unwrap();
    let hot = hot.ready().await.unwrap();
    let app = Router::new()
        .route("/", get(|ConnectInfo(peer): ConnectInfo<Address>| async move { peer.to_string() }));
    let app = app.into_make_service_with_connect_info::<Address>();
    let plain = tokio::spawn(axum::serve(listener, app).with_graceful_shutdown(hot.retired()).into_future());
    let mut kept = Client::connect(address).await;
    assert_eq!(kept.get("/").await.body, kept.stream.local_addr().unwrap().to_string());

    let mut new = builder(&dir, PATIENT).join().await.unwrap();
    let _listener = new.tcp("http", &address.to_string()).await.unwrap();
    let _new = new.ready().await.unwrap();
    within(plain).await.unwrap().unwrap();
    kept.ends().await;
    within(hot.drained()).await;
    assert_eq!(hot.connections().forced(), 0);
}
