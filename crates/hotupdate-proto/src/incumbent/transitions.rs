//! What the arms of the incumbent's `match` do, in the order of a handoff.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::crashes::Crashes;
use super::events::{Afterwards, Effect, Peer, Report};
use super::state::{Drain, Goal, State};
use super::{Incumbent, leave_effects};
use crate::error::{Fault, Refusal};
use crate::identity::Generation;
use crate::inventory::{Occupancy, SocketFile, Summary, UnreadLink};
use crate::message::{Join, Joined, Message, Ready, Release};
use crate::migration::ConnectionKind;
use crate::predecessor::Predecessor;
use crate::timing::{Deadline, Timing, after, millis};
use crate::{FEATURE_MIGRATE, FEATURE_REBIND};

impl Incumbent {
    // ---- before the commit ----------------------------------------------------------------------------

    pub(super) fn admission(&self, now: Instant, state: &State, join: &Join) -> Result<u16, Refusal> {
        let (ours, theirs) = (self.local.versions, join.versions);
        match (state, state.successor()) {
            _ if self.terminating => Err(Refusal::NotServing),
            _ if join.attempt.as_ref().is_some_and(|attempt| self.abandoned.contains(attempt)) => {
                Err(Refusal::Abandoned)
            }
            (State::Serving, _) => {
                let version = ours.overlap(theirs).ok_or(Refusal::Incompatible { ours, theirs })?;
                self.crashes.as_ref().map_or(Ok(()), |crashes| crashes.admit(now, join))?;
                Ok(version)
            }
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
        (inventory, occupancy): (Vec<Message>, Option<Occupancy>),
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
            manager: None,
            occupancy,
        })));
        for predecessor in &self.predecessors {
            out.push(Effect::SendTo(predecessor.generation, Message::Issued { generation }));
        }
        let accepts = Vec::new();
        let peer = Peer {
            process,
            generation,
            attempt,
            version,
            features,
            accepts,
            trouble: None,
            handoff,
            since: now,
        };
        out.push(Effect::Report(Report::Joined(peer.clone())));
        offer_next(now, timing, peer, inventory.into(), 0, after(now, timing.lease), out)
    }

    pub(super) fn ready(&mut self, now: Instant, peer: Peer, ready: Ready, out: &mut Vec<Effect>) -> State {
        let peer = Peer { accepts: ready.accepts, trouble: None, ..peer };
        if ready.release == Release::OnCommand && !self.terminating {
            out.push(Effect::Report(Report::Standby(peer.clone())));
            return State::Standby { peer, until: after(now, self.local.timing.standby) };
        }
        self.before(now, Goal::Release(peer), out)
    }

    /// The control socket was made again: every process that may serve after this one has to have it.
    pub(super) fn rebound(&self, state: &State, file: SocketFile, out: &mut Vec<Effect>) {
        let knows = |features: &[String]| features.iter().any(|feature| feature == FEATURE_REBIND);
        if let State::Warming { peer, .. } | State::Standby { peer, .. } = state
            && knows(&peer.features)
        {
            out.push(Effect::Send(Message::Rebound { file }));
        }
        for predecessor in self.predecessors.iter().filter(|p| p.probation && knows(&p.features)) {
            out.push(Effect::SendTo(predecessor.generation, Message::Rebound { file }));
        }
    }

    /// The application's hook comes first, if it has one.
    pub(super) fn before(&mut self, now: Instant, goal: Goal, out: &mut Vec<Effect>) -> State {
        if !self.has_hook {
            return self.quiesce(now, goal, out);
        }
        out.push(Effect::BeforeRelease);
        State::BeforeRelease { goal, until: after(now, self.local.timing.before_release) }
    }

    /// Then predecessors finish the migrations that are under way: the next process could not.
    pub(super) fn quiesce(&mut self, now: Instant, goal: Goal, out: &mut Vec<Effect>) -> State {
        let expires = self.offers_expire();
        // Where nothing is accepted nothing is under way, and a process that stays for its supervisor alone
        // has nothing left to say.
        let accepts = !self.accepts.is_empty();
        for predecessor in self.predecessors.iter_mut().filter(|older| accepts && !older.is_done()) {
            let effects = predecessor.inbound.quiesce(now, expires);
            predecessor.comes(effects, out);
        }
        State::Quiescing { goal, until: after(now, self.local.timing.quiesce) }
    }

    /// How long after it arrived a predecessor may commit a batch: its own wait is over then.
    fn offers_expire(&self) -> Duration {
        let Timing { prepared, quiesce, .. } = self.local.timing;
        prepared.saturating_add(quiesce)
    }

    /// As soon as no predecessor is awaited, the accept loops stop.
    pub(super) fn when_quiesced(&self, now: Instant, state: State, out: &mut Vec<Effect>) -> State {
        let State::Quiescing { goal, until } = state else { return state };
        if self.predecessors.iter().any(|predecessor| predecessor.inbound.is_awaited()) {
            return State::Quiescing { goal, until };
        }
        out.push(Effect::Stop);
        let until = after(now, self.local.timing.stop);
        match goal {
            Goal::Release(peer) => State::Releasing { peer, until },
            Goal::RollBack(to) => State::RollingBack { to, until },
            Goal::Stop { within, for_good } => State::Stopping { until, within, for_good },
        }
    }

    /// Going on would lose the connections that are on their way, so what was to come does not. The next
    /// attempt does not wait for a predecessor that hangs, once what it offered has expired. A stop comes all
    /// the same, but not before that.
    fn not_quiesced(&mut self, now: Instant, goal: Goal, out: &mut Vec<Effect>) -> State {
        let expires = self.offers_expire();
        let committable = |p: &Predecessor| p.inbound.committable_until(expires).filter(|until| now < *until);
        if let Goal::Stop { .. } = goal
            && let Some(until) = self.predecessors.iter().filter_map(committable).max()
        {
            return State::Quiescing { goal, until };
        }
        let mut generations = Vec::new();
        for predecessor in self.predecessors.iter_mut().filter(|p| p.inbound.is_awaited()) {
            predecessor.inbound.is_late();
            generations.push(predecessor.generation.to_string());
        }
        let why = format!(
            "generation {} did not finish its migrations in time (deadline `quiesce`)",
            generations.join(" and ")
        );
        match goal {
            Goal::Release(_) => self.fail(now, State::Quiescing { goal, until: now }, Fault::Local(why), out),
            Goal::RollBack(_) => self.roll_on(now, None, self.has_hook, why, out),
            Goal::Stop { within, for_good } => self.retire(now, within, for_good, out),
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
            Goal::RollBack(_) => self.roll_on(now, None, true, fault.to_string(), out),
            Goal::Stop { .. } => {
                out.push(Effect::Report(Report::BeforeReleaseFailed(fault.to_string())));
                self.quiesce(now, goal, out)
            }
        }
    }

    /// Whether something of ours has stopped, and has to go on if no other process serves.
    pub(super) fn has_stopped(&self, state: &State) -> bool {
        match state {
            State::Quiescing { .. } => self.has_hook,
            state => state.has_stopped(),
        }
    }

    /// The attempt is over; this process serves on, or stops if that is what it was waiting for.
    pub(super) fn fail(&mut self, now: Instant, state: State, fault: Fault, out: &mut Vec<Effect>) -> State {
        let stopped = self.has_stopped(&state);
        self.dismiss(&state, fault, out);
        if stopped {
            out.push(Effect::Accept(Vec::new()));
        }
        if self.terminating {
            return self.give_back_or_stop(now, out);
        }
        self.serve_on(out)
    }

    /// Tells a successor that its attempt is over, and why.
    pub(super) fn dismiss(&mut self, state: &State, fault: Fault, out: &mut Vec<Effect>) {
        let Some(peer) = state.successor().cloned() else { return };
        let stage = state.stage();
        // Its last words say more than its end.
        let fault = match (fault, &peer.trouble) {
            (Fault::PeerGone, Some(what)) => Fault::PeerFailed(what.clone()),
            (fault, _) => fault,
        };
        out.extend([Effect::Send(Message::Failed { reason: fault.to_string() }), Effect::Close]);
        out.push(Effect::Report(Report::Failed { peer, stage, fault }));
    }

    fn serve_on(&mut self, out: &mut Vec<Effect>) -> State {
        self.announce(out);
        State::Serving
    }

    // ---- after it -------------------------------------------------------------------------------------

    pub(super) fn yield_to(
        &mut self,
        now: Instant,
        peer: Peer,
        gap_ns: Option<u64>,
        out: &mut Vec<Effect>,
    ) -> State {
        out.push(Effect::Report(Report::Served { peer: peer.clone(), gap_ns }));
        let accepts = peer.accepts.clone();
        self.park(now, peer, accepts, out)
    }

    /// Another process serves: drain, and be ready to take over for a while.
    fn park(
        &mut self,
        now: Instant,
        peer: Peer,
        accepts: Vec<ConnectionKind>,
        out: &mut Vec<Effect>,
    ) -> State {
        let timing = &self.local.timing;
        let within = if self.ends_now { Duration::ZERO } else { timing.drain };
        let (until, probation) = (after(now, within), timing.probation);
        // First, so that no connection that can leave is told to close.
        let migrates = peer.features.iter().any(|feature| feature == FEATURE_MIGRATE);
        leave_effects(self.outbound.begin(Some(if migrates { accepts } else { Vec::new() })), out);
        out.push(Effect::Drain { until, is_succeeded: true });
        let drain = Drain::Running { until, is_succeeded: true };
        if self.terminating || probation.is_zero() {
            return self.let_go(&peer, drain, out);
        }
        State::Probation { peer, until: after(now, probation), drain, quiet: false }
    }

    pub(super) fn let_go(&mut self, peer: &Peer, drain: Drain, out: &mut Vec<Effect>) -> State {
        self.forget_predecessors(out);
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

    pub(super) fn take_over(
        &mut self,
        now: Instant,
        peer: Peer,
        fault: Fault,
        out: &mut Vec<Effect>,
    ) -> State {
        let (successor, attempt) = (peer.process.clone(), peer.attempt.clone());
        let backoff = self.local.timing.crash_backoff;
        self.crashes = Some(Crashes::one_more(self.crashes.take(), now, backoff, successor, attempt));
        out.push(Effect::Close);
        self.undrain(out);
        out.push(Effect::Accept(Vec::new()));
        self.announce(out);
        out.push(Effect::Report(Report::TookOver { peer, fault }));
        State::Serving
    }

    /// First of all nothing drains: or else answers in between would say `Connection: close`.
    fn undrain(&mut self, out: &mut Vec<Effect>) {
        out.push(Effect::Undrain);
        leave_effects(self.outbound.end(), out);
        // Another process has read their links meanwhile.
        for older in &mut self.predecessors {
            let effects = older.inbound.forget();
            older.comes(effects, out);
        }
    }

    /// The successor broke the protocol where it does no harm: it serves, and only its death changes that.
    pub(super) fn violation(&mut self, state: State, what: String, out: &mut Vec<Effect>) -> State {
        let generation = state.successor().map_or(self.issued, |peer| peer.generation);
        leave_effects(self.outbound.withdraw(), out);
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
        let drain = self.leave(now, within, afterwards, out);
        State::Retired { drain, quiet: false }
    }

    fn leave(
        &mut self,
        now: Instant,
        within: Duration,
        afterwards: Afterwards,
        out: &mut Vec<Effect>,
    ) -> Drain {
        let (until, is_succeeded) = (after(now, within), matches!(afterwards, Afterwards::ServedBy(_)));
        self.forget_predecessors(out);
        out.extend([Effect::LetGo(afterwards), Effect::Drain { until, is_succeeded }]);
        Drain::Running { until, is_succeeded }
    }

    // ---- rollback -------------------------------------------------------------------------------------

    /// Why this process gives the service back, for operators that ask afterwards.
    pub(super) fn why_back(&self) -> &'static str {
        if self.terminating { "it was told to stop" } else { "an operator rolled it back" }
    }

    /// Predecessor: both links and roles swap, the process that served is now one that drains.
    pub(super) fn resume(
        &mut self,
        now: Instant,
        peer: Peer,
        links: Vec<UnreadLink>,
        reason: String,
        out: &mut Vec<Effect>,
    ) -> State {
        let generation = peer.generation;
        // What ended meanwhile told the other process; here its end must not look like a death.
        for older in &mut self.predecessors {
            older.drained |= !links.iter().any(|rest| rest.generation == older.generation);
        }
        self.undrain(out);
        out.extend([Effect::Accept(links), Effect::Demote(generation)]);
        let accepts = self.accepts.clone();
        out.push(Effect::SendTo(generation, Message::Serving { gap_ns: None, accepts }));
        self.announce(out);
        // It may take over again, as any predecessor.
        let former = Predecessor::released(now, generation, peer.process.clone(), Summary::default());
        let (features, handoff) = (peer.features.clone(), peer.handoff.clone());
        let former = Predecessor { features, handoff, was_rolled_back: true, ..former };
        self.predecessors.insert(0, former.knowing());
        out.push(Effect::Report(Report::Resumed { peer, reason }));
        State::Serving
    }

    /// Serving process: the predecessor serves again, and this process is its predecessor, in probation like
    /// any other.
    pub(super) fn step_back(
        &mut self,
        now: Instant,
        to: Generation,
        until: Instant,
        accepts: Vec<ConnectionKind>,
        out: &mut Vec<Effect>,
    ) -> State {
        let Some(predecessor) = self.promote(to, out) else {
            return State::Resuming { to, until };
        };
        // It goes on under the name of the handoff that it takes back.
        let Predecessor { process, features, handoff, .. } = predecessor;
        out.push(Effect::Report(Report::RolledBack(to, process.clone())));
        let peer = Peer {
            process,
            generation: to,
            attempt: None,
            version: self.local.versions.max,
            features,
            accepts: Vec::new(),
            trouble: None,
            handoff,
            since: now,
        };
        self.park(now, peer, accepts, out)
    }

    /// The link to this predecessor is the one to the process that serves. What it was about to migrate here
    /// stays there.
    fn promote(&mut self, to: Generation, out: &mut Vec<Effect>) -> Option<Predecessor> {
        let position = self.predecessors.iter().position(|p| p.generation == to)?;
        let mut predecessor = self.predecessors.remove(position);
        let effects = predecessor.inbound.forget();
        predecessor.comes(effects, out);
        out.push(Effect::Promote(to));
        Some(predecessor)
    }

    /// Serving process: the predecessor does not serve again. If it was asked, it may only be late.
    pub(super) fn roll_on(
        &mut self,
        now: Instant,
        asked: Option<Generation>,
        stopped: bool,
        reason: String,
        out: &mut Vec<Effect>,
    ) -> State {
        if let Some(to) = asked {
            self.predecessors.iter_mut().filter(|p| p.generation == to).for_each(|p| p.told = true);
            out.push(Effect::SendTo(to, Message::Failed { reason: reason.clone() }));
        }
        if stopped {
            out.push(Effect::Accept(Vec::new()));
        }
        out.push(Effect::Report(Report::RollbackFailed(reason)));
        if self.terminating {
            return self.stop_service(now, self.local.timing.drain, false, false, out);
        }
        self.serve_on(out)
    }

    /// The predecessor waited for our `serving` in vain, or we for its: it accepts. There must not be two for
    /// long.
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
            out.push(Effect::SendTo(other.generation, Message::EndProbation));
        }
        let serves = self.promote(to, out).map(|predecessor| predecessor.process.pid);
        // What it accepts it says in a moment.
        leave_effects(self.outbound.begin(None), out);
        let drain = self.leave(now, within, Afterwards::ServedBy(serves), out);
        out.push(Effect::Send(Message::LetGo));
        // What it said as a predecessor may still be on its way.
        State::Retired { drain, quiet: true }
    }

    // ---- stopping -------------------------------------------------------------------------------------

    /// This process was told to end, and no other is about to take over. The one that served before goes on,
    /// if it can; but no version that was taken back by an operator.
    pub(super) fn give_back_or_stop(&mut self, now: Instant, out: &mut Vec<Effect>) -> State {
        match self.predecessors.first() {
            Some(newest) if newest.can_resume() && !newest.was_rolled_back => {
                self.before(now, Goal::RollBack(newest.generation), out)
            }
            _ => self.stop_service(now, self.local.timing.drain, false, false, out),
        }
    }

    pub(super) fn stop_service(
        &mut self,
        now: Instant,
        within: Duration,
        for_good: bool,
        loops_stop: bool,
        out: &mut Vec<Effect>,
    ) -> State {
        for predecessor in &self.predecessors {
            out.push(Effect::SendTo(predecessor.generation, Message::Farewell));
        }
        out.push(Effect::Report(Report::Stopping));
        let goal = Goal::Stop { within, for_good };
        // The hook has ended already if the accept loops were to stop for another reason.
        if loops_stop { self.quiesce(now, goal, out) } else { self.before(now, goal, out) }
    }

    // ---- time -----------------------------------------------------------------------------------------

    /// Every deadline of this side.
    pub(super) fn tick(&mut self, now: Instant, state: State, out: &mut Vec<Effect>) -> State {
        leave_effects(self.outbound.tick(now), out);
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
            State::RollingBack { .. } => self.roll_on(now, None, true, deadline.to_string(), out),
            // It serves again whenever it reads that it should, which is what was wanted.
            State::Resuming { to, .. } if self.terminating => {
                out.push(Effect::Report(Report::StoodDown(deadline.to_string())));
                self.step_aside(now, to, self.local.timing.drain, out)
            }
            State::Resuming { to, .. } => self.roll_on(now, Some(to), true, deadline.to_string(), out),
            State::Quiescing { goal, .. } => self.not_quiesced(now, goal, out),
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
            Drain::Forcing { .. } if self.has_tasks && !self.ends_now => Drain::Tasks,
            Drain::Forcing { .. } | Drain::Tasks | Drain::Done => Drain::Done,
        }
    }
}

/// Sends the next batch of the inventory, or waits for the successor, which has all of it.
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
        None => State::Warming { peer, until: lease },
    }
}
