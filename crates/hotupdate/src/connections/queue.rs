//! The queue of connections that migrate: so many at a time; the rest are served here until they have a slot.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::activity::ConnectionActivity;
use super::record::Record;

/// Half as many again as can be on their way (1,000, `hotupdate_proto::migration`), so that the next ones are
/// ready. A connection that has a slot is not served until it has arrived, which with so many before it takes
/// some 60 ms: no matter for idle ones.
const AT_A_TIME: usize = 1_500;

/// Clients of active connections would notice; they go when the idle ones have gone, and with few before
/// them.
const ACTIVE_AT_A_TIME: usize = 200;

/// A connection is idle when its client has sent nothing for so long.
const IDLE_AFTER: Duration = Duration::from_secs(1);

/// A connection's place in the queue of those that migrate to the next version.
///
/// A connection that migrates without it does so at once, and waits unserved until all that came before have
/// migrated; with 100,000 connections these are seconds.
///
/// ```no_run
/// # async fn step(_: &mut hotupdate::Connection) {}
/// async fn converse(mut connection: hotupdate::Connection) {
///     let mut slot = connection.migration_slot();
///     loop {
///         tokio::select! {
///             () = slot.acquire("echo") => match connection.migrate("echo", &()).await {
///                 Ok(()) => return,                            // the next version goes on
///                 Err(stays) => connection = stays.connection, // serve it here; try again after a change
///             },
///             () = step(&mut connection) => {}
///         }
///     }
/// }
/// ```
#[derive(Debug)]
pub struct MigrationSlot {
    record: Arc<Record>,
    place: Place,
}

#[derive(Debug, Default)]
enum Place {
    #[default]
    None,
    /// With the ticket. A connection that waits and is not in the queue any more has been given a slot.
    Waits(Ticket),
    Granted,
}

#[derive(Clone, Copy, Debug)]
struct Ticket {
    number: u64,
    active: bool,
}

impl MigrationSlot {
    pub(super) fn new(record: Arc<Record>) -> Self {
        Self { record, place: Place::None }
    }

    /// Resolves when the connection can migrate (see
    /// [`Connection::can_migrate`](crate::Connection::can_migrate)) and has a slot. Connections whose clients
    /// have been silent for a second come first.
    ///
    /// The slot is held until this value is dropped, or asked for something else. Safe to cancel: the place
    /// in the queue is lost.
    pub async fn acquire(&mut self, kind: &str) {
        let activity = ConnectionActivity { record: self.record.clone() };
        let mut drain = activity.drain();
        loop {
            self.release();
            if drain.is_draining() && activity.can_migrate(kind) {
                tokio::select! {
                    () = self.acquire_any() => return,
                    _ = drain.changed() => {}
                }
            } else {
                drain.changed().await;
            }
        }
    }

    /// Resolves when the connection has a slot, whether or not it can migrate.
    ///
    /// Safe to cancel, as [`MigrationSlot::acquire`] is.
    pub async fn acquire_any(&mut self) {
        let waiting = Waiting(self);
        poll_fn(|cx| waiting.0.poll_acquire(cx)).await;
    }

    /// As [`MigrationSlot::acquire_any`]. Between two calls the place in the queue is kept, and the slot,
    /// until [`MigrationSlot::release`]: a caller that neither polls again nor releases holds up other
    /// connections.
    pub fn poll_acquire(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.record.table.queue.poll(&mut self.place, || self.record.silence() < IDLE_AFTER, cx)
    }

    /// Gives up the slot, or the place in the queue.
    pub fn release(&mut self) {
        if !matches!(self.place, Place::None) {
            self.record.table.queue.leave(&mut self.place);
        }
    }
}

impl Drop for MigrationSlot {
    fn drop(&mut self) {
        self.release();
    }
}

/// Gives up the place in the queue when the wait is cancelled. A slot that was granted is kept.
struct Waiting<'a>(&'a mut MigrationSlot);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if matches!(self.0.place, Place::Waits(_)) {
            self.0.release();
        }
    }
}

/// All connections of a process that want to migrate.
#[derive(Debug, Default)]
pub(super) struct Queue {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    last: u64,
    /// How many slots are held.
    granted: usize,
    /// The other process takes no connections for now, so none gets a slot.
    suspended: bool,
    idle: BTreeMap<u64, Waker>,
    active: BTreeMap<u64, Waker>,
}

impl Queue {
    fn poll(&self, place: &mut Place, is_active: impl FnOnce() -> bool, cx: &mut Context<'_>) -> Poll<()> {
        if matches!(place, Place::Granted) {
            return Poll::Ready(());
        }
        let mut inner = self.lock();
        if let Place::Waits(ticket) = place {
            if let Some(waker) = inner.waiting(ticket.active).get_mut(&ticket.number) {
                waker.clone_from(cx.waker());
                return Poll::Pending;
            }
        } else {
            let active = is_active();
            if !inner.has_room(active) {
                inner.last += 1;
                let number = inner.last;
                inner.waiting(active).insert(number, cx.waker().clone());
                *place = Place::Waits(Ticket { number, active });
                return Poll::Pending;
            }
            inner.granted += 1;
        }
        *place = Place::Granted;
        Poll::Ready(())
    }

    fn leave(&self, place: &mut Place) {
        let called = {
            let mut inner = self.lock();
            match std::mem::take(place) {
                Place::None => {}
                Place::Waits(ticket) if inner.waiting(ticket.active).remove(&ticket.number).is_some() => {}
                Place::Waits(_) | Place::Granted => inner.granted -= 1,
            }
            inner.call()
        };
        called.into_iter().for_each(Waker::wake);
    }

    /// Whether slots are given at all. Those that are held stay with their holders.
    pub(super) fn suspend(&self, suspended: bool) {
        let called = {
            let mut inner = self.lock();
            inner.suspended = suspended;
            inner.call()
        };
        called.into_iter().for_each(Waker::wake);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn waiting(&mut self, active: bool) -> &mut BTreeMap<u64, Waker> {
        if active { &mut self.active } else { &mut self.idle }
    }

    /// Whether a connection that comes last gets a slot at once.
    fn has_room(&self, active: bool) -> bool {
        let limit = if active { ACTIVE_AT_A_TIME } else { AT_A_TIME };
        let first = self.idle.is_empty() && (!active || self.active.is_empty());
        first && !self.suspended && self.granted < limit
    }

    /// Gives the slots that are free; returns the tasks to wake.
    fn call(&mut self) -> Vec<Waker> {
        let mut called = Vec::new();
        while !self.suspended {
            let limit = if self.idle.is_empty() { ACTIVE_AT_A_TIME } else { AT_A_TIME };
            if self.granted >= limit {
                break;
            }
            let next = self.idle.pop_first().or_else(|| self.active.pop_first());
            let Some((_, waker)) = next else { break };
            self.granted += 1;
            called.push(waker);
        }
        called
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Fixture, Woken, poll_once};
    use super::*;

    const IDLE: bool = false;
    const ACTIVE: bool = true;

    fn has_slot(queue: &Queue, place: &mut Place, active: bool) -> bool {
        queue.poll(place, || active, &mut Context::from_waker(Waker::noop())).is_ready()
    }

    /// So many idle connections with a slot each.
    fn granted(queue: &Queue, how_many: usize) -> Vec<Place> {
        let mut places: Vec<_> = std::iter::repeat_with(Place::default).take(how_many).collect();
        assert!(places.iter_mut().all(|place| has_slot(queue, place, IDLE)));
        places
    }

    /// Nothing is left in the queue, and all slots are free.
    fn assert_empty(queue: &Queue) {
        let inner = queue.lock();
        assert_eq!((inner.granted, inner.idle.len(), inner.active.len()), (0, 0, 0));
    }

    #[test]
    fn a_slot_that_is_released_goes_to_the_connection_that_waited_longest() {
        let queue = Queue::default();
        let mut before = granted(&queue, AT_A_TIME);
        let [mut first, mut second, mut third] = [(); 3].map(|()| Place::None);
        for place in [&mut first, &mut second, &mut third] {
            assert!(!has_slot(&queue, place, IDLE));
        }
        queue.leave(&mut before[0]);
        assert!(!has_slot(&queue, &mut before[0], IDLE), "behind those that waited before");
        assert!(!has_slot(&queue, &mut second, IDLE) && has_slot(&queue, &mut first, IDLE));
        queue.leave(&mut second);
        queue.leave(&mut first);
        assert!(has_slot(&queue, &mut third, IDLE), "no other waited before");
        assert!(!has_slot(&queue, &mut before[0], IDLE));
        for place in before.iter_mut().chain([&mut third]) {
            queue.leave(place);
        }
        assert_empty(&queue);
    }

    #[test]
    fn active_connections_wait_until_the_idle_ones_have_gone() {
        let queue = Queue::default();
        let mut before = granted(&queue, AT_A_TIME);
        let [mut idle, mut active] = [(); 2].map(|()| Place::None);
        assert!(!has_slot(&queue, &mut active, ACTIVE) && !has_slot(&queue, &mut idle, IDLE));
        queue.leave(&mut before[0]);
        assert!(has_slot(&queue, &mut idle, IDLE), "it is called first");
        before[1..=AT_A_TIME - ACTIVE_AT_A_TIME].iter_mut().for_each(|place| queue.leave(place));
        assert!(!has_slot(&queue, &mut active, ACTIVE), "too many are before it");
        queue.leave(&mut idle);
        assert!(has_slot(&queue, &mut active, ACTIVE));
    }

    #[test]
    fn few_active_connections_have_a_slot_at_a_time() {
        let queue = Queue::default();
        let mut places: Vec<_> = std::iter::repeat_with(Place::default).take(ACTIVE_AT_A_TIME).collect();
        assert!(places.iter_mut().all(|place| has_slot(&queue, place, ACTIVE)));
        let mut last = Place::None;
        assert!(!has_slot(&queue, &mut last, ACTIVE));
        let mut idle = Place::None;
        assert!(has_slot(&queue, &mut idle, IDLE), "idle ones do not wait for active ones");
        queue.leave(&mut places[0]);
        assert!(!has_slot(&queue, &mut last, ACTIVE), "still as many are before it");
        let mut late = Place::None;
        queue.leave(&mut idle);
        assert!(
            !has_slot(&queue, &mut late, ACTIVE) && has_slot(&queue, &mut last, ACTIVE),
            "in their order"
        );
    }

    /// An active connection does not overtake an idle one that waits, even if a slot is free for it.
    #[test]
    fn an_active_connection_does_not_overtake() {
        let queue = Queue::default();
        queue.suspend(true);
        let [mut idle, mut active] = [(); 2].map(|()| Place::None);
        assert!(!has_slot(&queue, &mut idle, IDLE));
        queue.lock().suspended = false;
        assert!(!has_slot(&queue, &mut active, ACTIVE), "an idle one waits");
        queue.leave(&mut idle);
        assert!(has_slot(&queue, &mut active, ACTIVE));
    }

    #[test]
    fn nothing_is_granted_while_the_other_process_takes_nothing() {
        let queue = Queue::default();
        let mut held = granted(&queue, 1);
        queue.suspend(true);
        assert!(has_slot(&queue, &mut held[0], IDLE), "what is granted stays so");
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(woken.clone());
        let [mut idle, mut active] = [(); 2].map(|()| Place::None);
        for (place, is_active) in [(&mut idle, IDLE), (&mut active, ACTIVE)] {
            assert!(queue.poll(place, || is_active, &mut Context::from_waker(&waker)).is_pending());
        }
        queue.leave(&mut held[0]);
        assert_eq!(woken.count(), 0);
        queue.suspend(false);
        assert_eq!(woken.count(), 2, "both are called");
        assert!(has_slot(&queue, &mut idle, IDLE) && has_slot(&queue, &mut active, ACTIVE));
    }

    #[test]
    fn the_waker_of_the_last_poll_is_called_and_only_once() {
        let queue = Queue::default();
        queue.suspend(true);
        let wakers = [(); 2].map(|()| Arc::new(Woken::default()));
        let mut place = Place::None;
        for woken in &wakers {
            let waker = Waker::from(woken.clone());
            assert!(queue.poll(&mut place, || IDLE, &mut Context::from_waker(&waker)).is_pending());
        }
        queue.suspend(false);
        queue.suspend(false);
        assert_eq!(wakers.map(|woken| woken.count()), [0, 1]);
        queue.leave(&mut place);
        assert_empty(&queue);
    }

    #[test]
    fn active_connections_are_called_in_their_order() {
        let queue = Queue::default();
        queue.suspend(true);
        let mut waiting: Vec<_> = std::iter::repeat_with(Place::default).take(ACTIVE_AT_A_TIME + 1).collect();
        assert!(!waiting.iter_mut().any(|place| has_slot(&queue, place, ACTIVE)));
        queue.suspend(false);
        let last = waiting.pop().as_mut().is_some_and(|place| has_slot(&queue, place, ACTIVE));
        let others = waiting.iter_mut().all(|place| has_slot(&queue, place, ACTIVE));
        assert!(others && !last, "all but the last");
    }

    #[test]
    fn a_slot_that_is_released_wakes_the_next() {
        let queue = Queue::default();
        let mut before = granted(&queue, AT_A_TIME);
        let woken = Arc::new(Woken::default());
        let (waker, mut next) = (Waker::from(woken.clone()), Place::None);
        assert!(queue.poll(&mut next, || IDLE, &mut Context::from_waker(&waker)).is_pending());
        queue.leave(&mut before[0]);
        assert_eq!(woken.count(), 1);
    }

    #[test]
    fn a_connection_that_is_called_and_does_not_come_makes_room() {
        let queue = Queue::default();
        let mut before = granted(&queue, AT_A_TIME);
        let [mut called, mut waits] = [(); 2].map(|()| Place::None);
        assert!(!has_slot(&queue, &mut called, IDLE) && !has_slot(&queue, &mut waits, IDLE));
        queue.leave(&mut before[0]);
        queue.leave(&mut called);
        assert!(has_slot(&queue, &mut waits, IDLE));
    }

    #[tokio::test]
    async fn a_slot_needs_a_drain_and_a_process_that_accepts_the_kind() {
        let fixture = Fixture::new();
        let mut slot = fixture.connection().migration_slot();
        fixture.accept_kind("echo", None);
        assert!(poll_once(slot.acquire("echo")).is_pending(), "the process serves");
        fixture.drain();
        assert!(poll_once(slot.acquire("echo")).is_ready());
        assert!(poll_once(slot.acquire("another")).is_pending());
        fixture.accept_kind("echo", Some("another listener"));
        assert!(poll_once(slot.acquire("echo")).is_pending());
        fixture.accept_kind("echo", Some("test"));
        assert!(poll_once(slot.acquire("echo")).is_ready());
        fixture.connections.end_migration();
        assert!(poll_once(slot.acquire("echo")).is_pending());
    }

    #[tokio::test]
    async fn a_change_is_a_new_chance_and_comes_to_a_connection_that_waits() {
        let fixture = Fixture::new();
        let mut slot = fixture.connection().migration_slot();
        let acquired = tokio::spawn(async move { slot.acquire("echo").await });
        for change in [Fixture::drain, |fixture: &Fixture| fixture.connections.end_migration()] {
            tokio::task::yield_now().await;
            change(&fixture);
        }
        tokio::task::yield_now().await;
        assert!(!acquired.is_finished());
        fixture.accept_kind("echo", None);
        tokio::time::timeout(Duration::from_secs(60), acquired).await.expect("it is told").unwrap();
    }

    #[tokio::test]
    async fn a_connection_that_was_refused_has_no_slot_until_something_changes() {
        let mut fixture = Fixture::new();
        let connection = fixture.connection();
        let mut slot = connection.migration_slot();
        fixture.drain();
        fixture.accept_kind("echo", None);
        assert!(poll_once(slot.acquire("echo")).is_ready());
        let refuses = async {
            let request = fixture.migrations.recv().await.unwrap();
            let _ = request.reply.send(Err(Box::new(request.connection)));
        };
        let (migrated, ()) = tokio::join!(connection.migrate("echo", &1), refuses);
        let connection = migrated.unwrap_err().connection;
        assert!(!connection.can_migrate("echo"));
        assert!(poll_once(slot.acquire("echo")).is_pending());
        assert_empty(&fixture.connections.table.queue);
        fixture.accept_kind("echo", None);
        assert!(poll_once(slot.acquire("echo")).is_ready());
    }

    /// The other process answers again while the refusal is on its way to the connection.
    #[tokio::test]
    async fn a_refusal_from_before_a_change_does_not_count() {
        let mut fixture = Fixture::new();
        let connection = fixture.connection();
        fixture.drain();
        fixture.accept_kind("echo", None);
        let migrated = async {
            let request = fixture.migrations.recv().await.unwrap();
            fixture.connections.resume_migration();
            let _ = request.reply.send(Err(Box::new(request.connection)));
        };
        let (migrated, ()) = tokio::join!(connection.migrate("echo", &1), migrated);
        assert!(migrated.unwrap_err().connection.can_migrate("echo"));
    }

    #[tokio::test]
    async fn a_wait_that_is_cancelled_gives_up_the_place_and_not_the_slot() {
        let fixture = Fixture::new();
        let [mut first, mut second] = [(); 2].map(|()| fixture.connection().migration_slot());
        assert!(poll_once(first.acquire_any()).is_ready());
        assert!(matches!(first.place, Place::Granted));
        fixture.connections.suspend_migration(tokio::time::Instant::now() + Duration::from_secs(60));
        assert!(poll_once(second.acquire_any()).is_pending());
        assert!(matches!(second.place, Place::None));
        assert!(poll_once(first.acquire_any()).is_ready(), "it has it still");
        drop(first);
        assert_empty(&fixture.connections.table.queue);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_active_for_a_second_after_its_client_sent_something() {
        let fixture = Fixture::new();
        let (mut connection, mut client) = fixture.accept();
        let mut slot = connection.migration_slot();
        fixture.connections.table.queue.suspend(true);
        let waits_as_active = |slot: &mut MigrationSlot| {
            assert!(slot.poll_acquire(&mut Context::from_waker(Waker::noop())).is_pending());
            let Place::Waits(ticket) = slot.place else { unreachable!("it is pending") };
            slot.release();
            ticket.active
        };
        assert!(waits_as_active(&mut slot), "it is new");
        tokio::time::advance(IDLE_AFTER + Duration::from_millis(1)).await;
        assert!(!waits_as_active(&mut slot));
        tokio::io::AsyncWriteExt::write_all(&mut client, b"?").await.unwrap();
        tokio::io::AsyncReadExt::read_u8(&mut connection).await.unwrap();
        assert!(waits_as_active(&mut slot));
        tokio::time::advance(IDLE_AFTER - Duration::from_millis(1)).await;
        assert!(waits_as_active(&mut slot));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(!waits_as_active(&mut slot));
    }
}
