//! What happens: messages arrive, applications answer, operators ask, processes die.

use hotupdate_proto::incumbent::Stopped;
use hotupdate_proto::inventory::UnreadLink;
use hotupdate_proto::message::{Generation, Join, Message, Ready};
use hotupdate_proto::operator::{Command, OperatorError};
use hotupdate_proto::{Fault, Incumbent, ListenerItem, ListenerKind, Refusal, Summary, incumbent, successor};

use super::{Action, End, Machine, Packet, Pending, World, kinds};

impl World {
    pub(crate) fn act(&mut self, action: Action) {
        match action {
            Action::Deliver { end, reader } => {
                let packet = self.side(end).queue.pop_front().expect("there is something to deliver");
                self.deliver(end, reader, packet);
            }
            Action::EndOfFile { end, reader } => {
                self.drop_end(end, reader);
                self.closed(end, reader, Fault::PeerGone);
            }
            Action::Perform(index) => {
                let pending = self.procs[index].pending.pop_front().expect("there is something to do");
                self.perform(index, pending);
            }
        }
        self.check();
    }

    pub(super) fn generation_of(&self, index: usize, end: End) -> Option<Generation> {
        self.procs[index]
            .predecessors
            .iter()
            .find(|(_, held)| **held == end)
            .map(|(generation, _)| *generation)
    }

    pub(super) fn deliver(&mut self, end: End, reader: usize, packet: Packet) {
        match packet {
            Packet::Join(join) => self.called(end, reader, join),
            Packet::Reply(reply) => self.successor_event(reader, successor::Event::Replied(reply)),
            Packet::Message(message, links) => {
                let generation = self.generation_of(reader, end);
                let holder = &mut self.procs[reader];
                if let (Machine::Successor(_), Some(generation)) = (&holder.machine, generation) {
                    self.heard_early(reader, generation, message);
                } else if matches!(holder.machine, Machine::Successor(_)) {
                    holder.holds |= matches!(message, Message::Control { .. });
                    holder.predecessors.extend(links.iter().copied());
                    for (_, end) in links {
                        self.hold(end, reader);
                    }
                    self.successor_event(reader, successor::Event::Message(message));
                } else if let Some(generation) = generation {
                    self.incumbent_event(reader, incumbent::Event::Predecessor(generation, message));
                } else {
                    self.incumbent_event(reader, incumbent::Event::Message(message));
                }
            }
        }
    }

    /// A predecessor was asked to serve, and says that it does, or something for later.
    fn heard_early(&mut self, reader: usize, generation: Generation, message: Message) {
        if matches!(message, Message::Serving { .. } | Message::Failed { .. }) {
            return self.successor_event(reader, successor::Event::Resumed(generation));
        }
        self.procs[reader].early.push((generation, message));
    }

    /// The link cannot be used any more, as `reader` sees it.
    pub(crate) fn closed(&mut self, end: End, reader: usize, fault: Fault) {
        match self.generation_of(reader, end) {
            Some(generation) if self.incumbent(reader).is_some() => {
                self.incumbent_event(reader, incumbent::Event::PredecessorClosed(generation, fault));
            }
            // Not before this process serves.
            Some(_) => {
                self.hold(end, reader);
                self.procs[reader].reads_one = None;
            }
            None => {
                if fault == Fault::PeerGone {
                    self.procs[reader].link = None;
                }
                self.event(reader, incumbent::Event::Closed(fault.clone()), successor::Event::Closed(fault));
            }
        }
    }

    /// Garbage on the links that this process reads.
    pub(crate) fn garble(&mut self, index: usize) {
        let ends = self.procs[index].link.into_iter().chain(self.procs[index].predecessors.values().copied());
        for end in ends.collect::<Vec<_>>() {
            if self.reader(end) == Some(index) && self.procs[index].alive {
                self.closed(end, index, Fault::PeerMisbehaved("not a message".to_owned()));
            }
        }
    }

    pub(super) fn called(&mut self, end: End, owner: usize, join: Join) {
        let inventory = self.inventory(owner);
        let taken = self.incumbent(owner).is_some_and(|machine| machine.admits(self.now, &join).is_ok());
        if taken {
            self.procs[owner].link = Some(end);
            let handoff = format!("h{}", end.link);
            self.incumbent_event(owner, incumbent::Event::Join { join, handoff, inventory, occupancy: None });
        } else {
            let refusal = self.incumbent(owner).map(|machine| machine.admits(self.now, &join));
            let refusal = refusal.and_then(Result::err).unwrap_or(Refusal::Starting);
            self.put(owner, end, Packet::Reply(Err(refusal)));
            self.drop_end(end, owner);
        }
    }

    /// Three batches, or two if there are no older generations.
    pub(super) fn inventory(&self, owner: usize) -> Vec<Message> {
        let item = ListenerItem {
            name: "http".to_owned(),
            kind: ListenerKind::Tcp,
            address: "0.0.0.0:3000".to_owned(),
            cookie: 7,
        };
        let mut inventory = vec![Message::Listeners { batch: 1, items: vec![item] }];
        let items: Vec<_> = self
            .incumbent(owner)
            .into_iter()
            .flat_map(Incumbent::predecessors)
            .map(|predecessor| predecessor.item(self.now))
            .collect();
        if !items.is_empty() {
            inventory.push(Message::Links { batch: 2, items });
        }
        let batch = u32::try_from(inventory.len()).expect("few batches") + 1;
        inventory.push(Message::Control { batch });
        inventory
    }

    pub(super) fn perform(&mut self, index: usize, pending: Pending) {
        match pending {
            Pending::Ready => {
                let release = self.procs[index].app.release;
                let accepts = kinds(&self.procs[index].app);
                let ready = Ready { adopted: vec!["http".to_owned()], release, accepts, ..Ready::default() };
                self.successor_event(index, successor::Event::Ready(ready));
            }
            Pending::Opened => {
                self.procs[index].accepting = true;
                self.successor_event(index, successor::Event::Opened { gap_ns: Some(1) });
            }
            Pending::HookDone => {
                self.procs[index].works = false;
                self.incumbent_event(index, incumbent::Event::BeforeReleaseDone(Ok(())));
            }
            Pending::Stopped => {
                self.procs[index].accepting = false;
                self.procs[index].reads_predecessors = false;
                let left = self.procs[index].predecessors.keys();
                let links = left.map(|g| UnreadLink { generation: *g, unread: String::new() }).collect();
                let connections = Summary::new(2, 1, 0);
                let stopped = Stopped { at_ns: 1, connections, links, ..Stopped::default() };
                self.incumbent_event(index, incumbent::Event::Stopped(stopped));
            }
            Pending::Drained { forced } => {
                self.incumbent_event(index, incumbent::Event::Drained { forced });
            }
        }
    }

    /// The event of whichever machine the process has now.
    pub(crate) fn event(&mut self, index: usize, older: incumbent::Event, newer: successor::Event) {
        match &self.procs[index].machine {
            Machine::Incumbent(_) => self.incumbent_event(index, older),
            Machine::Successor(_) => self.successor_event(index, newer),
        }
    }

    pub(crate) fn incumbent_event(&mut self, index: usize, event: incumbent::Event) {
        let Machine::Incumbent(machine) = &mut self.procs[index].machine else { return };
        let effects = machine.handle(self.now, event);
        self.incumbent_effects(index, effects);
    }

    pub(crate) fn successor_event(&mut self, index: usize, event: successor::Event) {
        let Machine::Successor(machine) = &mut self.procs[index].machine else { return };
        let effects = machine.handle(self.now, event);
        for effect in effects {
            self.successor_effect(index, effect);
        }
    }

    /// Lets the owner of the control socket hear this process before anything else happens.
    pub(crate) fn hear_call_of(&mut self, index: usize) {
        let link = self.procs[index].link.expect("it calls").link;
        loop {
            let action = self.actions().into_iter().find(|action| match action {
                Action::Deliver { end, .. } | Action::EndOfFile { end, .. } => end.link == link,
                Action::Perform(_) => false,
            });
            let Some(action) = action else { return };
            self.act(action);
        }
    }

    /// An operator asks the process that owns the control socket; `None` if the world stands still.
    pub(crate) fn command(&mut self, command: Command) -> Option<Result<(), OperatorError>> {
        let owner = self.owner().filter(|_| self.fuel != Some(0))?;
        Some(self.command_to(owner, command))
    }

    pub(crate) fn command_to(&mut self, index: usize, command: Command) -> Result<(), OperatorError> {
        let Machine::Incumbent(machine) = &mut self.procs[index].machine else {
            panic!("{index} does not serve")
        };
        let effects = machine.command(self.now, command)?;
        self.incumbent_effects(index, effects);
        self.check();
        Ok(())
    }

    /// One process says something to another, out of turn, on the link that they have.
    pub(crate) fn say(&mut self, from: usize, to: usize, message: Message) {
        let ends = |index: usize| {
            let process = &self.procs[index];
            process.link.into_iter().chain(process.predecessors.values().copied()).collect::<Vec<_>>()
        };
        let theirs = ends(to);
        let end = ends(from).into_iter().find(|end| theirs.contains(&end.other())).expect("they have a link");
        self.send(from, Some(end), message);
    }

    /// The process dies: all its descriptors are closed at once.
    pub(crate) fn kill(&mut self, index: usize) {
        self.procs[index].alive = false;
        self.procs[index].accepting = false;
        self.procs[index].holds = false;
        self.procs[index].pending.clear();
        self.procs[index].predecessors.clear();
        self.procs[index].link = None;
        for link in 0..self.links.len() {
            for side in 0..2 {
                let end = End { link, side };
                if self.side(end).holders.contains(&index) {
                    self.drop_end(end, index);
                }
            }
        }
        // What no process reads or will read: a call that the control socket's next owner finds closed.
        self.check();
    }
}
