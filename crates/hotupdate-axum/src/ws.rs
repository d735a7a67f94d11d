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
//! Over TLS (feature `tls`) they migrate as well, if `Tls::move_connections` is on; to the handler it is all
//! the same.
//!
//! Where a socket cannot migrate, because the next version does not accept it or there is none,
//! [`recv_or_drain`](WebSocket::recv_or_drain) tells the client to reconnect (1012), each at its own place in
//! the window over which a drain is spread.
//!
//! Deliberately absent: framing, which is tungstenite's; WebSockets over HTTP/2; compression, whose state
//! cannot migrate.

use hotupdate::Starting;
use serde::de::DeserializeOwned;

use crate::carrier::{Carrier as _, Layer};

mod message;
pub use message::{CloseCode, CloseFrame, Error, Message, Utf8Bytes, close_code};

mod upgrade;
pub use upgrade::{Rejection, Upgrade};

mod socket;
pub use socket::{Event, MAX_APPLICATION_STATE, NotMigrated, WebSocket};

mod carrier;
mod codec;
mod frame_buffer;
mod transport;

use carrier::{AnyCarrier, Around};
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
/// more than 241 bytes.
pub fn on_migrated<S, F, Fut>(hot: &mut Starting, kind: &str, serve: F) -> hotupdate::Result<()>
where
    S: DeserializeOwned + Send + 'static,
    F: Fn(WebSocket, S) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let handler = Handler { kind: kind.to_owned(), serve };
    #[cfg(feature = "tls")]
    handler.clone().accept(hot, Layer::Tls13, |bytes| {
        let (around, bytes) = crate::tls::split_state(bytes)?;
        Some((Around::Tls(Box::new(around)), bytes))
    })?;
    handler.accept(hot, Layer::Bare, |bytes| Some((Around::Nothing, bytes)))
}

/// The state of what is around a connection, and the rest.
type Split = fn(&[u8]) -> Option<(Around, &[u8])>;

/// Goes on with WebSockets of one kind.
#[derive(Clone)]
struct Handler<F> {
    kind: String,
    serve: F,
}

impl<F> Handler<F> {
    /// `split` takes the state of what is around the connection off its front.
    fn accept<S, Fut>(self, hot: &mut Starting, layer: Layer, split: Split) -> hotupdate::Result<()>
    where
        S: DeserializeOwned + Send + 'static,
        F: Fn(WebSocket, S) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        hot.on_migrated_bytes(&name(layer, &self.kind), None, move |bytes| {
            #[cfg(feature = "tls")]
            let bytes = zeroize::Zeroizing::new(bytes);
            let (around, bytes) = split(&bytes)?;
            let (codec, state) = self.read(bytes)?;
            let serve = self.serve.clone();
            Some(Box::new(move |connection| {
                if let Some(carrier) = AnyCarrier::put_together(connection, around) {
                    let name = carrier.layer().names().websocket;
                    carrier.connection().activity().set_upgraded(name);
                    tokio::spawn(serve(WebSocket::new(carrier, codec), state));
                }
            }))
        })
    }

    fn read<S: DeserializeOwned>(&self, bytes: &[u8]) -> Option<(Codec, S)> {
        let kind = &self.kind;
        let Some((codec, state)) = Codec::from_bytes(bytes) else {
            tracing::warn!(kind, "a WebSocket is refused: its state has a format of another version");
            return None;
        };
        match serde_json::from_slice(state) {
            Ok(state) => Some((codec, state)),
            Err(error) => {
                // The text quotes what another process has sent: escaped, it stays on its line.
                let error = error.to_string();
                tracing::warn!(kind, ?error, "a WebSocket is refused: its state cannot be read here");
                None
            }
        }
    }
}

/// A kind of WebSockets, among the kinds of connections.
fn name(layer: Layer, kind: &str) -> String {
    format!("{}{kind}", layer.kinds().websocket)
}
