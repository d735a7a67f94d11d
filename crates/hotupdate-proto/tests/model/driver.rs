//! The driver of one process: brings its machine what happened and performs what it says, as
//! `crates/hotupdate/src/driver` does with real descriptors.

use std::sync::Arc;
use std::time::Instant;

use hotupdate_proto::incumbent::{Afterwards, Effect, Event, Report, Stopped};
use hotupdate_proto::inventory::UnreadLink;
use hotupdate_proto::message::{Generation, Message, Ready, Release};
use hotupdate_proto::successor::{self, Served};
use hotupdate_proto::{FEATURE_SUPERVISION, Fault, Incumbent, LinkItem, Refusal, supervision};

use super::kernel::{End, Id, Riders, Said};
use super::process::{Held, Process, Role};
use super::world::World;

impl World {
    pub(crate) fn process(&mut self, p: Id) -> &mut Process {
        Arc::make_mut(&mut self.procs[p])
    }

    // ---- as the incumbent -----------------------------------------------------------------------------

    pub(super) fn incumbent_event(&mut self, p: Id, event: Event) {
        self.incumbent_event_at(self.now(), p, event);
    }

    pub(super) fn incumbent_event_at(&mut self, at: Instant, p: Id, event: Event) {
        let Role::Incumbent(machine) = &mut self.process(p).role else { return };
        let effects = machine.handle(at, event);
        self.perform(p, effects);
    }

    pub(super) fn send(&mut self, p: Id, message: Message) {
        let Some(Held { end, .. }) = self.procs[p].peer else { return };
        let mut riders = Riders { control: matches!(message, Message::Control { .. }), links: Vec::new() };
        if let Message::Links { items, .. } = &message {
            // One that ended since the inventory was made is passed on as a link that has ended, which
            // changes nothing.
            let held = |item: &LinkItem| {
                let held = self.procs[p].predecessors.get(&item.generation)?;
                Some((item.generation, held.end))
            };
            riders.links = items.iter().filter_map(held).collect();
        }
        self.put(p, end, Said::Message(wordless(message), riders));
    }

    pub(super) fn send_to(&mut self, p: Id, generation: Generation, message: Message) {
        if let Some(held) = self.procs[p].predecessors.get(&generation).copied() {
            self.put(p, held.end, Said::Message(wordless(message), Riders::default()));
        }
    }

    pub(super) fn perform(&mut self, p: Id, effects: Vec<Effect>) {
        for effect in effects {
            self.effect(p, effect);
        }
    }

    fn effect(&mut self, p: Id, effect: Effect) {
        let process = self.process(p);
        match effect {
            Effect::Reply(reply) => {
                let joined = reply.is_ok();
                if let Some(held) = process.peer {
                    self.put(p, held.end, Said::Reply(reply));
                }
                if !joined {
                    self.process(p).peer = None;
                }
            }
            Effect::Send(message) => self.send(p, message),
            Effect::SendTo(generation, message) => self.send_to(p, generation, message),
            Effect::Close => process.peer = None,
            Effect::Quiet => {}
            Effect::Stop => {
                // What the application exports may take a while.
                (process.accepting, process.control_open, process.stopping) = (false, false, true);
            }
            Effect::Accept(_) => self.accept(p),
            Effect::Read(generation) => {
                if let Some(held) = process.predecessors.get_mut(&generation) {
                    held.reading = true;
                }
            }
            Effect::LetGo(afterwards) => {
                process.is_succeeded = matches!(afterwards, Afterwards::ServedBy(_));
                let gone = !process.is_succeeded && process.control;
                (process.accepting, process.holds, process.stopping) = (false, false, false);
                (process.control, process.control_open) = (false, false);
                process.predecessors.clear();
                self.path &= !gone;
            }
            Effect::Drain { .. } => process.draining = true,
            Effect::Undrain => (process.draining, process.drained) = (false, false),
            Effect::Force => self.force(p),
            Effect::Demote(generation) => {
                if let Some(held) = process.peer.take() {
                    process.predecessors.insert(generation, held);
                }
            }
            Effect::Promote(generation) => {
                process.peer = process.predecessors.remove(&generation);
            }
            Effect::Forget(generation) => {
                process.predecessors.remove(&generation);
                if self.is_alone(p) {
                    self.supervise(p, supervision::Event::Alone);
                }
            }
            Effect::Exit => {
                process.exiting = true;
                self.end_unless_kept(p);
            }
            Effect::Outbound(effect) => self.outbound(p, effect),
            Effect::Inbound(generation, effect) => self.inbound(p, generation, effect),
            Effect::Established => {
                let is_alone = self.is_alone(p);
                self.supervise(p, supervision::Event::Established { is_alone });
            }
            // The model has no hook, and no cleaner.
            Effect::BeforeRelease | Effect::Rebound(_) => {}
            Effect::Report(Report::Served { peer, .. }) => {
                let is_told = peer.features.iter().any(|feature| feature == FEATURE_SUPERVISION);
                self.supervise(p, supervision::Event::Succeeded { is_told });
            }
            Effect::Report(Report::Violation(..)) => self.violation = true,
            Effect::Report(_) => {}
        }
    }

    /// They have stopped. (Predecessors are heard until here: what was read before the links were paused is
    /// heard later.)
    pub(super) fn stopped(&mut self, p: Id) {
        let process = self.process(p);
        process.stopping = false;
        let mut links = Vec::new();
        for (generation, held) in &mut process.predecessors {
            held.reading = false;
            links.push(UnreadLink { generation: *generation, unread: String::new() });
        }
        self.incumbent_event(p, Event::Stopped(Stopped { links, ..Stopped::default() }));
    }

    fn accept(&mut self, p: Id) {
        let process = self.process(p);
        process.stopping = false;
        (process.accepting, process.control_open) = (process.holds, process.control);
        process.predecessors.values_mut().for_each(|held| held.reading = true);
        self.serves_now(p);
    }

    /// All descriptors are closed, and what was said is still read.
    pub(super) fn end(&mut self, p: Id) {
        self.procs[p] = Arc::new(Process { role: Role::Dead, ..Process::default() });
    }

    // ---- as a successor -------------------------------------------------------------------------------

    pub(super) fn successor_event(&mut self, p: Id, event: successor::Event) {
        self.successor_event_at(self.now(), p, event);
    }

    pub(super) fn successor_event_at(&mut self, at: Instant, p: Id, event: successor::Event) {
        use successor::Effect as E;
        let Role::Successor(machine) = &mut self.process(p).role else { return };
        for effect in machine.handle(at, event) {
            match effect {
                E::Send(message) => self.send(p, message),
                E::SendTo(generation, message) => self.send_to(p, generation, message),
                E::Read(generation) => {
                    let held = self.process(p).predecessors.get_mut(&generation);
                    held.expect("its link is here").reading = true;
                }
                E::Close | E::Rebound(_) => {}
                E::Complete(_) => (self.process(p).warming, self.process(p).holds) = (true, true),
                E::StartOver => self.find_again(p),
                E::Open(_) => {
                    self.process(p).accepting = true;
                    return self.successor_event(p, successor::Event::Opened { gap_ns: None });
                }
                E::Serve(served) => return self.served(p, served),
                E::Fail(_) => return self.end(p),
            }
        }
    }

    /// The process that answered is dead, or does not serve: look again, as long as the deadline `find` lets
    /// it.
    pub(super) fn find_again(&mut self, p: Id) {
        let role = if self.again > 0 { Role::Finding } else { Role::Dead };
        self.again = self.again.saturating_sub(1);
        let supervision = self.supervision(p);
        self.procs[p] = Arc::new(Process { role, supervision, ..Process::default() });
    }

    pub(super) fn ready(&mut self, p: Id, release: Release) {
        self.process(p).warming = false;
        let ready = Ready { release, accepts: self.kinds(), ..Ready::default() };
        self.successor_event(p, successor::Event::Ready(ready));
    }

    fn served(&mut self, p: Id, served: Served) {
        let Served { joined, predecessors, gap_ns: _ } = served;
        let alive: Vec<_> = predecessors.iter().map(|predecessor| predecessor.generation).collect();
        let machine = Incumbent::serving(self.local(p), joined.generation, predecessors);
        let mut machine = machine.accepting(self.kinds());
        let greeting = machine.greet();
        let process = self.process(p);
        process.role = Role::Incumbent(Box::new(machine));
        if let Some(held) = process.peer.take()
            && alive.contains(&joined.incumbent_generation)
        {
            process.predecessors.insert(joined.incumbent_generation, held);
        }
        process.predecessors.retain(|generation, _| alive.contains(generation));
        process.control_open = true;
        process.predecessors.values_mut().for_each(|held| held.reading = true);
        self.serves_now(p);
        self.perform(p, greeting);
        for (generation, message) in std::mem::take(&mut self.process(p).unheard) {
            self.hear_predecessor(p, generation, message);
        }
    }

    // ---- what is heard --------------------------------------------------------------------------------

    /// A call on the control socket.
    pub(super) fn called(&mut self, p: Id, link: usize) {
        let end = End { link, side: 0 };
        Arc::make_mut(&mut self.links[link]).backlog = false;
        let Some(said) = self.queue_mut(end).pop_front() else { return };
        let Said::Join(join) = said else { unreachable!("a call is the first thing on a link") };
        let admitted = match self.procs[p].incumbent() {
            Some(machine) => machine.admits(self.now(), &join),
            None => Err(Refusal::Starting),
        };
        if let Err(refusal) = admitted {
            return self.put(p, end, Said::Reply(Err(refusal)));
        }
        assert!(self.procs[p].peer.is_none(), "who admits a successor has none");
        self.process(p).peer = Some(Held { end, reading: true });
        let inventory = self.inventory(p);
        self.incumbent_event(p, Event::Join { join, handoff: String::new(), inventory, occupancy: None });
    }

    fn inventory(&self, p: Id) -> Vec<Message> {
        let process = &self.procs[p];
        let machine = process.incumbent();
        let items: Vec<_> = machine
            .into_iter()
            .flat_map(Incumbent::predecessors)
            .filter(|predecessor| process.predecessors.contains_key(&predecessor.generation))
            .map(|predecessor| predecessor.item(self.now()))
            .collect();
        let mut inventory = Vec::new();
        if !items.is_empty() {
            inventory.push(Message::Links { batch: 1, items });
        }
        inventory.push(Message::Control { batch: if inventory.is_empty() { 1 } else { 2 } });
        inventory
    }

    pub(super) fn deliver(&mut self, p: Id, end: End) {
        let Some(said) = self.queue_mut(end).pop_front() else { return };
        match said {
            Said::Join(_) => unreachable!("a call is the first thing on a link"),
            Said::Reply(Err(Refusal::Starting | Refusal::NotServing)) => self.find_again(p),
            Said::Reply(reply) => self.successor_event(p, successor::Event::Replied(reply)),
            Said::Message(message, riders) => self.hear(p, end, message, riders),
        }
    }

    fn hear(&mut self, p: Id, end: End, message: Message, riders: Riders) {
        let generation = self.procs[p].generation_at(end);
        let process = self.process(p);
        match (&process.role, generation) {
            (Role::Successor(_), None) => {
                process.control |= riders.control;
                let links = riders.links.into_iter();
                process.predecessors.extend(links.map(|(g, end)| (g, Held { end, reading: false })));
                self.successor_event(p, successor::Event::Message(message));
            }
            (_, None) => {
                self.hear_of_heir(p, &message);
                self.incumbent_event(p, Event::Message(message));
            }
            (_, Some(generation)) => self.hear_predecessor(p, generation, Some(message)),
        }
    }

    /// What one before it says, or that it is gone. A successor hears only that it serves, and the rest when
    /// it serves.
    fn hear_predecessor(&mut self, p: Id, generation: Generation, message: Option<Message>) {
        let process = self.process(p);
        match (&process.role, message) {
            (Role::Successor(_), Some(Message::Serving { .. } | Message::Failed { .. })) => {
                self.successor_event(p, successor::Event::Resumed(generation));
            }
            (Role::Successor(_), message) => process.unheard.push((generation, message)),
            (_, Some(message)) => {
                if let Message::Main { pid } = message {
                    self.supervise(p, supervision::Event::Main(pid));
                }
                self.incumbent_event(p, Event::Predecessor(generation, message));
            }
            (_, None) => {
                self.incumbent_event(p, Event::PredecessorClosed(generation, Fault::PeerGone));
            }
        }
    }

    /// The other end is gone, and all that was said there is read.
    pub(super) fn end_of_file(&mut self, p: Id, end: End) {
        let generation = self.procs[p].generation_at(end);
        let process = self.process(p);
        let ended = process.peer.iter_mut().chain(process.predecessors.values_mut());
        ended.filter(|held| held.end == end).for_each(|held| held.reading = false);
        match (&process.role, generation) {
            (_, Some(generation)) => self.hear_predecessor(p, generation, None),
            (Role::Successor(_), _) => self.successor_event(p, successor::Event::Closed(Fault::PeerGone)),
            (_, None) => {
                process.peer = None;
                self.incumbent_event(p, Event::Closed(Fault::PeerGone));
                self.end_unless_kept(p);
            }
        }
    }
}

/// What is said for people makes no difference here, and must not make two states of one.
fn wordless(message: Message) -> Message {
    match message {
        Message::Failed { .. } => Message::Failed { reason: String::new() },
        other => other,
    }
}
