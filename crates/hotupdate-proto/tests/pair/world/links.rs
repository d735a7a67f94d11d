//! What processes hold, what is on its way, and what can therefore happen next.

use std::collections::VecDeque;

use hotupdate_proto::message::Message;

use super::{Action, End, Packet, Side, Tamper, World};

impl World {
    pub(super) fn side(&mut self, end: End) -> &mut Side {
        &mut self.links[end.link][end.side]
    }

    pub(super) fn hold(&mut self, end: End, index: usize) {
        self.side(end).holders.insert(index);
    }

    pub(super) fn drop_end(&mut self, end: End, index: usize) {
        let side = self.side(end);
        side.holders.remove(&index);
        if side.holders.is_empty() {
            side.queue.clear();
        }
    }

    pub(super) fn put(&mut self, from: usize, end: End, packet: Packet) {
        let to = end.other();
        let mut packets = vec![packet];
        if let Packet::Message(message, _) = &packets[0] {
            self.said.push((from, message.name()));
            let number = self.said.len() - 1;
            if let Some((_, tamper)) = self.tamper.take_if(|(at, _)| *at == number) {
                self.tampered = Some((from, message.clone()));
                match tamper {
                    Tamper::Drop => packets.clear(),
                    Tamper::Repeat => packets.push(packets[0].clone()),
                    Tamper::Late => self.late = packets.pop().map(|packet| (to, packet)),
                    Tamper::Alter(message) => packets = vec![Packet::Message(message, Vec::new())],
                }
            }
        }
        if self.side(to).holders.is_empty() {
            return;
        }
        let sent = !packets.is_empty();
        self.side(to).queue.extend(packets);
        if sent && self.late.as_ref().is_some_and(|(late, _)| *late == to) {
            let (_, packet) = self.late.take().expect("just looked");
            self.side(to).queue.push_back(packet);
        }
    }

    /// The process that reads this end now.
    pub(super) fn reader(&self, end: End) -> Option<usize> {
        self.links[end.link][end.side].holders.iter().copied().find(|index| {
            let process = &self.procs[*index];
            let one = process.reads_one.and_then(|generation| process.predecessors.get(&generation));
            let reads = process.reads_predecessors && process.predecessors.values().any(|held| *held == end);
            process.link == Some(end) || one == Some(&end) || reads
        })
    }

    /// Everything that can happen now.
    pub(crate) fn actions(&self) -> Vec<Action> {
        let mut actions = Vec::new();
        for link in 0..self.links.len() {
            for side in 0..2 {
                let end = End { link, side };
                let Some(reader) = self.reader(end) else { continue };
                // A call that is not accepted yet: it is in the listener's queue, and not a link.
                if !self.links[link][side].queue.is_empty() {
                    actions.push(Action::Deliver { end, reader });
                } else if self.links[link][1 - side].holders.is_empty() {
                    actions.push(Action::EndOfFile { end, reader });
                }
            }
        }
        // A `Join` waits at the control socket, on an end that no machine owns yet.
        for (link, sides) in self.links.iter().enumerate() {
            let waits = matches!(sides[0].queue.front(), Some(Packet::Join(_)));
            let end = End { link, side: 0 };
            match sides[0].holders.first() {
                Some(holder) if waits && self.reader(end).is_none() => {
                    actions.push(Action::Deliver { end, reader: *holder });
                }
                _ => {}
            }
        }
        for index in self.living() {
            if !self.procs[index].pending.is_empty() {
                actions.push(Action::Perform(index));
            }
        }
        actions
    }

    /// It is on its way to this process that another accepts, or that it should let go.
    pub(crate) fn is_dismissed(&self, index: usize) -> bool {
        let dismisses = |packet: &Packet| {
            matches!(
                packet,
                Packet::Message(Message::Failed { .. } | Message::Farewell | Message::EndProbation, _)
            )
        };
        let sides = self.links.iter().flatten().filter(|side| side.holders.contains(&index));
        sides.flat_map(|side| &side.queue).any(dismisses)
    }

    /// What is on its way to this end.
    pub(crate) fn queue(&mut self, end: End) -> &mut VecDeque<Packet> {
        &mut self.side(end).queue
    }
}
