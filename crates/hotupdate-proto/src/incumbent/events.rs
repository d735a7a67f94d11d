//! What the incumbent's machine is told, and what it wants done.

use std::time::{Duration, Instant};

use crate::counts::Counts;
use crate::error::{Fault, Refusal};
use crate::identity::{Generation, Process, Versions};
use crate::inventory::{Occupancy, SocketFile, StateItem, Summary, Totals, UnreadLink};
use crate::message::{Join, Joined, Message};
use crate::migration::{ConnectionKind, InboundEffect, Leaving, OutboundEffect};
use crate::operator::PastEvent;
use crate::timing::Timing;

/// What a process is and may do, for either machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Local {
    /// This process.
    pub process: Process,
    /// The protocol versions that we speak.
    pub versions: Versions,
    /// The optional abilities that we have.
    pub features: Vec<String>,
    /// How long we wait.
    pub timing: Timing,
    /// How many predecessors may drain at once before the oldest is hurried.
    pub max_draining: usize,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// A process wants to succeed this one. Ask [`Incumbent::admits`](super::Incumbent::admits) first, which
    /// is cheaper than an inventory.
    Join {
        /// What it said.
        join: Join,
        /// A name for this handoff in the logs.
        handoff: String,
        /// What it is going to get: the messages with a [`Message::batch`], numbered from 1.
        inventory: Vec<Message>,
        /// What this process has open.
        occupancy: Option<Occupancy>,
    },
    /// The control socket was made again, which [`Incumbent::may_rebind`](super::Incumbent::may_rebind)
    /// allowed.
    Rebound(SocketFile),
    /// The successor said something.
    Message(Message),
    /// The successor's link is closed ([`Fault::PeerGone`]: end-of-file, even in the middle of a message,
    /// `EPIPE` or `ECONNRESET`), or cannot be understood or written to (any other fault).
    Closed(Fault),
    /// The accept loops have stopped ([`Effect::Stop`] is done). Not said any more once [`Effect::Accept`]
    /// followed.
    Stopped(Stopped),
    /// The accept loops cannot be stopped, or the state cannot be exported.
    CannotStop(String),
    /// The application's hook has ended ([`Effect::BeforeRelease`] is done), or why it failed. Not said any
    /// more once [`Effect::Accept`] followed.
    BeforeReleaseDone(Result<(), String>),
    /// No connection is left; so many were forced.
    Drained {
        /// Connections closed at the deadline.
        forced: u64,
    },
    /// The live table changed; it is told at the pace that the caller chooses.
    Progress {
        /// What is left.
        connections: Summary,
        /// Ids of connections that ended since the last time.
        closed: Vec<u64>,
        /// What became of all of them.
        totals: Totals,
        /// The names of tasks of the application that keep the process alive.
        tasks: Vec<String>,
    },
    /// A predecessor said something.
    Predecessor(Generation, Message),
    /// A predecessor's link is closed ([`Fault::PeerGone`], as in [`Event::Closed`]), or cannot be
    /// understood; then it stays open and is read only for its end.
    PredecessorClosed(Generation, Fault),
    /// Connections of this process ask to leave ([`OutboundEffect::Accepted`] said which can).
    Leave(Vec<Leaving>),
    /// The descriptors of a batch from a predecessor are checked ([`InboundEffect::Inspect`] is done).
    Inspected {
        /// Which predecessor.
        from: Generation,
        /// The number of the batch.
        batch: u32,
        /// Connections that stay where they are.
        refused: Vec<u64>,
    },
    /// Time has passed. What has arrived comes before it: after a pause of the whole machine everything is
    /// due, and a death must not look like a delay.
    Tick,
}

/// What is known when the accept loops have stopped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Stopped {
    /// When, in nanoseconds of `CLOCK_MONOTONIC`.
    pub at_ns: u64,
    /// How long ago that is: exporting state takes time.
    pub ago: Duration,
    /// The connections that are open.
    pub connections: Summary,
    /// The final word of the application's state.
    pub state: Vec<StateItem>,
    /// The links to predecessors, which are not read now.
    pub links: Vec<UnreadLink>,
    /// What is remembered of the service, newest first.
    pub history: Vec<PastEvent>,
    /// What was counted of the service.
    pub counts: Option<Box<Counts>>,
}

/// What is to be done, in this order. Exhaustive on purpose: a driver has to perform every one of them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Answer the [`Event::Join`].
    Reply(Result<Joined, Refusal>),
    /// Say this to the successor.
    Send(Message),
    /// Say this to a predecessor.
    SendTo(Generation, Message),
    /// Close the successor's link, after what was said on it; nothing that arrives on it is an event any
    /// more.
    Close,
    /// Read the successor's link only for its end.
    Quiet,
    /// Let the application end what only one process may do; then [`Event::BeforeReleaseDone`], also if it
    /// has done so already. The accept loops go on meanwhile. Comes only if the application has a hook for
    /// it.
    BeforeRelease,
    /// Stop the accept loops, park the listeners, stop reading predecessors' links; then [`Event::Stopped`],
    /// also if they were stopped already.
    Stop,
    /// Run the accept loops (again), read the predecessors' links (again, after these bytes), and let the
    /// application do again what only one process may do. Ends a [`Effect::BeforeRelease`] or
    /// [`Effect::Stop`] that is not done: their events do not come any more.
    Accept(Vec<UnreadLink>),
    /// Read this predecessor's link again, though the accept loops are stopped: its answer is due.
    Read(Generation),
    /// Stop the accept loops if they run; close the listeners, the control socket and the lock; forget the
    /// predecessors. If the service stops, the file of the control socket goes, too.
    LetGo(Afterwards),
    /// The control socket was made again by the process that serves: what came with the message takes the
    /// place of what this process has of it.
    Rebound(SocketFile),
    /// No predecessor can take this process's place back (any more): it is the service's main process, and
    /// its listeners are the ones to keep.
    Established,
    /// Finish, move or close what is open; what is left then is forced. Comes again with an earlier deadline,
    /// or when the process that serves stops the service.
    Drain {
        /// When the rest is forced.
        until: Instant,
        /// Another process serves: clients that wait for nothing are told to leave at leisure, so that they
        /// do not all turn to it at once. Else they need not be waited for.
        is_succeeded: bool,
    },
    /// No drain after all.
    Undrain,
    /// Close every connection that is left.
    Force,
    /// The successor's link is from now on the link to a predecessor of this generation.
    Demote(Generation),
    /// The link to this predecessor is from now on the link to the process that serves.
    Promote(Generation),
    /// Close the link to this predecessor.
    Forget(Generation),
    /// Connections of this process leave for the one that serves.
    Outbound(OutboundEffect),
    /// Connections of this predecessor come here.
    Inbound(Generation, InboundEffect),
    /// Nothing is left to do.
    Exit,
    /// Log it, count it, tell operators: nothing else depends on it.
    Report(Report),
}

/// What becomes of the service when a process lets go of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Afterwards {
    /// Another process serves; its process id, if it is known.
    ServedBy(Option<u32>),
    /// No process serves, and one may start again: SIGTERM does not say.
    Stopped,
    /// An operator stopped the service.
    StoppedForGood,
}

/// What people and logs are told.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Report {
    /// A successor joined.
    Joined(Peer),
    /// A successor waits for a command.
    Standby(Peer),
    /// An attempt failed; we serve on.
    Failed {
        /// The successor that tried.
        peer: Peer,
        /// How far it had come.
        stage: &'static str,
        /// Why.
        fault: Fault,
    },
    /// The successor serves.
    Served {
        /// The process that serves now.
        peer: Peer,
        /// The time in which no process accepted, in nanoseconds.
        gap_ns: Option<u64>,
    },
    /// A predecessor came on with its drain.
    Progress(Generation),
    /// A predecessor is drained.
    Drained {
        /// Which.
        generation: Generation,
        /// Connections that it had to force.
        forced: u64,
    },
    /// A predecessor cannot take over any more.
    LetGo(Generation),
    /// A predecessor died with connections in it.
    Lost {
        /// Which.
        generation: Generation,
        /// What was left in it.
        connections: Summary,
    },
    /// The successor died in probation, we serve again.
    TookOver {
        /// The successor that died.
        peer: Peer,
        /// How we know.
        fault: Fault,
    },
    /// The service was given back; this process drains, and can take over again while its own probation
    /// lasts.
    RolledBack(Generation, Process),
    /// We serve again, because the process that served asked for it, or its successor did after its death.
    Resumed {
        /// The process that served until now.
        peer: Peer,
        /// Why, in its words.
        reason: String,
    },
    /// It was not given back, we serve on.
    RollbackFailed(String),
    /// The predecessor took the service back, because we were too slow to say that we serve.
    StoodDown(String),
    /// The application's hook failed, or did not end in time; the service stops all the same.
    BeforeReleaseFailed(String),
    /// The other side broke the protocol where it does no harm.
    Violation(Generation, String),
    /// We stop.
    Stopping,
}

/// A successor that joined.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Peer {
    /// The process itself.
    pub process: Process,
    /// The number it was given.
    pub generation: Generation,
    /// What its starter calls the attempt.
    pub attempt: Option<String>,
    /// The protocol version spoken with it.
    pub version: u16,
    /// The features that both have.
    pub features: Vec<String>,
    /// The kinds of live connections that it accepts, as it said when it was ready.
    pub accepts: Vec<ConnectionKind>,
    /// What went wrong in it last, in its words.
    pub trouble: Option<String>,
    /// The name of the handoff in logs.
    pub handoff: String,
    /// When it joined.
    pub since: Instant,
}
