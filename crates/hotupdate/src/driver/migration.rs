//! Live connections that migrate: their descriptors, and the requests of those that leave.
//!
//! Deliberately absent: which process has a connection when; `hotupdate_proto::migration` decides that.

use std::collections::HashMap;
use std::os::fd::OwnedFd;

use hotupdate_proto::incumbent::Event;
use hotupdate_proto::migration::{InboundEffect, Leaving, OutboundEffect, bulk};
use hotupdate_proto::operator::Warning;
use hotupdate_proto::{ConnectionKind, Fault, Generation, Message, MigrationItem};
use rustix::net::{SocketType, sockopt};
use socket2::SockRef;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Driver;
use crate::connections::{MigrationRequest, Stream};
use crate::migration::{Handler, Resume};
use crate::process::limits::{self, Room};

/// What this process has of connections that migrate, in both directions.
pub(super) struct Migrations {
    /// Connections of this process that ask to leave.
    requests: mpsc::UnboundedReceiver<MigrationRequest>,
    /// What accepts connections of predecessors.
    pub(super) handlers: Vec<Handler>,
    /// Connections that have asked to leave, by id.
    leaving: HashMap<u64, MigrationRequest>,
    /// The process that serves reads them in the compact form.
    in_bulk: bool,
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
    stream: Stream,
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
            in_bulk: false,
            arriving: Vec::new(),
            held: HashMap::new(),
            stalled: false,
            crowded: false,
        }
    }

    /// The kinds of connections that this process accepts.
    pub(super) fn kinds(&self) -> Vec<ConnectionKind> {
        let wanted = self.handlers.iter().filter(|handler| handler.is_wanted());
        wanted.map(|handler| handler.kind.clone()).collect()
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
            return requests.into_iter().for_each(MigrationRequest::give_back);
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
                let (connections, mut since) = (ids.len(), Instant::now());
                for request in self.migrations.take(ids) {
                    since = since.min(request.since);
                    request.migrated();
                }
                tracing::debug!(connections, unserved = ?since.elapsed(), "connections have migrated");
            }
            OutboundEffect::Return(ids) => {
                self.migrations.take(ids).for_each(MigrationRequest::give_back);
            }
            OutboundEffect::Accepted(kinds) => {
                if std::mem::take(&mut self.migrations.stalled) {
                    tracing::info!("connections do not wait for the serving process any more");
                }
                self.migrations.in_bulk = kinds.iter().all(|kind| kind.bulk >= bulk::FORM);
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

    fn prepare(&mut self, batch: u32, ids: &[u64]) {
        let (mut items, mut descriptors) = (Vec::with_capacity(ids.len()), Vec::with_capacity(ids.len()));
        for id in ids {
            if let Some(request) = self.migrations.leaving.get_mut(id) {
                items.push(describe(request));
                descriptors.push(request.connection.socket().clone() as _);
            }
        }
        let message = Message::Prepare { batch, items };
        match &message {
            Message::Prepare { items, .. } if self.migrations.in_bulk => {
                self.links.send_encoded(message.name(), bulk::encode(batch, items), descriptors);
            }
            _ => self.links.send(&message, descriptors),
        }
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
                let (mut arrived, mut resumes) = (Vec::new(), Vec::new());
                for Arrival { item, stream, resume } in self.migrations.release(from, batch) {
                    arrived.push((item, stream));
                    resumes.push(resume);
                }
                let connections = self.connections.adopt(arrived);
                resumes.into_iter().zip(connections).for_each(|(resume, connection)| resume(connection));
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
        let (room, mut inspected) = (Room::now(), Inspected::default());
        let lost = items.get(descriptors.len()..).unwrap_or_default();
        if !lost.is_empty() {
            tracing::warn!(
                generation = %from, connections = lost.len(),
                "no descriptors are left for connections; they stay where they are"
            );
            inspected.refused.extend(lost.iter().map(|item| item.id));
        }
        let mut taken = Vec::with_capacity(descriptors.len());
        for (mut item, fd) in items.into_iter().zip(descriptors) {
            check(&item, &fd)?;
            if !room.holds(&fd) {
                inspected.refused.push(item.id);
                inspected.is_crowded = true;
                continue;
            }
            let mut handlers = self.handlers.iter();
            let handler = handlers.find(|handler| handler.fits(&item.kind, &item.listener));
            let state = std::mem::take(&mut item.state).into_vec();
            match handler.and_then(|handler| handler.inspect(state)) {
                Some(resume) => taken.push((item, fd, resume)),
                None => inspected.refused.push(item.id),
            }
        }
        // One after the other: each is an event, because it can be written, and while a thread of the runtime
        // waits for events, all that come before it is awake cost one.
        let mut held = Vec::with_capacity(taken.len());
        for (item, fd, resume) in taken {
            match Stream::register(fd, &item.local) {
                Ok(stream) => held.push(Arrival { item, stream, resume }),
                Err(error) => {
                    tracing::warn!(%error, "a connection cannot be taken; it stays where it is");
                    inspected.refused.push(item.id);
                }
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

/// What the other process has to know. The state goes with it.
pub(crate) fn describe(request: &mut MigrationRequest) -> MigrationItem {
    let MigrationRequest { connection, kind, state, .. } = request;
    MigrationItem { kind: kind.clone(), state: std::mem::take(state), ..connection.item() }
}

/// A descriptor has to be the connection that it is said to be.
///
/// The kernel gives every socket a cookie of its own and never gives it again, and answers with it for
/// nothing but a socket; so one question says that the descriptor is the very socket that the other process
/// means. Its type and its family need no other: if a process means a socket that is no stream, reading and
/// writing it fails or does not, and blocks in neither case. A listener is asked for, because it would be
/// shut down with the connections at the end of a drain; and so is the blocking mode, since a thread of the
/// runtime could hang in a read.
pub(crate) fn check(item: &MigrationItem, fd: &OwnedFd) -> Result<(), String> {
    let wrong = |what: &str| Err(format!("moved connection {}, whose descriptor {what}", item.id));
    match sockopt::socket_cookie(fd) {
        Err(error) => return wrong(&format!("is not a socket: {error}")),
        // What it is instead is said if it is no connection at all.
        Ok(cookie) if cookie != item.cookie => {
            let is_stream = sockopt::socket_type(fd) == Ok(SocketType::STREAM);
            let is_connection = is_stream && sockopt::socket_acceptconn(fd) == Ok(false);
            return wrong(if is_connection { "is another socket" } else { "is not a connection" });
        }
        Ok(_) => {}
    }
    if sockopt::socket_acceptconn(fd) != Ok(false) {
        return wrong("is not a connection");
    }
    match SockRef::from(fd).nonblocking() {
        Ok(true) => Ok(()),
        _ => wrong("is in blocking mode"),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    /// As it is offered, with the client's end.
    fn offered(id: u64, kind: &str) -> (MigrationItem, OwnedFd, UnixStream) {
        let (ours, client) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let cookie = sockopt::socket_cookie(&ours).unwrap();
        (MigrationItem { id, cookie, kind: kind.into(), ..MigrationItem::default() }, ours.into(), client)
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
        let ids = |arrivals: Vec<Arrival>| arrivals.iter().map(|arrival| arrival.item.id).collect::<Vec<_>>();
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
