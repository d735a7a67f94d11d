//! The application: what it says before it is ready, what it is told, and its work that is no connection.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hotupdate_proto::message::Ready;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;

use crate::driver::TaskResult;
use crate::error::{Error, Result};
use crate::lifecycle::{Lifecycle, Served};
use crate::resources::Resources;
use crate::state::Arrived;
use crate::tasks::{self, Hook, Tasks};

/// What the application says to its driver. That the sender is gone before `Ready` means that it gave up.
#[expect(clippy::large_enum_variant, reason = "an application is ready once")]
pub(crate) enum FromApplication {
    Ready {
        resources: Resources,
        ready: Ready,
        reply: oneshot::Sender<Result<Served>>,
    },
    /// Something went wrong before it was ready; `told` is dropped when the incumbent can know.
    Trouble {
        what: String,
        told: oneshot::Sender<()>,
    },
}

/// Work that only one process may do.
enum Exclusive {
    /// It may be under way.
    Allowed,
    /// The application's hooks run, which end it.
    Ending(AbortHandle),
    Ended,
}

pub(crate) struct Application {
    says: mpsc::UnboundedReceiver<FromApplication>,
    is_gone: bool,
    /// It waits for the answer to `ready`.
    ready: Option<oneshot::Sender<Result<Served>>>,
    ready_at: Option<Instant>,
    /// Why there will be no answer, if it fails before `ready`.
    failed: Option<oneshot::Sender<Error>>,
    lifecycle: watch::Sender<Lifecycle>,
    hooks: Arc<[Hook]>,
    exclusive: Exclusive,
    /// Counts runs of the hooks, so that the end of one that was given up is recognised.
    runs: u64,
    tasks: Tasks,
    /// What went wrong last, before it was ready.
    trouble: Option<String>,
}

impl Application {
    pub(crate) fn new(
        says: mpsc::UnboundedReceiver<FromApplication>,
        failed: Option<oneshot::Sender<Error>>,
    ) -> Self {
        Self {
            says,
            is_gone: false,
            ready: None,
            ready_at: None,
            failed,
            lifecycle: watch::Sender::new(Lifecycle::Starting),
            hooks: Arc::new([]),
            exclusive: Exclusive::Ended,
            runs: 0,
            tasks: Tasks::default(),
            trouble: None,
        }
    }

    /// What it says next; `None` once, when it says nothing more. Safe to cancel.
    pub(crate) async fn next(&mut self) -> Option<FromApplication> {
        if self.is_gone {
            std::future::pending::<()>().await;
        }
        let said = self.says.recv().await;
        self.is_gone = said.is_none();
        said
    }

    // ---- until it serves ----------------------------------------------------------------------------------

    /// Something went wrong; it may go on.
    pub(crate) fn is_in_trouble(&mut self, what: String) {
        self.trouble = Some(what);
    }

    /// Why it gave up, as far as that is known.
    pub(crate) fn why_it_gave_up(&mut self) -> String {
        let unknown = || "the application gave up before it was ready".to_owned();
        self.trouble.take().unwrap_or_else(unknown)
    }

    /// It is ready, and waits for the answer.
    pub(crate) fn is_ready(
        &mut self,
        hooks: Vec<Hook>,
        tasks: Tasks,
        reply: oneshot::Sender<Result<Served>>,
    ) {
        self.hooks = hooks.into();
        self.tasks = tasks;
        self.ready = Some(reply);
        self.ready_at = Some(Instant::now());
    }

    /// Whether it waits for the answer to `ready`; else it is still warming up.
    pub(crate) fn waits_for_answer(&self) -> bool {
        self.ready.is_some()
    }

    pub(crate) fn has_hook(&self) -> bool {
        !self.hooks.is_empty()
    }

    /// Whether it was ready already so long ago.
    pub(crate) fn was_ready(&self, ago: Duration) -> bool {
        self.ready_at.is_some_and(|ready| ago <= ready.elapsed())
    }

    /// This process serves.
    pub(crate) fn serve(&mut self, state: HashMap<String, Arrived>) {
        self.serve_again();
        if let Some(ready) = self.ready.take() {
            let _ = ready.send(Ok(Served { lifecycle: self.lifecycle.subscribe(), state }));
        }
    }

    /// This process will not serve; an application that waits for the answer to `ready` is told why.
    pub(crate) fn gives_up(&mut self, error: Error) {
        if let Some(ready) = self.ready.take() {
            let _ = ready.send(Err(error));
        }
    }

    /// This process will not serve; an application that is not ready yet learns why when it will be.
    pub(crate) fn fail(&mut self, error: Error) {
        match self.ready.take() {
            Some(ready) => drop(ready.send(Err(error))),
            None => drop(self.failed.take().map(|failed| failed.send(error))),
        }
    }

    // ---- how far its life has come ------------------------------------------------------------------------

    pub(crate) fn lifecycle(&self) -> Lifecycle {
        *self.lifecycle.borrow()
    }

    pub(crate) fn watch_lifecycle(&self) -> watch::Receiver<Lifecycle> {
        self.lifecycle.subscribe()
    }

    /// It serves, as before or for the first time.
    pub(crate) fn serve_again(&mut self) {
        self.allow_exclusive();
        self.lifecycle.send_replace(Lifecycle::Serving);
    }

    /// Another process serves.
    pub(crate) fn drain(&mut self) {
        self.lifecycle.send_if_modified(|now| {
            let earlier = *now < Lifecycle::Draining;
            *now = (*now).max(Lifecycle::Draining);
            earlier
        });
    }

    /// It will never serve again.
    pub(crate) fn retire(&mut self) {
        self.forbid_exclusive();
        self.lifecycle.send_replace(Lifecycle::Retired);
    }

    /// Nothing is left to do.
    pub(crate) fn end(&mut self) {
        self.lifecycle.send_replace(Lifecycle::Drained);
    }

    // ---- work that only one process may do ----------------------------------------------------------------

    fn allow_exclusive(&mut self) {
        if let Exclusive::Ending(hooks) = &self.exclusive {
            hooks.abort();
        }
        self.exclusive = Exclusive::Allowed;
        self.tasks.set_serving(true);
    }

    /// The accept loops stop; what the hooks have not ended by now is not waited for.
    pub(crate) fn forbid_exclusive(&mut self) {
        if let Exclusive::Ending(hooks) = &self.exclusive {
            hooks.abort();
        }
        self.exclusive = Exclusive::Ended;
        self.tasks.set_serving(false);
    }

    /// Runs the hooks, unless they run already. Returns whether there is nothing to wait for.
    pub(crate) fn end_exclusive(&mut self, results: &mpsc::Sender<TaskResult>) -> bool {
        match self.exclusive {
            Exclusive::Ended => return true,
            Exclusive::Ending(_) => return false,
            Exclusive::Allowed => {}
        }
        // First, so that a hook may wait for work that looks at this.
        self.tasks.set_serving(false);
        self.runs += 1;
        let (hooks, results, run) = (self.hooks.clone(), results.clone(), self.runs);
        let running = tokio::spawn(async move {
            let ended = tasks::run(&hooks).await;
            let _ = results.send(TaskResult::HooksEnded { run, ended }).await;
        });
        self.exclusive = Exclusive::Ending(running.abort_handle());
        false
    }

    /// Whether the hooks of this run were waited for.
    pub(crate) fn exclusive_ended(&mut self, run: u64) -> bool {
        let awaited = run == self.runs && matches!(self.exclusive, Exclusive::Ending(_));
        if awaited {
            self.exclusive = Exclusive::Ended;
        }
        awaited
    }

    // ---- tasks that keep the process alive ----------------------------------------------------------------

    pub(crate) fn tasks(&self) -> &Tasks {
        &self.tasks
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    /// An application that serves and has this hook, and where the results go.
    fn serving(hook: Hook) -> (Application, mpsc::Sender<TaskResult>, mpsc::Receiver<TaskResult>) {
        let (_, says) = mpsc::unbounded_channel();
        let mut application = Application::new(says, None);
        application.is_ready(vec![hook], Tasks::default(), oneshot::channel().0);
        application.serve(HashMap::new());
        let (results, got) = mpsc::channel(4);
        (application, results, got)
    }

    async fn hooks_ended(got: &mut mpsc::Receiver<TaskResult>) -> (u64, Result<(), String>) {
        match got.recv().await {
            Some(TaskResult::HooksEnded { run, ended }) => (run, ended),
            _ => panic!("the hooks do not end"),
        }
    }

    #[tokio::test]
    async fn hooks_run_once_for_each_release() {
        let (mut application, results, mut got) = serving(Hook::new("queue", || async {}));
        assert!(application.tasks().is_serving() && application.has_hook());
        assert!(!application.end_exclusive(&results) && !application.tasks().is_serving());
        assert!(!application.end_exclusive(&results), "they run already");
        let (run, ended) = hooks_ended(&mut got).await;
        assert!(ended.is_ok() && application.exclusive_ended(run));
        assert!(application.end_exclusive(&results), "it is ended, and nothing has to be done for it");
        assert!(!application.exclusive_ended(run), "once");
        application.serve_again();
        assert!(application.tasks().is_serving());
        assert!(!application.end_exclusive(&results), "the next time they run again");
        assert_eq!(hooks_ended(&mut got).await, (run + 1, Ok(())));
        assert!(got.try_recv().is_err(), "no run in between");
    }

    #[tokio::test]
    async fn the_end_of_a_run_that_was_given_up_is_none() {
        let (mut application, results, mut got) = serving(Hook::new("queue", || async {}));
        application.end_exclusive(&results);
        let (run, _) = hooks_ended(&mut got).await;
        application.serve_again();
        assert!(!application.exclusive_ended(run), "this process serves");
        application.end_exclusive(&results);
        assert!(!application.exclusive_ended(run), "the next run is another one");
    }

    #[tokio::test]
    async fn hooks_that_hang_are_ended() {
        for ends in [Application::serve_again, Application::forbid_exclusive, Application::retire] {
            let alive = Arc::new(());
            let held = Arc::downgrade(&alive);
            let hook = Hook::new("queue", move || {
                let alive = alive.clone();
                async move {
                    pending::<()>().await;
                    drop(alive);
                }
            });
            let (mut application, results, mut got) = serving(hook);
            application.end_exclusive(&results);
            while held.strong_count() < 2 {
                tokio::task::yield_now().await;
            }
            ends(&mut application);
            while held.strong_count() > 1 {
                tokio::task::yield_now().await;
            }
            assert!(got.try_recv().is_err(), "nothing is said of it");
        }
    }
}
