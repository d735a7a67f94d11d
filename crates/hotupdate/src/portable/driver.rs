//! The one task that owns the state of a process that serves alone: it stops, drains and ends as on Linux,
//! because the same machine says how.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use hotupdate_proto::Generation;
use hotupdate_proto::incumbent::{Effect, Event, Incumbent, Local, Report, Stopped};
use hotupdate_proto::inventory::MAX_TASKS;
use hotupdate_proto::operator::Command;
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep_until;

use super::NO_HANDOFF;
use super::signals::{Signal, Signals, die_of};
use crate::application::{Application, FromApplication};
use crate::connections::{Connections, MigrationRequest};
use crate::draining::{self, Drain, Step};
use crate::error::{Doing, Error, ErrorKind, Result};
use crate::lifecycle::{Lifecycle, Served};
use crate::resources::Resources;
use crate::settings::Settings;

/// What tasks that work for the driver bring back.
pub(crate) enum TaskResult {
    /// The application's hooks have ended.
    HooksEnded { run: u64, ended: Result<(), String> },
}

struct Driver {
    local: Local,
    /// `None` until the application is ready.
    machine: Option<Incumbent>,
    events: VecDeque<Event>,
    application: Application,
    /// Its listeners are closed when it is dropped.
    resources: Resources,
    connections: Connections,
    /// Nothing asks to migrate, as nothing was said that takes it.
    _migrations: mpsc::UnboundedReceiver<MigrationRequest>,
    drain: Drain,
    signals: Signals,
    results: (mpsc::Sender<TaskResult>, mpsc::Receiver<TaskResult>),
    is_over: bool,
}

/// What the loop woke up for.
#[expect(clippy::large_enum_variant, reason = "an application is ready once")]
enum Wake {
    Application(Option<FromApplication>),
    ListenerDropped,
    Done(TaskResult),
    Signal(Signal),
    Deadline,
    Drain(Step),
}

/// Starts the driver.
pub(super) fn start(
    settings: Settings,
    signals: Signals,
) -> (mpsc::UnboundedSender<FromApplication>, Connections) {
    let (application, says) = mpsc::unbounded_channel();
    let (connections, migrations) = Connections::new(Generation::FIRST);
    let driver = Driver {
        local: settings.local(),
        machine: None,
        events: VecDeque::new(),
        application: Application::new(says, None),
        resources: Resources::default(),
        connections: connections.clone(),
        _migrations: migrations,
        drain: Drain::new(),
        signals,
        results: mpsc::channel(4),
        is_over: false,
    };
    tokio::spawn(driver.run());
    (application, connections)
}

impl Driver {
    async fn run(mut self) {
        while !self.is_over {
            let wake = self.wait().await;
            self.act(wake);
            while let (Some(event), Some(machine)) = (self.events.pop_front(), &mut self.machine) {
                let effects = machine.handle(Instant::now(), event);
                self.perform(effects);
            }
        }
        self.application.end();
        let tasks = self.application.tasks().clone();
        // The application goes on: `main` has not returned yet.
        loop {
            match self.signals.next().await {
                Signal::Successor => cannot_hand_over(),
                signal if self.machine.is_none() => die_of(signal),
                signal @ Signal::Interrupt { again: true } => die_of(signal),
                signal => tracing::info!(
                    %signal, tasks = ?tasks.names(MAX_TASKS),
                    "this process has drained already and ends when its application does; SIGINT twice ends it now"
                ),
            }
        }
    }

    async fn wait(&mut self) -> Wake {
        let deadline = self.machine.as_ref().and_then(Incumbent::deadline);
        let tasks = self.application.tasks().clone();
        let Self { application, resources, connections, drain, signals, results, .. } = self;
        tokio::select! {
            biased;
            Some(done) = results.1.recv() => Wake::Done(done),
            said = application.next() => Wake::Application(said),
            () = resources.dropped.notified() => Wake::ListenerDropped,
            signal = signals.next() => Wake::Signal(signal),
            () = until(deadline) => Wake::Deadline,
            step = drain.next(connections, &tasks) => Wake::Drain(step),
        }
    }

    fn act(&mut self, wake: Wake) {
        match wake {
            Wake::Application(Some(FromApplication::Ready { resources, ready: _, reply })) => {
                self.make_ready(resources, reply);
            }
            // No other process is there to be told, and this one has logged it.
            Wake::Application(Some(FromApplication::Trouble { .. })) => {}
            Wake::Application(None) => self.is_over |= self.machine.is_none(),
            Wake::ListenerDropped => self.listener_dropped(),
            Wake::Done(TaskResult::HooksEnded { run, ended }) => {
                if self.application.exclusive_ended(run) {
                    self.events.push_back(Event::BeforeReleaseDone(ended));
                }
            }
            Wake::Signal(Signal::Successor) => cannot_hand_over(),
            Wake::Signal(signal) => self.stop(signal),
            Wake::Deadline => self.events.push_back(Event::Tick),
            Wake::Drain(Step::Progress) => self.progress(),
            Wake::Drain(Step::ConnectionsGone) => {
                self.drain.connections_gone(&self.application.tasks().names(MAX_TASKS));
            }
            Wake::Drain(Step::Drained) => {
                self.drain.drained();
                let totals = self.connections.totals();
                tracing::info!(
                    finished = totals.finished,
                    closed = totals.closed,
                    forced = totals.forced,
                    "drained"
                );
                self.events.push_back(Event::Drained { forced: totals.forced });
            }
        }
    }

    /// The application is ready, and this process serves.
    fn make_ready(&mut self, mut resources: Resources, reply: oneshot::Sender<Result<Served>>) {
        let hooks = std::mem::take(&mut resources.hooks);
        self.application.is_ready(hooks, resources.tasks.clone(), reply);
        self.resources = resources;
        if let Err(error) = self.open() {
            self.application.gives_up(error);
            self.is_over = true;
            return;
        }
        let machine = Incumbent::first(self.local.clone()).with_hook(self.application.has_hook());
        let effects = self.machine.insert(machine).greet();
        self.application.serve(HashMap::new());
        self.perform(effects);
    }

    /// All listeners, or none.
    fn open(&self) -> Result<()> {
        self.resources
            .gates
            .iter()
            .try_for_each(|(gate, _)| gate.open().doing(|| format!("opening the listener {:?}", gate.name())))
    }

    /// The application dropped listeners, which closed them.
    fn listener_dropped(&mut self) {
        for (listener, address) in self.resources.take_dropped() {
            if self.application.lifecycle() < Lifecycle::Retired {
                tracing::warn!(
                    listener, %address,
                    "the application dropped this listener, or the server that had it: its clients are refused"
                );
            }
        }
    }

    fn stop(&mut self, signal: Signal) {
        let Some(machine) = &mut self.machine else {
            let waits = self.application.waits_for_answer();
            let why = format!("stopped by {signal}");
            self.application.gives_up(Error::new(ErrorKind::Cancelled, "becoming ready", why));
            self.is_over = true;
            if !waits {
                die_of(signal);
            }
            return;
        };
        let command = match signal {
            Signal::Interrupt { again: true } => Command::TerminateNow,
            _ => Command::Terminate,
        };
        if let Ok(effects) = machine.command(Instant::now(), command) {
            let (open, tasks) = (self.connections.summary(), self.application.tasks().names(MAX_TASKS));
            tracing::info!(%signal, %open, ?tasks, "told to stop; SIGINT twice ends it now");
            self.perform(effects);
        }
    }

    /// What is left: the machine waits for tasks.
    fn progress(&mut self) {
        let (connections, totals) = self.connections.snapshot();
        let tasks = self.application.tasks().names(MAX_TASKS);
        let now = draining::Progress { connections, totals, tasks };
        if let Some((draining::Progress { connections, totals, tasks }, closed)) =
            self.drain.progress(now, &self.connections)
        {
            self.events.push_back(Event::Progress { connections, closed, totals, tasks });
        }
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::BeforeRelease => {
                    let has_ended = self.application.end_exclusive(&self.results.0);
                    self.events.extend(has_ended.then_some(Event::BeforeReleaseDone(Ok(()))));
                }
                Effect::Stop => {
                    self.application.forbid_exclusive();
                    self.resources.gates.iter().for_each(|(gate, _)| gate.close());
                    self.events.push_back(Event::Stopped(Stopped::default()));
                }
                Effect::LetGo(afterwards) => {
                    self.resources.descriptors.clear();
                    self.drain.let_go(afterwards);
                    self.application.retire();
                }
                Effect::Drain { until, is_succeeded } => {
                    self.drain.begin(&self.connections, &self.local.timing, until, is_succeeded);
                    self.application.drain();
                }
                Effect::Force => {
                    draining::force(&self.connections, &self.application.tasks().names(MAX_TASKS));
                }
                Effect::Exit => {
                    self.drain.exit();
                    self.is_over = true;
                }
                Effect::Report(Report::Stopping) => tracing::info!("the service stops"),
                Effect::Report(Report::BeforeReleaseFailed(reason)) => {
                    tracing::error!(reason, "the service stops all the same");
                }
                // Of other processes, of which there are none.
                _ => {}
            }
        }
    }
}

/// A signal asks for a new version.
fn cannot_hand_over() {
    tracing::error!("no successor is started: {NO_HANDOFF}");
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
