//! How the task that serves a connection learns of changes: when its connection is called, or when it looks.
//!
//! Deliberately absent: waking all tasks at once, as [`Drain`](super::Drain) does; the queue calls them.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::drain::Phase;
use super::record::Record;

/// What a connection is told by its process. The task that polls this is the one that is woken for the
/// connection, also when a request ends that it waits for.
#[doc(hidden)]
#[derive(Debug)]
pub struct Changes {
    record: Arc<Record>,
    registered: Option<Waker>,
}

impl Changes {
    pub(super) fn new(record: Arc<Record>) -> Self {
        record.see();
        Self { record, registered: None }
    }

    /// What the process wants now.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.record.phase()
    }

    /// Ready after every change. A connection that is asleep is called when it is its turn.
    #[inline]
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Phase> {
        let Self { record, registered } = self;
        if !registered.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            record.register(cx.waker());
            *registered = Some(cx.waker().clone());
        }
        // After that: a change that comes now finds the task.
        if record.see() { Poll::Ready(self.phase()) } else { Poll::Pending }
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        // It keeps the memory of the task. Another task may serve the connection by now.
        if let Some(waker) = &self.registered {
            self.record.unregister(waker);
        }
    }
}
