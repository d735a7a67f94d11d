//! The part of a driver that moves connections, as `crates/hotupdate/src/driver/moves.rs` has it.
//!
//! Deliberately absent: who has a connection when; `hotupdate_proto::migration` decides that.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use hotupdate_proto::message::{Generation, Message};
use hotupdate_proto::migration::{
    ConnectionKind, Inbound, InboundEffect, MigrationItem, Outbound, OutboundEffect,
};
use hotupdate_proto::{
    ConnectionRow, ConnectionState, FEATURE_MIGRATE, Fault, Incumbent, Predecessor, ShortText, Timing,
    incumbent,
};

use super::kernel::{End, Id, Riders, Said};
use super::process::Process;
use super::world::{World, now};

/// A connection, by its number.
pub(crate) type Connection = u64;

/// What a process has of connections. It serves those in `serves`, and no others.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Moves {
    pub(crate) serves: BTreeSet<Connection>,
    pub(crate) mover: Outbound,
    queue: VecDeque<Connection>,
    pub(crate) on_the_way: BTreeSet<Connection>,
    open: bool,
    rest_due: bool,
    pub(crate) takers: BTreeMap<Generation, Taking>,
    pub(crate) resting: Option<BTreeSet<Generation>>,
    quiet: bool,
    late: BTreeSet<Generation>,
    /// Batches are numbered, so that without a limit there would be no end of states.
    pub(crate) offers: u8,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Taking {
    taker: Inbound,
    pub(crate) held: BTreeMap<u32, Vec<Connection>>,
}

const PATIENCE: Duration = Duration::from_secs(5);

impl Default for Moves {
    fn default() -> Self {
        Self {
            serves: BTreeSet::new(),
            mover: Outbound::new(PATIENCE),
            queue: VecDeque::new(),
            on_the_way: BTreeSet::new(),
            open: false,
            rest_due: false,
            takers: BTreeMap::new(),
            resting: None,
            quiet: false,
            late: BTreeSet::new(),
            offers: 0,
        }
    }
}

impl Moves {
    /// No connection is left here, so that a drain is over.
    pub(crate) fn is_empty(&self) -> bool {
        self.serves.is_empty() && self.on_the_way.is_empty() && self.queue.is_empty()
    }

    /// It has this connection, and nobody else has.
    pub(crate) fn has(&self, connection: Connection) -> bool {
        self.serves.contains(&connection)
            || self.on_the_way.contains(&connection)
            || self.queue.contains(&connection)
    }

    /// What others moved here, and did not give yet.
    pub(crate) fn held(&self) -> impl Iterator<Item = Connection> + '_ {
        self.takers.values().flat_map(|taking| taking.held.values().flatten()).copied()
    }

    /// Whether this idle connection is given to the process that serves, which takes it.
    pub(crate) fn gives(&self) -> bool {
        self.open
    }

    pub(crate) fn forget_all(&mut self) {
        self.takers.clear();
    }

    pub(crate) fn forget(&mut self, generation: Generation) {
        self.takers.remove(&generation);
    }

    pub(crate) fn stop_is_off(&mut self) {
        self.resting = None;
        self.quiet = false;
    }

    fn give_back_queue(&mut self) {
        self.serves.extend(std::mem::take(&mut self.queue));
    }
}

fn item(id: Connection) -> MigrationItem {
    let row = ConnectionRow {
        id,
        listener: ShortText::default(),
        peer: ShortText::default(),
        local: ShortText::default(),
        protocol: ShortText::default(),
        age_ms: 0,
        requests: 0,
        state: ConnectionState::Idle,
    };
    MigrationItem { row, kind: ShortText::default(), cookie: id, state: String::new() }
}

// ---- giving ------------------------------------------------------------------------------------------------------

impl World {
    /// What the process that serves says about moves; gives back what is not about them.
    pub(super) fn hear_taker(&mut self, p: Id, message: Message) -> Option<Message> {
        if !self.procs[p].draining {
            return Some(message);
        }
        let moves = &mut self.process(p).moves;
        match message {
            Message::Accepts { kinds } => {
                moves.open = !kinds.is_empty();
                moves.rest_due = kinds.is_empty();
                if !moves.open {
                    moves.give_back_queue();
                }
                self.pump(p);
            }
            Message::Prepared { batch, refused } => match moves.mover.held(batch, &refused) {
                Ok(effects) => {
                    self.perform_giving(p, effects);
                    self.pump(p);
                }
                Err(_) => {
                    self.violation = true;
                    self.take_all_back(p);
                }
            },
            other => return Some(other),
        }
        None
    }

    /// An idle connection asks to move.
    pub(super) fn give(&mut self, p: Id, connection: Connection) {
        let moves = &mut self.process(p).moves;
        moves.serves.remove(&connection);
        moves.queue.push_back(connection);
        moves.offers += 1;
        self.pump(p);
    }

    fn pump(&mut self, p: Id) {
        while self.procs[p].moves.mover.has_room() && !self.procs[p].moves.queue.is_empty() {
            let peer = self.procs[p].peer;
            let moves = &mut self.process(p).moves;
            let Some(peer) = peer else { return moves.give_back_queue() };
            let batch: Vec<_> = moves.queue.drain(..).collect();
            let effects = moves.mover.offer(now(), batch.iter().copied().map(item).collect());
            moves.on_the_way.extend(batch);
            for effect in effects {
                if let OutboundEffect::Send(message) = effect {
                    self.put(p, peer.end, Said::Message(message, Riders::default()));
                }
            }
        }
        let moves = &self.procs[p].moves;
        if moves.rest_due && moves.mover.is_idle() {
            self.process(p).moves.rest_due = false;
            self.send(p, Message::Quiesced);
        }
    }

    fn perform_giving(&mut self, p: Id, effects: Vec<OutboundEffect>) {
        for effect in effects {
            let moves = &mut self.process(p).moves;
            match effect {
                OutboundEffect::Send(message) => self.send(p, message),
                OutboundEffect::Moved(ids) => moves.on_the_way.retain(|id| !ids.contains(id)),
                OutboundEffect::Return(ids) => {
                    let back: Vec<_> = ids.into_iter().filter(|id| moves.on_the_way.remove(id)).collect();
                    moves.serves.extend(back);
                }
            }
        }
    }

    pub(super) fn take_all_back(&mut self, p: Id) {
        let effects = self.process(p).moves.mover.closed();
        self.perform_giving(p, effects);
        let moves = &mut self.process(p).moves;
        moves.give_back_queue();
        (moves.open, moves.rest_due) = (false, false);
    }

    /// The serving process did not say in time that it holds a batch.
    pub(super) fn moving_is_late(&mut self, p: Id) {
        let moves = &mut self.process(p).moves;
        let Some(deadline) = moves.mover.deadline() else { return };
        let effects = moves.mover.tick(deadline);
        self.perform_giving(p, effects);
        self.process(p).moves.give_back_queue();
    }

    /// The connections that are left are closed, wherever they are.
    pub(super) fn force(&mut self, p: Id) {
        let moves = &mut self.process(p).moves;
        let forced: Vec<_> =
            moves.serves.iter().chain(&moves.on_the_way).chain(&moves.queue).copied().collect();
        moves.serves.clear();
        moves.queue.clear();
        self.lost.extend(&forced);
        self.forced.extend(forced);
    }
}

// ---- taking ------------------------------------------------------------------------------------------------------

impl World {
    /// Tells predecessors that this process picks up connections.
    pub(super) fn announce(&mut self, p: Id) {
        if self.procs[p].moves.quiet {
            return;
        }
        let wants = |predecessor: &&Predecessor| {
            predecessor.features.iter().any(|feature| feature == FEATURE_MIGRATE) && !predecessor.drained
        };
        let machine = self.procs[p].incumbent();
        let predecessors = machine.into_iter().flat_map(Incumbent::predecessors).filter(wants);
        for generation in predecessors.map(|predecessor| predecessor.generation).collect::<Vec<_>>() {
            if self.procs[p].predecessors.contains_key(&generation) {
                self.process(p).moves.takers.entry(generation).or_default();
                let kinds = vec![ConnectionKind { kind: String::new(), listener: None }];
                self.send_to(p, generation, Message::Accepts { kinds });
            }
        }
    }

    /// What a predecessor says about moves; gives back what is not about them.
    pub(super) fn hear_mover(&mut self, p: Id, generation: Generation, message: Message) -> Option<Message> {
        if matches!(message, Message::Quiesced) {
            self.rested(p, generation);
            return None;
        }
        let nothing = || Fault::PeerMisbehaved("moved connections that nobody asked for".to_owned());
        let taking = self.process(p).moves.takers.get_mut(&generation).ok_or_else(nothing);
        let heard = match message {
            Message::Prepare { batch, items } => taking.and_then(|taking| {
                let effects = taking.taker.arrived(batch, Vec::new())?;
                taking.held.insert(batch, items.into_iter().map(|item| item.row.id).collect());
                Ok(effects)
            }),
            Message::Commit { batch } => taking.and_then(|taking| taking.taker.given(batch)),
            Message::Abort { batch } => taking.and_then(|taking| taking.taker.taken_back(batch)),
            other => return Some(other),
        };
        match heard {
            Ok(effects) => self.perform_taking(p, generation, effects),
            Err(fault) => {
                self.violation = true;
                self.process(p).moves.forget(generation);
                self.incumbent_event(p, incumbent::Event::PredecessorClosed(generation, fault));
            }
        }
        None
    }

    pub(super) fn mover_is_gone(&mut self, p: Id, generation: Generation) {
        if let Some(taking) = self.process(p).moves.takers.get_mut(&generation) {
            let effects = taking.taker.closed();
            self.perform_taking(p, generation, effects);
            self.process(p).moves.forget(generation);
        }
        self.rested(p, generation);
    }

    fn perform_taking(&mut self, p: Id, generation: Generation, effects: Vec<InboundEffect>) {
        for effect in effects {
            match effect {
                InboundEffect::Send(message) => self.send_to(p, generation, message),
                InboundEffect::Serve(batch) => {
                    let arrived = self.release_held(p, generation, batch);
                    let open: Vec<_> = arrived.into_iter().filter(|id| !self.forced.contains(id)).collect();
                    self.process(p).moves.serves.extend(open);
                }
                InboundEffect::Drop(batch) => drop(self.release_held(p, generation, batch)),
            }
        }
    }

    fn release_held(&mut self, p: Id, generation: Generation, batch: u32) -> Vec<Connection> {
        let taking = self.process(p).moves.takers.get_mut(&generation);
        taking.and_then(|taking| taking.held.remove(&batch)).unwrap_or_default()
    }

    /// Before the accept loops stop, predecessors finish the moves that are under way.
    pub(super) fn stop(&mut self, p: Id) {
        let process = Arc::make_mut(&mut self.procs[p]);
        process.stopping = false;
        let moves = &mut process.moves;
        moves.quiet = true;
        let waits = |g: &&Generation| process.predecessors.contains_key(g) && !moves.late.contains(g);
        let awaited: BTreeSet<_> = moves.takers.keys().filter(waits).copied().collect();
        if awaited.is_empty() {
            return self.stop_now(p);
        }
        moves.resting = Some(awaited.clone());
        for generation in awaited {
            self.send_to(p, generation, Message::Accepts { kinds: Vec::new() });
        }
    }

    /// The predecessors did not come to rest in time.
    pub(super) fn rest_is_late(&mut self, p: Id) {
        let moves = &mut self.process(p).moves;
        moves.late.extend(moves.resting.take().unwrap_or_default());
        self.incumbent_event(p, incumbent::Event::CannotStop(String::new()));
    }

    fn rested(&mut self, p: Id, generation: Generation) {
        let moves = &mut self.process(p).moves;
        moves.late.remove(&generation);
        let Some(resting) = &mut moves.resting else { return };
        resting.remove(&generation);
        if resting.is_empty() {
            moves.resting = None;
            self.stop_now(p);
        }
    }

    /// It was moved to this process, and is not on its way back.
    pub(crate) fn holds(&self, process: &Process, connection: Connection) -> bool {
        let holds = |(generation, taking): (&Generation, &Taking)| {
            let link = process.predecessors.get(generation);
            let mut held = taking.held.iter().filter(|(_, ids)| ids.contains(&connection));
            held.any(|(batch, _)| !link.is_some_and(|link| self.takes_back(link.end, *batch)))
        };
        process.moves.takers.iter().any(holds)
    }

    /// A descriptor of this connection is on its way to this end.
    pub(crate) fn carries(&self, end: End, connection: Connection) -> bool {
        self.queue(end).iter().any(|said| match said {
            Said::Message(Message::Prepare { batch, items }, _) => {
                items.iter().any(|item| item.row.id == connection) && !self.takes_back(end, *batch)
            }
            _ => false,
        })
    }

    fn takes_back(&self, end: End, batch: u32) -> bool {
        let back = Message::Abort { batch };
        self.queue(end).iter().any(|said| matches!(said, Said::Message(message, _) if *message == back))
    }
}

/// Everything is at its default, but the moment.
pub(crate) fn timing() -> Timing {
    Timing::default().prepared(PATIENCE)
}
