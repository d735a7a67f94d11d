//! One row of the live table, and those who keep it right.
//!
//! Deliberately absent: reading and writing, see [`crate::connection`].

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use hotupdate_proto::{ConnectionRow, ConnectionState};
use smol_str::{SmolStr, ToSmolStr as _};
use tokio::time::Instant;

use super::activity::ConnectionActivity;
use super::drain::Phase;
use super::socket::Socket;
use super::table::{Connections, MAX_CLOSED, Table};
use crate::address::Address;
use crate::metrics::Event;

/// One open connection.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) id: u64,
    pub(super) listener: SmolStr,
    pub(super) peer: Address,
    pub(super) local: Address,
    pub(super) accepted: Instant,
    pub(super) protocol: Mutex<SmolStr>,
    pub(super) requests: AtomicU64,
    pub(super) activity: AtomicU64,
    /// When its client said something last, in milliseconds after the table began, rounded up; 0: never here.
    pub(super) heard: AtomicU64,
    /// The change of the table at which it could not move.
    pub(super) stays: AtomicU64,
    /// Its end, when it comes, was asked for by a drain.
    pub(super) closing: AtomicBool,
    pub(super) socket: Weak<Socket>,
}

/// The activity of a row is one number, so that a change is one atomic step and counted exactly once, without a lock:
/// the requests in flight, and above them two flags.
pub(super) const UPGRADED: u64 = 1 << 62;
/// The connection is gone; what a straggler does is not counted any more.
pub(super) const GONE: u64 = 1 << 63;

pub(super) fn state(activity: u64) -> ConnectionState {
    match activity & !GONE {
        0 => ConnectionState::Idle,
        upgraded if upgraded & UPGRADED != 0 => ConnectionState::Upgraded,
        _ => ConnectionState::Active,
    }
}

impl Row {
    /// The state that it had, if this is its first end.
    pub(super) fn end(&self) -> Option<ConnectionState> {
        let before = self.activity.fetch_or(GONE, Relaxed);
        (before & GONE == 0).then(|| state(before))
    }

    fn state(&self) -> ConnectionState {
        state(self.activity.load(Relaxed))
    }

    pub(super) fn describe(&self) -> ConnectionRow {
        ConnectionRow {
            id: self.id,
            listener: self.listener.clone(),
            peer: self.peer.to_smolstr(),
            local: self.local.to_smolstr(),
            protocol: self.protocol.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            age_ms: super::table::age_ms(self.accepted),
            requests: self.requests.load(Relaxed),
            state: self.state(),
        }
    }
}

/// Keeps the row of one connection right. The row is there as long as this value.
///
/// Purposefully not `Clone`: the end of the tracker is the end of the connection.
#[derive(Debug)]
pub(crate) struct Tracker {
    pub(super) row: Arc<Row>,
    pub(super) table: Arc<Table>,
}

impl Tracker {
    /// The connection's number, unique in this process.
    pub(crate) fn id(&self) -> u64 {
        self.row.id
    }

    /// The client's address.
    pub(crate) fn peer_addr(&self) -> &Address {
        &self.row.peer
    }

    /// The address that the client connected to.
    pub(crate) fn local_addr(&self) -> &Address {
        &self.row.local
    }

    /// A handle that can change the row and does not keep it.
    pub(crate) fn activity(&self) -> ConnectionActivity {
        ConnectionActivity { row: self.row.clone(), table: self.table.clone() }
    }

    /// The row, as it is told to other processes.
    pub(crate) fn describe(&self) -> ConnectionRow {
        self.row.describe()
    }

    /// The client said something.
    pub(crate) fn heard(&self) {
        self.row.heard.store(self.table.millis(), Relaxed);
    }

    /// It could not move; it is not asked again before something changes.
    pub(crate) fn stays(&self) {
        self.row.stays.store(self.table.changes.load(Relaxed), Relaxed);
    }

    pub(crate) fn connections(&self) -> Connections {
        Connections { table: self.table.clone() }
    }

    /// The other process has it.
    pub(crate) fn migrated(&self) {
        self.table.end(&self.row, Event::Migrated);
    }
}

impl Drop for Tracker {
    fn drop(&mut self) {
        let Self { row, table } = self;
        table.end(row, if row.closing.load(Relaxed) { Event::Closed } else { Event::Finished });
        let mut rows = table.rows();
        rows.remove(&row.id);
        if *table.phase.borrow() != Phase::Serving {
            let mut closed = table.closed.lock().unwrap_or_else(PoisonError::into_inner);
            if closed.len() < MAX_CLOSED {
                closed.push(row.id);
            }
        }
        if rows.is_empty() {
            table.empty.notify_waiters();
        }
    }
}
