//! One row of the live table, and those who keep it right.
//!
//! Deliberately absent: reading and writing, see [`crate::connection`].

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use hotupdate_proto::{ConnectionKind, ConnectionRow, ConnectionState};
use smol_str::{SmolStr, ToSmolStr as _};
use tokio::time::Instant;

use super::{Connections, MAX_CLOSED, Moves, Table};
use crate::address::Address;
use crate::connection::Socket;
use crate::drain::{Drain, Phase};
use crate::exit::{Exit, Queue};
use crate::meters::Event;

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
const UPGRADED: u64 = 1 << 62;
/// The connection is gone; what a straggler does is not counted any more.
const GONE: u64 = 1 << 63;

fn state(activity: u64) -> ConnectionState {
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
            age_ms: super::age_ms(self.accepted),
            requests: self.requests.load(Relaxed),
            state: self.state(),
        }
    }
}

/// Keeps the row of one connection right. The row is there as long as this value.
///
/// Purposefully not `Clone`: the end of the tracker is the end of the connection.
#[derive(Debug)]
pub struct Tracker {
    pub(super) row: Arc<Row>,
    pub(super) table: Arc<Table>,
}

impl Tracker {
    /// The connection's number, unique in this process.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.row.id
    }

    /// The client's address.
    #[must_use]
    pub fn peer(&self) -> &Address {
        &self.row.peer
    }

    /// The address that the client connected to.
    #[must_use]
    pub fn local(&self) -> &Address {
        &self.row.local
    }

    /// A handle that can change the row and does not keep it.
    #[must_use]
    pub fn activity(&self) -> Activity {
        Activity { row: self.row.clone(), table: self.table.clone() }
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

/// Records what a connection does. Cheap to clone; a record of a connection that is gone changes nothing.
#[derive(Clone, Debug)]
pub struct Activity {
    row: Arc<Row>,
    table: Arc<Table>,
}

impl Activity {
    /// What is spoken: `http/1.1`, `h2`, `websocket`, `raw`, or a word of the application.
    pub fn protocol(&self, protocol: &'static str) {
        *self.row.protocol.lock().unwrap_or_else(PoisonError::into_inner) = SmolStr::new_static(protocol);
    }

    /// A request began; it ends when the returned value is dropped.
    #[must_use]
    pub fn request(&self) -> Request {
        self.row.requests.fetch_add(1, Relaxed);
        self.table.ledger.request();
        let before = self.row.activity.fetch_add(1, Relaxed);
        self.changed(before, before + 1);
        Request { activity: self.clone() }
    }

    /// Whether connections of this kind, and of this listener, can move.
    #[must_use]
    pub fn moves(&self, kind: &str) -> Moves {
        self.moves_if(|taken| taken == kind)
    }

    fn moves_if(&self, wanted: impl Fn(&str) -> bool) -> Moves {
        let fits = |taken: &ConnectionKind| {
            wanted(&taken.kind)
                && taken.listener.as_ref().is_none_or(|listener| *listener == self.row.listener)
        };
        let taken = self.table.taken();
        let until = match taken.hangs {
            None if taken.kinds.iter().any(fits) => return Moves::Yes,
            Some(until) if taken.kinds.iter().any(fits) => Some(until),
            _ => taken.until,
        };
        if until.is_some_and(|until| Instant::now() < until) { Moves::Expected } else { Moves::No }
    }

    /// Whether connections of a kind that begins like this, and of this listener, can move.
    #[must_use]
    pub fn moves_any(&self, beginning: &str) -> Moves {
        self.moves_if(|kind| kind.starts_with(beginning))
    }

    /// What the process wants of this connection.
    #[must_use]
    pub fn drain(&self) -> Drain {
        Drain::new(self.table.phase.subscribe())
    }

    /// The connection's place in the queue of those that move.
    #[must_use]
    pub fn exit(&self) -> Exit {
        Exit::new(self.clone())
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
    pub fn upgraded(&self, protocol: &'static str) {
        self.protocol(protocol);
        let before = self.row.activity.fetch_or(UPGRADED, Relaxed);
        self.changed(before, before | UPGRADED);
    }

    /// Counts a connection that its owner closed at the deadline.
    pub fn forced(&self) {
        self.table.end(&self.row, Event::Forced);
    }

    /// The owner tells the client to leave, or closes, because the process drains: the end of this connection is counted as
    /// `closed` and not as `finished`.
    pub fn closing(&self) {
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
pub struct Request {
    activity: Activity,
}

impl Drop for Request {
    fn drop(&mut self) {
        let before = self.activity.row.activity.fetch_sub(1, Relaxed);
        self.activity.changed(before, before - 1);
    }
}
