//! How many connections came and went, and how many are open in which state: numbers that balance at every
//! moment.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use hotupdate_proto::{ConnectionState, Generation, GoAways, Summary, Totals};

use crate::metrics::{Event, Metrics};

/// Why a connection of HTTP/2 is told to leave with GOAWAY, see [`GoAways`].
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GoAway {
    /// No other process accepts it.
    NotAccepted,
    /// A stream is open.
    Streams,
    /// Its client has done something that does not fit into another server.
    Client,
    /// Its server allows less than the one before.
    Settings,
}

/// Kept up to date with every change, because a release cannot wait until 100,000 rows are counted.
#[derive(Debug)]
pub(super) struct Ledger {
    /// All but the requests.
    totals: Mutex<Totals>,
    /// What every request changes.
    busy: [Busy; SHARES],
    metrics: Metrics,
}

/// Into so many parts is divided what every request changes: if all threads counted in one place, each of
/// them would wait for the last one to get that line of its cache back.
const SHARES: usize = 16;

/// The part of some of the connections; a connection counts in the same one at all times. As long as two
/// lines of a cache, which processors fetch together.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Busy {
    requests: AtomicU64,
    /// Those of the open connections that are not idle.
    active: AtomicU64,
    upgraded: AtomicU64,
}

impl Ledger {
    pub(super) fn new(generation: Generation) -> Self {
        Self { totals: Mutex::default(), busy: Default::default(), metrics: Metrics::new(generation) }
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    pub(super) fn totals(&self) -> Totals {
        let mut totals = *self.lock();
        totals.requests = self.sum(|busy| &busy.requests);
        totals
    }

    /// Both at the same moment: the totals say how many are open, and the summary says in which states they
    /// are.
    pub(super) fn snapshot(&self) -> (Summary, Totals) {
        let totals = self.totals();
        // A change of state is two steps, so for an instant a count can be one too low, below zero, or too
        // high.
        let count = |of: fn(&Busy) -> &AtomicU64| u64::try_from(self.sum(of).cast_signed()).unwrap_or(0);
        let open = totals.open();
        let active = count(|busy| &busy.active).min(open);
        let upgraded = count(|busy| &busy.upgraded).min(open - active);
        (Summary::new(open - active - upgraded, active, upgraded), totals)
    }

    /// A connection comes in, idle.
    pub(super) fn enter(&self, how: Event) {
        self.book(how);
        self.metrics.state(None, Some(ConnectionState::Idle));
    }

    /// A connection that was in this state goes out.
    pub(super) fn leave(&self, id: u64, state: ConnectionState, how: Event) {
        // In this order: an open connection may be counted as idle for an instant, one that is gone never as
        // open.
        self.count(id, state, -1);
        self.book(how);
        self.metrics.state(Some(state), None);
    }

    #[inline]
    pub(super) fn changed(&self, id: u64, from: ConnectionState, to: ConnectionState) {
        if from != to {
            self.count(id, to, 1);
            self.count(id, from, -1);
            self.metrics.state(Some(from), Some(to));
        }
    }

    #[inline]
    pub(super) fn request(&self, id: u64) {
        self.busy(id).requests.fetch_add(1, Relaxed);
        self.metrics.request();
    }

    fn book(&self, event: Event) {
        let mut totals = self.lock();
        *match event {
            Event::Accepted => &mut totals.accepted,
            Event::Adopted => &mut totals.adopted,
            Event::Migrated => &mut totals.migrated,
            Event::Finished => &mut totals.finished,
            Event::Closed => &mut totals.closed,
            Event::Forced => &mut totals.forced,
        } += 1;
        drop(totals);
        self.metrics.count(event);
    }

    /// A connection has migrated, and what was open on it stays.
    pub(super) fn relayed(&self) {
        self.lock().relayed += 1;
        self.metrics.changed();
    }

    /// A connection was told to leave.
    pub(super) fn goaway(&self, why: GoAway) {
        let mut totals = self.lock();
        let GoAways { not_accepted, streams, client, settings, .. } = &mut totals.goaways;
        let count = match why {
            GoAway::NotAccepted => not_accepted,
            GoAway::Streams => streams,
            GoAway::Client => client,
            GoAway::Settings => settings,
        };
        *count += 1;
    }

    /// Idle is what is open and not counted here.
    #[inline]
    fn count(&self, id: u64, state: ConnectionState, by: i64) {
        let (busy, by) = (self.busy(id), by.cast_unsigned());
        match state {
            ConnectionState::Active => drop(busy.active.fetch_add(by, Relaxed)),
            ConnectionState::Upgraded => drop(busy.upgraded.fetch_add(by, Relaxed)),
            _ => {}
        }
    }

    /// Where the connection with this number counts.
    #[inline]
    fn busy(&self, id: u64) -> &Busy {
        &self.busy[id as usize % SHARES]
    }

    fn sum(&self, of: fn(&Busy) -> &AtomicU64) -> u64 {
        self.busy.iter().map(|busy| of(busy).load(Relaxed)).fold(0, u64::wrapping_add)
    }

    fn lock(&self) -> MutexGuard<'_, Totals> {
        // One number changes at a time.
        self.totals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ConnectionState::{Active, Idle, Upgraded};

    fn summary(ledger: &Ledger) -> (u64, u64, u64) {
        let Summary { idle, active, upgraded, .. } = ledger.snapshot().0;
        (idle, active, upgraded)
    }

    #[test]
    fn every_connection_is_in_one_state_until_it_goes() {
        let ledger = Ledger::new(Generation::FIRST);
        (0..3).for_each(|_| ledger.enter(Event::Accepted));
        ledger.enter(Event::Adopted);
        assert_eq!(summary(&ledger), (4, 0, 0));
        ledger.changed(1, Idle, Active);
        ledger.changed(2, Idle, Active);
        ledger.changed(2, Active, Upgraded);
        ledger.changed(1, Active, Active);
        assert_eq!(summary(&ledger), (2, 1, 1));
        ledger.leave(2, Upgraded, Event::Migrated);
        ledger.leave(1, Active, Event::Forced);
        assert_eq!(summary(&ledger), (2, 0, 0));
        ledger.leave(3, Idle, Event::Finished);
        ledger.leave(4, Idle, Event::Closed);
        ledger.request(4);
        assert_eq!(summary(&ledger), (0, 0, 0));
        let Totals { accepted, adopted, migrated, finished, closed, forced, requests, .. } = ledger.totals();
        assert_eq!((accepted, adopted, migrated, finished, closed, forced, requests), (3, 1, 1, 1, 1, 1, 1));
    }

    /// Between the two steps of a change, as another thread sees it.
    #[test]
    fn a_snapshot_never_has_more_connections_than_are_open() {
        let ledger = Ledger::new(Generation::FIRST);
        ledger.enter(Event::Accepted);
        ledger.count(1, Active, 2);
        assert_eq!(summary(&ledger), (0, 1, 0));
        ledger.count(1, Active, -1);
        ledger.count(1, Upgraded, 1);
        assert_eq!(summary(&ledger), (0, 1, 0), "it becomes upgraded in the next step");
        ledger.count(2, Active, -2);
        assert_eq!(summary(&ledger), (0, 0, 1));
    }

    /// Also of connections that count in one place, and beyond the last one.
    #[test]
    fn each_connection_counts_once_wherever_it_does() {
        let ledger = Ledger::new(Generation::FIRST);
        let ids = 0..3 * SHARES as u64;
        for id in ids.clone() {
            ledger.enter(Event::Accepted);
            ledger.request(id);
            ledger.changed(id, Idle, Active);
        }
        let all = ids.end;
        assert_eq!((summary(&ledger), ledger.totals().requests), ((0, all, 0), all));
        ids.for_each(|id| ledger.changed(id, Active, Idle));
        assert_eq!(summary(&ledger), (all, 0, 0));
    }
}
