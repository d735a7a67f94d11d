//! The side that serves when a handoff begins, and what becomes of it: predecessor, or serving again.
//!
//! Deliberately absent: descriptors, sockets and the clock. Feed [`Incumbent::handle`] with what happened and
//! do what it returns, in that order; call it with [`Event::Tick`] when [`Incumbent::deadline`] has passed;
//! give operators' wishes to [`Incumbent::command`].
//!
//! The protocol is one `match (state, event)`, in `Incumbent::step`. Beside it: `state` (what each state
//! waits for), `transitions` (what the arms do), `predecessors` (what older generations say), `command` (what
//! operators want) and `events` (events, effects, reports). Connections that migrate are counted by two
//! machines of their own, which this one owns: [`crate::migration::outbound`] and, one for each predecessor,
//! [`crate::migration::inbound`].

use std::mem;
use std::time::{Duration, Instant};

use crate::error::{Fault, Refusal};
use crate::identity::Generation;
use crate::message::{Join, Message, Released};
use crate::migration::{ConnectionKind, Outbound, OutboundEffect};
use crate::operator::ProcessState;
use crate::predecessor::Predecessor;
use crate::timing::{Deadline, after, millis};

mod events;
pub use events::{Afterwards, Effect, Event, Local, Peer, Report, Stopped};

mod state;
use state::{Drain, State};

mod crashes;
use crashes::Crashes;

mod transitions;
use transitions::offer_next;

mod predecessors;

mod command;

/// The machine of a process from the moment it serves until it is gone.
///
/// Calling order: whenever something happens, [`handle`](Self::handle); perform the effects in their order;
/// then ask [`deadline`](Self::deadline) anew and set the one timer. After [`Effect::Exit`] nothing more
/// comes.
///
/// ```
/// use std::time::{Duration, Instant};
///
/// use hotupdate_proto::incumbent::{Afterwards, Effect, Event, Local, Stopped};
/// use hotupdate_proto::message::{Generation, Join, Message, Process, Ready};
/// use hotupdate_proto::{Incumbent, Timing, VERSIONS};
///
/// # fn process(pid: u32) -> Process {
/// #     Process::new(format!("{pid:032x}"), pid, format!("v{pid}"))
/// # }
/// # fn local(pid: u32) -> Local {
/// #     let (features, timing) = (Vec::new(), Timing::default());
/// #     Local { process: process(pid), versions: VERSIONS, features, timing, max_draining: 8 }
/// # }
/// # #[expect(clippy::disallowed_methods, reason = "an example needs some moment")]
/// let now = Instant::now();
/// let mut incumbent = Incumbent::first(local(1));
/// assert_eq!(incumbent.deadline(), None); // no successor is on its way, nothing to wait for
///
/// // A successor joins: the reply and the first batch go out.
/// let join = Join { versions: VERSIONS, features: Vec::new(), process: process(2), attempt: None };
/// incumbent.admits(now, &join).expect("no other successor is on its way");
/// let inventory = vec![Message::Control { batch: 1 }];
/// let join = Event::Join { join, handoff: "h1".into(), inventory, occupancy: None };
/// let effects = incumbent.handle(now, join);
/// assert!(effects.contains(&Effect::Send(Message::Control { batch: 1 })));
/// assert!(incumbent.deadline().is_some()); // from here on there is always a deadline
///
/// // It has everything; some time later it is warm, and the accept loops have to stop.
/// incumbent.handle(now, Event::Message(Message::Received { batch: 1 }));
/// let effects = incumbent.handle(now, Event::Message(Message::Ready(Ready::default())));
/// assert_eq!(effects, [Effect::Stop]);
///
/// // They have stopped: it is told, and serves.
/// incumbent.handle(now, Event::Stopped(Stopped::default()));
/// let serving = Message::Serving { gap_ns: Some(90_000), accepts: Vec::new() };
/// let effects = incumbent.handle(now, Event::Message(serving));
/// assert!(effects.iter().any(|effect| matches!(effect, Effect::Drain { .. })));
///
/// // The probation passes, the listeners go; the last connection ends, and so does the process.
/// let later = now + Duration::from_secs(5);
/// assert_eq!(incumbent.deadline(), Some(later));
/// let effects = incumbent.handle(later, Event::Tick);
/// assert!(effects.contains(&Effect::LetGo(Afterwards::ServedBy(Some(2)))));
/// assert!(incumbent.handle(later, Event::Drained { forced: 0 }).contains(&Effect::Exit));
/// assert!(incumbent.is_gone());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Incumbent {
    local: Local,
    generation: Generation,
    /// The highest generation that was ever given away, by whomever: the next one is higher.
    issued: Generation,
    state: State,
    predecessors: Vec<Predecessor>,
    /// This process was told to end: at the latest when the handoff that is under way has ended, one way or
    /// the other. Never taken back.
    terminating: bool,
    /// Successors that took over and died soon.
    crashes: Option<Crashes>,
    /// Attempts whose operators have gone, the latest last.
    abandoned: Vec<String>,
    /// The application has a hook that ends what only one process may do.
    has_hook: bool,
    /// The kinds of connections that come here.
    accepts: Vec<ConnectionKind>,
    /// Connections that leave.
    outbound: Outbound,
    /// Tasks of the application keep this process alive, as it was told last.
    has_tasks: bool,
    /// This process was told to end now: neither connections nor tasks are waited for.
    ends_now: bool,
}

impl Incumbent {
    /// The machine of a first start: no process served before this one.
    #[must_use]
    pub fn first(local: Local) -> Self {
        Self::serving(local, Generation::FIRST, Vec::new())
    }

    /// The machine of a process that serves, with the generations that are left of those before it, newest
    /// first.
    #[must_use]
    pub fn serving(local: Local, generation: Generation, predecessors: Vec<Predecessor>) -> Self {
        let outbound = Outbound::new(local.timing.prepared);
        Self {
            local,
            generation,
            issued: generation,
            state: State::Serving,
            predecessors,
            terminating: false,
            crashes: None,
            abandoned: Vec::new(),
            has_hook: false,
            accepts: Vec::new(),
            outbound,
            has_tasks: false,
            ends_now: false,
        }
    }

    /// Live connections of these kinds come here, if a predecessor has them. A successor says the same with
    /// `ready`.
    #[must_use]
    pub fn accepting(self, kinds: Vec<ConnectionKind>) -> Self {
        Self { accepts: kinds, ..self }
    }

    /// The application has a hook that ends what only one process may do: [`Effect::BeforeRelease`] comes
    /// before [`Effect::Stop`].
    #[must_use]
    pub fn with_hook(mut self, has_hook: bool) -> Self {
        self.has_hook = has_hook;
        self
    }

    /// The generation of this process.
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
        self.state.successor().map(|peer| (peer, self.state.successor_state()))
    }

    /// What this process does.
    #[must_use]
    pub fn process_state(&self) -> ProcessState {
        match self.state {
            State::Probation { .. } | State::Retired { .. } => ProcessState::Draining,
            ref state if state.stops() => ProcessState::Draining,
            State::Gone => ProcessState::Gone,
            _ => ProcessState::Serving,
        }
    }

    /// Whether the accept loops run, and nothing that is under way stops them: an oracle for tests and
    /// models.
    #[must_use]
    pub fn accepts(&self) -> bool {
        matches!(
            self.state,
            State::Serving
                | State::Offering { .. }
                | State::Warming { .. }
                | State::Standby { .. }
                | State::BeforeRelease { .. }
                | State::Quiescing { .. }
        )
    }

    /// The connections of this process that migrate to the one that serves.
    #[must_use]
    pub fn outbound(&self) -> &Outbound {
        &self.outbound
    }

    /// Whether this process only waits for tasks of the application, without a deadline.
    #[must_use]
    pub fn has_only_tasks(&self) -> bool {
        matches!(self.state, State::Retired { drain: Drain::Tasks, .. })
    }

    /// What this process waits for before it stops serving, if it was told to end. In words that follow
    /// "waits for".
    #[must_use]
    pub fn ends_after(&self) -> Option<&'static str> {
        self.state.ends_after().filter(|_| self.terminating)
    }

    /// Whether nothing is left to do.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        matches!(self.state, State::Gone)
    }

    /// When to call [`Self::handle`] with [`Event::Tick`].
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.waits_for().map(|(_, until)| until)
    }

    /// Which wait is under way, and when it ends; `None` if no other process is expected to act.
    #[must_use]
    pub fn waits_for(&self) -> Option<(Deadline, Instant)> {
        let prepared = self.outbound.deadline().map(|until| (Deadline::Prepared, until));
        let waits = self.state.wait().into_iter().chain(prepared.filter(|_| !self.is_gone()));
        waits.min_by_key(|(_, until)| *until)
    }

    /// Whether this successor may join now. Nothing changes.
    ///
    /// # Errors
    /// The [`Refusal`] to answer the call with.
    pub fn admits(&self, now: Instant, join: &Join) -> Result<(), Refusal> {
        self.admission(now, &self.state, join).map(drop)
    }

    /// Whether this process owns the control socket, and every other process that has it as well can be told
    /// that it was made again.
    #[must_use]
    pub fn may_rebind(&self) -> bool {
        matches!(self.state, State::Serving | State::Warming { .. } | State::Standby { .. })
    }

    /// Something happened at `now`; returns what is to be done about it.
    pub fn handle(&mut self, now: Instant, event: Event) -> Vec<Effect> {
        let mut out = Vec::new();
        let state = mem::replace(&mut self.state, State::Gone);
        let state = self.step(now, state, event, &mut out);
        self.state = self.when_quiesced(now, state, &mut out);
        out
    }

    /// The whole protocol of this side.
    fn step(&mut self, now: Instant, state: State, event: Event, out: &mut Vec<Effect>) -> State {
        use Message as M;
        match (state, event) {
            // It was asked too late; or a process believes that this one may serve again, because the word
            // that it cannot has crossed that one's, or died with another process. One that is gone may stay
            // for its supervisor.
            (
                state @ (State::Retired { .. } | State::Gone),
                Event::Message(M::Resume { .. } | M::Serves { is_established: false, .. }),
            ) => {
                out.push(Effect::Send(M::LetGo));
                state
            }
            (State::Gone, _) => State::Gone,

            // ---- before the commit: nothing of ours has stopped ---------------------------------------
            (state, Event::Join { join, handoff, inventory, occupancy }) => {
                match self.admission(now, &state, &join) {
                    Ok(version) => self.offer(now, join, version, handoff, (inventory, occupancy), out),
                    Err(refusal) => {
                        out.push(Effect::Reply(Err(refusal)));
                        state
                    }
                }
            }
            (State::Offering { peer, queue, awaiting, lease, .. }, Event::Message(M::Received { batch }))
                if batch == awaiting =>
            {
                offer_next(now, &self.local.timing, peer, queue, awaiting, lease, out)
            }
            (State::Warming { peer, .. }, Event::Message(M::Ready(ready))) => {
                self.ready(now, peer, ready, out)
            }
            (State::Warming { peer, until }, Event::Message(M::Trouble { what })) => {
                State::Warming { peer: Peer { trouble: Some(what), ..peer }, until }
            }
            (State::BeforeRelease { goal, .. }, Event::BeforeReleaseDone(Ok(()))) => {
                self.quiesce(now, goal, out)
            }
            (State::BeforeRelease { goal, .. }, Event::BeforeReleaseDone(Err(why))) => {
                self.hook_failed(now, goal, Fault::Local(why), out)
            }
            (State::Releasing { peer, .. }, Event::Stopped(stopped)) => {
                let Stopped { at_ns, ago, connections, state, links, history, counts } = stopped;
                // Counted from there, as the successor does.
                let within_ms = millis(self.local.timing.serving.saturating_add(ago));
                let stopped_at_ns = at_ns;
                let released =
                    Released { connections, stopped_at_ns, within_ms, state, links, history, counts };
                out.push(Effect::Send(M::Released(released)));
                State::Released { peer, until: after(now, self.local.timing.serving) }
            }
            (State::Released { peer, .. }, Event::Message(M::Serving { gap_ns, accepts: _ })) => {
                self.yield_to(now, peer, gap_ns, out)
            }

            // ---- an attempt fails: misbehaviour, death, silence; we serve on --------------------------
            (state @ State::Releasing { .. }, Event::CannotStop(why)) => {
                self.fail(now, state, Fault::Local(why), out)
            }
            (state, Event::Message(M::Failed { reason })) if state.is_attempt() => {
                self.fail(now, state, Fault::PeerFailed(reason), out)
            }
            (state, Event::Message(message)) if state.is_attempt() => {
                let what = format!("said `{}` while it was {}", message.name(), state.stage());
                self.fail(now, state, Fault::PeerMisbehaved(what), out)
            }
            (state, Event::Closed(fault)) if state.is_attempt() => self.fail(now, state, fault, out),

            // ---- after it: probation and drain --------------------------------------------------------
            // It was reported already; only its end still counts.
            (
                state @ State::Probation { quiet: true, .. },
                Event::Message(_) | Event::Closed(Fault::PeerMisbehaved(_)),
            ) => state,
            (State::Probation { peer, drain, .. }, Event::Message(M::EndProbation)) => {
                self.let_go(&peer, drain, out)
            }
            (State::Probation { peer, mut drain, .. }, Event::Message(M::Farewell)) => {
                drain.is_left_alone(out);
                self.let_go(&peer, drain, out)
            }
            (State::Retired { mut drain, quiet }, Event::Message(M::Farewell)) => {
                drain.is_left_alone(out);
                State::Retired { drain, quiet }
            }
            (
                State::Probation { peer, .. },
                Event::Message(M::Resume { stopped_at_ns: _, links, history: _, counts: _, reason }),
            ) => self.resume(now, peer, links, reason, out),
            (State::Probation { peer, .. }, Event::Closed(Fault::PeerGone)) => {
                self.take_over(now, peer, Fault::PeerGone, out)
            }
            // It lives, so there is an owner.
            (state @ State::Probation { .. }, Event::Closed(fault)) => {
                self.violation(state, fault.to_string(), out)
            }
            (
                state @ (State::Probation { quiet: false, .. } | State::Retired { .. }),
                Event::Message(M::Rebound { file }),
            ) => {
                if let State::Probation { .. } = state {
                    out.push(Effect::Rebound(file));
                }
                state
            }
            (State::Retired { drain, .. }, Event::Closed(_)) => {
                leave_effects(self.outbound.end(), out);
                State::Retired { drain, quiet: true }
            }
            // ---- after it: our connections leave ------------------------------------------------------
            (
                state @ (State::Probation { .. } | State::Retired { .. }),
                Event::Message(M::Accepts { kinds }),
            ) => {
                leave_effects(self.outbound.accepts(now, kinds), out);
                state
            }
            (
                state @ (State::Probation { .. } | State::Retired { .. }),
                Event::Message(M::Prepared { batch, refused }),
            ) => match self.outbound.prepared(now, batch, &refused) {
                Ok(effects) => {
                    leave_effects(effects, out);
                    state
                }
                Err(what) => self.violation(state, what, out),
            },
            (state @ (State::Probation { .. } | State::Retired { .. }), Event::Message(M::Quiesce)) => {
                leave_effects(self.outbound.quiesce(now), out);
                state
            }
            (state, Event::Leave(leaving)) => {
                leave_effects(self.outbound.leave(now, leaving), out);
                state
            }

            // ---- after it: the other side of the drain ------------------------------------------------
            // For the supervisors of both, and for what is counted; nothing here depends on it.
            (
                state @ (State::Probation { .. } | State::Retired { .. }),
                Event::Message(M::Serves { .. } | M::Counted { .. }),
            ) => state,
            // It cannot serve any more. The other side may have stopped meanwhile, and drain too.
            (
                state @ State::Retired { .. },
                Event::Message(M::EndProbation | M::Failed { .. } | M::LetGo | M::Issued { .. }),
            )
            | (
                state @ State::Retired { .. },
                Event::Message(M::Drained { .. } | M::Progress { .. } | M::Connections { .. }),
            ) => state,
            (
                mut state @ (State::Probation { .. } | State::Retired { .. }),
                Event::Message(M::Hurry { deadline_ms }),
            ) => {
                state.hurry(after(now, Duration::from_millis(deadline_ms)), out);
                state
            }
            (state, Event::Message(M::Issued { generation })) => match self.issued.counted_on(generation) {
                Ok(issued) => {
                    self.issued = issued;
                    state
                }
                Err(what) => self.violation(state, what, out),
            },
            (
                state @ (State::Probation { .. } | State::Retired { quiet: false, .. }),
                Event::Message(message),
            ) => {
                let what = format!("said `{}` to a process that drains", message.name());
                self.violation(state, what, out)
            }
            (State::Probation { peer, until, quiet, .. }, Event::Drained { forced }) => {
                out.push(Effect::Send(M::Drained { forced }));
                State::Probation { peer, until, drain: Drain::Done, quiet }
            }
            (State::Retired { .. }, Event::Drained { forced }) => {
                out.extend([Effect::Send(M::Drained { forced }), Effect::Exit]);
                State::Gone
            }
            (
                state @ (State::Probation { .. } | State::Retired { .. }),
                Event::Progress { connections, closed, totals, tasks },
            ) => {
                out.push(Effect::Send(M::Progress { connections, closed, totals, tasks: tasks.clone() }));
                self.progress(state, &tasks, out)
            }

            // ---- rollback -----------------------------------------------------------------------------
            (State::RollingBack { to, .. }, Event::Stopped(stopped)) => {
                let Stopped { at_ns, mut links, history, counts, .. } = stopped;
                links.retain(|rest| rest.generation != to);
                out.push(Effect::Read(to));
                let reason = self.why_back().to_owned();
                let resume = M::Resume { stopped_at_ns: at_ns, links, history, counts, reason };
                out.push(Effect::SendTo(to, resume));
                State::Resuming { to, until: after(now, self.local.timing.resume) }
            }
            (State::RollingBack { .. }, Event::CannotStop(why)) => self.roll_on(now, None, true, why, out),
            (State::Resuming { to, until }, Event::Predecessor(from, M::Serving { gap_ns: _, accepts }))
                if from == to =>
            {
                self.step_back(now, to, until, accepts, out)
            }
            (state, Event::Predecessor(from, M::LetGo)) if state.rolls_back_to() == Some(from) => {
                let stopped = self.has_stopped(&state);
                self.hear(now, state, from, M::LetGo, out);
                let reason = "its listeners are let go, it cannot serve again".to_owned();
                self.roll_on(now, Some(from), stopped, reason, out)
            }
            (state, Event::PredecessorClosed(from, fault)) if state.rolls_back_to() == Some(from) => {
                self.lose(from, &fault, out);
                let asked = matches!(state, State::Resuming { .. }).then_some(from);
                self.roll_on(now, asked, self.has_stopped(&state), fault.to_string(), out)
            }

            // ---- what predecessors say ----------------------------------------------------------------
            (state, Event::Predecessor(generation, message)) => {
                self.hear(now, state, generation, message, out)
            }
            (state, Event::PredecessorClosed(generation, fault)) => {
                self.lose(generation, &fault, out);
                state
            }
            (state, Event::Inspected { from, batch, refused }) => {
                self.inspected(from, batch, refused, out);
                state
            }

            // ---- stopping -----------------------------------------------------------------------------
            (State::Stopping { within, for_good, .. }, Event::Stopped(_) | Event::CannotStop(_)) => {
                self.retire(now, within, for_good, out)
            }

            // ---- the control socket -------------------------------------------------------------------
            (state, Event::Rebound(file)) => {
                self.rebound(&state, file, out);
                state
            }

            (state, Event::Tick) => self.tick(now, state, out),

            // An answer that came after its question was given up, or news that no longer matters.
            (
                state,
                Event::Message(_)
                | Event::Closed(_)
                | Event::Stopped(_)
                | Event::CannotStop(_)
                | Event::BeforeReleaseDone(_)
                | Event::Drained { .. }
                | Event::Progress { .. },
            ) => state,
        }
    }
}

fn leave_effects(effects: Vec<OutboundEffect>, out: &mut Vec<Effect>) {
    out.extend(effects.into_iter().map(Effect::Outbound));
}
