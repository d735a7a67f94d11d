//! The one record of an open connection: what the table knows of it, and what the code that serves it
//! reports.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::task::Waker;
use std::time::Duration;

use hotupdate_proto::{ConnectionKind, ConnectionRow, ConnectionState, MigrationItem, ShortText};
use tokio::time::Instant;

use super::drain::Phase;
use super::rest::Resting;
use super::socket::Socket;
use super::table::{Table, age_ms};
use crate::address::Address;
use crate::metrics::Event;

/// Everything that is known of one open connection.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) table: Arc<Table>,
    pub(super) id: u64,
    pub(super) listener: ShortText,
    pub(super) peer: Address,
    /// That of the listener, which may be every address of the machine.
    bound: Address,
    /// The one of them that the client connected to, once that was asked for.
    local: OnceLock<Address>,
    pub(super) accepted: Instant,
    pub(super) socket: Weak<Socket>,
    /// The kernel's name of the socket; 0: it was not asked for yet.
    cookie: AtomicU64,
    /// How many requests have begun, in all processes: the number of the last one.
    pub(super) requests: AtomicU64,
    /// The number of a request of whose body more is wanted.
    pub(super) body_wanted: AtomicU64,
    status: AtomicU64,
    protocol: Mutex<ShortText>,
    /// When its client sent something last, by the table's clock; 0: never here.
    pub(super) heard: AtomicU64,
    /// The change of the table that its task has seen last.
    seen: AtomicU64,
    /// The change of the table at which the connection could not migrate.
    refused: AtomicU64,
    owner: Mutex<Owner>,
}

/// What goes on with a connection when something happens.
#[derive(Debug, Default)]
pub(super) enum Owner {
    #[default]
    None,
    /// The task that serves it.
    Task(Waker),
    /// It has no task for now.
    Resting(Resting),
}

/// What a connection does is one number, so that every change is one atomic step, seen whole, and counted
/// exactly once without a lock: how many requests are in flight, how many of their bodies are being read, and
/// above them these flags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Status(u64);

impl Status {
    /// So many that the memory of a process has no room for them.
    const IN_FLIGHT: u64 = (1 << 25) - 1;
    /// A request whose body is still being read is not over, even if it was answered.
    const BODIES: u64 = Self::IN_FLIGHT << 25;
    const BODY: u64 = 1 << 25;
    /// The connection is gone; what a straggler does is not counted any more.
    pub(super) const GONE: u64 = 1 << 63;
    /// It no longer carries requests and responses, or a stream of it was handed out.
    pub(super) const UPGRADED: u64 = 1 << 62;
    /// Its end, when it comes, is asked for by a drain.
    pub(super) const CLOSING: u64 = 1 << 61;
    /// Bytes have been read that belong to no request yet.
    pub(super) const HEAD_BEGUN: u64 = 1 << 60;
    /// A request has ended since that was looked at last.
    pub(super) const ENDED: u64 = 1 << 59;
    /// A request has ended, and the last bytes of its response may not be flushed yet.
    pub(super) const UNFLUSHED: u64 = 1 << 58;
    /// Bytes were written since that was looked at last.
    pub(super) const WROTE: u64 = 1 << 57;
    /// Since the last poll began: a request has begun, everything was flushed.
    pub(super) const BEGAN: u64 = 1 << 56;
    pub(super) const FLUSHED: u64 = 1 << 55;
    /// What the client sends behind the request in flight is left for the next version.
    pub(super) const HOLDS_BACK: u64 = 1 << 54;
    /// The owner wants to be woken when a request ends.
    pub(super) const WAITS: u64 = 1 << 53;
    /// It was called by the queue of those that migrate, or has a slot, and has not said yet what it does.
    pub(super) const EXPECTED: u64 = 1 << 52;
    /// Its task holds buffers for messages, which it could give back while none is on its way.
    pub(super) const EQUIPPED: u64 = 1 << 51;
    /// Its task was told to do so, and its client has sent nothing since.
    pub(super) const RESTS: u64 = 1 << 50;

    #[inline]
    pub(super) fn has(self, flags: u64) -> bool {
        self.0 & flags != 0
    }

    #[inline]
    pub(super) fn with(self, flags: u64) -> Self {
        Self(self.0 | flags)
    }

    #[inline]
    pub(super) fn without(self, flags: u64) -> Self {
        Self(self.0 & !flags)
    }

    pub(super) fn in_flight(self) -> u32 {
        // Fits: the flags are cut off.
        (self.0 & Self::IN_FLIGHT) as u32
    }

    /// Whether a request is in flight, or a stream was handed out.
    #[inline]
    pub(super) fn is_serving(self) -> bool {
        self.has(Self::IN_FLIGHT | Self::BODIES | Self::UPGRADED)
    }

    #[inline]
    fn request_begun(self) -> Self {
        Self(self.0 + 1).without(Self::HEAD_BEGUN).with(Self::BEGAN)
    }

    fn body_begun(self) -> Self {
        Self(self.0 + Self::BODY)
    }

    #[inline]
    fn request_ended(self) -> Self {
        Self(self.0 - 1).part_ended()
    }

    fn body_ended(self) -> Self {
        Self(self.0 - Self::BODY).part_ended()
    }

    /// Bytes that were read until now were the request's body.
    #[inline]
    fn part_ended(self) -> Self {
        self.without(Self::HEAD_BEGUN).with(Self::UNFLUSHED | Self::ENDED)
    }

    #[inline]
    fn state(self) -> ConnectionState {
        if self.has(Self::UPGRADED) {
            ConnectionState::Upgraded
        } else if self.is_serving() {
            ConnectionState::Active
        } else {
            ConnectionState::Idle
        }
    }
}

impl Record {
    /// A connection that is not in the table yet.
    pub(super) fn new(table: &Arc<Table>, row: Origin, socket: &Arc<Socket>) -> Self {
        let Origin { listener, peer, bound, accepted, requests, protocol, cookie } = row;
        Self {
            table: table.clone(),
            id: table.last_id.fetch_add(1, Relaxed) + 1,
            listener,
            peer,
            bound,
            local: OnceLock::new(),
            accepted,
            socket: Arc::downgrade(socket),
            cookie: AtomicU64::new(cookie),
            requests: AtomicU64::new(requests),
            body_wanted: AtomicU64::new(0),
            status: AtomicU64::new(0),
            protocol: Mutex::new(protocol),
            heard: AtomicU64::new(0),
            seen: AtomicU64::new(table.changes()),
            refused: AtomicU64::new(0),
            owner: Mutex::default(),
        }
    }

    #[inline]
    pub(super) fn status(&self) -> Status {
        Status(self.status.load(SeqCst))
    }

    /// Changes the status in one step; returns what it was.
    #[inline]
    pub(super) fn update(&self, change: impl Fn(Status) -> Status) -> Status {
        let mut before = self.status();
        loop {
            let after = change(before);
            if after == before {
                return before;
            }
            match self.status.compare_exchange_weak(before.0, after.0, SeqCst, SeqCst) {
                Ok(_) => {
                    self.count(before, after);
                    return before;
                }
                Err(now) => before = Status(now),
            }
        }
    }

    #[inline]
    pub(super) fn set(&self, flags: u64) {
        self.update(|status| status.with(flags));
    }

    /// Clears a flag; returns whether it was set.
    #[inline]
    pub(super) fn take(&self, flags: u64) -> bool {
        self.update(|status| status.without(flags)).has(flags)
    }

    #[inline]
    fn count(&self, before: Status, after: Status) {
        let (from, to) = (before.state(), after.state());
        if from != to && !before.has(Status::GONE) {
            self.table.ledger.changed(self.id, from, to);
        }
    }

    #[inline]
    pub(super) fn begin_request(&self) {
        self.requests.fetch_add(1, SeqCst);
        self.table.ledger.request(self.id);
        self.update(Status::request_begun);
    }

    #[inline]
    pub(super) fn end_request(&self) {
        self.end_part(Status::request_ended);
    }

    pub(super) fn begin_body(&self) {
        self.update(Status::body_begun);
    }

    pub(super) fn end_body(&self) {
        self.end_part(Status::body_ended);
    }

    #[inline]
    fn end_part(&self, ended: impl Fn(Status) -> Status) {
        // An owner that is just being polled looks at the status when that is over.
        if self.update(ended).has(Status::WAITS) {
            self.wake();
        }
    }

    /// The connection ends. Only the first end counts, and nothing that happens to it afterwards.
    pub(super) fn end(&self, how: Event) {
        let before = self.update(|status| status.with(Status::GONE));
        if !before.has(Status::GONE) {
            self.table.ledger.leave(self.id, before.state(), how);
        }
    }

    /// The connection is open in another process, too, and what was open on it here.
    pub(super) fn relayed(&self) {
        self.table.ledger.relayed();
    }

    /// The task to wake when something happens that it waits for.
    pub(super) fn register(&self, waker: &Waker) {
        let mut owner = self.owner();
        match &mut *owner {
            Owner::Task(owner) => owner.clone_from(waker),
            owner => *owner = Owner::Task(waker.clone()),
        }
    }

    /// This task has ended, or serves the connection no more.
    pub(super) fn unregister(&self, waker: &Waker) {
        let mut owner = self.owner();
        if matches!(&*owner, Owner::Task(task) if task.will_wake(waker)) {
            *owner = Owner::None;
        }
    }

    /// The task that was registered last.
    pub(super) fn registered(&self) -> Option<Waker> {
        match &*self.owner() {
            Owner::Task(waker) => Some(waker.clone()),
            Owner::None | Owner::Resting(_) => None,
        }
    }

    pub(super) fn wake(&self) {
        if let Some(waker) = self.registered() {
            waker.wake();
        }
    }

    pub(super) fn owner(&self) -> MutexGuard<'_, Owner> {
        self.owner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The address that the client connected to. Only the kernel knows it if the listener is bound to every
    /// address, and it is asked when that is to be known: few connections live to see it.
    pub(super) fn local_addr(&self) -> &Address {
        let is_exact = self.bound.ip().is_none_or(|bound| !bound.ip().is_unspecified());
        if is_exact {
            return &self.bound;
        }
        self.local.get_or_init(|| {
            let local = self.socket.upgrade().and_then(|socket| socket.local_addr());
            local.unwrap_or_else(|| self.bound.clone())
        })
    }

    /// What the process wants of the connection.
    pub(super) fn phase(&self) -> Phase {
        *self.table.phase.borrow()
    }

    fn protocol(&self) -> ShortText {
        self.protocol.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_protocol(&self, protocol: &'static str) {
        *self.protocol.lock().unwrap_or_else(PoisonError::into_inner) = ShortText::from_static(protocol);
    }

    /// The client sent something.
    #[inline]
    pub(super) fn heard(&self) {
        let now = self.table.clock.of_a_read();
        // Its own task alone writes here: nothing is lost between the two steps.
        if self.heard.load(Relaxed) != now {
            self.heard.store(now, Relaxed);
            self.table.clock.heard(now);
        }
    }

    /// Since the client sent something here; a second more at most.
    pub(super) fn silence(&self) -> Duration {
        match self.heard.load(Relaxed) {
            0 => Duration::MAX,
            heard => self.table.clock.since(heard),
        }
    }

    /// The task looks at what has changed. Returns whether anything has since the last time.
    #[inline]
    pub(super) fn see(&self) -> bool {
        let changes = self.table.changes();
        let is_new = self.seen.load(SeqCst) != changes;
        if is_new {
            self.seen.store(changes, SeqCst);
        }
        is_new
    }

    pub(super) fn has_seen_all(&self) -> bool {
        self.seen.load(SeqCst) == self.table.changes()
    }

    /// The connection could not migrate, as of this change of the table. It does not try again before the
    /// next.
    pub(super) fn set_refused(&self, change: u64) {
        self.refused.store(change, SeqCst);
    }

    /// Whether nothing has changed since the connection could not migrate.
    pub(super) fn is_refused(&self) -> bool {
        self.refused.load(SeqCst) == self.table.changes()
    }

    /// Whether the process that serves accepts this connection as one of this kind, and nothing has stopped
    /// it.
    pub(super) fn can_migrate(&self, kind: &str) -> bool {
        self.can_migrate_if(|accepted| accepted == kind)
    }

    pub(super) fn can_migrate_if(&self, wanted: impl Fn(&str) -> bool) -> bool {
        let fits = |accepted: &ConnectionKind| {
            wanted(&accepted.kind)
                && accepted.listener.as_ref().is_none_or(|listener| *listener == self.listener)
        };
        !self.is_refused() && self.table.accepted().any(fits)
    }

    /// The kernel's name of the socket, which it is asked for once.
    pub(super) fn cookie(&self, socket: &Socket) -> u64 {
        match self.cookie.load(Relaxed) {
            0 => {
                let cookie = socket.cookie();
                self.cookie.store(cookie, Relaxed);
                cookie
            }
            cookie => cookie,
        }
    }

    /// The record, as it goes on in another process.
    pub(super) fn item(&self, socket: &Socket) -> MigrationItem {
        MigrationItem {
            id: self.id,
            cookie: self.cookie(socket),
            listener: self.listener.clone(),
            protocol: self.protocol(),
            peer: (&self.peer).into(),
            // The other process asks the kernel as well, if it has to.
            local: (&self.bound).into(),
            age_ms: age_ms(self.accepted),
            requests: self.requests.load(Relaxed),
            ..MigrationItem::default()
        }
    }

    /// The record, as it is shown.
    pub(super) fn describe(&self) -> ConnectionRow {
        let mut row = ConnectionRow::default();
        row.id = self.id;
        row.listener = self.listener.clone();
        row.peer = ShortText::from_display(&self.peer);
        row.local = ShortText::from_display(self.local_addr());
        row.protocol = self.protocol();
        row.age_ms = age_ms(self.accepted);
        row.requests = self.requests.load(Relaxed);
        row.state = self.status().state();
        row
    }
}

/// Where a connection comes from: from a client, or with its history from another process.
#[derive(Debug)]
pub(super) struct Origin {
    pub(super) listener: ShortText,
    pub(super) peer: Address,
    /// The address of the listener, or the one that the client connected to.
    pub(super) bound: Address,
    pub(super) accepted: Instant,
    pub(super) requests: u64,
    pub(super) protocol: ShortText,
    pub(super) cookie: u64,
}

/// Keeps the record in the table as long as the connection is open.
///
/// Purposefully not `Clone`: the end of the tracker is the end of the connection.
#[derive(Debug)]
pub(super) struct Tracker {
    pub(super) record: Arc<Record>,
}

impl Drop for Tracker {
    fn drop(&mut self) {
        let Self { record } = self;
        record.end(if record.status().has(Status::CLOSING) { Event::Closed } else { Event::Finished });
        record.table.remove(record.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upgrade_outranks_requests_and_no_other_flag_is_a_state() {
        let idle = Status::default().with(!(Status::IN_FLIGHT | Status::BODIES | Status::UPGRADED));
        assert_eq!((idle.state(), idle.in_flight(), idle.is_serving()), (ConnectionState::Idle, 0, false));
        let active = idle.request_begun();
        assert_eq!(
            (active.state(), active.in_flight(), active.is_serving()),
            (ConnectionState::Active, 1, true)
        );
        let upgraded = active.with(Status::UPGRADED);
        assert_eq!(upgraded.state(), ConnectionState::Upgraded);
        assert!(upgraded.request_ended().is_serving());
    }

    #[test]
    fn a_request_ends_what_was_known_of_its_head() {
        let head = Status::default().with(Status::HEAD_BEGUN);
        let begun = head.request_begun();
        assert!(
            begun.has(Status::BEGAN) && !begun.has(Status::HEAD_BEGUN | Status::ENDED | Status::UNFLUSHED)
        );
        let ended = begun.with(Status::HEAD_BEGUN).request_ended();
        assert!(!ended.has(Status::HEAD_BEGUN) && ended.has(Status::ENDED) && ended.has(Status::UNFLUSHED));
    }
}
