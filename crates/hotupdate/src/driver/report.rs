//! What the machine reports: it is logged, counted, and told to operators that watch or wait.
//!
//! Deliberately absent: anything that changes what happens. Of the driver's parts only the operators' can be
//! written here.

use hotupdate_proto::incumbent::{Peer, Report};
use hotupdate_proto::operator::{HandoffResult, LastFailure, OperatorError};
use hotupdate_proto::text::OneLine;
use hotupdate_proto::{Fault, Generation, Process, Totals};

use super::operators::{Awaited, Operators};
use super::status::View;

impl Operators {
    pub(super) fn report(&mut self, view: View<'_>, report: Report) {
        let us = view.process();
        match report {
            Report::Joined(Peer { process, generation, .. }) => {
                tracing::info!(successor = %process, %generation, "a successor joined");
                self.notify(view, "joined", generation, format!("successor {process} joined"));
            }
            Report::Standby(Peer { process, generation, .. }) => {
                tracing::info!(successor = %process, %generation, "the successor stands by for a command");
                self.notify(
                    view,
                    "standby",
                    generation,
                    format!("successor {process} is ready and stands by"),
                );
            }
            Report::Failed { peer, stage, fault } => self.attempt_failed(view, &peer, stage, &fault),
            Report::Served { peer, gap_ns } => self.served_by_successor(view, peer, gap_ns),
            Report::Progress(generation) => {
                self.meter(view, generation);
                self.notify(view, "progress", generation, format!("generation {generation} drains"));
            }
            Report::Drained { generation, forced } => {
                self.forget(generation);
                let Totals { migrated, finished, closed, .. } =
                    self.meter(view, generation).unwrap_or_default();
                tracing::info!(%generation, migrated, finished, closed, forced, "a predecessor is drained");
                let text = format!(
                    "generation {generation} is drained: {migrated} connections migrated, \
                     {finished} finished, {closed} were closed, {forced} forced"
                );
                self.notify(view, "drained", generation, text);
            }
            Report::LetGo(generation) => {
                let text = format!("generation {generation} cannot take over any more");
                self.notify(view, "let_go", generation, text);
            }
            Report::Lost { generation, connections } => {
                let (open, active) = (connections.open(), connections.active);
                tracing::warn!(%generation, open, active, "a predecessor died");
                let text = format!("generation {generation} died while it was draining, with {connections}");
                self.notify(view, "lost", generation, text);
            }
            Report::TookOver { peer: Peer { process, generation, .. }, fault } => {
                self.counts.handoffs().took_over += 1;
                view.connections.metrics().changed();
                tracing::error!(
                    successor = %process,
                    %fault,
                    "the successor died in probation; {us} serves again"
                );
                let text = format!(
                    "{process}, generation {generation}, died soon after it took over; {us} serves again"
                );
                self.notify(view, "took_over", generation, text);
            }
            Report::Resumed { peer: Peer { process, generation, .. }, reason } => {
                self.counts.handoffs().rolled_back += 1;
                view.connections.metrics().changed();
                let why = if reason.is_empty() { "it was rolled back" } else { &reason };
                let why = OneLine(why).to_string();
                tracing::warn!(former = %process, why, "rolled back; {us} serves again");
                let text = format!("{us} serves again instead of {process}, generation {generation}: {why}");
                self.notify(view, "rolled_back", generation, text);
            }
            Report::RolledBack(generation, process) => self.rolled_back(view, generation, process),
            Report::RollbackFailed(reason) => {
                tracing::error!(reason, "the rollback failed; {us} is still serving");
                self.answer(Awaited::Rollback, &Err(OperatorError::Failed { reason: reason.clone() }));
                self.notify(view, "failed", view.generation(), format!("the rollback failed: {reason}"));
            }
            Report::StoodDown(reason) => {
                let reason = OneLine(&reason).to_string();
                tracing::error!(reason, "the predecessor serves again; this process drains");
                self.notify(view, "stopping", view.generation(), format!("{us} stands down: {reason}"));
            }
            Report::BeforeReleaseFailed(reason) => {
                tracing::error!(reason, "{us} stops all the same");
            }
            Report::Violation(generation, what) => {
                let what = OneLine(&what).to_string();
                let serves = match view.is_draining {
                    true => "the successor serves",
                    false => &format!("{us} is still serving"),
                };
                tracing::warn!(
                    %generation,
                    what,
                    "a violation of the protocol; the link goes quiet; {serves}"
                );
                self.notify(view, "violation", generation, what);
            }
            Report::Stopping => {
                tracing::info!("stopping: {us} accepts nothing more and drains");
                self.notify(view, "stopping", view.generation(), format!("{us} stops"));
            }
        }
    }

    fn attempt_failed(&mut self, view: View<'_>, peer: &Peer, stage: &'static str, fault: &Fault) {
        let Peer { process, generation, attempt, .. } = peer;
        self.counts.handoffs().failed += 1;
        view.connections.metrics().changed();
        let us = view.process();
        let reason = format!("successor {process} failed while it was {stage}: {fault}");
        tracing::error!(successor = %process, stage, %fault, "the handoff failed; {us} is still serving");
        let mut failure = LastFailure::new(process.clone(), stage.to_owned(), fault.to_string());
        failure.generation = *generation;
        failure.attempt = attempt.clone();
        self.failed(failure);
        self.answer(Awaited::Handoff, &Err(OperatorError::Failed { reason: reason.clone() }));
        self.notify(view, "failed", *generation, reason);
    }

    /// This process serves because the incumbent died while it was joining.
    pub(super) fn stepped_in(&mut self, view: View<'_>, incumbent: &Process, generation: Generation) {
        let us = view.process();
        tracing::error!(%incumbent, "the incumbent died during the handoff; {us} serves");
        let text = format!("{incumbent}, generation {generation}, died during the handoff; {us} serves");
        self.notify(view, "stepped_in", generation, text);
    }

    fn served_by_successor(&mut self, view: View<'_>, peer: Peer, gap_ns: Option<u64>) {
        let Peer { process, generation, .. } = peer;
        let gap_us = gap_ns.map(|ns| ns / 1000);
        tracing::info!(successor = %process, %generation, gap_us, "handed over");
        let mut result = HandoffResult::new(view.process().clone(), process.clone(), generation);
        result.gap_ns = gap_ns;
        self.answer(Awaited::Handoff, &Ok(result));
        self.notify(view, "served", generation, format!("{process} serves now"));
        self.end_monitors();
    }

    fn rolled_back(&mut self, view: View<'_>, generation: Generation, process: Process) {
        tracing::warn!(predecessor = %process, "rolled back; this process drains");
        let result = HandoffResult::new(view.process().clone(), process.clone(), generation);
        self.answer(Awaited::Rollback, &Ok(result));
        self.notify(view, "rolled_back", generation, format!("{process} serves again"));
        self.end_monitors();
    }

    /// Counts what a predecessor said of itself; returns it.
    fn meter(&mut self, view: View<'_>, generation: Generation) -> Option<Totals> {
        let predecessor = view.predecessor(generation)?;
        self.counts.progress(generation, predecessor.totals);
        view.connections.metrics().predecessor(generation, predecessor.connections, predecessor.totals);
        Some(predecessor.totals)
    }
}
