//! The side that arrives: from `Join` until it serves, or gives up.
//!
//! Deliberately absent: descriptors, sockets and the clock. The caller checks the descriptors of a message before it
//! hands the message to [`Successor::handle`]; afterwards the process goes on as an [`crate::Incumbent`].

use std::mem;
use std::time::{Duration, Instant};

use crate::error::{Fault, Refusal};
use crate::incumbent::Local;
use crate::inventory::{LinkItem, MAX_LISTENERS};
use crate::message::{Join, Joined, MAX_BATCHES, Message, Ready, Released};
use crate::operator::ProcessState;
use crate::predecessor::Predecessor;
use crate::timing::Deadline;

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// The incumbent answered the call `Join`.
    Replied(Result<Joined, Refusal>),
    /// The incumbent said something on the link.
    Message(Message),
    /// The link is closed, or cannot be understood.
    Closed(Fault),
    /// The application is warm ([`Effect::Complete`] came before).
    Ready(Ready),
    /// The accept loops run ([`Effect::Open`] is done).
    Opened {
        /// The time in which nobody accepted, in nanoseconds, if it is known.
        gap_ns: Option<u64>,
    },
    /// The application does not want to any more.
    GiveUp(String),
    /// Time has passed.
    Tick,
}

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Say this to the incumbent.
    Send(Message),
    /// Close the link.
    Close,
    /// The whole inventory is here: the application can claim, bind and warm up.
    Complete(Joined),
    /// The incumbent died before the inventory was complete: drop it, and start as a first start would.
    StartOver,
    /// Run the accept loops; then [`Event::Opened`]. Without a message the incumbent is dead.
    Open(Option<Released>),
    /// This process serves; go on as an [`crate::Incumbent`] with these predecessors.
    Serve(Served),
    /// The attempt is over.
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
    Orphaned { joined: Joined },
    Waiting { joined: Joined, until: Instant },
    Opening { joined: Joined, released: Option<Released> },
    Done,
}

/// The machine of a process that wants to succeed another.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Successor {
    local: Local,
    state: State,
    links: Vec<LinkItem>,
    on_command: bool,
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
        let state = State::Joining { until: now + local.timing.reply };
        (Self { local, state, links: Vec::new(), on_command: false }, join)
    }

    /// When to call [`Self::handle`] with [`Event::Tick`].
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Joining { until }
            | State::Receiving { until, .. }
            | State::Warming { until, .. }
            | State::Waiting { until, .. } => Some(*until),
            State::Orphaned { .. } | State::Opening { .. } | State::Done => None,
        }
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
                let wait = if ready.release == crate::message::Release::OnCommand {
                    self.on_command = true;
                    timing.standby + timing.released
                } else {
                    timing.released
                };
                out.push(Effect::Send(M::Ready(ready)));
                State::Waiting { joined, until: now + wait }
            }
            // The incumbent died: what we hold is all there is.
            (State::Warming { joined, .. }, Event::Closed(Fault::PeerGone)) => State::Orphaned { joined },
            (State::Waiting { joined, .. }, Event::Closed(Fault::PeerGone)) => {
                out.push(Effect::Open(None));
                State::Opening { joined, released: None }
            }
            (State::Orphaned { joined }, Event::Ready(_)) => {
                out.push(Effect::Open(None));
                State::Opening { joined, released: None }
            }

            // ---- the commit ----------------------------------------------------------------------------------
            (State::Waiting { joined, .. }, Event::Message(M::Released(released))) => {
                out.push(Effect::Open(Some(released.clone())));
                State::Opening { joined, released: Some(released) }
            }
            (State::Opening { joined, released }, Event::Opened { gap_ns }) => {
                if released.is_some() {
                    out.push(Effect::Send(M::Serving { gap_ns }));
                }
                out.push(Effect::Serve(self.served(now, joined, released, gap_ns)));
                State::Done
            }
            (state @ State::Opening { .. }, Event::Message(_) | Event::Closed(_) | Event::Ready(_)) => state,

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
            (state, Event::Replied(_) | Event::Ready(_) | Event::Opened { .. }) => state,
        }
    }

    fn joined(&mut self, now: Instant, joined: Joined, out: &mut Vec<Effect>) -> State {
        let ours = self.local.versions;
        if joined.version < ours.min || joined.version > ours.max {
            let what = format!("it chose protocol version {}, we speak {ours}", joined.version);
            give_up(&what, out);
            return fail(Fault::PeerIncompatible(what), out);
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
            until: now + self.local.timing.batch,
        }
    }

    fn receive(&mut self, now: Instant, state: State, message: Message, out: &mut Vec<Effect>) -> State {
        let State::Receiving { joined, next, mut listeners, mut control, .. } = state else { return state };
        match &message {
            Message::Failed { reason } => {
                out.push(Effect::Close);
                return fail(Fault::PeerFailed(reason.clone()), out);
            }
            Message::Complete { batches } if *batches + 1 == next && control => {
                let lease = Duration::from_millis(joined.lease_ms);
                out.push(Effect::Complete(joined.clone()));
                return State::Warming { joined, until: now + lease };
            }
            message if message.batch() != Some(next) || next > MAX_BATCHES => {
                let state = State::Receiving { joined, next, listeners, control, until: now };
                return misbehaved(&state, message, out);
            }
            Message::Listeners { items, .. } => listeners += items.len(),
            Message::Links { items, .. } => self.links.extend(items.iter().cloned()),
            Message::Control { .. } => control = true,
            _ => {}
        }
        if listeners > MAX_LISTENERS {
            let what = format!("offered more than {MAX_LISTENERS} listeners");
            give_up(&what, out);
            return fail(Fault::PeerMisbehaved(what), out);
        }
        out.push(Effect::Send(Message::Received { batch: next }));
        let until = now + self.local.timing.batch;
        State::Receiving { joined, next: next + 1, listeners, control, until }
    }

    fn served(
        &mut self,
        now: Instant,
        joined: Joined,
        released: Option<Released>,
        gap_ns: Option<u64>,
    ) -> Served {
        let mut predecessors = Vec::new();
        let links = mem::take(&mut self.links);
        match released {
            Some(Released { connections, links: alive, .. }) => {
                let (generation, process) = (joined.incumbent_generation, joined.incumbent.clone());
                predecessors.push(Predecessor::released(now, generation, process, connections));
                let is_alive = |link: &&LinkItem| alive.iter().any(|rest| rest.generation == link.generation);
                predecessors
                    .extend(links.iter().filter(is_alive).map(|link| Predecessor::inherited(now, link)));
            }
            None => predecessors.extend(links.iter().map(|link| Predecessor::inherited(now, link))),
        }
        Served { joined, predecessors, gap_ns }
    }

    /// Every deadline of this side.
    fn tick(&mut self, now: Instant, state: State, out: &mut Vec<Effect>) -> State {
        let deadline = match &state {
            State::Joining { until } if now >= *until => Deadline::Reply,
            State::Receiving { until, .. } if now >= *until => Deadline::Batch,
            State::Warming { until, .. } if now >= *until => Deadline::Lease,
            State::Waiting { until, .. } if now >= *until && self.on_command => Deadline::Standby,
            State::Waiting { until, .. } if now >= *until => Deadline::Released,
            _ => return state,
        };
        let fault = Fault::TimedOut(deadline);
        give_up(&fault.to_string(), out);
        fail(fault, out)
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
        _ => "while we warm up",
    };
    let what = format!("said `{}` {doing}", message.name());
    give_up(&what, out);
    fail(Fault::PeerMisbehaved(what), out)
}
