//! Work that is no connection: tasks that keep a process alive, and hooks that end what only one process may
//! do.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;

use hotupdate_proto::text::OneLine;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// The work of this process that is no connection, and whether it is the time for it. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tasks(Arc<watch::Sender<Work>>);

#[derive(Debug, Default)]
struct Work {
    /// What only one process may do is done here.
    is_serving: bool,
    /// The names of the tasks that run, by number.
    names: BTreeMap<u64, String>,
    last: u64,
}

/// A task that keeps its process alive: [`Serving::drained`](crate::Serving::drained) does not resolve, and
/// operators see the task by its name, until this value is dropped. Made by
/// [`Serving::task_guard`](crate::Serving::task_guard).
#[must_use = "the task ends when it is dropped"]
pub struct TaskGuard {
    tasks: Tasks,
    number: u64,
}

impl Tasks {
    pub(crate) fn begin(&self, name: &str) -> TaskGuard {
        let mut number = 0;
        self.0.send_modify(|work| {
            work.last += 1;
            number = work.last;
            work.names.insert(number, name.to_owned());
        });
        TaskGuard { tasks: self.clone(), number }
    }

    /// The names of those that run, oldest first; no more than so many.
    pub(crate) fn names(&self, at_most: usize) -> Vec<String> {
        self.0.borrow().names.values().take(at_most).cloned().collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.borrow().names.is_empty()
    }

    pub(crate) async fn wait_until_empty(&self) {
        self.wait_for(|work| work.names.is_empty()).await;
    }

    pub(crate) fn set_serving(&self, is_serving: bool) {
        let changed = |work: &mut Work| std::mem::replace(&mut work.is_serving, is_serving) != is_serving;
        self.0.send_if_modified(changed);
    }

    pub(crate) fn is_serving(&self) -> bool {
        self.0.borrow().is_serving
    }

    pub(crate) async fn wait_until_serving(&self, is_serving: bool) {
        self.wait_for(|work| work.is_serving == is_serving).await;
    }

    async fn wait_for(&self, condition: impl FnMut(&Work) -> bool) {
        // The sender is `self`, so it cannot be gone.
        let _ = self.0.subscribe().wait_for(condition).await;
    }
}

impl Drop for TaskGuard {
    fn drop(&mut self) {
        self.tasks.0.send_modify(|work| drop(work.names.remove(&self.number)));
    }
}

impl fmt::Debug for TaskGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let work = self.tasks.0.borrow();
        f.debug_tuple("TaskGuard").field(&work.names.get(&self.number)).finish()
    }
}

/// What an application does before another process takes over from this one, or before the service stops.
pub(crate) struct Hook {
    pub(crate) name: String,
    run: Box<dyn Fn() -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>,
}

impl Hook {
    pub(crate) fn new<F, Fut>(name: &str, run: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        Self { name: name.to_owned(), run: Box::new(move || Box::pin(run())) }
    }
}

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Hook").field(&self.name).finish()
    }
}

/// Runs all of them at the same time; an error says which one panicked. Dropping the future ends those that
/// are not done.
pub(crate) async fn run(hooks: &[Hook]) -> Result<(), String> {
    let mut running = JoinSet::new();
    let mut names = BTreeMap::new();
    for hook in hooks {
        let future = std::panic::catch_unwind(AssertUnwindSafe(|| (hook.run)()));
        let future = future.map_err(|panic| panicked(&hook.name, panic.as_ref()))?;
        names.insert(running.spawn(future).id(), hook.name.clone());
    }
    while let Some(ended) = running.join_next_with_id().await {
        if let Err(error) = ended {
            let name = names.get(&error.id()).map(String::as_str).unwrap_or_default();
            return Err(match error.try_into_panic() {
                Ok(panic) => panicked(name, panic.as_ref()),
                Err(error) => format!("the hook {:?} was ended: {error}", OneLine(name)),
            });
        }
    }
    Ok(())
}

fn panicked(name: &str, panic: &(dyn Any + Send)) -> String {
    let literal = panic.downcast_ref::<&str>().copied();
    let why = literal.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no text");
    format!("the hook {name:?} panicked: {}", OneLine(why))
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use tokio::sync::Barrier;

    use super::*;

    #[tokio::test]
    async fn a_task_runs_until_its_guard_is_dropped() {
        let tasks = Tasks::default();
        tasks.wait_until_empty().await;
        let [report, mail, again] = ["report", "mail", "report"].map(|name| tasks.begin(name));
        assert_eq!(tasks.names(10), ["report", "mail", "report"]);
        assert_eq!(tasks.names(2), ["report", "mail"]);
        drop((report, mail));
        assert_eq!(tasks.names(10), ["report"]);
        let waiting = tokio::spawn({
            let tasks = tasks.clone();
            async move { tasks.wait_until_empty().await }
        });
        assert_eq!(format!("{again:?}"), "TaskGuard(Some(\"report\"))");
        drop(again);
        waiting.await.unwrap();
    }

    #[tokio::test]
    async fn hooks_run_at_the_same_time_and_each_time() {
        let (barrier, runs) = (Arc::new(Barrier::new(2)), Arc::new(AtomicUsize::new(0)));
        let hook = |name| {
            let (barrier, runs) = (barrier.clone(), runs.clone());
            Hook::new(name, move || {
                let (barrier, runs) = (barrier.clone(), runs.clone());
                async move {
                    barrier.wait().await;
                    runs.fetch_add(1, Relaxed);
                }
            })
        };
        let hooks = [hook("a"), hook("b")];
        run(&hooks).await.unwrap();
        run(&hooks).await.unwrap();
        assert_eq!(runs.load(Relaxed), 4);
        run(&[]).await.unwrap();
    }

    #[tokio::test]
    async fn a_hook_that_panics_is_named_and_the_others_end() {
        async fn late(text: &'static str) {
            tokio::task::yield_now().await;
            panic!("{text}");
        }
        let alive = Arc::new(());
        let hangs = {
            let alive = alive.clone();
            Hook::new("hangs", move || {
                let alive = alive.clone();
                async move {
                    pending::<()>().await;
                    drop(alive);
                }
            })
        };
        let hooks = [hangs, Hook::new("queue", || late("no\nqueue"))];
        assert_eq!(run(&hooks).await.unwrap_err(), "the hook \"queue\" panicked: no\\nqueue");
        let early = || -> std::future::Ready<()> { panic!("at once") };
        assert_eq!(
            run(&[Hook::new("early", early)]).await.unwrap_err(),
            "the hook \"early\" panicked: at once"
        );
        drop(hooks);
        while Arc::strong_count(&alive) > 1 {
            tokio::task::yield_now().await;
        }
    }
}
