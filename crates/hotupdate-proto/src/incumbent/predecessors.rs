//! What the serving process hears from the generations before it, and says to them.

use std::mem;
use std::time::Instant;

use super::Incumbent;
use super::events::{Effect, Report};
use super::state::State;
use crate::error::Fault;
use crate::identity::Generation;
use crate::inventory::{MAX_TASKS, Summary};
use crate::message::Message;
use crate::migration::InboundEffect;
use crate::predecessor::Predecessor;
use crate::timing::millis;

impl Incumbent {
    /// What a new serving process says to the generations before it: the older ones end their probation, and
    /// the oldest are hurried if there are too many; all learn what this process accepts, if they do not
    /// know. To be called once, when it has begun to serve.
    #[must_use]
    pub fn greet(&mut self) -> Vec<Effect> {
        let mut out = Vec::new();
        self.announce(&mut out);
        for older in self.predecessors.iter().skip(1) {
            out.push(Effect::SendTo(older.generation, Message::EndProbation));
        }
        let deadline_ms = millis(self.local.timing.hurry);
        for oldest in self.predecessors.iter_mut().skip(self.local.max_draining) {
            oldest.hurried = true;
            out.push(Effect::SendTo(oldest.generation, Message::Hurry { deadline_ms }));
        }
        self.establish(&mut out);
        out
    }

    /// Tells predecessors what this process accepts, those that were told something else last.
    pub(super) fn announce(&mut self, out: &mut Vec<Effect>) {
        for predecessor in &mut self.predecessors {
            if predecessor.migrates() && !predecessor.drained && !predecessor.quiet {
                let effects = predecessor.inbound.announce(&self.accepts);
                predecessor.comes(effects, out);
            }
        }
    }

    pub(super) fn forget_predecessors(&mut self, out: &mut Vec<Effect>) {
        for mut predecessor in self.predecessors.drain(..) {
            let effects = predecessor.inbound.forget();
            predecessor.comes(effects, out);
        }
    }

    pub(super) fn inspected(
        &mut self,
        from: Generation,
        batch: u32,
        refused: Vec<u64>,
        out: &mut Vec<Effect>,
    ) {
        if let Some(predecessor) = self.predecessors.iter().find(|p| p.generation == from) {
            predecessor.comes(predecessor.inbound.inspected(batch, refused), out);
        }
    }

    /// As long as a predecessor can take this process's place back, everything stays as that one had it.
    fn establish(&self, out: &mut Vec<Effect>) {
        if self.predecessors.iter().all(|predecessor| !predecessor.probation) {
            out.push(Effect::Established);
        }
    }

    pub(super) fn hear(
        &mut self,
        now: Instant,
        state: State,
        generation: Generation,
        message: Message,
        out: &mut Vec<Effect>,
    ) -> State {
        let Some(predecessor) = self.predecessors.iter_mut().find(|p| p.generation == generation) else {
            return state;
        };
        // One that broke the protocol is believed nothing any more, but that it accepts: there are no two for
        // long.
        if predecessor.quiet && !matches!(message, Message::Failed { .. }) {
            return state;
        }
        match message {
            Message::Progress { connections, totals, mut tasks, closed: _ } => {
                tasks.truncate(MAX_TASKS);
                predecessor.connections = connections;
                predecessor.totals = totals;
                predecessor.tasks = tasks;
                out.push(Effect::Report(Report::Progress(generation)));
            }
            Message::Connections { .. } => {}
            // For its supervisor; nothing here depends on it.
            Message::Main { .. } => {}
            // It had served until a moment ago.
            Message::Counted { .. } => {}
            Message::Issued { generation: issued } => match self.issued.counted_on(issued) {
                Ok(issued) => self.issued = issued,
                Err(what) => predecessor.is_not_believed(what, out),
            },
            Message::Drained { forced } => {
                predecessor.drained = true;
                predecessor.connections = Summary::default();
                predecessor.tasks.clear();
                out.push(Effect::Report(Report::Drained { generation, forced }));
            }
            Message::LetGo => {
                if mem::take(&mut predecessor.probation) {
                    out.push(Effect::Report(Report::LetGo(generation)));
                    self.establish(out);
                }
            }
            Message::Prepare { batch, items } => {
                let heard = predecessor.inbound.prepare(now, batch, items);
                predecessor.brings(heard, out);
            }
            Message::Commit { batch } => {
                let heard = predecessor.inbound.commit(batch);
                predecessor.brings(heard, out);
            }
            Message::Abort { batch } => {
                let heard = predecessor.inbound.abort(batch);
                predecessor.brings(heard, out);
            }
            Message::Quiesced => predecessor.inbound.quiesced(),
            // It answers what it was sent when it served.
            Message::Prepared { batch, .. } if self.outbound.has_abandoned(batch) => {}
            // A process that stops has no use for the news of which one serves.
            Message::Serving { .. } | Message::Resume { .. } | Message::Failed { .. } if !state.owns() => {}
            // It resumed when we had given up waiting for it, and now both accept; or it takes us for its
            // predecessor.
            Message::Serving { .. } | Message::Resume { .. } => {
                predecessor.told = true;
                let reason = "the rollback is over, its successor serves on".to_owned();
                out.push(Effect::SendTo(generation, Message::Failed { reason }));
            }
            // It had not read that we serve. If each tells the other so, the younger one stands down, and not
            // both.
            Message::Failed { .. } if predecessor.told && self.generation < generation => {}
            // It accepts: it waited for our `serving` in vain, or we for its. Once it has let go it cannot.
            Message::Failed { reason } if predecessor.probation => {
                return self.stand_down(now, state, generation, reason, out);
            }
            // It may say more as one that serves, before it reads that it does not.
            _ if predecessor.quiet || predecessor.told || !state.owns() => {}
            other => {
                let what = format!("said `{}` to the process that serves", other.name());
                predecessor.is_not_believed(what, out);
            }
        }
        state
    }

    pub(super) fn lose(&mut self, generation: Generation, fault: &Fault, out: &mut Vec<Effect>) {
        let Some(position) = self.predecessors.iter().position(|p| p.generation == generation) else {
            return;
        };
        if matches!(fault, Fault::PeerGone) {
            let mut gone = self.predecessors.remove(position);
            let effects = gone.inbound.closed();
            gone.comes(effects, out);
            out.push(Effect::Forget(generation));
            if !gone.drained {
                out.push(Effect::Report(Report::Lost { generation, connections: gone.connections }));
            }
            if gone.probation {
                self.establish(out);
            }
        } else {
            self.predecessors[position].is_not_believed(fault.to_string(), out);
        }
    }
}

impl Predecessor {
    pub(super) fn comes(&self, effects: Vec<InboundEffect>, out: &mut Vec<Effect>) {
        out.extend(effects.into_iter().map(|effect| Effect::Inbound(self.generation, effect)));
    }

    fn brings(&mut self, heard: Result<Vec<InboundEffect>, String>, out: &mut Vec<Effect>) {
        match heard {
            Ok(effects) => self.comes(effects, out),
            Err(what) => self.is_not_believed(Fault::PeerMisbehaved(what).to_string(), out),
        }
    }

    /// It broke the protocol: only its end counts from here on.
    fn is_not_believed(&mut self, what: String, out: &mut Vec<Effect>) {
        self.quiet = true;
        let effects = self.inbound.forget();
        self.comes(effects, out);
        out.push(Effect::Report(Report::Violation(self.generation, what)));
    }
}
