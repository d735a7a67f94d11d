//! Handlers that go on for long, and are told to come to an end: long polls, server-sent events, WebSockets.
//!
//! Deliberately absent: handlers that do not listen, see [`crate::deadline`].

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::response::sse::{Event, Sse};
use axum::routing::{any, get};
use futures_util::{SinkExt as _, StreamExt as _, stream};
use hotupdate_axum::Draining;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite;

use crate::server::{PATIENT, Server, until, within};

#[tokio::test]
async fn a_long_poll_is_told() {
    let server = Server::start(PATIENT).await;
    let mut client = server.client().await;
    client.ask("/draining").await;
    until(|| server.hot.connections().summary().active == 1).await;
    let _new = server.hand_off().await;
    let answer = client.answer().await;
    assert_eq!((answer.body.as_str(), answer.says_close()), ("draining", true));
    drop(client);
    assert_eq!(server.drained().await, 0);
}

#[tokio::test]
async fn server_sent_events_end_with_a_whole_body() {
    async fn events(draining: Draining) -> Sse<impl futures_util::Stream<Item = Result<Event, Infallible>>> {
        let numbers = stream::iter(0u64..).then(|n| async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            Ok(Event::default().data(n.to_string()))
        });
        Sse::new(draining.take_until_draining(numbers))
    }
    let server = Server::start_with(PATIENT, |router| router.route("/events", get(events))).await;
    let mut client = server.client().await;
    client.ask("/events").await;
    assert!(client.until("\r\n\r\n").await.contains("text/event-stream"));
    assert_eq!(client.chunk().await, "data: 0\n\n");
    let _new = server.hand_off().await;
    // As many as were on their way, the last one whole, and the end of the body.
    let rest = client.chunks().await;
    assert!(rest.is_empty() || rest.ends_with("\n\n"), "{rest:?}");
    // It has not heard `Connection: close`: it may ask once more.
    let answer = client.get("/").await;
    assert_eq!((answer.body.as_str(), answer.says_close()), ("old", true));
    drop(client);
    assert_eq!(server.drained().await, 0);
}

#[tokio::test]
async fn a_websocket_is_told_and_counted() {
    async fn echo(mut socket: WebSocket, draining: Draining) {
        loop {
            tokio::select! {
                message = socket.recv() => match message {
                    Some(Ok(message)) => drop(socket.send(message).await),
                    _ => return,
                },
                () = draining.scheduled_close() => {
                    let restart = CloseFrame { code: 1012, reason: "restart".into() };
                    drop(socket.send(Message::Close(Some(restart))).await);
                    while let Some(Ok(_)) = socket.recv().await {}
                    return;
                }
            }
        }
    }
    let route = any(|upgrade: WebSocketUpgrade, draining: Draining| async move {
        upgrade.on_upgrade(|socket| echo(socket, draining))
    });
    let server = Server::start_with(PATIENT, |router| router.route("/ws", route)).await;
    let stream = TcpStream::connect(server.address).await.unwrap();
    let (mut socket, _) = within(tokio_tungstenite::client_async("ws://test/ws", stream)).await.unwrap();
    socket.send(tungstenite::Message::text("hello")).await.unwrap();
    assert_eq!(within(socket.next()).await.unwrap().unwrap(), tungstenite::Message::text("hello"));
    let rows = server.hot.connections().rows();
    assert_eq!((rows.len(), rows[0].protocol.as_str()), (1, "websocket"));
    assert_eq!(server.hot.connections().summary().upgraded, 1);

    let _new = server.hand_off().await;
    let tungstenite::Message::Close(Some(frame)) = within(socket.next()).await.unwrap().unwrap() else {
        panic!("not a close frame")
    };
    assert_eq!(u16::from(frame.code), 1012);
    assert!(within(socket.next()).await.is_none());
    assert_eq!(server.drained().await, 0);
}
