//! The table: every open connection of this process, and what all of them are told.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hotupdate_proto::ShortText;
use hotupdate_proto::{ConnectionKind, ConnectionRow, Generation, MigrationItem, Summary, Totals};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;

use super::clock::Clock;
use super::connection::{Connection, MigrationRequest};
use super::drain::{Drain, Phase};
use super::ledger::Ledger;
use super::queue::Queue;
use super::record::{Origin, Record, Tracker};
use super::socket::Stream;
use crate::address::Address;
use crate::metrics::{Event, Metrics};
use crate::process::limits::DescriptorTable;

/// The next version forgets rows by these ids. What does not fit goes with the predecessor itself.
pub(super) const MAX_CLOSED: usize = 20_000;

/// Every open connection of this process. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Connections {
    pub(super) table: Arc<Table>,
}

/// By their ids.
type Rows = HashMap<u64, Arc<Record>>;

#[derive(Debug)]
pub(super) struct Table {
    pub(super) rows: Mutex<Rows>,
    pub(super) last_id: AtomicU64,
    pub(super) ledger: Ledger,
    descriptors: DescriptorTable,
    pub(super) phase: watch::Sender<Phase>,
    pub(super) empty: Notify,
    accepted: Mutex<Accepted>,
    pub(super) migrations: mpsc::UnboundedSender<MigrationRequest>,
    /// Connections that wait for a slot to migrate.
    pub(super) queue: Queue,
    /// How often connections were told to look again; begins at 1.
    changes: AtomicU64,
    /// Whether the phase is another one than that of a process that serves: it is asked for with every
    /// request.
    is_ending: AtomicBool,
    pub(super) clock: Clock,
    /// Ids of connections that ended since a drain began, until the process that serves is told.
    pub(super) closed: Mutex<Vec<u64>>,
}

/// What the process that serves accepts of the connections of this one, which drains.
#[derive(Debug, Default)]
pub(super) struct Accepted {
    /// `None` while it has not said.
    kinds: Option<Vec<ConnectionKind>>,
    /// It takes none for now, and is expected to go on before then.
    suspended_until: Option<Instant>,
}

impl Accepted {
    /// Whether a connection of one of these kinds can migrate, now or when a suspension is over.
    pub(super) fn any(&self, fits: impl Fn(&ConnectionKind) -> bool) -> bool {
        let accepted = self.kinds.as_ref().map(|kinds| kinds.iter().any(fits));
        match self.suspended_until {
            Some(until) => accepted.unwrap_or(true) && Instant::now() < until,
            None => accepted.unwrap_or(false),
        }
    }

    pub(super) fn suspended_until(&self) -> Option<Instant> {
        self.suspended_until
    }
}

impl Connections {
    /// An empty table, and what connections that migrate are put into.
    pub(crate) fn new(generation: Generation) -> (Self, mpsc::UnboundedReceiver<MigrationRequest>) {
        let (migrations, queue) = mpsc::unbounded_channel();
        let table = Table {
            rows: Mutex::default(),
            last_id: AtomicU64::new(0),
            ledger: Ledger::new(generation),
            descriptors: DescriptorTable::default(),
            phase: watch::Sender::new(Phase::Serving),
            empty: Notify::new(),
            accepted: Mutex::default(),
            migrations,
            queue: Queue::new(Instant::now()),
            changes: AtomicU64::new(1),
            is_ending: AtomicBool::new(false),
            clock: Clock::new(),
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

    /// Connections that migrated to another process.
    #[must_use]
    pub fn migrated(&self) -> u64 {
        self.totals().migrated
    }

    /// Connections that ended by themselves: their client left, or their handler finished.
    #[must_use]
    pub fn finished(&self) -> u64 {
        self.totals().finished
    }

    /// Connections that were closed politely because of a drain, see
    /// [`super::ConnectionActivity::set_closing`].
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

    /// A connection that a client has just opened.
    pub(crate) fn accept(
        &self,
        listener: &ShortText,
        peer: Address,
        bound: Address,
        stream: Stream,
    ) -> Connection {
        let (listener, protocol) = (listener.clone(), ShortText::from_static("raw"));
        let accepted = Instant::now();
        let origin = Origin { listener, peer, bound, accepted, requests: 0, protocol, cookie: 0 };
        let connection = self.enter(&mut self.table.rows(), origin, stream, Event::Accepted);
        // That it connects says that it is about to say more.
        connection.tracker().record.heard();
        connection
    }

    /// Connections that came from another process, all at once: their history goes on.
    pub(crate) fn adopt(
        &self,
        arrived: impl IntoIterator<Item = (MigrationItem, Stream)>,
    ) -> Vec<Connection> {
        let (now, mut rows) = (Instant::now(), self.table.rows());
        let adopt = |(item, stream)| {
            let MigrationItem { listener, protocol, peer, local, age_ms, requests, cookie, .. } = item;
            let (peer, bound, accepted) = (peer.into(), local.into(), before(now, age_ms));
            let origin = Origin { listener, peer, bound, accepted, requests, protocol, cookie };
            self.enter(&mut rows, origin, stream, Event::Adopted)
        };
        arrived.into_iter().map(adopt).collect()
    }

    fn enter(&self, rows: &mut Rows, origin: Origin, stream: Stream, how: Event) -> Connection {
        let (reader, socket) = stream.split();
        let socket = Arc::new(socket);
        let record = Arc::new(Record::new(&self.table, origin, &socket));
        self.table.descriptors.opened(&*socket);
        self.table.ledger.enter(how);
        rows.insert(record.id, record.clone());
        Connection::new(reader, socket, Tracker { record })
    }

    /// Tells what is counted here.
    pub(crate) fn metrics(&self) -> &Metrics {
        self.table.ledger.metrics()
    }

    /// The process that serves accepts connections of these kinds.
    pub(crate) fn set_accepted(&self, kinds: Vec<ConnectionKind>) {
        *self.table.accepted() = Accepted { kinds: Some(kinds), suspended_until: None };
        self.look_again();
    }

    /// The process that serves takes nothing for now, or has not said yet what it accepts. Until then
    /// connections wait for their slots, and no client is told to leave: if it came again, it would wait for
    /// the same process.
    pub(crate) fn suspend_migration(&self, until: Instant) {
        self.table.accepted().suspended_until = Some(until);
        self.look_again();
    }

    /// The process that serves does not answer, or asks for a pause. If it never goes on, half of the time
    /// that is left has to be enough for the polite end; of a drain that begins in a moment, half of all.
    pub(crate) fn suspend_half(&self, drain: Duration) {
        // A phase that is borrowed for longer could not be changed.
        let phase = *self.table.phase.borrow();
        let now = Instant::now();
        let left = match phase {
            Phase::Draining(plan) => plan.until.saturating_duration_since(now),
            _ => drain,
        };
        self.suspend_migration(now + left / 2);
    }

    /// It answers again.
    #[cfg(test)]
    pub(crate) fn resume_migration(&self) {
        self.table.accepted().suspended_until = None;
        self.look_again();
    }

    /// Nothing migrates any more.
    #[cfg(any(test, feature = "test-util"))]
    pub(crate) fn end_migration(&self) {
        *self.table.accepted() = Accepted::default();
        self.look_again();
    }

    /// Every connection looks again what it can do.
    fn look_again(&self) {
        let suspended = self.table.accepted().suspended_until.is_some();
        self.table.queue.suspend(suspended);
        self.table.changes.fetch_add(1, SeqCst);
        self.table.phase.send_modify(|_| {});
        // As long as this process serves, no connection can do anything.
        if self.table.phase.borrow().is_draining() {
            self.table.call_all(false);
        }
    }

    pub(crate) fn set_phase(&self, phase: Phase) {
        let is_ending = phase != Phase::Serving;
        self.table.clock.set_exact(is_ending);
        self.table.is_ending.store(is_ending, SeqCst);
        self.table.phase.send_replace(phase);
        // After that: what has seen the change has seen the phase.
        self.table.changes.fetch_add(1, SeqCst);
        self.table.call_all(phase == Phase::Forced);
    }

    /// Ids of connections that ended since the last call, at most [`MAX_CLOSED`].
    pub(crate) fn take_closed(&self) -> Vec<u64> {
        std::mem::take(&mut self.table.closed.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Shuts down every connection that is left; their owners read end-of-file and let go. Returns which
    /// these were.
    pub(crate) fn force(&self) -> Vec<ConnectionRow> {
        let rows: Vec<_> = self.table.rows().values().cloned().collect();
        let named = rows.iter().map(|row| row.describe()).collect();
        self.set_phase(Phase::Forced);
        for row in &rows {
            row.end(Event::Forced);
            if let Some(socket) = row.socket.upgrade() {
                socket.shut_down();
            }
        }
        named
    }
}

impl Table {
    /// Whether a client has sent something in this time.
    pub(super) fn is_busy(&self, within: Duration) -> bool {
        self.clock.is_busy(within)
    }

    /// Whether connections are to come to an end.
    #[inline]
    pub(super) fn is_ending(&self) -> bool {
        self.is_ending.load(SeqCst)
    }

    /// How often connections were told to look again.
    #[inline]
    pub(super) fn changes(&self) -> u64 {
        self.changes.load(SeqCst)
    }

    pub(super) fn accepted(&self) -> MutexGuard<'_, Accepted> {
        // Replaced as a whole.
        self.accepted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn rows(&self) -> MutexGuard<'_, Rows> {
        // Nothing in here can panic half-way through a change.
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn remove(&self, id: u64) {
        let mut rows = self.rows();
        rows.remove(&id);
        let is_serving = *self.phase.borrow() == Phase::Serving;
        if !is_serving {
            let mut closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
            if closed.len() < MAX_CLOSED {
                closed.push(id);
            }
        }
        if rows.is_empty() {
            if !is_serving {
                rows.shrink_to_fit();
            }
            self.empty.notify_waiters();
        }
    }
}

/// The moment at which a connection of this age was accepted: another process said so, just now.
pub(crate) fn accepted_at(age_ms: u64) -> Instant {
    before(Instant::now(), age_ms)
}

fn before(now: Instant, age_ms: u64) -> Instant {
    now.checked_sub(Duration::from_millis(age_ms)).unwrap_or(now)
}

/// How long ago that was.
pub(crate) fn age_ms(accepted: Instant) -> u64 {
    u64::try_from(accepted.elapsed().as_millis()).unwrap_or(u64::MAX)
}
