//! From the first line of a process to the moment at which it serves, or fails.
//!
//! Deliberately absent: the handoff itself, see `successor.rs`.

use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hotupdate_proto::incumbent::{self, Incumbent};
use hotupdate_proto::message::Ready;
use hotupdate_proto::{Generation, Joined, LinkItem, Successor, successor};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::time::{MissedTickBehavior, interval};
use tracing::Span;

use super::moves::Moves;
use super::{Application, Driver, Resources, Role, SuccessorRole};
use crate::connections::Connections;
use crate::control::Reserve;
use crate::control::session::SessionConfig;
use crate::control::{self, Ownership};
use crate::error::{Doing, Error, Result};
use crate::lifecycle::{Lifecycle, Served};
use crate::link::channel::Receiver;
use crate::link::{self, Link};
use crate::process::signal::Signals;
use crate::settings::Settings;
use crate::state::Arrived;
use crate::systemd::Manager;

/// How often a predecessor tells how its drain goes, if there is something to tell.
const PROGRESS: Duration = Duration::from_millis(100);

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
    local: incumbent::Local,
    ownership: Ownership,
) -> (mpsc::UnboundedSender<Application>, Connections) {
    let (application, mut driver) = Driver::new(settings, local, Role::First, Generation::FIRST);
    driver.own(ownership);
    // Operators can ask from the beginning, and a successor is told to ask again.
    driver.open_all();
    let connections = driver.connections.clone();
    tokio::spawn(driver.run());
    (application, connections)
}

/// The driver of a successor that has its inventory.
pub(crate) fn start_successor(
    settings: Settings,
    local: incumbent::Local,
    inherited: Inherited,
) -> Result<(mpsc::UnboundedSender<Application>, Connections, oneshot::Receiver<Error>)> {
    let Inherited { machine, joined, receiver, links, ownership } = inherited;
    let generation = joined.generation;
    let write = settings.timing.write;
    let span = link::span(&joined.handoff);
    let role = Role::Successor(Box::new(SuccessorRole { machine, joined, since: Instant::now() }));
    let (application, mut driver) = Driver::new(settings, local, role, generation);
    driver.own(ownership);
    let (stream, rest) = receiver.into_rest();
    driver.span = span;
    let mut peer =
        Link::paused(driver.next_link_id(), driver.span.clone(), stream, rest, driver.heard.0.clone(), write);
    peer.resume(None);
    driver.peer = Some(peer);
    for (item, fd) in links {
        let link = Link::inherited(
            driver.next_link_id(),
            link::span(&item.handoff),
            fd,
            driver.heard.0.clone(),
            write,
        )
        .doing(|| format!("the link to generation {}", item.generation))?;
        driver.predecessors.insert(item.generation, link);
    }
    let (failed, failure) = oneshot::channel();
    driver.failed = Some(failed);
    let connections = driver.connections.clone();
    tokio::spawn(driver.run());
    Ok((application, connections, failure))
}

impl Driver {
    fn new(
        settings: Settings,
        local: incumbent::Local,
        role: Role,
        generation: Generation,
    ) -> (mpsc::UnboundedSender<Application>, Self) {
        let (application, applications) = mpsc::unbounded_channel();
        let (connections, migrations) = Connections::new(generation);
        let moves = Moves::new(settings.timing.prepared);
        let (requests_in, requests) = mpsc::channel(64);
        let lifecycle = watch::Sender::new(Lifecycle::Starting);
        let mut progress = interval(PROGRESS);
        progress.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let us = local.process.to_string().into();
        let sessions = SessionConfig::new(us, &settings.timing, requests_in, lifecycle.subscribe());
        let driver = Self {
            local,
            program: settings.program(),
            manager: Manager::find(settings.descriptor_store),
            new_main_pid: None,
            settings,
            generation,
            attempt: std::env::var(hotupdate_proto::environment::ATTEMPT).ok(),
            since: Instant::now(),
            role,
            events: VecDeque::new(),
            resources: Resources::default(),
            exports: Arc::default(),
            control: None,
            connections,
            application: applications,
            application_is_gone: false,
            migrations,
            moves,
            ready: None,
            ready_at: None,
            failed: None,
            requests,
            sessions,
            signals: None,
            peer: None,
            span: Span::none(),
            predecessors: HashMap::new(),
            last_link_id: 0,
            // Each link holds a place while it waits for its next message.
            heard: mpsc::channel(256),
            deferred: VecDeque::new(),
            done: mpsc::channel(16),
            sealed: Vec::new(),
            stops: 0,
            catches_up: None,
            reopen_at: None,
            unread_link_bytes: Vec::new(),
            lifecycle,
            monitor: broadcast::Sender::new(64),
            pending_commands: Vec::new(),
            rows: HashMap::new(),
            last_handoff: None,
            last_failure: None,
            progress,
            last_progress: None,
            draining: false,
            drained: false,
            rows_sent: false,
            stopping: false,
            exiting: false,
        };
        (application, driver)
    }

    pub(super) async fn make_ready(
        &mut self,
        resources: Resources,
        ready: Ready,
        reply: oneshot::Sender<Result<Served>>,
    ) {
        self.resources = resources;
        self.exports = Arc::new(std::mem::take(&mut self.resources.exports));
        self.moves.handlers = std::mem::take(&mut self.resources.handlers);
        self.ready = Some(reply);
        self.ready_at = Some(Instant::now());
        // Whoever cannot open another descriptor cannot accept either. Nothing has stopped yet.
        let room = Reserve::default().fill().doing(|| "looking for room for connections".to_owned());
        if let Err(error) = room {
            return self.give_up(error).await;
        }
        match Signals::install(&self.settings) {
            Ok(signals) => self.signals = Some(signals),
            Err(error) => return self.give_up(error).await,
        }
        if matches!(self.role, Role::First) {
            if let Err(error) = self.open_gates() {
                return self.give_up(error).await;
            }
            let mut machine = Incumbent::first(self.local.clone());
            let greeting = machine.greet();
            self.role = Role::Incumbent(Box::new(machine));
            self.serve(HashMap::new());
            self.perform(greeting).await;
        } else {
            self.successor(successor::Event::Ready(ready)).await;
        }
    }

    pub(super) async fn give_up(&mut self, error: Error) {
        let reason = error.reason();
        let serves_on = match &self.role {
            Role::Successor(successor) => successor.serves_on(),
            _ => None,
        };
        let error = error.while_served_by(serves_on);
        if let Some(ready) = self.ready.take() {
            let _ = ready.send(Err(error));
        }
        if matches!(self.role, Role::Successor(_)) {
            self.successor(successor::Event::GiveUp(reason)).await;
        }
        self.role = Role::Failed;
    }

    /// `Starting` was dropped, so nobody is going to say that it is ready.
    pub(super) async fn application_gave_up(&mut self) {
        if let (Role::First, Some(control)) = (&self.role, &self.control)
            && let Ok(ownership) = control.ownership()
        {
            control::remove(&self.settings.path, &ownership);
        }
        let error = Error::misuse("becoming ready", "the application gave up before it was ready");
        self.give_up(error).await;
    }

    /// This process serves; tells the application.
    pub(super) fn serve(&mut self, state: HashMap<String, Arrived>) {
        self.since = Instant::now();
        self.lifecycle.send_replace(Lifecycle::Serving);
        self.resources.tasks.set_serving(true);
        if let Some(ready) = self.ready.take() {
            let _ = ready.send(Ok(Served { lifecycle: self.lifecycle.subscribe(), state }));
        }
        if let Some(manager) = &self.manager {
            manager.ready();
        }
    }
}
