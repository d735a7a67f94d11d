//! HTTP/2 with prior knowledge: connections that migrate; GOAWAY, streams in flight, clients that do not
//! answer.
//!
//! Deliberately absent: WebSockets over HTTP/2, see [`crate::tunnels`].

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::server::{BRISK, LONG, MIGRATING, PATIENT, SHORT, Server, Times, until, within};

pub(crate) struct Client {
    pub(crate) requests: SendRequest<Empty<Bytes>>,
    pub(crate) connection: JoinHandle<hyper::Result<()>>,
}

impl Client {
    pub(crate) async fn connect(server: &Server) -> Self {
        Self::over(TcpStream::connect(server.address).await.unwrap()).await
    }

    pub(crate) async fn over(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        let (requests, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        Self { requests, connection: tokio::spawn(connection) }
    }

    pub(crate) fn get(
        &mut self,
        path: &str,
    ) -> impl Future<Output = hyper::Result<Response<Incoming>>> + use<> {
        let request = Request::get(format!("http://test{path}")).body(Empty::new()).unwrap();
        self.requests.send_request(request)
    }
}

pub(crate) async fn text(response: Response<Incoming>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

#[tokio::test]
async fn a_stream_in_flight_is_finished_after_goaway() {
    let server = Server::start(PATIENT).await;
    let mut client = Client::connect(&server).await;
    assert_eq!(text(within(client.get("/")).await.unwrap()).await, "old");
    assert_eq!(server.hot.connections().rows()[0].protocol, "h2");
    let held = tokio::spawn(client.get("/held"));
    until(|| server.hot.connections().summary().active == 1).await;

    let _new = server.hand_off().await;
    // The client learns of GOAWAY and takes no new request for this connection, as a pool has to know.
    until(|| client.requests.is_closed() || server.hot.connections().rows()[0].requests == 2).await;
    server.release.add_permits(1);
    let answer = within(held).await.unwrap().unwrap();
    assert!(!answer.headers().contains_key("connection"));
    assert_eq!(text(answer).await, "old");
    within(client.connection).await.unwrap().unwrap();
    assert!(client.requests.is_closed());
    assert_eq!(server.drained().await, 0);
}

#[tokio::test]
async fn an_idle_connection_ends_at_once() {
    let server = Server::start(PATIENT).await;
    let mut client = Client::connect(&server).await;
    within(client.get("/")).await.unwrap().into_body().collect().await.unwrap();
    let _new = server.hand_off().await;
    within(client.connection).await.unwrap().unwrap();
    assert_eq!(server.hot.connections().totals().goaways.not_accepted, 1);
    assert_eq!(server.drained().await, 0);
}

#[tokio::test]
async fn a_client_that_does_not_answer_goaway_is_closed_after_the_grace() {
    let server = Server::start(BRISK).await;
    let mut client = TcpStream::connect(server.address).await.unwrap();
    // The preface and empty SETTINGS (RFC 9113, section 3.4), then nothing more.
    client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    until(|| server.hot.connections().rows().first().is_some_and(|row| row.protocol == "h2")).await;
    let began = Instant::now();
    let _new = server.hand_off().await;
    let mut all = Vec::new();
    within(client.read_to_end(&mut all)).await.unwrap();
    assert!(began.elapsed() >= SHORT);
    assert!(all.windows(4).any(|window| window == [0, 0, 8, 7]), "no GOAWAY in {all:?}");
    drop(client);
    assert_eq!(server.drained().await, 0);
}

impl Client {
    pub(crate) async fn is_answered_by(&mut self, version: &str) {
        assert_eq!(text(within(self.get("/")).await.unwrap()).await, version);
    }
}

#[tokio::test]
async fn an_idle_connection_migrates_with_its_history_and_back() {
    let server = Server::start(Times { probation: LONG, ..MIGRATING }).await;
    let mut client = Client::connect(&server).await;
    client.is_answered_by("old").await;
    let before = server.hot.connections().rows().remove(0);
    let new = server.hand_off_to(MIGRATING).await;
    until(|| new.hot.connections().adopted() == 1).await;
    let after = new.hot.connections().rows().remove(0);
    assert_eq!((&after.peer, &after.protocol, after.requests), (&before.peer, &"h2".into(), 1));
    client.is_answered_by("new").await;
    server.roll_back().await;
    until(|| server.hot.connections().adopted() == 1).await;
    client.is_answered_by("old").await;
    assert!(!client.requests.is_closed() && !client.connection.is_finished());
}

/// A client without a library. It has said its preface and SETTINGS, and acknowledges those of the server.
pub(crate) async fn silent(address: SocketAddr) -> TcpStream {
    let mut client = TcpStream::connect(address).await.unwrap();
    client
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\0\x04\x01\0\0\0\0")
        .await
        .unwrap();
    // SETTINGS, their acknowledgement and WINDOW_UPDATE have come when the second PING is answered.
    let mut heard = Vec::new();
    for ping in [b"firstone", b"next one"] {
        client.write_all(&[&b"\0\0\x08\x06\0\0\0\0\0"[..], ping].concat()).await.unwrap();
        while !heard.ends_with(ping) {
            heard.push(within(client.read_u8()).await.unwrap());
        }
    }
    client
}

/// The next that a silent client hears is the answer to its PING.
async fn hears_nothing_but(client: &mut TcpStream, ping: &[u8; 8]) {
    client.write_all(&[&b"\0\0\x08\x06\0\0\0\0\0"[..], ping].concat()).await.unwrap();
    let mut answer = [0; 17];
    within(client.read_exact(&mut answer)).await.unwrap();
    assert_eq!(answer[..], [&b"\0\0\x08\x06\x01\0\0\0\0"[..], ping].concat(), "nothing came before it");
}

#[tokio::test]
async fn an_idle_client_hears_not_a_byte_through_ten_handoffs() {
    let mut server = Server::start(MIGRATING).await;
    let mut client = silent(server.address).await;
    for _ in 0..10 {
        let new = server.hand_off_to(MIGRATING).await;
        until(|| new.hot.connections().adopted() == 1).await;
        assert_eq!(server.drained().await, 0);
        server = new;
    }
    hears_nothing_but(&mut client, b"the last").await;
}

/// They rest, and so they migrate once more, are closed by their clients, and hear GOAWAY where they cannot
/// migrate.
#[tokio::test]
async fn connections_that_have_arrived_have_no_task_until_their_clients_speak() {
    const MANY: usize = 50;
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let mut server = Server::start(MIGRATING).await;
    let mut clients = Vec::new();
    for _ in 0..MANY {
        clients.push(silent(server.address).await);
    }
    assert!(tasks() > MANY);
    for _ in 0..3 {
        let new = server.hand_off_to(MIGRATING).await;
        until(|| new.hot.connections().adopted() == MANY as u64).await;
        assert_eq!(server.drained().await, 0);
        server = new;
        until(|| tasks() < MANY).await;
    }
    let row = server.hot.connections().rows().remove(0);
    assert_eq!((row.protocol.as_str(), row.requests), ("h2", 0));
    for client in &mut clients[..2] {
        hears_nothing_but(client, b"one more").await;
    }
    assert!(tasks() < MANY, "the others rest");
    drop(clients.remove(0));
    until(|| server.hot.connections().rows().len() == MANY - 1).await;
    drop(clients.pop());
    until(|| server.hot.connections().rows().len() == MANY - 2).await;

    let _new = server.hand_off().await;
    for client in &mut clients {
        let mut goaway = [0; 17];
        within(client.read_exact(&mut goaway)).await.unwrap();
        assert_eq!(goaway[3], 7, "{goaway:?}");
    }
    assert_eq!(server.hot.connections().totals().goaways.not_accepted, MANY as u64 - 2);
    drop(clients);
    assert_eq!(server.drained().await, 0);
}

/// Its client answers nothing, and that is not the fault of the deadline.
#[tokio::test]
async fn a_connection_that_has_arrived_is_closed_before_the_deadline_and_is_not_forced() {
    let server = Server::start(MIGRATING).await;
    let mut client = silent(server.address).await;
    let new = server.hand_off_to(Times { deadline: 3 * SHORT, ..MIGRATING }).await;
    until(|| new.hot.connections().adopted() == 1).await;
    let _last = new.hand_off().await;
    assert_eq!(new.drained().await, 0);
    within(client.read_to_end(&mut Vec::new())).await.unwrap();
}

#[tokio::test]
async fn new_requests_wait_a_moment_for_those_in_flight_and_the_next_version_answers_them() {
    let server = Server::start(Times { hold: LONG, ..MIGRATING }).await;
    let mut client = Client::connect(&server).await;
    client.is_answered_by("old").await;
    let held = tokio::spawn(client.get("/held"));
    until(|| server.hot.connections().summary().active == 1).await;
    let new = server.hand_off_to(MIGRATING).await;
    let waits = tokio::spawn(client.get("/"));
    server.release.add_permits(1);
    assert_eq!(text(within(held).await.unwrap().unwrap()).await, "old");
    until(|| new.hot.connections().adopted() == 1).await;
    let answer = text(within(waits).await.unwrap().unwrap()).await;
    assert!(answer == "new" || answer == "old", "{answer}");
    client.is_answered_by("new").await;
    assert_eq!(server.drained().await, 0);
}

#[tokio::test]
async fn requests_do_not_wait_for_a_long_one_and_the_next_version_answers_them() {
    let server = Server::start(Times { hold: Duration::from_millis(20), ..MIGRATING }).await;
    let mut client = Client::connect(&server).await;
    let held = tokio::spawn(client.get("/held"));
    until(|| server.hot.connections().summary().active == 1).await;
    let new = server.hand_off_to(MIGRATING).await;
    until(|| new.hot.connections().adopted() == 1).await;
    for _ in 0..10 {
        client.is_answered_by("new").await;
    }
    server.release.add_permits(1);
    assert_eq!(text(within(held).await.unwrap().unwrap()).await, "old");
    assert_eq!(server.drained().await, 0);
}

/// Clients that always ask, with many requests at a time, so that some are on their way in the very moment of
/// each handoff.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_handoffs_under_busy_clients() {
    let mut server = Server::start(MIGRATING).await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut clients = Vec::new();
    for _ in 0..4 {
        let client = Client::connect(&server).await;
        for _ in 0..8 {
            let (mut requests, stop) = (client.requests.clone(), stop.clone());
            clients.push(tokio::spawn(async move {
                let mut answered = 0;
                while !stop.load(Relaxed) {
                    let request = Request::get("http://test/same").body(Empty::new()).unwrap();
                    let answer = within(requests.send_request(request)).await.unwrap();
                    assert_eq!(text(answer).await, "same");
                    answered += 1;
                }
                answered
            }));
        }
        tokio::spawn(client.connection);
    }
    for _ in 0..50 {
        let new = server.hand_off_to(MIGRATING).await;
        until(|| new.hot.connections().adopted() == 4).await;
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
