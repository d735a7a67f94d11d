//! The way out to the next version: so many connections at a time, the others are served here until it is their turn.
//!
//! Deliberately absent: moving, see [`Connection::migrate`](crate::Connection::migrate).

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::activity::{ConnectionActivity, Migration};

/// Half as many again as can be on their way (1,000, `hotupdate_proto::migration`), so that the next ones are ready. One that has
/// its turn is not served until it has arrived, which with so many before it takes some 60 ms: no matter for the idle ones.
const AT_A_TIME: usize = 1_500;

/// Those who would notice go when the idle ones have gone, and with few before them.
const ACTIVE_AT_A_TIME: usize = 200;

/// Whose client has said nothing for so long is idle.
const IDLE_AFTER: Duration = Duration::from_secs(1);

/// A connection's place in the queue of those that move to the next version.
///
/// Whoever hands over a connection without it hands it over at once; then it waits unserved until all that came before have
/// moved, and with 100,000 connections these are seconds.
///
/// ```no_run
/// # async fn step(_: &mut hotupdate::Connection) {}
/// async fn converse(mut connection: hotupdate::Connection) {
///     let mut slot = connection.migration_slot();
///     loop {
///         tokio::select! {
///             () = slot.acquire("echo") => match connection.migrate("echo", &()).await {
///                 Ok(()) => return,                          // the next version goes on
///                 Err(stays) => connection = stays.connection, // so do we, and are asked again when something changes
///             },
///             () = step(&mut connection) => {}
///         }
///     }
/// }
/// ```
#[derive(Debug)]
pub struct MigrationSlot {
    activity: ConnectionActivity,
    place: Place,
}

#[derive(Debug, Default)]
enum Place {
    #[default]
    None,
    /// With the ticket. Who waits and is not in the queue any more has been called.
    Waits(Ticket),
    Turn,
}

#[derive(Clone, Copy, Debug)]
struct Ticket {
    number: u64,
    active: bool,
}

impl MigrationSlot {
    pub(crate) fn new(activity: ConnectionActivity) -> Self {
        Self { activity, place: Place::None }
    }

    /// Resolves when the process drains, the one that serves now picks up connections of this kind, and it is this
    /// connection's turn; not again after a move that failed, until something changes. Those come first whose clients have
    /// been silent for a second.
    ///
    /// The turn lasts until this value is dropped, or something else is asked of it. Safe to cancel: then others come first.
    pub async fn acquire(&mut self, kind: &str) {
        let mut drain = self.activity.drain();
        loop {
            self.release();
            // Before the look, so that no change is missed.
            drain.seen();
            if drain.is_draining()
                && !self.activity.stays()
                && self.activity.migration(kind) == Migration::Available
            {
                tokio::select! {
                    () = self.acquire_any() => return,
                    _ = drain.changed() => {}
                }
            } else {
                drain.changed().await;
            }
        }
    }

    /// Resolves when it is this connection's turn, whatever the process wants.
    ///
    /// As [`MigrationSlot::acquire`] is it safe to cancel.
    pub async fn acquire_any(&mut self) {
        let waiting = Waiting(self);
        poll_fn(|cx| waiting.0.poll_acquire(cx)).await;
    }

    /// As [`MigrationSlot::acquire_any`]. Its place is kept between two calls, and its turn, until [`MigrationSlot::release`]: who does not come
    /// back holds up others.
    pub fn poll_acquire(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let active = self.activity.silence() < IDLE_AFTER;
        self.activity.queue().poll(&mut self.place, active, cx)
    }

    /// Has something else to do, or stays.
    pub fn release(&mut self) {
        if !matches!(self.place, Place::None) {
            self.activity.queue().leave(&mut self.place);
        }
    }
}

impl Drop for MigrationSlot {
    fn drop(&mut self) {
        self.release();
    }
}

/// Steps out if nobody waits any more. Who has a turn keeps it.
struct Waiting<'a>(&'a mut MigrationSlot);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if matches!(self.0.place, Place::Waits(_)) {
            self.0.release();
        }
    }
}

/// Everybody who wants to leave a process.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    last: u64,
    /// How many have their turn.
    out: usize,
    idle: BTreeMap<u64, Waker>,
    active: BTreeMap<u64, Waker>,
}

impl Queue {
    fn poll(&self, place: &mut Place, active: bool, cx: &mut Context<'_>) -> Poll<()> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        match place {
            Place::Turn => return Poll::Ready(()),
            Place::None if inner.has_room(active) => inner.out += 1,
            Place::None => {
                inner.last += 1;
                let number = inner.last;
                inner.waiting(active).insert(number, cx.waker().clone());
                *place = Place::Waits(Ticket { number, active });
                return Poll::Pending;
            }
            Place::Waits(ticket) => {
                if let Some(waker) = inner.waiting(ticket.active).get_mut(&ticket.number) {
                    waker.clone_from(cx.waker());
                    return Poll::Pending;
                }
            }
        }
        *place = Place::Turn;
        Poll::Ready(())
    }

    fn leave(&self, place: &mut Place) {
        let called = {
            let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            match std::mem::take(place) {
                Place::None => {}
                Place::Waits(ticket) if inner.waiting(ticket.active).remove(&ticket.number).is_some() => {}
                Place::Waits(_) | Place::Turn => inner.out -= 1,
            }
            inner.call()
        };
        called.into_iter().for_each(Waker::wake);
    }
}

impl Inner {
    fn waiting(&mut self, active: bool) -> &mut BTreeMap<u64, Waker> {
        if active { &mut self.active } else { &mut self.idle }
    }

    /// For somebody who comes last.
    fn has_room(&self, active: bool) -> bool {
        let nobody = self.idle.is_empty();
        if active {
            nobody && self.active.is_empty() && self.out < ACTIVE_AT_A_TIME
        } else {
            nobody && self.out < AT_A_TIME
        }
    }

    /// Whose turn it is now.
    fn call(&mut self) -> Vec<Waker> {
        let mut called = Vec::new();
        loop {
            let limit = if self.idle.is_empty() { ACTIVE_AT_A_TIME } else { AT_A_TIME };
            if self.out >= limit {
                return called;
            }
            let next = self.idle.pop_first().or_else(|| self.active.pop_first());
            let Some((_, waker)) = next else { return called };
            self.out += 1;
            called.push(waker);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: bool = false;
    const ACTIVE: bool = true;

    fn has_turn(queue: &Queue, place: &mut Place, active: bool) -> bool {
        queue.poll(place, active, &mut Context::from_waker(Waker::noop())).is_ready()
    }

    /// So many that have their turn.
    fn out(queue: &Queue, how_many: usize) -> Vec<Place> {
        let mut places: Vec<_> = std::iter::repeat_with(Place::default).take(how_many).collect();
        assert!(places.iter_mut().all(|place| has_turn(queue, place, IDLE)));
        places
    }

    #[test]
    fn who_steps_out_makes_room_for_who_waited_longest() {
        let queue = Queue::default();
        let mut out = out(&queue, AT_A_TIME);
        let [mut first, mut second, mut third] = [(); 3].map(|()| Place::None);
        for place in [&mut first, &mut second, &mut third] {
            assert!(!has_turn(&queue, place, IDLE));
        }
        queue.leave(&mut out[0]);
        assert!(!has_turn(&queue, &mut out[0], IDLE), "behind those who waited before");
        assert!(!has_turn(&queue, &mut second, IDLE) && has_turn(&queue, &mut first, IDLE));
        queue.leave(&mut second);
        queue.leave(&mut first);
        assert!(has_turn(&queue, &mut third, IDLE), "nobody else waited before");
        assert!(!has_turn(&queue, &mut out[0], IDLE));
    }

    #[test]
    fn active_connections_go_when_the_idle_ones_have_gone() {
        let queue = Queue::default();
        let mut out = out(&queue, AT_A_TIME);
        let [mut idle, mut active] = [(); 2].map(|()| Place::None);
        assert!(!has_turn(&queue, &mut active, ACTIVE) && !has_turn(&queue, &mut idle, IDLE));
        queue.leave(&mut out[0]);
        assert!(has_turn(&queue, &mut idle, IDLE), "it is called first");
        out[1..=AT_A_TIME - ACTIVE_AT_A_TIME].iter_mut().for_each(|place| queue.leave(place));
        assert!(!has_turn(&queue, &mut active, ACTIVE), "too many are before it");
        queue.leave(&mut idle);
        assert!(has_turn(&queue, &mut active, ACTIVE));
    }

    #[test]
    fn who_is_called_and_does_not_come_makes_room() {
        let queue = Queue::default();
        let mut out = out(&queue, AT_A_TIME);
        let [mut called, mut waits] = [(); 2].map(|()| Place::None);
        assert!(!has_turn(&queue, &mut called, IDLE) && !has_turn(&queue, &mut waits, IDLE));
        queue.leave(&mut out[0]);
        queue.leave(&mut called);
        assert!(has_turn(&queue, &mut waits, IDLE));
    }
}
