//! Connections of predecessors, on their way to this process, which serves.
//!
//! Deliberately absent: serving them, see [`crate::migration`].

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use hotupdate_proto::migration::InboundEffect;
use hotupdate_proto::{FEATURE_MIGRATE, Fault, Generation, Message, MigrationItem, incumbent};
use rustix::net::sockopt;
use socket2::SockRef;

use super::{Arrival, Moves, Resting, Taking};
use crate::connections::Socket;
use crate::driver::Driver;
use crate::driver::text::from_text;

impl Driver {
    /// Tells predecessors which connections this process picks up.
    pub(in crate::driver) fn announce(&mut self) {
        if self.moves.quiet {
            return;
        }
        let kinds: Vec<_> = self.moves.handlers.iter().map(|handler| handler.kind.clone()).collect();
        let Some(machine) = self.machine.incumbent() else { return };
        for predecessor in machine.predecessors() {
            if !predecessor.features.iter().any(|feature| feature == FEATURE_MIGRATE) {
                continue;
            }
            self.moves.knowing.insert(predecessor.generation);
            let wants = !kinds.is_empty() && !predecessor.drained;
            if wants && self.links.has(predecessor.generation) {
                self.moves.takers.entry(predecessor.generation).or_default();
                let message = Message::Accepts { kinds: kinds.clone() };
                self.links.send_to(predecessor.generation, &message);
            }
        }
    }

    /// What a predecessor says about moves; gives back what is not about them.
    pub(in crate::driver) async fn hear_mover(
        &mut self,
        generation: Generation,
        message: Message,
        descriptors: Vec<OwnedFd>,
    ) -> Option<Message> {
        let heard = match message {
            Message::Prepare { batch, items } => self.arrived(generation, batch, items, descriptors),
            Message::Commit { batch } => self.taking(generation).and_then(|taking| taking.taker.given(batch)),
            Message::Abort { batch } => {
                self.taking(generation).and_then(|taking| taking.taker.taken_back(batch))
            }
            Message::Quiesced => {
                self.rested(generation).await;
                Ok(Vec::new())
            }
            other => return Some(other),
        };
        match heard {
            Ok(effects) => self.perform_taking(generation, effects),
            Err(fault) => {
                self.moves.forget(generation);
                self.handle(incumbent::Event::PredecessorClosed(generation, fault)).await;
            }
        }
        None
    }

    /// A predecessor died: what it had sent and not given has no other server.
    pub(in crate::driver) async fn mover_is_gone(&mut self, generation: Generation) {
        if let Some(taking) = self.moves.takers.get_mut(&generation) {
            let effects = taking.taker.closed();
            self.perform_taking(generation, effects);
            self.moves.forget(generation);
        }
        self.rested(generation).await;
    }

    fn taking(&mut self, generation: Generation) -> Result<&mut Taking, Fault> {
        self.moves.takers.get_mut(&generation).ok_or_else(unasked)
    }

    fn arrived(
        &mut self,
        generation: Generation,
        batch: u32,
        items: Vec<MigrationItem>,
        descriptors: Vec<OwnedFd>,
    ) -> Result<Vec<InboundEffect>, Fault> {
        let Moves { takers, handlers, .. } = &mut self.moves;
        let taking = takers.get_mut(&generation).ok_or_else(unasked)?;
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
            let handler = handlers.iter().find(|handler| handler.fits(&item.kind, &item.row.listener));
            let resume = handler.and_then(|handler| handler.inspect(from_text(&item.state)));
            match resume.map(|resume| (resume, Socket::register(fd))) {
                Some((resume, Ok(socket))) => held.push(Arrival { item, socket, resume }),
                Some((_, Err(error))) => {
                    tracing::warn!(%error, "a connection cannot be taken; it stays where it is");
                    refused.push(item.row.id);
                }
                None => refused.push(item.row.id),
            }
        }
        let effects = taking.taker.arrived(batch, refused)?;
        taking.held.insert(batch, held);
        taking.last = Some(Instant::now());
        Ok(effects)
    }

    fn perform_taking(&mut self, generation: Generation, effects: Vec<InboundEffect>) {
        for effect in effects {
            match effect {
                InboundEffect::Send(message) => {
                    self.links.send_to(generation, &message);
                }
                InboundEffect::Serve(batch) => {
                    for Arrival { item, socket, resume } in self.release_held(generation, batch) {
                        resume(self.connections.adopt(item.row, socket));
                    }
                }
                InboundEffect::Drop(batch) => drop(self.release_held(generation, batch)),
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
    pub(in crate::driver) async fn stop(&mut self) {
        self.stops += 1;
        self.moves.quiet = true;
        let expired = self.moves.patience + self.settings.timing.quiesce;
        let waits = |(generation, taking): &(&Generation, &Taking)| {
            let late = self.moves.late.contains(generation) && !taking.may_be_given(expired);
            self.links.has(**generation) && !late
        };
        let awaited: HashSet<_> = self.moves.takers.iter().filter(waits).map(|(g, _)| *g).collect();
        if awaited.is_empty() {
            return self.stop_now().await;
        }
        for generation in &awaited {
            self.links.send_to(*generation, &Message::Accepts { kinds: Vec::new() });
        }
        self.moves.resting = Some(Resting { awaited, until: Instant::now() + self.settings.timing.quiesce });
    }

    pub(in crate::driver) fn stop_is_off(&mut self) {
        self.moves.resting = None;
        self.moves.quiet = false;
    }

    /// Going on would lose the connections that are on their way, so this attempt fails. The next does not wait for a process
    /// that hangs, once it would take back what it offered as the first thing that it does.
    pub(super) async fn give_up_resting(&mut self) {
        let Some(Resting { awaited, .. }) = self.moves.resting.take() else { return };
        let mut generations: Vec<_> = awaited.iter().map(ToString::to_string).collect();
        generations.sort_unstable();
        self.moves.late.extend(awaited);
        let what = format!(
            "generation {} did not finish its moves in time (deadline `quiesce`)",
            generations.join(" and ")
        );
        self.machine.queue(incumbent::Event::CannotStop(what));
    }

    async fn rested(&mut self, generation: Generation) {
        self.moves.late.remove(&generation);
        let Some(resting) = &mut self.moves.resting else { return };
        resting.awaited.remove(&generation);
        if resting.awaited.is_empty() {
            self.moves.resting = None;
            self.stop_now().await;
        }
    }
}

impl Taking {
    /// Whether something is held that its mover could still give: if nobody here heard of that, it would be nobody's.
    fn may_be_given(&self, expired: Duration) -> bool {
        !self.held.is_empty() && self.last.is_some_and(|last| last.elapsed() < expired)
    }
}

fn unasked() -> Fault {
    Fault::PeerMisbehaved("moved connections that nobody asked for".to_owned())
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
