//! Live connections that move: to the process that serves when we drain, and from predecessors when we serve.
//!
//! Deliberately absent: who has a connection when; `hotupdate_proto::migration` decides that.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use hotupdate_proto::incumbent::Report;
use hotupdate_proto::migration::{Inbound, Outbound};
use hotupdate_proto::{FEATURE_MIGRATE, Generation, MigrationItem};
use tokio::sync::mpsc;

use super::Driver;
use crate::connections::{MigrationRequest, Socket};
use crate::migration::{Handler, Resume};

mod giving;
#[cfg(feature = "test-util")]
pub(crate) use giving::describe;

mod taking;
#[cfg(feature = "test-util")]
pub(crate) use taking::check;

/// The moves of this process, in both directions.
pub(super) struct Moves {
    /// Connections of this process that want to leave.
    pub(super) requests: mpsc::UnboundedReceiver<MigrationRequest>,
    mover: Outbound,
    queue: VecDeque<MigrationRequest>,
    on_the_way: HashMap<u64, MigrationRequest>,
    /// The other side takes connections now.
    open: bool,
    /// The other side wants to know when nothing is on its way.
    rest_due: bool,
    /// The peer of our drain knows what moves are.
    peer_knows: bool,

    pub(super) handlers: Vec<Handler>,
    /// Predecessors that know what moves are.
    knowing: HashSet<Generation>,
    takers: HashMap<Generation, Taking>,
    /// Predecessors that have to come to rest before the accept loops are stopped.
    resting: Option<Resting>,
    /// Somebody else is about to read the links of our predecessors, or does: nothing may be on its way to us.
    quiet: bool,
    /// Predecessors that did not come to rest in time, for which nobody waits again when what is held has expired.
    late: HashSet<Generation>,
    /// How long an offer is good.
    patience: Duration,
}

#[derive(Default)]
struct Taking {
    taker: Inbound,
    held: BTreeMap<u32, Vec<Arrival>>,
    /// When the last batch arrived.
    last: Option<Instant>,
}

/// A connection that is here and not ours yet: nobody reads it, but it is registered, so that nothing can go wrong later.
struct Arrival {
    item: MigrationItem,
    socket: Socket,
    resume: Resume,
}

struct Resting {
    awaited: HashSet<Generation>,
    until: Instant,
}

impl Driver {
    /// Who serves has changed, and with it which way connections move.
    pub(super) fn heed(&mut self, report: &Report) {
        match report {
            Report::Served { peer, .. } => {
                self.moves.peer_knows = peer.features.iter().any(|feature| feature == FEATURE_MIGRATE);
            }
            // After `serving`: before it the other side is not one that drains.
            Report::Resumed(_) => self.announce(),
            _ => {}
        }
    }
}

impl Moves {
    pub(super) fn new(patience: Duration, requests: mpsc::UnboundedReceiver<MigrationRequest>) -> Self {
        Self {
            requests,
            mover: Outbound::new(patience),
            queue: VecDeque::new(),
            on_the_way: HashMap::new(),
            open: false,
            rest_due: false,
            peer_knows: false,
            handlers: Vec::new(),
            knowing: HashSet::new(),
            takers: HashMap::new(),
            resting: None,
            quiet: false,
            late: HashSet::new(),
            patience,
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let resting = self.resting.as_ref().map(|resting| resting.until);
        self.mover.deadline().into_iter().chain(resting).min()
    }

    /// The predecessor serves again. What can be taken can be given: features belong to both sides.
    pub(super) fn promote(&mut self, generation: Generation) {
        self.peer_knows = self.knowing.contains(&generation);
        self.forget(generation);
    }

    /// Whether no connection is about to leave.
    pub(super) fn at_rest(&self) -> bool {
        self.queue.is_empty() && self.mover.is_idle()
    }

    pub(super) fn forget(&mut self, generation: Generation) {
        self.takers.remove(&generation);
    }

    pub(super) fn forget_all(&mut self) {
        self.takers.clear();
    }
}
