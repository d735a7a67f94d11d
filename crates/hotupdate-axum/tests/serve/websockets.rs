//! WebSockets that the next version takes and does not understand.
//!
//! Deliberately absent: those that migrate, see `tests/websockets`.

use axum::routing::any;
use futures_util::{SinkExt as _, StreamExt as _};
use hotupdate_axum::ws::{self, Event, WebSocket};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

use crate::server::{MIGRATING, Server, within};

async fn count(mut socket: WebSocket, mut counted: u64) {
    loop {
        match socket.recv_or_drain().await {
            Event::Message(_) => {
                counted += 1;
                socket.send(counted.to_string().into()).await.unwrap();
            }
            Event::Draining => match socket.migrate("count", &counted).await {
                Ok(()) => return,
                Err(stays) => socket = stays.socket,
            },
            _ => return,
        }
    }
}

#[tokio::test]
async fn a_state_that_the_next_version_cannot_read_stays_and_its_client_is_told_to_come_back() {
    let upgrade = any(|upgrade: ws::Upgrade| async { upgrade.on_upgrade(|socket| count(socket, 0)) });
    let server = Server::start_with(MIGRATING, |router| router.route("/count", upgrade)).await;
    let stream = TcpStream::connect(server.address).await.unwrap();
    let (mut client, _) = within(tokio_tungstenite::client_async("ws://test/count", stream)).await.unwrap();
    client.send(Message::text("one")).await.unwrap();
    assert_eq!(within(client.next()).await.unwrap().unwrap(), Message::text("1"));

    let (_listener, mut starting) = server.successor(MIGRATING).await;
    ws::on_migrated(&mut starting, "count", |_, _: Vec<String>| async {}).unwrap();
    let new = starting.ready().await.unwrap();
    within(server.hot.drain().started()).await;
    client.send(Message::text("two")).await.unwrap();
    assert_eq!(
        within(client.next()).await.unwrap().unwrap(),
        Message::text("2"),
        "the old version serves on"
    );
    match within(client.next()).await {
        Some(Ok(Message::Close(Some(close)))) => assert_eq!(u16::from(close.code), 1012),
        other => panic!("{other:?} instead of a close frame"),
    }
    assert!(within(client.next()).await.is_none_or(|rest| rest.is_err()));
    drop(client);
    assert_eq!(new.connections().adopted(), 0);
    assert_eq!(server.drained().await, 0);
}
