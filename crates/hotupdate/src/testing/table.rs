//! Connections without a process, for tests and fuzzing of the crates of this workspace: they can be told to
//! drain, and migrate from one [`Table`] to another as they migrate from one process to the next.
//!
//! Deliberately absent: the control socket and the machines. Nothing here is promised to stay as it is.

use std::io;
use std::os::fd::AsFd as _;
use std::time::Duration;

use hotupdate_proto::migration::bulk;
use hotupdate_proto::{ConnectionKind, Generation, Message, MigrationItem, frame};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::address::Address;
use crate::connections::Connections;
use crate::connections::drain::{Phase, Plan};
use crate::connections::{Connection, MigrationRequest, Stream};
use crate::driver::{check, describe};

/// The connections of one process that is not there.
#[derive(Debug)]
pub struct Table {
    connections: Connections,
    migrations: mpsc::UnboundedReceiver<MigrationRequest>,
}

impl Table {
    /// A table that serves.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "it is a process that starts")]
    pub fn new() -> Self {
        let (connections, migrations) = Connections::new(Generation::FIRST);
        Self { connections, migrations }
    }

    /// What is open, and what became of the rest.
    #[must_use]
    pub fn connections(&self) -> &Connections {
        &self.connections
    }

    /// A connection that came in through the listener of this name.
    #[must_use]
    pub fn accept(&self, listener: &str, stream: UnixStream) -> Connection {
        let unnamed = Address::Unix(None);
        self.connections.accept(&listener.into(), unnamed.clone(), unnamed, Stream::Unix(stream))
    }

    /// Connections that are idle hold nothing, as after a second.
    pub fn rest(&self) {
        self.connections.rest_now();
    }

    /// Another process serves. For a second it may say what it takes; silent connections are left alone for
    /// half an hour.
    pub fn drain(&self) {
        let since = Instant::now();
        let hour = Duration::from_secs(3600);
        self.connections.suspend_migration(since + Duration::from_secs(1));
        let plan = Plan {
            since,
            until: since + hour,
            grace: hour / 2,
            spread: Duration::ZERO,
            hold: Duration::ZERO,
        };
        self.connections.set_phase(Phase::Draining(plan));
    }

    /// The other process takes connections of this kind.
    pub fn takes(&self, kind: &str) {
        self.connections.set_accepted(vec![ConnectionKind::new(kind, None)]);
    }

    /// The other process is dead: this one serves again, and whatever wanted to leave stays.
    pub fn serve_again(&mut self) {
        self.connections.set_phase(Phase::Serving);
        self.connections.end_migration();
        while let Ok(request) = self.migrations.try_recv() {
            request.give_back();
        }
    }

    /// Whether a connection wants to leave.
    #[must_use]
    pub fn has_leaving(&self) -> bool {
        !self.migrations.is_empty()
    }

    /// Everything that wants to leave arrives in another process, with its state.
    ///
    /// # Errors
    /// What the kernel has to say, or what the other process has against a connection.
    pub fn migrate_to(&mut self, next: &Self) -> io::Result<Vec<(Connection, Vec<u8>)>> {
        let mut arrived = Vec::new();
        while let Ok(mut migration) = self.migrations.try_recv() {
            let fd = migration.connection.socket().as_fd().try_clone_to_owned()?;
            let mut item = over_the_wire(describe(&mut migration))?;
            check(&item, &fd).map_err(io::Error::other)?;
            migration.migrated();
            let state = std::mem::take(&mut item.state).into_vec();
            let stream = Stream::register(fd, &item.local)?;
            arrived.push((next.connections.adopt([(item, stream)]).remove(0), state));
        }
        Ok(arrived)
    }
}

fn over_the_wire(item: MigrationItem) -> io::Result<MigrationItem> {
    let bytes = bulk::encode(1, &[item]).map_err(io::Error::other)?;
    match frame::decode_message(&bytes).map_err(io::Error::other)? {
        Message::Prepare { mut items, .. } if items.len() == 1 => Ok(items.remove(0)),
        other => Err(io::Error::other(format!("it has become {other:?}"))),
    }
}
