//! One process: its machine, and what its driver holds.

use std::collections::BTreeMap;

use hotupdate_proto::message::{Generation, Message};
use hotupdate_proto::operator::ProcessState;
use hotupdate_proto::{Deadline, Incumbent, Successor, Supervision};

use super::kernel::{End, Id};
use super::migration::Connections;

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum Role {
    /// It was not started yet.
    #[default]
    Absent,
    /// It looks for the control socket's owner.
    Finding,
    /// A first start that is not ready.
    First,
    Successor(Box<Successor>),
    Incumbent(Box<Incumbent>),
    Dead,
}

/// A link, and whether it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Held {
    pub(crate) end: End,
    pub(crate) reading: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Process {
    pub(crate) role: Role,
    /// Its accept loops run.
    pub(crate) accepting: bool,
    /// It has the listeners.
    pub(crate) holds: bool,
    /// It has the control listener and its lock.
    pub(crate) control: bool,
    /// It accepts callers there.
    pub(crate) control_open: bool,
    /// The link to the successor, or of a successor to its incumbent.
    pub(crate) peer: Option<Held>,
    pub(crate) predecessors: BTreeMap<Generation, Held>,
    /// What predecessors said, and that they are gone, before it serves.
    pub(crate) unheard: Vec<(Generation, Option<Message>)>,
    /// The inventory is here, and the application warms up.
    pub(crate) warming: bool,
    /// The accept loops are asked to stop.
    pub(crate) stopping: bool,
    pub(crate) draining: bool,
    pub(crate) drained: bool,
    /// It was told to end, and goes on with the service only until another process does.
    pub(crate) terminated: bool,
    /// It does nothing any more, and keeps all it has.
    pub(crate) hangs: bool,
    pub(crate) connections: Connections,
    /// Where there is a service manager.
    pub(crate) supervision: Option<Supervision>,
    /// Another process goes on with the service.
    pub(crate) is_succeeded: bool,
    /// Nothing is left to do.
    pub(crate) exiting: bool,
    /// The process that serves, as it has said itself.
    pub(crate) heir: Option<Id>,
    /// What the manager has answered, and this process has not heard.
    pub(crate) answers: Vec<u32>,
}

impl Process {
    pub(crate) fn lives(&self) -> bool {
        !matches!(self.role, Role::Absent | Role::Dead)
    }

    pub(crate) fn has(&self, end: End) -> bool {
        self.peer.is_some_and(|held| held.end == end)
            || self.predecessors.values().any(|held| held.end == end)
    }

    pub(crate) fn reads(&self, end: End) -> bool {
        let read = |held: &Held| held.end == end && held.reading;
        self.peer.as_ref().is_some_and(read) || self.predecessors.values().any(read)
    }

    pub(crate) fn generation_at(&self, end: End) -> Option<Generation> {
        let mut links = self.predecessors.iter();
        links.find(|(_, held)| held.end == end).map(|(generation, _)| *generation)
    }

    pub(crate) fn incumbent(&self) -> Option<&Incumbent> {
        match &self.role {
            Role::Incumbent(machine) => Some(machine),
            _ => None,
        }
    }

    pub(crate) fn successor(&self) -> Option<&Successor> {
        match &self.role {
            Role::Successor(machine) => Some(machine),
            _ => None,
        }
    }

    pub(crate) fn waits_for(&self) -> Option<Deadline> {
        let wait = match &self.role {
            Role::Successor(machine) => machine.waits_for(),
            Role::Incumbent(machine) => machine.waits_for(),
            Role::Finding => return Some(Deadline::Find),
            _ => None,
        };
        wait.map(|(deadline, _)| deadline)
    }

    /// It has parked its listeners and takes over again if the process that serves dies.
    pub(crate) fn is_in_probation(&self) -> bool {
        let waits = [Deadline::Probation, Deadline::Drain, Deadline::Force].map(Some);
        self.holds && self.is(ProcessState::Draining) && waits.contains(&self.waits_for())
    }

    /// It would stop serving if this predecessor said that it serves.
    pub(crate) fn believes(&self, predecessor: Generation) -> bool {
        self.incumbent().is_some_and(|machine| {
            let said = machine.predecessors().iter().find(|p| p.generation == predecessor);
            !said.is_some_and(|said| said.told && machine.generation() < predecessor)
        })
    }

    /// It serves, and nothing is under way.
    pub(crate) fn is_settled(&self) -> bool {
        let idle = |m: &Incumbent| m.accepts() && m.deadline().is_none() && m.predecessors().is_empty();
        self.incumbent().is_some_and(idle) && self.accepting && !self.stopping && !self.draining
    }

    /// Its incumbent is dead, and nothing but its own application keeps it.
    pub(crate) fn is_orphan(&self) -> bool {
        self.successor().is_some_and(Successor::can_serve_alone)
    }

    pub(crate) fn is(&self, state: ProcessState) -> bool {
        self.incumbent().is_some_and(|machine| machine.process_state() == state)
    }
}
