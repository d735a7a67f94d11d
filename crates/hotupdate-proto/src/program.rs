//! A program that does not know the protocol, and the process that runs it and speaks for it, as `hotctl run`
//! does: when the program is ready, when it is told to stop, and what becomes of the service when it ends.
//!
//! Such a program accepts as soon as it is started, and it cannot park a listener: between its start and the
//! end of the version before it, both accept from the same queue. So it is looked at for a while before the
//! version before it is told to stop, and if it fails later, within the probation, the program of the version
//! before is started again, while clients wait in the queue.
//!
//! ```text
//! start ──► starting ──ready──► settling ──► checking ──► ready ──serves──► serving ◄──────┐
//!              │  ▲                              │          │                │   │         │ resumes:
//!              │  └─────── not ready any more ───┘          │          drains│   │ended    │ started again
//!              └──────────── ended, or too late ──► gives up ◄─refused       ▼   └► exits  │
//!                                                                         stopping ────────┘
//! ```
//!
//! Deliberately absent: processes, signals and sockets; numbers stand for programs that were started.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Instant;

use crate::timing::{ProgramTiming, after};

/// How a program is known to be ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Readiness {
    /// It runs; that it has run for [`ProgramTiming::settle`] is all that can be known.
    Runs,
    /// It says so (`READY=1`, sd_notify(3)).
    Says,
    /// It answers a request at an address where no other process answers.
    Answers,
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum End {
    /// With this status.
    Exited(u8),
    /// By this signal.
    Killed(u8),
    /// It could not be started.
    NotStarted,
}

impl End {
    /// As a shell says it.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Exited(code) => code,
            Self::Killed(signal) => signal.saturating_add(128),
            Self::NotStarted => 127,
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exited (status {code})"),
            Self::Killed(signal) => write!(f, "was killed by signal {signal}"),
            Self::NotStarted => f.write_str("could not be started"),
        }
    }
}

/// Why a program never serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// It ended first.
    Ended(End),
    /// It was not ready in time.
    NotReady,
    /// Its process was not let in, or gave up for another reason.
    Refused,
}

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// The program says that it is ready.
    SaidReady,
    /// It was asked ([`Effect::Probe`]), and this is how it answered.
    Answered {
        /// As one that is ready.
        well: bool,
    },
    /// The program with this number has ended, or could not be started.
    Ended(u32, End),
    /// The process serves: the version before it accepts no more.
    Serves,
    /// The process will not serve.
    Refused,
    /// Another process serves, or none is going to: the program has until then.
    Drains(Instant),
    /// Its time is up.
    Forced,
    /// The process serves again, because the version after it failed or was taken back.
    Resumes,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Start the program; it has this number.
    Start(u32),
    /// Ask it whether it is ready, and say [`Event::Answered`].
    Probe,
    /// The version before may be told to stop.
    BecomeReady,
    /// Send it the signal that asks it to stop.
    Stop(u32),
    /// End it: it had its time.
    Kill(u32),
    /// It is never going to serve. The program is told to stop, and [`Effect::Left`] follows.
    GiveUp(Failure),
    /// The program that served has ended: the process ends as it did, at once, so that whatever watches the
    /// process notices.
    Exit(End),
    /// No program is left of those that were told to stop.
    Left,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Stage {
    /// Not ready yet; it has to be by then.
    Starting {
        until: Instant,
        /// When it is asked next, unless it is being asked.
        probe: Option<Instant>,
    },
    /// It is ready, and is looked at again at `then`.
    Settling {
        then: Instant,
        until: Instant,
    },
    /// It is asked once more.
    Checking {
        until: Instant,
    },
    /// The process wants to serve.
    Ready,
    Serving,
    /// Another process serves, or none.
    Stopping,
    /// It never serves.
    GivingUp,
    /// The process ends with it.
    Over,
}

/// A program that was told to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Leaving {
    /// `None`: it was killed.
    until: Option<Instant>,
}

/// The programs of one process: at most one that serves or is going to, and those that were told to stop.
///
/// Begin with [`Program::new`] and its effect, bring every [`Event`] to [`Program::handle`], call
/// [`Program::tick`] at [`Program::deadline`], and carry out all effects in their order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Program {
    readiness: Readiness,
    timing: ProgramTiming,
    stage: Stage,
    current: Option<u32>,
    leaving: BTreeMap<u32, Leaving>,
    /// How many were started.
    started: u32,
}

impl Program {
    /// The first program is to be started now.
    #[must_use]
    pub fn new(now: Instant, readiness: Readiness, timing: ProgramTiming) -> (Self, Effect) {
        let stage = Stage::Starting { until: after(now, timing.ready), probe: Some(now) };
        let mut program =
            Self { readiness, timing, stage, current: None, leaving: BTreeMap::new(), started: 0 };
        let start = program.start();
        if readiness == Readiness::Runs {
            program.settle(now, after(now, program.timing.ready));
        }
        (program, start)
    }

    /// What is to be done about it.
    #[must_use]
    pub fn handle(&mut self, now: Instant, event: Event) -> Vec<Effect> {
        match (self.stage, event) {
            (Stage::Over, _) => Vec::new(),
            (_, Event::Ended(number, _)) if self.current != Some(number) => self.left(number),
            (Stage::Serving, Event::Ended(_, end)) => {
                (self.stage, self.current) = (Stage::Over, None);
                vec![Effect::Exit(end)]
            }
            (_, Event::Ended(_, end)) => {
                self.current = None;
                self.give_up(now, Failure::Ended(end))
            }

            (Stage::Starting { until, .. }, Event::SaidReady) if self.readiness == Readiness::Says => {
                self.settle(now, until);
                Vec::new()
            }
            (Stage::Starting { until, .. }, Event::Answered { well: true }) => {
                self.settle(now, until);
                Vec::new()
            }
            (Stage::Starting { until, .. }, Event::Answered { well: false }) => {
                self.stage = Stage::Starting { until, probe: Some(after(now, self.timing.probe)) };
                Vec::new()
            }
            (Stage::Checking { .. }, Event::Answered { well: true }) => self.become_ready(),
            (Stage::Checking { until }, Event::Answered { well: false }) => {
                self.stage = Stage::Starting { until, probe: Some(after(now, self.timing.probe)) };
                Vec::new()
            }

            (Stage::Ready, Event::Serves) => {
                self.stage = Stage::Serving;
                Vec::new()
            }
            (stage, Event::Refused) if stage.is_before_serving() => self.give_up(now, Failure::Refused),

            (Stage::Ready | Stage::Serving, Event::Drains(until)) => {
                self.stage = Stage::Stopping;
                self.stop(until)
            }
            (Stage::Stopping, Event::Drains(until)) => {
                let patient = self.leaving.values_mut().filter(|leaving| leaving.until.is_some());
                patient.for_each(|leaving| leaving.until = Some(until));
                Vec::new()
            }
            (Stage::Stopping | Stage::GivingUp, Event::Forced) => self.kill(|_| true),
            (Stage::Stopping, Event::Resumes) => {
                self.stage = Stage::Serving;
                vec![self.start()]
            }

            // What comes late, or says what is known.
            (
                _,
                Event::SaidReady
                | Event::Answered { .. }
                | Event::Serves
                | Event::Refused
                | Event::Drains(_)
                | Event::Forced
                | Event::Resumes,
            ) => Vec::new(),
        }
    }

    /// The next moment at which something is due.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let stage = match self.stage {
            Stage::Starting { until, probe: Some(probe) } if self.readiness == Readiness::Answers => {
                Some(until.min(probe))
            }
            Stage::Starting { until, .. } | Stage::Checking { until } => Some(until),
            Stage::Settling { then, .. } => Some(then),
            Stage::Ready | Stage::Serving | Stage::Stopping | Stage::GivingUp | Stage::Over => None,
        };
        self.leaving.values().filter_map(|leaving| leaving.until).chain(stage).min()
    }

    /// What is due.
    #[must_use]
    pub fn tick(&mut self, now: Instant) -> Vec<Effect> {
        let mut effects = self.kill(|until| until <= now);
        effects.extend(match self.stage {
            Stage::Starting { until, .. } | Stage::Checking { until } if until <= now => {
                self.give_up(now, Failure::NotReady)
            }
            Stage::Starting { until, probe: Some(probe) }
                if self.readiness == Readiness::Answers && probe <= now =>
            {
                self.stage = Stage::Starting { until, probe: None };
                vec![Effect::Probe]
            }
            Stage::Settling { then, until } if then <= now => match self.readiness {
                Readiness::Runs | Readiness::Says => self.become_ready(),
                Readiness::Answers => {
                    self.stage = Stage::Checking { until: until.max(after(now, self.timing.answer)) };
                    vec![Effect::Probe]
                }
            },
            _ => Vec::new(),
        });
        effects
    }

    /// The program that serves or is going to.
    #[must_use]
    pub fn current(&self) -> Option<u32> {
        self.current
    }

    /// Whether a program runs that was told to stop.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        !self.leaving.is_empty()
    }

    fn start(&mut self) -> Effect {
        self.started += 1;
        self.current = Some(self.started);
        Effect::Start(self.started)
    }

    fn settle(&mut self, now: Instant, until: Instant) {
        self.stage = Stage::Settling { then: after(now, self.timing.settle), until };
    }

    fn become_ready(&mut self) -> Vec<Effect> {
        self.stage = Stage::Ready;
        vec![Effect::BecomeReady]
    }

    fn give_up(&mut self, now: Instant, failure: Failure) -> Vec<Effect> {
        self.stage = Stage::GivingUp;
        let mut effects = vec![Effect::GiveUp(failure)];
        effects.extend(self.stop(after(now, self.timing.stop)));
        effects
    }

    /// Tells the program to stop, if one is left.
    fn stop(&mut self, until: Instant) -> Vec<Effect> {
        match self.current.take() {
            Some(number) => {
                self.leaving.insert(number, Leaving { until: Some(until) });
                vec![Effect::Stop(number)]
            }
            None if self.leaving.is_empty() => vec![Effect::Left],
            None => Vec::new(),
        }
    }

    fn kill(&mut self, is_due: impl Fn(Instant) -> bool) -> Vec<Effect> {
        let due = self.leaving.iter_mut().filter(|(_, leaving)| leaving.until.is_some_and(&is_due));
        due.map(|(number, leaving)| {
            leaving.until = None;
            Effect::Kill(*number)
        })
        .collect()
    }

    fn left(&mut self, number: u32) -> Vec<Effect> {
        let is_last = self.leaving.remove(&number).is_some() && self.leaving.is_empty();
        if is_last && matches!(self.stage, Stage::Stopping | Stage::GivingUp) {
            vec![Effect::Left]
        } else {
            Vec::new()
        }
    }
}

impl Stage {
    fn is_before_serving(self) -> bool {
        matches!(self, Self::Starting { .. } | Self::Settling { .. } | Self::Checking { .. } | Self::Ready)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// What is outside of the machine: programs that run, the process, and a clock.
    #[derive(Clone, Debug, PartialEq, Eq, Hash)]
    struct World {
        machine: Program,
        now: Instant,
        running: BTreeSet<u32>,
        told: BTreeSet<u32>,
        killed: BTreeSet<u32>,
        probes: u32,
        is_ready: bool,
        serves: bool,
        gave_up: Option<Failure>,
        exit: Option<End>,
        /// `Left` was said, and no program was started since.
        left: bool,
    }

    #[allow(clippy::disallowed_methods, reason = "one origin for virtual time")]
    fn origin() -> Instant {
        Instant::now()
    }

    impl World {
        /// Everything that this module takes for granted of the outside is here, and every promise is
        /// checked.
        fn new(readiness: Readiness) -> Self {
            let now = origin();
            let (machine, effect) = Program::new(now, readiness, ProgramTiming::default());
            let none = BTreeSet::new;
            let mut world = Self {
                machine,
                now,
                running: none(),
                told: none(),
                killed: none(),
                probes: 0,
                is_ready: false,
                serves: false,
                gave_up: None,
                exit: None,
                left: false,
            };
            world.perform(vec![effect]);
            world
        }

        fn handle(&mut self, event: Event) -> &mut Self {
            match event {
                Event::Ended(number, _) => _ = self.running.remove(&number),
                Event::Serves => self.serves = true,
                _ => {}
            }
            let effects = self.machine.handle(self.now, event);
            self.perform(effects);
            self
        }

        /// Until the next deadline.
        fn wait(&mut self) -> &mut Self {
            self.now = self.machine.deadline().expect("something is due").max(self.now);
            let effects = self.machine.tick(self.now);
            self.perform(effects);
            self
        }

        fn ended(&mut self, number: u32, end: End) -> &mut Self {
            self.handle(Event::Ended(number, end))
        }

        fn serving(readiness: Readiness) -> Self {
            let mut world = Self::new(readiness);
            match readiness {
                Readiness::Runs => {}
                Readiness::Says => _ = world.handle(Event::SaidReady),
                Readiness::Answers => _ = world.wait().handle(Event::Answered { well: true }),
            }
            world.wait();
            if readiness == Readiness::Answers {
                world.handle(Event::Answered { well: true });
            }
            assert!(world.is_ready && !world.serves, "{world:?}");
            world.handle(Event::Serves);
            world
        }

        fn perform(&mut self, effects: Vec<Effect>) {
            for effect in effects {
                assert_eq!(self.exit, None, "nothing happens after the end: {effect:?}, {self:?}");
                match effect {
                    Effect::Start(number) => {
                        assert!(self.running.insert(number) && !self.told.contains(&number));
                        self.left = false;
                    }
                    Effect::Probe => self.probes += 1,
                    Effect::BecomeReady => {
                        assert!(!std::mem::replace(&mut self.is_ready, true), "once: {self:?}");
                        assert!(
                            self.machine.current().is_some_and(|current| self.running.contains(&current))
                        );
                    }
                    Effect::Stop(number) => {
                        assert!(self.running.contains(&number) && self.told.insert(number), "{self:?}");
                    }
                    Effect::Kill(number) => {
                        assert!(self.told.contains(&number), "it had its time: {self:?}");
                        assert!(self.running.contains(&number) && self.killed.insert(number), "{self:?}");
                    }
                    Effect::GiveUp(failure) => {
                        assert!(!self.serves && self.gave_up.is_none(), "{self:?}");
                        self.gave_up = Some(failure);
                    }
                    Effect::Exit(end) => {
                        assert!(self.serves, "{self:?}");
                        self.exit = Some(end);
                    }
                    Effect::Left => {
                        assert!(!self.left, "once: {self:?}");
                        self.left = true;
                    }
                }
            }
            self.check();
        }

        fn check(&self) {
            let Self { machine, running, told, left, .. } = self;
            let untold: Vec<_> = running.difference(told).collect();
            assert!(untold.len() <= 1, "two programs would serve: {self:?}");
            if self.exit.is_none() {
                assert_eq!(untold.first().copied().copied(), machine.current(), "{self:?}");
            }
            assert!(!left || running.is_empty(), "something is left: {self:?}");
            // What was told to stop ends some time.
            let is_patient = running.difference(&self.killed).any(|number| told.contains(number));
            assert!(!is_patient || machine.deadline().is_some() || self.exit.is_some(), "{self:?}");
            // A process that has let go, or never serves, does not stay for nothing.
            if matches!(machine.stage, Stage::Stopping | Stage::GivingUp) && running.is_empty() {
                assert!(*left, "{self:?}");
            }
        }
    }

    #[test]
    fn one_that_goes_on_to_run_serves_after_the_settle_time() {
        for readiness in [Readiness::Runs, Readiness::Says, Readiness::Answers] {
            let begin = origin();
            let world = World::serving(readiness);
            assert!(world.now >= begin + ProgramTiming::default().settle, "{readiness:?}");
            assert_eq!(world.probes, if readiness == Readiness::Answers { 2 } else { 0 });
            assert_eq!(world.machine.deadline(), None, "nothing is due any more");
        }
    }

    /// gunicorn says that it is ready before its workers import the application.
    #[test]
    fn one_that_ends_while_it_settles_never_serves() {
        for readiness in [Readiness::Runs, Readiness::Says] {
            let mut world = World::new(readiness);
            world.handle(Event::SaidReady).ended(1, End::Exited(3));
            assert_eq!(world.gave_up, Some(Failure::Ended(End::Exited(3))));
            assert!(world.left && !world.is_ready && world.told.is_empty());
        }
    }

    #[test]
    fn one_that_is_never_ready_is_told_to_stop_and_then_killed() {
        let mut world = World::new(Readiness::Says);
        world.wait();
        assert_eq!(world.gave_up, Some(Failure::NotReady));
        assert!(world.told.contains(&1) && world.killed.is_empty());
        world.wait();
        assert!(world.killed.contains(&1) && !world.left);
        assert!(world.ended(1, End::Killed(9)).left);
    }

    #[test]
    fn one_that_does_not_answer_any_more_is_asked_until_its_time_is_up() {
        let mut world = World::new(Readiness::Answers);
        world.wait().handle(Event::Answered { well: false });
        world.wait().handle(Event::Answered { well: true });
        world.wait().handle(Event::Answered { well: false });
        assert!(!world.is_ready && world.gave_up.is_none(), "it is looked at again");
        while world.gave_up.is_none() {
            world.wait();
            if world.gave_up.is_none() {
                world.handle(Event::Answered { well: false });
            }
        }
        assert_eq!(world.gave_up, Some(Failure::NotReady));
    }

    #[test]
    fn a_request_without_an_answer_does_not_hold_it_for_ever() {
        let mut world = World::new(Readiness::Answers);
        world.wait().wait();
        assert_eq!(world.gave_up, Some(Failure::NotReady));
    }

    #[test]
    fn what_ends_while_it_serves_ends_its_process() {
        let mut world = World::serving(Readiness::Runs);
        world.ended(1, End::Killed(9));
        assert_eq!(world.exit, Some(End::Killed(9)));
    }

    #[test]
    fn it_stops_when_another_process_serves_and_an_earlier_deadline_counts() {
        let mut world = World::serving(Readiness::Runs);
        let now = world.now;
        world.handle(Event::Drains(now + 60 * SECOND)).handle(Event::Drains(now + SECOND));
        assert!(world.told.contains(&1) && world.killed.is_empty());
        world.wait();
        assert_eq!(world.now, now + SECOND);
        assert!(world.killed.contains(&1));
        assert!(world.ended(1, End::Killed(9)).left);
    }

    #[test]
    fn it_is_started_again_when_the_process_serves_again() {
        let mut world = World::serving(Readiness::Says);
        let until = world.now + 60 * SECOND;
        // The first is still there, and keeps its deadline.
        world.handle(Event::Drains(until)).handle(Event::Resumes);
        assert_eq!(world.running, BTreeSet::from([1, 2]));
        assert!(!world.ended(1, End::Exited(0)).left, "it serves");
        world.handle(Event::Drains(until)).ended(2, End::Exited(0));
        assert!(world.left);
        world.handle(Event::Resumes).ended(3, End::NotStarted);
        assert_eq!(world.exit, Some(End::NotStarted));
    }

    #[test]
    fn forced_means_now() {
        let mut world = World::serving(Readiness::Runs);
        let until = world.now + 60 * SECOND;
        world.handle(Event::Drains(until)).handle(Event::Forced).handle(Event::Forced);
        assert!(world.killed.contains(&1) && world.machine.deadline().is_none());
    }

    #[test]
    fn an_exit_is_passed_on_as_a_shell_says_it() {
        assert_eq!([End::Exited(3), End::Killed(15), End::NotStarted].map(End::code), [3, 143, 127]);
        let words = [End::Exited(3), End::Killed(9), End::NotStarted].map(|end| end.to_string());
        assert_eq!(words, ["exited (status 3)", "was killed by signal 9", "could not be started"]);
    }

    /// Every order of everything that can happen, as far as it goes; [`World::perform`] checks the promises.
    #[test]
    fn in_every_order_the_promises_hold() {
        for readiness in [Readiness::Runs, Readiness::Says, Readiness::Answers] {
            let mut seen = std::collections::HashSet::new();
            let mut now = vec![World::new(readiness)];
            for _ in 0..14 {
                let next = now.iter().flat_map(successors);
                now = next.filter(|world| seen.insert(world.clone())).collect();
            }
            assert!(seen.len() > 1_000, "{readiness:?}: {}", seen.len());
            let is_somewhere = |what: fn(&World) -> bool| assert!(seen.iter().any(what), "{readiness:?}");
            is_somewhere(|world| world.exit.is_some());
            is_somewhere(|world| world.left && world.gave_up.is_some());
            is_somewhere(|world| world.machine.started > 2 && world.serves);
        }
    }

    /// What can happen next outside: a process serves once, when it is ready, and drains and serves again in
    /// turn.
    fn successors(world: &World) -> Vec<World> {
        if world.exit.is_some() {
            return Vec::new();
        }
        let stage = world.machine.stage;
        let mut events: Vec<_> =
            world.running.iter().map(|number| Event::Ended(*number, End::Exited(1))).collect();
        events.push(Event::SaidReady);
        if world.probes > 0 {
            events.extend([true, false].map(|well| Event::Answered { well }));
        }
        if stage.is_before_serving() {
            events.push(Event::Refused);
        }
        if world.is_ready && !world.serves && world.gave_up.is_none() {
            events.push(Event::Serves);
        }
        if world.serves {
            events.extend([5, 60].map(|seconds| Event::Drains(world.now + seconds * SECOND)));
            events.extend([Event::Forced, Event::Resumes]);
        }
        let mut next: Vec<_> = events
            .into_iter()
            .map(|event| {
                let mut world = world.clone();
                world.handle(event);
                world
            })
            .collect();
        if world.machine.deadline().is_some() {
            let mut later = world.clone();
            later.wait();
            next.push(later);
        }
        next
    }
}
