//! The side that arrives: from `Join` until it serves, or gives up.
//!
//! Deliberately absent: descriptors, sockets and the clock. The caller checks the descriptors of a message before it
//! hands the message to [`Successor::handle`]; afterwards the process goes on as an [`crate::Incumbent`].

use std::mem;
use std::time::{Duration, Instant};

use crate::error::{Fault, Refusal};
use crate::incumbent::Local;
use crate::inventory::{LinkItem, LinkRest, MAX_LISTENERS};
use crate::message::{Generation, Join, Joined, MAX_BATCHES, Message, Ready, Release, Released};
use crate::operator::ProcessState;
use crate::predecessor::Predecessor;
use crate::timing::{Deadline, after};

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// The incumbent answered the call `Join`.
    Replied(Result<Joined, Refusal>),
    /// The incumbent said something on the link.
    Message(Message),
    /// The link is closed ([`Fault::PeerGone`]: end-of-file, even in the middle of a message, `EPIPE` or
    /// `ECONNRESET`), or cannot be understood or written to (any other fault).
    Closed(Fault),
    /// A predecessor whose link is read ([`Effect::Read`]) said that it serves. What else comes over its link is for later,
    /// when this process serves.
    Resumed(Generation),
    /// The application is warm ([`Effect::Complete`] came before).
    Ready(Ready),
    /// The accept loops run ([`Effect::Open`] is done).
    Opened {
        /// The time in which nobody accepted, in nanoseconds, if it is known.
        gap_ns: Option<u64>,
    },
    /// The application does not want to any more.
    GiveUp(String),
    /// Time has passed. What has arrived comes before it: after a pause of the whole machine everything is due, and a
    /// death must not look like a delay.
    Tick,
}

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Say this to the incumbent.
    Send(Message),
    /// Say this to a predecessor.
    SendTo(Generation, Message),
    /// Read this predecessor's link: it may say that it serves.
    Read(Generation),
    /// Close the link, after what was said on it; nothing that arrives on it is an event any more.
    Close,
    /// The whole inventory is here: the application can claim, bind and warm up.
    Complete(Joined),
    /// The incumbent died before the inventory was complete: drop it, and start as a first start would.
    StartOver,
    /// Run the accept loops; then [`Event::Opened`]. Without a message the incumbent is dead.
    Open(Option<Released>),
    /// This process serves; go on as an [`crate::Incumbent`] with these predecessors.
    Serve(Served),
    /// The attempt is over: nothing is accepted, and what was received is closed.
    Fail(Fault),
}

/// What a process knows when it has become the one that serves.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Served {
    /// The answer to `Join`.
    pub joined: Joined,
    /// The generations before this one that are left, newest first.
    pub predecessors: Vec<Predecessor>,
    /// The time in which nobody accepted, in nanoseconds.
    pub gap_ns: Option<u64>,
}

/// States are named for what they wait for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum State {
    Joining { until: Instant },
    Receiving { joined: Joined, next: u32, listeners: usize, control: bool, until: Instant },
    Warming { joined: Joined, until: Instant },
    // The incumbent is dead. Without a deadline: like a first start it waits for nobody but its own application, unless
    // a predecessor serves before that.
    Orphaned { joined: Joined },
    Waiting { joined: Joined, on_command: bool, until: Instant },
    // `alone`: the incumbent is dead. Without a deadline: the one that the incumbent has is the one that counts.
    Opening { joined: Joined, released: Option<Released>, alone: bool },
    Done,
}

/// The machine of a process that wants to succeed another.
///
/// Calling order: [`join`](Self::join), and make the call that it returns; then, whenever something happens,
/// [`handle`](Self::handle), perform the effects in their order, and ask [`deadline`](Self::deadline) anew. It ends with
/// [`Effect::Serve`], [`Effect::StartOver`] or [`Effect::Fail`].
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
/// #     Process { instance: format!("{pid:032x}"), pid, version: format!("v{pid}") }
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
/// #     handoff: "h1".into(), incumbent: process(1), incumbent_generation: Generation(1) };
/// successor.handle(now, Event::Replied(Ok(joined)));
/// let effects = successor.handle(now, Event::Message(Message::Control { batch: 1 }));
/// assert_eq!(effects, [Effect::Send(Message::Received { batch: 1 })]);
/// let effects = successor.handle(now, Event::Message(Message::Complete { batches: 1 }));
/// assert!(matches!(effects[..], [Effect::Complete(_)]));
///
/// // The application claims its listeners and warms up.
/// let effects = successor.handle(now, Event::Ready(Ready::default()));
/// assert_eq!(effects, [Effect::Send(Message::Ready(Ready::default()))]);
///
/// // Nobody accepts: open, and say so.
/// let effects = successor.handle(now, Event::Message(Message::Released(Released::default())));
/// assert!(matches!(effects[..], [Effect::Open(Some(_))]));
/// let mut effects = successor.handle(now, Event::Opened { gap_ns: Some(90_000) });
/// assert_eq!(effects.remove(0), Effect::Send(Message::Serving { gap_ns: Some(90_000) }));
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
    links: Vec<LinkItem>,
    /// The predecessor that was asked to serve, because the incumbent is dead.
    asked: Option<Generation>,
}

impl Successor {
    /// A process that has just found an incumbent, and the call to make.
    #[must_use]
    pub fn join(now: Instant, local: Local, attempt: Option<String>) -> (Self, Join) {
        let join = Join {
            versions: local.versions,
            features: local.features.clone(),
            process: local.process.clone(),
            attempt,
        };
        let state = State::Joining { until: after(now, local.timing.reply) };
        (Self { local, state, links: Vec::new(), asked: None }, join)
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

    /// Whether it accepts, or will as soon as its application is ready: an oracle for tests and models.
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

            // ---- joining -------------------------------------------------------------------------------------
            (State::Joining { .. }, Event::Replied(Ok(joined))) => self.joined(now, joined, out),
            (State::Joining { .. }, Event::Replied(Err(refusal))) => fail(refused(refusal), out),
            (State::Joining { .. } | State::Receiving { .. }, Event::Closed(Fault::PeerGone)) => {
                out.push(Effect::StartOver);
                State::Done
            }

            // ---- the inventory -------------------------------------------------------------------------------
            (state @ State::Receiving { .. }, Event::Message(message)) => {
                self.receive(now, state, message, out)
            }

            // ---- warming up ----------------------------------------------------------------------------------
            (State::Warming { joined, .. }, Event::Ready(ready)) => {
                let timing = &self.local.timing;
                let on_command = ready.release == Release::OnCommand;
                let wait =
                    if on_command { timing.standby.saturating_add(timing.released) } else { timing.released };
                out.push(Effect::Send(M::Ready(ready)));
                State::Waiting { joined, on_command, until: after(now, wait) }
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
                state @ (State::Orphaned { .. } | State::Opening { alone: true, .. }),
                Event::Message(_) | Event::Closed(_),
            ) => state,

            // ---- the commit ----------------------------------------------------------------------------------
            (State::Waiting { joined, .. }, Event::Message(M::Released(released))) => {
                out.push(Effect::Open(Some(released.clone())));
                State::Opening { joined, released: Some(released), alone: false }
            }
            (State::Opening { joined, released, alone }, Event::Opened { gap_ns }) => {
                if !alone {
                    out.push(Effect::Send(M::Serving { gap_ns }));
                }
                // Its answer is not here yet, and there must not be two for long.
                if let Some(asked) = self.asked {
                    let reason = "the process that asked it to serve was ready first".to_owned();
                    out.push(Effect::SendTo(asked, M::Failed { reason }));
                }
                out.push(Effect::Serve(self.served(now, joined, released, alone, gap_ns)));
                State::Done
            }
            // It died after its last word. The commit stands, there is nobody to tell and nobody who drains.
            (State::Opening { joined, released, .. }, Event::Closed(Fault::PeerGone)) => {
                State::Opening { joined, released, alone: true }
            }

            // ---- failure -------------------------------------------------------------------------------------
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
            (state, Event::Replied(_) | Event::Resumed(_) | Event::Ready(_) | Event::Opened { .. }) => state,
        }
    }

    fn joined(&mut self, now: Instant, joined: Joined, out: &mut Vec<Effect>) -> State {
        let ours = self.local.versions;
        if joined.version < ours.min || joined.version > ours.max {
            let what = format!("it chose protocol version {}, we speak {ours}", joined.version);
            give_up(&what, out);
            return fail(Fault::PeerIncompatible(what), out);
        }
        if joined.generation <= joined.incumbent_generation {
            let what =
                format!("gave the generation {} and is {}", joined.generation, joined.incumbent_generation);
            give_up(&what, out);
            return fail(Fault::PeerMisbehaved(what), out);
        }
        if joined.generation > Generation::LAST {
            let what =
                format!("gave the generation {}, and the last is {}", joined.generation, Generation::LAST);
            give_up(&what, out);
            return fail(Fault::PeerMisbehaved(what), out);
        }
        if let Some(feature) = joined.features.iter().find(|f| !self.local.features.contains(f)) {
            let what = format!("it wants the feature {feature:?}, which was not offered");
            give_up(&what, out);
            return fail(Fault::PeerMisbehaved(what), out);
        }
        State::Receiving {
            joined,
            next: 1,
            listeners: 0,
            control: false,
            until: after(now, self.local.timing.batch),
        }
    }

    fn receive(&mut self, now: Instant, state: State, message: Message, out: &mut Vec<Effect>) -> State {
        let State::Receiving { joined, next, mut listeners, mut control, .. } = state else { return state };
        match &message {
            Message::Failed { reason } => {
                out.push(Effect::Close);
                return fail(Fault::PeerFailed(reason.clone()), out);
            }
            Message::Complete { batches } if batches.checked_add(1) == Some(next) && control => {
                let lease = Duration::from_millis(joined.lease_ms);
                out.push(Effect::Complete(joined.clone()));
                return State::Warming { joined, until: after(now, lease) };
            }
            message if message.batch() != Some(next) || next > MAX_BATCHES => {
                let state = State::Receiving { joined, next, listeners, control, until: now };
                return misbehaved(&state, message, out);
            }
            Message::Listeners { items, .. } => listeners += items.len(),
            Message::Links { items, .. } => {
                for item in items {
                    if let Err(what) = self.link(&joined, item) {
                        give_up(&what, out);
                        return fail(Fault::PeerMisbehaved(what), out);
                    }
                }
            }
            Message::Control { .. } => control = true,
            _ => {}
        }
        if listeners > MAX_LISTENERS {
            let what = format!("offered more than {MAX_LISTENERS} listeners");
            give_up(&what, out);
            return fail(Fault::PeerMisbehaved(what), out);
        }
        out.push(Effect::Send(Message::Received { batch: next }));
        let until = after(now, self.local.timing.batch);
        State::Receiving { joined, next: next + 1, listeners, control, until }
    }

    /// A generation is the name of a process, here and in what operators read: there cannot be two of one.
    fn link(&mut self, joined: &Joined, item: &LinkItem) -> Result<(), String> {
        let generation = item.generation;
        if generation >= joined.generation {
            return Err(format!("offered a link to generation {generation} and gave {}", joined.generation));
        }
        let known = self.links.iter().any(|link| link.generation == generation);
        if known || generation == joined.incumbent_generation {
            return Err(format!("offered two processes of generation {generation}"));
        }
        self.links.push(item.clone());
        Ok(())
    }

    /// A predecessor in probation does not see that the incumbent is dead, because its link is held here too. It is asked to
    /// serve: it is warm, and we are not. If its probation is over it does not, and we do when we are ready.
    fn call_back(&mut self, out: &mut Vec<Effect>) {
        let Some(newest) = self.links.iter().find(|link| link.probation) else { return };
        let to = newest.generation;
        let others = self.links.iter().filter(|link| link.generation != to);
        let links = others.map(|l| LinkRest { generation: l.generation, unread: String::new() }).collect();
        self.asked = Some(to);
        out.extend([Effect::Read(to), Effect::SendTo(to, Message::Resume { stopped_at_ns: 0, links })]);
    }

    fn served(
        &mut self,
        now: Instant,
        joined: Joined,
        released: Option<Released>,
        alone: bool,
        gap_ns: Option<u64>,
    ) -> Served {
        let mut predecessors = Vec::new();
        if let (Some(released), false) = (&released, alone) {
            let (generation, process) = (joined.incumbent_generation, joined.incumbent.clone());
            let features = joined.features.clone();
            let newest = Predecessor::released(now, generation, process, released.connections);
            let handoff = joined.handoff.clone();
            predecessors.push(Predecessor { features, handoff, ..newest });
        }
        // The incumbent knows which have ended since; their links end when they are read, which is no surprise then.
        let has_ended = |link: &LinkItem| {
            released.as_ref().is_some_and(|r| r.links.iter().all(|rest| rest.generation != link.generation))
        };
        let links = mem::take(&mut self.links);
        predecessors.extend(links.iter().map(|link| Predecessor {
            drained: link.drained || has_ended(link),
            told: self.asked == Some(link.generation),
            ..Predecessor::inherited(now, link)
        }));
        Served { joined, predecessors, gap_ns }
    }

    /// Every deadline of this side.
    fn tick(&self, now: Instant, state: State, out: &mut Vec<Effect>) -> State {
        let Some((deadline, _)) = state.wait().filter(|(_, until)| now >= *until) else { return state };
        let fault = Fault::TimedOut(deadline);
        give_up(&fault.to_string(), out);
        fail(fault, out)
    }
}

impl State {
    fn wait(&self) -> Option<(Deadline, Instant)> {
        match self {
            Self::Joining { until } => Some((Deadline::Reply, *until)),
            Self::Receiving { until, .. } => Some((Deadline::Batch, *until)),
            Self::Warming { until, .. } => Some((Deadline::Lease, *until)),
            Self::Waiting { until, on_command: true, .. } => Some((Deadline::Standby, *until)),
            Self::Waiting { until, on_command: false, .. } => Some((Deadline::Released, *until)),
            Self::Orphaned { .. } | Self::Opening { .. } | Self::Done => None,
        }
    }
}

fn refused(refusal: Refusal) -> Fault {
    match refusal {
        Refusal::Incompatible { .. } => Fault::PeerIncompatible(refusal.to_string()),
        refusal => Fault::PeerFailed(refusal.to_string()),
    }
}

fn fail(fault: Fault, out: &mut Vec<Effect>) -> State {
    out.push(Effect::Fail(fault));
    State::Done
}

fn give_up(reason: &str, out: &mut Vec<Effect>) {
    out.extend([Effect::Send(Message::Failed { reason: reason.to_owned() }), Effect::Close]);
}

fn misbehaved(state: &State, message: &Message, out: &mut Vec<Effect>) -> State {
    let doing = match state {
        State::Joining { .. } => "before its reply",
        State::Receiving { .. } => "in the middle of the inventory",
        State::Waiting { .. } => "where `released` was due",
        State::Opening { .. } => "after `released`, before it was told that we serve",
        _ => "while we warm up",
    };
    let what = format!("said `{}` {doing}", message.name());
    give_up(&what, out);
    fail(Fault::PeerMisbehaved(what), out)
}
