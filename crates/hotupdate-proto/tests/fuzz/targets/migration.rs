//! Both machines of a migration, in any order and with any deaths: no connection is ever served by two or
//! lost by a process that lives. And each of them alone, with a peer that says anything.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use arbitrary::{Result, Unstructured};
use hotupdate_proto::migration::{InboundEffect, Leaving, OutboundEffect, WINDOW};
use hotupdate_proto::{ConnectionKind, Inbound, Message, MigrationItem, Outbound};

use super::said;

pub(crate) fn check(bytes: &[u8]) {
    let mut u = Unstructured::new(bytes);
    let _ = play(&mut u);
}

fn play(u: &mut Unstructured<'_>) -> Result<()> {
    let patience = *u.choose(&[Duration::from_secs(5), Duration::ZERO, Duration::MAX])?;
    let mut pair = Pair::new(super::successor::origin(), patience);
    while !u.is_empty() {
        pair.something_happens(u)?;
    }
    pair.comes_to_rest();
    Ok(())
}

/// Which process may touch a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Server {
    Outbound,
    /// It has asked to leave: no process touches it.
    Leaving,
    /// The process that drains has closed its copy, and the other is told.
    Migrated,
    Inbound,
}

struct Pair {
    now: Instant,
    patience: Duration,
    outbound: Outbound,
    inbound: Inbound,
    to_inbound: VecDeque<Message>,
    to_outbound: VecDeque<Message>,
    servers: BTreeMap<u64, Server>,
    /// What is held, by batch.
    held: BTreeMap<u32, Vec<u64>>,
    last_id: u64,
    outbound_is_dead: bool,
    /// A machine was told what the other had not said, so the two do not agree any more.
    lied: bool,
}

/// How long a batch may be committed after it has arrived.
const EXPIRES: Duration = Duration::from_secs(7);

impl Pair {
    fn new(now: Instant, patience: Duration) -> Self {
        let mut pair = Self {
            now,
            patience,
            outbound: Outbound::new(patience),
            inbound: Inbound::default(),
            to_inbound: VecDeque::new(),
            to_outbound: VecDeque::new(),
            servers: BTreeMap::new(),
            held: BTreeMap::new(),
            last_id: 0,
            outbound_is_dead: false,
            lied: false,
        };
        pair.begin();
        pair
    }

    fn begin(&mut self) {
        self.inbound.is_told();
        let effects = self.outbound.begin(Some(kinds()));
        self.outbound_does(effects);
    }

    fn something_happens(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let refuse = u.arbitrary()?;
        match u.int_in_range(0..=18)? {
            0..=3 => self.leave(u.int_in_range(0..=3)?),
            4..=6 => self.inbound_hears(refuse),
            7..=9 => self.outbound_hears(),
            10 => self.now += Duration::from_millis(u.int_in_range(0..=8_000)?),
            11 => self.tick(),
            12 => self.inbound_dies(u.arbitrary()?),
            13 => self.outbound_dies(),
            14 => {
                let effects = self.inbound.quiesce(self.now, EXPIRES);
                self.inbound_does(effects, 0);
            }
            15 => self.inbound.is_late(),
            16 => {
                let effects = self.inbound.announce(&kinds());
                self.inbound_does(effects, 0);
            }
            17 => {
                let batch = said::number(u)?;
                self.lied = true;
                self.to_inbound.push_front(match u.int_in_range(0..=2)? {
                    0 => Message::Prepare { batch, items: Vec::new() },
                    1 => Message::Commit { batch },
                    _ => Message::Abort { batch },
                });
            }
            _ => {
                let refused = vec![u.int_in_range(0..=self.last_id)?, u64::MAX];
                self.lied = true;
                self.to_outbound.push_front(Message::Prepared { batch: said::number(u)?, refused });
            }
        }
        assert!(self.held.len() <= WINDOW, "more than the window is on its way");
        Ok(())
    }

    // ---- the process that drains ----------------------------------------------------------------------

    /// New connections, and one that came back.
    fn leave(&mut self, new: u64) {
        let back = self.servers.iter().find(|(_, server)| **server == Server::Outbound).map(|(id, _)| *id);
        let ids: Vec<u64> = back.into_iter().chain(self.last_id + 1..=self.last_id + new).collect();
        self.last_id += new;
        self.servers.extend(ids.iter().map(|id| (*id, Server::Leaving)));
        let leaving = ids.into_iter().map(|id| Leaving { id, bytes: 0, descriptors: 1 }).collect();
        let effects = self.outbound.leave(self.now, leaving);
        self.outbound_does(effects);
    }

    fn outbound_hears(&mut self) {
        let heard = match self.to_outbound.pop_front() {
            Some(Message::Prepared { batch, refused }) => self.outbound.prepared(self.now, batch, &refused),
            Some(Message::Accepts { kinds }) => Ok(self.outbound.accepts(self.now, kinds)),
            Some(Message::Quiesce) => Ok(self.outbound.quiesce(self.now)),
            _ => return,
        };
        match heard {
            Ok(effects) => self.outbound_does(effects),
            // Nothing it says is believed any more.
            Err(_) if self.lied => self.inbound_dies(false),
            Err(what) => panic!("a peer that does everything right {what}"),
        }
    }

    fn tick(&mut self) {
        let effects = self.outbound.tick(self.now);
        self.outbound_does(effects);
        assert!(self.outbound.deadline().is_none_or(|deadline| deadline > self.now), "a deadline that stays");
    }

    fn outbound_does(&mut self, effects: Vec<OutboundEffect>) {
        for effect in effects {
            match effect {
                OutboundEffect::Send(message) => self.to_inbound.push_back(message),
                OutboundEffect::Prepare { batch, ids } => {
                    let items = ids.into_iter().map(item).collect();
                    self.to_inbound.push_back(Message::Prepare { batch, items });
                }
                OutboundEffect::Migrated(ids) => self.become_of(ids, Server::Migrated),
                OutboundEffect::Return(ids) => self.become_of(ids, Server::Outbound),
                OutboundEffect::Accepted(_) | OutboundEffect::Pause | OutboundEffect::Stalled => {}
            }
        }
    }

    fn become_of(&mut self, ids: Vec<u64>, server: Server) {
        for id in ids {
            let before = self.servers.insert(id, server);
            assert!(self.lied || before == Some(Server::Leaving), "{id}: {before:?} before {server:?}");
        }
    }

    /// Its last words are still heard, and its connections are gone with it.
    fn outbound_dies(&mut self) {
        while !self.to_inbound.is_empty() {
            self.inbound_hears(0);
        }
        self.servers.retain(|_, server| *server != Server::Outbound);
        self.outbound_is_dead = true;
        let effects = self.inbound.closed();
        self.inbound_does(effects, 0);
        assert!(self.held.is_empty(), "held for ever: {:?}", self.held);
        // What never left was its own.
        let lost = self.servers.values().any(|server| *server == Server::Migrated);
        assert!(self.lied || !lost, "no process serves what has migrated: {:?}", self.servers);
        let last_id = self.last_id;
        *self = Self { last_id, ..Self::new(self.now, self.patience) };
    }

    // ---- the process that serves ----------------------------------------------------------------------

    /// The next message; of a batch those are refused whose bit is set.
    fn inbound_hears(&mut self, refuse: u8) {
        let heard = match self.to_inbound.pop_front() {
            Some(Message::Prepare { batch, items }) => self.inbound.prepare(self.now, batch, items),
            Some(Message::Commit { batch }) => self.inbound.commit(batch),
            Some(Message::Abort { batch }) => self.inbound.abort(batch),
            Some(Message::Quiesced) => {
                self.inbound.quiesced();
                return;
            }
            _ => return,
        };
        match heard {
            Ok(effects) => self.inbound_does(effects, refuse),
            Err(_) if self.lied => self.inbound_dies(true),
            Err(what) => panic!("a peer that does everything right {what}"),
        }
    }

    fn inbound_does(&mut self, effects: Vec<InboundEffect>, refuse: u8) {
        for effect in effects {
            match effect {
                InboundEffect::Send(message) => self.to_outbound.push_back(message),
                InboundEffect::Inspect { batch, items } => {
                    let refused = |n: usize| refuse >> (n % 8) & 1 == 1;
                    let ids = items.iter().enumerate().map(|(n, item)| (refused(n), item.id));
                    let (refused, held): (Vec<_>, Vec<_>) = ids.partition(|(refused, _)| *refused);
                    let ids = |ids: Vec<(bool, u64)>| ids.into_iter().map(|(_, id)| id).collect::<Vec<_>>();
                    assert_eq!(self.held.insert(batch, ids(held)), None);
                    let effects = self.inbound.inspected(batch, ids(refused));
                    self.inbound_does(effects, 0);
                }
                InboundEffect::Serve(batch) => {
                    for id in self.held.remove(&batch).expect("it is held") {
                        let before = self.servers.insert(id, Server::Inbound);
                        let free = before == Some(Server::Migrated)
                            || self.outbound_is_dead && before == Some(Server::Leaving);
                        assert!(self.lied || free, "{id} has two servers, the other is {before:?}");
                    }
                }
                InboundEffect::Discard(batch) => drop(self.held.remove(&batch).expect("it is held")),
            }
        }
    }

    /// Or is believed nothing any more. Its last words are heard, if the kernel does not lose them.
    fn inbound_dies(&mut self, heard: bool) {
        if heard {
            let words: Vec<_> = self.to_outbound.drain(..).collect();
            for word in words {
                if let Message::Prepared { batch, refused } = word
                    && let Ok(effects) = self.outbound.prepared(self.now, batch, &refused)
                {
                    self.outbound_does(effects);
                }
            }
        }
        let returned = self.outbound.end();
        self.outbound_does(returned);
        assert!(self.outbound.is_idle() && self.outbound.deadline().is_none());
        let leaving = self.servers.values().filter(|server| **server == Server::Leaving).count();
        assert!(self.lied || leaving == 0, "never heard of again: {:?}", self.servers);
        // What it was given is gone with it; another process reads the link, and nothing that was on its way.
        self.servers.retain(|_, server| *server == Server::Outbound);
        (self.inbound, self.lied) = (Inbound::default(), false);
        self.to_inbound.clear();
        self.to_outbound.clear();
        self.held.clear();
        self.begin();
    }

    // ---- the end --------------------------------------------------------------------------------------

    /// Everything that was said is heard, time passes, and what is accepted is said again.
    fn comes_to_rest(&mut self) {
        for _ in 0..3 {
            while !self.to_inbound.is_empty() || !self.to_outbound.is_empty() {
                self.inbound_hears(0);
                self.outbound_hears();
            }
            self.now = self.outbound.deadline().unwrap_or(self.now);
            self.tick();
            let effects = self.inbound.announce(&kinds());
            self.inbound_does(effects, 0);
        }
        if !self.lied {
            assert!(self.outbound.is_idle() && !self.outbound.is_stalled());
            assert!(self.held.is_empty(), "held for ever: {:?}", self.held);
            let waits = |server: &Server| matches!(server, Server::Leaving | Server::Migrated);
            assert!(!self.servers.values().any(waits), "no process serves them: {:?}", self.servers);
        }
    }
}

fn kinds() -> Vec<ConnectionKind> {
    vec![ConnectionKind::new("", None)]
}

fn item(id: u64) -> MigrationItem {
    MigrationItem { id, cookie: id, ..MigrationItem::default() }
}
