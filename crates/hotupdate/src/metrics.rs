//! The counts of a process as metrics, with the facade [`metrics`](https://docs.rs/metrics): the feature
//! `metrics`.
//!
//! Deliberately absent: an exporter. The application installs one **before** [`join`](crate::join()); what
//! has none costs an atomic operation less and is shown nowhere.
//!
//! # The service
//!
//! One series for the whole service, without the label `generation`. It goes on through handoffs, rollbacks
//! and the death of a new version in its probation, and never goes back: the sum travels from process to
//! process, and a process that does not serve any more shows it as it was then. So `rate` and `increase` are
//! right, whatever was deployed meanwhile, and nothing is lost that was counted between the beginning of a
//! process and the first time that it was scraped. It is up to a second old. A service that stops begins at 0
//! when it starts again.
//!
//! | metric | kind | labels | what |
//! |---|---|---|---|
//! | `hotupdate_requests_total` | counter | | requests |
//! | `hotupdate_connections_total` | counter | `event` = `accepted`, `adopted`, `migrated`, `finished`, `closed`, `forced` | what became of connections, see [`Totals`]; one that moved twice is counted twice in `adopted` and `migrated`, and once in `accepted` |
//! | `hotupdate_relayed_total` | counter | | connections of HTTP/2 that moved while streams were open, which were relayed to the version before |
//! | `hotupdate_goaways_total` | counter | `reason` = `not_accepted`, `streams`, `client`, `settings` | connections of HTTP/2 that were told to leave because they could not move, see [`GoAways`](hotupdate_proto::GoAways) |
//! | `hotupdate_handoffs_total` | counter | `result` = `served`, `failed`, `rolled_back`, `took_over` | how handoffs ended |
//! | `hotupdate_last_gap_seconds` | gauge | | the time in which no process accepted, at the handoff to the process that was scraped |
//!
//! # Its processes
//!
//! A process tells its own generation exactly, at every moment, and as the serving process also those of its
//! predecessors, as they said last: their own exporter has gone with the listener. Such a series begins with
//! its generation, so what was counted before the first scrape is in none of its increases; use these to look
//! at a drain, and the ones above for rates.
//!
//! | metric | kind | labels | what |
//! |---|---|---|---|
//! | `hotupdate_build_info` | gauge, always 1 | `version`, `generation`, `hotupdate` | which version of the application, and of this library, the process is |
//! | `hotupdate_connections` | gauge | `generation`, `state` = `idle`, `active`, `upgraded` | connections that are open |
//! | `hotupdate_generation_connections_total` | counter | `generation`, `event` | as above, of one process |
//! | `hotupdate_generation_requests_total` | counter | `generation` | requests, of one process |
//! | `hotupdate_generation_tls_handshakes_total` | counter | `generation`, `version` = `1.2`, `1.3`, `none`; `result` = `full`, `resumed`, `failed`, `timed_out` | handshakes of `hotupdate_axum`'s HTTPS, of one process |
//!
//! ```
//! # #[cfg(feature = "metrics")] {
//! let recorder = metrics::NoopRecorder; // an exporter's, such as that of `metrics-exporter-prometheus`
//! metrics::set_global_recorder(recorder).expect("no other recorder is installed");
//! // … and only then `hotupdate::join`.
//! # }
//! ```

#[cfg(not(feature = "metrics"))]
use hotupdate_proto::counts::HandoffTotals;
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
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
    use std::sync::{Mutex, OnceLock, PoisonError};
    use std::time::Duration;

    use hotupdate_proto::counts::HandoffTotals;
    use metrics::{Counter, Gauge, counter, describe_counter, describe_gauge, gauge};
    use tokio::sync::Notify;

    use super::{ConnectionState, Event, Generation, Summary, Totals};

    const REQUESTS: &str = "hotupdate_requests_total";
    const CONNECTIONS: &str = "hotupdate_connections_total";
    const RELAYED: &str = "hotupdate_relayed_total";
    const GOAWAYS: &str = "hotupdate_goaways_total";
    const HANDOFFS: &str = "hotupdate_handoffs_total";
    const LAST_GAP: &str = "hotupdate_last_gap_seconds";
    const BUILD: &str = "hotupdate_build_info";
    const OPEN: &str = "hotupdate_connections";
    const OF_ONE: &str = "hotupdate_generation_connections_total";
    const REQUESTS_OF_ONE: &str = "hotupdate_generation_requests_total";
    const TLS_OF_ONE: &str = "hotupdate_generation_tls_handshakes_total";

    const EVENTS: [&str; 6] = ["accepted", "adopted", "migrated", "finished", "closed", "forced"];
    const RESULTS: [&str; 4] = ["served", "failed", "rolled_back", "took_over"];

    /// In the order of [`EVENTS`].
    fn events(totals: Totals) -> [u64; 6] {
        let Totals { accepted, adopted, migrated, finished, closed, forced, .. } = totals;
        [accepted, adopted, migrated, finished, closed, forced]
    }

    /// The handles of the whole service.
    struct ServiceHandles {
        events: [Counter; 6],
        requests: Counter,
        relayed: Counter,
        goaways: [Counter; 4],
        handoffs: [Counter; 4],
    }

    impl ServiceHandles {
        fn new() -> Self {
            Self {
                events: EVENTS.map(|event| counter!(CONNECTIONS, "event" => event)),
                requests: counter!(REQUESTS),
                relayed: counter!(RELAYED),
                goaways: Totals::default()
                    .goaways
                    .reasons()
                    .map(|(reason, _)| counter!(GOAWAYS, "reason" => reason)),
                handoffs: RESULTS.map(|result| counter!(HANDOFFS, "result" => result)),
            }
        }

        fn set(&self, totals: Totals, ended: HandoffTotals) {
            let HandoffTotals { served, failed, rolled_back, took_over, .. } = ended;
            self.events.iter().zip(events(totals)).for_each(|(counter, n)| counter.absolute(n));
            self.requests.absolute(totals.requests);
            self.relayed.absolute(totals.relayed);
            let goaways = totals.goaways.reasons();
            self.goaways.iter().zip(goaways).for_each(|(counter, (_, n))| counter.absolute(n));
            let ended = [served, failed, rolled_back, took_over];
            self.handoffs.iter().zip(ended).for_each(|(counter, n)| counter.absolute(n));
        }
    }

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
            let state = |state: &'static str| gauge!(OPEN, "generation" => of(), "state" => state);
            let event = |event: &'static str| counter!(OF_ONE, "generation" => of(), "event" => event);
            Self {
                states: ["idle", "active", "upgraded"].map(state),
                events: EVENTS.map(event),
                requests: counter!(REQUESTS_OF_ONE, "generation" => of()),
            }
        }

        /// As a predecessor said last.
        fn set(&self, connections: Summary, totals: Totals) {
            let Summary { idle, active, upgraded, .. } = connections;
            // Exact up to 2^53.
            self.states.iter().zip([idle, active, upgraded]).for_each(|(gauge, n)| gauge.set(n as f64));
            self.events.iter().zip(events(totals)).for_each(|(counter, n)| counter.absolute(n));
            self.requests.absolute(totals.requests);
        }
    }

    /// What a process tells.
    pub(crate) struct Metrics {
        generation: Generation,
        ours: Handles,
        predecessors: Mutex<HashMap<Generation, Handles>>,
        /// There are none until this process serves.
        service: OnceLock<ServiceHandles>,
        /// Something was counted since the driver looked last.
        is_changed: AtomicBool,
        change: Notify,
    }

    impl Metrics {
        pub(crate) fn new(generation: Generation) -> Self {
            describe_counter!(REQUESTS, "requests of the service");
            describe_counter!(CONNECTIONS, "what became of connections of the service");
            describe_counter!(RELAYED, "connections of HTTP/2 that moved while streams were open");
            describe_counter!(GOAWAYS, "connections of HTTP/2 that were told to leave");
            describe_counter!(HANDOFFS, "how handoffs ended");
            describe_gauge!(LAST_GAP, metrics::Unit::Seconds, "the time in which no process accepted");
            describe_gauge!(BUILD, "which version of what this process is");
            describe_gauge!(OPEN, "connections that are open in a process");
            describe_counter!(OF_ONE, "what became of connections of a process");
            describe_counter!(REQUESTS_OF_ONE, "requests of a process");
            describe_counter!(TLS_OF_ONE, "handshakes of TLS of a process");
            Self {
                generation,
                ours: Handles::new(generation),
                predecessors: Mutex::default(),
                service: OnceLock::new(),
                is_changed: AtomicBool::new(false),
                change: Notify::new(),
            }
        }

        /// Which version of the application this process is.
        pub(crate) fn build(&self, version: &str) {
            let (version, generation) = (version.to_owned(), self.generation.to_string());
            let library = env!("CARGO_PKG_VERSION");
            gauge!(BUILD, "version" => version, "generation" => generation, "hotupdate" => library).set(1.0);
        }

        pub(crate) fn count(&self, event: Event) {
            self.ours.events[event as usize].increment(1);
            self.changed();
        }

        /// A handshake costs so much more that the name is looked up.
        pub(crate) fn tls_handshake(&self, version: &'static str, result: &'static str) {
            let generation = self.generation.to_string();
            counter!(TLS_OF_ONE, "generation" => generation, "version" => version, "result" => result)
                .increment(1);
        }

        pub(crate) fn request(&self) {
            self.ours.requests.increment(1);
            self.changed();
        }

        /// There is something new to be said of the service. Mostly it is known already, which costs as
        /// little as a look at it.
        pub(crate) fn changed(&self) {
            if !self.is_changed.load(Relaxed) && !self.is_changed.swap(true, Relaxed) {
                self.change.notify_one();
            }
        }

        /// Waits for [`Self::changed`]. Safe to cancel.
        pub(crate) async fn until_changed(&self) {
            while !self.is_changed.swap(false, Relaxed) {
                self.change.notified().await;
            }
        }

        /// The sum of the whole service.
        pub(crate) fn service(&self, totals: Totals, ended: HandoffTotals) {
            self.service.get_or_init(ServiceHandles::new).set(totals, ended);
        }

        pub(crate) fn gap(&self, gap_ns: Option<u64>) {
            if let Some(gap_ns) = gap_ns {
                gauge!(LAST_GAP).set(Duration::from_nanos(gap_ns).as_secs_f64());
            }
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

        pub(crate) fn predecessor(&self, generation: Generation, connections: Summary, totals: Totals) {
            let mut all = self.predecessors.lock().unwrap_or_else(PoisonError::into_inner);
            all.entry(generation).or_insert_with(|| Handles::new(generation)).set(connections, totals);
            drop(all);
            self.changed();
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

    pub(crate) fn tls_handshake(&self, _: &'static str, _: &'static str) {}

    pub(crate) fn request(&self) {}

    pub(crate) fn state(&self, _: Option<ConnectionState>, _: Option<ConnectionState>) {}

    pub(crate) fn build(&self, _: &str) {}

    pub(crate) fn changed(&self) {}

    pub(crate) async fn until_changed(&self) {
        std::future::pending().await
    }

    pub(crate) fn service(&self, _: Totals, _: HandoffTotals) {}

    pub(crate) fn gap(&self, _: Option<u64>) {}

    pub(crate) fn predecessor(&self, _: Generation, _: Summary, _: Totals) {}

    pub(crate) fn forget(&self, _: Generation) {}
}
