//! Operators: what they ask, what they wait for, and what they are told of.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use hotupdate_proto::counts::{Counts, ServiceCounts};
use hotupdate_proto::operator::{
    Connections, HandoffResult, LastFailure, LastHandoff, MAX_WARNINGS, Monitored, OperatorError, PastEvent,
    ServiceEvent, Status, Warning,
};
use hotupdate_proto::{ConnectionRow, Generation, Join, Message, Process, Refusal};
use tokio::sync::{broadcast, mpsc, oneshot};

use super::history::History;
use super::status::{View, millis_since};
use crate::connections::{accepted_at, age_ms};
use crate::control::replies;
use crate::control::session::{self, Outcome, Request, SessionConfig};

/// Rows that are remembered of one predecessor.
const MAX_ROWS: usize = 200_000;

/// Events that a slow watcher may be behind.
const MONITOR_QUEUE: usize = 64;

/// What an operator waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Awaited {
    Handoff,
    Rollback,
}

/// Rows of the connections of a predecessor, and when these were accepted.
type Rows = BTreeMap<u64, (tokio::time::Instant, ConnectionRow)>;

pub(super) struct Operators {
    requests: mpsc::Receiver<Request>,
    sessions: SessionConfig,
    monitor: broadcast::Sender<session::Event>,
    waiting: Vec<(Awaited, oneshot::Sender<Outcome>)>,
    /// What predecessors said of their connections.
    rows: HashMap<Generation, Rows>,
    last_handoff: Option<(Instant, LastHandoff)>,
    last_failure: Option<(Instant, LastFailure)>,
    history: History,
    pub(super) counts: ServiceCounts,
    warnings: Vec<Warning>,
}

impl Operators {
    /// `sessions` sends what is asked to the receiver.
    pub(super) fn new(
        generation: Generation,
        sessions: SessionConfig,
        requests: mpsc::Receiver<Request>,
    ) -> Self {
        Self {
            requests,
            sessions,
            monitor: broadcast::Sender::new(MONITOR_QUEUE),
            waiting: Vec::new(),
            rows: HashMap::new(),
            last_handoff: None,
            last_failure: None,
            history: History::default(),
            counts: ServiceCounts::new(generation),
            warnings: Vec::new(),
        }
    }

    /// For the callers on another control listener.
    pub(super) fn sessions(&self) -> SessionConfig {
        self.sessions.clone()
    }

    /// Resolves when every command has its answer.
    pub(super) fn answered(&self) -> impl Future<Output = ()> + Send + use<> {
        self.sessions.answered()
    }

    /// What is asked next. Safe to cancel.
    pub(super) async fn next(&mut self) -> Request {
        match self.requests.recv().await {
            Some(request) => request,
            // Sessions get their sender from here, so that it never ends.
            None => std::future::pending().await,
        }
    }

    // ---- answers ------------------------------------------------------------------------------------------

    pub(super) fn status(&self, view: View<'_>) -> Status {
        let mut status = view.status();
        status.last_handoff = self.last_handoff.clone().map(|(at, mut handoff)| {
            handoff.ago_ms = Some(millis_since(at));
            handoff
        });
        status.last_failure = self.last_failure.clone().map(|(at, mut failure)| {
            failure.ago_ms = Some(millis_since(at));
            failure
        });
        (status.history, status.warnings) = (self.history(), self.warnings.clone());
        status
    }

    /// The status now, and all events from here on.
    pub(super) fn monitor(&self, view: View<'_>) -> (Status, broadcast::Receiver<session::Event>) {
        (self.status(view), self.monitor.subscribe())
    }

    /// Our own rows, and what predecessors said of theirs; newest generation first.
    pub(super) fn connections(&self, view: View<'_>) -> Vec<Connections> {
        let mut all = vec![view.rows()];
        for (generation, rows) in &self.rows {
            let row = |(accepted, row): &(tokio::time::Instant, ConnectionRow)| {
                let mut row = row.clone();
                row.age_ms = age_ms(*accepted);
                row
            };
            all.push(Connections::new(*generation, rows.values().map(row).collect()));
        }
        all.sort_by_key(|connections| std::cmp::Reverse(connections.generation));
        all
    }

    /// The command was taken; the answer comes with its outcome.
    pub(super) fn wait(&mut self, awaited: Awaited, reply: oneshot::Sender<Outcome>) {
        self.waiting.push((awaited, reply));
    }

    /// Answers every operator that waits for this.
    pub(super) fn answer(&mut self, awaited: Awaited, outcome: &Result<HandoffResult, OperatorError>) {
        for (_, reply) in self.waiting.extract_if(.., |(waits_for, _)| *waits_for == awaited) {
            let _ = reply.send(outcome.clone().map(Some));
        }
    }

    // ---- events -------------------------------------------------------------------------------------------

    /// Tells operators that watch, and remembers it for those that ask later.
    pub(super) fn notify(&mut self, view: View<'_>, kind: &str, generation: Generation, text: String) {
        self.history.add(kind, generation, &text);
        if self.monitor.receiver_count() > 0 {
            let event = Some(ServiceEvent::new(kind.to_owned(), generation, text));
            if let Some(event) = replies::monitored(&Monitored::new(event, self.status(view))) {
                let _ = self.monitor.send(event);
            }
        }
    }

    /// Operators that watch ask the new owner of the control socket for the rest.
    pub(super) fn end_monitors(&mut self) {
        self.monitor = broadcast::Sender::new(MONITOR_QUEUE);
    }

    // ---- what is remembered -------------------------------------------------------------------------------

    pub(super) fn handed_over(&mut self, handoff: LastHandoff) {
        self.last_handoff = Some((Instant::now(), handoff));
    }

    pub(super) fn failed(&mut self, failure: LastFailure) {
        self.last_failure = Some((Instant::now(), failure));
    }

    /// Something that an operator should know of this process for as long as it serves.
    pub(super) fn warn(&mut self, warnings: impl IntoIterator<Item = Warning>) {
        let room = MAX_WARNINGS.saturating_sub(self.warnings.len());
        self.warnings.extend(warnings.into_iter().take(room));
    }

    pub(super) fn history(&self) -> Vec<PastEvent> {
        self.history.events()
    }

    /// What the process remembers that served until now.
    pub(super) fn goes_on_from(&mut self, history: &[PastEvent], counts: Option<&Counts>) {
        self.history = History::from_events(history);
        if let Some(counts) = counts {
            self.counts.hear(counts.clone());
        }
    }

    /// What a predecessor says of its connections.
    pub(super) fn remember(&mut self, generation: Generation, message: &Message) {
        match message {
            Message::Connections { items } => {
                let rows = self.rows.entry(generation).or_default();
                let room = MAX_ROWS.saturating_sub(rows.len());
                let known = |row: &ConnectionRow| (row.id, (accepted_at(row.age_ms), row.clone()));
                rows.extend(items.iter().take(room).map(known));
            }
            Message::Progress { closed, .. } => {
                if let Some(rows) = self.rows.get_mut(&generation) {
                    closed.iter().for_each(|id| drop(rows.remove(id)));
                }
            }
            _ => {}
        }
    }

    pub(super) fn forget(&mut self, generation: Generation) {
        self.rows.remove(&generation);
    }

    pub(super) fn forget_predecessors(&mut self) {
        self.rows.clear();
    }

    // ---- successors that do not join ----------------------------------------------------------------------

    pub(super) fn log_refusal(&self, successor: &Process, refusal: &Refusal) {
        if let Some(end) = self.sessions.end_of_refusal() {
            tracing::warn!(%successor, %refusal, "a successor is turned away{end}");
        }
    }

    /// A successor that a signal was to start did not come so far as to join.
    pub(super) fn not_started(&mut self, view: View<'_>, pid: Option<u32>, attempt: String, reason: String) {
        self.counts.handoffs().failed += 1;
        view.connections.metrics().changed();
        // Nothing else is known of it.
        let successor = Process::new(String::new(), pid.unwrap_or_default(), String::new());
        let text = match pid {
            Some(pid) => format!("successor {pid} failed while it was starting: {reason}"),
            None => reason.clone(),
        };
        let mut failure = LastFailure::new(successor, "starting".to_owned(), reason);
        failure.attempt = Some(attempt);
        self.failed(failure);
        self.notify(view, "failed", Generation(0), text);
    }

    /// Nothing has begun, but operators that started this successor have to learn why nothing will.
    pub(super) fn joining_failed(&mut self, view: View<'_>, join: Join, reason: String) {
        let Join { process: successor, attempt, .. } = join;
        if let Some(end) = self.sessions.end_of_refusal() {
            tracing::error!(%successor, reason, "a successor is turned away{end}");
        }
        self.counts.handoffs().failed += 1;
        view.connections.metrics().changed();
        let text = format!("successor {successor} was turned away: {reason}");
        let mut failure = LastFailure::new(successor, "joining".to_owned(), reason);
        failure.attempt = attempt;
        self.failed(failure);
        self.notify(view, "failed", Generation(0), text);
    }
}
