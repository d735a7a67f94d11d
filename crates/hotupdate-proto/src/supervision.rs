//! Which process of a service its supervisor takes for the service, and when other processes may leave.
//!
//! The end of that process is taken for the end of the service. So a process that has handed the service over
//! leaves when it is not that process any more, and stays if it cannot become another one:
//!
//! ```text
//! process that serves              process that has served               service manager
//!    | serves ---------------------------->|   drains                          |
//!    |   no process can take its place back, and its parent is the manager     |
//!    | serves {is_established} ----------->| MAINPID=, BARRIER=1 ------------->|
//!    |                                     |<------------- the barrier's answer|
//!    |<------------------------------ main |   may leave                       |
//! ```
//!
//! systemd decides when it is told of a main process whether it can wait for the end of that one: only if it
//! is a child of its own. It never looks again, and kills other processes at a stop instead of waiting for
//! them (`main_pid_alien` in its `src/core/service.c` and `unit.c`). So a process does not become the main
//! one before the process that has started it is gone.
//!
//! Deliberately absent: what is said to the manager, signals, and process ids that stay the same process; the
//! driver does that.

use std::mem;

use crate::identity::Place;

/// What a process does when another one serves and its own drain is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AfterDrain {
    /// `hotupdate::Serving::drained` resolves and `main` returns.
    Exit,
    /// The process stays, idle, until SIGTERM: for supervisors that would restart it and so take the service
    /// back.
    StayUntilTerm,
}

/// What a process knows of its supervisor from the beginning.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Circumstances {
    /// Where this process runs.
    pub place: Place,
    /// This process.
    pub pid: u32,
    /// It is process 1 of its pid namespace.
    pub is_first: bool,
    /// A manager listens to what is said of the main process.
    pub listens: bool,
    /// The end of this process is that of the service, whatever is said.
    pub is_taken_for_the_service: bool,
    /// The manager has started this very process.
    pub is_main: bool,
    /// It is a child of a process that is not its manager, and that is going to end.
    pub has_parent: bool,
    /// What was asked for.
    pub after_drain: Option<AfterDrain>,
}

/// What happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// This process serves, or serves again.
    Serving {
        /// No process can take its place back.
        is_established: bool,
        /// No predecessor is left that could say [`Event::Main`].
        is_alone: bool,
    },
    /// No process can take the place of this one back any more.
    Established {
        /// As in [`Event::Serving`].
        is_alone: bool,
    },
    /// No predecessor is left that could say [`Event::Main`].
    Alone,
    /// The parent has ended, or is not waited for any longer.
    ParentEnded {
        /// As in [`Event::Serving`].
        is_alone: bool,
    },
    /// A predecessor says that the manager has confirmed that the process with this id is the main one.
    Main(u32),
    /// Another process has taken over; it is going to say where it runs, or knows nothing of that.
    Succeeded {
        /// It has [`FEATURE_SUPERVISION`](crate::FEATURE_SUPERVISION).
        is_told: bool,
    },
    /// Another process serves.
    ServedBy {
        /// The process id, in its own namespace.
        pid: u32,
        /// Where it runs.
        place: Place,
        /// Signals of this process reach it, and so does the news of its end.
        is_near: bool,
        /// No process can take its place back, and its parent is its manager.
        is_established: bool,
    },
    /// The process that serves stops the service on purpose.
    Farewell,
    /// The process that serves has ended.
    HeirEnded,
    /// The manager has dealt with [`Effect::NameMain`], or cannot be told.
    Confirmed(u32),
    /// It has not in time.
    Unconfirmed,
    /// SIGTERM or SIGINT came.
    ToldToStop,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Tell the generations before this one that it serves.
    Tell {
        /// As in [`Event::ServedBy`].
        is_established: bool,
    },
    /// This is the main process now: what only that one may say can be said.
    BecomeMain {
        /// The manager was not told yet.
        is_untold: bool,
    },
    /// Tell the manager that this one is the main process, and ask for its answer.
    NameMain(u32),
    /// Tell the process that serves that it is the main one.
    TellMain(u32),
}

/// What becomes of a process when nothing is left to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It ends.
    Leaves,
    /// Until the manager has confirmed which process is the main one.
    StaysForManager,
    /// Until the process that serves has ended.
    StaysForHeir,
    /// Until a signal says so.
    StaysUntilTold,
    /// It ends as the process that served has ended.
    Follows,
}

/// Whether the manager knows that the process that serves is the main one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Main {
    /// It was not told yet.
    #[default]
    Untold,
    /// It was told so of the process with this id, and has not answered.
    Named(u32),
    /// It has answered, or cannot.
    Settled,
}

/// The process that serves, when this one does not.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Heir {
    pid: u32,
    place: Place,
    is_near: bool,
    has_ended: bool,
    stops: bool,
}

/// The part of one process, whether it serves or has served.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Supervision {
    circumstances: Circumstances,
    /// This process serves, and none can take its place back.
    is_established: bool,
    heir: Option<Heir>,
    /// The process that took over is going to say where it runs.
    expects_heir: bool,
    main: Main,
    is_told_to_stop: bool,
}

impl Supervision {
    /// The part of a process that has not served yet.
    #[must_use]
    pub fn new(circumstances: Circumstances) -> Self {
        Self {
            circumstances,
            is_established: false,
            heir: None,
            expects_heir: false,
            main: Main::Untold,
            is_told_to_stop: false,
        }
    }

    /// What is known of the supervisor.
    #[must_use]
    pub fn circumstances(&self) -> &Circumstances {
        &self.circumstances
    }

    /// Whether the end of the parent is waited for.
    #[must_use]
    pub fn waits_for_parent(&self) -> bool {
        self.is_established && self.circumstances.has_parent
    }

    /// Whether the manager has still to answer which process is the main one.
    #[must_use]
    pub fn waits_for_manager(&self) -> bool {
        self.main != Main::Settled
    }

    /// Something happened; returns what is to be done about it.
    pub fn handle(&mut self, event: Event) -> Vec<Effect> {
        let mut out = Vec::new();
        match event {
            Event::Serving { is_established, is_alone } => {
                (self.heir, self.main, self.is_established) = (None, Main::Untold, is_established);
                self.tell(is_alone, &mut out);
            }
            Event::Established { is_alone } if !self.is_established => {
                self.is_established = true;
                self.tell(is_alone, &mut out);
            }
            Event::Alone
                if self.is_established && !self.circumstances.has_parent && !self.circumstances.is_main =>
            {
                self.become_main(true, &mut out);
            }
            Event::ParentEnded { is_alone } => {
                if mem::take(&mut self.circumstances.has_parent) && self.is_established {
                    self.tell(is_alone, &mut out);
                }
            }
            Event::Main(pid) if pid == self.circumstances.pid && !self.circumstances.is_main => {
                self.become_main(false, &mut out)
            }
            Event::Established { .. } | Event::Alone | Event::Main(_) => {}
            Event::Succeeded { is_told } => {
                (self.expects_heir, self.is_established) = (is_told, false);
            }
            Event::ServedBy { pid, place, is_near, is_established } => {
                let is_to_be_main = is_established && self.hands_main_over_to(&place);
                if self.heir.as_ref().is_none_or(|heir| heir.pid != pid || heir.place != place) {
                    self.heir = Some(Heir { pid, place, is_near, has_ended: false, stops: false });
                }
                // Also if it was said before: another process may have said something else meanwhile.
                if is_to_be_main {
                    self.main = Main::Named(pid);
                    out.push(Effect::NameMain(pid));
                }
            }
            Event::Farewell => self.heir.iter_mut().for_each(|heir| heir.stops = true),
            Event::HeirEnded => {
                self.heir.iter_mut().for_each(|heir| heir.has_ended = true);
                // What the manager was told of it is worth nothing: it does not take a dead process for the
                // service. Another one may take over and say so.
                self.main = Main::Untold;
            }
            Event::Confirmed(pid) if self.main == Main::Named(pid) => {
                self.main = Main::Settled;
                // The manager may hear the main process only.
                if mem::take(&mut self.circumstances.is_main) {
                    out.push(Effect::TellMain(pid));
                }
            }
            Event::Confirmed(_) => {}
            Event::Unconfirmed => self.main = Main::Settled,
            Event::ToldToStop => self.is_told_to_stop = true,
        }
        out
    }

    fn tell(&mut self, is_alone: bool, out: &mut Vec<Effect>) {
        let is_established = self.is_established && !self.circumstances.has_parent;
        out.push(Effect::Tell { is_established });
        if is_established && (is_alone || self.circumstances.is_main) {
            self.become_main(true, out);
        }
    }

    fn become_main(&mut self, is_untold: bool, out: &mut Vec<Effect>) {
        let is_untold = !mem::replace(&mut self.circumstances.is_main, true) && is_untold;
        out.push(Effect::BecomeMain { is_untold });
    }

    /// Whether the manager has to be told that a process there is the main one. In another unit it is one
    /// already, and process 1 of a container is nothing to a manager outside.
    fn hands_main_over_to(&self, place: &Place) -> bool {
        let Circumstances { listens, is_taken_for_the_service, .. } = self.circumstances;
        listens && !is_taken_for_the_service && self.circumstances.place.is_same_unit(place)
    }

    /// Whether the end of this process would be that of the one that serves.
    #[must_use]
    pub fn follows_heir(&self) -> bool {
        let Circumstances { is_taken_for_the_service, after_drain, .. } = self.circumstances;
        let follows = |heir: &Heir| {
            let is_unit_of_its_own = !self.circumstances.is_first && self.leaves_alone(heir);
            heir.is_near && !is_unit_of_its_own
        };
        is_taken_for_the_service
            && after_drain != Some(AfterDrain::Exit)
            && self.heir.as_ref().is_some_and(follows)
    }

    fn leaves_alone(&self, heir: &Heir) -> bool {
        self.circumstances.place.leaves_alone(&heir.place)
    }

    /// What becomes of this process now that nothing is left to do. `is_succeeded`: another process goes on
    /// with the service; `is_linked`: a process is there that serves, or will.
    #[must_use]
    pub fn ending(&self, is_succeeded: bool, is_linked: bool) -> Ending {
        let Circumstances { is_first, is_taken_for_the_service, is_main, listens, after_drain, .. } =
            self.circumstances;
        if !is_succeeded || after_drain == Some(AfterDrain::Exit) && is_taken_for_the_service {
            return Ending::Leaves;
        }
        if self.follows_heir() {
            let has_ended = self.heir.as_ref().is_some_and(|heir| heir.has_ended);
            return if has_ended && !is_linked { Ending::Follows } else { Ending::StaysForHeir };
        }
        let stays = match after_drain {
            Some(AfterDrain::StayUntilTerm) => true,
            Some(AfterDrain::Exit) => false,
            // A runtime that starts it again would have it take the service back.
            None if is_first => true,
            None => {
                is_taken_for_the_service && self.heir.as_ref().is_none_or(|heir| !self.leaves_alone(heir))
            }
        };
        if stays {
            return if self.is_told_to_stop { Ending::Leaves } else { Ending::StaysUntilTold };
        }
        let is_to_be_main = match &self.heir {
            Some(heir) => self.hands_main_over_to(&heir.place),
            // Its word is on its way.
            None => listens && self.expects_heir,
        };
        match is_to_be_main && self.main != Main::Settled && !self.is_told_to_stop {
            true if is_linked => Ending::StaysForManager,
            // The service has died with a process that is not the main one: this end has to say it.
            true if is_main => Ending::Follows,
            _ => Ending::Leaves,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place {
        Place { pid_namespace: Some(1), unit: Some("unit".into()), is_supervised: true }
    }

    /// A process of a unit with `Type=notify`.
    fn process(pid: u32) -> Supervision {
        let is_main = pid == 1000;
        let place = place();
        Supervision::new(Circumstances { place, pid, listens: true, is_main, ..Circumstances::default() })
    }

    fn served_by(pid: u32, is_established: bool) -> Event {
        Event::ServedBy { pid, place: place(), is_near: true, is_established }
    }

    #[test]
    fn the_old_one_leaves_when_the_manager_has_confirmed_the_new_one() {
        let mut old = process(1000);
        assert!(old.handle(Event::Succeeded { is_told: true }).is_empty());
        assert_eq!(old.ending(true, true), Ending::StaysForManager, "its word is on its way");
        assert!(old.handle(served_by(1001, false)).is_empty());
        assert_eq!(old.handle(served_by(1001, true)), [Effect::NameMain(1001)]);
        assert_eq!(old.ending(true, true), Ending::StaysForManager);
        assert!(old.handle(Event::Confirmed(7)).is_empty(), "of another process");
        assert_eq!(old.handle(Event::Confirmed(1001)), [Effect::TellMain(1001)]);
        assert_eq!(old.ending(true, true), Ending::Leaves);
    }

    /// The manager does not take a dead process for the service, and answers all the same.
    #[test]
    fn the_old_one_stays_when_the_new_one_died_before_the_manager_knew() {
        let mut old = process(1000);
        old.handle(Event::Succeeded { is_told: true });
        assert_eq!(old.handle(served_by(1001, true)), [Effect::NameMain(1001)]);
        old.handle(Event::HeirEnded);
        assert!(old.handle(Event::Confirmed(1001)).is_empty(), "of a process that is dead");
        assert_eq!(old.ending(true, true), Ending::StaysForManager, "another one is about to serve");
        assert_eq!(old.handle(served_by(1002, true)), [Effect::NameMain(1002)]);
        assert_eq!(old.handle(Event::Confirmed(1002)), [Effect::TellMain(1002)]);
        assert_eq!(old.ending(true, true), Ending::Leaves);
    }

    #[test]
    fn the_new_one_waits_for_the_end_of_its_parent() {
        let mut new = process(1001);
        new.circumstances.has_parent = true;
        let serving = Event::Serving { is_established: false, is_alone: false };
        assert_eq!(new.handle(serving), [Effect::Tell { is_established: false }]);
        let established = Event::Established { is_alone: false };
        assert_eq!(new.handle(established), [Effect::Tell { is_established: false }]);
        assert!(new.waits_for_parent());
        let ended = Event::ParentEnded { is_alone: false };
        assert_eq!(new.handle(ended.clone()), [Effect::Tell { is_established: true }]);
        assert!(new.handle(ended).is_empty(), "once");
        assert!(new.handle(Event::Main(7)).is_empty(), "another one");
        assert_eq!(new.handle(Event::Main(1001)), [Effect::BecomeMain { is_untold: false }]);
        assert!(new.handle(Event::Alone).is_empty(), "it was said");
    }

    #[test]
    fn one_that_is_alone_says_it_itself() {
        let mut new = process(1001);
        new.handle(Event::Serving { is_established: true, is_alone: false });
        assert_eq!(new.handle(Event::Alone), [Effect::BecomeMain { is_untold: true }]);
        let mut first = process(1000);
        let effects = first.handle(Event::Serving { is_established: true, is_alone: true });
        assert_eq!(effects[1..], [Effect::BecomeMain { is_untold: false }], "the manager has started it");
    }

    /// The manager takes the end of the old one for that of the service, and nothing serves any more.
    #[test]
    fn a_death_before_the_manager_knew_is_no_success() {
        let mut old = process(1000);
        old.handle(Event::Succeeded { is_told: true });
        old.handle(served_by(1001, true));
        assert_eq!(old.ending(true, false), Ending::Follows);
        old.handle(Event::ToldToStop);
        assert_eq!(old.ending(true, false), Ending::Leaves, "a stop is one");
        let mut other = process(1002);
        other.handle(Event::Succeeded { is_told: true });
        other.handle(served_by(1001, true));
        assert_eq!(other.ending(true, false), Ending::Leaves, "it never was the main one");
    }

    #[test]
    fn one_that_is_taken_for_the_service_ends_after_the_one_that_serves() {
        let mut old = process(1000);
        old.circumstances.is_taken_for_the_service = true;
        old.handle(Event::Succeeded { is_told: true });
        assert_eq!(old.ending(true, true), Ending::StaysUntilTold);
        assert!(old.handle(served_by(1001, true)).is_empty(), "nothing is handed over");
        assert!(old.follows_heir());
        assert_eq!(old.ending(true, true), Ending::StaysForHeir);
        old.handle(Event::HeirEnded);
        assert_eq!(old.ending(true, true), Ending::StaysForHeir, "another one may serve");
        assert_eq!(old.ending(true, false), Ending::Follows);
        old.circumstances.after_drain = Some(AfterDrain::Exit);
        assert_eq!(old.ending(true, true), Ending::Leaves, "as it was asked for");
    }
}
