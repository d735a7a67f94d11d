//! The one task that owns the state of a process: its parts, the loop that brings events to the machine, and
//! what follows.
//!
//! Deliberately absent: decisions. The machines of `hotupdate-proto` decide; this task brings them what
//! happened and does what they say (`driver/successor.rs`, `driver/incumbent.rs`).

// The parts, which own their fields.
mod exports;
mod links;
mod listeners;
mod machine;
mod migration;
mod operators;
mod renewal;
mod standstill;
mod supervisor;

// What is done with several of them, in the order of a life.
mod start;
pub(crate) use start::{Inherited, start_first, start_successor};

mod join;

mod inventory;

mod control;

mod link_events;

mod successor;

mod incumbent;

mod report;

mod history;

mod counts;

mod status;

// Tools.
mod clock;

mod text;

#[cfg(feature = "test-util")]
pub(crate) use migration::{check, describe};

use std::io;
use std::process::{Child, ExitStatus};
use std::time::Instant;

use hotupdate_proto::incumbent::{Event, Local, Stopped};
use hotupdate_proto::inventory::MAX_TASKS;
use hotupdate_proto::operator::Command;
use hotupdate_proto::{ConnectionRow, Generation, Incumbent, Join, successor as successor_machine};
use tokio::sync::mpsc;
use tokio::time::sleep_until;
use tracing::{Instrument, Span};

use self::counts::Pace;
use self::exports::{Exports, SealedState};
use self::inventory::Inventory;
use self::links::Links;
use self::listeners::Listeners;
use self::machine::{Machine, Role};
use self::migration::Migrations;
use self::operators::{Awaited, Operators};
use self::renewal::Renewal;
use self::standstill::Standstill;
use self::status::View;
use self::supervisor::{Call, Supervisor};
use crate::application::{Application, FromApplication};
use crate::connections::Connections;
use crate::control::Ownership;
use crate::control::session::Request;
use crate::draining::{Drain, Step};
use crate::error::{Error, ErrorKind};
use crate::lifecycle::Lifecycle;
use crate::link::channel::Receiver;
use crate::link::{Heard, LinkId};
use crate::process::heir::ExitCode;
use crate::process::output::Output;
use crate::process::signal::{self, Signal, Signals};
use crate::settings::Settings;
use crate::tasks::Tasks;

/// Which process this is.
struct Identity {
    local: Local,
    generation: Generation,
    /// What its starter calls the attempt.
    attempt: Option<String>,
    /// When it started, or when it began to serve.
    since: Instant,
}

pub(crate) struct Driver {
    settings: Settings,
    identity: Identity,
    machine: Machine,
    links: Links,
    listeners: Listeners,
    application: Application,
    exports: Exports,
    operators: Operators,
    migrations: Migrations,
    supervisor: Supervisor,
    renewal: Renewal,
    output: Output,
    drain: Drain,
    pace: Pace,
    connections: Connections,
    /// Tasks that work for the driver get a sender.
    results: (mpsc::Sender<TaskResult>, mpsc::Receiver<TaskResult>),
    /// Counts stops and starts of the accept loops, so that a late export is recognised.
    stops: u64,
    standstill: Standstill,
    /// A control socket that was made again by the process that serves, until the machine says whose it is.
    rebound: Option<Ownership>,
}

/// What tasks that work for the driver bring back.
pub(crate) enum TaskResult {
    /// State for the inventory of a successor that may join.
    Exported { join: Join, receiver: Box<Receiver>, sealed: io::Result<SealedState> },
    /// The application's hooks have ended.
    HooksEnded { run: u64, ended: Result<(), String> },
    /// The final state, after the accept loops stopped.
    Finished { stop: u64, stopped: Stopped, sealed: io::Result<SealedState> },
    /// What is open in this process, which drains.
    Rows(Vec<ConnectionRow>),
    /// SIGHUP came, and the terminal has closed, or has not.
    Hangup { closed: bool },
    /// A successor that a signal had started has been there for as long as a lease lasts.
    ChildIsLate { attempt: String },
    /// A successor that a signal had started has ended.
    Child { child: Child, attempt: String, status: io::Result<ExitStatus> },
    /// systemd has confirmed which process is the main one, or cannot be told.
    MainConfirmed { pid: u32, confirmed: bool },
    /// Everything that the peer and systemd should know is in the kernel, and this process ends with this
    /// code.
    Flushed { code: ExitCode },
}

/// What the loop woke up for.
enum Wake {
    Application(Option<FromApplication>),
    /// Connections have asked to leave.
    Migration,
    ListenerDropped,
    StateStored,
    Request(Request),
    Heard(LinkId, Heard),
    Done(TaskResult),
    Supervisor(Call),
    Deadline,
    Drain(Step),
    Counted,
}

impl Driver {
    async fn run(self) {
        let (links, signals, served, tasks) = self.live().await;
        // The process that serves sees the end of this one at the end of the link.
        tokio::select! {
            () = signals.until_the_end(served, &tasks) => {}
            () = links.hear_nothing_more() => {}
        }
    }

    /// Returns when nothing of the service is left in this process but its links, whether it has served, and
    /// what the application may still do.
    async fn live(mut self) -> (Links, Signals, bool, Tasks) {
        while !self.is_over() {
            let wake = self.wait().await;
            let span = self.span_of(&wake);
            let turn = async {
                self.act(wake).await;
                self.catch_up().await;
                self.tell_status();
            };
            turn.instrument(span).await;
        }
        self.application.end();
        let (served, tasks) = (!self.machine.has_failed(), self.application.tasks().clone());
        (self.links, self.supervisor.into_signals(), served, tasks)
    }

    fn is_over(&self) -> bool {
        self.machine.has_failed() || self.application.lifecycle() == Lifecycle::Drained
    }

    async fn wait(&mut self) -> Wake {
        if self.machine.incumbent().is_some()
            && let Some((id, heard)) = self.links.next_deferred()
        {
            return Wake::Heard(id, heard);
        }
        let deadline = self.due().map(|due| self.standstill.wake_at(due));
        let tasks = self.application.tasks().clone();
        let Self {
            links,
            listeners,
            application,
            exports,
            operators,
            migrations,
            supervisor,
            drain,
            pace,
            connections,
            results,
            ..
        } = self;
        tokio::select! {
            biased;
            (id, what) = links.next() => Wake::Heard(id, what),
            Some(done) = results.1.recv() => Wake::Done(done),
            said = application.next() => Wake::Application(said),
            () = connections.next_portion(migrations.on_their_way()) => Wake::Migration,
            () = listeners.dropped().notified() => Wake::ListenerDropped,
            () = exports.changed() => Wake::StateStored,
            request = operators.next() => Wake::Request(request),
            call = supervisor.next() => Wake::Supervisor(call),
            () = until(deadline) => Wake::Deadline,
            step = drain.next(connections, &tasks) => Wake::Drain(step),
            () = pace.next(connections) => Wake::Counted,
        }
    }

    /// What is logged about this carries the name of the handoff that it belongs to.
    fn span_of(&self, wake: &Wake) -> Span {
        match wake {
            Wake::Heard(id, _) => self.links.span_of(*id),
            // Another one wants to come, or cannot.
            Wake::Request(Request::Join(..)) | Wake::Done(TaskResult::Exported { .. }) => Span::none(),
            _ => self.links.span(),
        }
    }

    async fn act(&mut self, wake: Wake) {
        match wake {
            Wake::Application(said) => self.application_says(said).await,
            Wake::Migration => self.leave().await,
            Wake::ListenerDropped => self.listener_dropped(),
            Wake::StateStored => self.state_stored(),
            Wake::Request(request) => self.request(request).await,
            Wake::Heard(id, heard) => self.hear(id, heard).await,
            Wake::Done(done) => self.done(done).await,
            Wake::Supervisor(call) => self.called(call).await,
            Wake::Deadline => self.tick().await,
            Wake::Drain(Step::Progress) => self.send_progress().await,
            Wake::Drain(Step::ConnectionsGone) => self.connections_gone(),
            Wake::Drain(Step::Drained) => self.drained().await,
            Wake::Counted => self.show_counts(),
        }
    }

    async fn application_says(&mut self, said: Option<FromApplication>) {
        match said {
            Some(FromApplication::Ready { resources, ready, reply }) => {
                self.make_ready(resources, ready, reply).await;
            }
            Some(FromApplication::Trouble { what, told }) => self.trouble(what, told).await,
            None if matches!(self.machine.role, Role::First | Role::Successor(_)) => {
                self.application_gave_up().await;
            }
            None => {}
        }
    }

    fn listener_dropped(&mut self) {
        let lifecycle = self.application.lifecycle();
        self.listeners.forget_dropped(lifecycle);
        if self.is_established() {
            self.supervisor.keep(&mut self.listeners);
        }
    }

    fn state_stored(&self) {
        if self.is_established() {
            self.supervisor.keep_states(&self.exports);
        }
    }

    /// This process serves. As long as another one may serve again, what that one has stays in the descriptor
    /// store.
    fn is_established(&self) -> bool {
        let serves = self.application.lifecycle() == Lifecycle::Serving;
        let machine = self.machine.incumbent().filter(|_| serves);
        machine.is_some_and(|machine| machine.predecessors().iter().all(|older| !older.probation))
    }

    async fn request(&mut self, request: Request) {
        let (view, operators) = self.view();
        match request {
            Request::Status(reply) => drop(reply.send(operators.status(view))),
            Request::Monitor(reply) => drop(reply.send(operators.monitor(view))),
            Request::Connections(reply) => drop(reply.send(operators.connections(view))),
            Request::Join(join, receiver) => self.join(join, receiver),
            Request::Command(command, reply) => {
                let awaited = match command {
                    Command::Handoff => Some(Awaited::Handoff),
                    Command::Rollback => Some(Awaited::Rollback),
                    _ => None,
                };
                match self.command(command) {
                    Err(error) => drop(reply.send(Err(error))),
                    Ok(effects) => {
                        match awaited {
                            Some(awaited) => self.operators.wait(awaited, reply),
                            None => drop(reply.send(Ok(None))),
                        }
                        self.perform(effects).await;
                    }
                }
            }
        }
    }

    async fn done(&mut self, done: TaskResult) {
        match done {
            TaskResult::Exported { join, receiver, sealed } => self.offer(join, *receiver, sealed).await,
            TaskResult::HooksEnded { run, ended } => self.hooks_ended(run, ended).await,
            TaskResult::Finished { stop, stopped, sealed } => self.stopped(stop, stopped, sealed).await,
            TaskResult::Rows(rows) => self.send_rows(&rows),
            TaskResult::Hangup { closed } => self.hung_up(closed),
            TaskResult::ChildIsLate { attempt } => self.child_is_late(attempt),
            TaskResult::Child { child, attempt, status } => {
                self.supervisor.note_end_of_child(child.id(), &status);
                self.child_ended(child, attempt, status);
            }
            TaskResult::MainConfirmed { pid, confirmed } => self.main_confirmed(pid, confirmed),
            TaskResult::Flushed { code } => self.end(code),
        }
    }

    pub(super) async fn signal(&mut self, signal: Signal) {
        match signal {
            Signal::Successor => {
                // It has to find this process.
                self.look_after_path().await;
                self.renew();
            }
            _ if self.drain.is_exiting() => self.told_to_leave(),
            _ if self.machine.incumbent().is_some() => self.terminate(signal).await,
            _ => self.stop_before_it_serves(signal).await,
        }
    }

    /// A process that serves, or has served, is told to stop.
    async fn terminate(&mut self, signal: Signal) {
        let command = match signal {
            Signal::Interrupt { again: true } => Command::TerminateNow,
            _ => Command::Terminate,
        };
        let is_patient = command == Command::Terminate;
        let Ok(effects) = self.command(command) else { return };
        if is_patient && (effects.is_empty() || self.drain.is_draining()) {
            let tasks = self.application.tasks().names(MAX_TASKS);
            let (connections, _) = self.connections.snapshot();
            tracing::info!(
                %signal, open = connections.open(), active = connections.active, ?tasks,
                "told to stop: before it ends, this process waits for {}; SIGINT twice ends it now",
                self.machine.incumbent().and_then(Incumbent::ends_after).unwrap_or("what is still open")
            );
        }
        self.perform(effects).await;
    }

    /// The incumbent, if there is one, serves on. An application that is warming up looks at nothing that
    /// could tell it so.
    async fn stop_before_it_serves(&mut self, signal: Signal) {
        let waits = self.application.waits_for_answer();
        if let Role::First = self.machine.role {
            self.listeners.remove_control_socket();
        }
        let why = format!("stopped by {signal}");
        self.give_up(Error::new(ErrorKind::Cancelled, "becoming ready", why)).await;
        if !waits {
            tracing::info!(%signal, "this process ends before it has served");
            signal::die_of(signal);
        }
    }

    /// What is due next.
    fn due(&self) -> Option<Instant> {
        let parts = [self.machine.deadline(), self.listeners.deadline(), self.supervisor_deadline()];
        parts.into_iter().flatten().min()
    }

    async fn tick(&mut self) {
        let (now, Some(due)) = (Instant::now(), self.due()) else { return };
        if self.standstill.postpones(now, due) {
            return;
        }
        self.listeners.tick(now);
        self.tick_supervisor(now);
        if self.listeners.is_look_due(now) {
            self.look_after_path().await;
        }
        if self.machine.is_successor() {
            return self.handle_successor(successor_machine::Event::Tick).await;
        }
        self.handle(Event::Tick).await;
    }

    // ---- several parts at once ----------------------------------------------------------------------------

    /// What can be told about this process, and the tasks that tell it.
    fn view(&mut self) -> (View<'_>, &mut Operators) {
        let view = View {
            identity: &self.identity,
            machine: self.machine.incumbent(),
            listeners: &self.listeners,
            connections: &self.connections,
            tasks: self.application.tasks(),
            is_draining: self.drain.is_draining(),
        };
        (view, &mut self.operators)
    }

    /// What can be passed on to a successor.
    fn inventory(&self) -> Inventory<'_> {
        Inventory { listeners: &self.listeners, exports: &self.exports, links: &self.links }
    }
}

/// Returns at this moment, or never.
pub(crate) async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
