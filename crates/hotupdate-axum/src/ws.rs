//! WebSockets that outlive the process: at a deploy they migrate to the next version, and their clients
//! notice nothing.
//!
//! A handler takes the extractor [`Upgrade`] and gets a [`WebSocket`]. When the process drains, the handler
//! migrates the socket, together with what it knows about the client; the next version goes on with both in
//! the function that it gave to [`on_migrated`]. Half a message that has arrived, a ping that is not
//! answered, bytes that a slow client has not read: they migrate along. There is no close frame, no
//! reconnect, and no message is lost or doubled.
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
//!             ws::Event::Draining => match socket.migrate("echo", &count).await {
//!                 Ok(()) => return,
//!                 Err(stays) => socket = stays.socket,
//!             },
//!             _ => return,
//!         }
//!     }
//! }
//!
//! # async fn example() -> hotupdate::Result<()> {
//! let mut hot = hotupdate::join("/run/echo/control.sock").await?;
//! let http = hot.tcp("http", "0.0.0.0:3000").await?;
//! let upgrade = |upgrade: ws::Upgrade| async { upgrade.on_upgrade(|socket| echo(socket, 0)) };
//! let app = Router::new().route("/echo", any(upgrade));
//!
//! let server = hotupdate_axum::serve(http, app, &mut hot);
//! ws::on_migrated(&mut hot, "echo", echo)?;
//! hot.ready().await?;
//! server.await
//! # }
//! ```
//!
//! Where a socket cannot migrate, because the next version does not accept it or there is none,
//! [`recv_or_drain`](WebSocket::recv_or_drain) tells the client to reconnect (1012), each at its own place in
//! the window over which a drain is spread.
//!
//! Deliberately absent: framing, which is tungstenite's; WebSockets over HTTP/2; compression, whose state
//! cannot migrate.

use hotupdate::Starting;
use serde::de::DeserializeOwned;

mod message;
pub use message::{CloseCode, CloseFrame, Error, Message, Utf8Bytes, close_code};

mod upgrade;
pub use upgrade::{Rejection, Upgrade};

mod socket;
pub use socket::{Event, MAX_APPLICATION_STATE, NotMigrated, WebSocket};

mod codec;
mod frame_buffer;
mod transport;

use codec::Codec;

/// Goes on with WebSockets of this kind that other versions migrate here with [`WebSocket::migrate`]: for
/// each of them `serve` runs in a task of its own, with the state that came along.
///
/// The other version learns of it together with [`ready`](Starting::ready), and the first WebSockets may
/// arrive before `ready` has returned: a handler that needs what the application fills from
/// [`Serving::import`](hotupdate::Serving::import) waits until that is there. A state that cannot be read as
/// `S` comes from a version that does not fit: the WebSocket stays where it is, and the log says so.
///
/// ```no_run
/// # async fn example(mut hot: hotupdate::Starting) -> hotupdate::Result<()> {
/// hotupdate_axum::ws::on_migrated(&mut hot, "echo", |mut socket, count: u64| async move {
///     while let Some(Ok(message)) = socket.recv().await {
///         let _ = socket.send(message).await;
///     }
/// })?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`ErrorKind::ApiMisuse`](hotupdate::ErrorKind::ApiMisuse) for a kind that was registered before, or has
/// more than 245 bytes.
pub fn on_migrated<S, F, Fut>(hot: &mut Starting, kind: &str, serve: F) -> hotupdate::Result<()>
where
    S: DeserializeOwned + Send + 'static,
    F: Fn(WebSocket, S) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let kind = name(kind);
    hot.on_migrated_bytes(&kind.clone(), None, move |bytes| {
        let Some((codec, state)) = Codec::from_bytes(&bytes) else {
            tracing::warn!(kind, "a WebSocket is refused: its state has a format of another version");
            return None;
        };
        let state = match serde_json::from_slice(state) {
            Ok(state) => state,
            Err(error) => {
                // The text quotes what another process has sent: escaped, it stays on its line.
                let error = error.to_string();
                tracing::warn!(kind, ?error, "a WebSocket is refused: its state cannot be read here");
                return None;
            }
        };
        let serve = serve.clone();
        Some(Box::new(move |connection| {
            connection.activity().set_upgraded("websocket");
            tokio::spawn(serve(WebSocket::new(connection, codec), state));
        }))
    })
}

/// The prefix of the kinds of WebSockets, so that they never collide with kinds that an application migrates
/// itself.
const KIND: &str = "websocket/";

fn name(kind: &str) -> String {
    format!("{KIND}{kind}")
}
