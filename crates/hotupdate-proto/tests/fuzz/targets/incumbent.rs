//! The incumbent's machine, whatever it is told: it never waits without a deadline, asks for nothing that
//! cannot be done, and when all is over it is gone, or serves and the next handoff works.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use arbitrary::{Result, Unstructured};
use hotupdate_proto::incumbent::{Effect, Event, Stopped};
use hotupdate_proto::message::{Generation, Join, Message, Ready, Versions};
use hotupdate_proto::migration::{InboundEffect, Leaving, OutboundEffect};
use hotupdate_proto::operator::{Command, ProcessState};
use hotupdate_proto::{Incumbent, Predecessor, Summary, Totals};

use super::said;

pub(crate) fn check(bytes: &[u8]) {
    let mut u = Unstructured::new(bytes);
    // Bytes that are used up are a life that is over.
    let _ = begin(&mut u).and_then(|life| life.live(&mut u));
}

fn begin(u: &mut Unstructured<'_>) -> Result<Life> {
    let now = super::successor::origin();
    let local = said::local(u)?;
    let older = (0..u.int_in_range(0..=3)?)
        .map(|n| {
            let item = hotupdate_proto::LinkItem { generation: Generation(9 - n), ..said::link(u)? };
            Ok(Predecessor::inherited(now, &item))
        })
        .collect::<Result<_>>()?;
    let machine = Incumbent::serving(local, Generation(10), older).with_hook(u.arbitrary()?);
    let machine = machine.accepting(said::kinds(u)?);
    Ok(Life::new(now, machine))
}

/// A machine, and what its driver has after doing what the machine wanted.
pub(crate) struct Life {
    machine: Incumbent,
    now: Instant,
    accepting: bool,
    /// [`Effect::Stop`] is not answered yet.
    stopping: bool,
    /// The application ends that.
    ending: bool,
    /// The application does what only one process may do.
    works: bool,
    /// The listeners, the control socket and the lock.
    holds: bool,
    /// To the successor, or as a predecessor to the process that serves.
    link: bool,
    predecessors: BTreeSet<Generation>,
    draining: Option<Instant>,
    /// The highest generation that was given away.
    given: Generation,
    /// Connections that have asked to leave.
    leaving: BTreeSet<u64>,
    last_id: u64,
    /// Batches of predecessors that are held.
    held: BTreeSet<(Generation, u32)>,
    gone: bool,
}

impl Life {
    pub(crate) fn new(now: Instant, machine: Incumbent) -> Self {
        let predecessors = machine.predecessors().iter().map(|p| p.generation).collect();
        let given = machine.generation();
        let mut life = Self {
            machine,
            now,
            accepting: true,
            stopping: false,
            ending: false,
            works: true,
            holds: true,
            link: false,
            predecessors,
            draining: None,
            given,
            leaving: BTreeSet::new(),
            last_id: 0,
            held: BTreeSet::new(),
            gone: false,
        };
        let effects = life.machine.greet();
        life.perform(effects);
        life
    }

    pub(crate) fn live(mut self, u: &mut Unstructured<'_>) -> Result<()> {
        while !u.is_empty() && !self.gone {
            self.something_happens(u)?;
        }
        self.comes_to_rest();
        if !self.gone {
            self.hands_over();
        }
        Ok(())
    }

    fn something_happens(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        match u.int_in_range(0..=17)? {
            17 => self.leave(),
            0 => self.now += Duration::from_millis(u.int_in_range(0..=20_000)?),
            1 => self.tick_too_early(),
            2 | 3 => self.tick(),
            4 => {
                let versions = Versions { min: u.int_in_range(0..=4)?, max: u.int_in_range(0..=4)? };
                let batches = u.int_in_range(0..=2)?;
                self.join(versions, batches);
            }
            5..=8 => {
                let message = said::message(u)?;
                // What is said on a link that is closed is no event.
                if self.link {
                    self.handle(Event::Message(message));
                }
            }
            9 if self.link => {
                let fault = said::fault(u)?;
                self.handle(Event::Closed(fault));
            }
            10 => self.stopped(Event::Stopped(Stopped::default())),
            11 if u.arbitrary()? => self.stopped(Event::CannotStop("no".to_owned())),
            11 => self.handle(Event::Drained { forced: 0 }),
            12 => {
                let (generation, message) = (said::generation(u)?, said::message(u)?);
                self.handle(Event::Predecessor(generation, message));
            }
            13 => {
                let (generation, fault) = (said::generation(u)?, said::fault(u)?);
                self.handle(Event::PredecessorClosed(generation, fault));
            }
            14 => self.command(u)?,
            15 if self.ending => {
                (self.ending, self.works) = (false, false);
                let failed = u.arbitrary()?;
                let result = if failed { Err("it panicked".to_owned()) } else { Ok(()) };
                self.handle(Event::BeforeReleaseDone(result));
            }
            _ => {
                let (connections, totals) = (Summary::default(), Totals::default());
                self.handle(Event::Progress { connections, closed: Vec::new(), totals, tasks: Vec::new() });
            }
        }
        Ok(())
    }

    fn handle(&mut self, event: Event) {
        let effects = self.machine.handle(self.now, event);
        self.perform(effects);
    }

    /// Waits for whatever is waited for.
    fn tick(&mut self) {
        let Some(deadline) = self.machine.deadline() else { return };
        self.now = self.now.max(deadline);
        let mut ticks = 0;
        while self.machine.deadline().is_some_and(|deadline| deadline <= self.now) {
            self.handle(Event::Tick);
            ticks += 1;
            assert!(ticks < 8, "a deadline that has passed stays: {:?}", self.machine);
        }
    }

    fn tick_too_early(&mut self) {
        if self.machine.deadline().is_none_or(|deadline| deadline > self.now) {
            let before = self.machine.clone();
            assert_eq!(self.machine.handle(self.now, Event::Tick), []);
            assert_eq!(self.machine, before);
        }
    }

    fn join(&mut self, versions: Versions, batches: u32) -> bool {
        let process = hotupdate_proto::Process::new(String::new(), 2, String::new());
        let join = Join { versions, features: vec!["migrate".to_owned()], process, attempt: None };
        let inventory = (1..=batches).map(|batch| Message::Control { batch }).collect();
        let (before, admitted) = (self.machine.clone(), self.machine.admits(self.now, &join));
        let event = Event::Join { join, handoff: "h".to_owned(), inventory, occupancy: None };
        let effects = self.machine.handle(self.now, event);
        match (&admitted, &effects[..]) {
            (Ok(()), [Effect::Reply(Ok(joined)), ..]) => {
                assert!(joined.generation > self.given, "{} after {}", joined.generation, self.given);
                self.given = joined.generation;
                assert!(!self.link, "one successor at a time");
                self.link = true;
                self.perform(effects);
            }
            (Err(refusal), [Effect::Reply(Err(said))]) => {
                assert_eq!((said, &self.machine), (refusal, &before), "asking changes nothing");
            }
            _ => panic!("{admitted:?}, and then {effects:?}"),
        }
        admitted.is_ok()
    }

    fn stopped(&mut self, event: Event) {
        if self.stopping {
            // Some of them have stopped, if not all.
            (self.stopping, self.accepting) = (false, false);
            self.handle(event);
        }
    }

    fn command(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let within = Duration::from_millis(said::number(u)?.into());
        let command = match u.int_in_range(0..=8)? {
            0 => Command::Handoff,
            1 => Command::Abort { why: None },
            2 => Command::Rollback,
            3 => Command::Drain { within: u.choose(&[within, Duration::MAX]).copied()? },
            4 => Command::Stop { within: Some(within) },
            5 => Command::Stop { within: None },
            6 => Command::TerminateNow,
            7 => Command::Abandon { attempt: "a".to_owned() },
            _ => Command::Terminate,
        };
        let before = self.machine.clone();
        match self.machine.command(self.now, command) {
            Ok(effects) => self.perform(effects),
            Err(_) => assert_eq!(self.machine, before, "a command that is turned down changes nothing"),
        }
        Ok(())
    }

    // ---- what the driver does -------------------------------------------------------------------------

    fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            assert!(!self.gone, "{effect:?} after the end");
            self.do_it(effect);
        }
        self.holds_together();
    }

    fn do_it(&mut self, effect: Effect) {
        match effect {
            Effect::BeforeRelease => {
                assert!(self.holds, "nothing is left to release");
                self.ending = true;
            }
            Effect::Rebound(_) => assert!(self.holds && !self.accepting, "it is not its own any more"),
            Effect::Established => assert!(self.holds, "it is not the one that serves"),
            Effect::Stop => {
                assert!(self.holds, "nothing is left to stop");
                self.stopping = true;
            }
            Effect::Accept(_) => {
                assert!(self.holds, "accepts without listeners");
                let begun = self.ending || !self.works || self.stopping;
                assert!(begun || !self.accepting, "accepts already");
                (self.ending, self.works) = (false, true);
                (self.stopping, self.accepting) = (false, true);
            }
            Effect::LetGo(_) => {
                assert!(self.holds, "lets go twice");
                (self.ending, self.stopping, self.accepting, self.holds) = (false, false, false, false);
                self.predecessors.clear();
            }
            Effect::Drain { until, .. } => {
                assert!(!self.accepting, "drains and accepts");
                assert!(self.draining.is_none_or(|before| until <= before), "a drain that gets longer");
                self.draining = Some(until);
            }
            Effect::Undrain => assert!(self.draining.take().is_some(), "there is no drain"),
            Effect::Force => assert!(self.draining.is_some_and(|until| until <= self.now), "too early"),
            Effect::Close => assert!(std::mem::take(&mut self.link), "there is no link to close"),
            Effect::Demote(generation) => {
                assert!(std::mem::take(&mut self.link), "there is no link to demote");
                assert!(self.predecessors.insert(generation), "two predecessors of generation {generation}");
            }
            Effect::Promote(generation) => {
                assert!(!self.link, "the successor's link was not closed");
                assert!(self.predecessors.remove(&generation), "generation {generation} is no predecessor");
                self.link = true;
            }
            Effect::Forget(generation) => {
                assert!(self.predecessors.remove(&generation), "generation {generation} is no predecessor");
            }
            Effect::Read(generation) => assert!(self.predecessors.contains(&generation)),
            Effect::Outbound(effect) => self.outbound(effect),
            Effect::Inbound(from, effect) => self.inbound(from, effect),
            Effect::Exit => {
                assert!(!self.holds && !self.accepting, "leaves while it serves");
                self.gone = true;
            }
            Effect::Reply(_) | Effect::Send(_) | Effect::SendTo(..) | Effect::Quiet | Effect::Report(_) => {}
        }
    }

    fn leave(&mut self) {
        self.last_id += 1;
        self.leaving.insert(self.last_id);
        self.handle(Event::Leave(vec![Leaving { id: self.last_id, bytes: 0, descriptors: 1 }]));
    }

    fn outbound(&mut self, effect: OutboundEffect) {
        match effect {
            OutboundEffect::Prepare { ids, .. } => {
                assert!(ids.iter().all(|id| self.leaving.contains(id)), "{ids:?} did not ask to leave");
            }
            OutboundEffect::Migrated(ids) | OutboundEffect::Return(ids) => {
                for id in ids {
                    assert!(self.leaving.remove(&id), "{id} did not ask to leave, or has its answer");
                }
            }
            OutboundEffect::Send(_) => assert!(self.link || self.draining.is_some(), "to no process"),
            OutboundEffect::Accepted(_) | OutboundEffect::Pause | OutboundEffect::Stalled => {}
        }
    }

    fn inbound(&mut self, from: Generation, effect: InboundEffect) {
        match effect {
            InboundEffect::Send(_) => assert!(self.predecessors.contains(&from), "to no process"),
            InboundEffect::Inspect { batch, .. } => {
                assert!(self.held.insert((from, batch)), "batch {batch} is held already");
                self.handle(Event::Inspected { from, batch, refused: Vec::new() });
            }
            InboundEffect::Serve(batch) | InboundEffect::Discard(batch) => {
                assert!(self.held.remove(&(from, batch)), "batch {batch} is not held");
            }
        }
    }

    /// What holds after every step.
    fn holds_together(&self) {
        let machine = &self.machine;
        assert_eq!(machine.is_gone(), self.gone, "{machine:?}");
        let idle = machine.accepts() && machine.successor().is_none();
        assert!(machine.deadline().is_some() || idle || self.gone, "waits without a deadline: {machine:?}");
        assert!(!machine.accepts() || (self.accepting && !self.stopping), "does not accept: {machine:?}");
        assert!(self.holds || machine.process_state() != ProcessState::Serving, "{machine:?}");
        // In probation it may have been closed by the other side.
        assert!(!machine.accepts() || self.link == machine.successor().is_some(), "{machine:?}");
        assert!(self.leaving.is_empty() || self.draining.is_some(), "kept in vain: {:?}", self.leaving);
        assert!(self.held.iter().all(|(from, _)| self.predecessors.contains(from)), "{:?}", self.held);
        let known: BTreeSet<_> = machine.predecessors().iter().map(|p| p.generation).collect();
        assert_eq!(known.len(), machine.predecessors().len(), "two of one generation: {machine:?}");
        assert_eq!(known, self.predecessors);
    }

    // ---- the end --------------------------------------------------------------------------------------

    /// No process says anything any more.
    fn comes_to_rest(&mut self) {
        for _ in 0..16 {
            self.tick();
        }
        assert_eq!(self.machine.deadline(), None, "this never ends: {:?}", self.machine);
        assert!(self.gone || self.machine.accepts(), "{:?}", self.machine);
    }

    /// A successor that does everything right.
    fn hands_over(mut self) {
        assert!(self.join(Versions { min: 1, max: 9 }, 2), "the next attempt works: {:?}", self.machine);
        for batch in 1..=2 {
            self.handle(Event::Message(Message::Received { batch }));
        }
        self.handle(Event::Message(Message::Ready(Ready::default())));
        if std::mem::take(&mut self.ending) {
            self.works = false;
            self.handle(Event::BeforeReleaseDone(Ok(())));
        }
        assert!(self.stopping, "{:?}", self.machine);
        self.stopped(Event::Stopped(Stopped::default()));
        self.handle(Event::Message(Message::Serving { gap_ns: None, accepts: Vec::new() }));
        assert_eq!(self.machine.process_state(), ProcessState::Draining);
        assert!(self.draining.is_some());
        self.comes_to_rest();
        assert!(self.gone, "{:?}", self.machine);
    }
}
