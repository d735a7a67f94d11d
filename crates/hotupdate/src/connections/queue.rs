//! The queue of connections that migrate: a portion is called at a time; the rest are served here until then.
//!
//! Every change (a drain begins, the process that serves accepts another kind, or nothing for now) is told to
//! all connections, and each of them has something to do then. If all were told at once, requests would wait
//! behind them, here and in the process that serves. So they are called in portions, which those that wait
//! for a slot belong to; the next one is called when the last one is gone, after a gap as long as that took.
//! Without clients that are served meanwhile, and after two seconds, there is no gap, and the portions are
//! larger.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use hotupdate_proto::timing::fixed::connections::{ANSWER, BUSY_FOR, GENTLE_FOR, IDLE_AFTER};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::drain::Phase;
use super::record::{Owner, Record, Status};
use super::rest::Resting;
use super::table::{Connections, Table};

/// Connections that are called at a time. To wake them, to send them and to have them arrive keeps a
/// processor of each side busy for a quarter of a millisecond, which is what a request may have to wait for.
const PORTION: usize = 16;

/// The same when no client is being served.
const LARGE_PORTION: usize = 64;

/// A connection that rests counts as one of so many parts of a connection with a task: it need not be woken
/// and taken apart.
const PARTS: usize = 2;

/// Connections on their way beyond which no more are called, when no client is being served: while the other
/// process looks at one portion, the next one is prepared.
const WINDOW: usize = (PARTS + 1) * LARGE_PORTION;

/// Where a connection stands.
#[derive(Debug, Default)]
pub(super) enum Place {
    #[default]
    None,
    /// With the ticket. A connection that waits and is not in the queue any more has been given a slot.
    Waits(Ticket),
    Granted,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Ticket {
    number: u64,
    active: bool,
}

/// All connections of a process that want to migrate, or have to be told of a change.
#[derive(Debug)]
pub(super) struct Queue {
    inner: Mutex<Inner>,
    /// There is something to do for the driver.
    changed: Notify,
}

#[derive(Debug)]
struct Inner {
    /// Portions are called by the driver. Without one all connections are called at once.
    is_paced: bool,
    /// The other process takes no connections for now, so none gets a slot.
    suspended: bool,
    /// The number of the last ticket.
    last: u64,
    idle: BTreeMap<u64, Waker>,
    active: BTreeMap<u64, Waker>,
    /// Connections that have not been told of the last change.
    untold: Vec<u64>,
    /// Those of them whose clients have sent something just now, which are told when the others have been.
    untold_active: Vec<u64>,
    /// When the last change came.
    since: Instant,
    /// How many slots of this portion are left.
    free: usize,
    /// How many connections were called, or have a slot, and have not said what they do.
    expected: usize,
    /// How many have asked to leave since the driver looked last.
    asked: usize,
    portion: Portion,
}

/// How far the portion has come that was called last.
#[derive(Clone, Copy, Debug)]
enum Portion {
    Called(Instant),
    /// All of it is gone, or stays. The next one may be called from then on.
    Over {
        next: Instant,
    },
}

/// What the driver does next about connections that leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Nothing, until something changes, or until then.
    Wait(Option<Instant>),
    /// Call the next portion.
    Call,
    /// Take what has asked to leave.
    Collect,
}

/// What has come up in a portion.
#[derive(Debug)]
enum Called {
    /// This task looks what has changed.
    Task(Waker),
    /// It has a slot, and no task that would have to be woken.
    Leaves(Resting),
}

/// The beginning of a portion.
#[derive(Debug)]
struct Calls {
    all: Vec<Called>,
    /// Those of them that have no task.
    leaving: usize,
}

impl Calls {
    /// Whether a connection with a task has room in a portion of this size.
    fn has_room(&self, size: usize) -> bool {
        self.all.len() - self.leaving + self.leaving.div_ceil(PARTS) < size
    }
}

impl Called {
    fn go(self) {
        match self {
            Self::Task(waker) => waker.wake(),
            Self::Leaves(resting) => resting.migrate(),
        }
    }
}

impl Connections {
    /// Connections are called by [`Connections::next_portion`] from here on.
    pub(crate) fn set_paced(&self) {
        let mut inner = self.table.queue.lock();
        (inner.is_paced, inner.free) = (true, 0);
    }

    /// Calls portion after portion, and resolves when connections have asked to leave that the driver should
    /// take now. So many are on their way. Safe to cancel.
    pub(crate) async fn next_portion(&self, on_their_way: usize) {
        let queue = &self.table.queue;
        loop {
            let changed = queue.changed.notified();
            match queue.step(Instant::now(), on_their_way, self.table.is_gentle()) {
                Step::Collect => return,
                Step::Call => self.table.call(),
                Step::Wait(None) => changed.await,
                Step::Wait(Some(until)) => {
                    tokio::select! {
                        () = changed => {}
                        () = sleep_until(until) => {}
                    }
                }
            }
        }
    }

    /// Whether connections still have to be called.
    pub(crate) fn is_calling(&self) -> bool {
        let inner = self.table.queue.lock();
        inner.has_more()
    }
}

impl Table {
    /// All connections are told of a change: one portion after the other, or at once.
    pub(super) fn call_all(&self, at_once: bool) {
        let ids = self.rows().keys().copied().collect();
        if !self.queue.begin(ids) || at_once {
            self.queue.call(self, Instant::now(), usize::MAX).into_iter().for_each(Called::go);
        }
    }

    /// Whether clients are being served, which come before connections that migrate.
    fn is_gentle(&self) -> bool {
        self.is_busy(BUSY_FOR) && self.queue.lock().since.elapsed() < GENTLE_FOR
    }

    fn call(&self) {
        let size = if self.is_gentle() { PORTION } else { LARGE_PORTION };
        self.queue.call(self, Instant::now(), size).into_iter().for_each(Called::go);
    }
}

impl Queue {
    pub(super) fn new(now: Instant) -> Self {
        let inner = Inner {
            is_paced: false,
            suspended: false,
            last: 0,
            idle: BTreeMap::new(),
            active: BTreeMap::new(),
            untold: Vec::new(),
            untold_active: Vec::new(),
            since: now,
            free: usize::MAX,
            expected: 0,
            asked: 0,
            portion: Portion::Over { next: now },
        };
        Self { inner: Mutex::new(inner), changed: Notify::new() }
    }

    // ---- connections --------------------------------------------------------------------------------------

    /// Asks for a slot, or whether there is one by now.
    pub(super) fn poll(&self, record: &Record, place: &mut Place, cx: &mut Context<'_>) -> Poll<()> {
        if matches!(place, Place::Granted) {
            return Poll::Ready(());
        }
        let mut inner = self.lock();
        if let Place::Waits(ticket) = place {
            if let Some(waker) = inner.waiting(ticket.active).get_mut(&ticket.number) {
                waker.clone_from(cx.waker());
                // It may have been called as well.
                inner.answered(record);
                self.look(inner);
                return Poll::Pending;
            }
            // The slot was counted when it was given.
            inner.answered(record);
        } else {
            let active = record.silence() < IDLE_AFTER;
            if !inner.has_room(active) {
                inner.last += 1;
                let number = inner.last;
                inner.waiting(active).insert(number, cx.waker().clone());
                *place = Place::Waits(Ticket { number, active });
                inner.answered(record);
                self.look(inner);
                return Poll::Pending;
            }
            inner.free = inner.free.saturating_sub(1);
            inner.answered(record);
            inner.expected += 1;
        }
        record.set(Status::EXPECTED);
        *place = Place::Granted;
        Poll::Ready(())
    }

    /// Gives up the slot, or the place in the queue.
    pub(super) fn leave(&self, record: &Record, place: &mut Place) {
        let mut inner = self.lock();
        let is_expected = inner.answered(record);
        match std::mem::take(place) {
            Place::None => {}
            Place::Waits(ticket) if inner.waiting(ticket.active).remove(&ticket.number).is_some() => {}
            // It was called, and has not looked.
            Place::Waits(_) => {
                inner.expected = inner.expected.saturating_sub(1);
                inner.free = inner.free.saturating_add(1);
            }
            Place::Granted if is_expected => inner.free = inner.free.saturating_add(1),
            Place::Granted => {}
        }
        self.look(inner);
    }

    /// The connection has asked to leave.
    pub(super) fn asked(&self, record: &Record) {
        let mut inner = self.lock();
        inner.answered(record);
        inner.asked += 1;
        self.look(inner);
    }

    /// Lets the driver look what is to be done, if that may be something.
    fn look(&self, inner: MutexGuard<'_, Inner>) {
        let is_complete = inner.expected == 0 && (inner.asked > 0 || inner.has_more());
        drop(inner);
        if is_complete {
            self.changed.notify_one();
        }
    }

    // ---- the driver ---------------------------------------------------------------------------------------

    /// Whether slots are given at all. Those that are held stay with their holders.
    pub(super) fn suspend(&self, suspended: bool) {
        let mut inner = self.lock();
        inner.suspended = suspended;
        self.look(inner);
    }

    /// All of these have to be told of a change. Returns whether the driver calls them.
    fn begin(&self, ids: Vec<u64>) -> bool {
        let mut inner = self.lock();
        let is_paced = inner.is_paced;
        inner.since = Instant::now();
        inner.untold = ids;
        inner.untold_active.clear();
        self.look(inner);
        is_paced
    }

    fn step(&self, now: Instant, on_their_way: usize, is_gentle: bool) -> Step {
        let mut inner = self.lock();
        let Inner { expected, asked, portion, .. } = &mut *inner;
        if let Portion::Called(at) = *portion {
            if *expected > 0 && now < at + ANSWER {
                return Step::Wait(Some(at + ANSWER));
            }
            // What says nothing now does not hold up the others.
            *expected = 0;
            if *asked == 0 && on_their_way == 0 {
                *portion = Portion::Over { next: now + now.saturating_duration_since(at) };
            }
        }
        if std::mem::take(asked) > 0 {
            return Step::Collect;
        }
        match inner.portion {
            _ if !inner.has_more() => Step::Wait(None),
            Portion::Over { next } if is_gentle && now < next => Step::Wait(Some(next)),
            Portion::Over { .. } => Step::Call,
            Portion::Called(_) if !is_gentle && on_their_way + LARGE_PORTION <= WINDOW => Step::Call,
            Portion::Called(_) => Step::Wait(None),
        }
    }

    /// Gives the slots of the next portion, and tells as many connections of the last change as have room in
    /// it.
    fn call(&self, table: &Table, now: Instant, size: usize) -> Vec<Called> {
        let mut inner = self.lock();
        inner.portion = Portion::Called(now);
        inner.free = if inner.suspended { 0 } else { size };
        let most = inner.idle.len() + inner.active.len() + inner.untold.len() + inner.untold_active.len();
        let all = Vec::with_capacity(most.min(size.saturating_mul(PARTS)));
        let mut called = Calls { all, leaving: 0 };
        inner.grant(false, size, &mut called);
        let rows = table.rows();
        while called.has_room(size)
            && let Some(id) = inner.untold.pop()
        {
            if let Some(record) = rows.get(&id) {
                if record.silence() < IDLE_AFTER {
                    inner.untold_active.push(id);
                } else {
                    inner.tell(record, &mut called);
                }
            }
        }
        if inner.untold.is_empty() {
            // A client that speaks would notice more of them.
            let size = if size == LARGE_PORTION { PORTION } else { size };
            inner.grant(true, size, &mut called);
            while called.has_room(size)
                && let Some(id) = inner.untold_active.pop()
            {
                if let Some(record) = rows.get(&id) {
                    inner.tell(record, &mut called);
                }
            }
        }
        inner.free = inner.free.saturating_sub(called.leaving.div_ceil(PARTS));
        called.all
    }

    /// Nothing is left in it, and nothing is expected of any connection.
    #[cfg(test)]
    pub(super) fn assert_empty(&self) {
        let inner = self.lock();
        assert!(!inner.has_more());
        assert_eq!((inner.expected, inner.asked), (0, 0));
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn waiting(&mut self, active: bool) -> &mut BTreeMap<u64, Waker> {
        if active { &mut self.active } else { &mut self.idle }
    }

    /// Whether a connection that comes last gets a slot at once. Active connections go when the idle ones
    /// have gone.
    fn has_room(&self, active: bool) -> bool {
        let is_first = self.idle.is_empty() && (!active || self.active.is_empty() && self.untold.is_empty());
        is_first && !self.suspended && self.free > 0
    }

    /// Whether another portion would find anything.
    fn has_more(&self) -> bool {
        let waits = !self.idle.is_empty() || !self.active.is_empty();
        (waits && !self.suspended) || !self.untold.is_empty() || !self.untold_active.is_empty()
    }

    /// The connection says what it does; returns whether it was expected to.
    fn answered(&mut self, record: &Record) -> bool {
        let is_expected = record.take(Status::EXPECTED);
        if is_expected {
            self.expected = self.expected.saturating_sub(1);
        }
        is_expected
    }

    /// Gives slots to those that wait.
    fn grant(&mut self, active: bool, size: usize, called: &mut Calls) {
        while self.free > 0
            && called.has_room(size)
            && let Some((_, waker)) = self.waiting(active).pop_first()
        {
            self.free -= 1;
            self.expected += 1;
            called.all.push(Called::Task(waker));
        }
    }

    /// Tells a connection, if it has not seen the change by itself. Its task is woken, and answers whatever
    /// it finds. One that rests leaves if it can, goes on resting if it is to go on, or gets a task.
    fn tell(&mut self, record: &Arc<Record>, called: &mut Calls) {
        if record.has_seen_all() {
            return;
        }
        let mut owner = record.owner();
        let waker = match &*owner {
            Owner::None => return,
            Owner::Task(waker) => waker.clone(),
            Owner::Resting(_) if record.phase() == Phase::Serving => {
                record.see();
                return;
            }
            Owner::Resting(Resting { kind, .. })
                if !self.suspended && self.free > 0 && record.can_migrate(kind) =>
            {
                called.leaving += 1;
                return called.all.extend(owner.take_resting().map(Called::Leaves));
            }
            Owner::Resting(_) => Waker::from(record.clone()),
        };
        drop(owner);
        if !record.update(|status| status.with(Status::EXPECTED)).has(Status::EXPECTED) {
            self.expected += 1;
        }
        called.all.push(Called::Task(waker));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::connection::{Connection, MigrationRequest};
    use super::super::fixture::{Echo, Fixture, Woken};
    use super::super::slot::MigrationSlot;
    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);

    /// A connection, and the task that serves it.
    struct Task {
        _connection: Connection,
        slot: MigrationSlot,
        woken: Arc<Woken>,
    }

    impl Task {
        fn new(fixture: &Fixture) -> Self {
            let connection = fixture.connection();
            let (slot, woken) = (connection.migration_slot(), Arc::default());
            Self { _connection: connection, slot, woken }
        }

        fn has_slot(&mut self) -> bool {
            self.record().see();
            let waker = Waker::from(self.woken.clone());
            self.slot.poll_acquire(&mut Context::from_waker(&waker)).is_ready()
        }

        /// It sleeps until it is called.
        fn sleeps(&self) {
            self.record().register(&Waker::from(self.woken.clone()));
        }

        fn record(&self) -> &Arc<Record> {
            &self.slot.record
        }

        /// It has asked to leave, and its task ends.
        fn asks(mut self) {
            assert!(self.has_slot());
            self.record().table.queue.asked(self.record());
        }
    }

    /// A process with a driver, and so many connections.
    fn paced(how_many: usize) -> (Fixture, Vec<Task>) {
        let fixture = Fixture::new();
        fixture.connections.set_paced();
        let tasks = std::iter::repeat_with(|| Task::new(&fixture)).take(how_many).collect();
        (fixture, tasks)
    }

    /// All clients are silent for long enough.
    async fn silence() {
        tokio::time::advance(IDLE_AFTER + MILLISECOND).await;
    }

    fn step(fixture: &Fixture, on_their_way: usize) -> Step {
        let table = &fixture.connections.table;
        table.queue.step(Instant::now(), on_their_way, table.is_gentle())
    }

    /// The driver calls the next portion.
    fn call(fixture: &Fixture) {
        assert_eq!(step(fixture, 0), Step::Call);
        fixture.connections.table.call();
    }

    fn with_slots(tasks: &mut [Task]) -> usize {
        tasks.iter_mut().filter_map(|task| task.has_slot().then_some(())).count()
    }

    fn woken(tasks: &[Task]) -> usize {
        tasks.iter().map(|task| task.woken.count()).sum()
    }

    fn assert_empty(fixture: &Fixture) {
        fixture.connections.table.queue.assert_empty();
    }

    #[tokio::test(start_paused = true)]
    async fn sleeping_connections_are_called_a_portion_at_a_time() {
        let (fixture, tasks) = paced(2 * LARGE_PORTION + 5);
        tasks.iter().for_each(Task::sleeps);
        silence().await;
        fixture.drain();
        assert_eq!(woken(&tasks), 0, "not all at once");
        call(&fixture);
        assert_eq!(woken(&tasks), LARGE_PORTION);
        let (called, mut rest): (Vec<_>, Vec<_>) =
            tasks.into_iter().partition(|task| task.woken.count() == 1);
        assert_eq!(step(&fixture, 0), Step::Wait(Some(Instant::now() + ANSWER)), "until they have said");
        called.into_iter().for_each(Task::asks);
        assert_eq!(step(&fixture, 0), Step::Collect, "all of them together");
        for (on_their_way, next) in [(LARGE_PORTION, Step::Call), (WINDOW, Step::Wait(None))] {
            assert_eq!(
                step(&fixture, on_their_way),
                next,
                "so many are on their way, and no client is served"
            );
        }
        fixture.connections.table.call();
        assert_eq!(woken(&rest), LARGE_PORTION);
        rest.retain(|task| task.woken.count() == 0);
        assert_eq!(rest.len(), 5);
        tokio::time::advance(ANSWER).await;
        assert_eq!(step(&fixture, WINDOW - LARGE_PORTION + 1), Step::Wait(None), "it would be too many");
        call(&fixture);
        assert_eq!(woken(&rest), 5);
        rest.into_iter().for_each(Task::asks);
        assert_eq!(step(&fixture, 0), Step::Collect);
        assert_eq!(step(&fixture, 5), Step::Wait(None), "that was all");
        assert_empty(&fixture);
    }

    /// Two of them take as long as one that has to be woken; and both kinds share a portion.
    #[tokio::test(start_paused = true)]
    async fn resting_connections_leave_without_a_task_and_more_of_them_at_a_time() {
        let mut fixture = Fixture::new();
        fixture.connections.set_paced();
        let mut clients = Vec::new();
        for _ in 0..PARTS * LARGE_PORTION + PARTS * 3 {
            let (connection, client) = fixture.accept();
            connection.rest("echo", Echo(|_| panic!("it has nothing to do here")));
            clients.push(client);
        }
        let task = Task::new(&fixture);
        task.sleeps();
        silence().await;
        fixture.drain();
        fixture.accept_kind("echo", None);
        let mut leave = || {
            fixture.connections.table.call();
            let leaving: Vec<_> = std::iter::from_fn(|| fixture.migrations.try_recv().ok()).collect();
            let of_a_kind =
                |request: &MigrationRequest| request.kind == "echo" && request.state[..] == *b"state";
            assert!(leaving.iter().all(of_a_kind));
            let slots = fixture.connections.table.queue.lock().free;
            assert_eq!(slots, LARGE_PORTION - leaving.len().div_ceil(PARTS), "one is there for each task");
            (leaving.len(), task.woken.count())
        };
        let (first, woken) = leave();
        assert_eq!(first.div_ceil(PARTS) + woken, LARGE_PORTION);
        assert_eq!(leave(), (clients.len() - first, 1));
    }

    /// The gap is as long as the portion took.
    #[tokio::test(start_paused = true)]
    async fn while_clients_are_served_portions_are_small_and_there_are_gaps() {
        let (fixture, mut tasks) = paced(2 * PORTION);
        tasks.iter().for_each(Task::sleeps);
        silence().await;
        let speaks = Task::new(&fixture);
        fixture.drain();
        call(&fixture);
        assert_eq!(woken(&tasks), PORTION);
        for task in tasks.extract_if(.., |task| task.woken.count() == 1) {
            task.asks();
        }
        assert_eq!(step(&fixture, 0), Step::Collect);
        assert_eq!(step(&fixture, PORTION), Step::Wait(None), "until they are gone");
        tokio::time::advance(3 * MILLISECOND).await;
        let next = Instant::now() + 3 * MILLISECOND;
        assert_eq!(step(&fixture, 0), Step::Wait(Some(next)));
        tokio::time::advance(3 * MILLISECOND).await;
        call(&fixture);
        assert_eq!((woken(&tasks), tasks.len()), (PORTION, PORTION));
        drop(speaks);
    }

    #[tokio::test(start_paused = true)]
    async fn clients_come_first_for_a_while_only() {
        let (fixture, tasks) = paced(2 * LARGE_PORTION);
        tasks.iter().for_each(Task::sleeps);
        silence().await;
        fixture.drain();
        tokio::time::advance(GENTLE_FOR - MILLISECOND).await;
        let _speaks = Task::new(&fixture);
        call(&fixture);
        assert_eq!(woken(&tasks), PORTION);
        tokio::time::advance(ANSWER).await;
        call(&fixture);
        assert_eq!(woken(&tasks), PORTION + LARGE_PORTION, "and no gap");
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_does_not_answer_holds_up_the_others_for_a_moment() {
        let (fixture, tasks) = paced(LARGE_PORTION + 1);
        tasks.iter().for_each(Task::sleeps);
        silence().await;
        fixture.drain();
        call(&fixture);
        let (called, rest): (Vec<_>, Vec<_>) = tasks.into_iter().partition(|task| task.woken.count() == 1);
        let mut called = called.into_iter();
        let mut silent = called.next().unwrap();
        called.next().unwrap().asks();
        called.next().unwrap().slot.release();
        drop(called);
        assert!(matches!(step(&fixture, 0), Step::Wait(Some(_))));
        tokio::time::advance(ANSWER).await;
        assert_eq!(step(&fixture, 0), Step::Collect);
        assert_eq!(step(&fixture, 1), Step::Call);
        fixture.connections.table.call();
        assert_eq!(woken(&rest), 1);
        silent.slot.release();
        assert_eq!(step(&fixture, 1), Step::Wait(None));
    }

    /// Active connections go when the idle ones have gone, and few of them at a time.
    #[tokio::test(start_paused = true)]
    async fn idle_connections_are_called_first() {
        let (fixture, mut idle) = paced(LARGE_PORTION + 1);
        silence().await;
        let mut active: Vec<_> = std::iter::repeat_with(|| Task::new(&fixture)).take(PORTION + 1).collect();
        tokio::time::advance(2 * BUSY_FOR).await;
        idle.iter().chain(&active).for_each(Task::sleeps);
        fixture.drain();
        assert_eq!(with_slots(&mut idle[..1]) + with_slots(&mut active[..1]), 0);
        call(&fixture);
        assert_eq!((woken(&idle), woken(&active)), (LARGE_PORTION, 0));
        assert!(!active[0].has_slot(), "an idle one is to be told yet");
        idle.iter_mut().for_each(|task| task.slot.release());
        call(&fixture);
        assert_eq!((woken(&idle), woken(&active)), (LARGE_PORTION + 1, PORTION - 1));
        assert!(active[0].has_slot(), "it has waited");
        idle.iter_mut().chain(&mut active).for_each(|task| task.slot.release());
        call(&fixture);
        assert_eq!(woken(&active), PORTION + 1);
        active.iter_mut().for_each(|task| task.slot.release());
        assert_empty(&fixture);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slot_that_is_not_used_makes_room() {
        let (fixture, mut tasks) = paced(LARGE_PORTION + 1);
        silence().await;
        assert_eq!(with_slots(&mut tasks), 0, "the driver gives them");
        call(&fixture);
        assert_eq!((woken(&tasks), with_slots(&mut tasks)), (LARGE_PORTION, LARGE_PORTION));
        let mut late = Task::new(&fixture);
        assert!(!late.has_slot());
        let (with, without): (Vec<_>, Vec<_>) = tasks.into_iter().partition(|task| task.woken.count() == 1);
        drop(with);
        drop(late);
        assert_eq!(without.len(), 1);
        call(&fixture);
        assert_eq!(woken(&without), 1);
        drop(without);
        assert_empty(&fixture);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_granted_while_the_other_process_takes_nothing() {
        let (fixture, mut tasks) = paced(3);
        tasks.iter().for_each(Task::sleeps);
        silence().await;
        let queue = &fixture.connections.table.queue;
        assert_eq!(with_slots(&mut tasks[..1]), 0);
        call(&fixture);
        assert_eq!(with_slots(&mut tasks[..1]), 1);
        queue.suspend(true);
        assert!(tasks[0].has_slot(), "what is granted stays so");
        fixture.drain();
        tokio::time::advance(ANSWER).await;
        call(&fixture);
        assert_eq!(woken(&tasks), 4, "all are told");
        assert_eq!(with_slots(&mut tasks[1..]), 0);
        tasks[0].slot.release();
        assert_eq!((step(&fixture, 0), woken(&tasks)), (Step::Wait(None), 4));
        queue.suspend(false);
        call(&fixture);
        assert_eq!((woken(&tasks), with_slots(&mut tasks[1..])), (6, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn the_waker_of_the_last_poll_is_called_and_only_once() {
        let (fixture, mut tasks) = paced(1);
        assert_eq!(with_slots(&mut tasks), 0);
        let before = std::mem::take(&mut tasks[0].woken);
        assert_eq!(with_slots(&mut tasks), 0);
        call(&fixture);
        assert_eq!((before.count(), woken(&tasks)), (0, 1));
        tokio::time::advance(ANSWER).await;
        assert_eq!(step(&fixture, 0), Step::Wait(None));
        assert_eq!(with_slots(&mut tasks), 1);
    }

    /// Its client speaks, or it was asked by its owner and not by the queue.
    #[tokio::test(start_paused = true)]
    async fn a_connection_may_ask_without_a_slot() {
        let (fixture, tasks) = paced(1);
        fixture.connections.table.queue.asked(tasks[0].record());
        assert_eq!((step(&fixture, 0), step(&fixture, 1)), (Step::Collect, Step::Wait(None)));
        assert_empty(&fixture);
    }

    /// What the driver waits for, with a queue that gives it something to do.
    #[tokio::test(start_paused = true)]
    async fn the_driver_calls_and_collects() {
        let (fixture, tasks) = paced(LARGE_PORTION);
        tasks.iter().for_each(Task::sleeps);
        silence().await;
        let connections = fixture.connections.clone();
        let driver = tokio::spawn(async move { connections.next_portion(0).await });
        tokio::task::yield_now().await;
        fixture.drain();
        tokio::task::yield_now().await;
        assert_eq!(woken(&tasks), LARGE_PORTION);
        tasks.into_iter().for_each(Task::asks);
        tokio::time::timeout(Duration::from_secs(60), driver).await.expect("it collects").unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn at_the_deadline_all_are_told_at_once() {
        let (fixture, tasks) = paced(2 * LARGE_PORTION);
        tasks.iter().for_each(Task::sleeps);
        fixture.connections.force();
        assert_eq!(woken(&tasks), 2 * LARGE_PORTION);
    }

    /// An upgraded connection, or one of another protocol, has a task that was never registered, or has
    /// ended.
    #[tokio::test(start_paused = true)]
    async fn what_has_no_task_is_not_waited_for() {
        let (fixture, tasks) = paced(2);
        tasks[0].sleeps();
        tasks[0].record().unregister(&Waker::from(tasks[0].woken.clone()));
        fixture.drain();
        call(&fixture);
        assert_eq!((woken(&tasks), step(&fixture, 0)), (0, Step::Wait(None)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_active_for_a_second_after_its_client_sent_something() {
        let fixture = Fixture::new();
        fixture.connections.set_paced();
        let (mut connection, mut client) = fixture.accept();
        let mut slot = connection.migration_slot();
        let waits_as_active = |slot: &mut MigrationSlot| {
            assert!(slot.poll_acquire(&mut Context::from_waker(Waker::noop())).is_pending());
            let Place::Waits(ticket) = slot.place else { unreachable!("it is pending") };
            slot.release();
            ticket.active
        };
        assert!(waits_as_active(&mut slot), "it is new");
        tokio::time::advance(IDLE_AFTER + MILLISECOND).await;
        assert!(!waits_as_active(&mut slot));
        tokio::io::AsyncWriteExt::write_all(&mut client, b"?").await.unwrap();
        tokio::io::AsyncReadExt::read_u8(&mut connection).await.unwrap();
        assert!(waits_as_active(&mut slot) && fixture.connections.table.is_busy(BUSY_FOR));
        tokio::time::advance(IDLE_AFTER - MILLISECOND).await;
        assert!(waits_as_active(&mut slot) && !fixture.connections.table.is_busy(BUSY_FOR));
        tokio::time::advance(MILLISECOND).await;
        assert!(!waits_as_active(&mut slot));
    }
}
