//! What operators see of this process.
//!
//! Deliberately absent: how it is printed; that is `hotctl`.

use std::time::Instant;

use hotupdate_proto::inventory::MAX_TASKS;
use hotupdate_proto::operator::{Connections as Rows, LastFailure, LastHandoff};
use hotupdate_proto::operator::{ProcessState, ProcessStatus, Status};
use hotupdate_proto::{Generation, Incumbent, Predecessor, Process, Summary, Totals};

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
        Rows { generation: self.identity.generation, rows: self.connections.rows() }
    }

    pub(super) fn status(
        &self,
        last_handoff: Option<LastHandoff>,
        last_failure: Option<LastFailure>,
    ) -> Status {
        let Identity { local, generation, attempt, since } = self.identity;
        let (connections, totals) = self.connections.snapshot();
        let serving = ProcessStatus {
            generation: *generation,
            process: local.process.clone(),
            state: self.machine.map_or(ProcessState::Starting, Incumbent::process_state),
            since_ms: millis_since(*since),
            connections,
            totals,
            tasks: self.tasks.names(MAX_TASKS),
            probation: false,
            attempt: attempt.clone(),
        };
        let successor = self.machine.and_then(Incumbent::successor).map(|(peer, state)| ProcessStatus {
            generation: peer.generation,
            process: peer.process.clone(),
            state,
            since_ms: millis_since(peer.since),
            connections: Summary::default(),
            totals: Totals::default(),
            tasks: Vec::new(),
            probation: false,
            attempt: peer.attempt.clone(),
        });
        let predecessors = self.machine.map(Incumbent::predecessors).unwrap_or_default();
        Status {
            serving,
            successor,
            predecessors: predecessors.iter().map(describe).collect(),
            listeners: self.listeners.status(),
            last_handoff,
            last_failure,
        }
    }
}

fn describe(predecessor: &Predecessor) -> ProcessStatus {
    ProcessStatus {
        generation: predecessor.generation,
        process: predecessor.process.clone(),
        state: ProcessState::Draining,
        since_ms: millis_since(predecessor.since),
        connections: predecessor.connections,
        totals: predecessor.totals,
        tasks: predecessor.tasks.clone(),
        probation: predecessor.probation,
        attempt: None,
    }
}

fn millis_since(then: Instant) -> u64 {
    u64::try_from(then.elapsed().as_millis()).unwrap_or(u64::MAX)
}
