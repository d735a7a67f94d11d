//! What the kernel does: socket pairs, whose ends stay open while a descriptor of them exists, also one in
//! flight.
//!
//! Deliberately absent: bytes. A message is read whole or not at all, in the order in which it was sent.

use std::collections::VecDeque;
use std::sync::Arc;

use hotupdate_proto::message::{Generation, Message};
use hotupdate_proto::{Join, Joined, Refusal};

use super::world::{Dying, World};

/// A process, by the order in which it may start.
pub(crate) type Id = usize;

/// One end of a link; side 0 is the end that was accepted on the control socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct End {
    pub(crate) link: usize,
    pub(crate) side: usize,
}

impl End {
    pub(crate) fn other(self) -> Self {
        Self { side: 1 - self.side, ..self }
    }
}

/// The descriptors that ride on a message and matter here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Riders {
    pub(crate) links: Vec<(Generation, End)>,
    /// The control listener and its lock: two open file descriptions that always travel together.
    pub(crate) control: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Said {
    Join(Join),
    Reply(Result<Joined, Refusal>),
    Message(Message, Riders),
}

/// A socket pair. The queues hold what is on its way to each side.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Link {
    pub(crate) queues: [VecDeque<Said>; 2],
    /// No process has accepted it: its side 0 waits in the backlog of the control listener.
    pub(crate) backlog: bool,
}

impl World {
    pub(crate) fn ends(&self) -> impl Iterator<Item = End> + use<> {
        (0..self.links.len()).flat_map(|link| [0, 1].map(|side| End { link, side }))
    }

    pub(crate) fn queue(&self, end: End) -> &VecDeque<Said> {
        &self.links[end.link].queues[end.side]
    }

    pub(crate) fn queue_mut(&mut self, end: End) -> &mut VecDeque<Said> {
        &mut Arc::make_mut(&mut self.links[end.link]).queues[end.side]
    }

    /// Says something at this end; if no process holds the other one, it is lost.
    pub(crate) fn put(&mut self, from: Id, end: End, said: Said) {
        if let Some(Dying { process, writes, lost }) = &mut self.dying
            && *process == from
        {
            if *writes == 0 {
                *lost = true;
                return;
            }
            *writes -= 1;
        }
        if self.is_held(end.other()) {
            self.queue_mut(end.other()).push_back(said);
        }
    }

    /// What the control socket's path leads to takes a call.
    pub(crate) fn connect(&mut self, join: Join) -> End {
        let held = |link| (0..2).any(|side| self.is_held(End { link, side }));
        let link = (0..self.links.len()).find(|link| !held(*link)).unwrap_or_else(|| {
            self.links.push(Arc::default());
            self.links.len() - 1
        });
        let end = End { link, side: 1 };
        let fresh = Arc::make_mut(&mut self.links[link]);
        fresh.backlog = true;
        fresh.queues[0].push_back(Said::Join(join));
        end
    }

    fn riders(&self) -> impl Iterator<Item = &Riders> {
        self.links.iter().flat_map(|link| link.queues.iter().flatten()).filter_map(|said| match said {
            Said::Message(_, riders) => Some(riders),
            _ => None,
        })
    }

    /// A living process has a descriptor of this end, or one is on its way to such a process.
    pub(crate) fn is_held(&self, end: End) -> bool {
        let waits = end.side == 0 && self.links[end.link].backlog;
        waits || self.procs.iter().any(|process| process.has(end)) || self.is_on_its_way(end)
    }

    pub(crate) fn is_on_its_way(&self, end: End) -> bool {
        self.riders().any(|riders| riders.links.iter().any(|(_, held)| *held == end))
    }

    /// The control listener exists, and `flock` on the file beside it fails: a process has both, or they are
    /// on their way.
    pub(crate) fn is_locked(&self) -> bool {
        self.procs.iter().any(|process| process.control) || self.riders().any(|riders| riders.control)
    }

    /// What the kernel drops with the last descriptor: what was on its way to an end that is gone, and the
    /// descriptors in that, and calls that no process accepted.
    pub(crate) fn collect(&mut self) {
        loop {
            let mut changed = false;
            for link in 0..self.links.len() {
                if self.links[link].backlog && !self.is_locked() {
                    Arc::make_mut(&mut self.links[link]).backlog = false;
                    changed = true;
                }
            }
            for end in self.ends() {
                if !self.queue(end).is_empty() && !self.is_held(end) {
                    self.queue_mut(end).clear();
                    changed = true;
                }
            }
            if !changed {
                break;
            }
        }
        let held = |world: &Self, link| (0..2).any(|side| world.is_held(End { link, side }));
        while self.links.last().is_some() && !held(self, self.links.len() - 1) {
            self.links.pop();
        }
    }
}
