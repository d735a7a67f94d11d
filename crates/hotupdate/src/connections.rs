//! The live table: every open connection of this process, what it does, and how many there are.
//!
//! Deliberately absent: reading and writing, see [`crate::connection`]; deciding when to drain, see `driver.rs`.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use hotupdate_proto::{ConnectionRow, ConnectionState, Generation, Kind, Summary, Totals};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;

use crate::accepted::Accepted;
use crate::address::Address;
use crate::connection::{Parcel, Socket};
use crate::drain::{Drain, Phase};
use crate::meters::{self, Meters};

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
    /// Who came and who went, always in balance. Not taken from the rows, because a release cannot wait for 100,000 of them.
    ledger: Mutex<Totals>,
    /// Those of the open connections that are not idle; kept up to date with every change.
    active: AtomicU64,
    upgraded: AtomicU64,
    requests: AtomicU64,
    meters: Meters,
    phase: watch::Sender<Phase>,
    empty: Notify,
    /// What is known of the kinds that the process that serves picks up.
    taken: Mutex<Taken>,
    parcels: mpsc::UnboundedSender<Parcel>,
    /// Ids of connections that ended since a drain began and nobody was told of.
    closed: Mutex<Vec<u64>>,
}

/// Whether connections of a kind can move to the process that serves now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moves {
    /// They stay.
    No,
    /// The other process has not said that it takes them, and may do so in a moment.
    Expected,
    /// They can.
    Yes,
}

/// Nothing, and nothing expected: no drain, or a peer that knows nothing of moves.
#[derive(Debug, Default)]
struct Taken {
    kinds: Vec<Kind>,
    /// Until then more may be named: an application says what it picks up one kind after the other.
    until: Option<Instant>,
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Migrated,
    Finished,
    Closed,
    Forced,
}

/// One open connection.
#[derive(Debug)]
pub(crate) struct Row {
    id: u64,
    listener: Arc<str>,
    peer: Address,
    local: Address,
    accepted: Accepted,
    protocol: Mutex<Cow<'static, str>>,
    requests: AtomicU64,
    activity: AtomicU64,
    /// Its end, when it comes, was asked for by a drain.
    closing: AtomicBool,
    socket: Weak<Socket>,
}

impl Connections {
    /// An empty table, and what connections that want to move are put into.
    pub(crate) fn new(generation: Generation) -> (Self, mpsc::UnboundedReceiver<Parcel>) {
        let (parcels, queue) = mpsc::unbounded_channel();
        let table = Table {
            rows: Mutex::default(),
            last_id: AtomicU64::new(0),
            ledger: Mutex::default(),
            active: AtomicU64::new(0),
            upgraded: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            meters: Meters::new(generation),
            phase: watch::Sender::new(Phase::Serving),
            empty: Notify::new(),
            taken: Mutex::default(),
            parcels,
            closed: Mutex::default(),
        };
        (Self { table: Arc::new(table) }, queue)
    }

    /// How many connections are open, by state.
    #[must_use]
    pub fn summary(&self) -> Summary {
        self.snapshot().0
    }

    /// What became of all connections since the start of the process.
    #[must_use]
    pub fn totals(&self) -> Totals {
        Totals { requests: self.table.requests.load(Relaxed), ..*self.table.ledger() }
    }

    /// Both at the same moment: the totals say how many are open, and the summary says in which states they are.
    pub(crate) fn snapshot(&self) -> (Summary, Totals) {
        let totals = self.totals();
        // A change of state is two steps, so for an instant a count can be one too low, below zero, or too high.
        let count = |count: &AtomicU64| u64::try_from(count.load(Relaxed).cast_signed()).unwrap_or(0);
        let open = totals.open();
        let active = count(&self.table.active).min(open);
        let upgraded = count(&self.table.upgraded).min(open - active);
        (Summary { idle: open - active - upgraded, active, upgraded }, totals)
    }

    /// Connections accepted since the start of the process.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.totals().accepted
    }

    /// Connections that came from another process.
    #[must_use]
    pub fn adopted(&self) -> u64 {
        self.totals().adopted
    }

    /// Connections that moved to another process.
    #[must_use]
    pub fn moved(&self) -> u64 {
        self.totals().migrated
    }

    /// Connections that ended by themselves: their client left, or their handler finished.
    #[must_use]
    pub fn finished(&self) -> u64 {
        self.totals().finished
    }

    /// Connections that were closed politely because of a drain, see [`Activity::closing`].
    #[must_use]
    pub fn closed(&self) -> u64 {
        self.totals().closed
    }

    /// Requests served since the start of the process.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.totals().requests
    }

    /// Connections that were closed at the deadline of a drain.
    #[must_use]
    pub fn forced(&self) -> u64 {
        self.totals().forced
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
        let row = self.row(listener.clone(), peer, local, Accepted::now(), 0, "raw".into(), socket);
        self.enter(row, meters::Event::Accepted)
    }

    #[allow(clippy::too_many_arguments, reason = "a row has that many columns")]
    fn row(
        &self,
        listener: Arc<str>,
        peer: Address,
        local: Address,
        accepted: Accepted,
        requests: u64,
        protocol: Cow<'static, str>,
        socket: &Arc<Socket>,
    ) -> Row {
        Row {
            id: self.table.last_id.fetch_add(1, Relaxed) + 1,
            listener,
            peer,
            local,
            accepted,
            protocol: Mutex::new(protocol),
            requests: AtomicU64::new(requests),
            activity: AtomicU64::new(0),
            closing: AtomicBool::new(false),
            socket: Arc::downgrade(socket),
        }
    }

    fn enter(&self, row: Row, how: meters::Event) -> Tracker {
        let row = Arc::new(row);
        self.table.enter(how);
        self.table.rows().insert(row.id, row.clone());
        Tracker { row, table: self.table.clone() }
    }

    /// A connection that came from another process: its history goes on.
    pub(crate) fn adopt(&self, row: ConnectionRow, socket: &Arc<Socket>) -> Tracker {
        let address = |text: &str| match text.parse() {
            Ok(ip) => Address::Ip(ip),
            Err(_) if text.is_empty() => Address::Unix(None),
            Err(_) => Address::Unix(Some(text.into())),
        };
        let (peer, local) = (address(&row.peer), address(&row.local));
        let ConnectionRow { listener, protocol, accepted_ms, requests, .. } = row;
        let accepted = Accepted::at(accepted_ms);
        let row =
            self.row(listener.as_str().into(), peer, local, accepted, requests, protocol.into(), socket);
        self.enter(row, meters::Event::Adopted)
    }

    /// Tells what is counted here.
    pub(crate) fn meters(&self) -> &Meters {
        &self.table.meters
    }

    /// The next version may say what it takes until then.
    pub(crate) fn expect_moves(&self, until: Instant) {
        *self.table.taken() = Taken { kinds: Vec::new(), until: Some(until) };
        self.look_again();
    }

    /// The other process takes these kinds; `None` if nothing moves any more.
    pub(crate) fn set_taken(&self, kinds: Option<Vec<Kind>>) {
        match kinds {
            Some(kinds) => self.table.taken().kinds = kinds,
            None => *self.table.taken() = Taken::default(),
        }
        self.look_again();
    }

    /// Everybody looks again.
    fn look_again(&self) {
        self.table.phase.send_modify(|_| {});
    }

    pub(crate) fn send(&self, parcel: Parcel) -> Result<(), Box<Parcel>> {
        self.table.parcels.send(parcel).map_err(|unsent| Box::new(unsent.0))
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
            self.table.end(row, End::Forced);
            if let Some(socket) = row.socket.upgrade() {
                socket.shut_down();
            }
        }
        self.forced()
    }
}

impl Table {
    fn taken(&self) -> MutexGuard<'_, Taken> {
        // Replaced as a whole.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rows(&self) -> MutexGuard<'_, HashMap<u64, Arc<Row>>> {
        // Nothing in here can panic half-way through a change.
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ledger(&self) -> MutexGuard<'_, Totals> {
        // One number changes at a time.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, how: meters::Event) {
        match how {
            meters::Event::Adopted => self.ledger().adopted += 1,
            _ => self.ledger().accepted += 1,
        }
        self.meters.count(how);
        self.meters.state(None, Some(ConnectionState::Idle));
    }

    /// A connection ends. Only the first end counts, and nothing that happens to it afterwards.
    fn end(&self, row: &Row, end: End) {
        let before = row.activity.fetch_or(GONE, Relaxed);
        if before & GONE != 0 {
            return;
        }
        // In this order: an open connection may be counted as idle for an instant, one that is gone never as open.
        self.count(state(before), -1);
        let mut ledger = self.ledger();
        let (total, event) = match end {
            End::Migrated => (&mut ledger.migrated, meters::Event::Migrated),
            End::Finished => (&mut ledger.finished, meters::Event::Finished),
            End::Closed => (&mut ledger.closed, meters::Event::Closed),
            End::Forced => (&mut ledger.forced, meters::Event::Forced),
        };
        *total += 1;
        drop(ledger);
        self.meters.count(event);
        self.meters.state(Some(state(before)), None);
    }

    fn changed(&self, from: ConnectionState, to: ConnectionState) {
        if from != to {
            self.count(to, 1);
            self.count(from, -1);
            self.meters.state(Some(from), Some(to));
        }
    }

    /// Idle is what is open and not counted here.
    fn count(&self, state: ConnectionState, by: i64) {
        let by = by.cast_unsigned();
        match state {
            ConnectionState::Idle => {}
            ConnectionState::Active => drop(self.active.fetch_add(by, Relaxed)),
            ConnectionState::Upgraded => drop(self.upgraded.fetch_add(by, Relaxed)),
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
            protocol: self.protocol.lock().unwrap_or_else(PoisonError::into_inner).to_string(),
            accepted_ms: self.accepted.ms(),
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

    /// The row, as it is told to other processes.
    pub(crate) fn describe(&self) -> ConnectionRow {
        self.row.describe()
    }

    pub(crate) fn connections(&self) -> Connections {
        Connections { table: self.table.clone() }
    }

    /// The other process has it.
    pub(crate) fn migrated(&self) {
        self.table.end(&self.row, End::Migrated);
    }
}

impl Drop for Tracker {
    fn drop(&mut self) {
        let Self { row, table } = self;
        table.end(row, if row.closing.load(Relaxed) { End::Closed } else { End::Finished });
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
        *self.row.protocol.lock().unwrap_or_else(PoisonError::into_inner) = protocol.into();
    }

    /// A request began; it ends when the returned value is dropped.
    #[must_use]
    pub fn request(&self) -> Request {
        self.row.requests.fetch_add(1, Relaxed);
        self.table.requests.fetch_add(1, Relaxed);
        self.table.meters.request();
        let before = self.row.activity.fetch_add(1, Relaxed);
        self.changed(before, before + 1);
        Request { activity: self.clone() }
    }

    /// Whether connections of this kind, and of this listener, can move.
    #[must_use]
    pub fn moves(&self, kind: &str) -> Moves {
        let fits = |taken: &Kind| {
            taken.kind == kind
                && taken.listener.as_ref().is_none_or(|listener| **listener == *self.row.listener)
        };
        let taken = self.table.taken();
        if taken.kinds.iter().any(fits) {
            Moves::Yes
        } else if taken.until.is_some_and(|until| Instant::now() < until) {
            Moves::Expected
        } else {
            Moves::No
        }
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
        self.table.end(&self.row, End::Forced);
    }

    /// The owner tells the client to leave, or closes, because the process drains: the end of this connection is counted as
    /// `closed` and not as `finished`.
    pub fn closing(&self) {
        self.row.closing.store(true, Relaxed);
    }

    fn changed(&self, before: u64, after: u64) {
        if before & GONE == 0 {
            self.table.changed(state(before), state(after));
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
