//! Callers that say nothing, in the order in which they fell silent.
//!
//! Deliberately absent: how many there may be, and who has to go when; see `driver/callers.rs`.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Whoever is silent waits here, and is dismissed when somebody else needs the room.
#[derive(Debug, Default)]
pub(crate) struct IdleCallers {
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    last: u64,
    waiting: BTreeMap<u64, oneshot::Sender<()>>,
}

/// Leaves the queue when it is dropped.
struct Place<'a> {
    silent: &'a IdleCallers,
    number: u64,
}

impl IdleCallers {
    /// Resolves when this caller has to go; until it is dropped the caller counts as silent.
    pub(crate) async fn dismissed(&self) {
        let (sender, dismissed) = oneshot::channel();
        let number = {
            let mut queue = self.queue();
            queue.last += 1;
            let number = queue.last;
            queue.waiting.insert(number, sender);
            number
        };
        let _place = Place { silent: self, number };
        // The sender stays in the queue as long as the place does, so there is no other end.
        let _ = dismissed.await;
    }

    /// Dismisses the caller that has been silent longest; says whether there was one.
    pub(crate) fn dismiss_one(&self) -> bool {
        let longest = self.queue().waiting.pop_first();
        longest.is_some_and(|(_, sender)| sender.send(()).is_ok())
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Nothing in here can panic half-way through a change.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.silent.queue().waiting.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    #[test]
    fn the_one_that_has_been_silent_longest_goes_first() {
        let silent = IdleCallers::default();
        let mut context = Context::from_waker(Waker::noop());
        let (mut one, mut two) = (pin!(silent.dismissed()), pin!(silent.dismissed()));
        assert!(two.as_mut().poll(&mut context).is_pending() && one.as_mut().poll(&mut context).is_pending());
        assert!(silent.dismiss_one());
        assert_eq!(
            (two.poll(&mut context), one.as_mut().poll(&mut context)),
            (Poll::Ready(()), Poll::Pending)
        );
    }

    #[test]
    fn whoever_has_left_is_not_dismissed_and_nobody_goes_in_its_place_later() {
        let silent = IdleCallers::default();
        let mut context = Context::from_waker(Waker::noop());
        {
            let mut gone = pin!(silent.dismissed());
            assert!(gone.as_mut().poll(&mut context).is_pending());
        }
        assert!(!silent.dismiss_one());
        assert!(pin!(silent.dismissed()).poll(&mut context).is_pending());
    }
}
