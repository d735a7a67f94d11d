//! The machine that decides at the moment, and what it has still to hear.

use std::collections::VecDeque;
use std::time::Instant;

use hotupdate_proto::incumbent::{Event, Incumbent};
use hotupdate_proto::{Join, Joined, Refusal, Successor};

/// What this process is at the moment.
pub(super) enum Role {
    /// A first start that is not ready.
    First,
    /// A successor, until it serves.
    Successor(Box<SuccessorRole>),
    /// A process that serves or has served.
    Incumbent(Box<Incumbent>),
    /// A process that never served, and will not.
    Failed,
}

pub(super) struct SuccessorRole {
    pub(super) machine: Successor,
    pub(super) joined: Joined,
    pub(super) since: Instant,
}

impl SuccessorRole {
    /// The incumbent, unless it is dead or has released this process.
    pub(super) fn serves_on(&self) -> Option<String> {
        (!self.machine.can_serve_alone()).then(|| format!("process {}", self.joined.incumbent))
    }
}

pub(super) struct Machine {
    pub(super) role: Role,
    /// What effects came to, for the incumbent's machine: it hears one event after the other.
    events: VecDeque<Event>,
}

impl Machine {
    pub(super) fn new(role: Role) -> Self {
        Self { role, events: VecDeque::new() }
    }

    pub(super) fn incumbent(&self) -> Option<&Incumbent> {
        match &self.role {
            Role::Incumbent(machine) => Some(machine),
            _ => None,
        }
    }

    pub(super) fn is_successor(&self) -> bool {
        matches!(self.role, Role::Successor(_))
    }

    pub(super) fn has_failed(&self) -> bool {
        matches!(self.role, Role::Failed)
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        match &self.role {
            Role::Successor(successor) => successor.machine.deadline(),
            Role::Incumbent(machine) => machine.deadline(),
            Role::First | Role::Failed => None,
        }
    }

    /// Whether this successor would be taken now.
    pub(super) fn admits(&self, join: &Join) -> Result<(), Refusal> {
        self.incumbent().map_or(Err(Refusal::Starting), |machine| machine.admits(Instant::now(), join))
    }

    /// To be heard after what is being performed.
    pub(super) fn queue(&mut self, event: Event) {
        self.events.push_back(event);
    }

    pub(super) fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }
}
