//! Doing what the machine of a process says that serves, or has served.
//!
//! In the order of a handoff: the inventory goes out (`send`), the application ends what only one process may
//! do (`before_release`), the accept loops stop (`stop`) and the state is exported (`stopped`); the other
//! process serves and this one drains (`begin_drain`), lets go of its listeners (`let_go`), and ends
//! (`exit`). Or it serves again (`accept`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use hotupdate_proto::incumbent::{Afterwards, Effect, Event, Report, Stopped};
use hotupdate_proto::inventory::{MAX_TASKS, UnreadLink};
use hotupdate_proto::operator::{Command, OperatorError};
use hotupdate_proto::timing::fixed::driver::MEMORY_SETTLES;
use hotupdate_proto::{ConnectionRow, Fault, Generation, Joined, Message, Refusal, Totals};
use tokio::time::sleep;

use super::clock::monotonic_ns;
use super::exports::SealedState;
use super::machine::Role;
use super::{Driver, TaskResult};
use crate::connections::Connections;
use crate::connections::drain::Phase;
use crate::control::replies;
use crate::draining::{self, Progress};

impl Driver {
    /// Brings an event to the machine, and does what it says.
    pub(super) async fn handle(&mut self, event: Event) {
        self.machine.queue(event);
        self.catch_up().await;
    }

    /// Brings everything to the machine that it has still to hear.
    pub(super) async fn catch_up(&mut self) {
        while let Some(event) = self.machine.next_event() {
            let Role::Incumbent(machine) = &mut self.machine.role else { return };
            let effects = machine.handle(Instant::now(), event);
            self.perform(effects).await;
        }
    }

    /// An operator or a supervisor wants something. Returns what is to be done.
    ///
    /// # Errors
    /// Why it cannot be.
    pub(super) fn command(&mut self, command: Command) -> Result<Vec<Effect>, OperatorError> {
        match &mut self.machine.role {
            Role::Incumbent(machine) => machine.command(Instant::now(), command),
            _ => Err(OperatorError::NotServing),
        }
    }

    pub(super) async fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                // The links.
                Effect::Reply(reply) => self.reply(reply),
                Effect::Send(message) => self.send(&message),
                Effect::SendTo(generation, message) => self.send_to(generation, &message),
                Effect::Read(generation) => self.links.read(generation),
                // The machine does not listen any more; the reader goes on for the end of the link.
                Effect::Quiet => {}
                Effect::Close => {
                    self.links.close();
                    self.exports.forget();
                }
                Effect::Demote(generation) => self.links.demote(generation),
                Effect::Promote(generation) => self.links.promote(generation),
                Effect::Forget(generation) => {
                    self.links.forget(generation);
                    self.operators.forget(generation);
                    self.operators.counts.gone(generation);
                    self.connections.metrics().forget(generation);
                    self.is_alone_if_so();
                }
                // The service.
                Effect::BeforeRelease => self.before_release(),
                Effect::Stop => self.stop().await,
                Effect::Accept(unread) => self.accept(&unread),
                Effect::Rebound(_) => self.take_rebound(),
                Effect::Established => self.established(),
                Effect::LetGo(afterwards) => self.let_go(afterwards).await,
                // The drain.
                Effect::Drain { until, is_succeeded } => self.begin_drain(until, is_succeeded),
                Effect::Undrain => self.undrain(),
                Effect::Force => {
                    draining::force(&self.connections, &self.application.tasks().names(MAX_TASKS));
                }
                Effect::Exit => self.exit(),
                // Connections.
                Effect::Outbound(effect) => self.perform_outbound(effect),
                Effect::Inbound(from, effect) => self.perform_inbound(from, effect),
                Effect::Report(report) => {
                    if let Report::Served { peer, .. } = &report {
                        self.supervisor.is_succeeded_by(peer);
                    }
                    self.renewal.remember(&report);
                    let (view, operators) = self.view();
                    operators.report(view, report);
                }
            }
        }
    }

    // ---- the inventory ------------------------------------------------------------------------------------

    fn reply(&mut self, reply: Result<Joined, Refusal>) {
        let (reply, joined) = match reply {
            Ok(joined) => {
                let manager = self.supervisor.for_successor();
                (replies::joined(&Joined { manager, ..joined }), true)
            }
            Err(refusal) => (replies::refused(&refusal), false),
        };
        if let Ok(bytes) = hotupdate_proto::frame::encode(&reply) {
            self.links.reply(bytes);
        }
        if !joined {
            self.links.peer_is_gone();
        }
    }

    fn send(&mut self, message: &Message) {
        if !self.links.has_peer() {
            return;
        }
        match self.inventory().attach(message) {
            Ok(descriptors) => {
                self.links.send(message, descriptors.into_iter().map(|fd| Arc::new(fd) as _).collect());
                // It comes last: the other side has the state; the final word is sealed anew.
                if let Message::Control { .. } = message {
                    self.exports.forget();
                }
            }
            // Out of descriptors, most likely. The attempt fails, and nothing else.
            Err(error) => {
                let doing = format!("sending `{}`", message.name());
                self.machine.queue(Event::Closed(Fault::Local(format!("{doing}: {error}"))));
            }
        }
    }

    fn send_to(&self, generation: Generation, message: &Message) {
        match self.inventory().attach(message) {
            Ok(descriptors) => {
                let descriptors = descriptors.into_iter().map(|fd| Arc::new(fd) as _).collect();
                self.links.send_to(generation, message, descriptors);
            }
            Err(error) => {
                tracing::warn!(%generation, message = message.name(), %error, "not said to a predecessor");
            }
        }
    }

    // ---- the release --------------------------------------------------------------------------------------

    fn before_release(&mut self) {
        if self.application.end_exclusive(&self.results.0) {
            self.machine.queue(Event::BeforeReleaseDone(Ok(())));
        }
    }

    /// The application's hooks have ended.
    pub(super) async fn hooks_ended(&mut self, run: u64, ended: Result<(), String>) {
        if self.application.exclusive_ended(run) {
            self.handle(Event::BeforeReleaseDone(ended)).await;
        }
    }

    /// Stops the accept loops: when this is through, nothing is accepted any more, and no predecessor is
    /// heard.
    async fn stop(&mut self) {
        self.stops += 1;
        self.application.forbid_exclusive();
        // Before the listeners are parked, because clients wait from then on: this takes other tasks, and time.
        // What is counted meanwhile the next process hears with the first progress of this one.
        let links = self.links.pause_predecessors().await;
        let (history, counts) = (self.operators.history(), Some(Box::new(self.last_counts())));
        let at_ns = match self.listeners.park() {
            Ok(at_ns) => at_ns,
            Err(why) => return self.machine.queue(Event::CannotStop(why)),
        };
        let connections = self.connections.summary();
        let stopped = Stopped { at_ns, connections, links, history, counts, ..Stopped::default() };
        if self.exports.is_empty() {
            return self.machine.queue(Event::Stopped(stopped));
        }
        let stop = self.stops;
        self.exports.run(&self.results.0, move |sealed| TaskResult::Finished { stop, stopped, sealed });
    }

    /// The final state is exported, unless the attempt that it was for has ended meanwhile.
    pub(super) async fn stopped(
        &mut self,
        stop: u64,
        mut stopped: Stopped,
        sealed: std::io::Result<SealedState>,
    ) {
        if stop != self.stops {
            return;
        }
        let event = match sealed {
            Ok(sealed) => {
                self.exports.keep(sealed);
                stopped.ago = Duration::from_nanos(monotonic_ns().saturating_sub(stopped.at_ns));
                stopped.state = self.exports.items();
                Event::Stopped(stopped)
            }
            Err(error) => Event::CannotStop(format!("the state cannot be exported: {error}")),
        };
        self.handle(event).await;
    }

    /// Serves (again).
    fn accept(&mut self, unread: &[UnreadLink]) {
        self.stops += 1;
        self.count_on();
        self.listeners.open_all();
        self.listeners.serves();
        self.links.read_predecessors(unread);
        self.application.serve_again();
        self.serves();
    }

    async fn let_go(&mut self, afterwards: Afterwards) {
        self.tell_manager_who_serves(afterwards).await;
        if !matches!(afterwards, Afterwards::ServedBy(_)) {
            self.listeners.say_stopped();
            self.listeners.remove_control_socket();
        }
        self.listeners.let_go();
        self.links.forget_predecessors();
        self.operators.forget_predecessors();
        self.drain.let_go(afterwards);
        self.application.retire();
    }

    // ---- the drain ----------------------------------------------------------------------------------------

    fn begin_drain(&mut self, until: Instant, is_succeeded: bool) {
        self.drain.begin(&self.connections, &self.settings.timing, until, is_succeeded);
        self.application.drain();
    }

    fn undrain(&mut self) {
        self.renewal.serves_again();
        self.drain.cancel(&self.connections);
    }

    /// Tells the process that serves how the drain goes.
    pub(super) async fn send_progress(&mut self) {
        let is_migrating = self.machine.incumbent().is_some_and(|machine| !machine.outbound().is_idle())
            || self.connections.is_calling();
        if !is_migrating && self.drain.takes_rows() {
            self.collect_rows();
        }
        let (connections, totals) = self.connections.snapshot();
        let tasks = self.application.tasks().names(MAX_TASKS);
        let now = Progress { connections, totals, tasks };
        if let Some((Progress { connections, totals, tasks }, closed)) =
            self.drain.progress(now, &self.connections)
        {
            self.handle(Event::Progress { connections, closed, totals, tasks }).await;
        }
    }

    /// Rows of all connections that are left, to be sent when they are there, outside of the critical path.
    pub(super) fn collect_rows(&self) {
        let (connections, results) = (self.connections.clone(), self.results.0.clone());
        tokio::task::spawn_blocking(move || {
            drop(results.blocking_send(TaskResult::Rows(connections.rows())));
        });
    }

    pub(super) fn send_rows(&self, rows: &[ConnectionRow]) {
        /// About 200 bytes each, so that a message stays far below its limit.
        const BATCH: usize = 1000;
        // After a rollback the link that they were for is another's.
        if self.drain.is_draining() {
            for items in rows.chunks(BATCH) {
                self.links.send(&Message::Connections { items: items.to_vec() }, Vec::new());
            }
        }
    }

    /// The last connection is gone, and this process may stay without it for a while.
    pub(super) fn connections_gone(&mut self) {
        let tasks = self.application.tasks().names(MAX_TASKS);
        self.drain.connections_gone(&tasks);
        if self.drain.is_in_probation() || !tasks.is_empty() {
            tokio::spawn(give_memory_back(self.connections.clone()));
        }
    }

    /// Nothing is open any more, and no task runs.
    pub(super) async fn drained(&mut self) {
        self.drain.drained();
        let Totals { migrated, finished, closed, forced, .. } = self.connections.totals();
        tracing::info!(migrated, finished, closed, forced, "drained");
        self.send_progress().await;
        self.handle(Event::Drained { forced }).await;
    }

    /// Nothing is left to do.
    fn exit(&mut self) {
        self.drain.exit();
        self.end_unless_kept();
    }
}

/// What connections have used is free when they are gone, and goes back to the system. That takes milliseconds,
/// for which other threads that allocate may wait, so a process that serves never does it.
async fn give_memory_back(connections: Connections) {
    sleep(MEMORY_SETTLES).await;
    if connections.drain().phase() != Phase::Serving {
        tokio::task::spawn_blocking(|| {
            let begin = Instant::now();
            let any = hotupdate_heap::trim();
            tracing::debug!(any, took = ?begin.elapsed(), "memory that connections had used is given back");
        });
    }
}
