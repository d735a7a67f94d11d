//! Live connections that move: to the process that serves when we drain, and from predecessors when we serve.
//!
//! Deliberately absent: who has a connection when; `hotupdate_proto::moving` decides that.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use hotupdate_proto::moving::{MAX_BATCH, MAX_BATCH_STATE, Mover, MoverEffect, Taker, TakerEffect};
use hotupdate_proto::{FEATURE_MOVE, Fault, Generation, Message, MovingItem, incumbent};
use rustix::net::sockopt;
use socket2::SockRef;

use super::effects::{from_text, to_text};
use super::{Driver, Role};
use crate::adoption::{Adopter, PickUp};
use crate::connection::{Connection, Parcel, Socket};

/// How long after a handoff the next version may take to say which connections it picks up. Until then no client is told to
/// leave.
const EXPECTED: Duration = Duration::from_secs(1);

/// The moves of this process, in both directions.
pub(super) struct Moves {
    mover: Mover,
    queue: VecDeque<Parcel>,
    on_the_way: HashMap<u64, Parcel>,
    /// The other side takes connections now.
    open: bool,
    /// The other side wants to know when nothing is on its way.
    rest_due: bool,
    /// The peer of our drain knows what moves are.
    pub(super) peer_knows: bool,

    pub(super) adopters: Vec<Adopter>,
    /// Predecessors that know what moves are.
    pub(super) knowing: HashSet<Generation>,
    takers: HashMap<Generation, Taking>,
    /// Predecessors that have to come to rest before the accept loops are stopped.
    resting: Option<Resting>,
    /// Somebody else is about to read the links of our predecessors, or does: nothing may be on its way to us.
    quiet: bool,
    /// Predecessors that did not come to rest in time, for which nobody waits again.
    late: HashSet<Generation>,
}

#[derive(Default)]
struct Taking {
    taker: Taker,
    held: BTreeMap<u32, Vec<Arrival>>,
}

/// A connection that is here and not ours yet: nobody reads it, but it is registered, so that nothing can go wrong later.
struct Arrival {
    item: MovingItem,
    socket: Socket,
    pick_up: PickUp,
}

struct Resting {
    awaited: HashSet<Generation>,
    until: Instant,
}

impl Moves {
    pub(super) fn new(patience: Duration) -> Self {
        Self {
            mover: Mover::new(patience),
            queue: VecDeque::new(),
            on_the_way: HashMap::new(),
            open: false,
            rest_due: false,
            peer_knows: false,
            adopters: Vec::new(),
            knowing: HashSet::new(),
            takers: HashMap::new(),
            resting: None,
            quiet: false,
            late: HashSet::new(),
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let resting = self.resting.as_ref().map(|resting| resting.until);
        self.mover.deadline().into_iter().chain(resting).min()
    }

    /// Whether a predecessor knows what moves are.
    pub(super) fn knows(&self, generation: Generation) -> bool {
        self.knowing.contains(&generation)
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

// ---- giving ------------------------------------------------------------------------------------------------------

impl Driver {
    /// The drain begins.
    pub(super) fn expect_moves(&mut self) {
        if self.moves.peer_knows && self.peer.is_some() {
            self.connections.expect_moves(tokio::time::Instant::now() + EXPECTED);
        }
    }

    /// What the process that serves says about moves; gives back what is not about them.
    pub(super) fn hear_taker(&mut self, message: Message) -> Option<Message> {
        match message {
            Message::Takes { kinds } if self.draining => {
                self.moves.open = !kinds.is_empty();
                self.moves.rest_due = kinds.is_empty();
                if self.moves.open {
                    self.connections.set_taken(Some(kinds));
                } else {
                    // Its own successor is about to take over and will say what it takes, or it speaks again itself.
                    self.expect_moves();
                    let waiting = std::mem::take(&mut self.moves.queue);
                    waiting.into_iter().for_each(give_back);
                }
                self.pump();
            }
            Message::Held { batch, refused } if self.draining => match self.moves.mover.held(batch, &refused)
            {
                Ok(effects) => {
                    self.perform_giving(effects);
                    self.pump();
                }
                Err(fault) => {
                    self.take_all_back();
                    tracing::warn!(%fault, "a violation of the protocol; nothing moves any more");
                }
            },
            other => return Some(other),
        }
        None
    }

    pub(super) fn give(&mut self, parcel: Parcel) {
        // While the other side rests, a batch would reach a process that has stopped reading.
        if self.draining && self.peer.is_some() && self.moves.open {
            self.moves.queue.push_back(parcel);
            while let Ok(parcel) = self.parcels.try_recv() {
                self.moves.queue.push_back(parcel);
            }
            self.pump();
        } else {
            give_back(parcel);
        }
    }

    /// Offers what fits into the window.
    fn pump(&mut self) {
        while self.moves.mover.has_room() && !self.moves.queue.is_empty() {
            let parcels = self.moves.next_batch();
            let Some(peer) = &self.peer else {
                return parcels.into_iter().for_each(give_back);
            };
            let descriptors = parcels.iter().map(|parcel| parcel.connection.socket().clone() as _).collect();
            let items = parcels.iter().map(describe).collect();
            for effect in self.moves.mover.offer(Instant::now(), items) {
                if let MoverEffect::Send(message) = effect {
                    peer.send(&message, descriptors);
                    break;
                }
            }
            self.moves.on_the_way.extend(parcels.into_iter().map(|parcel| (parcel.connection.id(), parcel)));
        }
        if self.moves.rest_due && self.moves.mover.is_idle() {
            self.moves.rest_due = false;
            if let Some(peer) = &self.peer {
                peer.send(&Message::Rest, Vec::new());
            }
        }
    }

    fn perform_giving(&mut self, effects: Vec<MoverEffect>) {
        for effect in effects {
            match effect {
                MoverEffect::Send(message) => {
                    if let Some(peer) = &self.peer {
                        peer.send(&message, Vec::new());
                    }
                }
                MoverEffect::Moved(ids) => {
                    for Parcel { connection, reply, .. } in self.moves.take(&ids) {
                        connection.tracker().migrated();
                        // Our copy is closed; the kernel's socket lives on in the other process.
                        drop(connection);
                        let _ = reply.send(Ok(()));
                    }
                }
                MoverEffect::Return(ids) => self.moves.take(&ids).into_iter().for_each(give_back),
            }
        }
    }

    /// The other process is dead, or this one serves again: everything that is not the other's stays.
    pub(super) fn take_all_back(&mut self) {
        self.connections.set_taken(None);
        let effects = self.moves.mover.closed();
        self.perform_giving(effects);
        std::mem::take(&mut self.moves.queue).into_iter().for_each(give_back);
        (self.moves.open, self.moves.rest_due) = (false, false);
    }

    pub(super) async fn tick_moves(&mut self) {
        let now = Instant::now();
        let effects = self.moves.mover.tick(now);
        if !effects.is_empty() {
            tracing::warn!("the serving process does not answer (deadline `moving`); connections stay");
            self.perform_giving(effects);
            // While it hangs nobody should wait for it.
            std::mem::take(&mut self.moves.queue).into_iter().for_each(give_back);
        }
        if self.moves.resting.as_ref().is_some_and(|resting| now >= resting.until) {
            self.give_up_resting().await;
        }
    }
}

impl Moves {
    fn next_batch(&mut self) -> Vec<Parcel> {
        let (mut parcels, mut bytes) = (Vec::with_capacity(self.queue.len().min(MAX_BATCH)), 0);
        while let Some(next) = self.queue.front() {
            bytes += next.state.len();
            if parcels.len() == MAX_BATCH || (bytes > MAX_BATCH_STATE && !parcels.is_empty()) {
                break;
            }
            parcels.extend(self.queue.pop_front());
        }
        parcels
    }

    fn take(&mut self, ids: &[u64]) -> Vec<Parcel> {
        let mut parcels = Vec::with_capacity(ids.len());
        parcels.extend(ids.iter().filter_map(|id| self.on_the_way.remove(id)));
        parcels
    }
}

fn give_back(parcel: Parcel) {
    let Parcel { connection, reply, .. } = parcel;
    // If nobody waits for it any more, it is closed.
    let _ = reply.send(Err(Box::new(connection)));
}

pub(crate) fn describe(parcel: &Parcel) -> MovingItem {
    let Parcel { connection, kind, state, .. } = parcel;
    MovingItem {
        row: connection.tracker().describe(),
        kind: kind.clone(),
        cookie: sockopt::socket_cookie(connection.socket()).unwrap_or_default(),
        state: to_text(state),
    }
}

// ---- taking ------------------------------------------------------------------------------------------------------

impl Driver {
    /// Tells predecessors which connections this process picks up.
    pub(super) fn announce(&mut self) {
        if self.moves.quiet {
            return;
        }
        let kinds: Vec<_> = self.moves.adopters.iter().map(|adopter| adopter.kind.clone()).collect();
        let Role::Incumbent(machine) = &self.role else { return };
        for predecessor in machine.predecessors() {
            if !predecessor.features.iter().any(|feature| feature == FEATURE_MOVE) {
                continue;
            }
            self.moves.knowing.insert(predecessor.generation);
            let wants = !kinds.is_empty() && !predecessor.drained;
            if let (true, Some(link)) = (wants, self.predecessors.get(&predecessor.generation)) {
                self.moves.takers.entry(predecessor.generation).or_default();
                link.send(&Message::Takes { kinds: kinds.clone() }, Vec::new());
            }
        }
    }

    /// What a predecessor says about moves; gives back what is not about them.
    pub(super) async fn hear_mover(
        &mut self,
        generation: Generation,
        message: Message,
        descriptors: Vec<OwnedFd>,
    ) -> Option<Message> {
        let heard = match message {
            Message::Move { batch, items } => self.arrived(generation, batch, items, descriptors),
            Message::Yours { batch } => self.taking(generation).and_then(|taking| taking.taker.given(batch)),
            Message::Back { batch } => {
                self.taking(generation).and_then(|taking| taking.taker.taken_back(batch))
            }
            Message::Rest => {
                self.rested(generation).await;
                Ok(Vec::new())
            }
            other => return Some(other),
        };
        match heard {
            Ok(effects) => self.perform_taking(generation, effects),
            Err(fault) => {
                self.moves.forget(generation);
                self.incumbent(incumbent::Event::PredecessorClosed(generation, fault)).await;
            }
        }
        None
    }

    /// A predecessor died: what it had sent and not given has no other server.
    pub(super) async fn mover_is_gone(&mut self, generation: Generation) {
        if let Some(taking) = self.moves.takers.get_mut(&generation) {
            let effects = taking.taker.closed();
            self.perform_taking(generation, effects);
            self.moves.forget(generation);
        }
        self.rested(generation).await;
    }

    fn taking(&mut self, generation: Generation) -> Result<&mut Taking, Fault> {
        let nothing = || Fault::PeerMisbehaved("moved connections that nobody asked for".to_owned());
        self.moves.takers.get_mut(&generation).ok_or_else(nothing)
    }

    fn arrived(
        &mut self,
        generation: Generation,
        batch: u32,
        items: Vec<MovingItem>,
        descriptors: Vec<OwnedFd>,
    ) -> Result<Vec<TakerEffect>, Fault> {
        let Moves { takers, adopters, .. } = &mut self.moves;
        let nothing = || Fault::PeerMisbehaved("moved connections that nobody asked for".to_owned());
        let taking = takers.get_mut(&generation).ok_or_else(nothing)?;
        let (mut held, mut refused) = (Vec::new(), Vec::new());
        let lost = items.get(descriptors.len()..).unwrap_or_default();
        if !lost.is_empty() {
            tracing::warn!(%generation, connections = lost.len(), "no descriptors are left for connections; they stay where they are");
            refused.extend(lost.iter().map(|item| item.row.id));
        }
        for (item, fd) in items.into_iter().zip(descriptors) {
            check(&item, &fd).map_err(Fault::PeerMisbehaved)?;
            let mut here = held.iter().chain(taking.held.values().flatten());
            if here.any(|there: &Arrival| there.item.cookie == item.cookie) {
                return Err(Fault::PeerMisbehaved(format!("moved connection {} twice", item.row.id)));
            }
            let adopter = adopters.iter().find(|adopter| adopter.fits(&item.kind, &item.row.listener));
            let picked_up = adopter.and_then(|adopter| adopter.look(from_text(&item.state)));
            match picked_up.map(|pick_up| (pick_up, Socket::register(fd))) {
                Some((pick_up, Ok(socket))) => held.push(Arrival { item, socket, pick_up }),
                Some((_, Err(error))) => {
                    tracing::warn!(%error, "a connection cannot be taken; it stays where it is");
                    refused.push(item.row.id);
                }
                None => refused.push(item.row.id),
            }
        }
        let effects = taking.taker.arrived(batch, refused)?;
        taking.held.insert(batch, held);
        Ok(effects)
    }

    fn perform_taking(&mut self, generation: Generation, effects: Vec<TakerEffect>) {
        for effect in effects {
            match effect {
                TakerEffect::Send(message) => {
                    if let Some(link) = self.predecessors.get(&generation) {
                        link.send(&message, Vec::new());
                    }
                }
                TakerEffect::Serve(batch) => {
                    for Arrival { item, socket, pick_up } in self.release_held(generation, batch) {
                        pick_up(Connection::arrived(&self.connections, item.row, socket));
                    }
                }
                TakerEffect::Drop(batch) => drop(self.release_held(generation, batch)),
            }
        }
    }

    fn release_held(&mut self, generation: Generation, batch: u32) -> Vec<Arrival> {
        self.moves
            .takers
            .get_mut(&generation)
            .and_then(|taking| taking.held.remove(&batch))
            .unwrap_or_default()
    }

    /// Before the accept loops stop, predecessors finish the moves that are under way: the next version could not.
    pub(super) async fn stop(&mut self) {
        self.stops += 1;
        self.reopen_at = None;
        self.moves.quiet = true;
        let waits = |generation: &&Generation| {
            self.predecessors.contains_key(generation) && !self.moves.late.contains(generation)
        };
        let awaited: HashSet<_> = self.moves.takers.keys().filter(waits).copied().collect();
        if awaited.is_empty() {
            return self.stop_now().await;
        }
        for generation in &awaited {
            if let Some(link) = self.predecessors.get(generation) {
                link.send(&Message::Takes { kinds: Vec::new() }, Vec::new());
            }
        }
        self.moves.resting = Some(Resting { awaited, until: Instant::now() + self.settings.timing.rest });
    }

    pub(super) fn stop_is_off(&mut self) {
        self.moves.resting = None;
        self.moves.quiet = false;
    }

    /// Going on would lose the connections that are on their way, so this attempt fails. The next does not wait for a process
    /// that hangs.
    async fn give_up_resting(&mut self) {
        let Some(Resting { awaited, .. }) = self.moves.resting.take() else { return };
        let mut generations: Vec<_> = awaited.iter().map(ToString::to_string).collect();
        generations.sort_unstable();
        self.moves.late.extend(awaited);
        let what = format!(
            "generation {} did not finish its moves in time (deadline `rest`)",
            generations.join(" and ")
        );
        self.events.push_back(incumbent::Event::CannotStop(what));
        self.perform(Vec::new()).await;
    }

    async fn rested(&mut self, generation: Generation) {
        self.moves.late.remove(&generation);
        let Some(resting) = &mut self.moves.resting else { return };
        resting.awaited.remove(&generation);
        if resting.awaited.is_empty() {
            self.moves.resting = None;
            self.stop_now().await;
            self.perform(Vec::new()).await;
        }
    }
}

/// A descriptor has to be the connection that it is said to be.
pub(crate) fn check(item: &MovingItem, fd: &OwnedFd) -> Result<(), String> {
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
