//! From the first line of a process to the moment at which it serves, or fails.

use std::os::fd::OwnedFd;
use std::time::Instant;

use hotupdate_proto::incumbent::{Incumbent, Local};
use hotupdate_proto::message::Ready;
use hotupdate_proto::{Generation, Joined, LinkItem, Successor, successor};
use tokio::sync::{mpsc, oneshot};

use super::clock::monotonic_ns;
use super::counts::Pace;
use super::exports::Exports;
use super::links::Links;
use super::listeners::Listeners;
use super::machine::{Machine, Role, SuccessorRole};
use super::migration::Migrations;
use super::operators::Operators;
use super::renewal::Renewal;
use super::standstill::Standstill;
use super::supervisor::Supervisor;
use super::{Driver, Identity};
use crate::application::{Application, FromApplication};
use crate::connections::Connections;
use crate::control::session::SessionConfig;
use crate::control::{Control, Ownership, Reserve};
use crate::draining::Drain;
use crate::error::{Doing, Error, Result};
use crate::lifecycle::Served;
use crate::link::channel::Receiver;
use crate::process::output::{self, Output};
use crate::process::signal::Signals;
use crate::resources::Resources;
use crate::settings::Settings;

/// What a successor starts with.
pub(crate) struct Inherited {
    pub(crate) machine: Successor,
    pub(crate) joined: Joined,
    pub(crate) receiver: Receiver,
    pub(crate) links: Vec<(LinkItem, OwnedFd)>,
    pub(crate) ownership: Ownership,
}

/// The driver of a first start.
pub(crate) fn start_first(
    settings: Settings,
    local: Local,
    signals: Signals,
    ownership: Ownership,
) -> (mpsc::UnboundedSender<FromApplication>, Connections) {
    let (application, says) = mpsc::unbounded_channel();
    let part = Application::new(says, None);
    let mut driver = Driver::new(settings, local, signals, Role::First, Generation::FIRST, ownership, part);
    // Operators can ask from the beginning, and a successor is told to ask again.
    driver.listeners.open_all();
    driver.listeners.serves();
    let connections = driver.connections.clone();
    tokio::spawn(driver.run());
    (application, connections)
}

/// The driver of a successor that has its inventory.
pub(crate) fn start_successor(
    settings: Settings,
    local: Local,
    signals: Signals,
    inherited: Inherited,
) -> Result<(mpsc::UnboundedSender<FromApplication>, Connections, oneshot::Receiver<Error>)> {
    let Inherited { machine, joined, receiver, links, ownership } = inherited;
    let (application, says) = mpsc::unbounded_channel();
    let (failed, failure) = oneshot::channel();
    let part = Application::new(says, Some(failed));
    let (generation, handoff) = (joined.generation, joined.handoff.clone());
    let role = Role::Successor(Box::new(SuccessorRole { machine, joined, since: Instant::now() }));
    let mut driver = Driver::new(settings, local, signals, role, generation, ownership, part);
    driver.links.begin(&handoff, receiver);
    for (item, fd) in links {
        let inherited = driver.links.inherit(&item, fd);
        inherited.doing(|| format!("the link to generation {}", item.generation))?;
    }
    let connections = driver.connections.clone();
    tokio::spawn(driver.run());
    Ok((application, connections, failure))
}

impl Driver {
    fn new(
        settings: Settings,
        local: Local,
        signals: Signals,
        role: Role,
        generation: Generation,
        ownership: Ownership,
        application: Application,
    ) -> Self {
        // The first question finds out where the kernel answers it without a system call, which takes longer
        // than all that is to be done while no process accepts.
        monotonic_ns();
        let (connections, migrations) = Connections::new(generation);
        connections.set_paced();
        connections.metrics().build(&local.process.version);
        let (requests, requested) = mpsc::channel(64);
        let us = local.process.to_string().into();
        let sessions = SessionConfig::new(us, &settings.timing, requests, application.watch_lifecycle());
        let control = Control::new(ownership, &settings.path, sessions.clone(), settings.users.clone());
        let told = match &role {
            Role::Successor(successor) => successor.joined.manager.as_ref(),
            _ => None,
        };
        let supervisor = Supervisor::find(&settings, signals, told);
        let attempt = std::env::var(hotupdate_proto::environment::ATTEMPT).ok();
        output::leave_what_is_gone();
        Self {
            identity: Identity { local, generation, attempt, since: Instant::now() },
            machine: Machine::new(role),
            links: Links::new(settings.timing.write),
            listeners: Listeners::new(control, &settings),
            application,
            exports: Exports::default(),
            operators: Operators::new(generation, sessions, requested),
            pace: Pace::default(),
            migrations: Migrations::new(migrations),
            supervisor,
            renewal: Renewal::new(&settings),
            output: Output::of_this_process(),
            drain: Drain::new(),
            connections,
            results: mpsc::channel(16),
            stops: 0,
            standstill: Standstill::default(),
            rebound: None,
            settings,
        }
    }

    /// The application is ready: a first start serves, and a successor says so to the incumbent.
    pub(super) async fn make_ready(
        &mut self,
        mut resources: Resources,
        ready: Ready,
        reply: oneshot::Sender<Result<Served>>,
    ) {
        self.exports.register(&mut resources);
        self.migrations.handlers = std::mem::take(&mut resources.handlers);
        let hooks = std::mem::take(&mut resources.hooks);
        self.application.is_ready(hooks, resources.tasks.clone(), reply);
        self.operators.warn(std::mem::take(&mut resources.warnings));
        self.listeners.claim(resources);
        if let Err(error) = self.look_for_room() {
            return self.give_up(error).await;
        }
        if let Role::First = self.machine.role {
            self.serve_first().await;
        } else {
            let ready = Ready { accepts: self.migrations.kinds(), ..ready };
            self.handle_successor(successor::Event::Ready(ready)).await;
        }
    }

    /// A process that cannot open another descriptor cannot accept either. Nothing has stopped yet.
    fn look_for_room(&mut self) -> Result<()> {
        Reserve::default().fill().doing(|| "looking for room for connections".to_owned())?;
        if let Role::First = self.machine.role { self.listeners.open() } else { Ok(()) }
    }

    async fn serve_first(&mut self) {
        let machine = Incumbent::first(self.identity.local.clone());
        let machine = machine.with_hook(self.application.has_hook());
        let mut machine = machine.accepting(self.migrations.kinds());
        let greeting = machine.greet();
        self.machine.role = Role::Incumbent(Box::new(machine));
        self.count_on();
        self.serve();
        self.perform(greeting).await;
    }

    /// This process serves: tells the application and the supervisor.
    pub(super) fn serve(&mut self) {
        self.identity.since = Instant::now();
        self.output.leave_the_pipe();
        self.listeners.serves();
        self.application.serve(self.exports.take());
        self.supervisor.ready();
    }

    pub(super) async fn give_up(&mut self, error: Error) {
        let reason = error.reason();
        let serves_on = match &self.machine.role {
            Role::Successor(successor) => successor.serves_on(),
            _ => None,
        };
        self.application.gives_up(error.while_served_by(serves_on));
        self.handle_successor(successor::Event::GiveUp(reason)).await;
        self.machine.role = Role::Failed;
    }

    /// Something went wrong in the application. The incumbent hears of it now: what follows may be the end of
    /// this process.
    pub(super) async fn trouble(&mut self, what: String, told: oneshot::Sender<()>) {
        self.application.is_in_trouble(what.clone());
        self.handle_successor(successor::Event::Trouble(what)).await;
        let _ = tokio::time::timeout(self.settings.timing.write, self.links.flushed()).await;
        drop(told);
    }

    /// `Starting` was dropped, so that it is never going to be ready.
    pub(super) async fn application_gave_up(&mut self) {
        if let Role::First = self.machine.role {
            self.listeners.remove_control_socket();
        }
        let why = self.application.why_it_gave_up();
        // A reason of `ready` itself begins with these words already.
        let what = why.strip_prefix("becoming ready: ").unwrap_or(&why);
        self.give_up(Error::misuse("becoming ready", what)).await;
    }
}
