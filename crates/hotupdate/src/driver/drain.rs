//! The progress of the drain, and its end.
//!
//! Deliberately absent: when a drain begins and which deadlines it has; the machine says that.

use hotupdate_proto::{ConnectionRow, Message, Totals, incumbent};

use super::Driver;

impl Driver {
    pub(super) async fn send_progress(&mut self) {
        // Most connections are gone in a moment, and need no row over there.
        if !self.rows_sent && self.moves.at_rest() {
            self.rows_sent = true;
            self.collect_rows();
        }
        let (connections, totals) = self.connections.snapshot();
        let closed = self.connections.take_closed();
        if self.last_progress == Some((connections, totals)) && closed.is_empty() {
            return;
        }
        self.last_progress = Some((connections, totals));
        self.incumbent(incumbent::Event::Progress { connections, closed, totals, tasks: Vec::new() }).await;
    }

    /// The deadline of the drain: what is left is closed, and named.
    pub(super) fn force(&self) {
        /// Who looks for more finds it before, in `hotctl connections`.
        const NAMED: usize = 20;
        let rows = self.connections.force();
        for ConnectionRow { listener, peer, protocol, requests, state, .. } in rows.iter().take(NAMED) {
            tracing::warn!(
                %listener, %peer, %protocol, requests, ?state, "a connection is closed at the deadline of the drain"
            );
        }
        if rows.len() > NAMED {
            tracing::warn!(more = rows.len() - NAMED, "and so are more connections");
        }
    }

    /// Nothing is open any more.
    pub(super) fn log_drained(&self) {
        let Totals { migrated, finished, closed, forced, .. } = self.connections.totals();
        tracing::info!(migrated, finished, closed, forced, "drained");
    }

    pub(super) fn send_rows(&self, rows: &[ConnectionRow]) {
        /// About 200 bytes each, so that a message stays far below its limit.
        const BATCH: usize = 1000;
        let Some(peer) = &self.peer else { return };
        for items in rows.chunks(BATCH) {
            peer.send(&Message::Connections { items: items.to_vec() }, Vec::new());
        }
    }
}
