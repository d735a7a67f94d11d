//! How far the drain of this process has come, and what is told of it.
//!
//! Deliberately absent: when a drain begins and which deadlines it has; the machine says that.

use std::time::{Duration, Instant};

use hotupdate_proto::incumbent::Afterwards;
use hotupdate_proto::timing::fixed::connections::PROGRESS;
use hotupdate_proto::{ConnectionRow, Summary, Timing, Totals};
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::connections::Connections;
use crate::connections::drain::{Phase, Plan};
use crate::tasks::Tasks;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// There is no drain.
    Serving,
    /// Something is open, or a task runs.
    Draining {
        /// The process that serves was told of every connection that is left.
        rows_sent: bool,
        /// No connection is left, and that has been said.
        connections_gone: bool,
    },
    /// Nothing is open.
    Drained,
    /// Nothing is left to do.
    Exiting,
}

pub(crate) struct Drain {
    state: State,
    interval: Interval,
    last_progress: Option<Progress>,
    /// What becomes of the service, once this process has let go of it.
    afterwards: Option<Afterwards>,
}

/// What a drain has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// It is time to tell the process that serves how it goes.
    Progress,
    /// The last connection is gone; tasks may still run.
    ConnectionsGone,
    /// Nothing is open any more, and no task runs.
    Drained,
}

/// What the process that serves is told, again and again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) connections: Summary,
    pub(crate) totals: Totals,
    pub(crate) tasks: Vec<String>,
}

impl Drain {
    pub(crate) fn new() -> Self {
        let mut interval = interval(PROGRESS);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { state: State::Serving, interval, last_progress: None, afterwards: None }
    }

    /// Begins, or goes on with an earlier deadline, or without a process that goes on with the service.
    /// Returns whether it begins.
    pub(crate) fn begin(
        &mut self,
        connections: &Connections,
        timing: &Timing,
        until: Instant,
        is_succeeded: bool,
    ) -> bool {
        let since = tokio::time::Instant::now();
        let until = tokio::time::Instant::from(until);
        let whole = until.saturating_duration_since(since);
        let (grace, spread) = match is_succeeded {
            true => (timing.drain_grace, timing.drain_spread),
            // Idle clients have no process to come back to, so that no such moment is better than another.
            false => (timing.drain_stop, Duration::ZERO),
        };
        let (grace, spread) = (grace.min(whole / 4), spread.min(whole / 2));
        let begins = !self.is_draining();
        if begins {
            self.state = State::Draining { rows_sent: false, connections_gone: false };
            self.interval.reset();
        }
        connections.set_phase(Phase::Draining(Plan { since, until, grace, spread, hold: timing.drain_hold }));
        begins
    }

    /// This process serves again.
    pub(crate) fn cancel(&mut self, connections: &Connections) {
        (self.state, self.last_progress) = (State::Serving, None);
        connections.set_phase(Phase::Serving);
    }

    /// It has let go of its listeners.
    pub(crate) fn let_go(&mut self, afterwards: Afterwards) {
        self.afterwards = Some(afterwards);
    }

    pub(crate) fn drained(&mut self) {
        self.state = State::Drained;
    }

    pub(crate) fn exit(&mut self) {
        self.state = State::Exiting;
    }

    /// Another process serves, or none.
    pub(crate) fn is_draining(&self) -> bool {
        self.state != State::Serving
    }

    pub(crate) fn is_exiting(&self) -> bool {
        self.state == State::Exiting
    }

    /// Whether another process goes on with the service.
    pub(crate) fn is_succeeded(&self) -> bool {
        matches!(self.afterwards, Some(Afterwards::ServedBy(_)))
    }

    /// Whether this process still holds what it serves with, and may serve again.
    pub(crate) fn is_in_probation(&self) -> bool {
        self.is_draining() && self.afterwards.is_none()
    }

    /// Waits for what the drain comes to next. Safe to cancel.
    pub(crate) async fn next(&mut self, connections: &Connections, tasks: &Tasks) -> Step {
        let State::Draining { connections_gone, .. } = self.state else {
            return std::future::pending().await;
        };
        tokio::select! {
            biased;
            () = connections.wait_until_empty(), if !connections_gone => Step::ConnectionsGone,
            () = nothing_left(connections, tasks) => Step::Drained,
            _ = self.interval.tick() => Step::Progress,
        }
    }

    /// No connection is left.
    pub(crate) fn connections_gone(&mut self, tasks: &[String]) {
        if let State::Draining { connections_gone, .. } = &mut self.state {
            *connections_gone = true;
        }
        if !tasks.is_empty() {
            tracing::info!(?tasks, "no connection is left, and tasks are still running");
        }
    }

    /// Whether every connection that is left is to be told of now. Most are gone in a moment, and need no row
    /// there.
    pub(crate) fn takes_rows(&mut self) -> bool {
        match &mut self.state {
            State::Draining { rows_sent, .. } => !std::mem::replace(rows_sent, true),
            _ => false,
        }
    }

    /// What is to be told now, if that is anything new: with the ids of connections that ended.
    pub(crate) fn progress(
        &mut self,
        now: Progress,
        connections: &Connections,
    ) -> Option<(Progress, Vec<u64>)> {
        let closed = connections.take_closed();
        if self.last_progress.as_ref() == Some(&now) && closed.is_empty() {
            return None;
        }
        self.last_progress = Some(now.clone());
        Some((now, closed))
    }
}

async fn nothing_left(connections: &Connections, tasks: &Tasks) {
    loop {
        connections.wait_until_empty().await;
        if tasks.is_empty() {
            return;
        }
        tasks.wait_until_empty().await;
    }
}

/// The deadline of the drain: what is left is closed, and named.
pub(crate) fn force(connections: &Connections, tasks: &[String]) {
    /// An operator that looks for more finds it before, in `hotctl connections`.
    const NAMED: usize = 20;
    let rows = connections.force();
    for ConnectionRow { listener, peer, protocol, requests, state, .. } in rows.iter().take(NAMED) {
        tracing::warn!(
            %listener, %peer, %protocol, requests, ?state,
            "a connection is closed at the deadline of the drain"
        );
    }
    if rows.len() > NAMED {
        tracing::warn!(more = rows.len() - NAMED, "and so are more connections");
    }
    if !tasks.is_empty() {
        tracing::warn!(
            ?tasks,
            "tasks are still running at the deadline of the drain; this process waits for them"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn until() -> Instant {
        (tokio::time::Instant::now() + Duration::from_secs(60)).into_std()
    }

    fn progress(idle: u64, tasks: &[&str]) -> Progress {
        let connections = Summary::new(idle, 0, 0);
        Progress {
            connections,
            totals: Totals::default(),
            tasks: tasks.iter().map(ToString::to_string).collect(),
        }
    }

    #[tokio::test]
    async fn it_begins_once_and_again_after_it_was_cancelled() {
        let (connections, _) = Connections::new(hotupdate_proto::Generation::FIRST);
        let (mut drain, timing) = (Drain::new(), Timing::default());
        assert!(!drain.is_draining() && !drain.takes_rows());
        for _ in 0..2 {
            assert!(drain.begin(&connections, &timing, until(), true), "it begins");
            assert!(drain.is_draining() && connections.drain().is_draining());
            assert!(drain.takes_rows() && !drain.takes_rows(), "all rows go out once");
            assert!(
                !drain.begin(&connections, &timing, until(), true),
                "an earlier deadline is no new drain"
            );
            assert!(!drain.takes_rows());
            drain.cancel(&connections);
            assert!(!drain.is_draining() && !connections.drain().is_draining());
        }
    }

    #[tokio::test]
    async fn what_is_known_is_not_said_again() {
        let (connections, _) = Connections::new(hotupdate_proto::Generation::FIRST);
        let mut drain = Drain::new();
        drain.begin(&connections, &Timing::default(), until(), true);
        assert!(drain.progress(progress(1, &[]), &connections).is_some());
        assert!(drain.progress(progress(1, &[]), &connections).is_none());
        assert!(drain.progress(progress(1, &["report"]), &connections).is_some(), "a task is news");
        assert!(drain.progress(progress(0, &["report"]), &connections).is_some());
        drain.cancel(&connections);
        drain.begin(&connections, &Timing::default(), until(), true);
        assert!(drain.progress(progress(0, &["report"]), &connections).is_some(), "another process is told");
    }

    #[tokio::test]
    async fn it_is_over_when_no_task_runs_either() {
        let (connections, _) = Connections::new(hotupdate_proto::Generation::FIRST);
        let (mut drain, tasks) = (Drain::new(), Tasks::default());
        let guard = tasks.begin("report");
        drain.begin(&connections, &Timing::default(), until(), true);
        assert_eq!(drain.next(&connections, &tasks).await, Step::ConnectionsGone);
        assert_eq!(drain.next(&connections, &tasks).await, Step::ConnectionsGone, "until it is taken");
        drain.connections_gone(&["report".to_owned()]);
        assert_eq!(drain.next(&connections, &tasks).await, Step::Progress, "a moment to tell of it");
        drop(guard);
        assert_eq!(drain.next(&connections, &tasks).await, Step::Drained);
        drain.drained();
        let over = tokio::time::timeout(Duration::ZERO, drain.next(&connections, &tasks));
        assert!(over.await.is_err(), "once");
        assert!(drain.is_draining() && !drain.is_exiting());
    }
}
