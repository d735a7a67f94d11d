//! The side that lets connections go: a process that drains, and the one that serves accepts them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::mem;
use std::time::{Duration, Instant};

use super::{ConnectionKind, MAX_BATCH, MAX_BATCH_STATE, WINDOW};
use crate::message::Message;
use crate::timing::after;

/// What is to be done about connections that leave, in this order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum OutboundEffect {
    /// Say this to the process that serves.
    Send(Message),
    /// Send these connections as the `prepare` of this number, each with its descriptor. They are not touched
    /// until they have migrated or are returned.
    Prepare {
        /// The number of the batch.
        batch: u32,
        /// Which connections.
        ids: Vec<u64>,
    },
    /// These belong to the other process now: close our copies, without `shutdown(2)`.
    Migrated(Vec<u64>),
    /// These did not migrate: go on serving them.
    Return(Vec<u64>),
    /// Connections of these kinds, and only these, can leave from here on.
    Accepted(Vec<ConnectionKind>),
    /// The other process asks for a pause: connections that could leave wait, and are served meanwhile.
    Pause,
    /// The other process did not answer in time: connections that could leave wait until it does, and are
    /// served meanwhile.
    Stalled,
}

/// Batches whose answer may still come after everything was taken back: those of several rollbacks. Answers
/// come in the order of the batches.
const MAX_ABANDONED: usize = 8 * WINDOW;

/// A connection that asks to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Leaving {
    /// Which.
    pub id: u64,
    /// How many bytes of state go with it.
    pub bytes: usize,
    /// How many descriptors go with it: its own, and that of its relay.
    pub descriptors: usize,
}

/// What the other process wants of connections that leave.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Destination {
    /// There is no other process, or nothing it says is believed.
    None,
    /// It accepts these kinds.
    Accepts(Vec<ConnectionKind>),
    /// It waits for `quiesced`, which is said when nothing is on its way.
    Quiescing,
    /// It knows that nothing is on its way, or has not said yet what it accepts.
    Quiesced,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct InFlight {
    ids: Vec<u64>,
    until: Instant,
}

/// The side that lets connections go.
///
/// [`begin`](Self::begin) when a drain begins, [`leave`](Self::leave) for each connection that asks to, then
/// what the other process says ([`accepts`](Self::accepts), [`prepared`](Self::prepared),
/// [`quiesce`](Self::quiesce)), [`tick`](Self::tick) when [`deadline`](Self::deadline) has passed, and
/// [`end`](Self::end) when the other process is dead or this one serves again.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Outbound {
    patience: Duration,
    to: Destination,
    /// What has asked to leave and waits for room in the window.
    queue: VecDeque<Leaving>,
    /// The number of the last batch. The numbers go on when the other process is another one.
    last: u32,
    in_flight: BTreeMap<u32, InFlight>,
    /// Batches that were taken back because no answer came in time. As long as there are any, the other
    /// process hangs.
    late: BTreeSet<u32>,
    /// Batches whose answer was due when everything was taken back, and whether `abort` was said.
    abandoned: BTreeMap<u32, bool>,
}

impl Outbound {
    /// No connection leaves yet; each `prepared` has to come within `patience`.
    #[must_use]
    pub fn new(patience: Duration) -> Self {
        Self {
            patience,
            to: Destination::None,
            queue: VecDeque::new(),
            last: 0,
            in_flight: BTreeMap::new(),
            late: BTreeSet::new(),
            abandoned: BTreeMap::new(),
        }
    }

    /// Whether the other process did not answer in time and has not answered since.
    #[must_use]
    pub fn is_stalled(&self) -> bool {
        !self.late.is_empty()
    }

    /// Whether no connection is about to leave.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.in_flight.is_empty()
    }

    /// When to call [`Self::tick`].
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.in_flight.values().map(|batch| batch.until).min()
    }

    /// A drain begins, and the process that serves accepts these kinds; `None` if it says so in a moment.
    ///
    /// What was on its way in an earlier drain may still be held, and its connections may leave again.
    pub fn begin(&mut self, kinds: Option<Vec<ConnectionKind>>) -> Vec<OutboundEffect> {
        let mut effects = Vec::new();
        for (batch, told) in &mut self.abandoned {
            if !mem::replace(told, true) {
                effects.push(OutboundEffect::Send(Message::Abort { batch: *batch }));
            }
        }
        while self.abandoned.len() > MAX_ABANDONED {
            self.abandoned.pop_first();
        }
        match kinds {
            Some(kinds) => {
                self.to = Destination::Accepts(kinds.clone());
                effects.push(OutboundEffect::Accepted(kinds));
            }
            None => {
                self.to = Destination::Quiesced;
                effects.push(OutboundEffect::Pause);
            }
        }
        effects
    }

    /// The process that serves says what it accepts. It may be another one than before, which answers to
    /// nothing that the other one got; so a late answer is not waited for any more.
    pub fn accepts(&mut self, now: Instant, kinds: Vec<ConnectionKind>) -> Vec<OutboundEffect> {
        if self.to == Destination::None {
            return Vec::new();
        }
        self.abandoned.extend(mem::take(&mut self.late).into_iter().map(|batch| (batch, true)));
        self.to = Destination::Accepts(kinds.clone());
        let mut effects = vec![OutboundEffect::Accepted(kinds)];
        self.pump(now, &mut effects);
        effects
    }

    /// These connections ask to leave. Each is returned at once if it cannot, since the other process would
    /// not answer, or has stopped to read.
    pub fn leave(&mut self, now: Instant, leaving: Vec<Leaving>) -> Vec<OutboundEffect> {
        let mut effects = Vec::new();
        match &self.to {
            Destination::Accepts(kinds) if !kinds.is_empty() && !self.is_stalled() => {
                self.queue.extend(leaving);
                self.pump(now, &mut effects);
            }
            _ => give_back(leaving.into_iter().map(|leaving| leaving.id).collect(), &mut effects),
        }
        effects
    }

    /// The process that serves holds a batch, except for these.
    ///
    /// # Errors
    /// One line that says what is wrong with the answer.
    pub fn prepared(
        &mut self,
        now: Instant,
        batch: u32,
        refused: &[u64],
    ) -> Result<Vec<OutboundEffect>, String> {
        // An answer that comes too late is none, even if this process is the one that has slept: the other
        // one does not count on it any more.
        let mut effects = self.tick(now);
        if self.late.remove(&batch) {
            if let (Destination::Accepts(kinds), false) = (&self.to, self.is_stalled()) {
                effects.push(OutboundEffect::Accepted(kinds.clone()));
            }
        } else if let Some(told) = self.abandoned.remove(&batch) {
            // The process that reads the link now holds what another was to have.
            effects.extend((!told).then_some(OutboundEffect::Send(Message::Abort { batch })));
        } else if let Some(InFlight { ids, .. }) = self.in_flight.remove(&batch) {
            let (refused, migrated) = ids.into_iter().partition(|id| refused.contains(id));
            // First our copies, then the word: the other process never shares a connection.
            effects.push(OutboundEffect::Migrated(migrated));
            effects.push(OutboundEffect::Send(Message::Commit { batch }));
            give_back(refused, &mut effects);
        } else {
            return Err(format!("holds batch {batch} of connections, which is not on its way"));
        }
        self.pump(now, &mut effects);
        Ok(effects)
    }

    /// The accept loops of the process that serves are about to stop; it wants to hear when nothing is on its
    /// way.
    pub fn quiesce(&mut self, now: Instant) -> Vec<OutboundEffect> {
        if self.to == Destination::None {
            return Vec::new();
        }
        self.to = Destination::Quiescing;
        let mut effects = vec![OutboundEffect::Pause];
        self.give_back_queue(&mut effects);
        self.pump(now, &mut effects);
        effects
    }

    /// Time has passed. That a batch is taken back is said before its connections are touched, so that the
    /// other process reads it even if this one dies then.
    pub fn tick(&mut self, now: Instant) -> Vec<OutboundEffect> {
        let late: Vec<u32> =
            self.in_flight.iter().filter(|(_, b)| now >= b.until).map(|(batch, _)| *batch).collect();
        let mut effects = Vec::new();
        if late.is_empty() {
            return effects;
        }
        // First, so that no connection that stays is told to leave.
        if let Destination::Accepts(_) = self.to {
            effects.push(OutboundEffect::Stalled);
        }
        for batch in late {
            if let Some(InFlight { ids, .. }) = self.in_flight.remove(&batch) {
                self.late.insert(batch);
                effects.push(OutboundEffect::Send(Message::Abort { batch }));
                give_back(ids, &mut effects);
            }
        }
        // As long as the other process hangs, no connection waits for it.
        self.give_back_queue(&mut effects);
        self.pump(now, &mut effects);
        effects
    }

    /// The other process is dead, or this one serves again: everything that does not belong to the other
    /// stays here.
    pub fn end(&mut self) -> Vec<OutboundEffect> {
        if self.to == Destination::None {
            return Vec::new();
        }
        self.to = Destination::None;
        let mut effects = vec![OutboundEffect::Accepted(Vec::new())];
        self.abandoned.extend(mem::take(&mut self.late).into_iter().map(|batch| (batch, true)));
        for (batch, InFlight { ids, .. }) in mem::take(&mut self.in_flight) {
            self.abandoned.insert(batch, false);
            give_back(ids, &mut effects);
        }
        self.give_back_queue(&mut effects);
        effects
    }

    /// As [`Self::end`], when nothing that the other process says is believed any more, although it lives: it
    /// is told to close its copies.
    pub fn withdraw(&mut self) -> Vec<OutboundEffect> {
        let batches: Vec<u32> = self.in_flight.keys().copied().collect();
        let abort = |batch| OutboundEffect::Send(Message::Abort { batch });
        let mut effects: Vec<_> = batches.into_iter().map(abort).collect();
        effects.extend(self.end());
        self.abandoned.values_mut().for_each(|told| *told = true);
        effects
    }

    /// Whether an answer to this batch may still come, though everything was taken back.
    pub(crate) fn has_abandoned(&self, batch: u32) -> bool {
        self.abandoned.contains_key(&batch)
    }

    /// Sends what fits into the window. A process that hangs gets nothing more until it has answered.
    fn pump(&mut self, now: Instant, effects: &mut Vec<OutboundEffect>) {
        while self.in_flight.len() < WINDOW && !self.is_stalled() && !self.queue.is_empty() {
            let ids = self.next_batch();
            self.last += 1;
            let batch = self.last;
            self.in_flight.insert(batch, InFlight { ids: ids.clone(), until: after(now, self.patience) });
            effects.push(OutboundEffect::Prepare { batch, ids });
        }
        if self.to == Destination::Quiescing && self.in_flight.is_empty() {
            self.to = Destination::Quiesced;
            effects.push(OutboundEffect::Send(Message::Quiesced));
        }
    }

    /// As many as fit into one message; at least one.
    fn next_batch(&mut self) -> Vec<u64> {
        let mut ids = Vec::with_capacity(self.queue.len().min(MAX_BATCH));
        let (mut bytes, mut descriptors) = (0_usize, 0_usize);
        while let Some(next) = self.queue.front() {
            bytes = bytes.saturating_add(next.bytes);
            descriptors = descriptors.saturating_add(next.descriptors);
            if (descriptors > MAX_BATCH || bytes > MAX_BATCH_STATE) && !ids.is_empty() {
                break;
            }
            ids.push(next.id);
            self.queue.pop_front();
        }
        ids
    }

    fn give_back_queue(&mut self, effects: &mut Vec<OutboundEffect>) {
        give_back(mem::take(&mut self.queue).into_iter().map(|leaving| leaving.id).collect(), effects);
    }
}

fn give_back(ids: Vec<u64>, effects: &mut Vec<OutboundEffect>) {
    if !ids.is_empty() {
        effects.push(OutboundEffect::Return(ids));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);

    #[allow(clippy::disallowed_methods, reason = "one origin for virtual time")]
    fn origin() -> Instant {
        Instant::now()
    }

    fn kinds() -> Vec<ConnectionKind> {
        vec![ConnectionKind::new("http/1.1", None)]
    }

    fn leaving(ids: std::ops::Range<u64>) -> Vec<Leaving> {
        ids.map(|id| Leaving { id, bytes: 0, descriptors: 1 }).collect()
    }

    fn draining() -> (Instant, Outbound) {
        let mut outbound = Outbound::new(PATIENCE);
        assert_eq!(outbound.begin(Some(kinds())), [OutboundEffect::Accepted(kinds())]);
        (origin(), outbound)
    }

    fn abort(batch: u32) -> OutboundEffect {
        OutboundEffect::Send(Message::Abort { batch })
    }

    fn prepare(batch: u32, ids: std::ops::Range<u64>) -> OutboundEffect {
        OutboundEffect::Prepare { batch, ids: ids.collect() }
    }

    #[test]
    fn our_copies_are_closed_before_the_commit() {
        let (now, mut outbound) = draining();
        assert_eq!(outbound.leave(now, leaving(1..4)), [prepare(1, 1..4)]);
        assert!(!outbound.is_idle());
        let effects = outbound.prepared(now, 1, &[2]).unwrap();
        let commit = OutboundEffect::Send(Message::Commit { batch: 1 });
        assert_eq!(effects, [OutboundEffect::Migrated(vec![1, 3]), commit, OutboundEffect::Return(vec![2])]);
        assert!(outbound.is_idle());
    }

    #[test]
    fn a_process_that_hangs_loses_the_batch_and_is_told_first() {
        let (now, mut outbound) = draining();
        outbound.leave(now, leaving(1..3));
        let late = [OutboundEffect::Stalled, abort(1), OutboundEffect::Return(vec![1, 2])];
        assert_eq!(outbound.tick(now + PATIENCE), late);
        assert!(outbound.is_stalled() && outbound.is_idle());
        assert_eq!(
            outbound.prepared(now + PATIENCE, 1, &[]).unwrap(),
            [OutboundEffect::Accepted(kinds())],
            "it answers again"
        );
        assert_eq!(outbound.leave(now, leaving(1..3)), [prepare(2, 1..3)]);
    }

    /// It may be another process, which owes no answer. If it is the same one, connections wait for it once
    /// more, and no longer than before; an answer from before counts as it would have.
    #[test]
    fn what_is_accepted_anew_says_nothing_about_what_is_on_its_way() {
        let (now, mut outbound) = draining();
        let accepted = [OutboundEffect::Accepted(kinds())];
        outbound.leave(now, leaving(1..2));
        assert_eq!(outbound.accepts(now, kinds()), accepted);
        assert_eq!(outbound.leave(now, leaving(2..3)), [prepare(2, 2..3)]);
        assert_eq!(outbound.prepared(now, 1, &[]).unwrap()[0], OutboundEffect::Migrated(vec![1]));
        let late = now + PATIENCE;
        assert_eq!(outbound.tick(late), [OutboundEffect::Stalled, abort(2), OutboundEffect::Return(vec![2])]);
        assert_eq!(outbound.accepts(late, kinds()), accepted);
        assert_eq!(outbound.leave(late, leaving(2..4)), [prepare(3, 2..4)]);
        assert_eq!(outbound.prepared(late, 2, &[]).unwrap(), [], "it was taken back");
        assert_eq!(outbound.prepared(late, 3, &[]).unwrap()[0], OutboundEffect::Migrated(vec![2, 3]));
        assert!(outbound.is_idle() && outbound.deadline().is_none());
    }

    /// This process has slept, and the other one has stopped to count on an answer.
    #[test]
    fn an_answer_that_comes_too_late_is_none() {
        let (now, mut outbound) = draining();
        outbound.leave(now, leaving(1..3));
        let effects = outbound.prepared(now + PATIENCE, 1, &[]).unwrap();
        assert!(effects.contains(&abort(1)) && effects.contains(&OutboundEffect::Return(vec![1, 2])));
        assert!(!effects.iter().any(|effect| matches!(effect, OutboundEffect::Migrated(_))), "{effects:?}");
    }

    #[test]
    fn no_connection_waits_for_a_process_that_hangs() {
        let (now, mut outbound) = draining();
        for batch in 0..4 {
            outbound.leave(now, leaving(batch..batch + 1));
        }
        assert_eq!(outbound.leave(now, leaving(9..10)), [], "the window is full");
        let effects = outbound.tick(now + PATIENCE);
        assert_eq!(effects.last(), Some(&OutboundEffect::Return(vec![9])));
        assert_eq!(outbound.leave(now, leaving(7..9)), [OutboundEffect::Return(vec![7, 8])]);
    }

    #[test]
    fn patience_without_end() {
        let mut outbound = Outbound::new(Duration::MAX);
        outbound.begin(Some(kinds()));
        outbound.leave(origin(), leaving(1..2));
        assert!(outbound.deadline().is_some_and(|deadline| outbound.tick(deadline - PATIENCE).is_empty()));
    }

    #[test]
    fn a_dead_process_has_what_was_committed_and_nothing_else() {
        let (now, mut outbound) = draining();
        outbound.leave(now, leaving(1..3));
        outbound.leave(now, leaving(3..5));
        outbound.prepared(now, 1, &[]).unwrap();
        let none = OutboundEffect::Accepted(Vec::new());
        assert_eq!(outbound.end(), [none, OutboundEffect::Return(vec![3, 4])]);
        assert_eq!(outbound.leave(now, leaving(3..5)), [OutboundEffect::Return(vec![3, 4])]);
    }

    /// The process that serves died, and another one reads what was on its way to it.
    #[test]
    fn what_was_taken_back_from_the_dead_is_taken_back_from_its_successor() {
        let (now, mut outbound) = draining();
        outbound.leave(now, leaving(1..3));
        outbound.end();
        assert_eq!(outbound.begin(Some(kinds())), [abort(1), OutboundEffect::Accepted(kinds())]);
        assert_eq!(outbound.prepared(now, 1, &[]).unwrap(), [], "it was told");
        assert!(outbound.prepared(now, 1, &[]).is_err(), "twice");
    }

    /// It was hanging, died, and the process that reads the link now owes no answer.
    #[test]
    fn another_process_does_not_answer_for_the_one_that_hung() {
        let (now, mut outbound) = draining();
        outbound.leave(now, leaving(1..3));
        outbound.tick(now + PATIENCE);
        outbound.accepts(now + PATIENCE, kinds());
        assert_eq!(outbound.leave(now + PATIENCE, leaving(1..3)), [prepare(2, 1..3)]);
        assert_eq!(outbound.prepared(now + PATIENCE, 1, &[]).unwrap(), [], "it was told");
    }

    #[test]
    fn the_numbers_go_on_after_everything_was_taken_back() {
        let (now, mut outbound) = draining();
        outbound.leave(now, leaving(1..2));
        outbound.end();
        outbound.begin(Some(kinds()));
        assert_eq!(outbound.leave(now, leaving(1..2)), [prepare(2, 1..2)]);
    }

    #[test]
    fn it_quiesces_when_nothing_is_on_its_way() {
        let (now, mut outbound) = draining();
        for id in 1..=5 {
            outbound.leave(now, leaving(id..id + 1));
        }
        let pause = [OutboundEffect::Pause, OutboundEffect::Return(vec![5])];
        assert_eq!(outbound.quiesce(now), pause, "four are on their way");
        assert_eq!(outbound.leave(now, leaving(6..7)), [OutboundEffect::Return(vec![6])]);
        let quiesced = OutboundEffect::Send(Message::Quiesced);
        for batch in 1..=3 {
            assert!(!outbound.prepared(now, batch, &[]).unwrap().contains(&quiesced));
        }
        assert!(outbound.tick(now + PATIENCE).contains(&quiesced), "the last one is taken back");
        assert_eq!(outbound.accepts(now, kinds()), [OutboundEffect::Accepted(kinds())]);
    }

    #[test]
    fn a_process_that_is_not_believed_is_told_to_close_its_copies() {
        let (now, mut outbound) = draining();
        outbound.leave(now, leaving(1..3));
        let none = OutboundEffect::Accepted(Vec::new());
        assert_eq!(outbound.withdraw(), [abort(1), none, OutboundEffect::Return(vec![1, 2])]);
        assert!(outbound.accepts(now, kinds()).is_empty() && outbound.quiesce(now).is_empty());
    }

    #[test]
    fn batches_are_as_large_as_a_message_may_be() {
        let (now, mut outbound) = draining();
        let large = |id| Leaving { id, bytes: MAX_BATCH_STATE / 2 + 1, descriptors: 1 };
        assert_eq!(outbound.leave(now, vec![large(1), large(2)]), [prepare(1, 1..2), prepare(2, 2..3)]);
        let most = u64::try_from(MAX_BATCH).unwrap();
        let effects = outbound.leave(now, leaving(10..most + 11));
        assert_eq!(effects, [prepare(3, 10..most + 10), prepare(4, most + 10..most + 11)]);
        let (now, mut outbound) = draining();
        let half = |id| Leaving { id, bytes: MAX_BATCH_STATE / 2, descriptors: 1 };
        assert_eq!(outbound.leave(now, vec![half(1), half(2)]), [prepare(1, 1..3)]);
        let relayed = (10..most + 10).map(|id| Leaving { id, bytes: 0, descriptors: 2 }).collect();
        let half = 10 + most / 2;
        assert_eq!(outbound.leave(now, relayed), [prepare(2, 10..half), prepare(3, half..most + 10)]);
    }

    #[test]
    fn the_window_bounds_what_is_on_its_way() {
        let (now, mut outbound) = draining();
        for _ in 0..WINDOW {
            assert_eq!(outbound.leave(now, leaving(1..2)).len(), 1);
        }
        assert_eq!(outbound.leave(now, leaving(1..2)), []);
        assert!(outbound.prepared(now, 9, &[]).is_err(), "it is not on its way");
    }

    /// Each rollback takes back a full window, and the process that serves answers to none of them.
    #[test]
    fn answers_to_the_batches_of_eight_rollbacks_may_still_come() {
        let (now, mut outbound) = draining();
        for _ in 0..9 {
            for id in 1..=4 {
                outbound.leave(now, leaving(id..id + 1));
            }
            outbound.end();
            outbound.begin(Some(kinds()));
        }
        assert!(!outbound.has_abandoned(4), "a process that never answers is not waited for without limit");
        for batch in 5..=36 {
            assert!(outbound.has_abandoned(batch));
            assert_eq!(outbound.prepared(now, batch, &[]).unwrap(), [], "it was told to close batch {batch}");
        }
    }
}
