//! The way out to the next version: so many connections at a time, the others are served here until it is their turn.
//!
//! Deliberately absent: moving, see [`Connection::hand_over`](crate::Connection::hand_over).

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::connections::{Activity, Moves};

/// Half as many again as can be on their way (1,000, `hotupdate_proto::migration`), so that the next ones are ready. One that has
/// its turn is not served until it has arrived, which with so many before it takes some 60 ms: no matter for the quiet ones.
const AT_A_TIME: usize = 1_500;

/// Those who would notice go when the quiet ones have gone, and with few before them.
const LIVELY_AT_A_TIME: usize = 200;

/// Whose client has said nothing for so long is quiet.
const QUIET: Duration = Duration::from_secs(1);

/// A connection's place in the queue of those that move to the next version.
///
/// Whoever hands over a connection without it hands it over at once; then it waits unserved until all that came before have
/// moved, and with 100,000 connections these are seconds.
///
/// ```no_run
/// # async fn step(_: &mut hotupdate::Connection) {}
/// async fn converse(mut connection: hotupdate::Connection) {
///     let mut exit = connection.exit();
///     loop {
///         tokio::select! {
///             () = exit.turn("echo") => match connection.hand_over("echo", &()).await {
///                 Ok(()) => return,                          // the next version goes on
///                 Err(stays) => connection = stays.connection, // so do we, and are asked again when something changes
///             },
///             () = step(&mut connection) => {}
///         }
///     }
/// }
/// ```
#[derive(Debug)]
pub struct Exit {
    activity: Activity,
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
    lively: bool,
}

impl Exit {
    pub(crate) fn new(activity: Activity) -> Self {
        Self { activity, place: Place::None }
    }

    /// Resolves when the process drains, the one that serves now picks up connections of this kind, and it is this
    /// connection's turn; not again after a move that failed, until something changes. Those come first whose clients have
    /// been silent for a second.
    ///
    /// The turn lasts until this value is dropped, or something else is asked of it. Safe to cancel: then others come first.
    pub async fn turn(&mut self, kind: &str) {
        let mut drain = self.activity.drain();
        loop {
            self.step_out();
            // Before the look, so that no change is missed.
            drain.seen();
            if drain.is_draining() && !self.activity.stays() && self.activity.moves(kind) == Moves::Yes {
                tokio::select! {
                    () = self.next() => return,
                    _ = drain.changed() => {}
                }
            } else {
                drain.changed().await;
            }
        }
    }

    /// Resolves when it is this connection's turn, whatever the process wants.
    ///
    /// As [`Exit::turn`] is it safe to cancel.
    pub async fn next(&mut self) {
        let waiting = Waiting(self);
        poll_fn(|cx| waiting.0.poll_next(cx)).await;
    }

    /// As [`Exit::next`]. Its place is kept between two calls, and its turn, until [`Exit::step_out`]: who does not come
    /// back holds up others.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let lively = self.activity.silence() < QUIET;
        self.activity.queue().poll(&mut self.place, lively, cx)
    }

    /// Has something else to do, or stays.
    pub fn step_out(&mut self) {
        if !matches!(self.place, Place::None) {
            self.activity.queue().leave(&mut self.place);
        }
    }
}

impl Drop for Exit {
    fn drop(&mut self) {
        self.step_out();
    }
}

/// Steps out if nobody waits any more. Who has a turn keeps it.
struct Waiting<'a>(&'a mut Exit);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if matches!(self.0.place, Place::Waits(_)) {
            self.0.step_out();
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
    quiet: BTreeMap<u64, Waker>,
    lively: BTreeMap<u64, Waker>,
}

impl Queue {
    fn poll(&self, place: &mut Place, lively: bool, cx: &mut Context<'_>) -> Poll<()> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        match place {
            Place::Turn => return Poll::Ready(()),
            Place::None if inner.has_room(lively) => inner.out += 1,
            Place::None => {
                inner.last += 1;
                let number = inner.last;
                inner.waiting(lively).insert(number, cx.waker().clone());
                *place = Place::Waits(Ticket { number, lively });
                return Poll::Pending;
            }
            Place::Waits(ticket) => {
                if let Some(waker) = inner.waiting(ticket.lively).get_mut(&ticket.number) {
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
                Place::Waits(ticket) if inner.waiting(ticket.lively).remove(&ticket.number).is_some() => {}
                Place::Waits(_) | Place::Turn => inner.out -= 1,
            }
            inner.call()
        };
        called.into_iter().for_each(Waker::wake);
    }
}

impl Inner {
    fn waiting(&mut self, lively: bool) -> &mut BTreeMap<u64, Waker> {
        if lively { &mut self.lively } else { &mut self.quiet }
    }

    /// For somebody who comes last.
    fn has_room(&self, lively: bool) -> bool {
        let nobody = self.quiet.is_empty();
        if lively {
            nobody && self.lively.is_empty() && self.out < LIVELY_AT_A_TIME
        } else {
            nobody && self.out < AT_A_TIME
        }
    }

    /// Whose turn it is now.
    fn call(&mut self) -> Vec<Waker> {
        let mut called = Vec::new();
        loop {
            let limit = if self.quiet.is_empty() { LIVELY_AT_A_TIME } else { AT_A_TIME };
            if self.out >= limit {
                return called;
            }
            let next = self.quiet.pop_first().or_else(|| self.lively.pop_first());
            let Some((_, waker)) = next else { return called };
            self.out += 1;
            called.push(waker);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUIET_ONE: bool = false;
    const LIVELY_ONE: bool = true;

    fn has_turn(queue: &Queue, place: &mut Place, lively: bool) -> bool {
        queue.poll(place, lively, &mut Context::from_waker(Waker::noop())).is_ready()
    }

    /// So many that have their turn.
    fn out(queue: &Queue, how_many: usize) -> Vec<Place> {
        let mut places: Vec<_> = std::iter::repeat_with(Place::default).take(how_many).collect();
        assert!(places.iter_mut().all(|place| has_turn(queue, place, QUIET_ONE)));
        places
    }

    #[test]
    fn who_steps_out_makes_room_for_who_waited_longest() {
        let queue = Queue::default();
        let mut out = out(&queue, AT_A_TIME);
        let [mut first, mut second, mut third] = [(); 3].map(|()| Place::None);
        for place in [&mut first, &mut second, &mut third] {
            assert!(!has_turn(&queue, place, QUIET_ONE));
        }
        queue.leave(&mut out[0]);
        assert!(!has_turn(&queue, &mut out[0], QUIET_ONE), "behind those who waited before");
        assert!(!has_turn(&queue, &mut second, QUIET_ONE) && has_turn(&queue, &mut first, QUIET_ONE));
        queue.leave(&mut second);
        queue.leave(&mut first);
        assert!(has_turn(&queue, &mut third, QUIET_ONE), "nobody else waited before");
        assert!(!has_turn(&queue, &mut out[0], QUIET_ONE));
    }

    #[test]
    fn the_lively_go_when_the_quiet_have_gone() {
        let queue = Queue::default();
        let mut out = out(&queue, AT_A_TIME);
        let [mut quiet, mut lively] = [(); 2].map(|()| Place::None);
        assert!(!has_turn(&queue, &mut lively, LIVELY_ONE) && !has_turn(&queue, &mut quiet, QUIET_ONE));
        queue.leave(&mut out[0]);
        assert!(has_turn(&queue, &mut quiet, QUIET_ONE), "it is called first");
        out[1..=AT_A_TIME - LIVELY_AT_A_TIME].iter_mut().for_each(|place| queue.leave(place));
        assert!(!has_turn(&queue, &mut lively, LIVELY_ONE), "too many are before it");
        queue.leave(&mut quiet);
        assert!(has_turn(&queue, &mut lively, LIVELY_ONE));
    }

    #[test]
    fn who_is_called_and_does_not_come_makes_room() {
        let queue = Queue::default();
        let mut out = out(&queue, AT_A_TIME);
        let [mut called, mut waits] = [(); 2].map(|()| Place::None);
        assert!(!has_turn(&queue, &mut called, QUIET_ONE) && !has_turn(&queue, &mut waits, QUIET_ONE));
        queue.leave(&mut out[0]);
        queue.leave(&mut called);
        assert!(has_turn(&queue, &mut waits, QUIET_ONE));
    }
}
