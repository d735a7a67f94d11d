//! The one task that owns the state of a process: its machine, its links, its listeners.
//!
//! Deliberately absent: decisions. The machines of `hotupdate-proto` decide; this task brings them what happened and does
//! what they say (`driver/effects.rs`).

mod effects;
mod inventory;
mod report;
mod status;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Instant;

use hotupdate_proto::incumbent::{self, Incumbent};
use hotupdate_proto::inventory::LinkRest;
use hotupdate_proto::message::{Ready, Released};
use hotupdate_proto::operator::{LastFailure, LastHandoff, Monitored};
use hotupdate_proto::{
    ConnectionRow, Fault, Generation, Joined, LinkItem, ListenerItem, ListenerKind, Message, Refusal,
    StateItem, Successor, operator, successor,
};
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, broadcast, mpsc, oneshot, watch};
use tokio::time::{Interval, MissedTickBehavior, interval, sleep_until};

use crate::address::Address;
use crate::channel::Receiver;
use crate::config::{AfterDrain, Builder, random_hex};
use crate::connections::Connections;
use crate::control::{self, Ownership};
use crate::error::{Doing, Error, Result};
use crate::link::{Heard, Link, LinkId};
use crate::listener::{Acceptor, Gate, GateControl};
use crate::offered::Origin;
use crate::serving::{Lifecycle, Served};
use crate::session::{self, Outcome, Request, Rules};
use crate::signal::{Signal, Signals};
use crate::spawn::Program;
use crate::state::Export;

/// Callers on the control socket at the same time. More are turned away at once; they cost a descriptor each.
const MAX_SESSIONS: usize = 256;

/// Rows that are remembered of one predecessor.
const MAX_ROWS: usize = 200_000;

/// How often a predecessor tells how its drain goes, if there is something to tell.
const PROGRESS: std::time::Duration = std::time::Duration::from_millis(100);

/// What the application says to its driver. That the sender is gone before `Ready` means that it gave up.
pub(crate) enum Application {
    Ready { outfit: Outfit, ready: Ready, reply: oneshot::Sender<Result<Served>> },
}

/// Everything a process serves with.
#[derive(Default)]
pub(crate) struct Outfit {
    pub(crate) gates: Vec<(Arc<dyn GateControl>, Origin)>,
    pub(crate) descriptors: Vec<(ListenerItem, OwnedFd, Origin)>,
    pub(crate) exports: Vec<Export>,
}

/// What a successor starts with.
pub(crate) struct Inherited {
    pub(crate) machine: Successor,
    pub(crate) joined: Joined,
    pub(crate) receiver: Receiver,
    pub(crate) links: Vec<(LinkItem, OwnedFd)>,
    pub(crate) ownership: Ownership,
}

/// What this process is at the moment.
enum Role {
    /// A first start that is not ready.
    First,
    /// A successor, until it serves.
    Successor(Box<Succeeding>),
    /// A process that serves or has served.
    Incumbent(Box<Incumbent>),
    /// A successor that failed.
    Failed,
}

struct Succeeding {
    machine: Successor,
    joined: Joined,
    since: Instant,
}

/// The path's listener and its lock.
struct Control {
    gate: Arc<Gate<Acceptor>>,
    lock: OwnedFd,
}

/// State that was exported for an attempt.
type Sealed = Vec<(StateItem, OwnedFd)>;

/// What tasks that work for the driver bring back.
enum Done {
    /// State for the inventory of a successor that may join.
    Exported {
        join: hotupdate_proto::Join,
        receiver: Box<Receiver>,
        sealed: io::Result<Sealed>,
    },
    /// The final state, after the accept loops stopped.
    Finished {
        stop: u64,
        stopped: incumbent::Stopped,
        sealed: io::Result<Sealed>,
    },
    Rows(Vec<ConnectionRow>),
    Child {
        pid: u32,
        attempt: String,
        status: io::Result<ExitStatus>,
    },
    /// Everything that the peer should know is in the kernel.
    Flushed,
}

/// An operator who waits for the outcome of a command.
struct Waiting {
    rollback: bool,
    reply: oneshot::Sender<Outcome>,
}

pub(crate) struct Driver {
    settings: Builder,
    local: incumbent::Local,
    generation: Generation,
    attempt: Option<String>,
    since: Instant,
    role: Role,
    events: VecDeque<incumbent::Event>,

    outfit: Outfit,
    exports: Arc<Vec<Export>>,
    control: Option<Control>,
    connections: Connections,

    application: mpsc::Receiver<Application>,
    ready: Option<oneshot::Sender<Result<Served>>>,
    failed: Option<oneshot::Sender<Error>>,
    requests: mpsc::Receiver<Request>,
    rules: Rules,
    signals: Option<Signals>,
    program: Option<Program>,

    /// The link to the other side of the handoff: a successor has the incumbent there, and the other way round.
    peer: Option<Link>,
    predecessors: HashMap<Generation, Link>,
    last_link: u64,
    heard: (mpsc::Sender<(LinkId, Heard)>, mpsc::Receiver<(LinkId, Heard)>),
    done: (mpsc::Sender<Done>, mpsc::Receiver<Done>),
    sealed: Sealed,
    /// Counts stops and starts of the accept loops, so that a late export is recognised.
    stops: u64,
    /// What the incumbent had read of links that are ours now.
    rests: Vec<LinkRest>,

    lifecycle: watch::Sender<Lifecycle>,
    monitor: broadcast::Sender<Monitored>,
    waiting: Vec<Waiting>,
    rows: HashMap<Generation, BTreeMap<u64, ConnectionRow>>,
    last_handoff: Option<LastHandoff>,
    last_failure: Option<LastFailure>,

    progress: Interval,
    told: Option<hotupdate_proto::Summary>,
    draining: bool,
    drained: bool,
    rows_sent: bool,
    /// No successor follows: the control socket's file goes with us.
    stopping: bool,
    exiting: bool,
}

/// The driver of a first start.
pub(crate) fn start_first(
    settings: Builder,
    local: incumbent::Local,
    ownership: Ownership,
) -> (mpsc::Sender<Application>, Connections) {
    let (application, mut driver) = Driver::new(settings, local, Role::First, Generation::FIRST);
    driver.own(ownership);
    // Operators can ask from the beginning, and a successor is told to ask again.
    driver.open_control();
    let connections = driver.connections.clone();
    tokio::spawn(driver.run());
    (application, connections)
}

/// The driver of a successor that has its inventory.
pub(crate) fn start_successor(
    settings: Builder,
    local: incumbent::Local,
    inherited: Inherited,
) -> Result<(mpsc::Sender<Application>, Connections, oneshot::Receiver<Error>)> {
    let Inherited { machine, joined, receiver, links, ownership } = inherited;
    let generation = joined.generation;
    let write = settings.timing.write;
    let role = Role::Successor(Box::new(Succeeding { machine, joined, since: Instant::now() }));
    let (application, mut driver) = Driver::new(settings, local, role, generation);
    driver.own(ownership);
    let (stream, rest) = receiver.into_rest();
    let mut peer = Link::paused(driver.next_link(), stream, rest, driver.heard.0.clone(), write);
    peer.resume(None);
    driver.peer = Some(peer);
    for (item, fd) in links {
        let link = Link::inherited(driver.next_link(), fd, driver.heard.0.clone(), write)
            .doing(|| format!("the link to generation {}", item.generation))?;
        driver.predecessors.insert(item.generation, link);
    }
    let (failed, failure) = oneshot::channel();
    driver.failed = Some(failed);
    let connections = driver.connections.clone();
    tokio::spawn(driver.run());
    Ok((application, connections, failure))
}

/// What the loop woke up for.
enum Woken {
    Application(Option<Application>),
    Request(Request),
    Heard(LinkId, Heard),
    Done(Done),
    Signal(Signal),
    Deadline,
    Progress,
    Drained,
}

impl Driver {
    fn new(
        settings: Builder,
        local: incumbent::Local,
        role: Role,
        generation: Generation,
    ) -> (mpsc::Sender<Application>, Self) {
        let (application, applications) = mpsc::channel(1);
        let (requests_in, requests) = mpsc::channel(64);
        let lifecycle = watch::Sender::new(Lifecycle::Starting);
        let mut progress = interval(PROGRESS);
        progress.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let rules = Rules {
            hello: settings.timing.hello,
            write: settings.timing.write,
            requests: requests_in,
            lifecycle: lifecycle.subscribe(),
        };
        let driver = Self {
            local,
            program: settings.program(),
            settings,
            generation,
            attempt: std::env::var(crate::spawn::ATTEMPT).ok(),
            since: Instant::now(),
            role,
            events: VecDeque::new(),
            outfit: Outfit::default(),
            exports: Arc::default(),
            control: None,
            connections: Connections::default(),
            application: applications,
            ready: None,
            failed: None,
            requests,
            rules,
            signals: None,
            peer: None,
            predecessors: HashMap::new(),
            last_link: 0,
            heard: mpsc::channel(64),
            done: mpsc::channel(16),
            sealed: Vec::new(),
            stops: 0,
            rests: Vec::new(),
            lifecycle,
            monitor: broadcast::Sender::new(64),
            waiting: Vec::new(),
            rows: HashMap::new(),
            last_handoff: None,
            last_failure: None,
            progress,
            told: None,
            draining: false,
            drained: false,
            rows_sent: false,
            stopping: false,
            exiting: false,
        };
        (application, driver)
    }

    async fn run(mut self) {
        while !self.is_over() {
            match self.wait().await {
                Woken::Application(Some(Application::Ready { outfit, ready, reply })) => {
                    self.make_ready(outfit, ready, reply).await;
                }
                Woken::Application(None) => self.application_is_gone().await,
                Woken::Request(request) => self.request(request).await,
                Woken::Heard(id, heard) => self.hear(id, heard).await,
                Woken::Done(done) => self.done(done).await,
                Woken::Signal(signal) => self.signal(signal).await,
                Woken::Deadline => self.tick().await,
                Woken::Progress => self.tell_progress().await,
                Woken::Drained => {
                    self.drained = true;
                    let forced = self.connections.forced();
                    self.tell_progress().await;
                    self.incumbent(incumbent::Event::Drained { forced }).await;
                }
            }
        }
        self.lifecycle.send_replace(Lifecycle::Drained);
    }

    fn is_over(&self) -> bool {
        matches!(self.role, Role::Failed) || *self.lifecycle.borrow() == Lifecycle::Drained
    }

    async fn wait(&mut self) -> Woken {
        let deadline = self.deadline();
        let starting = matches!(self.role, Role::First | Role::Successor(_));
        let draining = self.draining && !self.drained;
        let Self { application, requests, heard, done, signals, progress, connections, .. } = self;
        tokio::select! {
            biased;
            Some((id, what)) = heard.1.recv() => Woken::Heard(id, what),
            Some(done) = done.1.recv() => Woken::Done(done),
            application = application.recv(), if starting => Woken::Application(application),
            Some(request) = requests.recv() => Woken::Request(request),
            signal = Signals::next(signals.as_mut()) => Woken::Signal(signal),
            () = until(deadline) => Woken::Deadline,
            () = connections.empty(), if draining => Woken::Drained,
            _ = progress.tick(), if draining => Woken::Progress,
        }
    }

    fn deadline(&self) -> Option<Instant> {
        match &self.role {
            Role::Successor(succeeding) => succeeding.machine.deadline(),
            Role::Incumbent(machine) => machine.deadline(),
            Role::First | Role::Failed => None,
        }
    }

    async fn tick(&mut self) {
        match &self.role {
            Role::Successor(_) => self.successor(successor::Event::Tick).await,
            _ => self.incumbent(incumbent::Event::Tick).await,
        }
    }

    // ---- the application -----------------------------------------------------------------------------------------

    async fn make_ready(&mut self, outfit: Outfit, ready: Ready, reply: oneshot::Sender<Result<Served>>) {
        self.outfit = outfit;
        self.exports = Arc::new(std::mem::take(&mut self.outfit.exports));
        self.ready = Some(reply);
        match Signals::install(&self.settings) {
            Ok(signals) => self.signals = Some(signals),
            Err(error) => return self.give_up(error).await,
        }
        if matches!(self.role, Role::First) {
            if let Err(error) = self.open_gates() {
                return self.give_up(error).await;
            }
            self.role = Role::Incumbent(Box::new(Incumbent::first(self.local.clone())));
            self.serve(HashMap::new());
        } else {
            self.successor(successor::Event::Ready(ready)).await;
        }
    }

    async fn give_up(&mut self, error: Error) {
        let reason = error.to_string();
        if let Some(ready) = self.ready.take() {
            let _ = ready.send(Err(error));
        }
        if matches!(self.role, Role::Successor(_)) {
            self.successor(successor::Event::GiveUp(reason)).await;
        }
        self.role = Role::Failed;
    }

    /// `Starting` was dropped, so nobody is going to say that it is ready.
    async fn application_is_gone(&mut self) {
        if let (Role::First, Some(control)) = (&self.role, &self.control)
            && let Ok(ownership) = control.ownership()
        {
            control::remove(&self.settings.path, &ownership);
        }
        let error = Error::misuse("becoming ready", "the application gave up before it was ready");
        self.give_up(error).await;
    }

    /// This process serves; tells the application.
    fn serve(&mut self, state: HashMap<String, crate::state::State>) {
        self.since = Instant::now();
        self.lifecycle.send_replace(Lifecycle::Serving);
        if let Some(ready) = self.ready.take() {
            let _ = ready.send(Ok(Served { lifecycle: self.lifecycle.subscribe(), state }));
        }
    }

    // ---- links ---------------------------------------------------------------------------------------------------

    fn next_link(&mut self) -> LinkId {
        self.last_link += 1;
        LinkId(self.last_link)
    }

    async fn hear(&mut self, id: LinkId, heard: Heard) {
        if self.peer.as_ref().is_some_and(|peer| peer.id == id) {
            return match &self.role {
                Role::Successor(_) => self.hear_incumbent(heard).await,
                _ => self.hear_successor(heard).await,
            };
        }
        let generation =
            self.predecessors.iter().find(|(_, link)| link.id == id).map(|(generation, _)| *generation);
        let Some(generation) = generation else { return };
        let event = match heard {
            Heard::Message(message, _) => {
                self.remember_rows(generation, &message);
                incumbent::Event::Predecessor(generation, message)
            }
            Heard::Closed(fault) => incumbent::Event::PredecessorClosed(generation, fault),
        };
        self.incumbent(event).await;
    }

    async fn hear_successor(&mut self, heard: Heard) {
        let event = match heard {
            Heard::Message(message, _) => incumbent::Event::Message(message),
            Heard::Closed(fault) => {
                self.peer = None;
                incumbent::Event::Closed(fault)
            }
        };
        self.incumbent(event).await;
    }

    async fn hear_incumbent(&mut self, heard: Heard) {
        let event = match heard {
            Heard::Message(message, descriptors) => {
                if let Message::Released(Released { state, links, .. }) = &message {
                    self.rests = links.clone();
                    self.sealed = state.iter().cloned().zip(descriptors).collect();
                }
                successor::Event::Message(message)
            }
            Heard::Closed(fault) => successor::Event::Closed(fault),
        };
        self.successor(event).await;
    }

    fn remember_rows(&mut self, generation: Generation, message: &Message) {
        let rows = self.rows.entry(generation).or_default();
        match message {
            Message::Connections { items } => {
                let room = MAX_ROWS.saturating_sub(rows.len());
                rows.extend(items.iter().take(room).map(|row| (row.id, row.clone())));
            }
            Message::Progress { closed, .. } => closed.iter().for_each(|id| drop(rows.remove(id))),
            _ => {}
        }
    }

    // ---- callers on the control socket ---------------------------------------------------------------------------

    async fn request(&mut self, request: Request) {
        match request {
            Request::Status(reply) => drop(reply.send(self.status())),
            Request::Monitor(reply) => drop(reply.send((self.status(), self.monitor.subscribe()))),
            Request::Connections(reply) => drop(reply.send(self.all_rows())),
            Request::Command(command, reply) => self.command(command, reply).await,
            Request::Join(join, receiver) => self.join(join, receiver),
        }
    }

    async fn command(&mut self, command: operator::Command, reply: oneshot::Sender<Outcome>) {
        let waits = match command {
            operator::Command::Handoff => Some(false),
            operator::Command::Rollback => Some(true),
            _ => None,
        };
        let Role::Incumbent(machine) = &mut self.role else {
            let _ = reply.send(Err(operator::OperatorError::NotServing));
            return;
        };
        match machine.command(Instant::now(), command) {
            Err(error) => drop(reply.send(Err(error))),
            Ok(effects) => {
                match waits {
                    Some(rollback) => self.waiting.push(Waiting { rollback, reply }),
                    None => drop(reply.send(Ok(None))),
                }
                self.perform(effects).await;
            }
        }
    }

    fn join(&mut self, join: hotupdate_proto::Join, receiver: Box<Receiver>) {
        let admitted = match &self.role {
            Role::Incumbent(machine) => machine.admits(&join),
            _ => Err(Refusal::Starting),
        };
        match admitted {
            Err(refusal) => {
                tracing::warn!(successor = %join.process, %refusal, "a successor is turned away");
                self.turn_away(&receiver, refusal);
            }
            Ok(()) => self.export(move |sealed| Done::Exported { join, receiver, sealed }),
        }
    }

    fn turn_away(&self, receiver: &Receiver, refusal: Refusal) {
        let (stream, write) = (receiver.stream().clone(), self.settings.timing.write);
        tokio::spawn(async move {
            if let Ok(bytes) = hotupdate_proto::frame::encode(&session::refused(&refusal)) {
                let _ = crate::channel::send(&stream, &bytes, &[], tokio::time::Instant::now() + write).await;
            }
        });
    }

    /// Asks the application for its state where it can block nobody.
    fn export(&self, done: impl FnOnce(io::Result<Sealed>) -> Done + Send + 'static) {
        let back = self.done.0.clone();
        if self.exports.is_empty() {
            // The answer is looked at next, and the queue is only that long if the driver is far behind.
            if let Err(mpsc::error::TrySendError::Full(done)) = back.try_send(done(Ok(Vec::new()))) {
                tokio::spawn(async move { back.send(done).await });
            }
            return;
        }
        let exports = self.exports.clone();
        tokio::task::spawn_blocking(move || {
            let sealed = exports.iter().map(Export::run).collect();
            drop(back.blocking_send(done(sealed)));
        });
    }

    async fn done(&mut self, done: Done) {
        match done {
            Done::Exported { join, receiver, sealed } => self.offer(join, *receiver, sealed).await,
            // The attempt that it was for has ended; the accept loops run again.
            Done::Finished { stop, .. } if stop != self.stops => {}
            Done::Finished { mut stopped, sealed, .. } => {
                let event = match sealed {
                    Ok(sealed) => {
                        stopped.state = sealed.iter().map(|(item, _)| item.clone()).collect();
                        self.sealed = sealed;
                        incumbent::Event::Stopped(stopped)
                    }
                    Err(error) => {
                        incumbent::Event::CannotStop(format!("the state cannot be exported: {error}"))
                    }
                };
                self.incumbent(event).await;
            }
            Done::Rows(rows) => self.send_rows(&rows),
            Done::Child { pid, attempt, status } => self.child_ended(pid, &attempt, status),
            Done::Flushed => drop(self.lifecycle.send_replace(Lifecycle::Drained)),
        }
    }

    // ---- signals ---------------------------------------------------------------------------------------------------

    async fn signal(&mut self, signal: Signal) {
        match signal {
            Signal::Successor => self.start_successor(),
            Signal::Stop if self.exiting => drop(self.lifecycle.send_replace(Lifecycle::Drained)),
            Signal::Stop => match &mut self.role {
                Role::Incumbent(machine) => {
                    if let Ok(effects) = machine.command(Instant::now(), operator::Command::Terminate) {
                        self.perform(effects).await;
                    }
                }
                _ => self.give_up(Error::refused("becoming ready", "stopped by a signal")).await,
            },
        }
    }

    fn start_successor(&mut self) {
        let Some(program) = &self.program else { return };
        let path = program.path().display().to_string();
        let attempt = random_hex();
        match program.start(&attempt) {
            Err(error) => {
                tracing::error!(path, %error, "the successor cannot be started; this process serves on")
            }
            Ok(mut child) => {
                let pid = child.id().unwrap_or_default();
                tracing::info!(path, pid, "started a successor");
                let back = self.done.0.clone();
                tokio::spawn(async move {
                    let status = child.wait().await;
                    let _ = back.send(Done::Child { pid, attempt, status }).await;
                });
            }
        }
    }

    fn child_ended(&mut self, pid: u32, attempt: &str, status: io::Result<ExitStatus>) {
        let how = match status {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        };
        let joined =
            self.last_failure.as_ref().is_some_and(|failure| failure.attempt.as_deref() == Some(attempt));
        if *self.lifecycle.borrow() == Lifecycle::Serving && !joined {
            tracing::error!(pid, how, "the successor ended before it served; this process serves on");
        }
    }

    // ---- progress of the drain -------------------------------------------------------------------------------------

    async fn tell_progress(&mut self) {
        let connections = self.connections.summary();
        let closed = self.connections.take_closed();
        if self.told == Some(connections) && closed.is_empty() {
            return;
        }
        self.told = Some(connections);
        self.incumbent(incumbent::Event::Progress { connections, closed }).await;
    }

    fn send_rows(&self, rows: &[ConnectionRow]) {
        /// About 200 bytes each, so that a message stays far below its limit.
        const BATCH: usize = 1000;
        let Some(peer) = &self.peer else { return };
        for items in rows.chunks(BATCH) {
            peer.send(&Message::Connections { items: items.to_vec() }, Vec::new());
        }
    }

    // ---- the control socket ------------------------------------------------------------------------------------------

    fn own(&mut self, ownership: Ownership) {
        let Ownership { listener, lock } = ownership;
        let address = Address::Unix(Some(self.settings.path.clone()));
        let gate = Gate::parked("control", ListenerKind::Unix, address, listener);
        let rules = self.rules.clone();
        tokio::spawn(accept_callers(gate.clone(), rules, self.settings.allowed.clone()));
        self.control = Some(Control { gate, lock });
    }

    fn open_control(&self) {
        if let Some(Control { gate, .. }) = &self.control
            && let Err(error) = gate.open()
        {
            tracing::error!(%error, "the control socket cannot be listened to");
        }
    }

    fn open_gates(&self) -> Result<()> {
        for (gate, _) in &self.outfit.gates {
            gate.open().doing(|| format!("opening the listener {:?}", gate.name()))?;
        }
        Ok(())
    }
}

impl Control {
    fn ownership(&self) -> io::Result<Ownership> {
        Ok(Ownership { listener: self.gate.duplicate()?, lock: self.lock.try_clone()? })
    }
}

async fn accept_callers(gate: Arc<Gate<Acceptor>>, rules: Rules, allowed: Vec<u32>) {
    let slots = Arc::new(Semaphore::new(MAX_SESSIONS));
    while let Some(accepted) = gate.accept_caller().await {
        let stream: UnixStream = match accepted {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "a caller on the control socket cannot be accepted");
                tokio::time::sleep(PROGRESS).await;
                continue;
            }
        };
        let uid = stream.peer_cred().map_or(u32::MAX, |credentials| credentials.uid());
        if !control::may(uid, &allowed) {
            tracing::warn!(uid, "a caller on the control socket is not allowed");
            tokio::spawn(session::refuse(stream, Refusal::NotAllowed { uid }, rules.write));
            continue;
        }
        match slots.clone().try_acquire_owned() {
            Ok(slot) => {
                let rules = rules.clone();
                tokio::spawn(async move {
                    session::serve(stream, rules).await;
                    drop(slot);
                });
            }
            Err(_) => tracing::warn!(
                limit = MAX_SESSIONS,
                "too many callers on the control socket; one is turned away"
            ),
        }
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

/// What the machines call faults when this side is to blame.
fn local(doing: &str, error: &io::Error) -> Fault {
    Fault::Local(format!("{doing}: {error}"))
}

/// The path of the control socket, for messages.
fn shown(path: &PathBuf) -> String {
    path.display().to_string()
}
