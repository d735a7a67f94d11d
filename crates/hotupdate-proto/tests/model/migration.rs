//! Connections that migrate: which process serves them, and the descriptors of those on their way.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hotupdate_proto::message::{Generation, Message};
use hotupdate_proto::migration::{InboundEffect, Leaving, OutboundEffect};
use hotupdate_proto::{ConnectionKind, MigrationItem, Timing, incumbent};

use super::kernel::{End, Id, Said};
use super::process::Process;
use super::world::World;

/// A connection, by its number.
pub(crate) type Connection = u64;

/// What a process has of connections. It serves those in `serves`, and only those.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Connections {
    pub(crate) serves: BTreeSet<Connection>,
    /// Those that have asked to leave: the driver has them, and does not touch them.
    pub(crate) leaving: BTreeSet<Connection>,
    /// What predecessors sent, and did not commit yet.
    held: BTreeMap<(Generation, u32), Vec<Connection>>,
    /// Batches that were refused: their commit gives nothing.
    refused: BTreeSet<(Generation, u32)>,
    /// Batches are numbered, so that without a limit there would be no end of states.
    pub(crate) offers: u8,
}

impl Connections {
    /// No connection is left here, so that a drain is over.
    pub(crate) fn is_empty(&self) -> bool {
        self.serves.is_empty() && self.leaving.is_empty()
    }

    pub(crate) fn has(&self, connection: Connection) -> bool {
        self.serves.contains(&connection) || self.leaving.contains(&connection)
    }

    pub(crate) fn held(&self) -> impl Iterator<Item = Connection> + '_ {
        self.held.values().flatten().copied()
    }
}

/// Every process accepts the one kind that there is.
pub(crate) fn kinds() -> Vec<ConnectionKind> {
    vec![ConnectionKind::new("", None)]
}

fn item(id: Connection) -> MigrationItem {
    MigrationItem { id, cookie: id, ..MigrationItem::default() }
}

impl World {
    /// An idle connection asks to leave.
    pub(super) fn leave(&mut self, p: Id, connection: Connection) {
        let connections = &mut self.process(p).connections;
        connections.serves.remove(&connection);
        connections.leaving.insert(connection);
        let leaving = vec![Leaving { id: connection, bytes: 0, descriptors: 1 }];
        self.incumbent_event(p, incumbent::Event::Leave(leaving));
    }

    pub(super) fn outbound(&mut self, p: Id, effect: OutboundEffect) {
        let connections = &mut self.process(p).connections;
        match effect {
            OutboundEffect::Send(message) => self.send(p, message),
            OutboundEffect::Prepare { batch, ids } => {
                connections.offers += 1;
                self.send(p, Message::Prepare { batch, items: ids.into_iter().map(item).collect() });
            }
            OutboundEffect::Migrated(ids) => connections.leaving.retain(|id| !ids.contains(id)),
            OutboundEffect::Return(ids) => {
                let back: Vec<_> = ids.into_iter().filter(|id| connections.leaving.remove(id)).collect();
                connections.serves.extend(back);
                self.close_forced(p);
            }
            // Which connection asks when is not decided here: any may ask at any time.
            OutboundEffect::Accepted(_) | OutboundEffect::Pause | OutboundEffect::Stalled => {}
        }
    }

    pub(super) fn inbound(&mut self, p: Id, from: Generation, effect: InboundEffect) {
        let connections = &mut self.process(p).connections;
        match effect {
            InboundEffect::Send(message) => {
                if let Message::Prepared { batch, refused } = &message
                    && !refused.is_empty()
                {
                    connections.refused.insert((from, *batch));
                }
                self.send_to(p, from, message);
            }
            InboundEffect::Inspect { batch, items } => {
                let ids = items.into_iter().map(|item| item.id).collect();
                connections.held.insert((from, batch), ids);
                let refused = Vec::new();
                self.incumbent_event(p, incumbent::Event::Inspected { from, batch, refused });
            }
            InboundEffect::Serve(batch) => {
                connections.refused.remove(&(from, batch));
                let arrived = connections.held.remove(&(from, batch)).expect("it is held");
                connections.serves.extend(arrived);
                self.close_forced(p);
            }
            InboundEffect::Discard(batch) => {
                connections.refused.remove(&(from, batch));
                connections.held.remove(&(from, batch)).expect("it is held");
            }
        }
    }

    /// The connections that are left are closed, wherever they are.
    pub(super) fn force(&mut self, p: Id) {
        let connections = &self.procs[p].connections;
        let forced: Vec<_> = connections.serves.union(&connections.leaving).copied().collect();
        self.lost.extend(&forced);
        self.forced.extend(forced);
        self.close_forced(p);
    }

    fn close_forced(&mut self, p: Id) {
        let forced = self.forced.clone();
        self.process(p).connections.serves.retain(|id| !forced.contains(id));
    }

    /// It was sent to this process, and the other does not go on with it.
    pub(crate) fn holds(&self, process: &Process, connection: Connection) -> bool {
        process.connections.held.iter().any(|(key, ids)| {
            let (generation, batch) = key;
            let goes_on = process.predecessors.get(generation).is_some_and(|link| {
                let refused = process.connections.refused.contains(key);
                self.takes_back(link.end, *batch) || refused && self.commits(link.end, *batch)
            });
            ids.contains(&connection) && !goes_on
        })
    }

    /// A descriptor of this connection is on its way to this end.
    pub(crate) fn carries(&self, end: End, connection: Connection) -> bool {
        self.queue(end).iter().any(|said| match said {
            Said::Message(Message::Prepare { batch, items }, _) => {
                items.iter().any(|item| item.id == connection) && !self.takes_back(end, *batch)
            }
            _ => false,
        })
    }

    fn takes_back(&self, end: End, batch: u32) -> bool {
        self.says(end, &Message::Abort { batch })
    }

    fn commits(&self, end: End, batch: u32) -> bool {
        self.says(end, &Message::Commit { batch })
    }

    fn says(&self, end: End, wanted: &Message) -> bool {
        self.queue(end).iter().any(|said| matches!(said, Said::Message(message, _) if message == wanted))
    }
}

/// How far the clock moves on when it does: longer than anything that migrates is good, shorter than a
/// standby.
pub(crate) const LATER: Duration = Duration::from_secs(3000);

/// Everything is at its default, but that the answer to a `prepare` is waited for longer than a drain takes,
/// where it is `patient`: then the drain ends first.
pub(crate) fn timing(patient: bool) -> Timing {
    Timing::default().prepared(Duration::from_secs(if patient { 1000 } else { 1 }))
}
