//! WebSockets that outlive the process: at a deploy they move to the next version, and their clients see nothing of it.
//!
//! A handler takes the extractor [`Upgrade`] and gets a [`WebSocket`]. When the process drains, it hands the socket over,
//! together with what it knows about the client; the next version goes on with both in what it gave to [`adopt`]. Half a
//! message that has arrived, a ping that is not answered, bytes that a slow client has not taken: they move along. There
//! is no close frame, no reconnect, and no message is lost or doubled.
//!
//! ```no_run
//! use axum::{Router, routing::any};
//! use hotupdate_axum::ws;
//!
//! async fn echo(mut socket: ws::WebSocket, mut count: u64) {
//!     loop {
//!         match socket.recv_or_drain().await {
//!             ws::Event::Message(message) => {
//!                 count += 1;
//!                 if socket.send(message).await.is_err() {
//!                     return;
//!                 }
//!             }
//!             ws::Event::Draining => match socket.hand_over("echo", &count).await {
//!                 Ok(()) => return,
//!                 Err(stays) => socket = stays.socket,
//!             },
//!             _ => return,
//!         }
//!     }
//! }
//!
//! # async fn example(listener: hotupdate::Listener, starting: hotupdate::Starting) -> Result<(), Box<dyn std::error::Error>> {
//! let upgrade = |upgrade: ws::Upgrade| async { upgrade.on_upgrade(|socket| echo(socket, 0)) };
//! let app = Router::new().route("/echo", any(upgrade));
//!
//! let hot = starting.ready().await?;
//! ws::adopt(&hot, "echo", echo);
//! hotupdate_axum::serve(listener, app, &hot).await?;
//! # Ok(())
//! # }
//! ```
//!
//! Where a socket cannot move, because the next version does not take it or there is none,
//! [`recv_or_drain`](WebSocket::recv_or_drain) tells the client to reconnect (1012), each at its
//! own turn in the window over which a drain is spread.
//!
//! Deliberately absent: framing, which is tungstenite's; HTTP/2; compression.

use hotupdate::Serving;
use serde::de::DeserializeOwned;

pub use tokio_tungstenite::tungstenite::error::Error;
pub use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
pub use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message};
pub use tokio_tungstenite::tungstenite::{Bytes, Utf8Bytes};

mod upgrade;
pub use upgrade::{Rejection, Upgrade};

mod socket;
pub use socket::{Event, MAX_APPLICATION_STATE, NotMoved, WebSocket};

mod gate;
mod line;
mod wire;

use wire::Wire;

/// Goes on with WebSockets of this kind that other versions hand over with [`WebSocket::hand_over`]: for each of them
/// `serve` runs in a task of its own, with the state that came along. To be called right after `ready`.
///
/// A state that cannot be read as `S` is a version that does not fit: the WebSocket stays where it is.
///
/// ```no_run
/// # async fn example(hot: hotupdate::Serving) {
/// hotupdate_axum::ws::adopt(&hot, "echo", |mut socket, count: u64| async move {
///     while let Some(Ok(message)) = socket.recv().await {
///         let _ = socket.send(message).await;
///     }
/// });
/// # }
/// ```
pub fn adopt<S, F, Fut>(hot: &Serving, kind: &str, serve: F)
where
    S: DeserializeOwned + Send + 'static,
    F: Fn(WebSocket, S) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let kind = name(kind);
    hot.adopt_bytes(&kind.clone(), None, move |bytes| {
        let Some((wire, state)) = Wire::from_bytes(&bytes) else {
            tracing::warn!(kind, "a WebSocket is not taken: it comes from a version that is not understood");
            return None;
        };
        let state = match serde_json::from_slice(state) {
            Ok(state) => state,
            Err(error) => {
                // The text quotes what another process has sent: escaped, it stays on its line.
                let error = error.to_string();
                tracing::warn!(kind, ?error, "a WebSocket is not taken: its state makes no sense here");
                return None;
            }
        };
        let serve = serve.clone();
        Some(Box::new(move |connection| {
            connection.activity().set_upgraded("websocket");
            tokio::spawn(serve(WebSocket::new(connection, wire), state));
        }))
    });
}

/// What the kinds of WebSockets begin with, apart from connections that an application moves by itself.
const KIND: &str = "websocket/";

fn name(kind: &str) -> String {
    format!("{KIND}{kind}")
}
