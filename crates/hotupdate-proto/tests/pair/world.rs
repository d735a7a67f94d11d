//! Processes, links and a clock, all of them pretended: what the machines are run in.
//!
//! A link is a socket pair: each end may be held by several processes, as a duplicated descriptor is, and end-of-file
//! comes when the last holder of the other end is gone and what it had said is read. Deliberately absent: real time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use hotupdate_proto::incumbent::{self, Local, Report, Stopped};
use hotupdate_proto::inventory::LinkRest;
use hotupdate_proto::message::{Generation, Join, Joined, Message, Process, Ready, Release, Versions};
use hotupdate_proto::operator::{Command, OperatorError, ProcessState};
use hotupdate_proto::{
    Deadline, Fault, Incumbent, LinkItem, ListenerItem, ListenerKind, Refusal, Successor, Summary, Timing,
    successor,
};

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
    Stopped,
    Ready,
    Opened,
    Drained { forced: u64 },
}

#[derive(Debug)]
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
    pub(crate) opens: bool,
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
            opens: true,
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
    /// It holds the listeners, the control socket and the lock.
    pub(crate) holds: bool,
    /// The link to the successor, or of a successor to its incumbent.
    link: Option<End>,
    quiet: bool,
    predecessors: BTreeMap<Generation, End>,
    reads_predecessors: bool,
    reads_one: Option<Generation>,
    pub(crate) pending: VecDeque<Pending>,
    /// How its attempt ended, if it did.
    pub(crate) failed: Option<Fault>,
    pub(crate) alive: bool,
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
    /// Every message that was sent: by whom, and its name.
    pub(crate) said: Vec<(usize, &'static str)>,
    pub(crate) reports: Vec<(usize, Report)>,
    pub(crate) fired: BTreeSet<Deadline>,
    /// How many actions may still happen before the world stands still.
    pub(crate) fuel: Option<usize>,
    pub(crate) tamper: Option<(usize, Tamper)>,
    pub(crate) tampered: Option<(usize, Message)>,
    late: Option<(End, Packet)>,
    /// Since when nobody accepts, and the longest such time.
    dark: Option<Instant>,
    pub(crate) gap: Duration,
}

#[expect(clippy::disallowed_methods, reason = "a virtual clock has to begin somewhere")]
fn beginning() -> Instant {
    Instant::now()
}

pub(crate) fn process(index: usize) -> Process {
    let pid = 100 + u32::try_from(index).expect("few processes");
    Process { instance: format!("{pid:032x}"), pid, version: format!("v{index}") }
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

    fn local(index: usize, app: &App) -> Local {
        Local {
            process: process(index),
            versions: app.versions,
            features: vec!["migrate".to_owned()],
            timing: app.timing.clone(),
            max_draining: app.max_draining,
        }
    }

    fn add(&mut self, machine: Machine, app: App, serves: bool) -> usize {
        self.procs.push(Proc {
            machine,
            app,
            accepting: serves,
            holds: serves,
            link: None,
            quiet: false,
            predecessors: BTreeMap::new(),
            reads_predecessors: serves,
            reads_one: None,
            pending: VecDeque::new(),
            failed: None,
            alive: true,
        });
        self.procs.len() - 1
    }

    /// A first start.
    pub(crate) fn first(&mut self, app: App) -> usize {
        let index = self.procs.len();
        let machine = Machine::Incumbent(Incumbent::first(Self::local(index, &app)));
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
        let (machine, join) =
            Successor::join(self.now, Self::local(index, &app), Some(format!("attempt {index}")));
        self.add(Machine::Successor(machine), app, false);
        self.call(index, join);
        index
    }

    fn call(&mut self, index: usize, join: Join) {
        let owner = self.owner().expect("somebody answers on the control socket");
        self.links.push(<[Side; 2]>::default());
        let end = End { link: self.links.len() - 1, side: 1 };
        self.hold(end, index);
        self.hold(end.other(), owner);
        self.procs[index].link = Some(end);
        self.put(index, end, Packet::Join(join));
    }

    /// Who reads the control socket: the newest process that serves; while the loops are stopped, whoever stopped them.
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

    // ---- links ---------------------------------------------------------------------------------------------

    fn side(&mut self, end: End) -> &mut Side {
        &mut self.links[end.link][end.side]
    }

    fn hold(&mut self, end: End, index: usize) {
        self.side(end).holders.insert(index);
    }

    fn drop_end(&mut self, end: End, index: usize) {
        let side = self.side(end);
        side.holders.remove(&index);
        if side.holders.is_empty() {
            side.queue.clear();
        }
    }

    fn put(&mut self, from: usize, end: End, packet: Packet) {
        let to = end.other();
        let mut packets = vec![packet];
        if let Packet::Message(message, _) = &packets[0] {
            self.said.push((from, message.name()));
            let number = self.said.len() - 1;
            if let Some((_, tamper)) = self.tamper.take_if(|(at, _)| *at == number) {
                self.tampered = Some((from, message.clone()));
                match tamper {
                    Tamper::Drop => packets.clear(),
                    Tamper::Repeat => packets.push(packets[0].clone()),
                    Tamper::Late => self.late = packets.pop().map(|packet| (to, packet)),
                    Tamper::Alter(message) => packets = vec![Packet::Message(message, Vec::new())],
                }
            }
        }
        if self.side(to).holders.is_empty() {
            return;
        }
        let sent = !packets.is_empty();
        self.side(to).queue.extend(packets);
        if sent && self.late.as_ref().is_some_and(|(late, _)| *late == to) {
            let (_, packet) = self.late.take().expect("just looked");
            self.side(to).queue.push_back(packet);
        }
    }

    /// The process that reads this end now.
    fn reader(&self, end: End) -> Option<usize> {
        self.links[end.link][end.side].holders.iter().copied().find(|index| {
            let process = &self.procs[*index];
            let one = process.reads_one.and_then(|generation| process.predecessors.get(&generation));
            let reads = process.reads_predecessors && process.predecessors.values().any(|held| *held == end);
            process.link == Some(end) || one == Some(&end) || reads
        })
    }

    /// Everything that can happen now.
    pub(crate) fn actions(&self) -> Vec<Action> {
        let mut actions = Vec::new();
        for link in 0..self.links.len() {
            for side in 0..2 {
                let end = End { link, side };
                let Some(reader) = self.reader(end) else { continue };
                // A call that nobody has taken yet: the listener's queue, not yet a link.
                if !self.links[link][side].queue.is_empty() {
                    actions.push(Action::Deliver { end, reader });
                } else if self.links[link][1 - side].holders.is_empty() {
                    actions.push(Action::EndOfFile { end, reader });
                }
            }
        }
        // A `Join` waits at the control socket, on an end that no machine owns yet.
        for (link, sides) in self.links.iter().enumerate() {
            let waits = matches!(sides[0].queue.front(), Some(Packet::Join(_)));
            let end = End { link, side: 0 };
            match sides[0].holders.first() {
                Some(holder) if waits && self.reader(end).is_none() => {
                    actions.push(Action::Deliver { end, reader: *holder });
                }
                _ => {}
            }
        }
        for index in self.living() {
            if !self.procs[index].pending.is_empty() {
                actions.push(Action::Perform(index));
            }
        }
        actions
    }

    /// It is on its way to this process that another accepts, or that it should let go.
    pub(crate) fn is_dismissed(&self, index: usize) -> bool {
        let dismisses = |packet: &Packet| {
            matches!(packet, Packet::Message(Message::Failed { .. } | Message::Farewell | Message::Settle, _))
        };
        let sides = self.links.iter().flatten().filter(|side| side.holders.contains(&index));
        sides.flat_map(|side| &side.queue).any(dismisses)
    }

    /// What is on its way to this end.
    pub(crate) fn queue(&mut self, end: End) -> &mut VecDeque<Packet> {
        &mut self.side(end).queue
    }

    // ---- time and events -----------------------------------------------------------------------------------

    /// Lets one thing happen that needs no time; `false` if there is none, or the fuel is used up.
    pub(crate) fn step(&mut self) -> bool {
        if self.fuel == Some(0) {
            return false;
        }
        let Some(action) = self.actions().into_iter().next() else { return false };
        if let Some(fuel) = &mut self.fuel {
            *fuel -= 1;
        }
        self.act(action);
        true
    }

    /// Everything that needs no time.
    pub(crate) fn run(&mut self) {
        while self.step() {}
    }

    /// Lets time pass until the next deadline; `false` if there is none.
    pub(crate) fn tick(&mut self) -> bool {
        let Some(next) = self.living().into_iter().filter_map(|i| self.waits_for(i)).map(|(_, at)| at).min()
        else {
            return false;
        };
        if self.fuel == Some(0) {
            return false;
        }
        self.advance(next.saturating_duration_since(self.now));
        true
    }

    /// Lets this much time pass at once, and fires what is due.
    pub(crate) fn advance(&mut self, by: Duration) {
        self.fire(self.now + by, None);
    }

    fn fire(&mut self, now: Instant, asleep: Option<usize>) {
        self.now = self.now.max(now);
        self.check();
        for index in self.living() {
            if Some(index) != asleep {
                self.hear_of_deaths(index);
            }
            let due = self.waits_for(index).filter(|(_, at)| *at <= self.now && Some(index) != asleep);
            if let Some((deadline, _)) = due {
                self.fired.insert(deadline);
                self.event(index, incumbent::Event::Tick, successor::Event::Tick);
            }
        }
        self.check();
    }

    /// A driver reads before it looks at the clock, or else a pause of the whole machine turns deaths into delays. Here
    /// that is only done for links whose other end is dead: anything else may be late.
    fn hear_of_deaths(&mut self, index: usize) {
        let dead = |world: &Self, end: End| world.links[end.link][end.other().side].holders.is_empty();
        loop {
            let action = self.actions().into_iter().find(|action| match action {
                Action::Deliver { end, reader } => *reader == index && dead(self, *end),
                Action::EndOfFile { reader, .. } => *reader == index,
                Action::Perform(_) => false,
            });
            let Some(action) = action else { return };
            self.act(action);
        }
    }

    /// One process does nothing at all for so long, while the others and time go on.
    pub(crate) fn hang(&mut self, sleeper: usize, time: Duration) {
        let wakes = self.now + time;
        loop {
            let awake = |action: &Action| match action {
                Action::Deliver { reader, .. } | Action::EndOfFile { reader, .. } => *reader != sleeper,
                Action::Perform(performer) => *performer != sleeper,
            };
            if let Some(action) = self.actions().into_iter().find(awake) {
                self.act(action);
                continue;
            }
            let others = self.living().into_iter().filter(|index| *index != sleeper);
            match others.filter_map(|index| self.waits_for(index)).map(|(_, at)| at).min() {
                Some(at) if at <= wakes => self.fire(at, Some(sleeper)),
                _ => break,
            }
        }
        self.now = wakes;
    }

    /// Until nothing can happen any more.
    pub(crate) fn settle(&mut self) {
        self.fuel = None;
        for _ in 0..10_000 {
            self.run();
            if !self.tick() && !self.orphans_get_ready() {
                return;
            }
        }
        panic!("this never ends:\n{self}");
    }

    /// An application that has nobody left to wait for it gets ready some time, or is killed by people.
    fn orphans_get_ready(&mut self) -> bool {
        let mut found = false;
        for index in self.living() {
            let Machine::Successor(machine) = &self.procs[index].machine else { continue };
            let opening = machine.process_state() == ProcessState::Serving;
            if machine.can_serve_alone() {
                self.procs[index].app.opens = true;
                self.procs[index].pending.push_back(if opening { Pending::Opened } else { Pending::Ready });
                found = true;
            }
        }
        found
    }

    pub(crate) fn act(&mut self, action: Action) {
        match action {
            Action::Deliver { end, reader } => {
                let packet = self.side(end).queue.pop_front().expect("there is something to deliver");
                self.deliver(end, reader, packet);
            }
            Action::EndOfFile { end, reader } => {
                self.drop_end(end, reader);
                self.closed(end, reader, Fault::PeerGone);
            }
            Action::Perform(index) => {
                let pending = self.procs[index].pending.pop_front().expect("there is something to do");
                self.perform(index, pending);
            }
        }
        self.check();
    }

    fn generation_of(&self, index: usize, end: End) -> Option<Generation> {
        self.procs[index]
            .predecessors
            .iter()
            .find(|(_, held)| **held == end)
            .map(|(generation, _)| *generation)
    }

    fn deliver(&mut self, end: End, reader: usize, packet: Packet) {
        match packet {
            Packet::Join(join) => self.called(end, reader, join),
            Packet::Reply(reply) => self.successor_event(reader, successor::Event::Replied(reply)),
            Packet::Message(message, links) => {
                let holder = &mut self.procs[reader];
                if matches!(holder.machine, Machine::Successor(_)) {
                    holder.holds |= matches!(message, Message::Control { .. });
                    holder.predecessors.extend(links.iter().copied());
                    for (_, end) in links {
                        self.hold(end, reader);
                    }
                    self.successor_event(reader, successor::Event::Message(message));
                } else if let Some(generation) = self.generation_of(reader, end) {
                    self.incumbent_event(reader, incumbent::Event::Predecessor(generation, message));
                } else if !self.procs[reader].quiet {
                    self.incumbent_event(reader, incumbent::Event::Message(message));
                }
            }
        }
    }

    /// The link cannot be used any more, as `reader` sees it.
    pub(crate) fn closed(&mut self, end: End, reader: usize, fault: Fault) {
        match self.generation_of(reader, end) {
            Some(generation) if self.incumbent(reader).is_some() => {
                self.incumbent_event(reader, incumbent::Event::PredecessorClosed(generation, fault));
            }
            _ => {
                if fault == Fault::PeerGone {
                    self.procs[reader].link = None;
                }
                self.event(reader, incumbent::Event::Closed(fault.clone()), successor::Event::Closed(fault));
            }
        }
    }

    /// Garbage on the links that this process reads.
    pub(crate) fn garble(&mut self, index: usize) {
        let ends = self.procs[index].link.into_iter().chain(self.procs[index].predecessors.values().copied());
        for end in ends.collect::<Vec<_>>() {
            if self.reader(end) == Some(index) && self.procs[index].alive {
                self.closed(end, index, Fault::PeerMisbehaved("not a message".to_owned()));
            }
        }
    }

    fn called(&mut self, end: End, owner: usize, join: Join) {
        let inventory = self.inventory(owner);
        let taken = self.incumbent(owner).is_some_and(|machine| machine.admits(&join).is_ok());
        if taken {
            self.procs[owner].link = Some(end);
            self.procs[owner].quiet = false;
            let handoff = format!("h{}", end.link);
            self.incumbent_event(owner, incumbent::Event::Join { join, handoff, inventory });
        } else {
            let refusal = self.incumbent(owner).map(|machine| machine.admits(&join));
            let refusal = refusal.and_then(Result::err).unwrap_or(Refusal::Starting);
            self.put(owner, end, Packet::Reply(Err(refusal)));
            self.drop_end(end, owner);
        }
    }

    /// Three batches, or two if there are no older generations.
    fn inventory(&self, owner: usize) -> Vec<Message> {
        let item = ListenerItem {
            name: "http".to_owned(),
            kind: ListenerKind::Tcp,
            address: "0.0.0.0:3000".to_owned(),
            cookie: 7,
        };
        let mut inventory = vec![Message::Listeners { batch: 1, items: vec![item] }];
        let items: Vec<_> = self
            .incumbent(owner)
            .into_iter()
            .flat_map(Incumbent::predecessors)
            .map(hotupdate_proto::Predecessor::item)
            .collect();
        if !items.is_empty() {
            inventory.push(Message::Links { batch: 2, items });
        }
        let batch = u32::try_from(inventory.len()).expect("few batches") + 1;
        inventory.push(Message::Control { batch });
        inventory
    }

    fn perform(&mut self, index: usize, pending: Pending) {
        match pending {
            Pending::Ready => {
                let release = self.procs[index].app.release;
                let ready = Ready { adopted: vec!["http".to_owned()], release, ..Ready::default() };
                self.successor_event(index, successor::Event::Ready(ready));
            }
            Pending::Opened => {
                self.procs[index].accepting = true;
                self.successor_event(index, successor::Event::Opened { gap_ns: Some(1) });
            }
            Pending::Stopped => {
                self.procs[index].accepting = false;
                self.procs[index].reads_predecessors = false;
                let left = self.procs[index].predecessors.keys();
                let links = left.map(|g| LinkRest { generation: *g, unread: String::new() }).collect();
                let connections = Summary { idle: 2, active: 1, upgraded: 0 };
                let stopped = Stopped { at_ns: 1, connections, state: Vec::new(), links };
                self.incumbent_event(index, incumbent::Event::Stopped(stopped));
            }
            Pending::Drained { forced } => {
                self.incumbent_event(index, incumbent::Event::Drained { forced });
            }
        }
    }

    /// The event of whichever machine the process has now.
    pub(crate) fn event(&mut self, index: usize, older: incumbent::Event, newer: successor::Event) {
        match &self.procs[index].machine {
            Machine::Incumbent(_) => self.incumbent_event(index, older),
            Machine::Successor(_) => self.successor_event(index, newer),
        }
    }

    pub(crate) fn incumbent_event(&mut self, index: usize, event: incumbent::Event) {
        let Machine::Incumbent(machine) = &mut self.procs[index].machine else { return };
        let effects = machine.handle(self.now, event);
        self.incumbent_effects(index, effects);
    }

    pub(crate) fn successor_event(&mut self, index: usize, event: successor::Event) {
        let Machine::Successor(machine) = &mut self.procs[index].machine else { return };
        let effects = machine.handle(self.now, event);
        for effect in effects {
            self.successor_effect(index, effect);
        }
    }

    /// An operator asks the process that owns the control socket; `None` if the world stands still.
    pub(crate) fn command(&mut self, command: Command) -> Option<Result<(), OperatorError>> {
        let owner = self.owner().filter(|_| self.fuel != Some(0))?;
        Some(self.command_to(owner, command))
    }

    pub(crate) fn command_to(&mut self, index: usize, command: Command) -> Result<(), OperatorError> {
        let Machine::Incumbent(machine) = &mut self.procs[index].machine else {
            panic!("{index} does not serve")
        };
        let effects = machine.command(self.now, command)?;
        self.incumbent_effects(index, effects);
        self.check();
        Ok(())
    }

    /// One process says something to another, out of turn, on the link that they have.
    pub(crate) fn say(&mut self, from: usize, to: usize, message: Message) {
        let ends = |index: usize| {
            let process = &self.procs[index];
            process.link.into_iter().chain(process.predecessors.values().copied()).collect::<Vec<_>>()
        };
        let theirs = ends(to);
        let end = ends(from).into_iter().find(|end| theirs.contains(&end.other())).expect("they have a link");
        self.send(from, Some(end), message);
    }

    /// The process dies: all its descriptors are closed at once.
    pub(crate) fn kill(&mut self, index: usize) {
        self.procs[index].alive = false;
        self.procs[index].accepting = false;
        self.procs[index].holds = false;
        self.procs[index].pending.clear();
        self.procs[index].predecessors.clear();
        self.procs[index].link = None;
        for link in 0..self.links.len() {
            for side in 0..2 {
                let end = End { link, side };
                if self.side(end).holders.contains(&index) {
                    self.drop_end(end, index);
                }
            }
        }
        // What nobody reads and nobody will: a call that the control socket's next owner finds closed.
        self.check();
    }

    // ---- the driver ----------------------------------------------------------------------------------------

    fn incumbent_effects(&mut self, index: usize, effects: Vec<incumbent::Effect>) {
        for effect in effects {
            self.incumbent_effect(index, effect);
        }
    }

    fn send(&mut self, index: usize, end: Option<End>, message: Message) {
        let Some(end) = end else { return };
        let mut links = Vec::new();
        if let Message::Links { items, .. } = &message {
            for LinkItem { generation, .. } in items {
                // A driver duplicates the descriptors when it lists them; one that ended since is passed on, ended.
                let held = self.procs[index].predecessors.get(generation).copied();
                links.push((*generation, held.unwrap_or_else(|| self.ended_link())));
            }
        }
        self.put(index, end, Packet::Message(message, links));
    }

    fn ended_link(&mut self) -> End {
        self.links.push(<[Side; 2]>::default());
        End { link: self.links.len() - 1, side: 1 }
    }

    fn forget(&mut self, index: usize, generation: Generation) {
        if let Some(end) = self.procs[index].predecessors.remove(&generation) {
            self.drop_end(end, index);
        }
    }

    fn forget_all(&mut self, index: usize) {
        for generation in self.procs[index].predecessors.keys().copied().collect::<Vec<_>>() {
            self.forget(index, generation);
        }
    }

    fn close(&mut self, index: usize) {
        if let Some(end) = self.procs[index].link.take() {
            self.drop_end(end, index);
        }
    }

    fn incumbent_effect(&mut self, index: usize, effect: incumbent::Effect) {
        use incumbent::Effect as E;
        let link = self.procs[index].link;
        let process = &mut self.procs[index];
        match effect {
            E::Reply(reply) => self.put(index, link.expect("a call has a link"), Packet::Reply(reply)),
            E::Send(message) => self.send(index, link, message),
            E::SendTo(generation, message) => {
                let end = process.predecessors.get(&generation).copied();
                self.send(index, end, message);
            }
            E::Close => self.close(index),
            E::Quiet => process.quiet = true,
            E::Stop if process.app.stops => process.pending.push_back(Pending::Stopped),
            E::Stop => {}
            E::Accept(_) => {
                process.pending.retain(|pending| *pending != Pending::Stopped);
                assert!(process.holds, "accepts without listeners");
                process.accepting = true;
                process.reads_predecessors = true;
                process.reads_one = None;
            }
            E::Read(generation) => process.reads_one = Some(generation),
            E::LetGo => {
                process.pending.retain(|pending| *pending != Pending::Stopped);
                process.accepting = false;
                process.holds = false;
                process.reads_one = None;
                self.forget_all(index);
            }
            E::Drain { .. } if process.app.drains => {
                process.pending.retain(|pending| !matches!(pending, Pending::Drained { .. }));
                process.pending.push_back(Pending::Drained { forced: 0 });
            }
            E::Drain { .. } => {}
            E::Undrain => process.pending.retain(|pending| !matches!(pending, Pending::Drained { .. })),
            E::Force if process.app.ends => process.pending.push_back(Pending::Drained { forced: 3 }),
            E::Force => {}
            E::Demote(generation) => {
                let end = process.link.take().expect("a link to demote");
                process.quiet = false;
                process.predecessors.insert(generation, end);
            }
            E::Promote(generation) => {
                assert!(process.link.is_none(), "the successor's link was not closed");
                process.quiet = false;
                process.link = process.predecessors.remove(&generation);
            }
            E::Forget(generation) => self.forget(index, generation),
            E::Exit => self.kill(index),
            E::Report(report) => self.reports.push((index, report)),
        }
    }

    fn successor_effect(&mut self, index: usize, effect: successor::Effect) {
        use successor::Effect as E;
        let link = self.procs[index].link;
        let process = &mut self.procs[index];
        match effect {
            E::Send(message) => self.send(index, link, message),
            E::Close => self.close(index),
            E::Complete(_) if process.app.readies => process.pending.push_back(Pending::Ready),
            E::Complete(_) => {}
            E::StartOver => self.start_over(index),
            E::Open(_) if process.app.opens => process.pending.push_back(Pending::Opened),
            E::Open(_) => {}
            E::Serve(served) => self.serve(index, served),
            E::Fail(fault) => {
                process.failed = Some(fault);
                self.kill(index);
            }
        }
    }

    fn start_over(&mut self, index: usize) {
        let app = self.procs[index].app.clone();
        self.kill(index);
        // An orphan holds the lock, or its descriptor is on its way, and nobody answers yet: the wait for that ends.
        let on_its_way = |side: &Side| {
            side.queue.iter().any(|packet| matches!(packet, Packet::Message(Message::Control { .. }, _)))
        };
        let locked =
            self.procs.iter().any(|process| process.holds) || self.links.iter().flatten().any(on_its_way);
        if self.owner().is_some() || !locked {
            self.join(app);
        }
    }

    fn serve(&mut self, index: usize, served: successor::Served) {
        let successor::Served { joined, predecessors, gap_ns: _ } = served;
        let local = Self::local(index, &self.procs[index].app);
        let left: BTreeSet<_> = predecessors.iter().map(|p| p.generation).collect();
        let machine = Incumbent::serving(local, joined.generation, predecessors);
        self.procs[index].machine = Machine::Incumbent(machine);
        for generation in self.procs[index].predecessors.keys().copied().collect::<Vec<_>>() {
            if !left.contains(&generation) {
                self.forget(index, generation);
            }
        }
        let process = &mut self.procs[index];
        process.reads_predecessors = true;
        if let Some(end) = process.link.take() {
            process.predecessors.insert(joined.incumbent_generation, end);
        }
        let Machine::Incumbent(machine) = &mut self.procs[index].machine else { unreachable!("just made") };
        let effects = machine.greet();
        self.incumbent_effects(index, effects);
    }

    // ---- oracles -------------------------------------------------------------------------------------------

    /// What holds after every single step.
    fn check(&mut self) {
        for index in self.living() {
            let waits = self.waits_for(index).is_some();
            match &self.procs[index].machine {
                Machine::Incumbent(m) => {
                    let idle = m.accepts() && m.successor().is_none();
                    assert!(waits || idle || m.is_gone(), "{index} waits without a deadline: {m:?}");
                }
                Machine::Successor(m) => {
                    assert!(waits || m.can_serve_alone(), "{index} waits without a deadline: {m:?}");
                }
            }
        }
        if self.accepting().is_empty() && !self.living().is_empty() {
            let since = *self.dark.get_or_insert(self.now);
            self.gap = self.gap.max(self.now - since);
        } else {
            self.dark = None;
        }
    }

    /// What holds when nothing can happen any more: one process is there and serves, and nothing else is left.
    pub(crate) fn assert_one_serves(&self) -> usize {
        let (living, accepting) = (self.living(), self.accepting());
        assert_eq!(accepting.len(), 1, "exactly one accepts\n{self}");
        assert_eq!(living, accepting, "and nobody else is left\n{self}");
        self.assert_clean();
        let machine = self.incumbent(living[0]).expect("it serves");
        assert!(machine.accepts() && self.procs[living[0]].holds, "{self}");
        assert!(machine.successor().is_none() && machine.predecessors().is_empty(), "{self}");
        assert_eq!(machine.deadline(), None);
        living[0]
    }

    /// Nothing is on its way, nothing is held.
    pub(crate) fn assert_clean(&self) {
        for side in self.links.iter().flatten() {
            assert!(side.queue.is_empty() && side.holders.is_empty(), "a link leaked\n{self}");
        }
        for index in self.living() {
            let process = &self.procs[index];
            assert!(process.pending.is_empty() && process.link.is_none(), "{self}");
            assert!(process.predecessors.is_empty(), "{self}");
        }
    }

    /// A whole handoff works, from here, whoever else is left.
    pub(crate) fn assert_handoff_while_others_drain(&mut self) {
        let next = self.join(App::default());
        self.run();
        assert_eq!(self.accepting(), [next], "{self}");
    }

    /// A whole handoff works, from here.
    pub(crate) fn assert_next_works(&mut self) {
        self.tamper = None;
        let before = self.assert_one_serves();
        let versions = self.procs[before].app.versions;
        self.procs[before].app = App { versions, ..App::default() };
        let generation = self.incumbent(before).expect("it serves").generation();
        let next = self.join(App { versions, ..App::default() });
        self.settle();
        assert_eq!(self.assert_one_serves(), next, "the next attempt works\n{self}");
        let later = self.incumbent(next).expect("it serves").generation();
        assert!(later > generation, "{later} after {generation}");
    }
}

impl std::fmt::Display for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "said: {:?}", self.said)?;
        for (index, report) in &self.reports {
            writeln!(f, "{index} reports {}", format!("{report:?}").replace("Process {", "{"))?;
        }
        for (index, process) in self.procs.iter().enumerate() {
            let Proc { alive, accepting, holds, link, predecessors, pending, failed, .. } = process;
            writeln!(
                f,
                "{index}: alive {alive}, accepting {accepting}, holds {holds}, failed {failed:?}, pending {pending:?}"
            )?;
            writeln!(f, "   {:?} link {link:?} predecessors {predecessors:?}", self.state(index))?;
            if *alive {
                writeln!(f, "   {:?}", process.machine)?;
            }
        }
        writeln!(f, "links: {:?}", self.links)
    }
}
