//! The application's state on its way to the next version, and what of it is stored for a process that starts
//! after a crash.

use std::collections::HashMap;
use std::io;
use std::mem;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use hotupdate_proto::{ShortText, StateItem};
use tokio::sync::{Notify, mpsc};

use super::TaskResult;
use crate::resources::Resources;
use crate::sealed;
use crate::state::{Arrived, Export, Slot};

/// State that was exported for an attempt, or that came with one.
pub(super) type SealedState = Vec<(StateItem, OwnedFd)>;

#[derive(Default)]
pub(super) struct Exports {
    exports: Arc<Vec<Export>>,
    sealed: SealedState,
    stored: Vec<Arc<Slot>>,
    /// Something of that has changed.
    changed: Arc<Notify>,
}

impl Exports {
    pub(super) fn register(&mut self, resources: &mut Resources) {
        self.exports = Arc::new(mem::take(&mut resources.exports));
        self.stored = mem::take(&mut resources.stored);
        self.changed = resources.stored_changed.clone();
    }

    /// Asks the application for its state where it can block nothing else.
    pub(super) fn run(
        &self,
        results: &mpsc::Sender<TaskResult>,
        done: impl FnOnce(io::Result<SealedState>) -> TaskResult + Send + 'static,
    ) {
        let results = results.clone();
        if self.exports.is_empty() {
            // The answer is looked at next, and the queue is only that long if the driver is far behind.
            if let Err(mpsc::error::TrySendError::Full(done)) = results.try_send(done(Ok(Vec::new()))) {
                tokio::spawn(async move { results.send(done).await });
            }
            return;
        }
        let exports = self.exports.clone();
        tokio::task::spawn_blocking(move || {
            // Without an answer both sides would wait for a deadline that says nothing about the reason.
            let run = AssertUnwindSafe(|| exports.iter().map(Export::run).collect());
            let panicked = |_| Err(io::Error::other("the application's export panicked"));
            let sealed = catch_unwind(run).unwrap_or_else(panicked);
            drop(results.blocking_send(done(sealed)));
        });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.exports.is_empty()
    }

    /// Keeps what was exported, or what came from the incumbent.
    pub(super) fn keep(&mut self, sealed: SealedState) {
        self.sealed = sealed;
    }

    /// The other side has it, or needs it no more.
    pub(super) fn forget(&mut self) {
        self.sealed.clear();
    }

    /// What is wrong with what came from the incumbent.
    pub(super) fn check(&self) -> Result<(), String> {
        self.sealed.iter().try_for_each(|(item, fd)| sealed::check(item, fd))
    }

    pub(super) fn items(&self) -> Vec<StateItem> {
        self.sealed.iter().map(|(item, _)| item.clone()).collect()
    }

    /// A duplicate for a successor.
    pub(super) fn duplicate(&self, name: &str) -> io::Result<OwnedFd> {
        let sealed = self.sealed.iter().find(|(item, _)| item.name == name);
        sealed.ok_or_else(|| io::Error::other(format!("no state {name:?}")))?.1.try_clone()
    }

    /// What is stored and what should be differ, or may.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// What is to be stored and was not until now. What has the same name is to be removed first.
    pub(super) fn take_untold(&self) -> impl Iterator<Item = (ShortText, Option<io::Result<OwnedFd>>)> {
        self.stored.iter().filter_map(|slot| Some((slot.name().clone(), slot.take_untold()?)))
    }

    /// The names of all that may be stored.
    pub(super) fn stored_names(&self) -> impl Iterator<Item = ShortText> {
        self.stored.iter().map(|slot| slot.name().clone())
    }

    /// The final word of the incumbent's state, for the application.
    pub(super) fn take(&mut self) -> HashMap<String, Arrived> {
        let states = mem::take(&mut self.sealed).into_iter();
        states.map(|(item, fd)| (item.name.clone(), Arrived::new(item, fd))).collect()
    }
}
