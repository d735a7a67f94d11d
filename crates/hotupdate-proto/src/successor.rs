//! The side that arrives: from `Join` until it serves, or gives up.
//!
//! Deliberately absent: descriptors, sockets and the clock. The caller checks the descriptors of a message
//! before it hands the message to [`Successor::handle`]; afterwards the process goes on as an
//! [`crate::Incumbent`].
//!
//! The protocol is one `match (state, event)`, in `Successor::step`. Beside it: `state` (what each state
//! waits for), `transitions` (what the arms do) and `events` (events, effects).

use std::mem;
use std::time::Instant;

use crate::FEATURE_TROUBLE;
use crate::error::Fault;
use crate::incumbent::Local;
use crate::message::{Generation, Join, Message, Release};
use crate::operator::ProcessState;
use crate::predecessor::Predecessor;
use crate::timing::{Deadline, after};

mod events;
pub use events::{Effect, Event, Served};

mod state;
use state::State;

mod transitions;
use transitions::{fail, give_up, misbehaved, refused};

/// The machine of a process that wants to succeed another.
///
/// Calling order: [`join`](Self::join), and make the call that it returns; then, whenever something happens,
/// [`handle`](Self::handle), perform the effects in their order, and ask [`deadline`](Self::deadline) anew.
/// It ends with [`Effect::Serve`], [`Effect::StartOver`] or [`Effect::Fail`].
///
/// ```
/// use std::time::Instant;
///
/// use hotupdate_proto::incumbent::Local;
/// use hotupdate_proto::message::{Generation, Joined, Message, Process, Ready, Released};
/// use hotupdate_proto::successor::{Effect, Event};
/// use hotupdate_proto::{Incumbent, Successor, Timing, VERSIONS};
///
/// # fn process(pid: u32) -> Process {
/// #     Process::new(format!("{pid:032x}"), pid, format!("v{pid}"))
/// # }
/// # let (features, timing) = (Vec::new(), Timing::default());
/// # let local = Local { process: process(2), versions: VERSIONS, features, timing, max_draining: 8 };
/// # #[expect(clippy::disallowed_methods, reason = "an example needs some moment")]
/// let now = Instant::now();
/// let (mut successor, join) = Successor::join(now, local.clone(), None);
/// assert_eq!(join.process.pid, 2); // what to send as the call `io.hotupdate.Join`
///
/// // The reply, then the inventory.
/// # let joined = Joined { version: 1, features: Vec::new(), generation: Generation(2), lease_ms: 60_000,
/// #     handoff: "h1".into(), incumbent: process(1), incumbent_generation: Generation(1), occupancy: None,
/// #     manager: None };
/// successor.handle(now, Event::Replied(Ok(joined)));
/// let effects = successor.handle(now, Event::Message(Message::Control { batch: 1 }));
/// assert!(matches!(effects[..], [Effect::Send(Message::Received { batch: 1 }), Effect::Complete(_)]));
///
/// // The application claims its listeners and warms up.
/// let effects = successor.handle(now, Event::Ready(Ready::default()));
/// assert_eq!(effects, [Effect::Send(Message::Ready(Ready::default()))]);
///
/// // No process accepts now: open, and say so.
/// let effects = successor.handle(now, Event::Message(Message::Released(Released::default())));
/// assert!(matches!(effects[..], [Effect::Open(Some(_))]));
/// let mut effects = successor.handle(now, Event::Opened { gap_ns: Some(90_000) });
/// let serving = Message::Serving { gap_ns: Some(90_000), accepts: Vec::new() };
/// assert_eq!(effects.remove(0), Effect::Send(serving));
///
/// // From here on the other machine has the word.
/// let Effect::Serve(served) = effects.remove(0) else { unreachable!("it serves") };
/// let mut incumbent = Incumbent::serving(local, served.joined.generation, served.predecessors);
/// assert!(incumbent.greet().is_empty()); // no older generation is left to settle or to hurry
/// assert_eq!(incumbent.predecessors()[0].generation, Generation(1));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Successor {
    local: Local,
    state: State,
    links: Vec<Predecessor>,
    /// The predecessor that was asked to serve, because the incumbent is dead.
    asked: Option<Generation>,
    /// How many descriptors this process may open, if there is a limit.
    max_descriptors: Option<u64>,
}

impl Successor {
    /// The machine of a process that has just found an incumbent, and the call to make.
    #[must_use]
    pub fn join(now: Instant, local: Local, attempt: Option<String>) -> (Self, Join) {
        let join = Join {
            versions: local.versions,
            features: local.features.clone(),
            process: local.process.clone(),
            attempt,
        };
        let state = State::Joining { until: after(now, local.timing.reply) };
        let machine = Self { local, state, links: Vec::new(), asked: None, max_descriptors: None };
        (machine, join)
    }

    /// This process may open so many descriptors (`RLIMIT_NOFILE`). It does not succeed one that has more of
    /// them open: it could not answer that one's clients.
    #[must_use]
    pub fn with_max_descriptors(self, max_descriptors: Option<u64>) -> Self {
        Self { max_descriptors, ..self }
    }

    /// When to call [`Self::handle`] with [`Event::Tick`].
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.waits_for().map(|(_, until)| until)
    }

    /// Which wait for the incumbent is under way, and when it ends; `None` if nothing is expected of it.
    #[must_use]
    pub fn waits_for(&self) -> Option<(Deadline, Instant)> {
        self.state.wait()
    }

    /// What this process does.
    #[must_use]
    pub fn process_state(&self) -> ProcessState {
        match self.state {
            State::Waiting { .. } => ProcessState::Standby,
            State::Opening { .. } => ProcessState::Serving,
            State::Done => ProcessState::Gone,
            _ => ProcessState::Starting,
        }
    }

    /// Whether this process accepts, or will as soon as its application is ready: an oracle for tests and
    /// models.
    #[must_use]
    pub fn can_serve_alone(&self) -> bool {
        matches!(self.state, State::Orphaned { .. } | State::Opening { .. })
    }

    /// Whether nothing more comes from this machine.
    #[must_use]
    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Something happened at `now`; returns what is to be done about it.
    pub fn handle(&mut self, now: Instant, event: Event) -> Vec<Effect> {
        let mut out = Vec::new();
        let state = mem::replace(&mut self.state, State::Done);
        self.state = self.step(now, state, event, &mut out);
        out
    }

    /// The whole protocol of this side.
    fn step(&mut self, now: Instant, state: State, event: Event, out: &mut Vec<Effect>) -> State {
        use Message as M;
        match (state, event) {
            (State::Done, _) => State::Done,

            // ---- joining ------------------------------------------------------------------------------
            (State::Joining { .. }, Event::Replied(Ok(joined))) => self.joined(now, joined, out),
            (State::Joining { .. }, Event::Replied(Err(refusal))) => fail(refused(refusal), out),
            (State::Joining { .. } | State::Receiving { .. }, Event::Closed(Fault::PeerGone)) => {
                out.push(Effect::StartOver);
                State::Done
            }

            // ---- the inventory ------------------------------------------------------------------------
            (state @ State::Receiving { .. }, Event::Message(message)) => {
                self.receive(now, state, message, out)
            }

            // ---- warming up ---------------------------------------------------------------------------
            (State::Warming { joined, .. }, Event::Ready(ready)) => {
                let timing = &self.local.timing;
                let on_command = ready.release == Release::OnCommand;
                let released = timing.released.saturating_add(timing.before_release);
                let wait = if on_command { timing.standby.saturating_add(released) } else { released };
                out.push(Effect::Send(M::Ready(ready)));
                State::Waiting { joined, on_command, until: after(now, wait) }
            }
            (State::Warming { joined, until }, Event::Trouble(what)) => {
                if joined.features.iter().any(|feature| feature == FEATURE_TROUBLE) {
                    out.push(Effect::Send(M::Trouble { what }));
                }
                State::Warming { joined, until }
            }
            // The incumbent died: what we hold is all there is, but for a predecessor that can serve again.
            (State::Warming { joined, .. }, Event::Closed(Fault::PeerGone)) => {
                self.call_back(out);
                State::Orphaned { joined }
            }
            (State::Orphaned { .. }, Event::Resumed(generation)) => fail(
                Fault::Local(format!("the incumbent died, and generation {generation} serves again")),
                out,
            ),
            (State::Waiting { joined, .. }, Event::Closed(Fault::PeerGone)) => {
                out.push(Effect::Open(None));
                State::Opening { joined, released: None, alone: true }
            }
            (State::Orphaned { joined }, Event::Ready(_)) => {
                out.push(Effect::Open(None));
                State::Opening { joined, released: None, alone: true }
            }
            (
                state @ (State::Warming { .. } | State::Waiting { .. }),
                Event::Message(M::Rebound { file }),
            ) => {
                out.push(Effect::Rebound(file));
                state
            }
            (
                state @ (State::Orphaned { .. } | State::Opening { alone: true, .. }),
                Event::Message(_) | Event::Closed(_),
            ) => state,

            // ---- the commit ---------------------------------------------------------------------------
            (State::Waiting { joined, .. }, Event::Message(M::Released(released))) => {
                out.push(Effect::Open(Some(released.clone())));
                State::Opening { joined, released: Some(released), alone: false }
            }
            (State::Opening { joined, released, alone }, Event::Opened { gap_ns }) => {
                if !alone {
                    out.push(Effect::Send(M::Serving { gap_ns, accepts: Vec::new() }));
                }
                // Its answer is not here yet, and there must not be two for long.
                if let Some(asked) = self.asked {
                    let reason = "the process that asked it to serve was ready first".to_owned();
                    out.push(Effect::SendTo(asked, M::Failed { reason }));
                }
                out.push(Effect::Serve(self.served(now, joined, released, alone, gap_ns)));
                State::Done
            }
            // The incumbent died after its last message. The commit stands; no process is left to tell, and
            // none drains.
            (State::Opening { joined, released, .. }, Event::Closed(Fault::PeerGone)) => {
                State::Opening { joined, released, alone: true }
            }

            // ---- failure ------------------------------------------------------------------------------
            (_, Event::Message(M::Failed { reason })) => {
                out.push(Effect::Close);
                fail(Fault::PeerFailed(reason), out)
            }
            (_, Event::Closed(fault)) => {
                give_up(&fault.to_string(), out);
                fail(fault, out)
            }
            (_, Event::GiveUp(reason)) => {
                give_up(&reason, out);
                fail(Fault::Local(reason), out)
            }
            (state, Event::Message(message)) => misbehaved(&state, &message, out),
            (state, Event::Tick) => self.tick(now, state, out),

            // Said by our own side where it means nothing.
            (
                state,
                Event::Replied(_)
                | Event::Resumed(_)
                | Event::Trouble(_)
                | Event::Ready(_)
                | Event::Opened { .. },
            ) => state,
        }
    }
}
