//! What is counted of the whole service: when it is shown, and to which process it is said before.
//!
//! Deliberately absent: the sum itself, which is in `hotupdate_proto::counts`.

use hotupdate_proto::counts::Counts;
use hotupdate_proto::timing::fixed::driver::AGE;
use hotupdate_proto::{FEATURE_COUNTS, Incumbent, Message, Totals};
use tokio::time::{Instant, sleep_until};

use super::Driver;
use crate::connections::Connections;

/// When the sum is shown next. A process in which nothing happens does not wake up for it.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// It is shown, and only by the process that serves: the next one begins with what this one shows last.
    is_shown: bool,
    not_before: Option<Instant>,
}

impl Pace {
    /// Waits until there is something new to show. Safe to cancel.
    pub(super) async fn next(&mut self, connections: &Connections) {
        if let Some(until) = self.not_before {
            sleep_until(until).await;
            self.not_before = None;
        }
        connections.metrics().until_changed().await;
    }
}

impl Driver {
    /// This process serves (again): its sum is the one that counts. To be called before it accepts, since the
    /// first client may ask for the sum.
    pub(super) fn count_on(&mut self) {
        let predecessors = self.machine.incumbent().map(Incumbent::predecessors).unwrap_or_default();
        self.operators.counts.serves(|generation| predecessors.iter().any(|p| p.generation == generation));
        self.pace.is_shown = true;
        self.show_counts();
    }

    /// Another process is about to serve, or none: what the sum is now, and what stays shown here.
    pub(super) fn last_counts(&mut self) -> Counts {
        self.pace.is_shown = false;
        self.operators.counts.counts(self.connections.totals())
    }

    /// Says the sum to a predecessor that takes over again if this process dies, and then shows it.
    pub(super) fn show_counts(&mut self) {
        self.pace.not_before = Some(Instant::now() + AGE);
        if !self.pace.is_shown {
            return;
        }
        let own = self.connections.totals();
        let predecessors = self.machine.incumbent().map(Incumbent::predecessors).unwrap_or_default();
        let hears = |features: &[String]| features.iter().any(|feature| feature == FEATURE_COUNTS);
        for predecessor in predecessors.iter().filter(|p| p.can_resume() && hears(&p.features)) {
            let counted = Message::Counted { counts: self.operators.counts.counts(own) };
            self.links.send_to(predecessor.generation, &counted, Vec::new());
        }
        self.show_sum(own);
    }

    pub(super) fn show_sum(&self, own: Totals) {
        let counts = &self.operators.counts;
        self.connections.metrics().service(counts.total(own), counts.ended());
    }
}
