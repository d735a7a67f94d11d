//! Doing what the machine of a successor says, until the process serves.
//!
//! Deliberately absent: the inventory, which is complete before the driver starts, see [`crate::joining`].

use std::collections::HashMap;
use std::time::{Duration, Instant};

use hotupdate_proto::message::Released;
use hotupdate_proto::operator::LastHandoff;
use hotupdate_proto::successor::{Effect, Event, Served};
use hotupdate_proto::{Fault, Generation, Incumbent};

use tracing::Span;

use super::incumbent::monotonic_ns;
use super::{Driver, Role};
use crate::error::{Error, ErrorKind};
use crate::state::Arrived;

impl Driver {
    /// Brings an event to the machine of a successor.
    pub(super) async fn successor(&mut self, event: Event) {
        let mut event = Some(event);
        while let (Some(now), Role::Successor(successor)) = (event.take(), &mut self.role) {
            let serves_on = successor.serves_on();
            for effect in successor.machine.handle(Instant::now(), now) {
                match effect {
                    Effect::Send(message) => {
                        if let Some(peer) = &self.peer {
                            peer.send(&message, Vec::new());
                        }
                    }
                    Effect::SendTo(generation, message) => {
                        if let Some(link) = self.predecessors.get(&generation) {
                            link.send(&message, Vec::new());
                        }
                    }
                    Effect::Read(generation) => {
                        if let Some(link) = self.predecessors.get_mut(&generation) {
                            link.resume(None);
                        }
                    }
                    Effect::Close => {}
                    Effect::Open(released) => {
                        event = Some(match self.open(released.as_ref()) {
                            Ok(gap_ns) => Event::Opened { gap_ns },
                            Err(error) => Event::GiveUp(error.reason()),
                        });
                        break;
                    }
                    Effect::Serve(served) => return self.served(served).await,
                    Effect::Fail(fault) => return self.fail(&fault, serves_on).await,
                    Effect::Complete(_) | Effect::StartOver => {}
                }
            }
        }
    }

    /// Runs the accept loops; returns how long nobody accepted.
    fn open(&self, released: Option<&Released>) -> Result<Option<u64>, Error> {
        let gap = released.and_then(|released| self.gap_since(released));
        if let (Some(gap), Some(Released { within_ms, .. })) = (gap, released)
            && gap >= Duration::from_millis(*within_ms)
        {
            let why = format!("released {gap:?} ago, and the incumbent serves again after {within_ms} ms");
            return Err(Error::new(ErrorKind::Local, "taking over", why));
        }
        if let Err(error) = self.open_gates() {
            self.resources.gates.iter().for_each(|(gate, _)| drop(gate.park()));
            return Err(error);
        }
        let gap = released.and_then(|released| self.gap_since(released));
        Ok(gap.map(|gap| u64::try_from(gap.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// How long nobody has accepted. In another time namespace the clocks do not compare (time_namespaces(7)): what cannot
    /// be, because we were not even ready then, is not believed.
    fn gap_since(&self, released: &Released) -> Option<Duration> {
        let gap = Duration::from_nanos(monotonic_ns().checked_sub(released.stopped_at_ns)?);
        self.ready_at.filter(|ready| gap <= ready.elapsed()).map(|_| gap)
    }

    async fn served(&mut self, served: Served) {
        let Role::Successor(successor) = std::mem::replace(&mut self.role, Role::Failed) else { return };
        let Served { joined, predecessors, gap_ns } = served;
        let alive: Vec<Generation> = predecessors.iter().map(|p| p.generation).collect();
        let machine = Incumbent::serving(self.local.clone(), joined.generation, predecessors);
        let mut machine = machine.accepting(self.migrations.kinds());
        let greeting = machine.greet();
        self.role = Role::Incumbent(Box::new(machine));
        if let Some(link) = self.peer.take()
            && alive.contains(&joined.incumbent_generation)
        {
            self.predecessors.insert(joined.incumbent_generation, link);
        }
        self.predecessors.retain(|generation, _| alive.contains(generation));
        self.span = Span::none();
        self.open_all();
        let state = self.final_state();
        self.last_handoff = Some(LastHandoff {
            handoff: joined.handoff.clone(),
            from: joined.incumbent_generation,
            gap_ns,
            took_ms: u64::try_from(successor.since.elapsed().as_millis()).unwrap_or(u64::MAX),
        });
        tracing::info!(
            generation = %joined.generation,
            predecessor = %successor.joined.incumbent,
            nobody_accepted_us = gap_ns.map(|ns| ns / 1000),
            "serving"
        );
        self.connections.metrics().handoff("served", gap_ns);
        self.serve(state);
        let unread = std::mem::take(&mut self.unread_link_bytes);
        self.read_predecessors(&unread);
        self.perform(greeting).await;
    }

    fn final_state(&mut self) -> HashMap<String, Arrived> {
        let states = std::mem::take(&mut self.sealed).into_iter();
        states.map(|(item, fd)| (item.name.clone(), Arrived::new(item, fd))).collect()
    }

    async fn fail(&mut self, fault: &Fault, serves_on: Option<String>) {
        if let Some(peer) = self.peer.take() {
            // The incumbent is told why before the link closes.
            let _ = tokio::time::timeout(self.settings.timing.write, peer.flushed()).await;
        }
        let error =
            Error::fault(format!("succeeding the process at {}", self.settings.path.display()), fault);
        let error = error.while_served_by(serves_on);
        tracing::error!(%error, "this process does not serve");
        self.role = Role::Failed;
        match self.ready.take() {
            Some(ready) => drop(ready.send(Err(error))),
            None => drop(self.failed.take().map(|failed| failed.send(error))),
        }
    }
}
