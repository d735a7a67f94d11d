//! The counts of a process as metrics, with the facade [`metrics`](https://docs.rs/metrics): the feature
//! `metrics`.
//!
//! Deliberately absent: an exporter. The application installs one **before** [`join`](crate::join()); what
//! has none costs an atomic operation less and is shown nowhere.
//!
//! | metric | kind | labels | what |
//! |---|---|---|---|
//! | `hotupdate_connections` | gauge | `generation`, `state` = `idle`, `active`, `upgraded` | connections that are open |
//! | `hotupdate_connections_total` | counter | `generation`, `event` = `accepted`, `adopted`, `migrated`, `finished`, `closed`, `forced` | what became of connections, see [`Totals`] |
//! | `hotupdate_goaways_total` | counter | `generation`, `reason` = `not_accepted`, `streams`, `client`, `settings` | connections of HTTP/2 that were told to leave because they could not move, see [`GoAways`](hotupdate_proto::GoAways) |
//! | `hotupdate_requests_total` | counter | `generation` | requests |
//! | `hotupdate_handoffs_total` | counter | `generation`, `result` = `served`, `failed`, `rolled_back`, `took_over` | how handoffs ended, counted by the process that serves afterwards |
//! | `hotupdate_gap_seconds` | histogram | `generation` | the time in which no process accepted, one value a handoff, in seconds |
//!
//! A process tells its own generation exactly, at every moment, and as the serving process also those of its
//! predecessors, as they said last: their own exporter has gone with the listener.
//!
//! ```
//! # #[cfg(feature = "metrics")] {
//! let recorder = metrics::NoopRecorder; // an exporter's, such as that of `metrics-exporter-prometheus`
//! metrics::set_global_recorder(recorder).expect("no other recorder is installed");
//! // … and only then `hotupdate::join`.
//! # }
//! ```

use hotupdate_proto::{ConnectionState, Generation, Summary, Totals};

/// How a connection came in or went out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Accepted,
    Adopted,
    Migrated,
    Finished,
    Closed,
    Forced,
}

#[cfg(feature = "metrics")]
mod facade {
    use std::collections::HashMap;
    use std::sync::{Mutex, PoisonError};
    use std::time::Duration;

    use metrics::{
        Counter, Gauge, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
    };

    use super::{ConnectionState, Event, Generation, Summary, Totals};

    const CONNECTIONS: &str = "hotupdate_connections";
    const CONNECTIONS_TOTAL: &str = "hotupdate_connections_total";
    const GOAWAYS: &str = "hotupdate_goaways_total";
    const REQUESTS: &str = "hotupdate_requests_total";
    const HANDOFFS: &str = "hotupdate_handoffs_total";
    const GAP: &str = "hotupdate_gap_seconds";

    /// The handles of one generation, looked up once: what happens with every request must not look up a
    /// name.
    struct Handles {
        states: [Gauge; 3],
        events: [Counter; 6],
        requests: Counter,
    }

    impl Handles {
        fn new(generation: Generation) -> Self {
            let generation = generation.to_string();
            let of = || generation.clone();
            let state = |state: &'static str| gauge!(CONNECTIONS, "generation" => of(), "state" => state);
            let event =
                |event: &'static str| counter!(CONNECTIONS_TOTAL, "generation" => of(), "event" => event);
            Self {
                states: ["idle", "active", "upgraded"].map(state),
                events: ["accepted", "adopted", "migrated", "finished", "closed", "forced"].map(event),
                requests: counter!(REQUESTS, "generation" => of()),
            }
        }

        /// As a predecessor said last.
        fn set(&self, connections: Summary, totals: Totals) {
            let Summary { idle, active, upgraded, .. } = connections;
            let Totals { accepted, adopted, migrated, finished, closed, forced, requests, .. } = totals;
            // Exact up to 2^53.
            self.states.iter().zip([idle, active, upgraded]).for_each(|(gauge, n)| gauge.set(n as f64));
            let events = [accepted, adopted, migrated, finished, closed, forced];
            self.events.iter().zip(events).for_each(|(counter, n)| counter.absolute(n));
            self.requests.absolute(requests);
        }
    }

    /// What a process tells.
    pub(crate) struct Metrics {
        generation: Generation,
        ours: Handles,
        predecessors: Mutex<HashMap<Generation, Handles>>,
    }

    impl Metrics {
        pub(crate) fn new(generation: Generation) -> Self {
            describe_gauge!(CONNECTIONS, "connections that are open");
            describe_counter!(CONNECTIONS_TOTAL, "what became of connections");
            describe_counter!(GOAWAYS, "connections of HTTP/2 that were told to leave");
            describe_counter!(REQUESTS, "requests");
            describe_counter!(HANDOFFS, "how handoffs ended");
            describe_histogram!(GAP, metrics::Unit::Seconds, "the time in which no process accepted");
            Self { generation, ours: Handles::new(generation), predecessors: Mutex::default() }
        }

        pub(crate) fn count(&self, event: Event) {
            self.ours.events[event as usize].increment(1);
        }

        pub(crate) fn goaway(&self, reason: &'static str) {
            counter!(GOAWAYS, "generation" => self.generation.to_string(), "reason" => reason).increment(1);
        }

        pub(crate) fn request(&self) {
            self.ours.requests.increment(1);
        }

        /// A connection changes its state, comes (from nothing), or goes (to nothing).
        pub(crate) fn state(&self, from: Option<ConnectionState>, to: Option<ConnectionState>) {
            if let Some(from) = from {
                self.ours.states[from as usize].decrement(1.0);
            }
            if let Some(to) = to {
                self.ours.states[to as usize].increment(1.0);
            }
        }

        pub(crate) fn handoff(&self, result: &'static str, gap_ns: Option<u64>) {
            let generation = self.generation.to_string();
            counter!(HANDOFFS, "generation" => generation.clone(), "result" => result).increment(1);
            if let Some(gap_ns) = gap_ns {
                histogram!(GAP, "generation" => generation).record(Duration::from_nanos(gap_ns));
            }
        }

        pub(crate) fn predecessor(&self, generation: Generation, connections: Summary, totals: Totals) {
            let mut all = self.predecessors.lock().unwrap_or_else(PoisonError::into_inner);
            all.entry(generation).or_insert_with(|| Handles::new(generation)).set(connections, totals);
        }

        /// A predecessor is gone, and nothing is open in it: its counters stay as they are.
        pub(crate) fn forget(&self, generation: Generation) {
            let mut all = self.predecessors.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(handles) = all.remove(&generation) {
                handles.states.iter().for_each(|gauge| gauge.set(0.0));
            }
        }
    }

    impl std::fmt::Debug for Metrics {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.debug_tuple("Metrics").field(&self.generation).finish()
        }
    }
}

#[cfg(feature = "metrics")]
pub(crate) use facade::Metrics;

/// Without the feature nothing is told.
#[cfg(not(feature = "metrics"))]
#[derive(Debug)]
pub(crate) struct Metrics;

#[cfg(not(feature = "metrics"))]
#[allow(clippy::unused_self, reason = "the same face as with the feature")]
impl Metrics {
    pub(crate) fn new(_: Generation) -> Self {
        Self
    }

    pub(crate) fn count(&self, _: Event) {}

    pub(crate) fn goaway(&self, _: &'static str) {}

    pub(crate) fn request(&self) {}

    pub(crate) fn state(&self, _: Option<ConnectionState>, _: Option<ConnectionState>) {}

    pub(crate) fn handoff(&self, _: &'static str, _: Option<u64>) {}

    pub(crate) fn predecessor(&self, _: Generation, _: Summary, _: Totals) {}

    pub(crate) fn forget(&self, _: Generation) {}
}
