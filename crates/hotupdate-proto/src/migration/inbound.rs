//! The side that takes connections: a process that serves, and one of its predecessors migrates connections
//! to it.

use std::collections::BTreeMap;
use std::mem;
use std::time::{Duration, Instant};

use super::{ConnectionKind, MigrationItem, WINDOW};
use crate::message::Message;
use crate::timing::after;

/// What is to be done about connections of a predecessor, in this order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum InboundEffect {
    /// Say this to the predecessor.
    Send(Message),
    /// Check the descriptors of a batch, and hold them without touching the connections; then
    /// [`Inbound::inspected`].
    Inspect {
        /// The number of the batch.
        batch: u32,
        /// The connections, in the order of their descriptors.
        items: Vec<MigrationItem>,
    },
    /// The connections of this batch belong to this process: serve them.
    Serve(u32),
    /// Close our copies of this batch, without `shutdown(2)`.
    Discard(u32),
}

/// What the predecessor was told last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Told {
    /// Nothing: it may send nothing.
    #[default]
    Nothing,
    /// What this process accepts.
    Accepts,
    /// To say when nothing is on its way, which is waited for.
    Quiesce,
    /// The same, and it is not waited for: it has answered, or it hangs.
    Paused,
}

/// The side that takes connections, one for each predecessor.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Inbound {
    told: Told,
    /// The predecessor did not say `quiesced` in time, and has not said it since.
    was_late: bool,
    /// The first batch may have any number: earlier ones may have gone to the process that served before.
    first: Option<u32>,
    last: Option<u32>,
    /// When the last batch arrived.
    arrived: Option<Instant>,
    held: BTreeMap<u32, Held>,
}

/// A batch that is not committed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Held {
    /// The kernel's numbers of its sockets, in their order.
    cookies: Vec<u64>,
    /// Its connections, if all of them are to stay where they are. They are held all the same until the
    /// predecessor knows: if it is dead, they have no other server.
    refused: Option<Vec<u64>>,
}

impl Inbound {
    /// Whether the predecessor has to say `quiesced` before the accept loops stop.
    #[must_use]
    pub fn is_awaited(&self) -> bool {
        self.told == Told::Quiesce
    }

    /// Whether some batch is held and not committed.
    #[must_use]
    pub fn holds(&self) -> bool {
        !self.held.is_empty()
    }

    /// Whether the predecessor missed the deadline `quiesce` the last time that it was asked.
    #[must_use]
    pub fn was_late(&self) -> bool {
        self.was_late
    }

    /// The predecessor knows what this process accepts: it came with `ready`, or with `serving`.
    pub fn is_told(&mut self) {
        self.told = Told::Accepts;
    }

    /// Tells the predecessor what this process accepts, unless it knows.
    pub fn announce(&mut self, kinds: &[ConnectionKind]) -> Vec<InboundEffect> {
        if mem::replace(&mut self.told, Told::Accepts) == Told::Accepts {
            return Vec::new();
        }
        vec![InboundEffect::Send(Message::Accepts { kinds: kinds.to_vec() })]
    }

    /// The accept loops are about to stop, and then nothing of the predecessor can be answered: it has to
    /// finish what is under way. One that hung the last time is not waited for, once it would take back what
    /// it offered as the first thing that it does.
    pub fn quiesce(&mut self, now: Instant, expires: Duration) -> Vec<InboundEffect> {
        if self.told == Told::Nothing {
            return Vec::new();
        }
        if self.was_late && !self.may_be_committed(now, expires) {
            self.told = Told::Paused;
            return Vec::new();
        }
        self.told = Told::Quiesce;
        vec![InboundEffect::Send(Message::Quiesce)]
    }

    /// Whether something is held that the predecessor could still commit: if that was not heard here, the
    /// connections would be lost.
    fn may_be_committed(&self, now: Instant, expires: Duration) -> bool {
        self.committable_until(expires).is_some_and(|until| now < until)
    }

    /// Until when the predecessor could commit what is held here, if anything is.
    #[must_use]
    pub fn committable_until(&self, expires: Duration) -> Option<Instant> {
        self.arrived.filter(|_| self.holds()).map(|at| after(at, expires))
    }

    /// The predecessor said `quiesced`: no batch is on its way.
    pub fn quiesced(&mut self) {
        self.was_late = false;
        if self.told == Told::Quiesce {
            // Nothing comes before it is told again what is accepted.
            self.told = Told::Paused;
        }
    }

    /// The deadline `quiesce` passed before the predecessor said `quiesced`.
    pub fn is_late(&mut self) {
        if self.is_awaited() {
            (self.told, self.was_late) = (Told::Paused, true);
        }
    }

    /// A batch arrived.
    ///
    /// # Errors
    /// One line that says what is wrong with the batch: it was not asked for, is out of order, is more than
    /// the window allows, or brings a connection that is here already.
    pub fn prepare(
        &mut self,
        now: Instant,
        batch: u32,
        items: Vec<MigrationItem>,
    ) -> Result<Vec<InboundEffect>, String> {
        if self.told == Told::Nothing {
            return Err("moved connections that were not asked for".to_owned());
        }
        if let Some(last) = self.last
            && last.checked_add(1) != Some(batch)
        {
            return Err(format!("moved batch {batch} after batch {last}"));
        }
        if self.held.len() >= WINDOW {
            return Err(format!("moved more than {WINDOW} batches at once"));
        }
        let mut cookies: Vec<_> = items.iter().map(|item| item.cookie).collect();
        cookies.sort_unstable();
        let is_held = |cookie| self.held.values().any(|held| held.cookies.binary_search(cookie).is_ok());
        let again = cookies.windows(2).find(|two| two[0] == two[1]).map(|two| &two[0]);
        if let Some(twice) = again.or_else(|| cookies.iter().find(|cookie| is_held(cookie))) {
            let item = items.iter().rfind(|item| item.cookie == *twice);
            return Err(format!("moved connection {} twice", item.map_or(0, |item| item.id)));
        }
        self.first.get_or_insert(batch);
        (self.last, self.arrived) = (Some(batch), Some(now));
        // A process that has woken is not waited for: the next one would hear what becomes of this, and does
        // not hold it.
        let refuses = self.told == Told::Paused;
        let refused = refuses.then(|| items.iter().map(|item| item.id).collect());
        self.held.insert(batch, Held { cookies, refused });
        Ok(vec![InboundEffect::Inspect { batch, items }])
    }

    /// The descriptors of a batch are checked, and held except for those of these connections.
    pub fn inspected(&self, batch: u32, refused: Vec<u64>) -> Vec<InboundEffect> {
        let Some(held) = self.held.get(&batch) else { return Vec::new() };
        let refused = held.refused.clone().unwrap_or(refused);
        vec![InboundEffect::Send(Message::Prepared { batch, refused })]
    }

    /// The predecessor has let go of a batch.
    ///
    /// # Errors
    /// One line that says so, if the batch is not held.
    pub fn commit(&mut self, batch: u32) -> Result<Vec<InboundEffect>, String> {
        let serve = |held: Held| match held.refused {
            Some(_) => InboundEffect::Discard(batch),
            None => InboundEffect::Serve(batch),
        };
        Ok(self.release(batch)?.map(serve).into_iter().collect())
    }

    /// The predecessor serves a batch again.
    ///
    /// # Errors
    /// One line that says so, if the batch is not held.
    pub fn abort(&mut self, batch: u32) -> Result<Vec<InboundEffect>, String> {
        Ok(self.release(batch)?.map(|_| InboundEffect::Discard(batch)).into_iter().collect())
    }

    /// The predecessor is dead: what is held here has no other server.
    pub fn closed(&mut self) -> Vec<InboundEffect> {
        mem::take(self).held.into_keys().map(InboundEffect::Serve).collect()
    }

    /// The predecessor is not believed any more, or another process reads its link, or did.
    pub fn forget(&mut self) -> Vec<InboundEffect> {
        let Self { was_late, .. } = *self;
        let forgotten = mem::replace(self, Self { was_late, ..Self::default() });
        forgotten.held.into_keys().map(InboundEffect::Discard).collect()
    }

    /// What was held, if it was here. What went to the process that served before, and died, was held there.
    fn release(&mut self, batch: u32) -> Result<Option<Held>, String> {
        if let Some(held) = self.held.remove(&batch) {
            return Ok(Some(held));
        }
        if self.first.is_none_or(|first| batch < first) {
            return Ok(None);
        }
        Err(format!("spoke of batch {batch} of connections, which is not held"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    const EXPIRES: Duration = Duration::from_secs(10);

    #[allow(clippy::disallowed_methods, reason = "one origin for virtual time")]
    fn origin() -> Instant {
        Instant::now()
    }

    fn kinds() -> Vec<ConnectionKind> {
        vec![ConnectionKind::new("http/1.1", None)]
    }

    /// Connections whose sockets have the same numbers.
    fn items(ids: &[u64]) -> Vec<MigrationItem> {
        let item = |&id: &u64| MigrationItem { id, cookie: id, ..MigrationItem::default() };
        ids.iter().map(item).collect()
    }

    /// The predecessor knows what is accepted.
    fn accepting() -> (Instant, Inbound) {
        let mut inbound = Inbound::default();
        let accepts = InboundEffect::Send(Message::Accepts { kinds: kinds() });
        assert_eq!(inbound.announce(&kinds()), [accepts]);
        (origin(), inbound)
    }

    fn prepared(batch: u32, refused: &[u64]) -> InboundEffect {
        InboundEffect::Send(Message::Prepared { batch, refused: refused.to_vec() })
    }

    #[test]
    fn a_batch_is_served_once_it_is_committed_and_discarded_if_it_is_taken_back() {
        let (now, mut inbound) = accepting();
        assert!(!inbound.holds());
        for (batch, id) in [(1, 7), (2, 8)] {
            let inspect = InboundEffect::Inspect { batch, items: items(&[id]) };
            assert_eq!(inbound.prepare(now, batch, items(&[id])).unwrap(), [inspect]);
        }
        assert_eq!(inbound.inspected(1, vec![]), [prepared(1, &[])]);
        assert_eq!(inbound.inspected(2, vec![8]), [prepared(2, &[8])]);
        assert_eq!(inbound.commit(1).unwrap(), [InboundEffect::Serve(1)]);
        assert!(inbound.holds());
        assert_eq!(inbound.abort(2).unwrap(), [InboundEffect::Discard(2)]);
        assert!(!inbound.holds());
        assert_eq!(inbound.inspected(2, vec![]), [], "it was taken back meanwhile");
    }

    /// Batches before the first went to the process that served before, and died.
    #[test]
    fn a_batch_is_committed_and_taken_back_once() {
        let (now, mut inbound) = accepting();
        assert_eq!(inbound.commit(1).unwrap(), [], "nothing has come here");
        inbound.prepare(now, 5, items(&[7])).unwrap();
        assert_eq!((inbound.commit(4).unwrap(), inbound.abort(3).unwrap()), (vec![], vec![]));
        inbound.commit(5).unwrap();
        assert!(inbound.commit(5).is_err() && inbound.abort(5).is_err() && inbound.commit(6).is_err());
    }

    #[test]
    fn batches_come_in_order_and_only_after_they_were_asked_for() {
        assert!(Inbound::default().prepare(origin(), 1, items(&[7])).is_err());
        let (now, mut inbound) = accepting();
        inbound.prepare(now, 5, items(&[7])).unwrap();
        for batch in [4, 5, 7] {
            assert!(inbound.prepare(now, batch, items(&[8])).is_err(), "batch {batch} after batch 5");
        }
        inbound.prepare(now, 6, items(&[8])).unwrap();
    }

    #[test]
    fn a_connection_is_held_once() {
        let (now, mut inbound) = accepting();
        assert!(inbound.prepare(now, 1, items(&[7, 7])).is_err());
        inbound.prepare(now, 1, items(&[7, 8])).unwrap();
        assert!(inbound.prepare(now, 2, items(&[8])).is_err());
        inbound.abort(1).unwrap();
        inbound.prepare(now, 2, items(&[8])).unwrap();
    }

    #[test]
    fn no_more_is_held_than_the_window_allows() {
        let (now, mut inbound) = accepting();
        for batch in 1..=4 {
            inbound.prepare(now, batch, items(&[batch.into()])).unwrap();
        }
        assert!(inbound.prepare(now, 5, items(&[5])).is_err());
        inbound.commit(1).unwrap();
        inbound.prepare(now, 5, items(&[5])).unwrap();
    }

    #[test]
    fn a_predecessor_that_knows_what_is_accepted_is_not_told_again() {
        let (now, mut inbound) = accepting();
        assert_eq!(inbound.announce(&kinds()), []);
        inbound.quiesce(now, EXPIRES);
        inbound.quiesced();
        assert_eq!(inbound.announce(&kinds()).len(), 1, "its connections wait for this");
        let mut inbound = Inbound::default();
        inbound.is_told();
        assert_eq!(inbound.announce(&kinds()), [], "it came with `ready`");
    }

    #[test]
    fn a_predecessor_that_may_send_nothing_does_not_have_to_quiesce() {
        let mut inbound = Inbound::default();
        assert_eq!(inbound.quiesce(origin(), EXPIRES), []);
        inbound.is_late();
        assert!(!inbound.is_awaited() && !inbound.was_late());
    }

    #[test]
    fn one_that_hung_is_waited_for_only_while_it_may_commit_what_is_held() {
        let (now, mut inbound) = accepting();
        let quiesce = [InboundEffect::Send(Message::Quiesce)];
        inbound.prepare(now, 1, items(&[7])).unwrap();
        assert_eq!(inbound.quiesce(now, EXPIRES), quiesce);
        assert!(inbound.is_awaited() && !inbound.was_late());
        inbound.is_late();
        assert!(!inbound.is_awaited() && inbound.was_late());
        let before = EXPIRES - Duration::from_millis(1);
        assert_eq!(inbound.quiesce(now + before, EXPIRES), quiesce, "it may still commit the batch");
        assert!(inbound.is_awaited());
        assert_eq!(inbound.quiesce(now + EXPIRES, EXPIRES), [], "it takes the batch back when it wakes");
        assert!(!inbound.is_awaited());
        inbound.abort(1).unwrap();
        assert_eq!(inbound.quiesce(now, EXPIRES), [], "nothing is held");
        inbound.quiesced();
        assert!(!inbound.was_late(), "it has woken");
        assert_eq!(inbound.quiesce(now, EXPIRES), quiesce);
        inbound.quiesced();
        assert!(!inbound.is_awaited());
    }

    /// The next process would hear what becomes of the batch, and does not hold it.
    #[test]
    fn what_comes_from_one_that_was_not_waited_for_stays_where_it_is() {
        let (now, mut inbound) = accepting();
        inbound.quiesce(now, EXPIRES);
        inbound.prepare(now, 1, items(&[7])).unwrap();
        assert_eq!(inbound.inspected(1, vec![]), [prepared(1, &[])], "it was on its way");
        inbound.is_late();
        inbound.prepare(now, 2, items(&[8, 9])).unwrap();
        assert_eq!(inbound.inspected(2, vec![8]), [prepared(2, &[8, 9])]);
        assert_eq!(inbound.commit(2).unwrap(), [InboundEffect::Discard(2)]);
        assert_eq!(inbound.commit(1).unwrap(), [InboundEffect::Serve(1)]);
    }

    /// An answer to an earlier question, which has been withdrawn since.
    #[test]
    fn a_late_answer_does_not_pause_what_is_accepted_again() {
        let (now, mut inbound) = accepting();
        inbound.quiesce(now, EXPIRES);
        inbound.announce(&kinds());
        inbound.quiesced();
        inbound.prepare(now, 1, items(&[7])).unwrap();
        assert_eq!(inbound.inspected(1, vec![]), [prepared(1, &[])]);
    }

    #[test]
    fn connections_of_a_dead_predecessor_are_served_and_those_of_one_that_is_not_believed_closed() {
        let (now, mut inbound) = accepting();
        inbound.prepare(now, 1, items(&[7])).unwrap();
        let mut doubted = inbound.clone();
        assert_eq!(inbound.closed(), [InboundEffect::Serve(1)]);
        assert_eq!(inbound, Inbound::default());
        doubted.quiesce(now, EXPIRES);
        doubted.is_late();
        assert_eq!(doubted.forget(), [InboundEffect::Discard(1)]);
        assert!(doubted.was_late() && !doubted.holds(), "the next stop does not wait for it");
        assert!(doubted.prepare(now, 2, items(&[8])).is_err(), "it was not asked for");
    }
}
