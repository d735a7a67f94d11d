//! A connection that was accepted: reads and writes, and stands in the live table as long as it is open.
//!
//! Deliberately absent: protocols.

use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hotupdate_proto::ConnectionRow;
use serde::Serialize;
use smol_str::SmolStr;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;

use super::activity::{ConnectionActivity, Migration};
use super::drain::Drain;
use super::queue::MigrationSlot;
use super::socket::Socket;
use super::table::Connections;
use super::tracker::Tracker;
use crate::address::Address;

/// The most bytes of state that move with one connection.
pub const MAX_STATE: usize = hotupdate_proto::migration::MAX_BATCH_STATE;

/// How long somebody who hands over a connection waits, without serving it, until it is known whether it can move.
const UNKNOWN: Duration = Duration::from_secs(1);

/// How often it is looked whether the answer, if the next version takes a connection, is overdue.
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// A connection on its way to the driver.
#[derive(Debug)]
pub(crate) struct MigrationRequest {
    pub(crate) connection: Connection,
    pub(crate) kind: SmolStr,
    pub(crate) state: Vec<u8>,
    pub(crate) reply: oneshot::Sender<Result<(), Box<Connection>>>,
}

/// A connection that stays where it is.
#[derive(Debug, thiserror::Error)]
#[error("the connection does not move: {why}")]
pub struct NotMigrated {
    /// The connection, untouched.
    pub connection: Connection,
    /// One line for a person.
    pub why: String,
}

/// One accepted connection.
///
/// It stands in the live table until it is dropped. At the deadline of a drain its socket is shut down: reads return
/// end-of-file then, and writes fail.
#[derive(Debug)]
pub struct Connection {
    socket: Arc<Socket>,
    tracker: Tracker,
}

impl Connection {
    pub(crate) fn new(socket: Arc<Socket>, tracker: Tracker) -> Self {
        Self { socket, tracker }
    }

    /// A connection that came from another process, with what was known of it there.
    pub(crate) fn arrived(connections: &Connections, row: ConnectionRow, socket: Socket) -> Self {
        let socket = Arc::new(socket);
        let tracker = connections.adopt(row, &socket);
        Self::new(socket, tracker)
    }

    /// The connection's number, unique in this process.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.tracker.id()
    }

    /// The client's address.
    #[must_use]
    pub fn peer_addr(&self) -> &Address {
        self.tracker.peer_addr()
    }

    /// The address that the client connected to.
    #[must_use]
    pub fn local_addr(&self) -> &Address {
        self.tracker.local_addr()
    }

    /// Records what the connection does.
    #[must_use]
    pub fn activity(&self) -> ConnectionActivity {
        self.tracker.activity()
    }

    /// What the process wants of this connection.
    #[must_use]
    pub fn drain(&self) -> Drain {
        self.tracker.activity().drain()
    }

    /// The connection's place in the queue of those that move.
    #[must_use]
    pub fn migration_slot(&self) -> MigrationSlot {
        self.tracker.activity().migration_slot()
    }

    /// Whether the process that serves now picks up connections of this kind.
    ///
    /// ```no_run
    /// # async fn example(connection: hotupdate::Connection) {
    /// if connection.migration("echo") == hotupdate::connections::Migration::Available {
    ///     let _ = connection.migrate("echo", &()).await;
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn migration(&self, kind: &str) -> Migration {
        self.tracker.activity().migration(kind)
    }

    /// Passes this connection to the process that serves now, whose [`Starting::on_migrated`](crate::Starting::on_migrated) of the same
    /// kind picks it up together with `state` (as JSON). Its client notices nothing: the caller stops reading and writing
    /// at a point from which the other version can go on, and everything else that the other version has to know, such as
    /// bytes that were read and not dealt with, goes into `state`.
    ///
    /// At once; [`MigrationSlot::acquire`] tells when it is a good moment. Waits until it is known whether the connection can move. Not safe to cancel: a connection whose move is cancelled
    /// is closed if it did not arrive.
    ///
    /// # Errors
    /// [`NotMigrated`] with the connection: the process does not drain, the next version does not take this kind or knows
    /// nothing of moves, or it died before it had the connection. Serve on.
    pub async fn migrate(self, kind: &str, state: &(impl Serialize + Sync)) -> Result<(), NotMigrated> {
        match serde_json::to_vec(state) {
            Ok(state) => self.migrate_bytes(kind, state).await,
            Err(error) => {
                Err(NotMigrated { connection: self, why: format!("its state cannot be JSON: {error}") })
            }
        }
    }

    /// As [`Connection::migrate`], with state in the caller's own form; see
    /// [`Starting::on_migrated_bytes`](crate::Starting::on_migrated_bytes). At most [`MAX_STATE`] bytes.
    ///
    /// # Errors
    /// As [`Connection::migrate`].
    pub async fn migrate_bytes(self, kind: &str, state: Vec<u8>) -> Result<(), NotMigrated> {
        if state.len() > MAX_STATE {
            self.tracker.stays();
            let why = format!("its state has {} bytes, at most {MAX_STATE} move", state.len());
            return Err(NotMigrated { connection: self, why });
        }
        let mut drain = self.drain();
        let begun = Instant::now();
        while self.migration(kind) == Migration::Pending && begun.elapsed() < UNKNOWN {
            // The answer comes with a change, or the time for it is over.
            let _ = tokio::time::timeout(ASK_AGAIN, drain.changed()).await;
        }
        let why = match self.migration(kind) {
            Migration::Available => None,
            Migration::Pending => Some("the other process does not answer".to_owned()),
            Migration::Unavailable => Some(format!("nobody takes connections of kind {kind:?}")),
        };
        if let Some(why) = why {
            self.tracker.stays();
            return Err(NotMigrated { connection: self, why });
        }
        let table = self.tracker.connections();
        let (reply, moved) = oneshot::channel();
        let migration = MigrationRequest { connection: self, kind: kind.into(), state, reply };
        if let Err(migration) = table.send(migration) {
            let why = "the runtime is shutting down".to_owned();
            return Err(NotMigrated { connection: migration.connection, why });
        }
        match moved.await {
            Ok(Err(connection)) => {
                connection.tracker.stays();
                Err(NotMigrated {
                    connection: *connection,
                    why: "the other process did not take it".to_owned(),
                })
            }
            // Without an answer the driver is gone, and the connection with it.
            Ok(Ok(())) | Err(_) => Ok(()),
        }
    }

    pub(crate) fn socket(&self) -> &Arc<Socket> {
        &self.socket
    }

    pub(crate) fn tracker(&self) -> &Tracker {
        &self.tracker
    }

    /// Whether bytes wait to be read (or the end of the stream), without reading them.
    #[must_use]
    pub fn is_readable(&self) -> bool {
        let mut byte = [std::mem::MaybeUninit::uninit()];
        match &*self.socket {
            Socket::Tcp(stream) => SockRef::from(stream).peek(&mut byte).is_ok(),
            Socket::Unix(stream) => SockRef::from(stream).peek(&mut byte).is_ok(),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = self.socket.poll_read(cx, buf);
        if buf.filled().len() > before {
            self.tracker.heard();
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.socket.poll_write(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.socket.poll_write(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let done = match &*self.socket {
            Socket::Tcp(stream) => SockRef::from(stream).shutdown(Shutdown::Write),
            Socket::Unix(stream) => SockRef::from(stream).shutdown(Shutdown::Write),
        };
        // As tokio does: a client that is gone already is not an error of ours.
        Poll::Ready(done.or_else(|error| match error.kind() {
            io::ErrorKind::NotConnected => Ok(()),
            _ => Err(error),
        }))
    }
}
