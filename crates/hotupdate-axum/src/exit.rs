//! The way out to the next version: so many connections at a time, the others are served here until it is their turn.
//!
//! Deliberately absent: who may leave, see [`crate::watch`].

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::PollSemaphore;

/// Half as many again as can be on their way (1,000, `hotupdate_proto::moving`), so that the next ones are ready. One that has
/// its turn is not served until it has arrived, which with so many before it takes some 60 ms.
const AT_A_TIME: usize = 1_500;

/// Shared by the connections of a listener.
#[derive(Clone, Debug)]
pub(crate) struct Exit {
    places: Arc<Semaphore>,
}

impl Default for Exit {
    fn default() -> Self {
        Self { places: Arc::new(Semaphore::new(AT_A_TIME)) }
    }
}

/// One connection at the exit.
#[derive(Debug)]
pub(crate) struct Queue {
    exit: Exit,
    waits: Option<PollSemaphore>,
    place: Option<OwnedSemaphorePermit>,
}

impl Queue {
    pub(crate) fn new(exit: Exit) -> Self {
        Self { exit, waits: None, place: None }
    }

    /// Waits for its turn, behind those who waited before. It lasts until this value is dropped, or [`Queue::step_out`].
    pub(crate) fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.place.is_none() {
            let waits = self.waits.get_or_insert_with(|| PollSemaphore::new(self.exit.places.clone()));
            // It is never closed.
            self.place = ready!(waits.poll_acquire(cx));
            self.waits = None;
        }
        Poll::Ready(())
    }

    /// Has something else to do, or stays.
    pub(crate) fn step_out(&mut self) {
        (self.waits, self.place) = (None, None);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use std::future::poll_fn;

    use super::*;

    fn has_turn(queue: &mut Queue) -> bool {
        poll_fn(|cx| queue.poll_turn(cx)).now_or_never().is_some()
    }

    #[test]
    fn who_steps_out_makes_room() {
        let exit = Exit { places: Arc::new(Semaphore::new(1)) };
        let [mut first, mut second, mut third] = [(); 3].map(|()| Queue::new(exit.clone()));
        assert!(has_turn(&mut first) && has_turn(&mut first));
        assert!(!has_turn(&mut second) && !has_turn(&mut third));
        first.step_out();
        assert!(!has_turn(&mut first), "behind those who waited before");
        assert!(has_turn(&mut second));
        drop(second);
        assert!(has_turn(&mut third));
    }
}
