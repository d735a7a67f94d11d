//! `examples/observability` with a real Prometheus: its dashboard and its alerts, through four handoffs and a
//! rollback.
//!
//! Deliberately absent: Grafana. What it asks is asked here.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use integration_tests::client::get;
use integration_tests::process::needs::{CURL, PROMETHEUS, have};
use integration_tests::{Handover, Readme, SOON, Sandbox, Service, Way, eventually, hotctl};
use serde_json::Value;

fn example(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/observability").join(file)
}

fn read(file: &str) -> String {
    fs::read_to_string(example(file)).expect("it is in this repository")
}

/// A Prometheus that scrapes the service five times a second.
struct Prometheus<'a> {
    sandbox: &'a Sandbox,
    address: SocketAddr,
}

impl<'a> Prometheus<'a> {
    fn start(sandbox: &'a Sandbox, target: SocketAddr) -> Self {
        // Free a moment ago.
        let listener = TcpListener::bind("127.0.0.1:0").expect("some port is free");
        let address = listener.local_addr().expect("a bound socket has an address");
        drop(listener);
        let config = read("prometheus.yml")
            .replace("127.0.0.1:8080", &target.to_string())
            .replace(": 15s", ": 200ms")
            .replace("alerts.yml", &example("alerts.yml").display().to_string());
        let file = sandbox.path().join("prometheus.yml");
        fs::write(&file, config).expect("the sandbox is ours");
        let (mut command, _) = sandbox.command(Path::new("prometheus"));
        command.arg(format!("--config.file={}", file.display()));
        command.arg(format!("--storage.tsdb.path={}", sandbox.path().join("tsdb").display()));
        command.arg(format!("--web.listen-address={address}"));
        let _ends_with_the_sandbox = Service::run(sandbox, &mut command);
        let prometheus = Self { sandbox, address };
        eventually("the service is scraped", SOON, || {
            (!prometheus.try_query("hotupdate_requests_total")?.is_empty()).then_some(())
        });
        prometheus
    }

    /// `None` where it does not answer.
    fn try_ask(&self, path: &str, query: &str) -> Option<Value> {
        let (mut command, output) = self.sandbox.command(Path::new("curl"));
        let url = format!("http://{}/api/v1/{path}", self.address);
        command.args(["--silent", "--get", &url, "--data-urlencode", &format!("query={query}")]);
        let answer: Value = serde_json::from_str(&self.sandbox.outcome(command, output).stdout).ok()?;
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        Some(answer["data"].clone())
    }

    fn try_query(&self, query: &str) -> Option<Vec<Value>> {
        Some(self.try_ask("query", query)?["result"].as_array()?.clone())
    }

    /// What it answers: a list of series.
    fn query(&self, query: &str) -> Vec<Value> {
        self.try_query(query).unwrap_or_else(|| panic!("Prometheus does not answer {query}"))
    }

    /// The one value of the one series.
    fn value(&self, query: &str) -> f64 {
        let series = self.query(query);
        assert_eq!(series.len(), 1, "{query}: {series:?}");
        let value = series[0]["value"][1].as_str().expect("a value is text");
        value.parse().expect("it is a number")
    }

    fn alerts(&self) -> Vec<String> {
        let alerts = self.try_ask("alerts", "").expect("Prometheus answers");
        let alerts = alerts["alerts"].as_array().expect("a list").iter();
        alerts.filter_map(|alert| Some(alert["labels"]["alertname"].as_str()?.to_owned())).collect()
    }
}

/// Every `expr` in it.
fn expressions(value: &Value) -> Vec<String> {
    match value {
        Value::Object(fields) => {
            let own = fields.get("expr").and_then(Value::as_str).map(str::to_owned);
            own.into_iter().chain(fields.values().flat_map(expressions)).collect()
        }
        Value::Array(items) => items.iter().flat_map(expressions).collect(),
        _ => Vec::new(),
    }
}

#[test]
fn one_series_through_four_handoffs_and_a_rollback() {
    if !have(&[PROMETHEUS, CURL]) {
        return;
    }
    let sandbox = Sandbox::new();
    let arguments = ["--probation", "60"];
    let first = Service::start(&sandbox, "v1", &arguments).wait_serving();
    let prometheus = Prometheus::start(&sandbox, first.http);
    let is_over = AtomicBool::new(false);
    let requests = AtomicU64::new(0);

    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !is_over.load(Relaxed) {
                    get(first.http, "/?sleep=0.01").expect("the service answers at every instant");
                    requests.fetch_add(1, Relaxed);
                }
            });
        }
        let mut serving = first;
        for generation in 2..=5 {
            serving = Handover::run(&sandbox, Way::ByHand, serving, &format!("v{generation}"), &arguments).to;
            // One that asks which process answers.
            requests.fetch_add(1, Relaxed);
            eventually("the new version is scraped", SOON, || {
                let build = format!("hotupdate_build_info{{version=\"v{generation}\"}}");
                (prometheus.query(&build).len() == 1).then_some(())
            });
        }
        let _ = hotctl(&sandbox, &["rollback"]).expect_success();
        eventually("the version before is scraped again", SOON, || {
            (prometheus.query("hotupdate_build_info{version=\"v4\"}").len() == 1).then_some(())
        });
        is_over.store(true, Relaxed);
    });

    // Nothing is lost: what clients have asked, and Prometheus itself, is what was counted, but for the last
    // scrapes.
    let requests = requests.into_inner() as f64;
    eventually("everything was scraped", SOON, || {
        let counted = prometheus.value("hotupdate_requests_total");
        let scrapes = prometheus.value("count_over_time(up[1h])");
        let scraped = counted - requests;
        assert!(scraped <= scrapes + 1.0, "{counted} counted, {requests} requests, {scrapes} scrapes");
        (scraped >= scrapes - 2.0).then_some(())
    });
    // Nothing goes back, and there is one series of each.
    for (name, series) in
        [("hotupdate_requests_total", 1), ("hotupdate_connections_total", 6), ("hotupdate_handoffs_total", 4)]
    {
        let resets = prometheus.query(&format!("resets({name}[1h])"));
        assert_eq!(resets.len(), series, "{name}: {resets:?}");
        assert!(resets.iter().all(|one| one["value"][1] == "0"), "{name}: {resets:?}");
    }
    let handoffs =
        |result: &str| prometheus.value(&format!("hotupdate_handoffs_total{{result=\"{result}\"}}"));
    eventually("the handoffs are scraped", SOON, || (handoffs("rolled_back") == 1.0).then_some(()));
    assert_eq!((handoffs("served"), handoffs("failed"), handoffs("took_over")), (4.0, 0.0, 0.0));

    // The dashboard, as Grafana would ask.
    let dashboard: Value = serde_json::from_str(&read("dashboard.json")).expect("it is JSON");
    let asked = expressions(&dashboard);
    assert!(asked.len() >= 8, "{asked:?}");
    for expression in asked {
        let expression = [("$job", ".*"), ("$instance", ".*"), ("$__rate_interval", "1m"), ("[1m]", "[10m]")]
            .into_iter()
            .fold(expression, |expression, (variable, value)| expression.replace(variable, value));
        assert!(!prometheus.query(&expression).is_empty(), "nothing to show: {expression}");
    }
    for variable in ["job", "instance"] {
        let label = format!("count by ({variable}) (hotupdate_build_info)");
        assert!(!prometheus.query(&label).is_empty(), "{label}");
    }

    // The alerts: this one, and none besides.
    eventually("the rollback is noticed", SOON, || {
        prometheus.alerts().contains(&"HotupdateRolledBack".to_owned()).then_some(())
    });
    let wrong = ["HotupdateHandoffFailed", "HotupdateNewVersionDied", "HotupdateConnectionsForced"];
    let alerts = prometheus.alerts();
    assert!(!alerts.iter().any(|alert| wrong.contains(&alert.as_str())), "{alerts:?}");
}

#[test]
fn the_alerts_are_what_their_tests_say() {
    if !have(&[PROMETHEUS]) {
        return;
    }
    let sandbox = Sandbox::new();
    let (mut command, output) = sandbox.command(Path::new("bash"));
    let script = Readme::of("examples/observability").commands("check");
    command.args(["-euo", "pipefail", "-c", &script]).current_dir(example("."));
    let outcome = sandbox.outcome(command, output);
    assert_eq!(outcome.code(), 0, "{}\n{}", outcome.stdout, outcome.stderr);
    assert!(outcome.took < Duration::from_secs(60), "{outcome:?}");
}
