//! What is left at the deadline of a drain is closed and counted.
//!
//! Deliberately absent: silent connections. They are closed before; see [`crate::idle`].

use axum::extract::ws::WebSocketUpgrade;
use axum::routing::any;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use crate::server::{PATIENT, SHORT, Server, Times, until, within};

#[tokio::test]
async fn requests_without_end_and_deaf_websockets_are_forced() {
    let times = Times { deadline: 3 * SHORT, ..PATIENT };
    let deaf = any(|upgrade: WebSocketUpgrade| async move {
        upgrade
            .on_upgrade(|mut socket| async move { while socket.recv().await.is_some_and(|m| m.is_ok()) {} })
    });
    let server = Server::start_with(times, |router| router.route("/deaf", deaf)).await;
    let mut held = server.client().await;
    held.ask("/held").await;
    let stream = TcpStream::connect(server.address).await.unwrap();
    let (mut socket, _) = within(tokio_tungstenite::client_async("ws://test/deaf", stream)).await.unwrap();
    until(|| {
        let summary = server.hot.connections().summary();
        (summary.active, summary.upgraded) == (1, 1)
    })
    .await;
    let _new = server.hand_off().await;
    // Cut off: that it may be a reset is the point of a deadline.
    assert!(within(held.stream.read_u8()).await.is_err());
    let mut rest = Vec::new();
    let _ = within(socket.get_mut().read_to_end(&mut rest)).await;
    assert_eq!(server.drained().await, 2);
}
