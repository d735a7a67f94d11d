//! The driver of one process: performs what a machine wants done, on pretended links.

use std::collections::BTreeSet;

use hotupdate_proto::message::{Generation, Message};
use hotupdate_proto::migration::{InboundEffect, OutboundEffect};
use hotupdate_proto::{Incumbent, LinkItem, MigrationItem, incumbent, successor};

use super::{End, Machine, Migration, Packet, Pending, Side, World, kinds, local};

impl World {
    pub(super) fn incumbent_effects(&mut self, index: usize, effects: Vec<incumbent::Effect>) {
        for effect in effects {
            self.incumbent_effect(index, effect);
        }
    }

    pub(super) fn send(&mut self, index: usize, end: Option<End>, message: Message) {
        let Some(end) = end else { return };
        let mut links = Vec::new();
        if let Message::Links { items, .. } = &message {
            for LinkItem { generation, .. } in items {
                // A driver duplicates the descriptors when it lists them; one that ended since is passed on,
                // ended.
                let held = self.procs[index].predecessors.get(generation).copied();
                links.push((*generation, held.unwrap_or_else(|| self.ended_link())));
            }
        }
        self.put(index, end, Packet::Message(message, links));
    }

    fn ended_link(&mut self) -> End {
        self.links.push(<[Side; 2]>::default());
        End { link: self.links.len() - 1, side: 1 }
    }

    fn forget(&mut self, index: usize, generation: Generation) {
        if let Some(end) = self.procs[index].predecessors.remove(&generation) {
            self.drop_end(end, index);
        }
    }

    fn forget_all(&mut self, index: usize) {
        for generation in self.procs[index].predecessors.keys().copied().collect::<Vec<_>>() {
            self.forget(index, generation);
        }
    }

    fn close(&mut self, index: usize) {
        if let Some(end) = self.procs[index].link.take() {
            self.drop_end(end, index);
        }
    }

    fn incumbent_effect(&mut self, index: usize, effect: incumbent::Effect) {
        use incumbent::Effect as E;
        let link = self.procs[index].link;
        let process = &mut self.procs[index];
        match effect {
            E::Reply(reply) => self.put(index, link.expect("a call has a link"), Packet::Reply(reply)),
            E::Send(message) => self.send(index, link, message),
            E::SendTo(generation, message) => {
                let end = process.predecessors.get(&generation).copied();
                self.send(index, end, message);
            }
            E::Close => self.close(index),
            // Everything is handed over all the same: not to listen is the machine's part.
            E::Quiet => {}
            E::BeforeRelease if !process.works => process.pending.push_back(Pending::HookDone),
            E::BeforeRelease if process.app.hook_ends => process.pending.push_back(Pending::HookDone),
            E::BeforeRelease => {}
            E::Stop if process.app.stops => process.pending.push_back(Pending::Stopped),
            E::Stop => {}
            E::Accept(_) => {
                process.pending.retain(|pending| !matches!(pending, Pending::Stopped | Pending::HookDone));
                process.works = true;
                assert!(process.holds, "accepts without listeners");
                process.accepting = true;
                process.reads_predecessors = true;
                process.reads_one = None;
            }
            E::Read(generation) => process.reads_one = Some(generation),
            E::LetGo(_) => {
                process.pending.retain(|pending| !matches!(pending, Pending::Stopped | Pending::HookDone));
                process.works = false;
                process.accepting = false;
                process.holds = false;
                process.reads_one = None;
                self.forget_all(index);
            }
            E::Drain { .. } if process.app.drains => {
                self.migrations.push((index, Migration::Drain));
                process.pending.retain(|pending| !matches!(pending, Pending::Drained { .. }));
                process.pending.push_back(Pending::Drained { forced: 0 });
            }
            E::Drain { .. } => self.migrations.push((index, Migration::Drain)),
            E::Undrain => {
                self.migrations.push((index, Migration::Undrain));
                process.pending.retain(|pending| !matches!(pending, Pending::Drained { .. }));
            }
            E::Force if process.app.ends => process.pending.push_back(Pending::Drained { forced: 3 }),
            E::Force => {}
            E::Demote(generation) => {
                let end = process.link.take().expect("a link to demote");
                process.predecessors.insert(generation, end);
            }
            E::Promote(generation) => {
                assert!(process.link.is_none(), "the successor's link was not closed");
                process.link = process.predecessors.remove(&generation);
            }
            E::Forget(generation) => self.forget(index, generation),
            E::Outbound(OutboundEffect::Send(message)) => self.send(index, link, message),
            E::Inbound(generation, InboundEffect::Send(message)) => {
                let end = process.predecessors.get(&generation).copied();
                self.send(index, end, message);
            }
            E::Outbound(OutboundEffect::Prepare { batch, ids }) => {
                let items = ids.into_iter().map(migration_item).collect();
                self.send(index, link, Message::Prepare { batch, items });
            }
            E::Inbound(from, InboundEffect::Inspect { batch, .. }) => {
                let refused = Vec::new();
                self.incumbent_event(index, incumbent::Event::Inspected { from, batch, refused });
            }
            E::Outbound(effect) => self.migrations.push((index, Migration::Outbound(effect))),
            E::Inbound(from, effect) => self.migrations.push((index, Migration::Inbound(from, effect))),
            E::Exit => self.kill(index),
            E::Established => self.established.push(index),
            E::Rebound(_) => self.rebound.push(index),
            E::Report(report) => self.reports.push((index, report)),
        }
    }

    pub(super) fn successor_effect(&mut self, index: usize, effect: successor::Effect) {
        use successor::Effect as E;
        let link = self.procs[index].link;
        let process = &mut self.procs[index];
        match effect {
            E::Send(message) => self.send(index, link, message),
            E::SendTo(generation, message) => {
                let end = process.predecessors.get(&generation).copied();
                self.send(index, end, message);
            }
            E::Read(generation) => process.reads_one = Some(generation),
            E::Close => self.close(index),
            E::Complete(_) if process.app.readies => process.pending.push_back(Pending::Ready),
            E::Complete(_) => {}
            E::Rebound(_) => self.rebound.push(index),
            E::StartOver => self.start_over(index),
            E::Open(_) if process.app.opens => process.pending.push_back(Pending::Opened),
            E::Open(_) => {}
            E::Serve(served) => self.serve(index, served),
            E::Fail(fault) => {
                process.failed = Some(fault);
                self.kill(index);
            }
        }
    }

    fn start_over(&mut self, index: usize) {
        let app = self.procs[index].app.clone();
        self.kill(index);
        // An orphan holds the lock, or its descriptor is on its way, and no process answers yet: the wait for
        // that ends.
        let on_its_way = |side: &Side| {
            side.queue.iter().any(|packet| matches!(packet, Packet::Message(Message::Control { .. }, _)))
        };
        let locked =
            self.procs.iter().any(|process| process.holds) || self.links.iter().flatten().any(on_its_way);
        if self.owner().is_some() || !locked {
            self.join(app);
        }
    }

    fn serve(&mut self, index: usize, served: successor::Served) {
        let successor::Served { joined, predecessors, gap_ns: _ } = served;
        let local = local(index, &self.procs[index].app);
        let left: BTreeSet<_> = predecessors.iter().map(|p| p.generation).collect();
        let machine = Incumbent::serving(local, joined.generation, predecessors)
            .with_hook(self.procs[index].app.has_hook)
            .accepting(kinds(&self.procs[index].app));
        self.procs[index].machine = Machine::Incumbent(machine);
        for generation in self.procs[index].predecessors.keys().copied().collect::<Vec<_>>() {
            if !left.contains(&generation) {
                self.forget(index, generation);
            }
        }
        let process = &mut self.procs[index];
        process.reads_predecessors = true;
        process.works = true;
        if let Some(end) = process.link.take() {
            process.predecessors.insert(joined.incumbent_generation, end);
        }
        let Machine::Incumbent(machine) = &mut self.procs[index].machine else { unreachable!("just made") };
        let effects = machine.greet();
        self.incumbent_effects(index, effects);
        for (generation, message) in std::mem::take(&mut self.procs[index].early) {
            self.incumbent_event(index, incumbent::Event::Predecessor(generation, message));
        }
    }
}

fn migration_item(id: u64) -> MigrationItem {
    MigrationItem { id, cookie: id, kind: "http/1.1".into(), ..MigrationItem::default() }
}
