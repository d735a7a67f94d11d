//! Live connections that migrate: their descriptors, and the requests of those that leave.
//!
//! Deliberately absent: which process has a connection when; `hotupdate_proto::migration` decides that.

use std::collections::HashMap;
use std::os::fd::OwnedFd;

use hotupdate_proto::incumbent::Event;
use hotupdate_proto::migration::{InboundEffect, Leaving, OutboundEffect};
use hotupdate_proto::operator::Warning;
use hotupdate_proto::{ConnectionKind, Fault, Generation, Message, MigrationItem};
use rustix::net::sockopt;
use socket2::SockRef;
use tokio::sync::mpsc;

use super::Driver;
use super::text::{from_text, to_text};
use crate::connections::{MigrationRequest, Socket};
use crate::migration::{Handler, Resume};
use crate::process::limits;

/// What this process has of connections that migrate, in both directions.
pub(super) struct Migrations {
    /// Connections of this process that ask to leave.
    requests: mpsc::UnboundedReceiver<MigrationRequest>,
    /// What accepts connections of predecessors.
    pub(super) handlers: Vec<Handler>,
    /// Connections that have asked to leave, by id.
    leaving: HashMap<u64, MigrationRequest>,
    /// The descriptors of the batch that is heard at the moment.
    pub(super) arriving: Vec<OwnedFd>,
    /// Connections of predecessors that are not committed, by batch.
    held: HashMap<(Generation, u32), Vec<Arrival>>,
    /// The process that serves did not answer, and that was logged.
    stalled: bool,
    /// There is no room for all connections, and that was said.
    crowded: bool,
}

/// A connection that is here and not ours yet: it is not read, but it is registered, so that nothing can go
/// wrong later.
struct Arrival {
    item: MigrationItem,
    socket: Socket,
    resume: Resume,
}

/// Which connections of a batch stay where they are.
#[derive(Default)]
struct Inspected {
    refused: Vec<u64>,
    /// Some of them because few descriptors are left here.
    is_crowded: bool,
}

impl Migrations {
    pub(super) fn new(requests: mpsc::UnboundedReceiver<MigrationRequest>) -> Self {
        Self {
            requests,
            handlers: Vec::new(),
            leaving: HashMap::new(),
            arriving: Vec::new(),
            held: HashMap::new(),
            stalled: false,
            crowded: false,
        }
    }

    /// The kinds of connections that this process accepts.
    pub(super) fn kinds(&self) -> Vec<ConnectionKind> {
        self.handlers.iter().map(|handler| handler.kind.clone()).collect()
    }

    /// How many connections have asked to leave, and are neither gone nor returned.
    pub(super) fn on_their_way(&self) -> usize {
        self.leaving.len()
    }

    fn take(&mut self, ids: Vec<u64>) -> impl Iterator<Item = MigrationRequest> {
        ids.into_iter().filter_map(|id| self.leaving.remove(&id))
    }
}

impl Driver {
    // ---- connections of this process leave ------------------------------------------------------------

    /// Connections have asked to leave: those of one portion together, which need one batch.
    pub(super) async fn leave(&mut self) {
        let mut requests = Vec::new();
        while let Ok(request) = self.migrations.requests.try_recv() {
            requests.push(request);
        }
        if requests.is_empty() {
            return;
        }
        if self.machine.incumbent().is_none() {
            return requests.into_iter().for_each(give_back);
        }
        let leaving =
            |request: &MigrationRequest| Leaving { id: request.connection.id(), bytes: request.state.len() };
        let leaving = requests.iter().map(leaving).collect();
        self.migrations
            .leaving
            .extend(requests.into_iter().map(|request| (request.connection.id(), request)));
        self.handle(Event::Leave(leaving)).await;
    }

    pub(super) fn perform_outbound(&mut self, effect: OutboundEffect) {
        match effect {
            OutboundEffect::Send(message) => self.links.send(&message, Vec::new()),
            OutboundEffect::Prepare { batch, ids } => self.prepare(batch, &ids),
            OutboundEffect::Migrated(ids) => {
                for MigrationRequest { connection, reply, .. } in self.migrations.take(ids) {
                    connection.set_migrated();
                    // Our copy is closed; the kernel's socket lives on in the other process.
                    drop(connection);
                    let _ = reply.send(Ok(()));
                }
            }
            OutboundEffect::Return(ids) => self.migrations.take(ids).for_each(give_back),
            OutboundEffect::Accepted(kinds) => {
                if std::mem::take(&mut self.migrations.stalled) {
                    tracing::info!("connections do not wait for the serving process any more");
                }
                self.connections.set_accepted(kinds);
            }
            OutboundEffect::Pause => self.connections.suspend_half(self.settings.timing.drain),
            OutboundEffect::Stalled => {
                if !std::mem::replace(&mut self.migrations.stalled, true) {
                    tracing::warn!(
                        "the serving process does not answer (deadline `prepared`); connections stay \
                         until it does"
                    );
                }
                self.connections.suspend_half(self.settings.timing.drain);
            }
        }
    }

    fn prepare(&self, batch: u32, ids: &[u64]) {
        let requests = || ids.iter().filter_map(|id| self.migrations.leaving.get(id));
        let descriptors = requests().map(|request| request.connection.socket().clone() as _).collect();
        let items = requests().map(describe).collect();
        self.links.send(&Message::Prepare { batch, items }, descriptors);
    }

    // ---- connections of predecessors come here --------------------------------------------------------

    pub(super) fn perform_inbound(&mut self, from: Generation, effect: InboundEffect) {
        match effect {
            InboundEffect::Send(message) => self.links.send_to(from, &message, Vec::new()),
            InboundEffect::Inspect { batch, items } => {
                let event = match self.migrations.inspect(from, batch, items) {
                    Ok(Inspected { refused, is_crowded }) => {
                        if is_crowded {
                            self.warn_of_few_descriptors();
                        }
                        Event::Inspected { from, batch, refused }
                    }
                    Err(what) => Event::PredecessorClosed(from, Fault::PeerMisbehaved(what)),
                };
                self.machine.queue(event);
            }
            InboundEffect::Serve(batch) => {
                for Arrival { item, socket, resume } in self.migrations.release(from, batch) {
                    resume(self.connections.adopt(item.row, socket));
                }
            }
            InboundEffect::Discard(batch) => drop(self.migrations.release(from, batch)),
        }
    }
}

impl Migrations {
    /// Checks the descriptors of a batch and holds them.
    fn inspect(
        &mut self,
        from: Generation,
        batch: u32,
        items: Vec<MigrationItem>,
    ) -> Result<Inspected, String> {
        let descriptors = std::mem::take(&mut self.arriving);
        let (mut held, mut inspected) = (Vec::new(), Inspected::default());
        let lost = items.get(descriptors.len()..).unwrap_or_default();
        if !lost.is_empty() {
            tracing::warn!(
                generation = %from, connections = lost.len(),
                "no descriptors are left for connections; they stay where they are"
            );
            inspected.refused.extend(lost.iter().map(|item| item.row.id));
        }
        for (item, fd) in items.into_iter().zip(descriptors) {
            check(&item, &fd)?;
            if !limits::leaves_room(&fd) {
                inspected.refused.push(item.row.id);
                inspected.is_crowded = true;
                continue;
            }
            let mut handlers = self.handlers.iter();
            let handler = handlers.find(|handler| handler.fits(&item.kind, &item.row.listener));
            let resume = handler.and_then(|handler| handler.inspect(from_text(&item.state)));
            match resume.map(|resume| (resume, Socket::register(fd))) {
                Some((resume, Ok(socket))) => held.push(Arrival { item, socket, resume }),
                Some((_, Err(error))) => {
                    tracing::warn!(%error, "a connection cannot be taken; it stays where it is");
                    inspected.refused.push(item.row.id);
                }
                None => inspected.refused.push(item.row.id),
            }
        }
        self.held.insert((from, batch), held);
        Ok(inspected)
    }
}

impl Driver {
    /// Not all connections of the process that served before have room here.
    pub(super) fn warn_of_few_descriptors(&mut self) {
        if std::mem::replace(&mut self.migrations.crowded, true) {
            return;
        }
        let text = format!(
            "its limit of open files is {}: the last descriptors are kept for new clients, and connections for \
             which there is no room stay in the version before it and drain there; give it a higher one \
             (ulimit -n, LimitNOFILE=)",
            limits::most().unwrap_or_default()
        );
        tracing::warn!("{text}");
        self.operators.warn([Warning::new("few_descriptors", text)]);
    }
}

impl Migrations {
    fn release(&mut self, from: Generation, batch: u32) -> Vec<Arrival> {
        self.held.remove(&(from, batch)).unwrap_or_default()
    }
}

fn give_back(request: MigrationRequest) {
    let MigrationRequest { connection, reply, .. } = request;
    // If its owner has ended, it is closed.
    let _ = reply.send(Err(Box::new(connection)));
}

pub(crate) fn describe(request: &MigrationRequest) -> MigrationItem {
    let MigrationRequest { connection, kind, state, .. } = request;
    MigrationItem {
        row: connection.describe(),
        kind: kind.clone(),
        cookie: sockopt::socket_cookie(connection.socket()).unwrap_or_default(),
        state: to_text(state),
    }
}

/// A descriptor has to be the connection that it is said to be.
pub(crate) fn check(item: &MigrationItem, fd: &OwnedFd) -> Result<(), String> {
    let wrong = |what: &str| format!("moved connection {}, whose descriptor {what}", item.row.id);
    let kind = sockopt::socket_type(fd).map_err(|error| wrong(&format!("is not a socket: {error}")))?;
    if kind != rustix::net::SocketType::STREAM || sockopt::socket_acceptconn(fd) != Ok(false) {
        return Err(wrong("is not a connection"));
    }
    if sockopt::socket_cookie(fd).unwrap_or_default() != item.cookie {
        return Err(wrong("is another socket"));
    }
    match SockRef::from(fd).nonblocking() {
        Ok(true) => Ok(()),
        _ => Err(wrong("is in blocking mode")),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use hotupdate_proto::ConnectionRow;

    use super::*;

    /// As it is offered, with the client's end.
    fn offered(id: u64, kind: &str) -> (MigrationItem, OwnedFd, UnixStream) {
        let (ours, client) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut row = ConnectionRow::default();
        row.id = id;
        let cookie = sockopt::socket_cookie(&ours).unwrap();
        (MigrationItem { row, kind: kind.into(), cookie, state: String::new() }, ours.into(), client)
    }

    fn accepting() -> Migrations {
        let mut migrations = Migrations::new(mpsc::unbounded_channel().1);
        migrations.handlers.push(Handler::new("echo", None, |_| Some(Box::new(drop))));
        migrations
    }

    /// The kernel dropped the last descriptor: this process was at its limit of open files.
    #[tokio::test]
    async fn connections_without_a_descriptor_and_those_of_other_kinds_stay_where_they_are() {
        let mut migrations = accepting();
        let (mut items, mut clients) = (Vec::new(), Vec::new());
        for (id, kind) in [(1, "echo"), (2, "another"), (3, "echo"), (4, "echo")] {
            let (item, fd, client) = offered(id, kind);
            items.push(item);
            migrations.arriving.push(fd);
            clients.push(client);
        }
        drop(migrations.arriving.pop());
        let Inspected { mut refused, is_crowded } = migrations.inspect(Generation(1), 7, items).unwrap();
        assert!(!is_crowded);
        refused.sort_unstable();
        assert_eq!(refused, [2, 4]);
        let ids =
            |arrivals: Vec<Arrival>| arrivals.iter().map(|arrival| arrival.item.row.id).collect::<Vec<_>>();
        assert_eq!(ids(migrations.release(Generation(2), 7)), [0; 0], "of another process");
        assert_eq!(ids(migrations.release(Generation(1), 7)), [1, 3]);
        assert_eq!(ids(migrations.release(Generation(1), 7)), [0; 0], "once");
    }

    #[tokio::test]
    async fn a_descriptor_is_the_connection_that_it_is_said_to_be() {
        let refuses = |item: MigrationItem, fd: OwnedFd, what: &str| {
            let mut migrations = accepting();
            migrations.arriving.push(fd);
            let error = migrations.inspect(Generation(1), 1, vec![item]).err().unwrap();
            assert!(error.contains("connection 5") && error.contains(what), "{error}");
            assert!(migrations.release(Generation(1), 1).is_empty());
        };
        let item = || offered(5, "echo");
        refuses(item().0, item().1, "is another socket");
        refuses(item().0, tempfile::tempfile().unwrap().into(), "is not a socket");
        let folder = tempfile::tempdir().unwrap();
        let listener = std::os::unix::net::UnixListener::bind(folder.path().join("s")).unwrap();
        refuses(item().0, listener.into(), "is not a connection");
        refuses(item().0, std::os::unix::net::UnixDatagram::unbound().unwrap().into(), "is not a connection");
        let (blocking, fd, _client) = item();
        let stream = UnixStream::from(fd);
        stream.set_nonblocking(false).unwrap();
        refuses(blocking, stream.into(), "is in blocking mode");
    }
}
