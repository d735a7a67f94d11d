//! What the arms of the successor's `match` do, in the order of a handoff.

use std::mem;
use std::time::{Duration, Instant};

use super::Successor;
use super::events::{Effect, Served};
use super::state::State;
use crate::error::{Fault, Refusal};
use crate::inventory::{LinkItem, MAX_LISTENERS, UnreadLink};
use crate::message::{Generation, Joined, MAX_BATCHES, Message, Released};
use crate::predecessor::Predecessor;
use crate::timing::after;

impl Successor {
    pub(super) fn joined(&mut self, now: Instant, joined: Joined, out: &mut Vec<Effect>) -> State {
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
        if let (Some(there), Some(here)) = (joined.occupancy, self.max_descriptors)
            && there.descriptors > here
        {
            let what = format!(
                "its limit of open files is {here}, and {} has {} open, {} of them connections; give it a \
                 higher one (ulimit -n, LimitNOFILE=)",
                joined.incumbent, there.descriptors, there.connections
            );
            give_up(&what, out);
            return fail(Fault::Local(what), out);
        }
        State::Receiving { joined, next: 1, listeners: 0, until: after(now, self.local.timing.batch) }
    }

    pub(super) fn receive(
        &mut self,
        now: Instant,
        state: State,
        message: Message,
        out: &mut Vec<Effect>,
    ) -> State {
        let State::Receiving { joined, next, mut listeners, .. } = state else { return state };
        match &message {
            Message::Failed { reason } => {
                out.push(Effect::Close);
                return fail(Fault::PeerFailed(reason.clone()), out);
            }
            message if message.batch() != Some(next) || next > MAX_BATCHES => {
                let state = State::Receiving { joined, next, listeners, until: now };
                return misbehaved(&state, message, out);
            }
            Message::Listeners { items, .. } => listeners += items.len(),
            Message::Links { items, .. } => {
                for item in items {
                    if let Err(what) = self.link(now, &joined, item) {
                        give_up(&what, out);
                        return fail(Fault::PeerMisbehaved(what), out);
                    }
                }
            }
            _ => {}
        }
        if listeners > MAX_LISTENERS {
            let what = format!("offered more than {MAX_LISTENERS} listeners");
            give_up(&what, out);
            return fail(Fault::PeerMisbehaved(what), out);
        }
        out.push(Effect::Send(Message::Received { batch: next }));
        // It comes last.
        if let Message::Control { .. } = message {
            let lease = Duration::from_millis(joined.lease_ms);
            out.push(Effect::Complete(joined.clone()));
            return State::Warming { joined, until: after(now, lease) };
        }
        let until = after(now, self.local.timing.batch);
        State::Receiving { joined, next: next + 1, listeners, until }
    }

    /// A generation is the name of a process, here and in what operators read: there cannot be two of one.
    fn link(&mut self, now: Instant, joined: &Joined, item: &LinkItem) -> Result<(), String> {
        let generation = item.generation;
        if generation >= joined.generation {
            return Err(format!("offered a link to generation {generation} and gave {}", joined.generation));
        }
        let known = self.links.iter().any(|link| link.generation == generation);
        if known || generation == joined.incumbent_generation {
            return Err(format!("offered two processes of generation {generation}"));
        }
        self.links.push(Predecessor::inherited(now, item));
        Ok(())
    }

    /// A predecessor in probation does not see that the incumbent is dead, because its link is held here too.
    /// It is asked to serve: it is warm, and we are not. If its probation is over it does not, and we do when
    /// we are ready.
    pub(super) fn call_back(&mut self, out: &mut Vec<Effect>) {
        let Some(newest) = self.links.iter().find(|link| link.probation) else { return };
        let to = newest.generation;
        let others = self.links.iter().filter(|link| link.generation != to);
        let links = others.map(|l| UnreadLink { generation: l.generation, unread: String::new() }).collect();
        self.asked = Some(to);
        let reason = "it died".to_owned();
        let resume = Message::Resume { stopped_at_ns: 0, links, history: Vec::new(), counts: None, reason };
        out.extend([Effect::Read(to), Effect::SendTo(to, resume)]);
    }

    pub(super) fn served(
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
            predecessors.push(Predecessor { features, handoff, ..newest }.knowing());
        }
        // The incumbent knows which have ended since; their links end when they are read, which is no
        // surprise then.
        let has_ended = |link: &Predecessor| {
            released.as_ref().is_some_and(|r| r.links.iter().all(|rest| rest.generation != link.generation))
        };
        let links = mem::take(&mut self.links);
        predecessors.extend(links.into_iter().map(|link| Predecessor {
            drained: link.drained || has_ended(&link),
            told: self.asked == Some(link.generation),
            ..link
        }));
        Served { joined, predecessors, gap_ns }
    }

    /// Every deadline of this side.
    pub(super) fn tick(&self, now: Instant, state: State, out: &mut Vec<Effect>) -> State {
        let Some((deadline, _)) = state.wait().filter(|(_, until)| now >= *until) else { return state };
        let fault = Fault::TimedOut(deadline);
        give_up(&fault.to_string(), out);
        fail(fault, out)
    }
}

pub(super) fn refused(refusal: Refusal) -> Fault {
    match refusal {
        Refusal::Incompatible { .. } => Fault::PeerIncompatible(refusal.to_string()),
        refusal => Fault::PeerFailed(refusal.to_string()),
    }
}

pub(super) fn fail(fault: Fault, out: &mut Vec<Effect>) -> State {
    out.push(Effect::Fail(fault));
    State::Done
}

pub(super) fn give_up(reason: &str, out: &mut Vec<Effect>) {
    out.extend([Effect::Send(Message::Failed { reason: reason.to_owned() }), Effect::Close]);
}

pub(super) fn misbehaved(state: &State, message: &Message, out: &mut Vec<Effect>) -> State {
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
