//! For the tests of this folder: a table with one connection, and a waker that counts.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use hotupdate_proto::{ConnectionKind, Generation};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{AtRest, Connection, Connections, MigrationRequest, Phase, Plan, Stream};
use crate::address::Address;

/// A table without a driver: what wants to migrate is in `migrations`.
pub(super) struct Fixture {
    pub(super) connections: Connections,
    pub(super) migrations: mpsc::UnboundedReceiver<MigrationRequest>,
}

impl Fixture {
    pub(super) fn new() -> Self {
        let (connections, migrations) = Connections::new(Generation::FIRST);
        Self { connections, migrations }
    }

    /// A connection, and its client.
    pub(super) fn accept(&self) -> (Connection, UnixStream) {
        let (server, client) = UnixStream::pair().unwrap();
        let unnamed = Address::Unix(None);
        let stream = Stream::Unix(server);
        (self.connections.accept(&"test".into(), unnamed.clone(), unnamed, stream), client)
    }

    pub(super) fn connection(&self) -> Connection {
        self.accept().0
    }

    /// For an hour.
    pub(super) fn drain(&self) {
        let (since, hour) = (Instant::now(), Duration::from_secs(3600));
        self.connections.set_phase(Phase::Draining(Plan::new(since, since + hour, hour / 2, hour / 4)));
    }

    /// The process that serves accepts this kind.
    pub(super) fn accept_kind(&self, kind: &str, listener: Option<&str>) {
        self.connections.set_accepted(vec![ConnectionKind::new(kind, listener)]);
    }
}

/// What one poll says.
pub(super) fn poll_once<F: Future>(future: F) -> Poll<F::Output> {
    std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop()))
}

#[derive(Default)]
pub(super) struct Woken(AtomicUsize);

impl Woken {
    pub(super) fn count(&self) -> usize {
        self.0.load(Relaxed)
    }
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Relaxed);
    }
}

/// What goes on with a connection that rests.
pub(super) struct Echo<F>(pub(super) F);

impl<F: FnOnce(Connection) + Send + 'static> AtRest for Echo<F> {
    fn state(&self) -> Vec<u8> {
        b"state".to_vec()
    }

    fn go_on(self: Box<Self>, connection: Connection) {
        (self.0)(connection);
    }
}
