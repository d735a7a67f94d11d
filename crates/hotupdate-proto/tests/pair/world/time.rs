//! The virtual clock, and everything that goes on until the next deadline.

use std::time::{Duration, Instant};

use hotupdate_proto::operator::ProcessState;
use hotupdate_proto::{incumbent, successor};

use super::{Action, End, Machine, Pending, World};

impl World {
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

    pub(super) fn fire(&mut self, now: Instant, asleep: Option<usize>) {
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

    /// A driver reads before it looks at the clock, or else a pause of the whole machine turns deaths into
    /// delays. Here that is only done for links whose other end is dead: anything else may be late.
    pub(super) fn hear_of_deaths(&mut self, index: usize) {
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

    /// One process does nothing at all for so long, while the other processes and time go on.
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

    /// An application that no process waits for any more gets ready some time, or an operator kills it.
    pub(crate) fn orphans_get_ready(&mut self) -> bool {
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
}
