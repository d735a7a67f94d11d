//! After ready: what the application can ask while it serves, drains, and ends.
//!
//! Deliberately absent: commands. Operators give them on the control socket.

use std::collections::HashMap;
use std::sync::Arc;

use hotupdate_proto::Generation;
use tokio::sync::watch;

use crate::connections::Connections;
use crate::connections::drain::Drain;
use crate::lifecycle::{Lifecycle, Served};
use crate::state::{Arrived, State};
use crate::tasks::{TaskGuard, Tasks};

/// A process that serves, until the next version takes over. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Serving {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    generation: Generation,
    connections: Connections,
    tasks: Tasks,
    lifecycle: watch::Receiver<Lifecycle>,
    state: HashMap<String, Arrived>,
}

impl Serving {
    pub(crate) fn new(
        generation: Generation,
        connections: Connections,
        tasks: Tasks,
        served: Served,
    ) -> Self {
        let Served { lifecycle, state } = served;
        Self { inner: Arc::new(Inner { generation, connections, tasks, lifecycle, state }) }
    }

    /// The number of this process in the succession.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.inner.generation
    }

    /// Every open connection of this process.
    #[must_use]
    pub fn connections(&self) -> &Connections {
        &self.inner.connections
    }

    /// Tells connections and handlers when to come to an end.
    #[must_use]
    pub fn drain(&self) -> Drain {
        self.inner.connections.drain()
    }

    /// The final word of the incumbent's state of this name: said when its accept loops had stopped.
    ///
    /// It is read by the first call, which takes one to two milliseconds for each MiB, and kept as long as
    /// this value. A large one is best read where it does not block the runtime
    /// (`tokio::task::spawn_blocking`).
    #[must_use]
    pub fn import(&self, name: &str) -> Option<&State> {
        self.inner.state.get(name)?.get()
    }

    /// Whether this process may do what only one process of the service may do: consume a queue, run what is
    /// due at an hour.
    ///
    /// It becomes true when [`Starting::ready`](crate::Starting::ready) returns, and false before the hooks
    /// of [`Starting::before_release`](crate::Starting::before_release) run. It becomes true again if the
    /// next version fails, or is rolled back. The guide [`one_worker`](crate::guides::one_worker) shows a
    /// worker.
    ///
    /// ```no_run
    /// # async fn example(hot: hotupdate::Serving) {
    /// # async fn next_job() {}
    /// while hot.wait_until_serving().await {
    ///     tokio::select! {
    ///         () = next_job() => {}
    ///         () = hot.wait_until_not_serving() => {}
    ///     }
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn is_serving(&self) -> bool {
        self.inner.tasks.is_serving()
    }

    /// Resolves with true when [`Serving::is_serving`] is, at once if it is already; with false when it never
    /// will be again.
    pub fn wait_until_serving(&self) -> impl Future<Output = bool> + Send + 'static {
        let (tasks, retired) = (self.inner.tasks.clone(), self.retired());
        async move {
            tokio::select! {
                biased;
                () = tasks.wait_until_serving(true) => true,
                () = retired => false,
            }
        }
    }

    /// Resolves when [`Serving::is_serving`] is false, at once if it is already.
    pub fn wait_until_not_serving(&self) -> impl Future<Output = ()> + Send + 'static {
        let tasks = self.inner.tasks.clone();
        async move { tasks.wait_until_serving(false).await }
    }

    /// Keeps this process alive for a task that is no connection, such as a report that is being written:
    /// until the guard is dropped, [`Serving::drained`] does not resolve, and operators see the task by this
    /// name. The deadline of the drain does not end it; the process waits for it as long as it takes.
    ///
    /// ```no_run
    /// # async fn example(hot: hotupdate::Serving) {
    /// # async fn write_report() {}
    /// let guard = hot.task_guard("report");
    /// tokio::spawn(async move {
    ///     write_report().await;
    ///     drop(guard);
    /// });
    /// # }
    /// ```
    pub fn task_guard(&self, name: &str) -> TaskGuard {
        self.inner.tasks.begin(name)
    }

    /// Resolves when this process will never accept again: another one serves and its probation is over, or
    /// it was stopped. For `axum::serve(..).with_graceful_shutdown(hot.retired())`.
    pub fn retired(&self) -> impl Future<Output = ()> + Send + 'static {
        self.reached(Lifecycle::Retired)
    }

    /// Resolves when nothing is left to do: no connection is open, the process that serves knows it, and the
    /// listeners are let go. `main` returns after it, not before: returning kills what still drains.
    pub fn drained(&self) -> impl Future<Output = ()> + Send + 'static {
        self.reached(Lifecycle::Drained)
    }

    fn reached(&self, lifecycle: Lifecycle) -> impl Future<Output = ()> + Send + 'static {
        let mut watched = self.inner.lifecycle.clone();
        async move {
            // Without a driver nothing will happen any more, so there is nothing to wait for.
            let _ = watched.wait_for(|now| *now >= lifecycle).await;
        }
    }
}
