//! The move of live connections from a process that drains to the one that serves.
//!
//! Deliberately absent: the descriptors, and what the connections carry; the caller keeps both by connection id.
//!
//! ```text
//! mover (drains)                            taker (serves)
//!   |<------------------------ takes {kinds} |
//!   | move {batch, items}+fds -------------->|  checks and holds them, touches none
//!   |<--------------- held {batch, refused}  |
//!   | yours {batch} ------------------------>|  serves them from here on
//!   | back {batch} ------------------------->|  or drops its copies: the mover has them again
//! ```
//!
//! A connection has exactly one server at every moment, whoever dies or hangs. The mover does not touch what it has sent;
//! the taker does not touch what it was not given. If the taker dies before `yours`, the mover goes on with its copies;
//! if it dies after, it was the taker's. If the mover dies before `yours`, the taker has the only copies left and serves
//! them. If the taker hangs, the mover takes the batch back and says so first.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::text::ShortText;
use serde::{Deserialize, Serialize};

use crate::error::Fault;
use crate::inventory::ConnectionRow;
use crate::message::Message;
use crate::timing::after;

/// The most connections in one batch: as many as a message may own descriptors. On a busy machine it is the wait for each
/// other's turn that costs time, and large batches need few turns.
pub const MAX_BATCH: usize = crate::message::MAX_DESCRIPTORS;

/// The most bytes of state in one batch, so that the message stays below its limit even if every byte needs an escape.
pub const MAX_BATCH_STATE: usize = 128 * 1024;

/// Batches on their way at the same time: at most 1,000 descriptors are in flight, which every user may have (unix(7): as
/// many as the soft `RLIMIT_NOFILE`, 1,024 by default).
pub const WINDOW: usize = 4;

/// A kind of connection that the serving process takes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ConnectionKind {
    /// What the connection carries: `http/1.1`, or a word of the application.
    pub kind: String,
    /// Only from the listener of this name; from any if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listener: Option<String>,
}

/// A connection that moves.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MigrationItem {
    /// What is known of it; its history continues.
    pub row: ConnectionRow,
    /// Who picks it up.
    pub kind: ShortText,
    /// `SO_COOKIE` (socket(7)): the kernel's number of the socket.
    pub cookie: u64,
    /// What its owner has to know, one character for each byte.
    pub state: String,
}

/// What is to be done by the mover, in this order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum OutboundEffect {
    /// Say this to the taker.
    Send(Message),
    /// These are the taker's now: close our copies, without `shutdown(2)`.
    Moved(Vec<u64>),
    /// These did not move: go on serving them.
    Return(Vec<u64>),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct InFlight {
    ids: Vec<u64>,
    until: Instant,
}

/// The side that gives connections away.
///
/// Call [`Outbound::offer`] while [`Outbound::has_room`], [`Outbound::held`] with what the taker says, [`Outbound::tick`] when
/// [`Outbound::deadline`] has passed, and [`Outbound::closed`] when the taker is dead.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Outbound {
    patience: Duration,
    last: u32,
    in_flight: BTreeMap<u32, InFlight>,
    taken_back: BTreeSet<u32>,
    /// Batches whose answer was due when everything was taken back, and whether the taker was told before.
    abandoned: BTreeMap<u32, bool>,
}

impl Outbound {
    /// A mover that waits this long for each `held`.
    #[must_use]
    pub fn new(patience: Duration) -> Self {
        let (taken_back, abandoned) = (BTreeSet::new(), BTreeMap::new());
        Self { patience, last: 0, in_flight: BTreeMap::new(), taken_back, abandoned }
    }

    /// Whether another batch may be offered. A taker that hangs gets nothing more until it has answered.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.in_flight.len() < WINDOW && self.taken_back.is_empty()
    }

    /// Whether the taker did not answer in time and has not answered since.
    #[must_use]
    pub fn is_stuck(&self) -> bool {
        !self.taken_back.is_empty()
    }

    /// Whether nothing is on its way.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// When to call [`Self::tick`].
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.in_flight.values().map(|batch| batch.until).min()
    }

    /// Sends these connections; nobody touches them until they are moved or returned.
    pub fn offer(&mut self, now: Instant, items: Vec<MigrationItem>) -> Vec<OutboundEffect> {
        self.last += 1;
        let batch = self.last;
        let ids = items.iter().map(|item| item.row.id).collect();
        self.in_flight.insert(batch, InFlight { ids, until: after(now, self.patience) });
        vec![OutboundEffect::Send(Message::Prepare { batch, items })]
    }

    /// The taker holds a batch, except for these.
    ///
    /// # Errors
    /// [`Fault::PeerMisbehaved`] if it cannot hold that.
    pub fn held(&mut self, batch: u32, refused: &[u64]) -> Result<Vec<OutboundEffect>, Fault> {
        if self.taken_back.remove(&batch) {
            return Ok(Vec::new());
        }
        // Whoever reads the link now holds what another was to have.
        if let Some(told) = self.abandoned.remove(&batch) {
            let back = (!told).then_some(OutboundEffect::Send(Message::Abort { batch }));
            return Ok(back.into_iter().collect());
        }
        let Some(InFlight { ids, .. }) = self.in_flight.remove(&batch) else {
            return Err(Fault::PeerMisbehaved(format!(
                "holds batch {batch} of connections, which is not on its way"
            )));
        };
        let (refused, moved) = ids.into_iter().partition(|id| refused.contains(id));
        Ok(vec![
            // First our copies, then the word: the taker never shares a connection.
            OutboundEffect::Moved(moved),
            OutboundEffect::Send(Message::Commit { batch }),
            OutboundEffect::Return(refused),
        ])
    }

    /// Time has passed. The word that a batch is taken back goes out before its connections are touched, so that the
    /// taker reads it even if we die then.
    pub fn tick(&mut self, now: Instant) -> Vec<OutboundEffect> {
        let late: Vec<u32> =
            self.in_flight.iter().filter(|(_, b)| now >= b.until).map(|(batch, _)| *batch).collect();
        let mut effects = Vec::new();
        for batch in late {
            if let Some(InFlight { ids, .. }) = self.in_flight.remove(&batch) {
                self.taken_back.insert(batch);
                effects.extend([OutboundEffect::Send(Message::Abort { batch }), OutboundEffect::Return(ids)]);
            }
        }
        effects
    }

    /// The taker is dead, or nothing it says is believed any more, or this process serves again. Batches that are offered
    /// later go on with the next number.
    pub fn closed(&mut self) -> Vec<OutboundEffect> {
        self.abandoned.extend(std::mem::take(&mut self.taken_back).into_iter().map(|batch| (batch, true)));
        self.abandoned.extend(self.in_flight.keys().map(|batch| (*batch, false)));
        std::mem::take(&mut self.in_flight)
            .into_values()
            .map(|batch| OutboundEffect::Return(batch.ids))
            .collect()
    }
}

/// What is to be done by the taker, in this order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum InboundEffect {
    /// Say this to the mover.
    Send(Message),
    /// Serve the connections of this batch.
    Serve(u32),
    /// Close our copies of this batch, without `shutdown(2)`.
    Drop(u32),
}

/// The side that receives connections, one for each mover.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Inbound {
    /// The first batch may have any number: the mover may have moved others, to the process that served before.
    first: Option<u32>,
    last: Option<u32>,
    held: BTreeSet<u32>,
}

impl Inbound {
    /// A batch arrived and was looked at; these are not taken.
    ///
    /// # Errors
    /// [`Fault::PeerMisbehaved`] for a batch out of order, or more of them than the window allows.
    pub fn arrived(&mut self, batch: u32, refused: Vec<u64>) -> Result<Vec<InboundEffect>, Fault> {
        if let Some(last) = self.last
            && last.checked_add(1) != Some(batch)
        {
            return Err(Fault::PeerMisbehaved(format!("moved batch {batch} after batch {last}")));
        }
        if self.held.len() >= WINDOW {
            return Err(Fault::PeerMisbehaved(format!("moved more than {WINDOW} batches at once")));
        }
        self.first.get_or_insert(batch);
        self.last = Some(batch);
        self.held.insert(batch);
        Ok(vec![InboundEffect::Send(Message::Prepared { batch, refused })])
    }

    /// The mover has let go of a batch.
    ///
    /// # Errors
    /// [`Fault::PeerMisbehaved`] if it is not held.
    pub fn given(&mut self, batch: u32) -> Result<Vec<InboundEffect>, Fault> {
        Ok(self.settle(batch)?.then_some(InboundEffect::Serve(batch)).into_iter().collect())
    }

    /// The mover has taken a batch back.
    ///
    /// # Errors
    /// [`Fault::PeerMisbehaved`] if it is not held.
    pub fn taken_back(&mut self, batch: u32) -> Result<Vec<InboundEffect>, Fault> {
        Ok(self.settle(batch)?.then_some(InboundEffect::Drop(batch)).into_iter().collect())
    }

    /// The mover is dead: what is held here has no other server.
    pub fn closed(&mut self) -> Vec<InboundEffect> {
        std::mem::take(&mut self.held).into_iter().map(InboundEffect::Serve).collect()
    }

    /// Whether it was held. What went to the process that served before, and died, was held there.
    fn settle(&mut self, batch: u32) -> Result<bool, Fault> {
        if self.held.remove(&batch) {
            return Ok(true);
        }
        if self.first.is_none_or(|first| batch < first) {
            return Ok(false);
        }
        Err(Fault::PeerMisbehaved(format!("spoke of batch {batch} of connections, which is not held")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::ConnectionState;

    const PATIENCE: Duration = Duration::from_secs(5);

    #[allow(clippy::disallowed_methods, reason = "one origin for virtual time")]
    fn origin() -> Instant {
        Instant::now()
    }

    fn items(ids: std::ops::Range<u64>) -> Vec<MigrationItem> {
        let row = |id| ConnectionRow {
            id,
            listener: "http".into(),
            peer: "127.0.0.1:1".into(),
            local: "127.0.0.1:2".into(),
            protocol: "http/1.1".into(),
            age_ms: 0,
            requests: 0,
            state: ConnectionState::Idle,
        };
        ids.map(|id| MigrationItem {
            row: row(id),
            kind: "http/1.1".into(),
            cookie: id,
            state: String::new(),
        })
        .collect()
    }

    #[test]
    fn the_mover_lets_go_before_it_says_so() {
        let mut mover = Outbound::new(PATIENCE);
        mover.offer(origin(), items(1..4));
        let effects = mover.held(1, &[2]).unwrap();
        let yours = OutboundEffect::Send(Message::Commit { batch: 1 });
        assert_eq!(effects, [OutboundEffect::Moved(vec![1, 3]), yours, OutboundEffect::Return(vec![2])]);
        assert!(mover.is_idle());
    }

    #[test]
    fn a_taker_that_hangs_loses_the_batch_and_is_told() {
        let (now, mut mover) = (origin(), Outbound::new(PATIENCE));
        mover.offer(now, items(1..3));
        let back = OutboundEffect::Send(Message::Abort { batch: 1 });
        assert_eq!(mover.tick(now + PATIENCE), [back, OutboundEffect::Return(vec![1, 2])]);
        assert!(!mover.has_room() && mover.is_stuck());
        assert_eq!(mover.held(1, &[]).unwrap(), []);
        assert!(mover.has_room());
    }

    #[test]
    fn patience_without_end() {
        let mut mover = Outbound::new(Duration::MAX);
        mover.offer(origin(), items(1..2));
        assert!(mover.deadline().is_some_and(|deadline| mover.tick(deadline - PATIENCE).is_empty()));
    }

    #[test]
    fn a_dead_taker_has_what_was_given_and_nothing_else() {
        let (now, mut mover) = (origin(), Outbound::new(PATIENCE));
        mover.offer(now, items(1..3));
        mover.offer(now, items(3..5));
        mover.held(1, &[]).unwrap();
        assert_eq!(mover.closed(), [OutboundEffect::Return(vec![3, 4])]);
    }

    /// The process that serves died, and another one reads what was on its way to it.
    #[test]
    fn what_was_taken_back_from_the_dead_is_taken_back_from_its_heir() {
        let (now, mut mover) = (origin(), Outbound::new(PATIENCE));
        mover.offer(now, items(1..3));
        assert_eq!(mover.closed(), [OutboundEffect::Return(vec![1, 2])]);
        let back = OutboundEffect::Send(Message::Abort { batch: 1 });
        assert_eq!(mover.held(1, &[]).unwrap(), [back]);
        assert!(mover.held(1, &[]).is_err(), "twice");
    }

    /// Its end of the link was passed on, and with it what was said to a process that died.
    #[test]
    fn what_another_taker_held_is_not_ours() {
        let mut taker = Inbound::default();
        assert_eq!(taker.given(1).unwrap(), []);
        taker.arrived(3, vec![]).unwrap();
        assert_eq!(taker.taken_back(2).unwrap(), []);
        assert_eq!(taker.given(3).unwrap(), [InboundEffect::Serve(3)]);
        assert!(taker.given(3).is_err(), "twice");
    }

    /// The taker may be the same one afterwards: a rollback that failed.
    #[test]
    fn the_numbers_go_on_after_everything_was_taken_back() {
        let (now, mut mover, mut taker) = (origin(), Outbound::new(PATIENCE), Inbound::default());
        let mut move_one = |mover: &mut Outbound| {
            let effects = mover.offer(now, items(1..2));
            let [OutboundEffect::Send(Message::Prepare { batch, .. })] = effects[..] else {
                panic!("{effects:?}")
            };
            taker.arrived(batch, vec![]).unwrap();
            taker.given(batch).unwrap();
            batch
        };
        let first = move_one(&mut mover);
        mover.held(first, &[]).unwrap();
        mover.closed();
        assert_eq!(move_one(&mut mover), first + 1);
    }

    #[test]
    fn a_dead_mover_leaves_what_is_held() {
        let mut taker = Inbound::default();
        taker.arrived(1, vec![]).unwrap();
        taker.arrived(2, vec![]).unwrap();
        assert_eq!(taker.given(1).unwrap(), [InboundEffect::Serve(1)]);
        assert_eq!(taker.closed(), [InboundEffect::Serve(2)]);
    }

    #[test]
    fn nonsense_is_misbehaviour() {
        let mut mover = Outbound::new(PATIENCE);
        assert!(mover.held(1, &[]).is_err());
        let mut taker = Inbound::default();
        for batch in 7..=10 {
            taker.arrived(batch, vec![]).unwrap();
        }
        assert!(taker.given(11).is_err() && taker.taken_back(11).is_err());
        assert!(taker.arrived(11, vec![]).is_err(), "more than the window");
        taker.given(7).unwrap();
        assert!(taker.arrived(12, vec![]).is_err(), "batches come in order");
        taker.arrived(11, vec![]).unwrap();
    }

    #[test]
    fn the_window_bounds_what_is_on_its_way() {
        let (now, mut mover) = (origin(), Outbound::new(PATIENCE));
        for batch in 0..u64::try_from(WINDOW).unwrap() {
            assert!(mover.has_room());
            mover.offer(now, items(batch..batch + 1));
        }
        assert!(!mover.has_room());
    }
}
