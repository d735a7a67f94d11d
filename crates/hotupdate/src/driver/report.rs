//! Telling people: the log, those who monitor, and operators who wait for an outcome.
//!
//! Deliberately absent: anything that changes what happens.

use hotupdate_proto::incumbent::{Peer, Report};
use hotupdate_proto::operator::{HandoffResult, LastFailure, Monitored, OperatorError, ServiceEvent};
use hotupdate_proto::text::OneLine;
use hotupdate_proto::{FEATURE_MIGRATE, Fault, Generation, Join, Process, Totals};
use tokio::sync::broadcast;

use super::{Driver, Role};
use crate::control::replies;
use crate::control::session::Outcome;

impl Driver {
    pub(super) fn report(&mut self, report: Report) {
        let us = self.local.process.to_string();
        match report {
            Report::Joined(Peer { process, generation, .. }) => {
                tracing::info!(successor = %process, %generation, "a successor joined");
                self.notify("joined", generation, format!("successor {process} joined"));
            }
            Report::Standby(Peer { process, generation, .. }) => {
                tracing::info!(successor = %process, %generation, "the successor stands by for a command");
                self.notify("standby", generation, format!("successor {process} is ready and stands by"));
            }
            Report::Failed { peer, stage, fault } => self.failed(&peer, stage, &fault),
            Report::Served { peer, gap_ns } => self.served_by_successor(peer, gap_ns),
            Report::Progress(generation) => {
                self.meter(generation);
                self.notify("progress", generation, format!("generation {generation} drains"));
            }
            Report::Drained { generation, forced } => {
                self.rows.remove(&generation);
                let totals = self.meter(generation).unwrap_or_default();
                let Totals { migrated, finished, closed, .. } = totals;
                tracing::info!(%generation, migrated, finished, closed, forced, "a predecessor is drained");
                let text = format!(
                    "generation {generation} is drained: {migrated} connections migrated, {finished} finished, \
                     {closed} were closed, {forced} forced"
                );
                self.notify("drained", generation, text);
            }
            Report::LetGo(generation) => {
                self.notify(
                    "let_go",
                    generation,
                    format!("generation {generation} cannot take over any more"),
                );
            }
            Report::Lost { generation, connections } => {
                tracing::warn!(%generation, %connections, "a predecessor died");
                let text = format!("generation {generation} died with {connections}");
                self.notify("lost", generation, text);
            }
            Report::TookOver { peer, fault } => {
                let Peer { process, generation, .. } = peer;
                self.connections.metrics().handoff("took_over", None);
                tracing::error!(successor = %process, %fault, "the successor died in probation; {us} serves again");
                let text = format!("{process} died in probation; {us} serves again");
                self.notify("took_over", generation, text);
            }
            Report::Resumed(peer) => {
                // After `serving`: before it the other side is not one that drains.
                self.announce();
                self.connections.metrics().handoff("rolled_back", None);
                tracing::warn!(former = %peer.process, "rolled back; {us} serves again");
                self.notify("rolled_back", self.generation, format!("{us} serves again"));
            }
            Report::RolledBack(generation, process) => self.rolled_back(generation, process),
            Report::RollbackFailed(reason) => {
                tracing::error!(reason, "the rollback failed; {us} is still serving");
                self.answer(true, &Err(OperatorError::Failed { reason: reason.clone() }));
                self.notify("failed", self.generation, format!("the rollback failed: {reason}"));
            }
            Report::StoodDown(reason) => {
                let reason = OneLine(&reason).to_string();
                tracing::error!(reason, "the predecessor serves again; this process drains");
                self.notify("stopping", self.generation, format!("{us} stands down: {reason}"));
            }
            Report::BeforeReleaseFailed(reason) => {
                tracing::error!(reason, "the service stops all the same");
            }
            Report::Violation(generation, what) => {
                let what = OneLine(&what).to_string();
                let who =
                    if self.draining { "the successor serves" } else { &format!("{us} is still serving") };
                tracing::warn!(%generation, what, "a violation of the protocol; the link goes quiet; {who}");
                self.notify("violation", generation, what);
            }
            Report::Stopping => {
                tracing::info!("stopping: {us} accepts nothing more and drains");
                self.notify("stopping", self.generation, format!("{us} stops"));
            }
        }
    }

    /// Passes on as metrics what a predecessor said of itself; returns it.
    fn meter(&self, generation: Generation) -> Option<Totals> {
        let Role::Incumbent(machine) = &self.role else { return None };
        let predecessor = machine.predecessors().iter().find(|p| p.generation == generation)?;
        self.connections.metrics().predecessor(generation, predecessor.connections, predecessor.totals);
        Some(predecessor.totals)
    }

    fn failed(&mut self, peer: &Peer, stage: &'static str, fault: &Fault) {
        let Peer { process, generation, attempt, .. } = peer;
        self.connections.metrics().handoff("failed", None);
        let us = &self.local.process;
        let reason = format!("successor {process} failed while it was {stage}: {fault}");
        tracing::error!(successor = %process, stage, %fault, "the handoff failed; {us} is still serving");
        self.last_failure = Some(LastFailure {
            successor: process.clone(),
            generation: *generation,
            attempt: attempt.clone(),
            stage: stage.to_owned(),
            reason: fault.to_string(),
        });
        self.answer(false, &Err(OperatorError::Failed { reason: reason.clone() }));
        self.notify("failed", *generation, reason);
    }

    /// Nothing has begun, but operators who started this successor have to learn why nothing will.
    pub(super) fn joining_failed(&mut self, join: Join, reason: String) {
        let Join { process, attempt, .. } = join;
        if let Some(end) = self.sessions.end_of_refusal() {
            tracing::error!(successor = %process, reason, "a successor is turned away{end}");
        }
        self.connections.metrics().handoff("failed", None);
        let text = format!("successor {process} was turned away: {reason}");
        let (generation, stage) = (Generation(0), "joining".to_owned());
        self.last_failure = Some(LastFailure { successor: process, generation, attempt, stage, reason });
        self.notify("failed", generation, text);
    }

    fn served_by_successor(&mut self, peer: Peer, gap_ns: Option<u64>) {
        let Peer { process, generation, features, .. } = peer;
        let gap_us = gap_ns.map(|ns| ns / 1000);
        self.moves.peer_knows = features.iter().any(|feature| feature == FEATURE_MIGRATE);
        tracing::info!(successor = %process, %generation, nobody_accepted_us = gap_us, "handed over");
        self.service_moved(false, generation, process.clone(), gap_ns);
        self.notify("served", generation, format!("{process} serves now"));
        self.end_monitors();
    }

    fn rolled_back(&mut self, generation: Generation, process: Process) {
        tracing::warn!(predecessor = %process, "rolled back; this process drains");
        self.service_moved(true, generation, process.clone(), None);
        self.notify("rolled_back", generation, format!("{process} serves again"));
        self.end_monitors();
    }

    fn service_moved(&mut self, rollback: bool, generation: Generation, to: Process, gap_ns: Option<u64>) {
        let changed = HandoffResult { from: self.local.process.clone(), to, generation, gap_ns };
        self.answer(rollback, &Ok(Some(changed)));
    }

    /// Answers every operator who waits for this.
    fn answer(&mut self, rollback: bool, outcome: &Outcome) {
        for waiting in self.pending_commands.extract_if(.., |waiting| waiting.rollback == rollback) {
            let _ = waiting.reply.send(outcome.clone());
        }
    }

    fn notify(&self, kind: &str, generation: Generation, text: String) {
        if self.monitor.receiver_count() > 0 {
            let event = Some(ServiceEvent { kind: kind.to_owned(), generation, text });
            if let Some(event) = replies::monitored(&Monitored { event, status: self.status() }) {
                let _ = self.monitor.send(event);
            }
        }
    }

    /// Their story goes on with the new owner of the control socket.
    fn end_monitors(&mut self) {
        self.monitor = broadcast::Sender::new(64);
    }
}
