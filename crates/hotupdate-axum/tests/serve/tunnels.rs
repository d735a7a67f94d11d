//! WebSockets over HTTP/2: each is a tunnel through one stream of a connection, opened by an extended CONNECT
//! (RFC 8441).
//!
//! Deliberately absent: WebSockets that migrate by themselves, which need a connection of their own.

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::ws::{Message as Heard, WebSocketUpgrade};
use axum::routing::any;
use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use hotupdate_proto::ConnectionState;
use http::{HeaderName, Request};
use http_body_util::Empty;
use hyper::ext::Protocol;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Semaphore;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Message, protocol::Role};

use crate::http2::{Client, silent};
use crate::relayed::BRIEF;
use crate::server::{BRISK, SHORT, Server, until, within};

/// Answers each message with the version and the message.
fn socket(version: &'static str) -> impl FnOnce(Router<Arc<Semaphore>>) -> Router<Arc<Semaphore>> {
    let upgrade = any(move |upgrade: WebSocketUpgrade| async move {
        upgrade.on_upgrade(move |mut socket| async move {
            while let Some(Ok(message)) = socket.recv().await {
                if let Heard::Text(text) = message {
                    socket.send(Heard::text(format!("{version} {text}"))).await.unwrap();
                }
            }
        })
    });
    move |router| router.route("/socket", upgrade)
}

/// The client's end of a tunnel.
struct Tunnel(WebSocketStream<TokioIo<Upgraded>>);

impl Tunnel {
    /// The server has to have said something on the connection before: that it takes such requests.
    async fn through(client: &mut Client) -> Self {
        let request = Request::connect("http://test/socket")
            .extension(Protocol::from_static("websocket"))
            .header(HeaderName::from_static("sec-websocket-version"), "13")
            .body(Empty::<Bytes>::new())
            .unwrap();
        let answer = within(client.requests.send_request(request)).await.unwrap();
        assert_eq!(answer.status(), 200);
        let upgraded = within(hyper::upgrade::on(answer)).await.unwrap();
        Self(WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Client, None).await)
    }

    async fn is_answered_by(&mut self, version: &str) {
        for text in ["one".to_owned(), "long ".repeat(10_000)] {
            self.0.send(Message::text(&text)).await.unwrap();
            let answer = within(self.0.next()).await.unwrap().unwrap();
            assert_eq!(answer, Message::text(format!("{version} {text}")));
        }
    }

    async fn end(mut self) {
        self.0.close(None).await.unwrap();
        while let Some(Ok(message)) = within(self.0.next()).await {
            assert!(message.is_close(), "{message:?}");
        }
    }
}

/// Bytes go both ways in a relayed tunnel, and the connection takes new ones in the next version.
#[tokio::test]
async fn a_websocket_goes_on_in_the_old_version_and_its_connection_moves_on_when_it_ends() {
    let first = Server::start_with(BRIEF, socket("first")).await;
    let mut client = Client::connect(&first).await;
    client.is_answered_by("old").await;
    let mut of_first = Tunnel::through(&mut client).await;
    of_first.is_answered_by("first").await;
    let second = first.hand_off_with(BRIEF, socket("second")).await;
    until(|| second.hot.connections().adopted() == 1).await;
    of_first.is_answered_by("first").await;
    client.is_answered_by("new").await;
    assert_eq!(first.hot.connections().rows()[0].state, ConnectionState::Upgraded, "what is left of it");
    let mut of_second = Tunnel::through(&mut client).await;
    of_second.is_answered_by("second").await;

    let third = second.hand_off_with(BRIEF, socket("third")).await;
    for _ in 0..10 {
        client.is_answered_by("new").await;
        of_first.is_answered_by("first").await;
        of_second.is_answered_by("second").await;
    }
    assert_eq!(third.hot.connections().adopted(), 0, "a version before still serves a stream of it");
    of_first.end().await;
    until(|| third.hot.connections().adopted() == 1).await;
    of_second.is_answered_by("second").await;
    let mut of_third = Tunnel::through(&mut client).await;
    of_third.is_answered_by("third").await;
    of_second.end().await;
    for server in [first, second] {
        let totals = server.hot.connections().totals();
        assert_eq!((totals.relayed, totals.goaways.sum()), (1, 0));
        assert_eq!(server.drained().await, 0);
    }
    of_third.is_answered_by("third").await;
    of_third.end().await;
    client.is_answered_by("new").await;
}

#[tokio::test]
async fn a_connection_is_upgraded_as_long_as_a_tunnel_is_open() {
    let server = Server::start_with(BRIEF, socket("old")).await;
    let mut client = Client::connect(&server).await;
    client.is_answered_by("old").await;
    let state = || server.hot.connections().rows()[0].state;
    for _ in 0..2 {
        let mut tunnel = Tunnel::through(&mut client).await;
        tunnel.is_answered_by("old").await;
        assert_eq!(state(), ConnectionState::Upgraded);
        client.is_answered_by("old").await;
        tunnel.end().await;
        until(|| state() == ConnectionState::Idle).await;
    }
}

/// The next version does not take the connection.
#[tokio::test]
async fn a_tunnel_is_open_after_goaway_as_long_as_its_client_wants() {
    let server = Server::start_with(BRISK, socket("old")).await;
    let mut client = Client::connect(&server).await;
    client.is_answered_by("old").await;
    let mut tunnel = Tunnel::through(&mut client).await;
    let _new = server.hand_off().await;
    until(|| server.hot.connections().totals().goaways.not_accepted == 1).await;
    let told = Instant::now();
    until(|| told.elapsed() > 3 * SHORT).await;
    tunnel.is_answered_by("old").await;
    tunnel.end().await;
    within(client.connection).await.unwrap().unwrap();
    assert_eq!(server.drained().await, 0);
}

/// It gets GOAWAY while its tunnel is open, and says nothing more when that has ended.
#[tokio::test]
async fn a_client_whose_tunnel_has_ended_is_closed_after_the_grace() {
    let server = Server::start_with(BRISK, socket("old")).await;
    let mut client = silent(server.address).await;
    // Literals that are not indexed, with new names (RFC 7541, section 6.2.2).
    let fields = [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "http"),
        (":path", "/socket"),
        (":authority", "test"),
        ("sec-websocket-version", "13"),
    ];
    let literal = |text: &str| [&[text.len() as u8], text.as_bytes()].concat();
    let block = fields.map(|(name, value)| [vec![0], literal(name), literal(value)].concat()).concat();
    client.write_all(&[&[0, 0, block.len() as u8, 1, 4, 0, 0, 0, 1], &block[..]].concat()).await.unwrap();
    until(|| server.hot.connections().rows()[0].state == ConnectionState::Upgraded).await;
    let _new = server.hand_off().await;
    until(|| server.hot.connections().totals().goaways.not_accepted == 1).await;
    let told = Instant::now();
    until(|| told.elapsed() > 3 * SHORT).await;
    assert_eq!(server.hot.connections().rows().len(), 1);
    // RST_STREAM.
    client.write_all(&[0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 8]).await.unwrap();
    within(client.read_to_end(&mut Vec::new())).await.unwrap();
    assert_eq!(server.drained().await, 0);
}
