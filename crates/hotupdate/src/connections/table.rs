//! The live table: every open connection of this process. What one of them does is kept in `connections/tracker.rs`, how
//! many there are in `connections/ledger.rs`.
//!
//! Deliberately absent: reading and writing, see [`crate::connection`]; deciding when to drain, see `driver.rs`.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hotupdate_proto::{ConnectionKind, ConnectionRow, Generation, Summary, Totals};
use smol_str::SmolStr;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;

use super::connection::MigrationRequest;
use super::drain::{Drain, Phase};
use super::ledger::Ledger;
use super::queue::Queue;
use super::socket::Socket;
use super::tracker::{Row, Tracker};
use crate::address::Address;
use crate::metrics::{Event, Metrics};

/// The next version forgets rows by these ids. What does not fit goes with the predecessor itself.
pub(super) const MAX_CLOSED: usize = 20_000;

/// Every open connection of this process. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Connections {
    pub(super) table: Arc<Table>,
}

#[derive(Debug)]
pub(super) struct Table {
    pub(super) rows: Mutex<HashMap<u64, Arc<Row>>>,
    pub(super) last_id: AtomicU64,
    pub(super) ledger: Ledger,
    pub(super) phase: watch::Sender<Phase>,
    pub(super) empty: Notify,
    /// What is known of the kinds that the process that serves picks up.
    pub(super) taken: Mutex<Taken>,
    pub(super) migrations: mpsc::UnboundedSender<MigrationRequest>,
    /// Those that wait for their turn to move.
    pub(super) queue: Queue,
    /// Counts what made everybody look again; begins at 1.
    pub(super) changes: AtomicU64,
    pub(super) begun: Instant,
    /// Ids of connections that ended since a drain began and nobody was told of.
    pub(super) closed: Mutex<Vec<u64>>,
}

/// Nothing, and nothing expected: no drain, or a peer that knows nothing of moves.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub(super) kinds: Vec<ConnectionKind>,
    /// Until then more may be named: an application says what it picks up one kind after the other.
    pub(super) until: Option<Instant>,
    /// The other process does not answer, and is waited for until then.
    pub(super) hangs: Option<Instant>,
}

impl Connections {
    /// An empty table, and what connections that want to move are put into.
    pub(crate) fn new(generation: Generation) -> (Self, mpsc::UnboundedReceiver<MigrationRequest>) {
        let (migrations, queue) = mpsc::unbounded_channel();
        let table = Table {
            rows: Mutex::default(),
            last_id: AtomicU64::new(0),
            ledger: Ledger::new(generation),
            phase: watch::Sender::new(Phase::Serving),
            empty: Notify::new(),
            taken: Mutex::default(),
            migrations,
            queue: Queue::default(),
            changes: AtomicU64::new(1),
            begun: Instant::now(),
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
        self.table.ledger.totals()
    }

    /// Both at the same moment, so that they agree.
    pub(crate) fn snapshot(&self) -> (Summary, Totals) {
        self.table.ledger.snapshot()
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
    pub fn migrated(&self) -> u64 {
        self.totals().migrated
    }

    /// Connections that ended by themselves: their client left, or their handler finished.
    #[must_use]
    pub fn finished(&self) -> u64 {
        self.totals().finished
    }

    /// Connections that were closed politely because of a drain, see [`ConnectionActivity::set_closing`].
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
    pub async fn wait_until_empty(&self) {
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
        listener: &SmolStr,
        peer: Address,
        local: Address,
        socket: &Arc<Socket>,
    ) -> Tracker {
        let row =
            self.row(listener.clone(), peer, local, Instant::now(), 0, SmolStr::new_static("raw"), socket);
        let tracker = self.enter(row, Event::Accepted);
        // That it connects says that it is about to say more.
        tracker.heard();
        tracker
    }

    #[allow(clippy::too_many_arguments, reason = "a row has that many columns")]
    fn row(
        &self,
        listener: SmolStr,
        peer: Address,
        local: Address,
        accepted: Instant,
        requests: u64,
        protocol: SmolStr,
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
            heard: AtomicU64::new(0),
            stays: AtomicU64::new(0),
            closing: AtomicBool::new(false),
            socket: Arc::downgrade(socket),
        }
    }

    fn enter(&self, row: Row, how: Event) -> Tracker {
        let row = Arc::new(row);
        self.table.ledger.enter(how);
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
        let ConnectionRow { listener, protocol, age_ms, requests, .. } = row;
        let accepted = accepted_at(age_ms);
        let row = self.row(listener, peer, local, accepted, requests, protocol, socket);
        self.enter(row, Event::Adopted)
    }

    /// Tells what is counted here.
    pub(crate) fn metrics(&self) -> &Metrics {
        self.table.ledger.metrics()
    }

    /// The next version may say what it takes until then.
    pub(crate) fn expect_moves(&self, until: Instant) {
        {
            let mut taken = self.table.taken();
            *taken = Taken { kinds: Vec::new(), until: Some(until), hangs: taken.hangs };
        }
        self.look_again();
    }

    /// The other process takes these kinds; `None` if nothing moves any more.
    pub(crate) fn set_taken(&self, kinds: Option<Vec<ConnectionKind>>) {
        match kinds {
            Some(kinds) => self.table.taken().kinds = kinds,
            None => *self.table.taken() = Taken::default(),
        }
        self.look_again();
    }

    /// The other process does not answer. Nobody is told to leave: who comes again would wait for it too. Half of the time
    /// that is left has to be enough for the polite end, if it never answers.
    pub(crate) fn taker_hangs(&self) {
        if let Phase::Draining(plan) = *self.table.phase.borrow() {
            let now = Instant::now();
            self.table.taken().hangs = Some(now + plan.until.saturating_duration_since(now) / 2);
        }
        self.look_again();
    }

    /// It answers again.
    pub(crate) fn taker_goes_on(&self) {
        self.table.taken().hangs = None;
        self.look_again();
    }

    /// Everybody looks again.
    fn look_again(&self) {
        self.table.changes.fetch_add(1, Relaxed);
        self.table.phase.send_modify(|_| {});
    }

    pub(crate) fn send(&self, migration: MigrationRequest) -> Result<(), Box<MigrationRequest>> {
        self.table.migrations.send(migration).map_err(|unsent| Box::new(unsent.0))
    }

    pub(crate) fn set_phase(&self, phase: Phase) {
        self.table.changes.fetch_add(1, Relaxed);
        self.table.phase.send_replace(phase);
    }

    /// Ids of connections that ended since the last call, at most [`MAX_CLOSED`].
    pub(crate) fn take_closed(&self) -> Vec<u64> {
        std::mem::take(&mut self.table.closed.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Shuts down every connection that is left; their owners read end-of-file and let go. Returns which these were.
    pub(crate) fn force(&self) -> Vec<ConnectionRow> {
        let rows: Vec<_> = self.table.rows().values().cloned().collect();
        let named = rows.iter().map(|row| row.describe()).collect();
        self.set_phase(Phase::Forced);
        for row in &rows {
            self.table.end(row, Event::Forced);
            if let Some(socket) = row.socket.upgrade() {
                socket.shut_down();
            }
        }
        named
    }
}

impl Table {
    /// Since it began, rounded up.
    pub(super) fn millis(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX - 1) + 1
    }

    pub(super) fn taken(&self) -> MutexGuard<'_, Taken> {
        // Replaced as a whole.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn rows(&self) -> MutexGuard<'_, HashMap<u64, Arc<Row>>> {
        // Nothing in here can panic half-way through a change.
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection ends. Only the first end counts, and nothing that happens to it afterwards.
    pub(super) fn end(&self, row: &Row, how: Event) {
        if let Some(state) = row.end() {
            self.ledger.leave(state, how);
        }
    }
}
/// The moment at which a connection of this age was accepted: another process said so, just now.
pub(crate) fn accepted_at(age_ms: u64) -> Instant {
    let now = Instant::now();
    now.checked_sub(std::time::Duration::from_millis(age_ms)).unwrap_or(now)
}

/// How long ago that was.
pub(crate) fn age_ms(accepted: Instant) -> u64 {
    u64::try_from(accepted.elapsed().as_millis()).unwrap_or(u64::MAX)
}
