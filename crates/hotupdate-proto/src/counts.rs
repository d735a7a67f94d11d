//! What a service has counted since its first start, over all of its processes: a sum that goes with the
//! service.
//!
//! Deliberately absent: what a process counts in itself, which are its [`Totals`].
//!
//! Every process counts for itself, and the process that serves adds up: what processes that are gone have
//! counted, what older ones that still drain said last, and its own. It says that sum with `released` and
//! `resume`, and says nothing greater to anything else afterwards. So the next one never begins with less,
//! and nothing is counted twice.

use std::collections::BTreeMap;
use std::mem;

use serde::{Deserialize, Serialize};

use crate::identity::Generation;
use crate::inventory::Totals;

/// The most processes that are told of one by one. What is counted in more of them is lost from the sum.
pub const MAX_COUNTED: usize = 256;

/// How handoffs ended, each counted by the process that serves afterwards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct HandoffTotals {
    /// The successor serves.
    pub served: u64,
    /// The attempt failed, and the incumbent served on.
    pub failed: u64,
    /// The service was given back to the predecessor.
    pub rolled_back: u64,
    /// The successor died in its probation, and the predecessor took over again.
    pub took_over: u64,
}

/// What one process has counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProcessTotals {
    /// Its generation.
    pub generation: Generation,
    /// What became of its connections.
    pub totals: Totals,
}

/// What the process that serves says of the whole service, for one that may serve after it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    /// The sum of processes that are gone.
    pub gone: Totals,
    /// Processes that are there, the sender among them; at most [`MAX_COUNTED`].
    pub processes: Vec<ProcessTotals>,
    /// How handoffs ended.
    pub handoffs: HandoffTotals,
}

/// The sum as one process keeps it.
///
/// ```
/// use hotupdate_proto::counts::ServiceCounts;
/// use hotupdate_proto::{Generation, Totals};
///
/// let mut old = ServiceCounts::new(Generation(1));
/// let mut new = ServiceCounts::new(Generation(2));
/// let requests = |requests| {
///     let mut totals = Totals::default();
///     totals.requests = requests;
///     totals
/// };
/// new.hear(old.counts(requests(1_000)));
/// new.serves(|generation| generation == Generation(1)); // it drains, and is heard
/// assert_eq!(new.total(requests(0)).requests, 1_000);
/// new.progress(Generation(1), requests(1_002));
/// new.gone(Generation(1));
/// assert_eq!(new.total(requests(5)).requests, 1_007);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceCounts {
    generation: Generation,
    gone: Totals,
    older: BTreeMap<Generation, Totals>,
    handoffs: HandoffTotals,
    /// What the process that serves, or did, said last.
    heard: Option<Counts>,
}

impl ServiceCounts {
    /// Of the process of this generation: nothing so far.
    #[must_use]
    pub fn new(generation: Generation) -> Self {
        let (gone, older) = (Totals::default(), BTreeMap::new());
        Self { generation, gone, older, handoffs: HandoffTotals::default(), heard: None }
    }

    /// What to say of the service, with what this process has counted itself.
    #[must_use]
    pub fn counts(&self, own: Totals) -> Counts {
        let older = self.older.iter().map(|(generation, totals)| (*generation, *totals));
        let all = [(self.generation, own)].into_iter().chain(older);
        let said = |(generation, totals)| ProcessTotals { generation, totals };
        Counts { gone: self.gone, processes: all.map(said).collect(), handoffs: self.handoffs }
    }

    /// What the process that serves says. It counts as soon as this process [`serves`](Self::serves).
    pub fn hear(&mut self, counts: Counts) {
        self.heard = Some(counts);
    }

    /// This process serves (again): goes on from what was heard last. Of processes that are not there any
    /// more nothing new is going to be heard.
    pub fn serves(&mut self, is_there: impl Fn(Generation) -> bool) {
        let Some(Counts { gone, processes, handoffs }) = self.heard.take() else { return };
        let known = mem::take(&mut self.older);
        // What it had counted alone is in what it heard.
        self.gone = gone;
        for ProcessTotals { generation, totals } in processes.into_iter().take(MAX_COUNTED) {
            let totals = known.get(&generation).map_or(totals, |known| known.at_least(totals));
            match generation {
                ours if ours == self.generation => {}
                older if is_there(older) => drop(self.older.insert(older, totals)),
                _ => self.gone = self.gone.plus(totals),
            }
        }
        self.handoffs = self.handoffs.at_least(handoffs);
    }

    /// What an older process has counted, as it says.
    pub fn progress(&mut self, older: Generation, totals: Totals) {
        // As long as another process serves, it counts there.
        if self.older.contains_key(&older) || self.older.len() < MAX_COUNTED {
            let known = self.older.entry(older).or_default();
            *known = known.at_least(totals);
        }
    }

    /// An older process is gone; what it said last stays in the sum.
    pub fn gone(&mut self, older: Generation) {
        if let Some(totals) = self.older.remove(&older) {
            self.gone = self.gone.plus(totals);
        }
    }

    /// How handoffs ended, to be counted up.
    pub fn handoffs(&mut self) -> &mut HandoffTotals {
        &mut self.handoffs
    }

    /// How handoffs ended.
    #[must_use]
    pub fn ended(&self) -> HandoffTotals {
        self.heard.as_ref().map_or(self.handoffs, |heard| self.handoffs.at_least(heard.handoffs))
    }

    /// The sum, with what this process has counted itself. What was heard counts already, so that a process
    /// that is about to serve shows no less than the one before it.
    #[must_use]
    pub fn total(&self, own: Totals) -> Totals {
        let Some(Counts { gone, processes, .. }) = &self.heard else {
            return self.older.values().fold(self.gone.plus(own), |sum, totals| sum.plus(*totals));
        };
        let others = processes.iter().take(MAX_COUNTED).filter(|other| other.generation != self.generation);
        others.fold(gone.plus(own), |sum, other| sum.plus(other.totals))
    }
}

impl HandoffTotals {
    fn at_least(self, other: Self) -> Self {
        let Self { served, failed, rolled_back, took_over } = self;
        Self {
            served: served.max(other.served),
            failed: failed.max(other.failed),
            rolled_back: rolled_back.max(other.rolled_back),
            took_over: took_over.max(other.took_over),
        }
    }
}

impl Totals {
    /// Each count of both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        self.each(other, u64::saturating_add)
    }

    fn at_least(self, other: Self) -> Self {
        self.each(other, u64::max)
    }

    fn each(self, other: Self, with: impl Fn(u64, u64) -> u64) -> Self {
        let Self { accepted, adopted, migrated, finished, closed, forced, requests, relayed, goaways } = self;
        Self {
            accepted: with(accepted, other.accepted),
            adopted: with(adopted, other.adopted),
            migrated: with(migrated, other.migrated),
            finished: with(finished, other.finished),
            closed: with(closed, other.closed),
            forced: with(forced, other.forced),
            requests: with(requests, other.requests),
            relayed: with(relayed, other.relayed),
            goaways: goaways.each(other.goaways, with),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn requests(requests: u64) -> Totals {
        Totals { requests, ..Totals::default() }
    }

    /// A service of which everything is known: what each process has really counted, and which are there.
    struct World {
        processes: Vec<(ServiceCounts, u64, bool)>,
        serves: usize,
        /// The greatest sum that was ever shown.
        shown: u64,
    }

    impl World {
        fn new() -> Self {
            let first = (ServiceCounts::new(Generation(1)), 0, true);
            Self { processes: vec![first], serves: 0, shown: 0 }
        }

        fn own(&self, index: usize) -> Totals {
            requests(self.processes[index].1)
        }

        fn there(&self) -> Vec<usize> {
            (0..self.processes.len()).filter(|index| self.processes[*index].2).collect()
        }

        /// The process that serves hears everything of the other processes.
        fn hear_all(&mut self) {
            for index in self.there().into_iter().filter(|index| *index != self.serves) {
                let totals = self.own(index);
                let generation = self.processes[index].0.generation;
                self.processes[self.serves].0.progress(generation, totals);
            }
        }

        fn show(&mut self) -> u64 {
            let sum = self.processes[self.serves].0.total(self.own(self.serves)).requests;
            assert!(sum >= self.shown, "{sum} after {}", self.shown);
            self.shown = sum;
            sum
        }

        fn pass_to(&mut self, next: usize) {
            let counts = self.processes[self.serves].0.counts(self.own(self.serves));
            let there: Vec<_> = self.there().into_iter().map(|i| self.processes[i].0.generation).collect();
            self.processes[next].0.hear(counts);
            self.processes[next].0.serves(|generation| there.contains(&generation));
            self.serves = next;
        }

        fn kill(&mut self, index: usize) {
            let generation = self.processes[index].0.generation;
            self.processes[index].2 = false;
            self.processes[self.serves].0.gone(generation);
        }
    }

    proptest! {
        /// Requests, handoffs, rollbacks, ends of processes that were heard to the end, and crashes.
        #[test]
        fn the_sum_is_what_was_counted_and_never_goes_back(
            steps in prop::collection::vec((0..6u8, any::<prop::sample::Index>(), 1..50u64), 1..80)
        ) {
            let mut world = World::new();
            for (what, which, n) in steps {
                let there = world.there();
                let some = there[which.index(there.len())];
                match what {
                    0 | 1 => world.processes[some].1 += n,
                    2 => {
                        let generation = Generation(world.processes.len() as u64 + 1);
                        world.processes.push((ServiceCounts::new(generation), 0, true));
                        world.pass_to(world.processes.len() - 1);
                    }
                    3 => world.pass_to(some),
                    4 if some != world.serves => {
                        world.hear_all();
                        world.kill(some);
                    }
                    5 if some != world.serves => {
                        // It was told what was shown, and that process dies.
                        let dies = world.serves;
                        world.hear_all();
                        world.show();
                        let counts = world.processes[dies].0.counts(world.own(dies));
                        world.processes[some].0.hear(counts);
                        world.processes[dies].2 = false;
                        let left: Vec<_> =
                            world.there().iter().map(|i| world.processes[*i].0.generation).collect();
                        world.processes[some].0.serves(|generation| left.contains(&generation));
                        world.serves = some;
                    }
                    _ => world.hear_all(),
                }
                world.show();
            }
            world.hear_all();
            let counted: u64 = world.processes.iter().map(|(_, own, _)| own).sum();
            prop_assert_eq!(world.show(), counted);
        }
    }

    #[test]
    fn handoffs_are_counted_on() {
        let (mut old, mut new) = (ServiceCounts::new(Generation(1)), ServiceCounts::new(Generation(2)));
        old.handoffs().failed += 2;
        new.hear(old.counts(Totals::default()));
        new.serves(|_| true);
        new.handoffs().served += 1;
        old.hear(new.counts(Totals::default()));
        old.serves(|_| true);
        old.handoffs().rolled_back += 1;
        let HandoffTotals { served, failed, rolled_back, took_over } = old.ended();
        assert_eq!((served, failed, rolled_back, took_over), (1, 2, 1, 0));
    }

    #[test]
    fn a_peer_that_says_nothing_or_too_much_does_no_harm() {
        let mut counts = ServiceCounts::new(Generation(2));
        counts.serves(|_| true);
        assert_eq!(counts.total(requests(3)).requests, 3);
        let processes = (0..2 * MAX_COUNTED as u64)
            .map(|generation| ProcessTotals {
                generation: Generation(generation),
                totals: requests(u64::MAX),
            })
            .collect();
        counts.hear(Counts { processes, ..Counts::default() });
        counts.serves(|_| true);
        assert!(counts.older.len() <= MAX_COUNTED);
        assert_eq!(counts.total(requests(3)).requests, u64::MAX);
    }
}
