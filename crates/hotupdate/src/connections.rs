//! The live table: every open connection of this process, what it does, and how many there are.
//!
//! Deliberately absent: reading and writing, see [`crate::connection`]; deciding when to drain, see [`crate::driver`].

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

use hotupdate_proto::{ConnectionRow, ConnectionState, Summary};
use tokio::sync::{Notify, watch};

use crate::address::Address;
use crate::connection::Socket;
use crate::drain::{Drain, Phase};

/// The next version forgets rows by these ids. What does not fit goes with the predecessor itself.
const MAX_CLOSED: usize = 20_000;

/// Every open connection of this process. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Connections {
    table: Arc<Table>,
}

#[derive(Debug)]
struct Table {
    rows: Mutex<HashMap<u64, Arc<Row>>>,
    last_id: AtomicU64,
    /// By [`ConnectionState`]; kept up to date with every change, because a release cannot wait for 100,000 rows.
    counts: [AtomicU64; 3],
    totals: Totals,
    phase: watch::Sender<Phase>,
    empty: Notify,
    /// Ids of connections that ended since a drain began and nobody was told of.
    closed: Mutex<Vec<u64>>,
}

#[derive(Debug, Default)]
struct Totals {
    accepted: AtomicU64,
    forced: AtomicU64,
    requests: AtomicU64,
}

/// One open connection.
#[derive(Debug)]
pub(crate) struct Row {
    id: u64,
    listener: Arc<str>,
    peer: Address,
    local: Address,
    accepted_ms: u64,
    protocol: Mutex<&'static str>,
    requests: AtomicU64,
    activity: AtomicU64,
    forced: AtomicBool,
    socket: Weak<Socket>,
}

impl Default for Connections {
    fn default() -> Self {
        let table = Table {
            rows: Mutex::default(),
            last_id: AtomicU64::new(0),
            counts: Default::default(),
            totals: Totals::default(),
            phase: watch::Sender::new(Phase::Serving),
            empty: Notify::new(),
            closed: Mutex::default(),
        };
        Self { table: Arc::new(table) }
    }
}

impl Connections {
    /// How many connections are open, by state.
    #[must_use]
    pub fn summary(&self) -> Summary {
        // A change is two steps, so for an instant a count can be one too low, below zero.
        let count = |count: &AtomicU64| u64::try_from(count.load(Relaxed).cast_signed()).unwrap_or(0);
        let [idle, active, upgraded] = self.table.counts.each_ref().map(count);
        Summary { idle, active, upgraded }
    }

    /// Connections accepted since the start of the process.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.table.totals.accepted.load(Relaxed)
    }

    /// Requests served since the start of the process.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.table.totals.requests.load(Relaxed)
    }

    /// Connections that were closed at the deadline of a drain.
    #[must_use]
    pub fn forced(&self) -> u64 {
        self.table.totals.forced.load(Relaxed)
    }

    /// Tells what the process wants of its connections.
    #[must_use]
    pub fn drain(&self) -> Drain {
        Drain::new(self.table.phase.subscribe())
    }

    /// A row for each connection, oldest first.
    #[must_use]
    pub fn rows(&self) -> Vec<ConnectionRow> {
        let mut rows: Vec<_> = self.table.rows().values().map(|row| row.describe()).collect();
        rows.sort_unstable_by_key(|row| row.id);
        rows
    }

    /// Resolves when no connection is open.
    pub async fn empty(&self) {
        loop {
            let empty = self.table.empty.notified();
            if self.table.rows().is_empty() {
                return;
            }
            empty.await;
        }
    }

    pub(crate) fn insert(
        &self,
        listener: &Arc<str>,
        peer: Address,
        local: Address,
        socket: &Arc<Socket>,
    ) -> Tracker {
        let id = self.table.last_id.fetch_add(1, Relaxed) + 1;
        let accepted = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let row = Arc::new(Row {
            id,
            listener: listener.clone(),
            peer,
            local,
            accepted_ms: u64::try_from(accepted.as_millis()).unwrap_or(u64::MAX),
            protocol: Mutex::new("raw"),
            requests: AtomicU64::new(0),
            activity: AtomicU64::new(0),
            forced: AtomicBool::new(false),
            socket: Arc::downgrade(socket),
        });
        self.table.totals.accepted.fetch_add(1, Relaxed);
        self.table.counts[ConnectionState::Idle as usize].fetch_add(1, Relaxed);
        self.table.rows().insert(id, row.clone());
        Tracker { row, table: self.table.clone() }
    }

    pub(crate) fn set_phase(&self, phase: Phase) {
        self.table.phase.send_replace(phase);
    }

    /// Ids of connections that ended since the last call, at most [`MAX_CLOSED`].
    pub(crate) fn take_closed(&self) -> Vec<u64> {
        std::mem::take(&mut self.table.closed.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Shuts down every connection that is left; their owners read end-of-file and let go. Returns how many there were.
    pub(crate) fn force(&self) -> u64 {
        self.set_phase(Phase::Forced);
        let rows: Vec<_> = self.table.rows().values().cloned().collect();
        for row in &rows {
            if !row.forced.swap(true, Relaxed) {
                self.table.totals.forced.fetch_add(1, Relaxed);
            }
            if let Some(socket) = row.socket.upgrade() {
                socket.shut_down();
            }
        }
        self.forced()
    }
}

impl Table {
    fn rows(&self) -> MutexGuard<'_, HashMap<u64, Arc<Row>>> {
        // Nothing in here can panic half-way through a change.
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn moved(&self, from: ConnectionState, to: ConnectionState) {
        if from != to {
            self.counts[to as usize].fetch_add(1, Relaxed);
            self.counts[from as usize].fetch_sub(1, Relaxed);
        }
    }
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
    fn state(&self) -> ConnectionState {
        state(self.activity.load(Relaxed))
    }

    fn describe(&self) -> ConnectionRow {
        ConnectionRow {
            id: self.id,
            listener: self.listener.to_string(),
            peer: self.peer.to_string(),
            local: self.local.to_string(),
            protocol: (*self.protocol.lock().unwrap_or_else(PoisonError::into_inner)).to_owned(),
            accepted_ms: self.accepted_ms,
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
    row: Arc<Row>,
    table: Arc<Table>,
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

    /// What the process wants of this connection.
    #[must_use]
    pub fn drain(&self) -> Drain {
        Drain::new(self.table.phase.subscribe())
    }
}

impl Drop for Tracker {
    fn drop(&mut self) {
        let Self { row, table } = self;
        let before = state(row.activity.fetch_or(GONE, Relaxed));
        table.counts[before as usize].fetch_sub(1, Relaxed);
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
        *self.row.protocol.lock().unwrap_or_else(PoisonError::into_inner) = protocol;
    }

    /// A request began; it ends when the returned value is dropped.
    #[must_use]
    pub fn request(&self) -> Request {
        self.row.requests.fetch_add(1, Relaxed);
        self.table.totals.requests.fetch_add(1, Relaxed);
        let before = self.row.activity.fetch_add(1, Relaxed);
        self.changed(before, before + 1);
        Request { activity: self.clone() }
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
        if !self.row.forced.swap(true, Relaxed) {
            self.table.totals.forced.fetch_add(1, Relaxed);
        }
    }

    fn changed(&self, before: u64, after: u64) {
        if before & GONE == 0 {
            self.table.moved(state(before), state(after));
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
