//! After ready: what the application can ask while it serves, drains, and ends.
//!
//! Deliberately absent: commands. Who may steer a service connects to its control socket.

use std::collections::HashMap;
use std::sync::Arc;

use hotupdate_proto::Generation;
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, watch};

use crate::adoption::{Adopter, PickUp};
use crate::connections::Connection;
use crate::connections::Connections;
use crate::connections::drain::Drain;
use crate::driver::Application;
use crate::state::{Arrived, State};

/// How far the life of this process has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Lifecycle {
    Starting,
    Serving,
    /// Another process serves; this one can still take over again.
    Draining,
    /// It will never accept again.
    Retired,
    /// Nothing is left.
    Drained,
}

/// What the driver says when this process serves.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) lifecycle: watch::Receiver<Lifecycle>,
    pub(crate) state: HashMap<String, Arrived>,
}

/// A process that serves, until the next version takes over. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Serving {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    application: mpsc::UnboundedSender<Application>,
    generation: Generation,
    connections: Connections,
    lifecycle: watch::Receiver<Lifecycle>,
    state: HashMap<String, Arrived>,
}

impl Serving {
    pub(crate) fn new(
        application: mpsc::UnboundedSender<Application>,
        generation: Generation,
        connections: Connections,
        served: Served,
    ) -> Self {
        let Served { lifecycle, state } = served;
        Self { inner: Arc::new(Inner { application, generation, connections, lifecycle, state }) }
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
    /// It is read by the first call, which takes one to two milliseconds for each MiB, and kept as long as this value. A large
    /// one is best read where it blocks nobody (`tokio::task::spawn_blocking`).
    #[must_use]
    pub fn import(&self, name: &str) -> Option<&State> {
        self.inner.state.get(name)?.get()
    }

    /// Picks up connections of this kind that other versions hand over with
    /// [`Connection::migrate`](crate::Connection::migrate): for each of them `serve` runs in a task of its own, with the
    /// state that came along. To be called right after `ready`, before the clients of the old version wait.
    ///
    /// A state that cannot be read as `S` is a version that does not fit: the connection stays where it is.
    ///
    /// ```no_run
    /// # async fn example(hot: hotupdate::Serving) {
    /// hot.adopt("echo", |mut connection, count: u64| async move {
    ///     let (mut read, mut write) = tokio::io::split(&mut connection);
    ///     let _ = tokio::io::copy(&mut read, &mut write).await;
    /// });
    /// # }
    /// ```
    pub fn adopt<S, F, Fut>(&self, kind: &str, serve: F)
    where
        S: DeserializeOwned + Send + 'static,
        F: Fn(Connection, S) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.pick_up(Adopter::of_json(kind, serve));
    }

    /// As [`Serving::adopt`], for state in the caller's own form, and, if `listener` is given, only for connections that
    /// came in through the listener of that name.
    ///
    /// `look` is called while the connection is not ours yet: it returns what to do with it once it is, or `None` to leave
    /// it with the other process. Both run in the driver of this process and must not block.
    pub fn adopt_bytes(
        &self,
        kind: &str,
        listener: Option<&str>,
        look: impl Fn(Vec<u8>) -> Option<PickUp> + Send + Sync + 'static,
    ) {
        self.pick_up(Adopter::new(kind, listener, look));
    }

    fn pick_up(&self, adopter: Adopter) {
        // Without a driver nothing arrives.
        let _ = self.inner.application.send(Application::Adopt(adopter));
    }

    /// Resolves when this process will never accept again: another one serves and its probation is over, or it was
    /// stopped. For `axum::serve(..).with_graceful_shutdown(hot.retired())`.
    pub fn retired(&self) -> impl Future<Output = ()> + Send + 'static {
        self.reached(Lifecycle::Retired)
    }

    /// Resolves when nothing is left to do: no connection is open, the process that serves knows it, and the listeners
    /// are let go. `main` returns after it, not before: returning kills what still drains.
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
