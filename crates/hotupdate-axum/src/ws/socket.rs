//! A WebSocket that can migrate to the next version.
//!
//! Deliberately absent: splitting it into two halves; both migrate together. A task that waits for both
//! directions selects between [`WebSocket::recv`] and whatever it wants to send.

use std::fmt;
use std::future::pending;

use futures_util::FutureExt as _;
use hotupdate::connections::ConnectionActivity;
use hotupdate::connections::MAX_STATE;
use hotupdate::drain::Phase;
use hotupdate::{Connection, Drain, MigrationSlot};
use hotupdate_proto::timing::fixed::http::RECONNECT_DELAY;
use serde::Serialize;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::carrier::AnyCarrier;
use super::codec::{Codec, Negotiated};
use super::message::{CloseCode, Error, Message, Utf8Bytes, close_code};
use super::name;
use super::transport::Transport;
use crate::carrier::{self, Carrier as _};
use crate::drain::Draining;

/// The most bytes of an incomplete message, and of what is to be sent, with which a socket migrates. The rest
/// of what can migrate is for the application's state.
const MAX_PENDING_BYTES: usize = MAX_STATE - MAX_APPLICATION_STATE - 1024;

/// State of an application that has at most this many bytes, as JSON, can always migrate. A larger one may,
/// up to [`MAX_STATE`](hotupdate::connections::MAX_STATE) together with the bytes that are on their way.
pub const MAX_APPLICATION_STATE: usize = 32 * 1024;

/// One WebSocket, on the server's side.
///
/// Pings and close frames are answered by the library, while the application receives. Dropping it closes the
/// connection without a close frame; see [`WebSocket::close`]. [`WebSocket::recv_or_drain`] has the loop of a
/// handler whose sockets migrate.
pub struct WebSocket {
    transport: Transport,
    drain: Drain,
    slot: MigrationSlot,
    block: MigrationBlock,
}

/// What [`WebSocket::recv_or_drain`] returns, where there is an example.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// A message. Of the kinds of messages, only text and binary.
    Message(Message),
    /// The process drains: migrate the socket with [`WebSocket::migrate`], or end the conversation.
    Draining,
    /// It is over; in order if there is no error.
    Closed(Option<Error>),
}

/// A WebSocket that stays where it is.
///
/// ```no_run
/// # async fn example(mut socket: hotupdate_axum::ws::WebSocket) {
/// if let Err(stays) = socket.migrate("echo", &7).await {
///     println!("{}", stays.why);
///     socket = stays.socket;
///     # let _ = socket;
/// }
/// # }
/// ```
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
#[error("the WebSocket does not migrate: {why}")]
pub struct NotMigrated {
    /// The WebSocket, as it was.
    pub socket: WebSocket,
    /// The reason, as one line of text.
    pub why: String,
}

/// Why another attempt to migrate would fail now.
#[derive(Debug, Default)]
enum MigrationBlock {
    #[default]
    None,
    /// It had so many pending bytes, and can migrate with fewer.
    TooLarge(usize),
    /// No other process accepted connections of this kind.
    Refused(String),
}

impl WebSocket {
    pub(super) fn new(carrier: AnyCarrier, codec: Codec) -> Self {
        let drain = carrier.connection().drain();
        let slot = carrier.connection().migration_slot();
        let transport = Transport { carrier, codec: Box::new(codec), hung_up: false };
        Self { transport, drain, slot, block: MigrationBlock::None }
    }

    pub(super) fn begin(carrier: AnyCarrier, negotiated: Negotiated, arrived: &[u8]) -> Self {
        Self::new(carrier, Codec::new(negotiated, arrived, b""))
    }

    /// The subprotocol that was agreed on, see [`Upgrade::protocols`](super::Upgrade::protocols).
    ///
    /// ```no_run
    /// # async fn example(socket: hotupdate_axum::ws::WebSocket) {
    /// if socket.protocol() == Some("chat/2") { /* … */ }
    /// # }
    /// ```
    #[must_use]
    pub fn protocol(&self) -> Option<&str> {
        self.transport.codec.negotiated().protocol.as_deref()
    }

    /// The connection underneath: its number, its addresses.
    ///
    /// ```no_run
    /// # async fn example(socket: hotupdate_axum::ws::WebSocket) {
    /// let client = socket.connection().peer_addr();
    /// # }
    /// ```
    #[must_use]
    pub fn connection(&self) -> &Connection {
        self.transport.carrier.connection()
    }

    /// Tells when the process drains, in a handler that does not use
    /// [`recv_or_drain`](WebSocket::recv_or_drain).
    ///
    /// ```no_run
    /// # async fn example(mut socket: hotupdate_axum::ws::WebSocket) {
    /// let draining = socket.draining();
    /// tokio::select! {
    ///     message = socket.recv() => drop(message),
    ///     () = draining.scheduled_close() => socket.close(1012, "restart").await,
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn draining(&self) -> Draining {
        Draining::of(&self.transport.carrier.connection().activity(), true)
    }

    /// Waits for the next message, of any kind; a ping is answered and returned too. `None` after the end.
    ///
    /// Safe to cancel: no message is lost.
    ///
    /// ```no_run
    /// # async fn example(mut socket: hotupdate_axum::ws::WebSocket) {
    /// while let Some(Ok(message)) = socket.recv().await {
    ///     println!("{message:?}");
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    /// The client broke the protocol, its message was too large, or the connection failed. It is the last
    /// item.
    pub async fn recv(&mut self) -> Option<Result<Message, Error>> {
        self.transport.recv().await
    }

    /// Sends a message. Returns when the operating system has all of it.
    ///
    /// If it is cancelled, the message is still sent: by the next call, or in the next version.
    ///
    /// ```no_run
    /// # async fn example(mut socket: hotupdate_axum::ws::WebSocket) {
    /// if socket.send("hello".into()).await.is_err() {
    ///     return; // the client has left
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    /// The connection is over.
    pub async fn send(&mut self, message: Message) -> Result<(), Error> {
        self.transport.codec.write(message)?;
        self.transport.write_all().await
    }

    /// Sends a close frame, and waits up to a second for the client's.
    ///
    /// ```no_run
    /// # async fn example(socket: hotupdate_axum::ws::WebSocket) {
    /// use hotupdate_axum::ws::close_code;
    ///
    /// socket.close(close_code::NORMAL, "bye").await;
    /// # }
    /// ```
    pub async fn close(mut self, code: CloseCode, reason: impl Into<Utf8Bytes>) {
        self.transport.close(code, reason.into()).await;
    }

    /// Waits for the next text or binary message, and for the drain of the process. The loop of a handler
    /// that migrates:
    ///
    /// ```no_run
    /// use hotupdate_axum::ws::{Event, WebSocket};
    ///
    /// async fn echo(mut socket: WebSocket, mut count: u64) {
    ///     loop {
    ///         match socket.recv_or_drain().await {
    ///             Event::Message(message) => {
    ///                 count += 1;
    ///                 if socket.send(message).await.is_err() {
    ///                     return;
    ///                 }
    ///             }
    ///             Event::Draining => match socket.migrate("echo", &count).await {
    ///                 Ok(()) => return,                     // the next version goes on
    ///                 Err(stays) => socket = stays.socket,  // so do we, for a while
    ///             },
    ///             _ => return,
    ///         }
    ///     }
    /// }
    /// ```
    ///
    /// [`Event::Draining`] comes when this socket has a slot to migrate in (see [`MigrationSlot`]), at a
    /// point at which it can migrate: between messages, or within one that is not too large (of a larger one
    /// the rest is awaited). After a migration that failed it comes again when the next version changes; else
    /// the client is told to reconnect (1012, "service restart") at its place in the window over which a
    /// drain is spread, and this is the end.
    ///
    /// Safe to cancel: no message is lost.
    pub async fn recv_or_drain(&mut self) -> Event {
        loop {
            self.slot.release();
            let (migrates, close) = (self.should_migrate(), self.scheduled_close());
            let Self { transport, drain, slot, .. } = self;
            let close = async {
                match close {
                    Some(close) => tokio::time::sleep_until(close).await,
                    None => pending().await,
                }
            };
            let activity = transport.carrier.connection().activity();
            let kinds = transport.carrier.layer().kinds().websocket;
            let slot =
                async { if migrates { acquire(&activity, kinds, slot).await } else { pending().await } };
            tokio::select! {
                // A change of phase comes first, so that a stale phase never closes a connection.
                biased;
                phase = drain.changed() => self.update_block(phase),
                () = slot => return Event::Draining,
                () = close => {
                    let reason = Utf8Bytes::from_static("a new version serves");
                    transport.close(close_code::RESTART, reason).await;
                    return Event::Closed(None);
                }
                message = transport.recv() => match message {
                    Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Close(_))) => {}
                    Some(Ok(message)) => return Event::Message(message),
                    Some(Err(error)) => return Event::Closed(Some(error)),
                    None => return Event::Closed(None),
                },
            }
        }
    }

    /// Migrates this WebSocket to the process that serves now, whose [`on_migrated`](super::on_migrated) of
    /// the same kind goes on with it and with `state` (as JSON). Its client notices nothing: half a message
    /// that has arrived, and bytes that are still to be sent, migrate along.
    ///
    /// Not safe to cancel: a connection whose migration is cancelled is closed if it did not arrive.
    ///
    /// # Errors
    /// [`NotMigrated`] with the socket: serve on. The process does not drain, the next version does not
    /// accept this kind, it died before it had the connection, the close handshake has begun, or there is too
    /// much to migrate.
    pub async fn migrate(mut self, kind: &str, state: &(impl Serialize + Sync)) -> Result<(), NotMigrated> {
        // As much as the operating system takes at once; the next version sends the rest.
        if self.transport.write_all().now_or_never().is_some_and(|written| written.is_err()) {
            self.transport.codec.give_up();
        }
        if let Some(why) = self.transport.codec.migration_block() {
            self.block = MigrationBlock::Refused(self.name(kind));
            return Err(NotMigrated { socket: self, why: why.to_owned() });
        }
        let bytes = match serde_json::to_vec(state).and_then(|state| self.transport.codec.to_bytes(&state)) {
            Ok(bytes) => bytes,
            Err(error) => {
                self.block = MigrationBlock::Refused(self.name(kind));
                return Err(NotMigrated { socket: self, why: format!("its state cannot be JSON: {error}") });
            }
        };
        let pending_bytes = self.transport.pending_bytes();
        let length = bytes.len() + self.transport.carrier.unsent();
        if length > MAX_STATE {
            self.block = if pending_bytes > 0 {
                MigrationBlock::TooLarge(pending_bytes)
            } else {
                MigrationBlock::Refused(self.name(kind))
            };
            let why = format!("its state has {length} bytes, at most {MAX_STATE} migrate");
            return Err(NotMigrated { socket: self, why });
        }
        // It keeps its slot until it has arrived.
        let name = self.name(kind);
        let Self { transport: Transport { carrier, codec, hung_up }, drain, slot, .. } = self;
        let (reply, answer) = oneshot::channel();
        // If the caller does not wait any more, the connection is closed.
        carrier::migrate(carrier, &name, bytes, move |carrier, why| drop(reply.send((carrier, why))));
        // Without an answer it has migrated; or the driver is gone, and the connection with it.
        let Ok((carrier, why)) = answer.await else { return Ok(()) };
        let transport = Transport { carrier, codec, hung_up };
        let block = MigrationBlock::Refused(name);
        Err(NotMigrated { socket: Self { transport, drain, slot, block }, why })
    }

    /// The name of a kind of WebSockets among the kinds of connections.
    fn name(&self, kind: &str) -> String {
        name(self.transport.carrier.layer(), kind)
    }

    fn should_migrate(&self) -> bool {
        let pending_bytes = self.transport.pending_bytes();
        let fits = match self.block {
            MigrationBlock::None => pending_bytes <= MAX_PENDING_BYTES,
            MigrationBlock::TooLarge(too_large) => pending_bytes < too_large.min(MAX_PENDING_BYTES),
            MigrationBlock::Refused(_) => false,
        };
        fits && self.transport.codec.migration_block().is_none()
            && matches!(self.drain.phase(), Phase::Draining(_))
    }

    /// When the client is told to reconnect: each at its own place in the window, without the grace, which is
    /// for clients that have not been told yet.
    fn scheduled_close(&self) -> Option<Instant> {
        match (&self.block, self.drain.phase()) {
            (MigrationBlock::Refused(_), Phase::Draining(plan)) => {
                let close = plan.scheduled_close(self.transport.carrier.connection().id());
                let close = close.checked_sub(plan.grace).unwrap_or(plan.since).max(plan.since);
                Some((close + RECONNECT_DELAY).min(plan.until))
            }
            _ => None,
        }
    }

    /// There is a new phase, or a new successor.
    fn update_block(&mut self, phase: Phase) {
        if let MigrationBlock::Refused(kind) = &self.block
            && (phase == Phase::Serving || self.transport.carrier.connection().can_migrate(kind))
        {
            self.block = MigrationBlock::None;
        }
    }
}

/// Ready when this WebSocket has a slot to migrate in, or when no other process accepts any. A change wakes
/// the caller.
async fn acquire(activity: &ConnectionActivity, kinds: &str, slot: &mut MigrationSlot) {
    if activity.can_migrate_any(kinds) {
        match activity.suspended_until() {
            Some(until) => drop(tokio::time::timeout_at(until, slot.acquire_any()).await),
            None => slot.acquire_any().await,
        }
    }
}

impl fmt::Debug for WebSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Transport { carrier, codec, .. } = &self.transport;
        let connection = carrier.connection();
        let (id, peer) = (connection.id(), connection.peer_addr());
        // Without the bytes: there may be many, and they are private.
        f.debug_struct("WebSocket")
            .field("connection", &id)
            .field("peer", peer)
            .field("pending_bytes", &codec.pending_bytes())
            .field("block", &self.block)
            .finish_non_exhaustive()
    }
}
