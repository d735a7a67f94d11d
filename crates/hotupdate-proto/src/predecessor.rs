//! What the serving process knows of a generation that still drains.

use std::time::{Duration, Instant};

use crate::FEATURE_MIGRATE;
use crate::identity::{Generation, Process};
use crate::inventory::{LinkItem, Summary, Totals};
use crate::migration::Inbound;
use crate::timing::millis;

/// A process that served before, seen over its link.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Predecessor {
    /// Its generation.
    pub generation: Generation,
    /// The process itself.
    pub process: Process,
    /// The features that both have.
    pub features: Vec<String>,
    /// What is left in it, as it said last.
    pub connections: Summary,
    /// What became of its connections, as it said last.
    pub totals: Totals,
    /// The names of tasks that keep it alive, as it said last.
    pub tasks: Vec<String>,
    /// The name of the handoff that made a predecessor of it, in logs.
    pub handoff: String,
    /// It still holds parked listeners and can take over again.
    pub probation: bool,
    /// It said that it is drained; end-of-file is no surprise any more.
    pub drained: bool,
    /// It was told to be quick.
    pub hurried: bool,
    /// It broke the protocol; nothing more is believed but its end, and that it accepts again.
    pub quiet: bool,
    /// It was told that this process serves, whatever it was asked before.
    pub told: bool,
    /// It served after this process, and gave the service back.
    pub was_rolled_back: bool,
    /// Since when it is a predecessor.
    pub since: Instant,
    /// Its connections that come here.
    pub inbound: Inbound,
}

impl Predecessor {
    /// A predecessor that has just released its listeners to this process.
    #[must_use]
    pub fn released(now: Instant, generation: Generation, process: Process, connections: Summary) -> Self {
        Self {
            generation,
            process,
            features: Vec::new(),
            connections,
            totals: Totals::default(),
            tasks: Vec::new(),
            handoff: String::new(),
            probation: true,
            drained: false,
            hurried: false,
            quiet: false,
            told: false,
            was_rolled_back: false,
            since: now,
            inbound: Inbound::default(),
        }
    }

    /// An older generation whose link arrived in the inventory.
    #[must_use]
    pub fn inherited(now: Instant, item: &LinkItem) -> Self {
        Self {
            features: item.features.clone(),
            probation: item.probation,
            drained: item.drained,
            totals: item.totals,
            tasks: item.tasks.clone(),
            handoff: item.handoff.clone(),
            since: now.checked_sub(Duration::from_millis(item.since_ms)).unwrap_or(now),
            ..Self::released(now, item.generation, item.process.clone(), item.connections)
        }
    }

    /// Whether the predecessor can be asked to serve again. Once it was told that this process serves, it
    /// lets its listeners go.
    #[must_use]
    pub fn can_resume(&self) -> bool {
        self.probation && !self.quiet && !self.told
    }

    /// It knows what this process accepts, which came with `ready` or `serving`.
    pub(crate) fn knowing(mut self) -> Self {
        if self.migrates() {
            self.inbound.is_told();
        }
        self
    }

    /// Whether both processes can migrate connections, see [`FEATURE_MIGRATE`].
    #[must_use]
    pub fn migrates(&self) -> bool {
        self.features.iter().any(|feature| feature == FEATURE_MIGRATE)
    }

    /// Whether it has nothing left to do. It may stay for its supervisor, and hear only which process serves.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.drained && !self.probation
    }

    /// Whether it wants to know which process serves, see
    /// [`FEATURE_SUPERVISION`](crate::FEATURE_SUPERVISION).
    #[must_use]
    pub fn is_told_who_serves(&self) -> bool {
        self.features.iter().any(|feature| feature == crate::FEATURE_SUPERVISION)
    }

    /// What is told of the predecessor when its link is passed on to a successor.
    #[must_use]
    pub fn item(&self, now: Instant) -> LinkItem {
        LinkItem {
            generation: self.generation,
            process: self.process.clone(),
            features: self.features.clone(),
            connections: self.connections,
            probation: self.probation && !self.told,
            drained: self.drained,
            totals: self.totals,
            tasks: self.tasks.clone(),
            handoff: self.handoff.clone(),
            since_ms: millis(now.saturating_duration_since(self.since)),
        }
    }
}
