//! The side that serves when a handoff begins, and what becomes of it: predecessor, or serving again.
//!
//! Deliberately absent: descriptors, sockets and the clock. Feed [`Incumbent::handle`] with what happened and do what
//! it returns, in that order; call it with [`Event::Tick`] when [`Incumbent::deadline`] has passed; give operators'
//! wishes to [`Incumbent::command`].

use std::collections::VecDeque;
use std::mem;
use std::time::{Duration, Instant};

use crate::error::{Fault, Refusal};
use crate::inventory::{LinkRest, StateItem, Summary};
use crate::message::{Generation, Join, Joined, Message, Process, Ready, Release, Released, Versions};
use crate::operator::{Command, OperatorError, ProcessState};
use crate::predecessor::Predecessor;
use crate::timing::{Deadline, Timing};

/// What a process is and may do, for either machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Local {
    /// Who we are.
    pub process: Process,
    /// The protocol versions that we speak.
    pub versions: Versions,
    /// The optional abilities that we have.
    pub features: Vec<String>,
    /// How long we wait.
    pub timing: Timing,
    /// How many predecessors may drain at once before the oldest is hurried.
    pub max_draining: usize,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// Somebody wants to succeed us. Ask [`Incumbent::admits`] first, it is cheaper than an inventory.
    Join {
        /// What it said.
        join: Join,
        /// A name for this handoff in the logs.
        handoff: String,
        /// What it is going to get: the messages with a [`Message::batch`], numbered from 1.
        inventory: Vec<Message>,
    },
    /// The successor said something.
    Message(Message),
    /// The successor's link is closed, or cannot be understood.
    Closed(Fault),
    /// The accept loops have stopped ([`Effect::Stop`] is done).
    Stopped(Stopped),
    /// The accept loops cannot be stopped, or the state cannot be exported.
    CannotStop(String),
    /// No connection is left; so many were forced.
    Drained {
        /// Connections closed at the deadline.
        forced: u64,
    },
    /// The live table changed; it is told at the pace that the caller chooses.
    Progress {
        /// What is left.
        connections: Summary,
        /// Ids of connections that ended since the last time.
        closed: Vec<u64>,
    },
    /// A predecessor said something.
    Predecessor(Generation, Message),
    /// A predecessor's link is closed, or cannot be understood.
    PredecessorClosed(Generation, Fault),
    /// Time has passed.
    Tick,
}

/// What is known when the accept loops have stopped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Stopped {
    /// When, in nanoseconds of `CLOCK_MONOTONIC`.
    pub at_ns: u64,
    /// The connections that are open.
    pub connections: Summary,
    /// The final word of the application's state.
    pub state: Vec<StateItem>,
    /// The links to predecessors, which nobody reads now.
    pub links: Vec<LinkRest>,
}

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Answer the [`Event::Join`].
    Reply(Result<Joined, Refusal>),
    /// Say this to the successor.
    Send(Message),
    /// Say this to a predecessor.
    SendTo(Generation, Message),
    /// Close the successor's link.
    Close,
    /// Read the successor's link only for its end.
    Quiet,
    /// Stop the accept loops, park the listeners, stop reading predecessors' links; then [`Event::Stopped`].
    Stop,
    /// Run the accept loops (again), read the predecessors' links (again, after these bytes).
    Accept(Vec<LinkRest>),
    /// Close the listeners, the control socket and the lock; forget the predecessors.
    LetGo,
    /// Finish, move or close what is open; what is left then is forced. Comes again with an earlier deadline.
    Drain {
        /// When the rest is forced.
        until: Instant,
    },
    /// No drain after all.
    Undrain,
    /// Close every connection that is left.
    Force,
    /// The successor's link is from now on the link to a predecessor of this generation.
    Demote(Generation),
    /// The link to this predecessor is from now on the link to the process that serves.
    Promote(Generation),
    /// Close the link to this predecessor.
    Forget(Generation),
    /// Nothing is left to do.
    Exit,
    /// Tell people.
    Report(Report),
}

/// What people and logs are told.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Report {
    /// A successor joined.
    Joined(Peer),
    /// A successor waits for a command.
    Standby(Peer),
    /// An attempt failed; we serve on.
    Failed {
        /// Who tried.
        peer: Peer,
        /// How far it had come.
        stage: &'static str,
        /// Why.
        fault: Fault,
    },
    /// The successor serves.
    Served {
        /// Who serves now.
        peer: Peer,
        /// The time in which nobody accepted, in nanoseconds.
        gap_ns: Option<u64>,
    },
    /// A predecessor came on with its drain.
    Progress(Generation),
    /// A predecessor is drained.
    Drained {
        /// Which.
        generation: Generation,
        /// Connections that it had to force.
        forced: u64,
    },
    /// A predecessor cannot take over any more.
    LetGo(Generation),
    /// A predecessor died with connections in it.
    Lost {
        /// Which.
        generation: Generation,
        /// What was left in it.
        connections: Summary,
    },
    /// The successor died in probation, we serve again.
    TookOver {
        /// Who died.
        peer: Peer,
        /// How we know.
        fault: Fault,
    },
    /// The service was given back; this process drains.
    RolledBack(Generation, Process),
    /// We serve again, because an operator wanted it.
    Resumed(Peer),
    /// It was not given back, we serve on.
    RollbackFailed(String),
    /// The predecessor took the service back, because we were too slow to say that we serve.
    StoodDown(String),
    /// The other side broke the protocol where it does no harm.
    Violation(Generation, String),
    /// We stop.
    Stopping,
}

/// A successor that joined.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Peer {
    /// Who it is.
    pub process: Process,
    /// The number it was given.
    pub generation: Generation,
    /// What its starter calls the attempt.
    pub attempt: Option<String>,
    /// The protocol version spoken with it.
    pub version: u16,
    /// The features that both have.
    pub features: Vec<String>,
    /// The name of the handoff in logs.
    pub handoff: String,
    /// When it joined.
    pub since: Instant,
}

/// How the drain of this process goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Drain {
    Running { until: Instant },
    Forcing { until: Instant },
    Done,
}

/// States are named for what they wait for and hold what they need for it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum State {
    Serving,
    Offering { peer: Peer, queue: VecDeque<Message>, awaiting: u32, until: Instant, lease: Instant },
    Warming { peer: Peer, until: Instant },
    Standby { peer: Peer, until: Instant },
    Releasing { peer: Peer, until: Instant },
    Released { peer: Peer, until: Instant },
    Probation { peer: Peer, until: Instant, drain: Drain },
    Retired { drain: Drain, quiet: bool },
    RollingBack { to: Generation, until: Instant },
    Resuming { to: Generation, until: Instant },
    Stopping { until: Instant, within: Duration },
    Gone,
}

/// The machine of a process from the moment it serves until it is gone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Incumbent {
    local: Local,
    generation: Generation,
    issued: Generation,
    state: State,
    predecessors: Vec<Predecessor>,
    /// Stop as soon as the handoff that is under way has ended, one way or the other.
    terminating: bool,
}

impl Incumbent {
    /// A first start: there was nobody.
    #[must_use]
    pub fn first(local: Local) -> Self {
        Self::serving(local, Generation::FIRST, Vec::new())
    }

    /// A process that serves, with the generations that are left of those before it, newest first.
    #[must_use]
    pub fn serving(local: Local, generation: Generation, predecessors: Vec<Predecessor>) -> Self {
        Self {
            local,
            generation,
            issued: generation,
            state: State::Serving,
            predecessors,
            terminating: false,
        }
    }

    /// What a new serving process says to the generations before it: the older ones end their probation, and the
    /// oldest are hurried if there are too many.
    #[must_use]
    pub fn greet(&mut self) -> Vec<Effect> {
        let mut out = Vec::new();
        for older in self.predecessors.iter().skip(1) {
            out.push(Effect::SendTo(older.generation, Message::Settle));
        }
        let deadline_ms = millis(self.local.timing.hurry);
        for oldest in self.predecessors.iter_mut().skip(self.local.max_draining) {
            oldest.hurried = true;
            out.push(Effect::SendTo(oldest.generation, Message::Hurry { deadline_ms }));
        }
        out
    }

    /// Our own generation.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// The generations before this one that are left, newest first.
    #[must_use]
    pub fn predecessors(&self) -> &[Predecessor] {
        &self.predecessors
    }

    /// The successor that is on its way or has taken over, and what it does.
    #[must_use]
    pub fn successor(&self) -> Option<(&Peer, ProcessState)> {
        match &self.state {
            State::Offering { peer, .. } | State::Warming { peer, .. } => {
                Some((peer, ProcessState::Starting))
            }
            State::Standby { peer, .. } | State::Releasing { peer, .. } | State::Released { peer, .. } => {
                Some((peer, ProcessState::Standby))
            }
            State::Probation { peer, .. } => Some((peer, ProcessState::Serving)),
            _ => None,
        }
    }

    /// What this process does.
    #[must_use]
    pub fn process_state(&self) -> ProcessState {
        match self.state {
            State::Probation { .. } | State::Retired { .. } | State::Stopping { .. } => {
                ProcessState::Draining
            }
            State::Gone => ProcessState::Gone,
            _ => ProcessState::Serving,
        }
    }

    /// Whether the accept loops run, or may run again when a deadline fires: an oracle for tests and models.
    #[must_use]
    pub fn accepts(&self) -> bool {
        !matches!(
            self.state,
            State::Releasing { .. }
                | State::Released { .. }
                | State::Probation { .. }
                | State::Retired { .. }
                | State::RollingBack { .. }
                | State::Resuming { .. }
                | State::Stopping { .. }
                | State::Gone
        )
    }

    /// Whether nothing is left to do.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        matches!(self.state, State::Gone)
    }

    /// When to call [`Self::handle`] with [`Event::Tick`].
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Offering { until, lease, .. } => Some(*until.min(lease)),
            State::Warming { until, .. }
            | State::Standby { until, .. }
            | State::Releasing { until, .. }
            | State::Released { until, .. }
            | State::RollingBack { until, .. }
            | State::Resuming { until, .. }
            | State::Stopping { until, .. } => Some(*until),
            State::Probation { until, drain, .. } => {
                Some(drain.deadline().map_or(*until, |end| end.min(*until)))
            }
            State::Retired { drain, .. } => drain.deadline(),
            State::Serving | State::Gone => None,
        }
    }

    /// Whether this successor would be taken.
    ///
    /// # Errors
    /// Why not.
    pub fn admits(&self, join: &Join) -> Result<(), Refusal> {
        self.admission(&self.state, join).map(drop)
    }

    fn admission(&self, state: &State, join: &Join) -> Result<u16, Refusal> {
        let (ours, theirs) = (self.local.versions, join.versions);
        match state {
            _ if self.terminating => Err(Refusal::NotServing),
            State::Serving => ours.overlap(theirs).ok_or(Refusal::Incompatible { ours, theirs }),
            state if state.is_attempt() => Err(state.successor().map_or(Refusal::NotServing, |peer| {
                Refusal::Busy { successor: peer.process.clone(), doing: state.stage().to_owned() }
            })),
            _ => Err(Refusal::NotServing),
        }
    }

    /// Something happened at `now`; returns what is to be done about it.
    pub fn handle(&mut self, now: Instant, event: Event) -> Vec<Effect> {
        let mut out = Vec::new();
        let state = mem::replace(&mut self.state, State::Gone);
        self.state = self.step(now, state, event, &mut out);
        out
    }

    /// The whole protocol of this side.
    fn step(&mut self, now: Instant, state: State, event: Event, out: &mut Vec<Effect>) -> State {
        use Message as M;
        let timing = self.local.timing.clone();
        match (state, event) {
            (State::Gone, _) => State::Gone,

            // ---- before the commit: nothing of ours has stopped --------------------------------------------
            (state, Event::Join { join, handoff, inventory }) => match self.admission(&state, &join) {
                Ok(version) => self.offer(now, join, version, handoff, inventory, out),
                Err(refusal) => {
                    out.push(Effect::Reply(Err(refusal)));
                    state
                }
            },
            (State::Offering { peer, queue, awaiting, lease, .. }, Event::Message(M::Received { batch }))
                if batch == awaiting =>
            {
                offer_next(now, &timing, peer, queue, awaiting, lease, out)
            }
            (State::Warming { peer, .. }, Event::Message(M::Ready(ready))) => {
                self.ready(now, peer, &ready, out)
            }
            (State::Releasing { peer, .. }, Event::Stopped(stopped)) => {
                let Stopped { at_ns, connections, state, links } = stopped;
                let released = Released { connections, stopped_at_ns: at_ns, state, links };
                out.push(Effect::Send(M::Released(released)));
                State::Released { peer, until: now + timing.serving }
            }
            (State::Releasing { peer, .. }, Event::CannotStop(why)) => {
                self.fail(now, "released", peer, true, Fault::Local(why), out)
            }
            (State::Released { peer, .. }, Event::Message(M::Serving { gap_ns })) => {
                self.hand_over(now, peer, gap_ns, out)
            }

            // ---- an attempt fails: misbehaviour, death, silence; we serve on -------------------------------
            (state, event @ (Event::Message(_) | Event::Closed(_))) if state.is_attempt() => {
                let (stage, stopped) = (state.stage(), state.has_stopped());
                let fault = match event {
                    Event::Message(M::Failed { reason }) => Fault::PeerFailed(reason),
                    Event::Message(message) => {
                        Fault::PeerMisbehaved(format!("said `{}` {stage}", message.name()))
                    }
                    Event::Closed(fault) => fault,
                    _ => unreachable!("the pattern lists only these"),
                };
                match state.into_peer() {
                    Some(peer) => self.fail(now, stage, peer, stopped, fault, out),
                    None => State::Serving,
                }
            }

            // ---- after it: probation and drain -------------------------------------------------------------
            (State::Probation { drain, .. }, Event::Message(M::Farewell | M::Settle)) => {
                self.let_go(drain, out)
            }
            (State::Probation { peer, .. }, Event::Message(M::Resume { stopped_at_ns: _, links })) => {
                self.resume(now, peer, links, out)
            }
            (State::Probation { peer, .. }, Event::Closed(fault)) => self.take_over(peer, fault, out),
            (State::Probation { peer, .. }, Event::Message(M::Failed { reason })) => {
                out.push(Effect::Close);
                self.take_over(peer, Fault::PeerFailed(reason), out)
            }
            (State::Retired { drain, quiet }, Event::Message(M::Resume { .. })) => {
                let reason = "its listeners are let go, it cannot serve again".to_owned();
                out.push(Effect::Send(M::Failed { reason }));
                State::Retired { drain, quiet }
            }
            (State::Retired { drain, .. }, Event::Closed(_)) => State::Retired { drain, quiet: true },
            (state @ State::Retired { .. }, Event::Message(M::Settle | M::Farewell)) => state,
            (
                mut state @ (State::Probation { .. } | State::Retired { .. }),
                Event::Message(M::Hurry { deadline_ms }),
            ) => {
                state.hurry(now + Duration::from_millis(deadline_ms), out);
                state
            }
            (state, Event::Message(M::Issued { generation })) => {
                self.issued = self.issued.max(generation);
                state
            }
            (
                state @ (State::Probation { .. } | State::Retired { quiet: false, .. }),
                Event::Message(message),
            ) => self.violation(state, &message, out),
            (State::Probation { peer, until, .. }, Event::Drained { forced }) => {
                out.push(Effect::Send(M::Drained { forced }));
                State::Probation { peer, until, drain: Drain::Done }
            }
            (State::Retired { .. }, Event::Drained { forced }) => {
                out.extend([Effect::Send(M::Drained { forced }), Effect::Exit]);
                State::Gone
            }
            (
                state @ (State::Probation { .. } | State::Retired { .. }),
                Event::Progress { connections, closed },
            ) => {
                out.push(Effect::Send(M::Progress { connections, closed }));
                state
            }

            // ---- rollback ----------------------------------------------------------------------------------
            (State::RollingBack { to, .. }, Event::Stopped(Stopped { at_ns, links, .. })) => {
                out.push(Effect::SendTo(to, M::Resume { stopped_at_ns: at_ns, links }));
                State::Resuming { to, until: now + timing.resume }
            }
            (State::RollingBack { .. }, Event::CannotStop(why)) => self.roll_on(why, out),
            (State::Resuming { to, .. }, Event::Predecessor(from, M::Serving { .. })) if from == to => {
                self.step_back(now, to, out)
            }
            (
                State::RollingBack { to, .. } | State::Resuming { to, .. },
                Event::Predecessor(from, M::Failed { reason }),
            ) if from == to => {
                self.forget(to, out);
                self.roll_on(reason, out)
            }
            (
                State::RollingBack { to, .. } | State::Resuming { to, .. },
                Event::PredecessorClosed(from, fault),
            ) if from == to => {
                self.forget(to, out);
                self.roll_on(fault.to_string(), out)
            }

            // ---- what predecessors say ---------------------------------------------------------------------
            (state, Event::Predecessor(generation, message)) => {
                self.hear(now, state, generation, message, out)
            }
            (state, Event::PredecessorClosed(generation, fault)) => {
                self.lose(generation, &fault, out);
                state
            }

            // ---- stopping ----------------------------------------------------------------------------------
            (State::Stopping { within, .. }, Event::Stopped(_) | Event::CannotStop(_)) => {
                self.retire(now, within, out)
            }

            (state, Event::Tick) => self.tick(now, state, out),

            // An answer that came after its question was given up, or news for nobody.
            (
                state,
                Event::Message(_)
                | Event::Closed(_)
                | Event::Stopped(_)
                | Event::CannotStop(_)
                | Event::Drained { .. }
                | Event::Progress { .. },
            ) => state,
        }
    }

    /// Every deadline of this side.
    fn tick(&mut self, now: Instant, state: State, out: &mut Vec<Effect>) -> State {
        match state {
            State::Offering { peer, until, lease, .. } if now >= until.min(lease) => {
                let deadline = if now >= lease { Deadline::Lease } else { Deadline::Batch };
                self.fail(now, "receiving the inventory", peer, false, Fault::TimedOut(deadline), out)
            }
            State::Warming { peer, until } if now >= until => {
                self.fail(now, "warming up", peer, false, Fault::TimedOut(Deadline::Lease), out)
            }
            State::Standby { peer, until } if now >= until => {
                self.fail(now, "in standby", peer, false, Fault::TimedOut(Deadline::Standby), out)
            }
            State::Releasing { peer, until } if now >= until => {
                self.fail(now, "released", peer, true, Fault::TimedOut(Deadline::Stop), out)
            }
            State::Released { peer, until } if now >= until => {
                self.fail(now, "released", peer, true, Fault::TimedOut(Deadline::Serving), out)
            }
            State::Probation { until, drain, .. } if now >= until => self.let_go(drain, out),
            State::Probation { peer, until, drain } => {
                State::Probation { peer, until, drain: self.tick_drain(now, drain, out) }
            }
            State::Retired { drain: Drain::Forcing { until }, .. } if now >= until => {
                out.push(Effect::Exit);
                State::Gone
            }
            State::Retired { drain, quiet } => {
                State::Retired { drain: self.tick_drain(now, drain, out), quiet }
            }
            State::RollingBack { until, .. } if now >= until => self.roll_on(Deadline::Stop.to_string(), out),
            State::Resuming { to, until } if now >= until => {
                let reason = Deadline::Resume.to_string();
                out.push(Effect::SendTo(to, Message::Failed { reason: reason.clone() }));
                self.forget(to, out);
                self.roll_on(reason, out)
            }
            State::Stopping { until, within } if now >= until => self.retire(now, within, out),
            state => state,
        }
    }

    fn tick_drain(&self, now: Instant, drain: Drain, out: &mut Vec<Effect>) -> Drain {
        match drain {
            Drain::Running { until } if now >= until => {
                out.push(Effect::Force);
                Drain::Forcing { until: now + self.local.timing.force }
            }
            // In probation there is time; the end of the probation ends the process.
            Drain::Forcing { until } if now >= until => Drain::Done,
            drain => drain,
        }
    }

    // ---- transitions, in the order of a handoff ------------------------------------------------------------

    fn offer(
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
        offer_next(now, timing, peer, inventory.into(), 0, now + timing.lease, out)
    }

    fn ready(&mut self, now: Instant, peer: Peer, ready: &Ready, out: &mut Vec<Effect>) -> State {
        if ready.release == Release::OnCommand && !self.terminating {
            out.push(Effect::Report(Report::Standby(peer.clone())));
            return State::Standby { peer, until: now + self.local.timing.standby };
        }
        self.release(now, peer, out)
    }

    fn release(&mut self, now: Instant, peer: Peer, out: &mut Vec<Effect>) -> State {
        out.push(Effect::Stop);
        State::Releasing { peer, until: now + self.local.timing.stop }
    }

    fn hand_over(&mut self, now: Instant, peer: Peer, gap_ns: Option<u64>, out: &mut Vec<Effect>) -> State {
        let until = now + self.local.timing.drain;
        out.push(Effect::Report(Report::Served { peer: peer.clone(), gap_ns }));
        out.push(Effect::Drain { until });
        let drain = Drain::Running { until };
        if mem::take(&mut self.terminating) || self.local.timing.probation.is_zero() {
            return self.let_go(drain, out);
        }
        State::Probation { peer, until: now + self.local.timing.probation, drain }
    }

    fn fail(
        &mut self,
        now: Instant,
        stage: &'static str,
        peer: Peer,
        stopped: bool,
        fault: Fault,
        out: &mut Vec<Effect>,
    ) -> State {
        out.push(Effect::Send(Message::Failed { reason: fault.to_string() }));
        out.push(Effect::Close);
        if stopped {
            out.push(Effect::Accept(Vec::new()));
        }
        out.push(Effect::Report(Report::Failed { peer, stage, fault }));
        if mem::take(&mut self.terminating) {
            return self.stop(now, self.local.timing.drain, out);
        }
        State::Serving
    }

    fn let_go(&mut self, drain: Drain, out: &mut Vec<Effect>) -> State {
        self.predecessors.clear();
        out.extend([Effect::LetGo, Effect::Send(Message::LetGo)]);
        match drain {
            Drain::Done => {
                out.push(Effect::Exit);
                State::Gone
            }
            drain => State::Retired { drain, quiet: false },
        }
    }

    fn take_over(&mut self, peer: Peer, fault: Fault, out: &mut Vec<Effect>) -> State {
        self.issued = self.issued.max(peer.generation);
        out.extend([Effect::Undrain, Effect::Accept(Vec::new())]);
        out.push(Effect::Report(Report::TookOver { peer, fault }));
        State::Serving
    }

    /// Both links and roles swap: the process that served is now one that drains.
    fn resume(&mut self, now: Instant, peer: Peer, links: Vec<LinkRest>, out: &mut Vec<Effect>) -> State {
        let generation = peer.generation;
        out.extend([Effect::Undrain, Effect::Accept(links), Effect::Demote(generation)]);
        out.push(Effect::SendTo(generation, Message::Serving { gap_ns: None }));
        let mut former = Predecessor::released(now, generation, peer.process.clone(), Summary::default());
        former.probation = false;
        self.predecessors.insert(0, former);
        out.push(Effect::Report(Report::Resumed(peer)));
        State::Serving
    }

    fn step_back(&mut self, now: Instant, to: Generation, out: &mut Vec<Effect>) -> State {
        let process = self.predecessors.iter().find(|p| p.generation == to).map(|p| p.process.clone());
        out.push(Effect::Promote(to));
        if let Some(process) = process {
            out.push(Effect::Report(Report::RolledBack(to, process)));
        }
        self.retire(now, self.local.timing.drain, out)
    }

    fn roll_on(&mut self, reason: String, out: &mut Vec<Effect>) -> State {
        out.push(Effect::Accept(Vec::new()));
        out.push(Effect::Report(Report::RollbackFailed(reason)));
        State::Serving
    }

    fn stop(&mut self, now: Instant, within: Duration, out: &mut Vec<Effect>) -> State {
        for predecessor in self.predecessors.iter().filter(|p| p.probation) {
            out.push(Effect::SendTo(predecessor.generation, Message::Farewell));
        }
        out.extend([Effect::Report(Report::Stopping), Effect::Stop]);
        State::Stopping { until: now + self.local.timing.stop, within }
    }

    fn retire(&mut self, now: Instant, within: Duration, out: &mut Vec<Effect>) -> State {
        let until = now + within;
        self.predecessors.clear();
        out.extend([Effect::LetGo, Effect::Drain { until }]);
        State::Retired { drain: Drain::Running { until }, quiet: false }
    }

    fn violation(&self, state: State, message: &Message, out: &mut Vec<Effect>) -> State {
        let generation = state.successor().map_or(self.issued, |peer| peer.generation);
        let what = format!("said `{}` to a process that drains", message.name());
        out.extend([Effect::Quiet, Effect::Report(Report::Violation(generation, what))]);
        match state {
            State::Retired { drain, .. } => State::Retired { drain, quiet: true },
            state => state,
        }
    }

    // ---- predecessors ----------------------------------------------------------------------------------------

    fn hear(
        &mut self,
        now: Instant,
        state: State,
        generation: Generation,
        message: Message,
        out: &mut Vec<Effect>,
    ) -> State {
        let newest = self.predecessors.first().map(|p| p.generation);
        let Some(predecessor) = self.predecessors.iter_mut().find(|p| p.generation == generation && !p.quiet)
        else {
            return state;
        };
        match message {
            Message::Progress { connections, closed: _ } => {
                predecessor.connections = connections;
                out.push(Effect::Report(Report::Progress(generation)));
            }
            Message::Connections { .. } => {}
            Message::Drained { forced } => {
                predecessor.drained = true;
                predecessor.connections = Summary::default();
                out.push(Effect::Report(Report::Drained { generation, forced }));
            }
            Message::LetGo => {
                predecessor.probation = false;
                out.push(Effect::Report(Report::LetGo(generation)));
            }
            // It waited for our `serving` in vain and accepts again. There must not be two owners for long.
            Message::Failed { reason } if matches!(state, State::Serving) && newest == Some(generation) => {
                self.forget(generation, out);
                out.push(Effect::Report(Report::StoodDown(reason)));
                return self.retire(now, self.local.timing.drain, out);
            }
            other => {
                predecessor.quiet = true;
                let what = format!("said `{}` to the process that serves", other.name());
                out.push(Effect::Report(Report::Violation(generation, what)));
            }
        }
        state
    }

    fn lose(&mut self, generation: Generation, fault: &Fault, out: &mut Vec<Effect>) {
        let Some(position) = self.predecessors.iter().position(|p| p.generation == generation) else {
            return;
        };
        if matches!(fault, Fault::PeerGone) {
            let gone = self.predecessors.remove(position);
            out.push(Effect::Forget(generation));
            if !gone.drained {
                out.push(Effect::Report(Report::Lost { generation, connections: gone.connections }));
            }
        } else {
            self.predecessors[position].quiet = true;
            out.push(Effect::Report(Report::Violation(generation, fault.to_string())));
        }
    }

    fn forget(&mut self, generation: Generation, out: &mut Vec<Effect>) {
        self.predecessors.retain(|p| p.generation != generation);
        out.push(Effect::Forget(generation));
    }

    // ---- operators ---------------------------------------------------------------------------------------------

    /// An operator wants something.
    ///
    /// # Errors
    /// Why it cannot be; nothing has changed then.
    pub fn command(&mut self, now: Instant, command: Command) -> Result<Vec<Effect>, OperatorError> {
        let mut out = Vec::new();
        let state = mem::replace(&mut self.state, State::Gone);
        let (state, result) = match command {
            Command::Handoff => self.command_handoff(now, state, &mut out),
            Command::Abort => self.command_abort(now, state, &mut out),
            Command::Rollback => self.command_rollback(now, state, &mut out),
            Command::Drain { within } => self.command_drain(state, within, &mut out),
            Command::Stop { within } => self.command_stop(now, state, within, &mut out),
            Command::Terminate => self.command_terminate(now, state, &mut out),
        };
        self.state = state;
        result.map(|()| out)
    }

    fn command_handoff(&mut self, now: Instant, state: State, out: &mut Vec<Effect>) -> Commanded {
        match state {
            State::Standby { peer, .. } => (self.release(now, peer, out), Ok(())),
            // It takes over by itself; whoever asked waits for the same outcome.
            state @ (State::Releasing { .. } | State::Released { .. }) => (state, Ok(())),
            state @ (State::Offering { .. } | State::Warming { .. }) => {
                let doing = state.stage().to_owned();
                (state, Err(OperatorError::NotReady { doing }))
            }
            State::Serving => (State::Serving, Err(OperatorError::NoSuccessor)),
            state => state.refuse(),
        }
    }

    fn command_abort(&mut self, now: Instant, state: State, out: &mut Vec<Effect>) -> Commanded {
        if !state.is_attempt() {
            return (state, Err(OperatorError::NoHandoff));
        }
        let (stage, stopped) = (state.stage(), state.has_stopped());
        match state.into_peer() {
            Some(peer) => (self.fail(now, stage, peer, stopped, Fault::Aborted, out), Ok(())),
            None => (State::Serving, Err(OperatorError::NoHandoff)),
        }
    }

    fn command_rollback(&mut self, now: Instant, state: State, out: &mut Vec<Effect>) -> Commanded {
        match (state, self.predecessors.first()) {
            (State::Serving, Some(newest)) if newest.probation => {
                let to = newest.generation;
                out.push(Effect::Stop);
                (State::RollingBack { to, until: now + self.local.timing.stop }, Ok(()))
            }
            (State::Serving, _) => (State::Serving, Err(OperatorError::NoPredecessor)),
            (state, _) => state.refuse(),
        }
    }

    fn command_drain(&mut self, state: State, within: Duration, out: &mut Vec<Effect>) -> Commanded {
        let deadline_ms = millis(within);
        for predecessor in &mut self.predecessors {
            predecessor.hurried = true;
            out.push(Effect::SendTo(predecessor.generation, Message::Hurry { deadline_ms }));
        }
        (state, Ok(()))
    }

    fn command_stop(
        &mut self,
        now: Instant,
        mut state: State,
        within: Option<Duration>,
        out: &mut Vec<Effect>,
    ) -> Commanded {
        let drain = within.unwrap_or(self.local.timing.drain);
        if state.is_attempt() {
            let (stage, stopped) = (state.stage(), state.has_stopped());
            if let Some(peer) = state.into_peer() {
                self.terminating = false;
                self.fail(now, stage, peer, stopped, Fault::Stopping, out);
            }
            return (self.stop(now, drain, out), Ok(()));
        }
        match state {
            State::Serving | State::RollingBack { .. } | State::Resuming { .. } => {
                (self.stop(now, drain, out), Ok(()))
            }
            State::Stopping { until, .. } => (State::Stopping { until, within: drain }, Ok(())),
            State::Probation { .. } | State::Retired { .. } => {
                if within.is_some() {
                    state.hurry(now + drain, out);
                }
                match state {
                    State::Probation { drain, .. } => (self.let_go(drain, out), Ok(())),
                    state => (state, Ok(())),
                }
            }
            state => (state, Err(OperatorError::NotServing)),
        }
    }

    /// A supervisor's SIGTERM: if somebody is about to take over, that comes first, and nobody notices.
    fn command_terminate(&mut self, now: Instant, state: State, out: &mut Vec<Effect>) -> Commanded {
        match state {
            state if self.terminating => self.command_stop(now, state, Some(Duration::ZERO), out),
            State::Standby { peer, .. } => {
                self.terminating = true;
                (self.release(now, peer, out), Ok(()))
            }
            state if state.is_attempt() => {
                self.terminating = true;
                (state, Ok(()))
            }
            state => self.command_stop(now, state, None, out),
        }
    }
}

type Commanded = (State, Result<(), OperatorError>);

impl State {
    fn successor(&self) -> Option<&Peer> {
        match self {
            Self::Offering { peer, .. }
            | Self::Warming { peer, .. }
            | Self::Standby { peer, .. }
            | Self::Releasing { peer, .. }
            | Self::Released { peer, .. }
            | Self::Probation { peer, .. } => Some(peer),
            _ => None,
        }
    }

    fn into_peer(self) -> Option<Peer> {
        match self {
            Self::Offering { peer, .. }
            | Self::Warming { peer, .. }
            | Self::Standby { peer, .. }
            | Self::Releasing { peer, .. }
            | Self::Released { peer, .. }
            | Self::Probation { peer, .. } => Some(peer),
            _ => None,
        }
    }

    /// A handoff is under way and not committed.
    fn is_attempt(&self) -> bool {
        matches!(
            self,
            Self::Offering { .. }
                | Self::Warming { .. }
                | Self::Standby { .. }
                | Self::Releasing { .. }
                | Self::Released { .. }
        )
    }

    fn has_stopped(&self) -> bool {
        matches!(self, Self::Releasing { .. } | Self::Released { .. })
    }

    /// How far the successor has come, as it reads in "while it was …" and "it is …".
    fn stage(&self) -> &'static str {
        match self {
            Self::Offering { .. } => "receiving the inventory",
            Self::Warming { .. } => "warming up",
            Self::Standby { .. } => "in standby",
            Self::Releasing { .. } | Self::Released { .. } => "released",
            Self::Probation { .. } => "serving",
            Self::Serving => "alone",
            Self::RollingBack { .. } | Self::Resuming { .. } => "rolling back",
            Self::Retired { .. } | Self::Stopping { .. } | Self::Gone => "stopping",
        }
    }

    fn hurry(&mut self, deadline: Instant, out: &mut Vec<Effect>) {
        let (Self::Probation { drain, .. } | Self::Retired { drain, .. }) = self else { return };
        if let Drain::Running { until } = drain {
            *until = deadline.min(*until);
            out.push(Effect::Drain { until: *until });
        }
    }

    fn refuse(self) -> Commanded {
        let error = match &self {
            Self::Probation { .. } | Self::Retired { .. } | Self::Gone => OperatorError::NotServing,
            state => OperatorError::Busy { doing: format!("a successor is {}", state.stage()) },
        };
        (self, Err(error))
    }
}

impl Drain {
    fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Running { until } | Self::Forcing { until } => Some(*until),
            Self::Done => None,
        }
    }
}

/// Sends the next batch of the inventory, or says that it is complete.
fn offer_next(
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
            State::Offering { peer, queue, awaiting: acknowledged + 1, until: now + timing.batch, lease }
        }
        None => {
            out.push(Effect::Send(Message::Complete { batches: acknowledged }));
            State::Warming { peer, until: lease }
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
