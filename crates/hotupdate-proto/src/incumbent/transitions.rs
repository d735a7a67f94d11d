//! What the arms of the incumbent's `match` do, in the order of a handoff.
//!
//! Deliberately absent: which arm applies, which is [`super`].

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::Incumbent;
use super::events::{Afterwards, Effect, Peer, Report};
use super::state::{Drain, Goal, State};
use crate::error::{Fault, Refusal};
use crate::inventory::{Summary, UnreadLink};
use crate::message::{Generation, Join, Joined, Message, Ready, Release};
use crate::predecessor::Predecessor;
use crate::timing::{Deadline, Timing, after, millis};

impl Incumbent {
    // ---- before the commit ---------------------------------------------------------------------------------

    pub(super) fn admission(&self, state: &State, join: &Join) -> Result<u16, Refusal> {
        let (ours, theirs) = (self.local.versions, join.versions);
        match (state, state.successor()) {
            _ if self.terminating => Err(Refusal::NotServing),
            (State::Serving, _) => ours.overlap(theirs).ok_or(Refusal::Incompatible { ours, theirs }),
            (state, Some(peer)) if state.is_attempt() => {
                Err(Refusal::Busy { successor: peer.process.clone(), doing: state.stage().to_owned() })
            }
            _ => Err(Refusal::NotServing),
        }
    }

    pub(super) fn offer(
        &mut self,
        now: Instant,
        join: Join,
        version: u16,
        handoff: String,
        inventory: Vec<Message>,
        out: &mut Vec<Effect>,
    ) -> State {
        let Join { versions: _, features, process, attempt } = join;
        let features: Vec<_> = features.into_iter().filter(|f| self.local.features.contains(f)).collect();
        self.issued = self.issued.next();
        let generation = self.issued;
        let timing = &self.local.timing;
        out.push(Effect::Reply(Ok(Joined {
            version,
            features: features.clone(),
            generation,
            lease_ms: millis(timing.lease),
            handoff: handoff.clone(),
            incumbent: self.local.process.clone(),
            incumbent_generation: self.generation,
        })));
        for predecessor in &self.predecessors {
            out.push(Effect::SendTo(predecessor.generation, Message::Issued { generation }));
        }
        let peer = Peer { process, generation, attempt, version, features, handoff, since: now };
        out.push(Effect::Report(Report::Joined(peer.clone())));
        offer_next(now, timing, peer, inventory.into(), 0, after(now, timing.lease), out)
    }

    pub(super) fn ready(&mut self, now: Instant, peer: Peer, ready: &Ready, out: &mut Vec<Effect>) -> State {
        if ready.release == Release::OnCommand && !self.terminating {
            out.push(Effect::Report(Report::Standby(peer.clone())));
            return State::Standby { peer, until: after(now, self.local.timing.standby) };
        }
        self.before(now, Goal::Release(peer), out)
    }

    /// The application's hook comes first, if it has one.
    pub(super) fn before(&self, now: Instant, goal: Goal, out: &mut Vec<Effect>) -> State {
        if !self.has_hook {
            return self.stop(now, goal, out);
        }
        out.push(Effect::BeforeRelease);
        State::BeforeRelease { goal, until: after(now, self.local.timing.before_release) }
    }

    /// Stops the accept loops.
    pub(super) fn stop(&self, now: Instant, goal: Goal, out: &mut Vec<Effect>) -> State {
        out.push(Effect::Stop);
        let until = after(now, self.local.timing.stop);
        match goal {
            Goal::Release(peer) => State::Releasing { peer, until },
            Goal::RollBack(to) => State::RollingBack { to, until },
            Goal::Stop { within, for_good } => State::Stopping { until, within, for_good },
        }
    }

    /// What only one process may do may still be under way here, so no other process begins to serve.
    pub(super) fn hook_failed(
        &mut self,
        now: Instant,
        goal: Goal,
        fault: Fault,
        out: &mut Vec<Effect>,
    ) -> State {
        match goal {
            Goal::Release(_) => self.fail(now, State::BeforeRelease { goal, until: now }, fault, out),
            Goal::RollBack(_) => self.roll_on(now, None, fault.to_string(), out),
            Goal::Stop { .. } => {
                out.push(Effect::Report(Report::BeforeReleaseFailed(fault.to_string())));
                self.stop(now, goal, out)
            }
        }
    }

    /// The attempt is over; this process serves on, or stops if that is what it was waiting for.
    pub(super) fn fail(&mut self, now: Instant, state: State, fault: Fault, out: &mut Vec<Effect>) -> State {
        let stopped = state.has_stopped();
        self.dismiss(&state, fault, out);
        if stopped {
            out.push(Effect::Accept(Vec::new()));
        }
        self.serve_on(now, out)
    }

    /// Tells a successor that its attempt is over, and why.
    pub(super) fn dismiss(&mut self, state: &State, fault: Fault, out: &mut Vec<Effect>) {
        let Some(peer) = state.successor().cloned() else { return };
        let stage = state.stage();
        out.extend([Effect::Send(Message::Failed { reason: fault.to_string() }), Effect::Close]);
        out.push(Effect::Report(Report::Failed { peer, stage, fault }));
    }

    fn serve_on(&mut self, now: Instant, out: &mut Vec<Effect>) -> State {
        if self.terminating {
            self.stop_service(now, self.local.timing.drain, false, false, out)
        } else {
            State::Serving
        }
    }

    // ---- after it ------------------------------------------------------------------------------------------

    pub(super) fn hand_over(
        &mut self,
        now: Instant,
        peer: Peer,
        gap_ns: Option<u64>,
        out: &mut Vec<Effect>,
    ) -> State {
        out.push(Effect::Report(Report::Served { peer: peer.clone(), gap_ns }));
        self.park(now, peer, out)
    }

    /// Somebody else serves: drain, and be ready to take over for a while.
    fn park(&mut self, now: Instant, peer: Peer, out: &mut Vec<Effect>) -> State {
        let timing = &self.local.timing;
        let (until, probation) = (after(now, timing.drain), timing.probation);
        out.push(Effect::Drain { until });
        let drain = Drain::Running { until };
        if self.terminating || probation.is_zero() {
            return self.let_go(&peer, drain, out);
        }
        State::Probation { peer, until: after(now, probation), drain, quiet: false }
    }

    pub(super) fn let_go(&mut self, peer: &Peer, drain: Drain, out: &mut Vec<Effect>) -> State {
        self.predecessors.clear();
        let afterwards = Afterwards::ServedBy(Some(peer.process.pid));
        out.extend([Effect::LetGo(afterwards), Effect::Send(Message::LetGo)]);
        match drain {
            Drain::Done => {
                out.push(Effect::Exit);
                State::Gone
            }
            drain => State::Retired { drain, quiet: false },
        }
    }

    pub(super) fn take_over(&mut self, peer: Peer, fault: Fault, out: &mut Vec<Effect>) -> State {
        out.extend([Effect::Close, Effect::Undrain, Effect::Accept(Vec::new())]);
        out.push(Effect::Report(Report::TookOver { peer, fault }));
        State::Serving
    }

    /// The successor broke the protocol where it does no harm: it serves, and only its death changes that.
    pub(super) fn violation(&self, state: State, what: String, out: &mut Vec<Effect>) -> State {
        let generation = state.successor().map_or(self.issued, |peer| peer.generation);
        out.extend([Effect::Quiet, Effect::Report(Report::Violation(generation, what))]);
        match state {
            State::Probation { peer, until, drain, .. } => {
                State::Probation { peer, until, drain, quiet: true }
            }
            State::Retired { drain, .. } => State::Retired { drain, quiet: true },
            state => state,
        }
    }

    /// The service stops: listeners, control socket and lock go; connections are drained.
    pub(super) fn retire(
        &mut self,
        now: Instant,
        within: Duration,
        for_good: bool,
        out: &mut Vec<Effect>,
    ) -> State {
        let afterwards = if for_good { Afterwards::StoppedForGood } else { Afterwards::Stopped };
        let until = self.leave(now, within, afterwards, out);
        State::Retired { drain: Drain::Running { until }, quiet: false }
    }

    /// Returns when the drain has to end.
    fn leave(
        &mut self,
        now: Instant,
        within: Duration,
        afterwards: Afterwards,
        out: &mut Vec<Effect>,
    ) -> Instant {
        let until = after(now, within);
        self.predecessors.clear();
        out.extend([Effect::LetGo(afterwards), Effect::Drain { until }]);
        until
    }

    // ---- rollback ------------------------------------------------------------------------------------------

    /// Predecessor: both links and roles swap, the process that served is now one that drains.
    pub(super) fn resume(
        &mut self,
        now: Instant,
        peer: Peer,
        links: Vec<UnreadLink>,
        out: &mut Vec<Effect>,
    ) -> State {
        let generation = peer.generation;
        // What ended meanwhile told the other process; here its end must not look like a death.
        for older in &mut self.predecessors {
            older.drained |= !links.iter().any(|rest| rest.generation == older.generation);
        }
        out.extend([Effect::Undrain, Effect::Accept(links), Effect::Demote(generation)]);
        out.push(Effect::SendTo(generation, Message::Serving { gap_ns: None }));
        // It may take over again, as any predecessor.
        let former = Predecessor::released(now, generation, peer.process.clone(), Summary::default());
        self.predecessors.insert(
            0,
            Predecessor { features: peer.features.clone(), handoff: peer.handoff.clone(), ..former },
        );
        out.push(Effect::Report(Report::Resumed(peer)));
        State::Serving
    }

    /// Serving process: the predecessor serves again, and this process is its predecessor, in probation like any other.
    pub(super) fn step_back(
        &mut self,
        now: Instant,
        to: Generation,
        until: Instant,
        out: &mut Vec<Effect>,
    ) -> State {
        let Some(position) = self.predecessors.iter().position(|p| p.generation == to) else {
            return State::Resuming { to, until };
        };
        out.push(Effect::Promote(to));
        // It goes on under the name of the handoff that it takes back.
        let Predecessor { process, features, handoff, .. } = self.predecessors.remove(position);
        out.push(Effect::Report(Report::RolledBack(to, process.clone())));
        let version = self.local.versions.max;
        let peer = Peer { process, generation: to, attempt: None, version, features, handoff, since: now };
        self.park(now, peer, out)
    }

    /// Serving process: the predecessor does not serve again. If it was asked, it may only be late.
    pub(super) fn roll_on(
        &mut self,
        now: Instant,
        asked: Option<Generation>,
        reason: String,
        out: &mut Vec<Effect>,
    ) -> State {
        if let Some(to) = asked {
            self.predecessors.iter_mut().filter(|p| p.generation == to).for_each(|p| p.told = true);
            out.push(Effect::SendTo(to, Message::Failed { reason: reason.clone() }));
        }
        out.extend([Effect::Accept(Vec::new()), Effect::Report(Report::RollbackFailed(reason))]);
        self.serve_on(now, out)
    }

    /// The predecessor waited for our `serving` in vain, or we for its: it accepts. There must not be two for long.
    pub(super) fn stand_down(
        &mut self,
        now: Instant,
        state: State,
        to: Generation,
        reason: String,
        out: &mut Vec<Effect>,
    ) -> State {
        if state.is_attempt() {
            self.dismiss(&state, Fault::Stopping, out);
        }
        out.push(Effect::Report(Report::StoodDown(reason)));
        self.step_aside(now, to, self.local.timing.drain, out)
    }

    /// Lets go in favour of this predecessor, and of no other.
    pub(super) fn step_aside(
        &mut self,
        now: Instant,
        to: Generation,
        within: Duration,
        out: &mut Vec<Effect>,
    ) -> State {
        for other in self.predecessors.iter().filter(|p| p.probation && p.generation != to) {
            out.push(Effect::SendTo(other.generation, Message::Farewell));
        }
        out.push(Effect::Promote(to));
        let serves = self.predecessors.iter().find(|p| p.generation == to).map(|p| p.process.pid);
        let until = self.leave(now, within, Afterwards::ServedBy(serves), out);
        out.push(Effect::Send(Message::LetGo));
        // What it said as a predecessor may still be on its way.
        State::Retired { drain: Drain::Running { until }, quiet: true }
    }

    // ---- stopping ------------------------------------------------------------------------------------------

    pub(super) fn stop_service(
        &mut self,
        now: Instant,
        within: Duration,
        for_good: bool,
        loops_stop: bool,
        out: &mut Vec<Effect>,
    ) -> State {
        for predecessor in self.predecessors.iter().filter(|p| p.probation) {
            out.push(Effect::SendTo(predecessor.generation, Message::Farewell));
        }
        out.push(Effect::Report(Report::Stopping));
        let goal = Goal::Stop { within, for_good };
        // The hook has ended already if the accept loops were to stop for another reason.
        if loops_stop { self.stop(now, goal, out) } else { self.before(now, goal, out) }
    }

    // ---- time ----------------------------------------------------------------------------------------------

    /// Every deadline of this side.
    pub(super) fn tick(&mut self, now: Instant, state: State, out: &mut Vec<Effect>) -> State {
        let Some((deadline, _)) = state.wait().filter(|(_, until)| now >= *until) else { return state };
        match state {
            State::Probation { peer, drain, .. } if deadline == Deadline::Probation => {
                self.let_go(&peer, drain, out)
            }
            State::Probation { peer, until, drain, quiet } => {
                State::Probation { peer, until, drain: self.tick_drain(now, drain, out), quiet }
            }
            State::Retired { drain, quiet } => match self.tick_drain(now, drain, out) {
                Drain::Done => {
                    out.push(Effect::Exit);
                    State::Gone
                }
                drain => State::Retired { drain, quiet },
            },
            State::RollingBack { .. } => self.roll_on(now, None, deadline.to_string(), out),
            State::Resuming { to, .. } => self.roll_on(now, Some(to), deadline.to_string(), out),
            State::BeforeRelease { goal, .. } => self.hook_failed(now, goal, Fault::TimedOut(deadline), out),
            State::Stopping { within, for_good, .. } => self.retire(now, within, for_good, out),
            state => self.fail(now, state, Fault::TimedOut(deadline), out),
        }
    }

    /// How the drain goes, as the caller says it.
    pub(super) fn progress(&mut self, state: State, tasks: &[String], out: &mut Vec<Effect>) -> State {
        self.has_tasks = !tasks.is_empty();
        if self.has_tasks { state } else { self.tasks_ended(state, out) }
    }

    /// Nothing is waited for any more, if it was only tasks.
    pub(super) fn tasks_ended(&self, state: State, out: &mut Vec<Effect>) -> State {
        match state {
            State::Probation { peer, until, drain: Drain::Tasks, quiet } => {
                State::Probation { peer, until, drain: Drain::Done, quiet }
            }
            State::Retired { drain: Drain::Tasks, .. } => {
                out.push(Effect::Exit);
                State::Gone
            }
            state => state,
        }
    }

    /// In probation there is time after it: the end of the probation ends the process.
    fn tick_drain(&self, now: Instant, drain: Drain, out: &mut Vec<Effect>) -> Drain {
        match drain {
            Drain::Running { .. } => {
                out.push(Effect::Force);
                Drain::Forcing { until: after(now, self.local.timing.force) }
            }
            Drain::Forcing { .. } if self.has_tasks && !self.abandons_tasks => Drain::Tasks,
            Drain::Forcing { .. } | Drain::Tasks | Drain::Done => Drain::Done,
        }
    }
}

/// Sends the next batch of the inventory, or says that it is complete.
pub(super) fn offer_next(
    now: Instant,
    timing: &Timing,
    peer: Peer,
    mut queue: VecDeque<Message>,
    acknowledged: u32,
    lease: Instant,
    out: &mut Vec<Effect>,
) -> State {
    match queue.pop_front() {
        Some(message) => {
            out.push(Effect::Send(message));
            State::Offering {
                peer,
                queue,
                awaiting: acknowledged + 1,
                until: after(now, timing.batch),
                lease,
            }
        }
        None => {
            out.push(Effect::Send(Message::Complete { batches: acknowledged }));
            State::Warming { peer, until: lease }
        }
    }
}
