//! What operators see.
//!
//! Deliberately absent: how it is printed; that is `hotctl`.

use std::time::Instant;

use hotupdate_proto::operator::{Connections, ListenerStatus, ProcessState, ProcessStatus, Status};
use hotupdate_proto::{ConnectionRow, Predecessor, Summary, Totals};

use super::{Driver, Role};

impl Driver {
    pub(super) fn status(&self) -> Status {
        let machine = match &self.role {
            Role::Incumbent(machine) => Some(machine),
            _ => None,
        };
        let state = machine.map_or(ProcessState::Starting, |machine| machine.process_state());
        let (connections, totals) = self.connections.snapshot();
        let serving = ProcessStatus {
            generation: self.generation,
            process: self.local.process.clone(),
            state,
            since_ms: millis_since(self.since),
            connections,
            totals,
            tasks: Vec::new(),
            probation: false,
            attempt: self.attempt.clone(),
        };
        let successor = machine.and_then(|machine| machine.successor()).map(|(peer, state)| ProcessStatus {
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
        Status {
            serving,
            successor,
            predecessors: machine
                .map(|m| m.predecessors().iter().map(describe).collect())
                .unwrap_or_default(),
            listeners: self.listeners(),
            last_handoff: self.last_handoff.clone(),
            last_failure: self.last_failure.clone(),
        }
    }

    fn listeners(&self) -> Vec<ListenerStatus> {
        let gates = self.resources.gates.iter().map(|(gate, origin)| ListenerStatus {
            name: gate.name().to_string(),
            kind: gate.kind(),
            address: gate.address().to_string(),
            origin: origin.to_string(),
        });
        let others = self.resources.descriptors.iter().map(|(item, _, origin)| ListenerStatus {
            name: item.name.clone(),
            kind: item.kind,
            address: item.address.clone(),
            origin: origin.to_string(),
        });
        gates.chain(others).collect()
    }

    /// Our own rows, and what predecessors said of theirs.
    pub(super) fn all_rows(&self) -> Vec<Connections> {
        let ours = Connections { generation: self.generation, rows: self.connections.rows() };
        let mut all = vec![ours];
        for (generation, rows) in &self.rows {
            let told = rows.values().map(|(accepted, row)| ConnectionRow {
                age_ms: crate::connections::age_ms(*accepted),
                ..row.clone()
            });
            all.push(Connections { generation: *generation, rows: told.collect() });
        }
        all.sort_by_key(|connections| std::cmp::Reverse(connections.generation));
        all
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
