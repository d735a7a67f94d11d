//! Doing what the machine of a successor says, until the process serves.
//!
//! Deliberately absent: the inventory, which is complete before the driver starts, see [`crate::joining`].

use std::time::{Duration, Instant};

use hotupdate_proto::message::Released;
use hotupdate_proto::operator::LastHandoff;
use hotupdate_proto::successor::{Effect, Event, Served};
use hotupdate_proto::{Fault, Generation, Incumbent};

use super::Driver;
use super::clock::monotonic_ns;
use super::machine::Role;
use crate::error::{Error, ErrorKind};
use crate::process::limits;

impl Driver {
    /// Brings an event to the machine of a successor, and does what it says.
    pub(super) async fn handle_successor(&mut self, event: Event) {
        let mut event = Some(event);
        while let (Some(now), Role::Successor(successor)) = (event.take(), &mut self.machine.role) {
            let serves_on = successor.serves_on();
            for effect in successor.machine.handle(Instant::now(), now) {
                match effect {
                    Effect::Send(message) => self.links.send(&message, Vec::new()),
                    Effect::SendTo(generation, message) => {
                        self.links.send_to(generation, &message, Vec::new())
                    }
                    Effect::Read(generation) => self.links.read(generation),
                    Effect::Close => {}
                    Effect::Rebound(_) => self.take_rebound(),
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

    /// Runs the accept loops; returns how long no process accepted.
    fn open(&self, released: Option<&Released>) -> Result<Option<u64>, Error> {
        let gap = released.and_then(|released| self.gap_since(released));
        if let (Some(gap), Some(Released { within_ms, .. })) = (gap, released)
            && gap >= Duration::from_millis(*within_ms)
        {
            let why = format!("released {gap:?} ago, and the incumbent serves again after {within_ms} ms");
            return Err(Error::new(ErrorKind::Local, "taking over", why));
        }
        // The first client may ask for it.
        self.show_sum(self.connections.totals());
        self.listeners.open()?;
        let gap = released.and_then(|released| self.gap_since(released));
        Ok(gap.map(|gap| u64::try_from(gap.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// How long no process has accepted. In another time namespace the clocks do not compare
    /// (time_namespaces(7)): a gap that is longer than this process has been ready is not believed.
    fn gap_since(&self, released: &Released) -> Option<Duration> {
        let gap = Duration::from_nanos(monotonic_ns().checked_sub(released.stopped_at_ns)?);
        self.application.was_ready(gap).then_some(gap)
    }

    async fn served(&mut self, served: Served) {
        let role = std::mem::replace(&mut self.machine.role, Role::Failed);
        let Role::Successor(successor) = role else { return };
        let Served { joined, predecessors, gap_ns } = served;
        let alive: Vec<Generation> = predecessors.iter().map(|p| p.generation).collect();
        let is_alone = !alive.contains(&joined.incumbent_generation);
        let machine = Incumbent::serving(self.identity.local.clone(), joined.generation, predecessors);
        let machine = machine.with_hook(self.application.has_hook());
        let mut machine = machine.accepting(self.migrations.kinds());
        let greeting = machine.greet();
        self.machine.role = Role::Incumbent(Box::new(machine));
        self.links.serve(joined.incumbent_generation, &alive);
        self.listeners.open_all();
        let mut handoff = LastHandoff::new(joined.handoff.clone(), joined.incumbent_generation);
        handoff.gap_ns = gap_ns;
        let took = successor.since.elapsed();
        handoff.took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        handoff.took_ns = u64::try_from(took.as_nanos()).ok();
        self.operators.handed_over(handoff);
        tracing::info!(
            generation = %joined.generation,
            predecessor = %successor.joined.incumbent,
            gap_us = gap_ns.map(|ns| ns / 1000),
            "serving"
        );
        self.connections.metrics().gap(gap_ns);
        self.count_on();
        self.operators.counts.handoffs().served += 1;
        if joined.occupancy.is_some_and(|there| !limits::has_room_for(there)) {
            self.warn_of_few_descriptors();
        }
        self.serve();
        if is_alone {
            let (view, operators) = self.view();
            operators.stepped_in(view, &joined.incumbent, joined.incumbent_generation);
        }
        self.links.read_inherited();
        self.serves();
        self.perform(greeting).await;
    }

    async fn fail(&mut self, fault: &Fault, serves_on: Option<String>) {
        // The incumbent is told why before the link closes.
        let _ = tokio::time::timeout(self.settings.timing.write, self.links.flushed()).await;
        self.links.peer_is_gone();
        let doing = format!("succeeding the process at {}", self.settings.path.display());
        let error = Error::fault(doing, fault, serves_on);
        tracing::error!(%error, "this process does not serve");
        self.machine.role = Role::Failed;
        self.application.fail(error);
    }
}
