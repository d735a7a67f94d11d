//! What a connection does, as the code that serves it reports.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use tokio::time::Instant;

use super::changes::Changes;
use super::drain::Drain;
use super::ledger::GoAway;
use super::record::{Record, Status};
use super::slot::MigrationSlot;
use crate::address::Address;
use crate::metrics::Event;

/// Reports what a connection does, and asks what is known of it. Cheap to clone; a report about a connection
/// that is gone changes nothing.
///
/// ```
/// # fn example(connection: &hotupdate::Connection) {
/// let activity = connection.activity();
/// activity.set_protocol("lines");
/// let request = activity.begin_request(); // `hotctl connections` shows the connection as active
/// // … the answer …
/// drop(request);
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct ConnectionActivity {
    pub(super) record: Arc<Record>,
}

impl ConnectionActivity {
    /// The connection's number, unique in this process.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.record.id
    }

    /// The client's address.
    #[must_use]
    pub fn peer_addr(&self) -> &Address {
        &self.record.peer
    }

    /// Whether bytes wait to be read (or the end of the stream), without reading them. `false` once the
    /// connection is gone.
    #[must_use]
    pub fn is_readable(&self) -> bool {
        self.record.socket.upgrade().is_some_and(|socket| socket.is_readable())
    }

    /// What is spoken: `http/1.1`, `h2`, `websocket`, `raw`, or a word of the application.
    pub fn set_protocol(&self, protocol: &'static str) {
        self.record.set_protocol(protocol);
    }

    /// A request begins; it ends when the returned value is dropped.
    #[inline]
    #[must_use = "the request ends when this is dropped"]
    pub fn begin_request(&self) -> RequestGuard {
        self.record.begin_request();
        RequestGuard { record: self.record.clone() }
    }

    /// How many requests are in flight.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.record.status().in_flight()
    }

    /// How many requests there have been, those in earlier versions included.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.record.requests.load(Relaxed)
    }

    /// The connection no longer carries requests and responses, but this.
    pub fn set_upgraded(&self, protocol: &'static str) {
        self.set_protocol(protocol);
        self.record.set(Status::UPGRADED);
    }

    /// Whether it was upgraded.
    #[doc(hidden)]
    #[inline]
    #[must_use]
    pub fn is_upgraded(&self) -> bool {
        self.record.status().has(Status::UPGRADED)
    }

    /// It carries only requests and responses again: one of its streams was upgraded, and has ended.
    #[doc(hidden)]
    pub fn set_upgrade_ended(&self) {
        self.record.take(Status::UPGRADED);
    }

    /// The connection is closed at the deadline of a drain: it counts as `forced`.
    pub fn set_forced(&self) {
        self.record.end(Event::Forced);
    }

    /// The client is told to leave, or the connection is closed, because the process drains: its end counts
    /// as `closed` and not as `finished`.
    pub fn set_closing(&self) {
        self.record.set(Status::CLOSING);
    }

    /// As [`ConnectionActivity::set_closing`], of a client that is told to leave with GOAWAY.
    #[doc(hidden)]
    pub fn set_goaway(&self, why: GoAway) {
        self.set_closing();
        self.record.table.ledger.goaway(why);
    }

    /// What the process wants of this connection.
    #[must_use]
    pub fn drain(&self) -> Drain {
        Drain::new(self.record.table.phase.subscribe())
    }

    /// As [`ConnectionActivity::drain`], for the one task that serves the connection.
    #[doc(hidden)]
    #[must_use]
    pub fn changes(&self) -> Changes {
        Changes::new(self.record.clone())
    }

    /// Whether connections are to come to an end.
    #[doc(hidden)]
    #[inline]
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.record.table.is_ending()
    }

    /// Whether this connection can migrate: the process drains, the one that serves now accepts connections
    /// of this kind and listener, and nothing has stopped this connection since that changed last.
    /// [`Drain::changed`] tells of changes.
    #[must_use]
    pub fn can_migrate(&self, kind: &str) -> bool {
        self.record.can_migrate(kind)
    }

    /// Whether connections of a kind that begins like this can migrate.
    #[doc(hidden)]
    #[must_use]
    pub fn can_migrate_any(&self, beginning: &str) -> bool {
        self.record.can_migrate_if(|accepted| accepted.starts_with(beginning))
    }

    /// A handshake of TLS has ended on this connection, for the metrics.
    #[doc(hidden)]
    pub fn tls_handshake(&self, version: &'static str, result: &'static str) {
        self.record.table.ledger.metrics().tls_handshake(version, result);
    }

    /// The connection cannot migrate as it is: as after a refusal, it does not try again before something
    /// changes.
    #[doc(hidden)]
    pub fn set_refused(&self) {
        self.record.set_refused(self.record.table.changes());
    }

    /// The process that serves takes no connections for now. After this moment they cannot migrate, if
    /// nothing changes.
    #[doc(hidden)]
    #[must_use]
    pub fn suspended_until(&self) -> Option<Instant> {
        self.record.table.accepted().suspended_until()
    }

    /// The connection's place in the queue of those that migrate.
    #[must_use]
    pub fn migration_slot(&self) -> MigrationSlot {
        MigrationSlot::new(self.record.clone())
    }
}

/// A request in flight; it ends when this is dropped.
#[derive(Debug)]
pub struct RequestGuard {
    record: Arc<Record>,
}

impl Drop for RequestGuard {
    #[inline]
    fn drop(&mut self) {
        self.record.end_request();
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::super::fixture::Fixture;

    #[tokio::test]
    async fn the_number_is_that_of_the_connection() {
        let fixture = Fixture::new();
        let (first, second) = (fixture.connection(), fixture.connection());
        let ids = [first.activity().id(), second.activity().id()];
        assert_eq!(ids, [first.id(), second.id()]);
        assert_ne!(ids[0], ids[1]);
    }

    #[tokio::test]
    async fn bytes_wait_until_the_connection_is_gone() {
        let (connection, mut client) = Fixture::new().accept();
        let activity = connection.activity();
        assert!(!activity.is_readable());
        client.write_all(b"a").await.unwrap();
        assert!(activity.is_readable());
        drop(connection);
        assert!(!activity.is_readable());
    }
}
