//! WebSockets over TLS.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use futures_util::{SinkExt as _, StreamExt as _};
use hotupdate_axum::tls::Tls;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use super::world::{DROP, FLOOD, Identity, Secure, kinds};
use crate::server::{MIGRATING, until, within};

type Socket = WebSocketStream<TlsStream<TcpStream>>;

async fn connect(secure: &Secure, config: rustls::ClientConfig) -> Socket {
    let stream = secure.client(&Arc::new(config)).await.stream;
    within(tokio_tungstenite::client_async("wss://localhost/echo", stream)).await.unwrap().0
}

async fn hear(socket: &mut Socket) -> Message {
    within(socket.next()).await.expect("the connection ended").expect("the connection failed")
}

async fn echo(socket: &mut Socket, text: &str, number: u32) {
    socket.send(Message::text(text)).await.unwrap();
    assert_eq!(hear(socket).await, Message::text(format!("{number} {text}")));
}

#[tokio::test]
async fn they_migrate_with_their_state_and_in_the_middle_of_a_message() {
    let identity = Identity::new();
    for (provider, version) in kinds() {
        let tls = || Tls::new(identity.server_with(provider.clone())).move_connections(true);
        let mut old = Secure::start(MIGRATING, tls()).await;
        let mut socket = connect(&old, identity.client_with(provider.clone(), version)).await;
        let mut number = 0;
        for generation in ["second", "third"] {
            number += 1;
            echo(&mut socket, "whole", number).await;
            assert!(old.protocol().ends_with("+websocket"), "{}", old.protocol());
            // A text of four bytes, with a mask of zeros, of which two come later.
            socket.get_mut().write_all(b"\x81\x84\0\0\0\0ha").await.unwrap();
            socket.get_mut().flush().await.unwrap();
            let new = old.hand_off(generation, MIGRATING, tls()).await;
            until(|| new.hot.connections().adopted() == 1).await;
            assert_eq!(old.drained().await, 0);
            assert!(new.protocol().ends_with("+websocket"), "{}", new.protocol());
            socket.get_mut().write_all(b"lf").await.unwrap();
            socket.get_mut().flush().await.unwrap();
            number += 1;
            assert_eq!(hear(&mut socket).await, Message::text(format!("{number} half")));
            old = new;
        }
        socket.close(None).await.unwrap();
        assert!(matches!(within(socket.next()).await, Some(Ok(Message::Close(_)))));
    }
}

/// Bytes that are sealed and not sent migrate, too, in the middle of a record.
#[tokio::test]
async fn one_whose_client_does_not_read_migrates() {
    let identity = Identity::new();
    let tls = || Tls::new(identity.server()).move_connections(true);
    let old = Secure::start(MIGRATING, tls()).await;
    let stream = old.client(&Arc::new(identity.client())).await.stream;
    let mut socket =
        within(tokio_tungstenite::client_async("wss://localhost/flood", stream)).await.unwrap().0;
    let (mut before, mut since) = (0, Instant::now());
    until(|| {
        let count = FLOOD.load(Relaxed);
        if count != std::mem::replace(&mut before, count) {
            since = Instant::now();
        }
        count > 0 && since.elapsed() > Duration::from_millis(200)
    })
    .await;
    let new = old.hand_off("new", MIGRATING, tls()).await;
    until(|| new.hot.connections().adopted() == 1).await;
    assert_eq!(old.drained().await, 0);
    let mut count = 0;
    loop {
        match hear(&mut socket).await {
            Message::Binary(message) => assert_eq!(message[..], DROP),
            Message::Text(sent) => break assert_eq!(sent.as_str(), count.to_string()),
            other => panic!("{other:?}"),
        }
        count += 1;
    }
}

/// Its keys were not kept, so it is told to reconnect.
#[tokio::test]
async fn one_that_cannot_migrate_is_told_to_reconnect() {
    let identity = Identity::new();
    let old = Secure::start(MIGRATING, Tls::new(identity.server())).await;
    let mut socket = connect(&old, identity.client()).await;
    echo(&mut socket, "one", 1).await;
    let new = old.hand_off("new", MIGRATING, Tls::new(identity.server()).move_connections(true)).await;
    match hear(&mut socket).await {
        Message::Close(Some(close)) => assert_eq!(u16::from(close.code), 1012),
        other => panic!("{other:?} instead of a close frame"),
    }
    drop(socket);
    assert_eq!((old.drained().await, new.hot.connections().adopted()), (0, 0));
}
