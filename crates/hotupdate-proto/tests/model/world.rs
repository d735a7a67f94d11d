//! Every state that the processes can be in together, and everything that can happen next.
//!
//! Time: what happens, happens at one and the same instant, but for deadlines, which fire at their own. So a
//! deadline may fire before or after anything that another process does, as if no two clocks had anything in
//! common; only what has arrived from the dead is heard first, as [`Event::Tick`] demands.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use hotupdate_proto::incumbent::{Event, Local};
use hotupdate_proto::message::{Message, Process as Name, Release};
use hotupdate_proto::operator::{Command, ProcessState};
use hotupdate_proto::{
    ConnectionKind, Deadline, FEATURE_MIGRATE, FEATURE_SUPERVISION, Incumbent, Successor, VERSIONS, successor,
};

use super::action::{Action, Options};
use super::kernel::{End, Id, Link, Said};
use super::manager::Manager;
use super::migration::{Connection, Connections, LATER, kinds, timing};
use super::process::{Held, Process, Role};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct World {
    pub(crate) procs: Vec<Arc<Process>>,
    pub(crate) links: Vec<Arc<Link>>,
    /// The control socket's file is there.
    pub(crate) path: bool,
    /// Connections migrate.
    pub(crate) moves: bool,
    /// The answer to a `prepare` is waited for longer than a drain takes.
    pub(crate) patient: bool,
    /// Much time has passed since the beginning.
    pub(crate) later: bool,
    /// So many generations may drain before the oldest is hurried.
    pub(crate) max_draining: usize,
    /// What is said arrives at once, and what has arrived is heard before calls, orders and deadlines, as the
    /// driver does it. Otherwise it may be late.
    pub(crate) prompt: bool,
    /// So often a process that meets a dying owner may look again: the deadline `find`.
    pub(crate) again: u8,
    /// So often an operator may still ask for something.
    pub(crate) orders: u8,
    /// So many may still die or hang.
    pub(crate) mishaps: u8,
    /// Only in the middle of a step.
    pub(crate) dying: Option<Dying>,
    /// There is no service to be lost: no process serves yet, it was stopped, or every process that could
    /// have gone on with it died.
    pub(crate) ended: bool,
    /// Connections that may be gone: with the only process that had them, or with one that had said that it
    /// holds them.
    pub(crate) lost: BTreeSet<Connection>,
    /// Connections that were forced.
    pub(crate) forced: BTreeSet<Connection>,
    /// It takes one process for the service.
    pub(crate) manager: Option<Manager>,
    /// A process said of another that it broke the protocol. None does.
    pub(crate) violation: bool,
}

/// This process dies in its step: it writes so many more messages.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Dying {
    pub(crate) process: Id,
    pub(crate) writes: usize,
    pub(crate) lost: bool,
}

/// The first instant.
#[expect(clippy::disallowed_methods, reason = "virtual time has to begin somewhere")]
fn now() -> Instant {
    static NOW: OnceLock<Instant> = OnceLock::new();
    *NOW.get_or_init(Instant::now)
}

impl World {
    /// The instant at which everything happens, but for deadlines.
    pub(crate) fn now(&self) -> Instant {
        if self.later { now() + LATER } else { now() }
    }

    pub(crate) fn local(&self, p: Id) -> Local {
        let pid = u32::try_from(p).expect("few processes");
        let process = Name::new(p.to_string(), pid, String::new());
        let supervised = self.manager.as_ref().map(|_| FEATURE_SUPERVISION.to_owned());
        let features = self.moves.then(|| FEATURE_MIGRATE.to_owned()).into_iter().chain(supervised).collect();
        let (timing, max_draining) = (timing(self.patient), self.max_draining);
        Local { process, versions: VERSIONS, features, timing, max_draining }
    }

    pub(crate) fn kinds(&self) -> Vec<ConnectionKind> {
        if self.moves { kinds() } else { Vec::new() }
    }

    /// No process was started yet.
    pub(crate) fn new(processes: usize, mishaps: u8) -> Self {
        Self {
            procs: vec![Arc::default(); processes],
            links: Vec::new(),
            path: false,
            moves: false,
            patient: false,
            later: false,
            max_draining: 8,
            prompt: false,
            again: 1,
            orders: 0,
            mishaps,
            dying: None,
            ended: true,
            lost: BTreeSet::new(),
            forced: BTreeSet::new(),
            manager: None,
            violation: false,
        }
    }

    /// The first of so many processes serves.
    pub(crate) fn serving(processes: usize, mishaps: u8) -> Self {
        Self::new(processes, mishaps).first_serves()
    }

    /// The same, and a service manager has started the first.
    pub(crate) fn supervised(processes: usize, mishaps: u8, hears_all: bool) -> Self {
        let mut world = Self::new(processes, mishaps);
        world.manager = Some(Manager::new(hears_all));
        world.first_serves()
    }

    fn first_serves(mut self) -> Self {
        for action in [Action::Start(0), Action::Find(0), Action::Ready(0)] {
            self.act(&action, Release::Now);
        }
        self
    }

    pub(crate) fn living(&self) -> impl Iterator<Item = (Id, &Process)> {
        self.procs.iter().map(|process| &**process).enumerate().filter(|(_, process)| process.lives())
    }

    /// All that can happen, the likeliest first.
    pub(crate) fn actions(&self, options: &Options, actions: &mut Vec<Action>) {
        self.actions_of_itself(actions);
        let absent = self.procs.iter().position(|process| process.role == Role::Absent);
        actions.extend(absent.map(Action::Start));
        for (p, process) in self.living().filter(|(_, process)| !process.hangs) {
            self.actions_of_the_application(p, process, options, actions);
            let waits = self.prompt && self.has_to_hear(process);
            if process.incumbent().is_some() && self.orders > 0 && !waits {
                actions.extend(options.commands.iter().map(|command| Action::Command(p, command.clone())));
            }
            if self.mishaps == 0 {
                continue;
            }
            actions.push(Action::Crash(p));
            if options.hangs && process.successor().is_some() {
                actions.push(Action::Hang(p));
            }
        }
        let is_under_way = |machine: &Incumbent| machine.outbound().deadline().is_some();
        if !self.later && self.living().any(|(_, process)| process.incumbent().is_some_and(is_under_way)) {
            actions.push(Action::TimePasses);
        }
        if self.mishaps > 0 {
            let steps = actions.iter().filter(|a| {
                !matches!(a, Action::Crash(_) | Action::Hang(_) | Action::TimePasses | Action::ManagerHears)
            });
            let dies =
                |step: &Action| [0, 1, 2].map(|written| Action::DieIn(Box::new(step.clone()), written));
            actions.extend(steps.flat_map(dies).collect::<Vec<_>>());
        }
    }

    fn has_to_hear(&self, process: &Process) -> bool {
        self.ends()
            .any(|end| process.reads(end) && (!self.queue(end).is_empty() || !self.is_held(end.other())))
    }

    /// Messages on their way and deadlines.
    pub(crate) fn actions_of_itself(&self, actions: &mut Vec<Action>) {
        if self.manager.as_ref().is_some_and(Manager::has_to_hear) {
            actions.push(Action::ManagerHears);
        }
        for (p, process) in self.living().filter(|(_, process)| !process.hangs) {
            if !process.answers.is_empty() {
                actions.push(Action::Confirmed(p));
            }
            if self.has_dead_heir(process) {
                actions.push(Action::HeirEnded(p));
            }
            let (mut hears, mut hears_of_a_death) = (false, false);
            for end in self.ends().filter(|end| process.reads(*end)) {
                let dead = !self.is_held(end.other());
                hears_of_a_death |= dead || self.is_being_told_of_a_death(end);
                let waits = !self.queue(end).is_empty();
                hears |= waits || dead;
                if waits {
                    actions.push(Action::Deliver(p, end));
                } else if dead {
                    actions.push(Action::EndOfFile(p, end));
                }
            }
            if hears_of_a_death || (hears && self.prompt) {
                continue;
            }
            if process.role == Role::Finding && self.path == self.is_locked() {
                actions.push(Action::Find(p));
            }
            let calls =
                (0..self.links.len()).filter(|link| self.links[*link].backlog && process.control_open);
            actions.extend(calls.map(|link| Action::Accept(p, link)));
            if !self.prompt || self.manager.is_none() || !self.is_any_word_on_its_way() {
                actions.extend(process.waits_for().map(|_| Action::Deadline(p)));
            }
        }
    }

    /// Something is unread that was said to a process that reads, or to the manager.
    fn is_any_word_on_its_way(&self) -> bool {
        self.manager.as_ref().is_some_and(Manager::has_to_hear)
            || self.living().any(|(_, process)| {
                !process.hangs && (self.has_to_hear(process) || !process.answers.is_empty())
            })
    }

    /// The process at the other end is dead, and its end stays open only for moments: a descriptor of it is
    /// on its way to a successor, or in one that is about to hear the same.
    fn is_being_told_of_a_death(&self, end: End) -> bool {
        let mut heirs = self.living().filter(|(_, process)| process.has(end.other()));
        let on_its_way = self.is_on_its_way(end.other());
        let hears = |process: &Process| {
            let link = process.peer.filter(|held| held.reading && !process.hangs);
            link.is_some_and(|held| !self.queue(held.end).is_empty() || !self.is_held(held.end.other()))
        };
        heirs.all(|(_, process)| process.successor().is_some() && (on_its_way || hears(process)))
            && (on_its_way || self.procs.iter().any(|process| process.has(end.other())))
    }

    fn actions_of_the_application(
        &self,
        p: Id,
        process: &Process,
        options: &Options,
        actions: &mut Vec<Action>,
    ) {
        if process.warming || process.role == Role::First {
            actions.push(Action::Ready(p));
        }
        if process.stopping {
            actions.push(Action::Stopped(p));
        }
        if process.draining && !process.drained && process.connections.is_empty() {
            actions.push(Action::Drained(p));
        }
        if process.draining && process.connections.offers < options.offers {
            let serves = process.connections.serves.iter();
            actions.extend(serves.map(|connection| Action::Leave(p, *connection)));
        }
        if !options.failures {
            return;
        }
        if process.stopping {
            actions.push(Action::CannotStop(p));
        }
        if process.successor().is_some() && process.holds {
            actions.push(Action::GiveUp(p));
            let end = process.peer.map(|held| held.end).filter(|end| process.reads(*end));
            let next = end.and_then(|end| Some((end, self.queue(end).front()?)));
            if let Some((end, said)) = next
                && matches!(said, Said::Message(Message::Released(_), _))
            {
                actions.push(Action::CannotOpen(p, end));
            }
        }
    }

    /// Lets it happen; `false` if nothing came of it.
    pub(crate) fn act(&mut self, action: &Action, release: Release) -> bool {
        match *action {
            Action::Start(p) => {
                let supervision = self.supervision(p);
                self.process(p).supervision = supervision;
                self.process(p).role = Role::Finding;
            }
            Action::ManagerHears => self.manager_hears(),
            Action::Confirmed(p) => self.confirmed(p),
            Action::HeirEnded(p) => self.heir_ended(p),
            Action::Find(p) => self.find(p),
            Action::Accept(p, link) => self.called(p, link),
            Action::Deliver(p, end) => self.deliver(p, end),
            Action::EndOfFile(p, end) => self.end_of_file(p, end),
            Action::Deadline(p) => {
                let process = &self.procs[p];
                let (terminated, waits_for) = (process.terminated, process.waits_for());
                // What it was told to end cannot be given back, and so it stops.
                self.ended |= terminated && waits_for == Some(Deadline::Stop);
                self.deadline(p);
                // It may have been the last that could go on, besides processes that were told to end.
                if waits_for == Some(Deadline::Probation) {
                    self.take_stock();
                }
            }
            Action::Ready(p) => match self.procs[p].role {
                Role::First => self.first(p),
                _ => self.ready(p, release),
            },
            Action::Stopped(p) => self.stopped(p),
            Action::CannotStop(p) => {
                self.ended |= self.procs[p].terminated;
                self.process(p).stopping = false;
                self.incumbent_event(p, Event::CannotStop(String::new()));
            }
            Action::CannotOpen(p, _) | Action::GiveUp(p) => {
                self.successor_event(p, successor::Event::GiveUp(String::new()));
            }
            Action::Drained(p) => {
                self.process(p).drained = true;
                self.incumbent_event(p, Event::Drained { forced: 0 });
            }
            Action::Leave(p, connection) => self.leave(p, connection),
            Action::Command(p, ref command) => {
                let at = self.now();
                let Role::Incumbent(machine) = &mut self.process(p).role else { return false };
                let hands_over =
                    machine.process_state() == ProcessState::Serving && machine.successor().is_some();
                let Ok(effects) = machine.command(at, command.clone()) else { return false };
                self.orders -= 1;
                match command {
                    Command::Stop { .. } => self.ended = true,
                    Command::Terminate | Command::TerminateNow => {
                        // A successor that is on its way may fail, and then the service stops.
                        self.ended |= hands_over || *command == Command::TerminateNow;
                        self.process(p).terminated = true;
                    }
                    _ => {}
                }
                self.perform(p, effects);
            }
            Action::Crash(p) => {
                self.mishaps -= 1;
                let process = self.procs[p].clone();
                let Connections { serves, .. } = &process.connections;
                self.lost.extend(process.connections.held().chain(serves.iter().copied()));
                self.end(p);
                if self.manager.as_ref().is_some_and(|manager| manager.takes_for_the_service(p)) {
                    self.kill_all();
                }
            }
            Action::DieIn(ref step, written) => return self.die_in(step, written, release),
            Action::Hang(p) => {
                self.process(p).hangs = true;
                self.mishaps -= 1;
            }
            Action::TimePasses => self.later = true,
        }
        self.collect();
        if !action.is_of_itself() {
            self.take_stock();
        }
        true
    }

    fn find(&mut self, p: Id) {
        if !self.path {
            self.path = true;
            let process = self.process(p);
            (process.role, process.control, process.control_open) = (Role::First, true, true);
            return;
        }
        let (machine, join) = Successor::join(self.now(), self.local(p), None);
        let end = self.connect(join);
        let process = self.process(p);
        process.role = Role::Successor(Box::new(machine));
        process.peer = Some(Held { end, reading: true });
    }

    fn first(&mut self, p: Id) {
        let machine = Incumbent::first(self.local(p)).accepting(self.kinds());
        let process = self.process(p);
        process.role = Role::Incumbent(Box::new(machine));
        (process.accepting, process.holds) = (true, true);
        self.ended = false;
        self.serves_now(p);
    }

    fn deadline(&mut self, p: Id) {
        match &self.procs[p].role {
            Role::Incumbent(machine) => {
                let at = machine.deadline().expect("there is a deadline").max(self.now());
                self.incumbent_event_at(at, p, Event::Tick);
            }
            Role::Successor(machine) => {
                let at = machine.deadline().expect("there is a deadline").max(self.now());
                self.successor_event_at(at, p, successor::Event::Tick);
            }
            _ => self.end(p),
        }
    }

    fn die_in(&mut self, step: &Action, written: usize, release: Release) -> bool {
        let process = step.actor();
        self.dying = Some(Dying { process, writes: written, lost: false });
        let done = self.act(step, release);
        // Without a word that is lost it is as if it died afterwards.
        let lost = self.dying.take().is_some_and(|dying| dying.lost);
        done && lost && self.procs[process].lives() && self.act(&Action::Crash(process), release)
    }

    /// A process died or was told to stop: a service that no process is left to go on with has ended there
    /// and then.
    fn take_stock(&mut self) {
        let ended = self.heirs().all(|(_, process)| process.terminated);
        self.ended |= ended;
        let connections: Vec<_> = self.connections().filter(|c| !self.is_somewhere(*c)).collect();
        self.lost.extend(connections);
    }

    /// The processes that could go on with the service, and were not told otherwise.
    pub(crate) fn heirs(&self) -> impl Iterator<Item = (Id, &Process)> {
        self.living().filter(|(p, process)| process.holds && !process.hangs && !self.is_dismissed(*p))
    }

    /// It is on its way to this process that it should stop, or let go.
    fn is_dismissed(&self, p: Id) -> bool {
        let process = &self.procs[p];
        self.ends().filter(|end| process.has(*end)).any(|end| {
            // What `failed` means: to a successor its end; to an incumbent that of its successor; from a
            // predecessor, that another process serves.
            let says = process.generation_at(end);
            let mut obeys = process.successor().is_some() || says.is_some_and(|says| process.believes(says));
            self.queue(end).iter().any(|said| match said {
                Said::Message(Message::Failed { .. }, _) => obeys,
                Said::Message(Message::Farewell | Message::EndProbation, _) => true,
                Said::Message(Message::Serving { .. }, _) => process.is_orphan() && process.reads(end),
                Said::Message(Message::Resume { .. }, _) => {
                    obeys |= says.is_none();
                    false
                }
                _ => false,
            })
        })
    }

    /// Every connection that there was in the beginning.
    pub(crate) fn connections(&self) -> impl Iterator<Item = Connection> + use<> {
        1..=u64::from(self.moves)
    }

    /// Some living process has it, or it is on its way to one.
    pub(crate) fn is_somewhere(&self, connection: Connection) -> bool {
        self.living()
            .any(|(_, process)| process.connections.has(connection) || self.holds(process, connection))
            || self.ends().any(|end| self.carries(end, connection))
    }

    pub(crate) fn generation(&self, p: Id) -> Option<u64> {
        self.procs[p].incumbent().map(|machine| machine.generation().0)
    }

    pub(crate) fn first_connection(&mut self) {
        let machine = Incumbent::first(self.local(0)).accepting(self.kinds());
        let process = self.process(0);
        process.role = Role::Incumbent(Box::new(machine));
        process.connections.serves.insert(1);
    }

    pub(crate) fn serves(&self, p: Id) -> bool {
        self.procs[p].accepting
    }
}
