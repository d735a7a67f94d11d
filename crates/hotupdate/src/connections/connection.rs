//! A connection that was accepted: reads and writes, and is in the table as long as it is open.

use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use hotupdate_proto::migration::StateBytes;
use hotupdate_proto::{MigrationItem, ShortText};
use serde::Serialize;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::activity::ConnectionActivity;
use super::drain::Drain;
use super::record::Tracker;
use super::relay::{RelayPair, Relayed};
use super::slot::MigrationSlot;
use super::socket::{Reader, Socket, Stream};
use crate::address::Address;
use crate::metrics::Event;
use crate::platform::AsFd as _;

/// The most bytes of state that migrate with one connection.
pub const MAX_STATE: usize = hotupdate_proto::migration::MAX_BATCH_STATE;

/// A connection on its way to the driver.
pub(crate) struct MigrationRequest {
    pub(crate) connection: Connection,
    pub(crate) kind: ShortText,
    pub(crate) state: StateBytes,
    /// From then on it is served by no process, until it has migrated or comes back.
    pub(crate) since: Instant,
    /// The change of the table before which it was decided.
    seen: u64,
    /// Goes on with the connection if it stays. Dropped when it has migrated.
    stays: Stays,
    /// What is open on it stays here.
    pub(crate) relayed: Option<Relayed>,
}

/// Goes on with a connection in this process, and is told why it does not migrate, if it was to.
pub(super) type Stays = Box<dyn FnOnce(Connection, Option<String>) + Send>;

impl MigrationRequest {
    /// The other process did not take the connection.
    pub(crate) fn give_back(self) {
        let Self { connection, seen, stays, .. } = self;
        connection.stays(seen, "the other process did not take it".to_owned(), stays);
    }

    /// The other process has it: our copy is closed, and the kernel's socket lives on there.
    pub(crate) fn migrated(self) {
        let Self { connection, relayed, .. } = self;
        match relayed {
            None => connection.tracker.record.end(Event::Migrated),
            Some(relayed) => relayed.begin(connection),
        }
    }
}

/// A connection that stays where it is.
#[derive(Debug, thiserror::Error)]
#[error("the connection does not migrate: {why}")]
#[non_exhaustive]
pub struct NotMigrated {
    /// The connection, untouched.
    pub connection: Connection,
    /// One line for a person.
    pub why: String,
}

/// One accepted connection.
///
/// It is in the table of [`Connections`](super::Connections) until it is dropped. At the deadline of a drain
/// its socket is shut down: reads return end-of-file then, and writes fail.
#[derive(Debug)]
pub struct Connection {
    reader: Reader,
    socket: Arc<Socket>,
    tracker: Tracker,
}

impl Connection {
    pub(super) fn new(reader: Reader, socket: Arc<Socket>, tracker: Tracker) -> Self {
        Self { reader, socket, tracker }
    }

    /// The connection's number, unique in this process.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.tracker.record.id
    }

    /// The client's address.
    #[must_use]
    pub fn peer_addr(&self) -> &Address {
        &self.tracker.record.peer
    }

    /// The address that the client connected to.
    #[must_use]
    pub fn local_addr(&self) -> &Address {
        self.tracker.record.local_addr()
    }

    /// Records what the connection does.
    #[must_use]
    pub fn activity(&self) -> ConnectionActivity {
        ConnectionActivity { record: self.tracker.record.clone() }
    }

    /// What the process wants of this connection.
    #[must_use]
    pub fn drain(&self) -> Drain {
        self.activity().drain()
    }

    /// The connection's place in the queue of those that migrate.
    #[must_use]
    pub fn migration_slot(&self) -> MigrationSlot {
        self.activity().migration_slot()
    }

    /// Whether this connection can migrate: the process drains, and the one that serves now accepts
    /// connections of this kind.
    ///
    /// ```no_run
    /// # async fn example(connection: hotupdate::Connection) {
    /// if connection.can_migrate("echo") {
    ///     let _ = connection.migrate("echo", &()).await;
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn can_migrate(&self, kind: &str) -> bool {
        self.activity().can_migrate(kind)
    }

    /// Migrates this connection to the process that serves now, whose
    /// [`Starting::on_migrated`](crate::Starting::on_migrated) of the same kind goes on with it and with
    /// `state` (as JSON). Its client notices nothing: the caller stops reading and writing at a point from
    /// which the other version can go on, and everything else that the other version has to know, such as
    /// bytes that were read and not handled, goes into `state`.
    ///
    /// It begins at once; [`MigrationSlot::acquire`] tells when it is a good moment. Not safe to cancel: a
    /// connection whose migration is cancelled is closed if it did not arrive.
    ///
    /// # Errors
    /// [`NotMigrated`] with the connection, to serve on: the process does not drain, the next version does
    /// not accept this kind or cannot read the state, or it died before it had the connection.
    pub async fn migrate(self, kind: &str, state: &(impl Serialize + Sync)) -> Result<(), NotMigrated> {
        match serde_json::to_vec(state) {
            Ok(state) => self.migrate_bytes(kind, state).await,
            Err(error) => {
                self.set_refused(self.tracker.record.table.changes());
                Err(NotMigrated { connection: self, why: format!("its state cannot be JSON: {error}") })
            }
        }
    }

    /// As [`Connection::migrate`], with state in the caller's own form; see
    /// [`Starting::on_migrated_bytes`](crate::Starting::on_migrated_bytes). At most [`MAX_STATE`] bytes; they
    /// may hold keys, and are wiped wherever they were on their way.
    ///
    /// # Errors
    /// As [`Connection::migrate`].
    pub async fn migrate_bytes(self, kind: &str, state: Vec<u8>) -> Result<(), NotMigrated> {
        let (reply, answer) = oneshot::channel();
        // If the caller does not wait any more, the connection is closed.
        self.migrate_bytes_or(kind, state, move |stays| drop(reply.send(stays)));
        // Without an answer it has migrated; or the driver is gone, and the connection with it.
        answer.await.map_or(Ok(()), Err)
    }

    /// As [`Connection::migrate_bytes`], for a task that ends with that: there is nothing to wait for, and
    /// `stays` goes on with a connection that stays, in another task. It must not block.
    ///
    /// ```no_run
    /// # async fn serve(_: hotupdate::Connection) {}
    /// # fn example(connection: hotupdate::Connection) {
    /// connection.migrate_bytes_or("echo", Vec::new(), |stays| {
    ///     tokio::spawn(serve(stays.connection));
    /// });
    /// # }
    /// ```
    pub fn migrate_bytes_or(
        self,
        kind: &str,
        state: Vec<u8>,
        stays: impl FnOnce(NotMigrated) + Send + 'static,
    ) {
        let stays = |connection, why: Option<String>| {
            stays(NotMigrated { connection, why: why.unwrap_or_default() });
        };
        self.leave(kind.into(), state, Box::new(stays), None);
    }

    /// As [`Connection::migrate_bytes`], of a connection on which something is open that goes on here: the far
    /// end of the pair goes with it, and the near end is returned, in the row of the connection. `None` if the
    /// runtime is shutting down.
    ///
    /// # Errors
    /// As [`Connection::migrate`].
    #[doc(hidden)]
    pub async fn migrate_relayed(
        self,
        kind: &str,
        state: Vec<u8>,
        pair: RelayPair,
    ) -> Result<Option<Self>, NotMigrated> {
        let (relayed, goes_on) = pair.for_streams();
        let (reply, answer) = oneshot::channel();
        let stays = |connection, why: Option<String>| {
            drop(reply.send(NotMigrated { connection, why: why.unwrap_or_default() }));
        };
        self.leave(kind.into(), state, Box::new(stays), Some(relayed));
        match answer.await {
            Ok(stays) => Err(stays),
            Err(_) => Ok(goes_on.await.ok()),
        }
    }

    /// As [`Connection::migrate_bytes_or`].
    pub(super) fn leave(self, kind: ShortText, state: Vec<u8>, stays: Stays, relayed: Option<Relayed>) {
        let state = StateBytes::from(state);
        let record = self.tracker.record.clone();
        let table = &record.table;
        // Before anything is decided: a change from here on is a new chance.
        let seen = table.changes();
        if state.len() > MAX_STATE {
            let why = format!("its state has {} bytes, at most {MAX_STATE} migrate", state.len());
            return self.stays(seen, why, stays);
        }
        if !record.can_migrate(&kind) {
            let why = format!("no other process accepts connections of kind {kind:?}");
            return self.stays(seen, why, stays);
        }
        let since = Instant::now();
        let request = MigrationRequest { connection: self, kind, state, since, seen, stays, relayed };
        match table.migrations.send(request) {
            Ok(()) => table.queue.asked(&record),
            Err(unsent) => {
                let MigrationRequest { connection, seen, stays, .. } = unsent.0;
                connection.stays(seen, "the runtime is shutting down".to_owned(), stays);
            }
        }
    }

    fn stays(self, seen: u64, why: String, stays: Stays) {
        self.set_refused(seen);
        stays(self, Some(why));
    }

    fn set_refused(&self, seen: u64) {
        let record = &self.tracker.record;
        // In a pause no connection is refused: it stays for now, and has its chance afterwards.
        if record.table.accepted().suspended_until().is_none() {
            record.set_refused(seen);
        }
    }

    /// The connection as it goes on in another process, but for what its owner says of it.
    pub(crate) fn item(&self) -> MigrationItem {
        self.tracker.record.item(&self.socket)
    }

    /// Ready when bytes wait to be read, or the end of the stream, without reading them.
    #[doc(hidden)]
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.poll_readable(cx)
    }

    pub(crate) fn socket(&self) -> &Arc<Socket> {
        &self.socket
    }

    /// In the same row, with another socket.
    pub(super) fn over(self, stream: Stream) -> Self {
        let Self { tracker, .. } = self;
        let (reader, socket) = stream.split();
        tracker.record.table.opened(&socket);
        Self { reader, socket: Arc::new(socket), tracker }
    }

    pub(super) fn tracker(&self) -> &Tracker {
        &self.tracker
    }

    /// Whether bytes wait to be read (or the end of the stream), without reading them.
    #[must_use]
    pub fn is_readable(&self) -> bool {
        self.socket.is_readable()
    }
}

impl AsyncRead for Connection {
    #[inline(always)]
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(self.reader.poll_read(cx, buf))?;
        if buf.filled().len() > before {
            self.tracker.record.heard();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    #[inline]
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.socket.poll_write(cx, &[IoSlice::new(buf)])
    }

    #[inline]
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.socket.poll_write(cx, bufs)
    }

    #[inline]
    fn is_write_vectored(&self) -> bool {
        true
    }

    #[inline]
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let done = SockRef::from(&self.socket.as_fd()).shutdown(Shutdown::Write);
        // As tokio does: a client that is gone already is not an error of ours.
        Poll::Ready(done.or_else(|error| match error.kind() {
            io::ErrorKind::NotConnected => Ok(()),
            _ => Err(error),
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hotupdate_proto::Totals;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::super::Relay;
    use super::super::fixture::{Fixture, poll_once};
    use super::*;

    fn why(migrated: Result<(), NotMigrated>) -> String {
        migrated.expect_err("it stays").why
    }

    #[tokio::test]
    async fn a_connection_that_cannot_migrate_stays_and_says_why() {
        let mut fixture = Fixture::new();
        let migrate = |state: Vec<u8>| fixture.connection().migrate_bytes("echo", state);
        let nobody = "no other process accepts connections of kind \"echo\"";
        assert_eq!(why(migrate(Vec::new()).await), nobody);
        fixture.drain();
        fixture.accept_kind("another", None);
        assert_eq!(why(migrate(Vec::new()).await), nobody);
        fixture.accept_kind("echo", None);
        let too_long = format!("its state has {} bytes, at most {MAX_STATE} migrate", MAX_STATE + 1);
        assert_eq!(why(migrate(vec![0; MAX_STATE + 1]).await), too_long);
        assert!(poll_once(migrate(vec![0; MAX_STATE])).is_pending(), "it is on its way");
        let unreadable = std::collections::HashMap::from([((1, 2), 3)]);
        let stays = fixture.connection().migrate("echo", &unreadable).await.unwrap_err();
        assert!(stays.why.starts_with("its state cannot be JSON: "), "{}", stays.why);
        assert!(!stays.connection.can_migrate("echo"), "its state is the same until something changes");
        let request = fixture.migrations.try_recv().unwrap();
        assert_eq!((request.kind.as_str(), request.state.len()), ("echo", MAX_STATE));
        drop(fixture.migrations);
        let connection =
            fixture.connections.accept(&"test".into(), Address::Unix(None), Address::Unix(None), {
                Stream::Unix(tokio::net::UnixStream::pair().unwrap().0)
            });
        assert_eq!(why(connection.migrate("echo", &1).await), "the runtime is shutting down");
    }

    /// It asked to leave when the process that serves had just asked for a pause.
    #[tokio::test]
    async fn a_connection_that_comes_back_in_a_pause_is_not_told_to_leave() {
        let mut fixture = Fixture::new();
        fixture.drain();
        fixture.accept_kind("echo", None);
        fixture.connections.suspend_half(Duration::ZERO);
        let (migrated, ()) = tokio::join!(fixture.connection().migrate("echo", &1), async {
            fixture.migrations.recv().await.unwrap().give_back();
        });
        let stays = migrated.unwrap_err().connection;
        assert!(stays.can_migrate("echo"), "when the pause is over");
        fixture.accept_kind("echo", None);
        let (migrated, ()) = tokio::join!(stays.migrate("echo", &1), async {
            fixture.migrations.recv().await.unwrap().give_back();
        });
        assert!(!migrated.unwrap_err().connection.can_migrate("echo"), "it was refused");
    }

    #[tokio::test(start_paused = true)]
    async fn while_it_is_not_known_what_is_accepted_a_connection_may_try() {
        let fixture = Fixture::new();
        let second = Duration::from_secs(1);
        fixture.drain();
        fixture.connections.suspend_migration(Instant::now() + second);
        let connection = fixture.connection();
        assert!(connection.can_migrate("echo"), "as far as is known");
        assert_eq!(connection.activity().suspended_until(), Some(Instant::now() + second));
        tokio::time::advance(second).await;
        assert!(!connection.can_migrate("echo"), "it has not said anything in time");
        let begun = Instant::now();
        assert!(why(connection.migrate("echo", &1).await).starts_with("no other process accepts"));
        assert_eq!(begun.elapsed(), Duration::ZERO, "the answer is there at once");
        fixture.accept_kind("echo", None);
        assert!(fixture.connection().can_migrate("echo"));
        fixture.connections.suspend_migration(Instant::now() + second);
        let connection = fixture.connection();
        assert!(connection.can_migrate("echo") && !connection.can_migrate("another"));
        tokio::time::advance(second).await;
        assert!(!connection.can_migrate("echo"), "it has not gone on in time");
        fixture.connections.resume_migration();
        assert!(connection.can_migrate("echo") && connection.activity().suspended_until().is_none());
        assert!(connection.activity().can_migrate_any("ec") && !connection.activity().can_migrate_any("co"));
    }

    /// If the process that serves never answers, the other half is for the polite end.
    #[tokio::test(start_paused = true)]
    async fn a_process_that_hangs_is_waited_for_half_of_the_time_that_is_left() {
        let fixture = Fixture::new();
        let connection = fixture.connection();
        let minute = Duration::from_secs(60);
        fixture.connections.suspend_half(minute);
        let half = Instant::now() + minute / 2;
        assert_eq!(connection.activity().suspended_until(), Some(half), "of a drain that is about to begin");
        fixture.drain();
        fixture.accept_kind("echo", None);
        tokio::time::advance(Duration::from_secs(600)).await;
        fixture.connections.suspend_half(minute);
        let half = Instant::now() + Duration::from_secs(1500);
        assert_eq!(connection.activity().suspended_until(), Some(half));
    }

    #[tokio::test]
    async fn what_is_open_on_a_connection_goes_on_in_its_row() {
        let mut fixture = Fixture::new();
        fixture.drain();
        fixture.accept_kind("echo", None);
        let (connection, mut client) = fixture.accept();
        let (id, request) = (connection.id(), connection.activity().begin_request());
        let (stays, ()) =
            tokio::join!(connection.migrate_relayed("echo", Vec::new(), RelayPair::new().unwrap()), async {
                fixture.migrations.recv().await.unwrap().give_back();
            });
        let connection = stays.unwrap_err().connection;
        fixture.accept_kind("echo", None);
        let (migrated, far) =
            tokio::join!(connection.migrate_relayed("echo", Vec::new(), RelayPair::new().unwrap()), async {
                let request = fixture.migrations.recv().await.unwrap();
                let far = request.relayed.as_ref().unwrap().far.try_clone().unwrap();
                request.migrated();
                Relay::register(far).unwrap()
            });
        let (mut near, mut far) = (migrated.unwrap().unwrap(), far);
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0, "our copy is closed");
        near.write_all(b"near").await.unwrap();
        far.write_all(b"far").await.unwrap();
        let (mut of_near, mut of_far) = ([0; 4], [0; 3]);
        far.read_exact(&mut of_near).await.unwrap();
        near.read_exact(&mut of_far).await.unwrap();
        assert_eq!((&of_near, &of_far, near.id()), (b"near", b"far", id));
        assert_eq!(fixture.connections.summary().active, 1, "until its request has ended");
        drop((request, near));
        assert_eq!(far.read(&mut [0]).await.unwrap(), 0);
        let Totals { accepted, migrated, finished, relayed, .. } = fixture.connections.totals();
        assert_eq!((accepted, migrated, finished, relayed), (1, 0, 1, 1));
    }

    #[tokio::test]
    async fn how_a_connection_ends_is_counted_once() {
        let fixture = Fixture::new();
        let [finished, closed, forced, migrated] = [(); 4].map(|()| fixture.connection());
        closed.activity().set_closing();
        forced.activity().set_closing();
        forced.activity().set_forced();
        migrated.tracker.record.end(Event::Migrated);
        migrated.activity().set_closing();
        migrated.activity().set_forced();
        drop((finished, closed, forced, migrated));
        let Totals { accepted, finished, closed, forced, migrated, .. } = fixture.connections.totals();
        assert_eq!((accepted, finished, closed, forced, migrated), (4, 1, 1, 1, 1));
    }

    #[tokio::test]
    async fn ids_of_connections_that_ended_are_kept_while_the_process_drains() {
        let fixture = Fixture::new();
        let [before, after] = [(); 2].map(|()| fixture.connection());
        let (first, second) = (before.id(), after.id());
        assert_eq!((second, before.activity().id()), (first + 1, first));
        drop(before);
        assert!(fixture.connections.take_closed().is_empty(), "the next version has no row of it");
        fixture.drain();
        assert!(poll_once(fixture.connections.wait_until_empty()).is_pending());
        let empty = tokio::spawn({
            let connections = fixture.connections.clone();
            async move { connections.wait_until_empty().await }
        });
        tokio::task::yield_now().await;
        drop(after);
        tokio::time::timeout(Duration::from_secs(60), empty).await.expect("it is told").unwrap();
        assert_eq!(fixture.connections.take_closed(), [second]);
        assert!(fixture.connections.take_closed().is_empty());
    }

    #[tokio::test]
    async fn a_connection_that_migrated_goes_on_with_its_history() {
        let (old, new) = (Fixture::new(), Fixture::new());
        let (connection, _client) = old.accept();
        (0..3).for_each(|_| drop(connection.activity().begin_request()));
        connection.activity().set_protocol("lines");
        let mut item = connection.item();
        (item.age_ms, item.peer) = (5_000, "10.0.0.1:80".parse().unwrap());
        let socket = Stream::Unix(tokio::net::UnixStream::pair().unwrap().0);
        let arrived = new.connections.adopt([(item, socket)]).remove(0);
        assert_eq!(
            (arrived.peer_addr().to_string().as_str(), arrived.activity().requests()),
            ("10.0.0.1:80", 3)
        );
        let rows = new.connections.rows();
        assert_eq!((rows[0].protocol.as_str(), rows[0].requests), ("lines", 3));
        assert!((5_000..65_000).contains(&rows[0].age_ms), "{rows:?}");
        assert_eq!((new.connections.adopted(), new.connections.accepted()), (1, 0));
        assert_eq!(arrived.tracker().record.silence(), Duration::MAX, "nothing was said here");
    }

    /// In the process that accepted it and in the next one; and as long as nothing asks, neither is the
    /// kernel.
    #[tokio::test]
    async fn a_listener_on_every_address_has_connections_with_one_each() {
        let everywhere = Address::Ip("0.0.0.0:80".parse().unwrap());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Address::from(listener.local_addr().unwrap());
        let (fixture, mut clients) = (Fixture::new(), Vec::new());
        let mut connect = async || {
            clients.push(tokio::net::TcpStream::connect(address.ip().unwrap()).await.unwrap());
            Stream::Tcp(listener.accept().await.unwrap().0)
        };
        let connections = &fixture.connections;
        let accepted = connections.accept(&"test".into(), address.clone(), everywhere, connect().await);
        let arrived = connections.adopt([(accepted.item(), connect().await)]).remove(0);
        assert_eq!([accepted.local_addr(), arrived.local_addr()], [&address; 2]);
        let activity = accepted.activity();
        drop(accepted);
        assert_eq!(activity.record.local_addr(), &address, "it is known by now");
    }

    #[tokio::test]
    async fn what_is_left_at_the_deadline_is_shut_down_and_named() {
        let fixture = Fixture::new();
        let ((mut connection, _client), mut drain) = (fixture.accept(), fixture.connections.drain());
        let named = fixture.connections.force();
        assert_eq!(named.iter().map(|row| row.id).collect::<Vec<_>>(), [connection.id()]);
        assert_eq!(connection.read(&mut [0]).await.unwrap(), 0);
        assert!(poll_once(drain.forced()).is_ready());
        assert_eq!((fixture.connections.forced(), fixture.connections.summary().idle), (1, 0));
    }

    #[tokio::test]
    async fn what_the_client_sent_is_seen_without_reading_it() {
        let (mut connection, mut client) = Fixture::new().accept();
        assert!(!connection.is_readable());
        client.write_all(b"?").await.unwrap();
        assert!(connection.is_readable() && connection.is_readable());
        assert_eq!(connection.read_u8().await.unwrap(), b'?');
        assert!(!connection.is_readable());
        connection.shutdown().await.unwrap();
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
        drop(client);
        assert!(connection.is_readable(), "the end");
        connection.shutdown().await.unwrap();
        assert!(SockRef::from(&connection).take_error().is_ok());
    }
}
