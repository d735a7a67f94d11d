//! What a connection does, as its owner reports it.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use hotupdate_proto::ConnectionKind;
use smol_str::SmolStr;
use tokio::time::Instant;

use super::drain::Drain;
use super::queue::{MigrationSlot, Queue};
use super::table::Table;
use super::tracker::{GONE, Row, UPGRADED, state};
use crate::metrics::Event;

/// Whether connections of a kind can move to the process that serves now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Migration {
    /// They stay.
    Unavailable,
    /// The other process has not said that it takes them, and may do so in a moment.
    Pending,
    /// They can.
    Available,
}

/// Records what a connection does. Cheap to clone; a record of a connection that is gone changes nothing.
#[derive(Clone, Debug)]
pub struct ConnectionActivity {
    pub(super) row: Arc<Row>,
    pub(super) table: Arc<Table>,
}

impl ConnectionActivity {
    /// What is spoken: `http/1.1`, `h2`, `websocket`, `raw`, or a word of the application.
    pub fn set_protocol(&self, protocol: &'static str) {
        *self.row.protocol.lock().unwrap_or_else(PoisonError::into_inner) = SmolStr::new_static(protocol);
    }

    /// A request began; it ends when the returned value is dropped.
    #[must_use]
    pub fn begin_request(&self) -> RequestGuard {
        self.row.requests.fetch_add(1, Relaxed);
        self.table.ledger.request();
        let before = self.row.activity.fetch_add(1, Relaxed);
        self.changed(before, before + 1);
        RequestGuard { activity: self.clone() }
    }

    /// Whether connections of this kind, and of this listener, can move.
    #[must_use]
    pub fn migration(&self, kind: &str) -> Migration {
        self.migration_if(|taken| taken == kind)
    }

    fn migration_if(&self, wanted: impl Fn(&str) -> bool) -> Migration {
        let fits = |taken: &ConnectionKind| {
            wanted(&taken.kind)
                && taken.listener.as_ref().is_none_or(|listener| *listener == self.row.listener)
        };
        let taken = self.table.taken();
        let until = match taken.hangs {
            None if taken.kinds.iter().any(fits) => return Migration::Available,
            Some(until) if taken.kinds.iter().any(fits) => Some(until),
            _ => taken.until,
        };
        if until.is_some_and(|until| Instant::now() < until) {
            Migration::Pending
        } else {
            Migration::Unavailable
        }
    }

    /// Whether connections of a kind that begins like this, and of this listener, can move.
    #[must_use]
    pub fn migration_any(&self, beginning: &str) -> Migration {
        self.migration_if(|kind| kind.starts_with(beginning))
    }

    /// What the process wants of this connection.
    #[must_use]
    pub fn drain(&self) -> Drain {
        Drain::new(self.table.phase.subscribe())
    }

    /// The connection's place in the queue of those that move.
    #[must_use]
    pub fn migration_slot(&self) -> MigrationSlot {
        MigrationSlot::new(self.clone())
    }

    pub(crate) fn queue(&self) -> &Queue {
        &self.table.queue
    }

    /// Since the client said something here.
    pub(crate) fn silence(&self) -> Duration {
        match self.row.heard.load(Relaxed) {
            0 => Duration::MAX,
            heard => Duration::from_millis(self.table.millis().saturating_sub(heard)),
        }
    }

    /// Whether nothing has changed since it could not move.
    pub(crate) fn stays(&self) -> bool {
        self.row.stays.load(Relaxed) == self.table.changes.load(Relaxed)
    }

    /// How many requests are in flight.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        // Fits: the flags are cut off, and nobody has 2^32 requests in flight on a connection.
        (self.row.activity.load(Relaxed) & u64::from(u32::MAX)) as u32
    }

    /// How many requests there have been.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.row.requests.load(Relaxed)
    }

    /// The conversation is no longer one of requests and responses.
    pub fn set_upgraded(&self, protocol: &'static str) {
        self.set_protocol(protocol);
        let before = self.row.activity.fetch_or(UPGRADED, Relaxed);
        self.changed(before, before | UPGRADED);
    }

    /// Counts a connection that its owner closed at the deadline.
    pub fn set_forced(&self) {
        self.table.end(&self.row, Event::Forced);
    }

    /// The owner tells the client to leave, or closes, because the process drains: the end of this connection is counted as
    /// `closed` and not as `finished`.
    pub fn set_closing(&self) {
        self.row.closing.store(true, Relaxed);
    }

    fn changed(&self, before: u64, after: u64) {
        if before & GONE == 0 {
            self.table.ledger.changed(state(before), state(after));
        }
    }
}

/// A request in flight.
#[derive(Debug)]
pub struct RequestGuard {
    activity: ConnectionActivity,
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        let before = self.activity.row.activity.fetch_sub(1, Relaxed);
        self.activity.changed(before, before - 1);
    }
}
