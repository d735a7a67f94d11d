//! Processes, links and a clock, all of them pretended: what the machines are run in.
//!
//! A link is a socket pair: each end may be held by several processes, as a duplicated descriptor is, and
//! end-of-file comes when the last holder of the other end is gone and what it had said is read.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use hotupdate_proto::incumbent::{Local, Report};
use hotupdate_proto::message::{Generation, Join, Joined, Message, Process, Release, Versions};
use hotupdate_proto::migration::{InboundEffect, OutboundEffect};
use hotupdate_proto::operator::ProcessState;
use hotupdate_proto::{
    ConnectionKind, Deadline, FEATURE_MIGRATE, FEATURE_REBIND, FEATURE_TROUBLE, Fault, Incumbent, Refusal,
    Successor, Timing,
};

mod links;

mod time;

mod events;

mod driver;

mod oracle;

/// What one process puts on a link.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Packet {
    Join(Join),
    Reply(Result<Joined, Refusal>),
    /// A message, and the links whose descriptors ride on it.
    Message(Message, Vec<(Generation, End)>),
}

/// One end of a link: side 0 is the process that was there first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct End {
    pub(crate) link: usize,
    side: usize,
}

impl End {
    fn other(self) -> Self {
        Self { side: 1 - self.side, ..self }
    }
}

#[derive(Debug, Default)]
struct Side {
    /// What is on its way to this side.
    queue: VecDeque<Packet>,
    holders: BTreeSet<usize>,
}

/// What a driver has still to tell its machine.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Pending {
    HookDone,
    Stopped,
    Ready,
    Opened,
    Drained { forced: u64 },
}

#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "a world has a handful of them")]
enum Machine {
    Successor(Successor),
    Incumbent(Incumbent),
}

/// How the application of a process behaves.
#[derive(Clone, Debug)]
pub(crate) struct App {
    pub(crate) release: Release,
    /// It becomes ready; its accept loops stop; they open; its connections end on their own; and when forced.
    pub(crate) readies: bool,
    pub(crate) stops: bool,
    /// It has a hook that ends what only one process may do; the hook comes to an end.
    pub(crate) has_hook: bool,
    pub(crate) hook_ends: bool,
    pub(crate) opens: bool,
    /// It accepts connections of its predecessors.
    pub(crate) accepts: bool,
    pub(crate) drains: bool,
    pub(crate) ends: bool,
    pub(crate) versions: Versions,
    pub(crate) timing: Timing,
    pub(crate) max_draining: usize,
}

impl Default for App {
    fn default() -> Self {
        Self {
            release: Release::Now,
            readies: true,
            stops: true,
            has_hook: false,
            hook_ends: true,
            opens: true,
            accepts: false,
            drains: true,
            ends: true,
            versions: hotupdate_proto::VERSIONS,
            timing: Timing::default(),
            max_draining: 8,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Proc {
    machine: Machine,
    app: App,
    /// Its accept loops run.
    pub(crate) accepting: bool,
    /// The application does what only one process may do.
    pub(crate) works: bool,
    /// It holds the listeners, the control socket and the lock.
    pub(crate) holds: bool,
    /// The link to the successor, or of a successor to its incumbent.
    link: Option<End>,
    predecessors: BTreeMap<Generation, End>,
    reads_predecessors: bool,
    reads_one: Option<Generation>,
    /// What predecessors said before this process served.
    early: Vec<(Generation, Message)>,
    pub(crate) pending: VecDeque<Pending>,
    /// How its attempt ended, if it did.
    pub(crate) failed: Option<Fault>,
    pub(crate) alive: bool,
}

/// What was done about connections that migrate.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Migration {
    Outbound(OutboundEffect),
    Inbound(Generation, InboundEffect),
    /// The drain has begun.
    Drain,
    /// The process serves again: nothing drains.
    Undrain,
}

/// Something that can happen next, without any time passing.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    Deliver { end: End, reader: usize },
    EndOfFile { end: End, reader: usize },
    Perform(usize),
}

/// What happens to a message on its way.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Tamper {
    Drop,
    Repeat,
    /// It is overtaken by the next one.
    Late,
    Alter(Message),
}

pub(crate) struct World {
    pub(crate) now: Instant,
    pub(crate) procs: Vec<Proc>,
    links: Vec<[Side; 2]>,
    /// Every message that was sent: its sender, and its name.
    pub(crate) said: Vec<(usize, &'static str)>,
    pub(crate) reports: Vec<(usize, Report)>,
    /// What was done about connections that migrate, beside messages.
    pub(crate) migrations: Vec<(usize, Migration)>,
    /// Processes that became the service's main process.
    pub(crate) established: Vec<usize>,
    /// Processes that have got the control socket that was made again.
    pub(crate) rebound: Vec<usize>,
    pub(crate) fired: BTreeSet<Deadline>,
    /// How many actions may still happen before the world stands still.
    pub(crate) fuel: Option<usize>,
    pub(crate) tamper: Option<(usize, Tamper)>,
    pub(crate) tampered: Option<(usize, Message)>,
    late: Option<(End, Packet)>,
    /// Since when no process accepts, and the longest such time.
    dark: Option<Instant>,
    pub(crate) gap: Duration,
}

#[expect(clippy::disallowed_methods, reason = "a virtual clock has to begin somewhere")]
fn beginning() -> Instant {
    Instant::now()
}

/// A rollback.
pub(crate) fn resume() -> Message {
    let (links, history, reason) = (Vec::new(), Vec::new(), String::new());
    Message::Resume { stopped_at_ns: 0, links, history, counts: None, reason }
}

pub(crate) fn process(index: usize) -> Process {
    let pid = 100 + u32::try_from(index).expect("few processes");
    Process::new(format!("{pid:032x}"), pid, format!("v{index}"))
}

/// What its driver tells a machine about the process.
pub(crate) fn local(index: usize, app: &App) -> Local {
    Local {
        process: process(index),
        versions: app.versions,
        features: [FEATURE_MIGRATE, FEATURE_REBIND, FEATURE_TROUBLE].map(str::to_owned).to_vec(),
        timing: app.timing.clone(),
        max_draining: app.max_draining,
    }
}

/// The one kind of connection that there is.
pub(crate) fn kinds(app: &App) -> Vec<ConnectionKind> {
    let kind = ConnectionKind::new("http/1.1", None);
    app.accepts.then_some(kind).into_iter().collect()
}

impl World {
    /// One process that serves.
    pub(crate) fn new(app: App) -> Self {
        let mut world = Self {
            now: beginning(),
            procs: Vec::new(),
            links: Vec::new(),
            said: Vec::new(),
            reports: Vec::new(),
            migrations: Vec::new(),
            established: Vec::new(),
            rebound: Vec::new(),
            fired: BTreeSet::new(),
            fuel: None,
            tamper: None,
            tampered: None,
            late: None,
            dark: None,
            gap: Duration::ZERO,
        };
        world.first(app);
        world
    }

    fn add(&mut self, machine: Machine, app: App, serves: bool) -> usize {
        self.procs.push(Proc {
            machine,
            app,
            accepting: serves,
            works: serves,
            holds: serves,
            link: None,
            predecessors: BTreeMap::new(),
            reads_predecessors: serves,
            reads_one: None,
            early: Vec::new(),
            pending: VecDeque::new(),
            failed: None,
            alive: true,
        });
        self.procs.len() - 1
    }

    /// A first start.
    pub(crate) fn first(&mut self, app: App) -> usize {
        let index = self.procs.len();
        let machine = Incumbent::first(local(index, &app)).with_hook(app.has_hook).accepting(kinds(&app));
        let machine = Machine::Incumbent(machine);
        self.add(machine, app, true)
    }

    /// A process starts, and calls the one that serves if there is one.
    pub(crate) fn join(&mut self, app: App) -> usize {
        if self.fuel == Some(0) {
            return usize::MAX;
        }
        if self.owner().is_none() {
            return self.first(app);
        }
        let index = self.procs.len();
        let (machine, join) = Successor::join(self.now, local(index, &app), Some(format!("attempt {index}")));
        self.add(Machine::Successor(machine), app, false);
        self.call(index, join);
        index
    }

    fn call(&mut self, index: usize, join: Join) {
        let owner = self.owner().expect("a process answers on the control socket");
        self.links.push(<[Side; 2]>::default());
        let end = End { link: self.links.len() - 1, side: 1 };
        self.hold(end, index);
        self.hold(end.other(), owner);
        self.procs[index].link = Some(end);
        self.put(index, end, Packet::Join(join));
    }

    /// The process that reads the control socket: the newest that serves; while the loops are stopped, the
    /// one that stopped them.
    pub(crate) fn owner(&self) -> Option<usize> {
        let living = |index: &usize| self.procs[*index].alive && self.incumbent(*index).is_some();
        let newest = |accepting: bool| {
            (0..self.procs.len()).rev().find(|index| {
                living(index) && self.procs[*index].holds && self.procs[*index].accepting == accepting
            })
        };
        newest(true).or_else(|| newest(false))
    }

    pub(crate) fn incumbent(&self, index: usize) -> Option<&Incumbent> {
        match &self.procs[index].machine {
            Machine::Incumbent(machine) => Some(machine),
            Machine::Successor(_) => None,
        }
    }

    /// What the process is doing, as a status would say.
    pub(crate) fn state(&self, index: usize) -> ProcessState {
        match &self.procs[index].machine {
            _ if !self.procs[index].alive => ProcessState::Gone,
            Machine::Incumbent(machine) => machine.process_state(),
            Machine::Successor(machine) => machine.process_state(),
        }
    }

    pub(crate) fn waits_for(&self, index: usize) -> Option<(Deadline, Instant)> {
        match &self.procs[index].machine {
            _ if !self.procs[index].alive => None,
            Machine::Incumbent(machine) => machine.waits_for(),
            Machine::Successor(machine) => machine.waits_for(),
        }
    }

    pub(crate) fn living(&self) -> Vec<usize> {
        (0..self.procs.len()).filter(|index| self.procs[*index].alive).collect()
    }

    pub(crate) fn accepting(&self) -> Vec<usize> {
        self.living().into_iter().filter(|index| self.procs[*index].accepting).collect()
    }

    // ---- links ----------------------------------------------------------------------------------------
}
