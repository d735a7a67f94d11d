//! `GET /metrics`: the figures are right, before a handoff, after it, and after a failed one; and logs for
//! programs.
//!
//! Deliberately absent: load. Each request is one that is counted here, too.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use integration_tests::client::{InFlight, get};
use integration_tests::process::eventually;
use integration_tests::{Handover, SOON, Sandbox, Service, Serving, Status, Way, hotctl};

/// Samples by name and labels, as they stand there; the labels of a name are sorted.
fn scrape(address: SocketAddr) -> anyhow::Result<BTreeMap<String, f64>> {
    let text = get(address, "/metrics")?;
    let samples = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let mut all = BTreeMap::new();
    for line in samples {
        let (series, value) = line.rsplit_once(' ').expect("a sample is a series and a value");
        let (name, labels) = series.trim_end_matches('}').split_once('{').unwrap_or((series, ""));
        let mut labels: Vec<_> = labels.split(',').collect();
        labels.sort_unstable();
        let before = all.insert(format!("{name}{{{}}}", labels.join(",")), value.parse()?);
        assert_eq!(before, None, "twice in one answer: {line}");
    }
    Ok(all)
}

fn connections(event: &str, generation: u64) -> String {
    format!("hotupdate_generation_connections_total{{event=\"{event}\",generation=\"{generation}\"}}")
}

fn of(name: &str, generation: u64) -> String {
    format!("{name}{{generation=\"{generation}\"}}")
}

fn handoffs(result: &str) -> String {
    format!("hotupdate_handoffs_total{{result=\"{result}\"}}")
}

/// What the whole service has counted.
const REQUESTS: &str = "hotupdate_requests_total{}";

fn state(state: &str, generation: u64) -> String {
    format!("hotupdate_connections{{generation=\"{generation}\",state=\"{state}\"}}")
}

fn entered(seen: &BTreeMap<String, f64>, generation: u64) -> f64 {
    ["accepted", "adopted"].map(|event| seen[&connections(event, generation)]).iter().sum()
}

fn ended(seen: &BTreeMap<String, f64>, generation: u64) -> f64 {
    let events = ["finished", "migrated", "closed", "forced"];
    events.map(|event| seen[&connections(event, generation)]).iter().sum()
}

#[test]
fn the_figures_are_right_before_and_after_a_handoff() -> anyhow::Result<()> {
    let sandbox = Sandbox::new();
    let arguments = ["--probation", "0"];
    let first = Service::start(&sandbox, "v1", &arguments).wait_serving();
    for _ in 0..5 {
        get(first.http, "/version")?;
    }
    let slow = InFlight::start(first.http, Duration::from_secs(3));
    // The connection of a request that was answered ends a moment after its client has gone.
    let before = eventually("five have finished", SOON, || {
        let seen = scrape(first.http).ok()?;
        // This scrape is the only one that is open, beside the slow request.
        let open = (seen.get(&state("active", 1))?, seen.get(&state("idle", 1))?);
        let balanced = entered(&seen, 1) == ended(&seen, 1) + 2.0;
        let one_each = seen.get(&of("hotupdate_generation_requests_total", 1))? == &entered(&seen, 1);
        (open == (&2.0, &0.0) && balanced && one_each).then_some(seen)
    });
    let accepted = before[&connections("accepted", 1)];
    assert!(accepted >= 7.0, "{before:?}");
    for event in ["adopted", "migrated", "closed", "forced"] {
        assert_eq!(before[&connections(event, 1)], 0.0, "{event}: {before:?}");
    }

    // One that fails is counted by the process that serves on.
    let broken = ["--fail-before-ready", "exit"];
    assert_eq!(sandbox.handoff("broken", &broken).code(), 1);
    eventually("the failure is counted", SOON, || {
        (scrape(first.http).ok()?[&handoffs("failed")] == 1.0).then_some(())
    });

    let second = Handover::run(&sandbox, Way::ByHand, first, "v2", &arguments).to;
    let generation = second.generation;
    // What is shown may be a second old.
    let during = eventually("the predecessor has told, and the handoff is counted", SOON, || {
        let seen = scrape(first.http).ok()?;
        let counted = seen[&handoffs("served")] == 1.0;
        (seen.get(&state("active", 1)) == Some(&1.0) && counted).then_some(seen)
    });
    assert_eq!(during[&handoffs("failed")], 1.0, "{during:?}");
    let build = |generation: u64, version: &str| {
        let library = env!("CARGO_PKG_VERSION");
        format!(
            "hotupdate_build_info{{generation=\"{generation}\",hotupdate=\"{library}\",version=\"{version}\"}}"
        )
    };
    assert_eq!((before[&build(1, "v1")], during[&build(generation, "v2")]), (1.0, 1.0), "{during:?}");
    let gap =
        Status::ask(&sandbox.control())?.last_handoff.and_then(|handoff| handoff.gap_ns).expect("a gap");
    let shown = during["hotupdate_last_gap_seconds{}"];
    assert!((shown - Duration::from_nanos(gap).as_secs_f64()).abs() < 1e-9, "{shown} s is not {gap} ns");

    slow.answer()?;
    let after = eventually("the predecessor has ended", SOON, || {
        let seen = scrape(first.http).ok()?;
        let open = ["idle", "active", "upgraded"].map(|name| seen[&state(name, 1)]).iter().sum::<f64>();
        // A scrape takes one figure after the other, so the first one with no connection may have older
        // counts.
        (open == 0.0 && ended(&seen, 1) == entered(&seen, 1)).then_some(seen)
    });
    // Its last word stays.
    let entered = entered(&after, 1);
    assert!(
        entered > accepted && after[&of("hotupdate_generation_requests_total", 1)] >= entered,
        "{after:?}"
    );
    let moved = after[&connections("migrated", 1)];
    assert_eq!(after[&connections("adopted", generation)], moved, "{after:?}");
    Ok(())
}

/// What every scrape has shown of the service so far, and how many requests there were besides.
struct Watched {
    address: SocketAddr,
    last: BTreeMap<String, f64>,
    requests: f64,
}

impl Watched {
    fn new(address: SocketAddr) -> Self {
        Self { address, last: BTreeMap::new(), requests: 0.0 }
    }

    fn request(&mut self) {
        get(self.address, "/version").expect("the service answers");
        self.requests += 1.0;
    }

    /// Replaces the process that serves, and asks which one answers.
    fn hand_over(&mut self, sandbox: &Sandbox, from: Serving, version: &str) -> Serving {
        let to = Handover::run(sandbox, Way::ByHand, from, version, &["--probation", "60"]).to;
        self.requests += 1.0;
        to
    }

    /// A scrape is a request, too. Nothing that is counted of the whole service is less than it was before.
    fn scrape(&mut self) -> BTreeMap<String, f64> {
        let seen = scrape(self.address).expect("the service answers");
        self.requests += 1.0;
        let service: BTreeMap<_, _> = seen
            .iter()
            .filter(|(name, _)| name.contains("_total{") && !name.contains("generation"))
            .map(|(name, value)| (name.clone(), *value))
            .collect();
        for (name, before) in &self.last {
            let now = service.get(name).unwrap_or_else(|| panic!("{name} was {before} and is not there"));
            assert!(now >= before, "{name} was {before} and is {now}");
        }
        assert!(service[REQUESTS] <= self.requests, "{} of {}", service[REQUESTS], self.requests);
        self.last = service;
        seen
    }

    /// Waits until everything until now is in a scrape.
    fn is_complete(&mut self) {
        let before = self.requests;
        eventually("every request is counted", SOON, || (self.scrape()[REQUESTS] >= before).then_some(()));
    }
}

#[test]
fn one_series_goes_on_through_handoffs_and_a_rollback() {
    let sandbox = Sandbox::new();
    let first = Service::start(&sandbox, "v1", &["--probation", "60"]).wait_serving();
    let mut watched = Watched::new(first.http);
    let mut serving = first;
    for generation in 2..=4 {
        (0..5).for_each(|_| watched.request());
        watched.scrape();
        // In flight in the old process, and counted by it when the new one serves.
        let slow = InFlight::start(serving.http, Duration::from_millis(300));
        watched.requests += 1.0;
        serving = watched.hand_over(&sandbox, serving, &format!("v{generation}"));
        let seen = watched.scrape();
        assert!(seen[&handoffs("served")] <= f64::from(generation) - 1.0);
        slow.answer().expect("it is answered");
        (0..3).for_each(|_| watched.request());
    }
    watched.is_complete();
    let _ = hotctl(&sandbox, &["rollback"]).expect_success();
    watched.request();
    watched.is_complete();
    let seen = watched.scrape();
    assert_eq!((seen[&handoffs("served")], seen[&handoffs("rolled_back")]), (3.0, 1.0), "{seen:?}");
    // It goes on from the one that serves again.
    let _ = watched.hand_over(&sandbox, serving, "v5");
    watched.request();
    watched.is_complete();
    assert_eq!(watched.last[&handoffs("served")], 4.0, "{:?}", watched.last);
}

#[test]
fn one_series_goes_on_when_the_new_version_dies() {
    let sandbox = Sandbox::new();
    let first = Service::start(&sandbox, "v1", &["--probation", "60"]).wait_serving();
    let mut watched = Watched::new(first.http);
    (0..5).for_each(|_| watched.request());
    watched.is_complete();
    let second = watched.hand_over(&sandbox, first, "v2");
    (0..20).for_each(|_| watched.request());
    // What was shown by the process that dies is what the other one goes on from.
    watched.is_complete();
    Service::of(&sandbox, second.pid).kill();
    eventually("the first one serves again", SOON, || {
        (Status::ask(&sandbox.control()).ok()?.serving.generation == 1).then_some(())
    });
    watched.request();
    watched.is_complete();
    let seen = watched.scrape();
    assert_eq!((seen[&handoffs("served")], seen[&handoffs("took_over")]), (1.0, 1.0), "{seen:?}");
}

/// A program reads them, so that one line is one object, whatever happens.
#[test]
fn each_line_of_a_json_log_is_an_object() -> anyhow::Result<()> {
    let sandbox = Sandbox::new();
    let arguments = ["--log", "json", "--probation", "0"];
    let first = Service::start(&sandbox, "v1", &arguments).wait_serving();
    let _ = Handover::run(&sandbox, Way::ByHand, first, "v2", &arguments);
    Service::of(&sandbox, first.pid).wait_exit();
    let transcript = sandbox.transcript();
    let lines: Vec<_> = transcript.lines().filter(|line| line.contains("INFO")).collect();
    assert!(lines.len() > 3, "{transcript}");
    let mut handoffs = std::collections::BTreeSet::new();
    for line in lines {
        let line: serde_json::Value = serde_json::from_str(line)?;
        for field in ["timestamp", "level", "target", "message"] {
            assert!(line[field].is_string(), "no {field}: {line}");
        }
        handoffs.extend(line["span"]["handoff"].as_str().map(str::to_owned));
    }
    assert_eq!(handoffs.len(), 1, "both processes call the handoff the same: {transcript}");
    Ok(())
}
