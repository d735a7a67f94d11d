//! Both machines of a move, in any order and with any deaths: no connection is ever served by two or lost by a process that
//! lives. And each of them alone, with a peer that says anything.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use arbitrary::{Result, Unstructured};
use hotupdate_proto::migration::{InboundEffect, OutboundEffect, WINDOW};
use hotupdate_proto::{
    ConnectionRow, ConnectionState, Fault, Inbound, Message, MigrationItem, Outbound, ShortText,
};

use super::said;

pub(crate) fn check(bytes: &[u8]) {
    let mut u = Unstructured::new(bytes);
    let _ = play(&mut u);
}

fn play(u: &mut Unstructured<'_>) -> Result<()> {
    let patience = *u.choose(&[Duration::from_secs(5), Duration::ZERO, Duration::MAX])?;
    let mut pair = Pair::new(patience);
    while !u.is_empty() {
        pair.something_happens(u)?;
    }
    pair.comes_to_rest();
    Ok(())
}

/// Who serves a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Server {
    Outbound,
    /// It was sent: nobody touches it, or the taker does.
    OnTheWay,
    /// The taker did not want it; the mover has not heard that yet, and nobody else has it.
    Refused,
    Inbound,
}

struct Pair {
    now: Instant,
    mover: Outbound,
    taker: Inbound,
    to_taker: VecDeque<Message>,
    to_mover: VecDeque<Message>,
    servers: BTreeMap<u64, Server>,
    /// What the mover has sent and not heard of.
    sent: BTreeSet<u64>,
    /// What the taker holds, by batch.
    held: BTreeMap<u32, Vec<u64>>,
    last_id: u64,
    patience: Duration,
    /// Somebody said what its machine had not, so the two do not agree any more.
    lied: bool,
}

impl Pair {
    fn new(patience: Duration) -> Self {
        Self {
            now: super::successor::origin(),
            mover: Outbound::new(patience),
            taker: Inbound::default(),
            to_taker: VecDeque::new(),
            to_mover: VecDeque::new(),
            servers: BTreeMap::new(),
            sent: BTreeSet::new(),
            held: BTreeMap::new(),
            last_id: 0,
            patience,
            lied: false,
        }
    }

    fn something_happens(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        match u.int_in_range(0..=15)? {
            0..=3 => self.offer(u.int_in_range(0..=3)?),
            4..=6 => self.taker_hears(u.arbitrary()?),
            7..=9 => self.mover_hears(),
            10 => self.now += Duration::from_millis(u.int_in_range(0..=6_000)?),
            11 => self.tick(),
            12 => self.taker_dies(u.arbitrary()?),
            13 => self.mover_dies(),
            14 => {
                let batch = said::number(u)?;
                self.lies(match u.int_in_range(0..=2)? {
                    0 => Message::Prepare { batch, items: Vec::new() },
                    1 => Message::Commit { batch },
                    _ => Message::Abort { batch },
                });
            }
            _ => {
                let refused = vec![u.int_in_range(0..=self.last_id)?, u64::MAX];
                self.lied = true;
                self.to_mover.push_front(Message::Prepared { batch: said::number(u)?, refused });
            }
        }
        assert!(self.held.len() <= WINDOW, "more than the window is on its way");
        Ok(())
    }

    fn lies(&mut self, message: Message) {
        self.lied = true;
        self.to_taker.push_front(message);
    }

    // ---- the mover -----------------------------------------------------------------------------------------

    /// New connections, and one that came back.
    fn offer(&mut self, new: u64) {
        if !self.mover.has_room() {
            return;
        }
        let back = self.servers.iter().find(|(_, server)| **server == Server::Outbound).map(|(id, _)| *id);
        let ids: Vec<u64> = back.into_iter().chain(self.last_id + 1..=self.last_id + new).collect();
        self.last_id += new;
        self.sent.extend(&ids);
        self.servers.extend(ids.iter().map(|id| (*id, Server::OnTheWay)));
        let effects = self.mover.offer(self.now, ids.into_iter().map(item).collect());
        self.mover_does(effects);
    }

    fn mover_hears(&mut self) {
        let Some(Message::Prepared { batch, refused }) = self.to_mover.pop_front() else { return };
        match self.mover.held(batch, &refused) {
            Ok(effects) => self.mover_does(effects),
            Err(Fault::PeerMisbehaved(_)) if self.lied => {
                // Nothing it says is believed any more.
                let effects = self.mover.closed();
                self.mover_does(effects);
                assert!(self.mover.is_idle() && self.mover.has_room());
            }
            Err(fault) => panic!("{fault} of a peer that does everything right"),
        }
    }

    fn tick(&mut self) {
        let effects = self.mover.tick(self.now);
        self.mover_does(effects);
        assert!(self.mover.deadline().is_none_or(|deadline| deadline > self.now), "a deadline that stays");
        assert_eq!(self.mover.deadline().is_none(), self.mover.is_idle());
    }

    fn mover_does(&mut self, effects: Vec<OutboundEffect>) {
        for effect in effects {
            match effect {
                OutboundEffect::Send(message) => self.to_taker.push_back(message),
                OutboundEffect::Moved(ids) => {
                    for id in ids {
                        assert!(self.sent.remove(&id), "{id} was not on its way");
                        let server = self.servers.get(&id);
                        assert!(self.lied || server == Some(&Server::OnTheWay), "{id}: {server:?}");
                    }
                }
                OutboundEffect::Return(ids) => {
                    for id in ids {
                        assert!(self.sent.remove(&id), "{id} was not on its way");
                        let server = self.servers.insert(id, Server::Outbound);
                        let free = matches!(server, Some(Server::OnTheWay | Server::Refused));
                        assert!(self.lied || free, "{id} has two servers, the other is {server:?}");
                    }
                }
            }
        }
    }

    /// Its last words are still heard, and its connections are gone with it.
    fn mover_dies(&mut self) {
        while !self.to_taker.is_empty() {
            self.taker_hears(0);
        }
        self.servers.retain(|_, server| !matches!(server, Server::Outbound | Server::Refused));
        let effects = self.taker.closed();
        self.taker_does(effects);
        assert!(self.held.is_empty(), "held for ever: {:?}", self.held);
        self.nobody_waits();
        // The next two.
        *self = Self { now: self.now, last_id: self.last_id, ..Self::new(self.patience) };
    }

    // ---- the taker -----------------------------------------------------------------------------------------

    /// The next message; of a batch those are refused whose bit is set.
    fn taker_hears(&mut self, refuse: u8) {
        let heard = match self.to_taker.pop_front() {
            Some(Message::Prepare { batch, items }) => {
                let ids = items.iter().enumerate().map(|(n, item)| (refuse >> (n % 8) & 1 == 1, item.row.id));
                let (refused, held): (Vec<_>, Vec<_>) = ids.partition(|(refused, _)| *refused);
                let ids = |ids: Vec<(bool, u64)>| ids.into_iter().map(|(_, id)| id).collect::<Vec<_>>();
                let (refused, held) = (ids(refused), ids(held));
                self.taker.arrived(batch, refused.clone()).inspect(|_| {
                    assert_eq!(self.held.insert(batch, held), None);
                    for id in refused {
                        // Unless it was taken back meanwhile.
                        self.servers.entry(id).and_modify(|server| {
                            if *server == Server::OnTheWay {
                                *server = Server::Refused;
                            }
                        });
                    }
                })
            }
            Some(Message::Commit { batch }) => self.taker.given(batch),
            Some(Message::Abort { batch }) => self.taker.taken_back(batch),
            _ => return,
        };
        match heard {
            Ok(effects) => self.taker_does(effects),
            Err(Fault::PeerMisbehaved(_)) if self.lied => self.taker_dies(true),
            Err(fault) => panic!("{fault} of a peer that does everything right"),
        }
    }

    fn taker_does(&mut self, effects: Vec<InboundEffect>) {
        for effect in effects {
            match effect {
                InboundEffect::Send(message) => self.to_mover.push_back(message),
                InboundEffect::Serve(batch) => {
                    for id in self.held.remove(&batch).expect("it is held") {
                        let before = self.servers.insert(id, Server::Inbound);
                        assert!(
                            self.lied || before == Some(Server::OnTheWay),
                            "{id} has two servers, the other is {before:?}"
                        );
                    }
                }
                InboundEffect::Drop(batch) => drop(self.held.remove(&batch).expect("it is held")),
            }
        }
    }

    /// Or is believed nothing any more. Its last words are heard, if the kernel does not lose them.
    fn taker_dies(&mut self, heard: bool) {
        while heard && !self.to_mover.is_empty() {
            self.mover_hears();
        }
        let returned = self.mover.closed();
        self.mover_does(returned);
        assert!(self.mover.is_idle() && self.mover.has_room() && self.mover.deadline().is_none());
        assert!(self.sent.is_empty(), "never heard of again: {:?}", self.sent);
        // What it was given is gone with it.
        self.servers.retain(|_, server| *server == Server::Outbound);
        (self.taker, self.lied) = (Inbound::default(), false);
        self.to_taker.clear();
        self.to_mover.clear();
        self.held.clear();
    }

    // ---- the end -------------------------------------------------------------------------------------------

    /// Everything that was said is heard, and time passes.
    fn comes_to_rest(&mut self) {
        for _ in 0..2 {
            while !self.to_taker.is_empty() || !self.to_mover.is_empty() {
                self.taker_hears(0);
                self.mover_hears();
            }
            self.now = self.mover.deadline().unwrap_or(self.now);
            self.tick();
        }
        if !self.lied {
            assert!(self.mover.is_idle() && self.mover.has_room() && !self.mover.is_stuck());
            assert!(self.held.is_empty(), "held for ever: {:?}", self.held);
            self.nobody_waits();
        }
    }

    fn nobody_waits(&self) {
        let waits: BTreeSet<_> = self
            .servers
            .iter()
            .filter(|(_, server)| **server == Server::OnTheWay)
            .map(|(id, _)| id)
            .collect();
        assert!(self.lied || waits.is_empty(), "nobody serves {waits:?}");
    }
}

fn item(id: u64) -> MigrationItem {
    let row = ConnectionRow {
        id,
        listener: ShortText::default(),
        peer: ShortText::default(),
        local: ShortText::default(),
        protocol: ShortText::default(),
        age_ms: 0,
        requests: 0,
        state: ConnectionState::Idle,
    };
    MigrationItem { row, kind: ShortText::default(), cookie: id, state: String::new() }
}
