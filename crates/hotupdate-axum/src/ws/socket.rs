//! A WebSocket that can move to the next version.
//!
//! Deliberately absent: splitting it into two halves; both move together. A task that waits for both directions selects
//! between [`WebSocket::recv`] and whatever it wants to send. Reading and writing are in [`super::line`].

use std::fmt;
use std::future::pending;
use std::time::Duration;

use futures_util::FutureExt as _;
use hotupdate::connections::MAX_STATE;
use hotupdate::connections::{ConnectionActivity, Migration};
use hotupdate::drain::Phase;
use hotupdate::{Connection, Drain, MigrationSlot};
use serde::Serialize;
use tokio::time::Instant;

use super::line::Line;
use super::wire::{About, Wire};
use super::{CloseCode, Error, KIND, Message, Utf8Bytes, name};
use crate::drain::Draining;

/// The most bytes of half a message, and of what is to be sent, with which a socket moves. The rest of what can move is
/// for the application's state.
const MAX_WEIGHT: usize = MAX_STATE - MAX_APPLICATION_STATE - 1024;

/// State of an application that has at most this many bytes, as JSON, can always move.
pub const MAX_APPLICATION_STATE: usize = 32 * 1024;

/// How often it is looked whether the answer, if the next version takes WebSockets, is overdue.
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// How much later than their turn clients are told to reconnect: the next version says one by one what it takes, and this
/// kind may be the last.
const RELUCTANCE: Duration = Duration::from_secs(1);

/// One WebSocket, on the server's side.
///
/// Pings and close frames are answered by itself, while it is received from. Dropping it closes the connection without a
/// close frame; see [`WebSocket::close`].
pub struct WebSocket {
    line: Line,
    drain: Drain,
    slot: MigrationSlot,
    reluctance: Reluctance,
}

/// What comes next.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// A message. Of the kinds of messages, only text and binary.
    Message(Message),
    /// The process drains: hand it over with [`WebSocket::hand_over`], or end the conversation.
    Draining,
    /// It is over; in order if there is no error.
    Closed(Option<Error>),
}

/// A WebSocket that stays where it is.
#[derive(Debug, thiserror::Error)]
#[error("the WebSocket does not move: {why}")]
pub struct NotMoved {
    /// The WebSocket, as it was.
    pub socket: WebSocket,
    /// One line for a person.
    pub why: String,
}

/// What is known of earlier attempts to move.
#[derive(Debug, Default)]
enum Reluctance {
    #[default]
    None,
    /// It was too heavy, and may move when it is lighter.
    Heavy(usize),
    /// Nobody took connections of this kind.
    Stays(String),
}

impl WebSocket {
    pub(super) fn new(connection: Connection, wire: Wire) -> Self {
        let drain = connection.drain();
        let slot = connection.migration_slot();
        let line = Line { connection, wire: Box::new(wire), hung_up: false };
        Self { line, drain, slot, reluctance: Reluctance::None }
    }

    pub(super) fn begin(connection: Connection, about: About, arrived: &[u8]) -> Self {
        Self::new(connection, Wire::new(about, arrived, b""))
    }

    /// The subprotocol that was agreed on.
    #[must_use]
    pub fn protocol(&self) -> Option<&str> {
        self.line.wire.about().protocol.as_deref()
    }

    /// The connection underneath: its number, its addresses.
    #[must_use]
    pub fn connection(&self) -> &Connection {
        &self.line.connection
    }

    /// Tells when the process drains.
    #[must_use]
    pub fn draining(&self) -> Draining {
        Draining::of(&self.line.connection)
    }

    /// Waits for the next message, of any kind; a ping is answered and returned too. `None` after the end.
    ///
    /// Safe to cancel: no message is lost.
    pub async fn recv(&mut self) -> Option<Result<Message, Error>> {
        self.line.recv().await
    }

    /// Sends a message. Returns when the operating system has all of it.
    ///
    /// If it is cancelled, the message is still sent: by whatever is called next, or in the next version.
    ///
    /// # Errors
    /// The connection is over.
    pub async fn send(&mut self, message: Message) -> Result<(), Error> {
        self.line.wire.write(message)?;
        self.line.write_all().await
    }

    /// Says goodbye, and waits a moment for the client's.
    pub async fn close(mut self, code: CloseCode, reason: impl Into<Utf8Bytes>) {
        self.line.say_goodbye(code, reason.into()).await;
    }

    /// Waits for the next text or binary message, and for what the process wants. The loop of a handler that moves:
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
    ///             Event::Draining => match socket.hand_over("echo", &count).await {
    ///                 Ok(()) => return,                     // the next version goes on
    ///                 Err(stays) => socket = stays.socket,  // so do we, for a while
    ///             },
    ///             _ => return,
    ///         }
    ///     }
    /// }
    /// ```
    ///
    /// [`Event::Draining`] comes when it is this socket's turn, see [`MigrationSlot`], at a point at which the socket can move: between messages, or in the middle of one that is
    /// not too large (of a larger one the rest is awaited). After a move that failed it comes again when there is a new
    /// chance; else the client is told to reconnect (1012, "service restart") when it is its turn in the window over
    /// which a drain is spread, and this is the end.
    ///
    /// Safe to cancel: no message is lost.
    pub async fn recv_or_drain(&mut self) -> Event {
        loop {
            self.slot.release();
            let (moves, turn) = (self.should_move(), self.turn());
            let Self { line, drain, slot, .. } = self;
            let turn = async {
                match turn {
                    Some(turn) => tokio::time::sleep_until(turn).await,
                    None => pending().await,
                }
            };
            let activity = line.connection.activity();
            let leaves = async { if moves { leave(&activity, slot).await } else { pending().await } };
            tokio::select! {
                // Nobody is told to leave because of what was.
                biased;
                phase = drain.changed() => self.reconsider(phase),
                () = leaves => return Event::Draining,
                () = turn => {
                    line.say_goodbye(CloseCode::Restart, Utf8Bytes::from_static("a new version serves")).await;
                    return Event::Closed(None);
                }
                message = line.recv() => match message {
                    Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => return Event::Message(message),
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Event::Closed(Some(error)),
                    None => return Event::Closed(None),
                },
            }
        }
    }

    /// Passes this WebSocket to the process that serves now, whose [`adopt`](super::adopt) of the same kind goes on with it
    /// and with `state` (as JSON). Its client notices nothing: half a message that has arrived, and bytes that are still
    /// to be sent, move along.
    ///
    /// Not safe to cancel: a connection whose move is cancelled is closed if it did not arrive.
    ///
    /// # Errors
    /// [`NotMoved`] with the socket: serve on. The process does not drain, the next version does not take this kind, it
    /// died before it had the connection, the close handshake has begun, or there is too much to move.
    pub async fn hand_over(mut self, kind: &str, state: &(impl Serialize + Sync)) -> Result<(), NotMoved> {
        // As much as the operating system takes at once; the next version sends the rest.
        if self.line.write_all().now_or_never().is_some_and(|written| written.is_err()) {
            self.line.wire.give_up();
        }
        if let Some(why) = self.line.wire.stays() {
            self.reluctance = Reluctance::Stays(name(kind));
            return Err(NotMoved { socket: self, why: why.to_owned() });
        }
        let bytes = match serde_json::to_vec(state).and_then(|state| self.line.wire.to_bytes(&state)) {
            Ok(bytes) => bytes,
            Err(error) => {
                self.reluctance = Reluctance::Stays(name(kind));
                return Err(NotMoved { socket: self, why: format!("its state cannot be JSON: {error}") });
            }
        };
        let weight = self.line.wire.weight();
        if bytes.len() > MAX_STATE {
            self.reluctance =
                if weight > 0 { Reluctance::Heavy(weight) } else { Reluctance::Stays(name(kind)) };
            let why = format!("its state has {} bytes, at most {MAX_STATE} move", bytes.len());
            return Err(NotMoved { socket: self, why });
        }
        // It has its turn until it is there.
        let Self { line: Line { connection, wire, hung_up }, drain, slot, .. } = self;
        match connection.migrate_bytes(&name(kind), bytes).await {
            Ok(()) => Ok(()),
            Err(hotupdate::connections::NotMigrated { connection, why }) => {
                let line = Line { connection, wire, hung_up };
                Err(NotMoved {
                    socket: Self { line, drain, slot, reluctance: Reluctance::Stays(name(kind)) },
                    why,
                })
            }
        }
    }

    fn should_move(&self) -> bool {
        let weight = self.line.wire.weight();
        let light = match self.reluctance {
            Reluctance::None => weight <= MAX_WEIGHT,
            Reluctance::Heavy(too_heavy) => weight < too_heavy.min(MAX_WEIGHT),
            Reluctance::Stays(_) => false,
        };
        light && self.line.wire.stays().is_none() && matches!(self.drain.phase(), Phase::Draining(_))
    }

    /// When the client is told to reconnect: each at its own place in the window, without the grace, which is for clients
    /// that do not know yet.
    fn turn(&self) -> Option<Instant> {
        match (&self.reluctance, self.drain.phase()) {
            (Reluctance::Stays(_), Phase::Draining(plan)) => {
                let turn = plan.scheduled_close(self.line.connection.id());
                let turn = turn.checked_sub(plan.grace).unwrap_or(plan.since).max(plan.since);
                Some((turn + RELUCTANCE).min(plan.until))
            }
            _ => None,
        }
    }

    /// A new phase, or a new successor.
    fn reconsider(&mut self, phase: Phase) {
        if let Reluctance::Stays(kind) = &self.reluctance
            && (phase == Phase::Serving || self.line.connection.migration(kind) != Migration::Unavailable)
        {
            self.reluctance = Reluctance::None;
        }
    }
}

/// Until it is the turn of this WebSocket, or nobody takes any.
async fn leave(activity: &ConnectionActivity, slot: &mut MigrationSlot) {
    loop {
        match activity.migration_any(KIND) {
            Migration::Available => return slot.acquire_any().await,
            // A change comes to whoever waits for this; that the time for the answer is over does not.
            Migration::Pending => tokio::time::sleep(ASK_AGAIN).await,
            Migration::Unavailable => return,
        }
    }
}

impl fmt::Debug for WebSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Line { connection, wire, .. } = &self.line;
        let (id, peer) = (connection.id(), connection.peer_addr());
        // Without the bytes: there may be many, and they are nobody's business.
        f.debug_struct("WebSocket")
            .field("connection", &id)
            .field("peer", peer)
            .field("weight", &wire.weight())
            .field("reluctance", &self.reluctance)
            .finish_non_exhaustive()
    }
}
