//! The one task that owns the state of a process: its machine, its links, its listeners.
//!
//! Deliberately absent: decisions. The machines of `hotupdate-proto` decide; this task brings them what happened and does
//! what they say (`driver/incumbent.rs`).

mod application;
mod drain;
mod incumbent;
mod inventory;
mod link_events;
mod moves;
mod operators;
mod report;
mod signals;
mod status;
mod successor;
mod supervisor;

pub(crate) use application::{Inherited, start_first, start_successor};
#[cfg(feature = "test-util")]
pub(crate) use incumbent::from_text;
#[cfg(feature = "test-util")]
pub(crate) use moves::{check, describe};

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::process::{Child, ExitStatus};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hotupdate_proto::incumbent::{Event as IncumbentEvent, Incumbent, Local, Stopped};
use hotupdate_proto::inventory::UnreadLink;
use hotupdate_proto::message::Ready;
use hotupdate_proto::operator::{LastFailure, LastHandoff};
use hotupdate_proto::successor::Event as SuccessorEvent;
use hotupdate_proto::{ConnectionRow, Generation, Joined, ListenerItem, StateItem, Successor};
use tokio::sync::{Notify, broadcast, mpsc, oneshot, watch};
use tokio::time::{Interval, sleep_until};
use tracing::{Instrument, Span};

use self::moves::Moves;
use crate::connections::Connections;
use crate::connections::MigrationRequest;
use crate::control::Control;
use crate::control::session::{self, Outcome, Request, SessionConfig};
use crate::error::{Error, Result};
use crate::lifecycle::{Lifecycle, Served};
use crate::link::channel::Receiver;
use crate::link::{Heard, Link, LinkId};
use crate::listeners::gate::GateControl;
use crate::listeners::inherited::Origin;
use crate::migration;
use crate::process::signal::{Signal, Signals};
use crate::process::spawn::Program;
use crate::settings::Settings;
use crate::state::Export;
use crate::systemd::Manager;
use crate::tasks::{Hook, Tasks};

/// Rows that are remembered of one predecessor.
const MAX_ROWS: usize = 200_000;

/// What predecessors say before this process serves, after which their links are not read until it does.
const MAX_DEFERRED: usize = 256;

/// What the application says to its driver. That the sender is gone before `Ready` means that it gave up.
pub(crate) enum Application {
    Ready { resources: Resources, ready: Ready, reply: oneshot::Sender<Result<Served>> },
}

/// Everything a process serves with.
#[derive(Default)]
pub(crate) struct Resources {
    pub(crate) gates: Vec<(Arc<dyn GateControl>, Origin)>,
    pub(crate) descriptors: Vec<(ListenerItem, OwnedFd, Origin)>,
    pub(crate) exports: Vec<Export>,
    /// What accepts connections of other versions.
    pub(crate) handlers: Vec<migration::Handler>,
    /// What the application does before another process takes over from this one.
    pub(crate) hooks: Vec<Hook>,
    pub(crate) tasks: Tasks,
    /// Names under which the descriptor store may have something that this process does not use.
    pub(crate) stale: Vec<String>,
    /// The application dropped a listener.
    pub(crate) dropped: Arc<Notify>,
}

/// What this process is at the moment.
enum Role {
    /// A first start that is not ready.
    First,
    /// A successor, until it serves.
    Successor(Box<SuccessorRole>),
    /// A process that serves or has served.
    Incumbent(Box<Incumbent>),
    /// A successor that failed.
    Failed,
}

struct SuccessorRole {
    machine: Successor,
    joined: Joined,
    since: Instant,
}

impl SuccessorRole {
    /// The incumbent, unless it is dead or has released this process.
    fn serves_on(&self) -> Option<String> {
        (!self.machine.can_serve_alone()).then(|| format!("process {}", self.joined.incumbent))
    }
}

/// Both ends of a queue: tasks that work for the driver get a sender.
type Both<T> = (mpsc::Sender<T>, mpsc::Receiver<T>);

/// State that was exported for an attempt.
type SealedState = Vec<(StateItem, OwnedFd)>;

/// What tasks that work for the driver bring back.
enum TaskResult {
    /// State for the inventory of a successor that may join.
    Exported {
        join: hotupdate_proto::Join,
        receiver: Box<Receiver>,
        sealed: io::Result<SealedState>,
    },
    /// The final state, after the accept loops stopped.
    Finished {
        stop: u64,
        stopped: Stopped,
        sealed: io::Result<SealedState>,
    },
    Rows(Vec<ConnectionRow>),
    Child {
        child: Child,
        attempt: String,
        status: io::Result<ExitStatus>,
    },
    /// Everything that the peer should know is in the kernel.
    Flushed,
}

/// An operator who waits for the outcome of a command.
struct PendingCommand {
    rollback: bool,
    reply: oneshot::Sender<Outcome>,
}

pub(crate) struct Driver {
    settings: Settings,
    local: Local,
    generation: Generation,
    attempt: Option<String>,
    since: Instant,
    role: Role,
    events: VecDeque<IncumbentEvent>,

    resources: Resources,
    exports: Arc<Vec<Export>>,
    control: Option<Control>,
    connections: Connections,

    application: mpsc::UnboundedReceiver<Application>,
    application_is_gone: bool,
    migrations: mpsc::UnboundedReceiver<MigrationRequest>,
    moves: Moves,
    ready: Option<oneshot::Sender<Result<Served>>>,
    ready_at: Option<Instant>,
    failed: Option<oneshot::Sender<Error>>,
    requests: mpsc::Receiver<Request>,
    sessions: SessionConfig,
    signals: Option<Signals>,
    program: Option<Program>,
    manager: Option<Manager>,
    /// The process that took over, which is the service's main process as soon as this one cannot serve again.
    new_main_pid: Option<u32>,

    /// The link to the other side of the handoff: a successor has the incumbent there, and the other way round.
    peer: Option<Link>,
    /// The handoff that is under way, or that this process drains after.
    span: Span,
    predecessors: HashMap<Generation, Link>,
    last_link_id: u64,
    heard: Both<(LinkId, Heard)>,
    /// What was heard from predecessors before this process served.
    deferred: VecDeque<(LinkId, Heard)>,
    done: Both<TaskResult>,
    sealed: SealedState,
    /// Counts stops and starts of the accept loops, so that a late export is recognised.
    stops: u64,
    /// After a standstill: no deadline counts before.
    catches_up: Option<Instant>,
    /// A listener that should be open is not.
    reopen_at: Option<Instant>,
    /// What the incumbent had read of links that are ours now.
    unread_link_bytes: Vec<UnreadLink>,

    lifecycle: watch::Sender<Lifecycle>,
    monitor: broadcast::Sender<session::Event>,
    pending_commands: Vec<PendingCommand>,
    rows: HashMap<Generation, BTreeMap<u64, (tokio::time::Instant, ConnectionRow)>>,
    last_handoff: Option<LastHandoff>,
    last_failure: Option<LastFailure>,

    progress: Interval,
    last_progress: Option<(hotupdate_proto::Summary, hotupdate_proto::Totals)>,
    draining: bool,
    drained: bool,
    rows_sent: bool,
    /// No successor follows: the control socket's file goes with us.
    stopping: bool,
    exiting: bool,
}

/// What the loop woke up for.
enum Wake {
    Application(Option<Application>),
    Migration(MigrationRequest),
    ListenerDropped,
    Request(Request),
    Heard(LinkId, Heard),
    Done(TaskResult),
    Signal(Signal),
    Deadline,
    Progress,
    Drained,
}

impl Drop for Resources {
    /// Whatever the application still holds leads nowhere: a listener that is forgotten here would keep clients waiting.
    fn drop(&mut self) {
        self.gates.iter().for_each(|(gate, _)| gate.close());
    }
}

impl Driver {
    async fn run(mut self) {
        while !self.is_over() {
            let wake = self.wait().await;
            let span = self.span_of(&wake);
            self.act(wake).instrument(span).await;
        }
        self.lifecycle.send_replace(Lifecycle::Drained);
    }

    /// What is said about this carries the name of the handoff that it belongs to.
    fn span_of(&self, wake: &Wake) -> Span {
        match wake {
            Wake::Heard(id, _) => {
                let links = self.peer.iter().chain(self.predecessors.values());
                links
                    .into_iter()
                    .find(|link| link.id == *id)
                    .map_or_else(Span::none, |link| link.span.clone())
            }
            // Somebody else wants to come, or cannot.
            Wake::Request(Request::Join(..)) | Wake::Done(TaskResult::Exported { .. }) => Span::none(),
            _ => self.span.clone(),
        }
    }

    async fn act(&mut self, wake: Wake) {
        match wake {
            Wake::Application(Some(Application::Ready { resources, ready, reply })) => {
                self.make_ready(resources, ready, reply).await;
            }
            Wake::Application(None) => {
                self.application_is_gone = true;
                if matches!(self.role, Role::First | Role::Successor(_)) {
                    self.application_gave_up().await;
                }
            }
            Wake::Migration(migration) => self.give(migration),
            Wake::ListenerDropped => self.forget_dropped_listeners(),
            Wake::Request(request) => self.request(request).await,
            Wake::Heard(id, heard) => self.hear(id, heard).await,
            Wake::Done(done) => self.done(done).await,
            Wake::Signal(signal) => self.signal(signal).await,
            Wake::Deadline if self.has_stood_still() => {}
            Wake::Deadline => self.tick().await,
            Wake::Progress => self.send_progress().await,
            Wake::Drained => {
                self.drained = true;
                let forced = self.connections.forced();
                self.log_drained();
                self.send_progress().await;
                self.incumbent(IncumbentEvent::Drained { forced }).await;
            }
        }
    }

    fn is_over(&self) -> bool {
        matches!(self.role, Role::Failed) || *self.lifecycle.borrow() == Lifecycle::Drained
    }

    async fn wait(&mut self) -> Wake {
        if let Role::Incumbent(_) = self.role
            && let Some((id, heard)) = self.deferred.pop_front()
        {
            return Wake::Heard(id, heard);
        }
        let deadline = self.deadline();
        let there = !self.application_is_gone;
        let draining = self.draining && !self.drained;
        let Self {
            resources,
            application,
            migrations,
            requests,
            heard,
            done,
            signals,
            progress,
            connections,
            ..
        } = self;
        tokio::select! {
            biased;
            Some((id, what)) = heard.1.recv() => Wake::Heard(id, what),
            Some(done) = done.1.recv() => Wake::Done(done),
            application = application.recv(), if there => Wake::Application(application),
            Some(migration) = migrations.recv() => Wake::Migration(migration),
            () = resources.dropped.notified() => Wake::ListenerDropped,
            Some(request) = requests.recv() => Wake::Request(request),
            signal = Signals::next(signals.as_mut()) => Wake::Signal(signal),
            () = until(deadline) => Wake::Deadline,
            () = nothing_left(connections, &resources.tasks), if draining => Wake::Drained,
            _ = progress.tick(), if draining => Wake::Progress,
        }
    }

    /// When to look up, if nothing happens.
    fn deadline(&self) -> Option<Instant> {
        let due = self.due()?;
        Some(self.catches_up.map_or(due, |until| due.max(until)))
    }

    fn due(&self) -> Option<Instant> {
        let machine = match &self.role {
            Role::Successor(successor) => successor.machine.deadline(),
            Role::Incumbent(machine) => machine.deadline(),
            Role::First | Role::Failed => None,
        };
        machine.into_iter().chain(self.moves.deadline()).chain(self.reopen_at).min()
    }

    /// A deadline that was missed by so much means that the whole process has stood still (SIGSTOP, a suspended machine).
    /// Then what has arrived meanwhile comes first, and those who read it have not had their turn yet.
    fn has_stood_still(&mut self) -> bool {
        const LATE: Duration = Duration::from_millis(100);
        const CATCH_UP: Duration = Duration::from_millis(50);
        let (now, Some(due)) = (Instant::now(), self.due()) else { return false };
        // Once for each deadline, so that a process that is always late ticks, too.
        let granted = self.catches_up.is_some_and(|until| until >= due);
        let late = !granted && now.saturating_duration_since(due) > LATE;
        if late {
            self.catches_up = Some(now + CATCH_UP);
        }
        late
    }

    async fn tick(&mut self) {
        if self.reopen_at.is_some_and(|at| Instant::now() >= at) {
            self.open_all();
        }
        match &self.role {
            Role::Successor(_) => self.successor(SuccessorEvent::Tick).await,
            _ => {
                self.tick_moves().await;
                self.incumbent(IncumbentEvent::Tick).await;
            }
        }
    }
}

/// Waits until no connection is open and no task runs.
async fn nothing_left(connections: &Connections, tasks: &Tasks) {
    loop {
        connections.wait_until_empty().await;
        if tasks.is_empty() {
            return;
        }
        tasks.wait_until_empty().await;
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
