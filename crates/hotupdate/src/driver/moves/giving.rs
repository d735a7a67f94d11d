//! Connections of this process, which drains, on their way to the one that serves.
//!
//! Deliberately absent: who leaves when, see [`crate::exit`].

use std::time::{Duration, Instant};

use hotupdate_proto::migration::{MAX_BATCH, MAX_BATCH_STATE, OutboundEffect};
use hotupdate_proto::{Message, MigrationItem};
use rustix::net::sockopt;

use super::Moves;
use crate::connections::MigrationRequest;
use crate::driver::Driver;
use crate::driver::text::to_text;

/// How long after a handoff the next version may take to say which connections it picks up. Until then no client is told to
/// leave.
const EXPECTED: Duration = Duration::from_secs(1);

impl Driver {
    /// The drain begins.
    pub(in crate::driver) fn expect_moves(&mut self) {
        if self.moves.peer_knows && self.links.has_peer() {
            self.connections.suspend_migration(tokio::time::Instant::now() + EXPECTED);
        }
    }

    /// What the process that serves says about moves; gives back what is not about them.
    pub(in crate::driver) fn hear_taker(&mut self, message: Message) -> Option<Message> {
        match message {
            Message::Accepts { kinds } if self.drain.is_draining() => {
                self.moves.open = !kinds.is_empty();
                self.moves.rest_due = kinds.is_empty();
                if self.moves.open {
                    self.connections.set_accepted(kinds);
                } else {
                    // Its own successor is about to take over and will say what it takes, or it speaks again itself.
                    self.expect_moves();
                    let waiting = std::mem::take(&mut self.moves.queue);
                    waiting.into_iter().for_each(give_back);
                }
                self.pump();
            }
            Message::Prepared { batch, refused } if self.drain.is_draining() => self.held(batch, &refused),
            other => return Some(other),
        }
        None
    }

    pub(in crate::driver) fn give(&mut self, migration: MigrationRequest) {
        // While the other side rests, a batch would reach a process that has stopped reading.
        if self.drain.is_draining()
            && self.links.has_peer()
            && self.moves.open
            && !self.moves.mover.is_stuck()
        {
            self.moves.queue.push_back(migration);
            while let Ok(migration) = self.moves.requests.try_recv() {
                self.moves.queue.push_back(migration);
            }
            self.pump();
        } else {
            give_back(migration);
        }
    }

    fn held(&mut self, batch: u32, refused: &[u64]) {
        // An answer that comes too late is none, even if this process is the one that has slept: the other one has stopped
        // to count on it.
        self.take_late_back();
        let was_stuck = self.moves.mover.is_stuck();
        match self.moves.mover.held(batch, refused) {
            Ok(effects) => {
                self.perform_giving(effects);
                if was_stuck && !self.moves.mover.is_stuck() {
                    tracing::info!("the serving process answers again; connections move on");
                    self.connections.resume_migration();
                }
                self.pump();
            }
            Err(fault) => {
                self.take_all_back();
                tracing::warn!(%fault, "a violation of the protocol; nothing moves any more");
            }
        }
    }

    /// Offers what fits into the window.
    fn pump(&mut self) {
        while self.moves.mover.has_room() && !self.moves.queue.is_empty() {
            let migrations = self.moves.next_batch();
            if !self.links.has_peer() {
                return migrations.into_iter().for_each(give_back);
            }
            let descriptors =
                migrations.iter().map(|migration| migration.connection.socket().clone() as _).collect();
            let items = migrations.iter().map(describe).collect();
            for effect in self.moves.mover.offer(Instant::now(), items) {
                if let OutboundEffect::Send(message) = effect {
                    self.links.send(&message, descriptors);
                    break;
                }
            }
            self.moves
                .on_the_way
                .extend(migrations.into_iter().map(|migration| (migration.connection.id(), migration)));
        }
        if self.moves.rest_due && self.moves.mover.is_idle() {
            self.moves.rest_due = false;
            self.links.send(&Message::Quiesced, Vec::new());
        }
    }

    fn perform_giving(&mut self, effects: Vec<OutboundEffect>) {
        for effect in effects {
            match effect {
                OutboundEffect::Send(message) => {
                    self.links.send(&message, Vec::new());
                }
                OutboundEffect::Moved(ids) => {
                    for MigrationRequest { connection, reply, .. } in self.moves.take(&ids) {
                        connection.set_migrated();
                        // Our copy is closed; the kernel's socket lives on in the other process.
                        drop(connection);
                        let _ = reply.send(Ok(()));
                    }
                }
                OutboundEffect::Return(ids) => self.moves.take(&ids).into_iter().for_each(give_back),
            }
        }
    }

    /// The other process is dead, or this one serves again: everything that is not the other's stays.
    pub(in crate::driver) fn take_all_back(&mut self) {
        self.connections.end_migration();
        let effects = self.moves.mover.closed();
        self.perform_giving(effects);
        std::mem::take(&mut self.moves.queue).into_iter().for_each(give_back);
        (self.moves.open, self.moves.rest_due) = (false, false);
    }

    pub(in crate::driver) async fn tick_moves(&mut self) {
        self.take_late_back();
        if self.moves.resting.as_ref().is_some_and(|resting| Instant::now() >= resting.until) {
            self.give_up_resting().await;
        }
    }

    fn take_late_back(&mut self) {
        let was_stuck = self.moves.mover.is_stuck();
        let effects = self.moves.mover.tick(Instant::now());
        if effects.is_empty() {
            return;
        }
        if !was_stuck {
            tracing::warn!(
                "the serving process does not answer (deadline `prepared`); connections stay until it does"
            );
        }
        // First, so that nobody who stays is told to leave.
        self.connections.suspend_half();
        self.perform_giving(effects);
        // While it hangs nobody should wait for it.
        std::mem::take(&mut self.moves.queue).into_iter().for_each(give_back);
    }
}

impl Moves {
    fn next_batch(&mut self) -> Vec<MigrationRequest> {
        let (mut migrations, mut bytes) = (Vec::with_capacity(self.queue.len().min(MAX_BATCH)), 0);
        while let Some(next) = self.queue.front() {
            bytes += next.state.len();
            if migrations.len() == MAX_BATCH || (bytes > MAX_BATCH_STATE && !migrations.is_empty()) {
                break;
            }
            migrations.extend(self.queue.pop_front());
        }
        migrations
    }

    fn take(&mut self, ids: &[u64]) -> Vec<MigrationRequest> {
        let mut migrations = Vec::with_capacity(ids.len());
        migrations.extend(ids.iter().filter_map(|id| self.on_the_way.remove(id)));
        migrations
    }
}

fn give_back(migration: MigrationRequest) {
    let MigrationRequest { connection, reply, .. } = migration;
    // If nobody waits for it any more, it is closed.
    let _ = reply.send(Err(Box::new(connection)));
}

pub(crate) fn describe(migration: &MigrationRequest) -> MigrationItem {
    let MigrationRequest { connection, kind, state, .. } = migration;
    MigrationItem {
        row: connection.describe(),
        kind: kind.clone(),
        cookie: sockopt::socket_cookie(connection.socket()).unwrap_or_default(),
        state: to_text(state),
    }
}
