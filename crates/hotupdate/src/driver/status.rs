//! What operators see of this process.
//!
//! Deliberately absent: how it is printed; that is `hotctl`.

use std::time::Instant;

use hotupdate_proto::incumbent::Peer;
use hotupdate_proto::inventory::MAX_TASKS;
use hotupdate_proto::operator::{Connections as Rows, ProcessState, ProcessStatus, Status};
use hotupdate_proto::{Generation, Incumbent, Predecessor, Process};

use super::Identity;
use super::listeners::Listeners;
use crate::connections::Connections;
use crate::tasks::Tasks;

/// The parts of a driver that can be looked at, and not changed.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) identity: &'a Identity,
    /// There is none until this process serves.
    pub(super) machine: Option<&'a Incumbent>,
    pub(super) listeners: &'a Listeners,
    pub(super) connections: &'a Connections,
    pub(super) tasks: &'a Tasks,
    pub(super) is_draining: bool,
}

impl View<'_> {
    pub(super) fn process(&self) -> &Process {
        &self.identity.local.process
    }

    pub(super) fn generation(&self) -> Generation {
        self.identity.generation
    }

    pub(super) fn predecessor(&self, generation: Generation) -> Option<&Predecessor> {
        self.machine?.predecessors().iter().find(|predecessor| predecessor.generation == generation)
    }

    pub(super) fn rows(&self) -> Rows {
        Rows::new(self.identity.generation, self.connections.rows())
    }

    /// The status now, without what is remembered of the past.
    pub(super) fn status(&self) -> Status {
        let Identity { local, generation, attempt, since } = self.identity;
        let (connections, totals) = self.connections.snapshot();
        let state = self.machine.map_or(ProcessState::Starting, Incumbent::process_state);
        let mut serving = ProcessStatus::new(*generation, local.process.clone(), state);
        serving.since_ms = millis_since(*since);
        serving.connections = connections;
        serving.totals = totals;
        serving.tasks = self.tasks.names(MAX_TASKS);
        serving.attempt = attempt.clone();

        let mut status = Status::new(serving);
        status.successor = self.machine.and_then(Incumbent::successor).map(joined);
        let predecessors = self.machine.map(Incumbent::predecessors).unwrap_or_default();
        status.predecessors = predecessors.iter().map(drains).collect();
        status.listeners = self.listeners.status();
        status
    }
}

fn joined((peer, state): (&Peer, ProcessState)) -> ProcessStatus {
    let mut status = ProcessStatus::new(peer.generation, peer.process.clone(), state);
    status.since_ms = millis_since(peer.since);
    status.attempt = peer.attempt.clone();
    status
}

fn drains(predecessor: &Predecessor) -> ProcessStatus {
    let Predecessor { generation, process, connections, totals, tasks, probation, since, .. } = predecessor;
    let state = if predecessor.drained { ProcessState::Drained } else { ProcessState::Draining };
    let mut status = ProcessStatus::new(*generation, process.clone(), state);
    status.since_ms = millis_since(*since);
    status.connections = *connections;
    status.totals = *totals;
    status.tasks = tasks.clone();
    status.probation = *probation;
    status
}

pub(super) fn millis_since(then: Instant) -> u64 {
    u64::try_from(then.elapsed().as_millis()).unwrap_or(u64::MAX)
}
