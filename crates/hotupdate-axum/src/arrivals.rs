//! Connections that come from another process, on their way to the server that serves them.
//!
//! Deliberately absent: a queue that the server empties. Its task would have to be woken for each batch, and
//! clients would wait for it.

use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::serve::{Arrival, Begin};

/// The end of the server: without it no connection is taken, and those that wait are closed.
pub(crate) struct Arrivals(Entrance);

/// The end at which connections arrive.
#[derive(Clone)]
pub(crate) struct Entrance(Arc<Mutex<State>>);

enum State {
    /// The server is not awaited yet.
    Waits(Vec<Arrival>),
    Serves(Begin),
    /// There is no server any more.
    Closed,
}

impl Arrivals {
    /// A server that is not awaited yet.
    pub(crate) fn new() -> (Self, Entrance) {
        let entrance = Entrance(Arc::new(Mutex::new(State::Waits(Vec::new()))));
        (Self(entrance.clone()), entrance)
    }

    /// What has arrived, and arrives from here on, is served.
    pub(crate) fn serve(&self, mut begin: Begin) {
        let mut state = self.0.lock();
        if let State::Waits(waiting) = mem::replace(&mut *state, State::Closed) {
            waiting.into_iter().for_each(&mut begin);
        }
        *state = State::Serves(begin);
    }
}

impl Drop for Arrivals {
    fn drop(&mut self) {
        let before = mem::replace(&mut *self.0.lock(), State::Closed);
        // Not under the lock: the application is dropped with it.
        drop(before);
    }
}

impl Entrance {
    /// Whether connections stay where they are.
    pub(crate) fn is_closed(&self) -> bool {
        matches!(*self.lock(), State::Closed)
    }

    /// A connection has come.
    pub(crate) fn arrive(&self, arrival: Arrival) {
        match &mut *self.lock() {
            State::Waits(waiting) => waiting.push(arrival),
            State::Serves(begin) => begin(arrival),
            // The server ended a moment ago.
            State::Closed => drop(arrival),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic of the application while it is cloned leaves the server as it is.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use hotupdate::testing::Table;
    use tokio::net::UnixStream;
    use tokio::sync::mpsc;

    use super::*;
    use crate::serve::History;

    #[tokio::test]
    async fn connections_wait_for_the_server_and_are_closed_with_it() {
        let table = Table::new();
        let arrival = || Arrival {
            connection: table.accept("http", UnixStream::pair().unwrap().0),
            history: History::None,
        };
        let open = || table.connections().rows().len();
        let (arrivals, entrance) = Arrivals::new();
        entrance.arrive(arrival());
        entrance.arrive(arrival());
        let (served, mut serves) = mpsc::unbounded_channel();
        arrivals.serve(Box::new(move |arrival| served.send(arrival.connection).unwrap()));
        entrance.arrive(arrival());
        let ids: Vec<_> = (0..3).map(|_| serves.try_recv().unwrap().id()).collect();
        assert!(ids.is_sorted() && open() == 0, "they were dropped here");
        assert!(!entrance.is_closed());
        drop(arrivals);
        assert!(entrance.is_closed() && serves.is_closed());
        entrance.arrive(arrival());
        assert_eq!(open(), 0);

        let (arrivals, entrance) = Arrivals::new();
        entrance.arrive(arrival());
        assert_eq!(open(), 1);
        drop(arrivals);
        assert_eq!(open(), 0, "it was never awaited");
    }
}
