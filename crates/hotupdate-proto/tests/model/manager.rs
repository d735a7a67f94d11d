//! A service manager that takes one process for the service, as systemd does: whose end is the end of all.
//!
//! What processes say to it waits in one queue. Its answers are late, too, and always come: the deadline
//! `confirm` is not in the model, since what it gives up is what is looked at here.

use std::collections::VecDeque;

use hotupdate_proto::identity::Place;
use hotupdate_proto::message::Message;
use hotupdate_proto::supervision::{Circumstances, Effect, Ending, Event, Supervision};
use hotupdate_proto::{Incumbent, Predecessor};

use super::kernel::Id;
use super::process::Process;
use super::world::World;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Manager {
    /// The process that it takes for the service.
    pub(crate) main: Id,
    /// It listens to every process of the unit (`NotifyAccess=all`), not to the main one alone.
    pub(crate) hears_all: bool,
    words: VecDeque<Word>,
    /// The main process has left while another one could go on with the service.
    pub(crate) was_misled: bool,
}

/// A process says which one is the main one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Word {
    from: Id,
    main: u32,
    /// And waits for an answer (`BARRIER=1`).
    asks: bool,
}

impl Manager {
    pub(crate) fn new(hears_all: bool) -> Self {
        Self { main: 0, hears_all, words: VecDeque::new(), was_misled: false }
    }

    /// Whether the death of this process is that of the service. One that is just named counts: a moment
    /// later it would be the main one.
    pub(crate) fn takes_for_the_service(&self, p: Id) -> bool {
        self.main == p || self.words.iter().any(|word| word.main == pid(p))
    }

    pub(crate) fn has_to_hear(&self) -> bool {
        !self.words.is_empty()
    }
}

fn pid(p: Id) -> u32 {
    u32::try_from(p).expect("few processes")
}

fn place() -> Place {
    Place { pid_namespace: Some(1), unit: Some("service".into()), ..Place::default() }
}

impl World {
    /// The part of a process that starts.
    pub(super) fn supervision(&self, p: Id) -> Option<Supervision> {
        let manager = self.manager.as_ref()?;
        let (place, is_main) = (place(), manager.main == p);
        let circumstances =
            Circumstances { place, pid: pid(p), listens: true, is_main, ..Circumstances::default() };
        Some(Supervision::new(circumstances))
    }

    pub(super) fn supervise(&mut self, p: Id, event: Event) {
        let Some(machine) = &mut self.process(p).supervision else { return };
        for effect in machine.handle(event) {
            match effect {
                Effect::Tell { is_established } => self.tell_predecessors(p, is_established),
                // The manager knows best what it started itself.
                Effect::BecomeMain { is_untold: true } if self.generation(p) != Some(1) => {
                    self.tell_manager(Word { from: p, main: pid(p), asks: false });
                }
                Effect::BecomeMain { .. } => {}
                Effect::NameMain(main) => self.tell_manager(Word { from: p, main, asks: true }),
                Effect::TellMain(pid) => self.send(p, Message::Main { pid }),
            }
        }
    }

    fn tell_predecessors(&mut self, p: Id, is_established: bool) {
        let predecessors = self.procs[p].incumbent().into_iter().flat_map(Incumbent::predecessors);
        let told: Vec<_> = predecessors
            .filter(|before| before.is_told_who_serves())
            .map(|before| before.generation)
            .collect();
        for generation in told {
            self.send_to(p, generation, Message::Serves { pid: pid(p), place: place(), is_established });
        }
    }

    fn tell_manager(&mut self, word: Word) {
        if let Some(manager) = &mut self.manager {
            manager.words.push_back(word);
        }
    }

    /// It reads the next word.
    pub(super) fn manager_hears(&mut self) {
        let Some(manager) = &mut self.manager else { return };
        let Some(Word { from, main, asks }) = manager.words.pop_front() else { return };
        let named = usize::try_from(main).expect("few processes");
        if (manager.hears_all || manager.main == from) && self.procs[named].lives() {
            manager.main = named;
        }
        if asks && self.procs[from].lives() {
            self.process(from).answers.push(main);
        }
    }

    /// It has answered this process.
    pub(super) fn confirmed(&mut self, p: Id) {
        let pid = self.process(p).answers.remove(0);
        self.supervise(p, Event::Confirmed(pid));
        self.end_unless_kept(p);
    }

    pub(super) fn is_alone(&self, p: Id) -> bool {
        let mut predecessors = self.procs[p].incumbent().into_iter().flat_map(Incumbent::predecessors);
        !predecessors.any(Predecessor::is_told_who_serves)
    }

    /// It serves, or serves again.
    pub(super) fn serves_now(&mut self, p: Id) {
        self.process(p).heir = None;
        let mut predecessors = self.procs[p].incumbent().into_iter().flat_map(Incumbent::predecessors);
        let is_established = predecessors.all(|predecessor| !predecessor.probation);
        let is_alone = self.is_alone(p);
        self.supervise(p, Event::Serving { is_established, is_alone });
    }

    /// What the process that serves says to this one.
    pub(super) fn hear_of_heir(&mut self, p: Id, message: &Message) {
        if !self.procs[p].draining {
            return;
        }
        match message {
            Message::Serves { pid, place, is_established } => {
                let (pid, place, is_established) = (*pid, place.clone(), *is_established);
                self.process(p).heir = usize::try_from(pid).ok();
                self.supervise(p, Event::ServedBy { pid, place, is_near: true, is_established });
                // It said so and died.
                if self.has_dead_heir(&self.procs[p]) {
                    self.heir_ended(p);
                }
                self.end_unless_kept(p);
            }
            Message::Farewell => self.supervise(p, Event::Farewell),
            _ => {}
        }
    }

    /// The process that served, as this one knows, has died.
    pub(super) fn has_dead_heir(&self, process: &Process) -> bool {
        process.heir.is_some_and(|heir| !self.procs[heir].lives())
    }

    pub(super) fn heir_ended(&mut self, p: Id) {
        self.process(p).heir = None;
        self.supervise(p, Event::HeirEnded);
        self.end_unless_kept(p);
    }

    /// Ends this process if it has nothing left to do, and nothing keeps it.
    pub(super) fn end_unless_kept(&mut self, p: Id) {
        let process = &self.procs[p];
        if !process.exiting {
            return;
        }
        let leaves = process.supervision.as_ref().is_none_or(|machine| {
            let ending = machine.ending(process.is_succeeded, process.peer.is_some());
            matches!(ending, Ending::Leaves | Ending::Follows)
        });
        if leaves {
            let goes_on = self.heirs().any(|(heir, process)| heir != p && process.accepting);
            if let Some(manager) = &mut self.manager {
                manager.was_misled |= manager.main == p && goes_on;
            }
            self.end(p);
        }
    }

    /// The main process has died: the manager kills the other processes of the unit.
    pub(super) fn kill_all(&mut self) {
        (0..self.procs.len())
            .filter(|p| self.procs[*p].lives())
            .collect::<Vec<_>>()
            .into_iter()
            .for_each(|p| self.end(p));
        self.ended = true;
    }
}
