//! `systemctl stop` and `restart` while two versions run: what is in flight is answered, and the version that
//! is left serves.

use std::time::Duration;

use integration_tests::client::{InFlight, get, who_answers};
use integration_tests::process::needs::have;
use integration_tests::systemd::{NEEDS, PROGRAMS};
use integration_tests::{Network, SOON, Sandbox, Serving, Status, Systemd, eventually};

/// A request that is in flight while a unit stops.
const LONG: Duration = Duration::from_secs(4);

/// One unit, whose new versions come by `systemctl reload`.
fn unit(probation: &str) -> String {
    let command = format!(
        "{PROGRAMS}/axum-server --listen 127.0.0.1:8080 --control /run/shop/control.sock --probation {probation}"
    );
    format!(
        "[Service]
Type=notify
NotifyAccess=all
RuntimeDirectory=shop
ExecStart={command} --app-version v1
ExecReload={PROGRAMS}/hotctl --socket /run/shop/control.sock handoff -- {command} --app-version v2
TimeoutStopSec=30
"
    )
}

/// A unit for each version.
fn template() -> String {
    let command = format!(
        "{PROGRAMS}/axum-server --listen 127.0.0.1:8080 --control /run/app/control.sock --probation 60"
    );
    format!(
        "[Service]
Type=notify
NotifyAccess=all
RuntimeDirectory=app
RuntimeDirectoryPreserve=yes
ExecStart={command} --app-version %i
TimeoutStopSec=30
"
    )
}

struct Shop<'a>(Systemd<'a>);

impl Shop<'_> {
    fn status(&self, folder: &str) -> anyhow::Result<Status> {
        Status::ask(&self.0.root().join(format!("run/{folder}/control.sock")))
    }

    /// A request that has arrived, and so many seconds later is answered.
    #[track_caller]
    fn in_flight(&self, serving: Serving) -> InFlight {
        let slow = self.0.in_its_network(|| InFlight::start(serving.http, LONG));
        eventually("the request is in flight", SOON, || {
            (self.status("shop").ok()?.serving.connections.active == 1).then_some(())
        });
        slow
    }

    /// Stops or restarts the unit: what was in flight is answered, and nothing failed.
    #[track_caller]
    fn stops(&self, verb: &str, slow: InFlight, by: Serving) {
        self.0.systemctl(&[verb, "shop"]);
        let (_, took) = slow.answer().unwrap_or_else(|error| panic!("{verb}: {error:#}"));
        assert!(took >= LONG, "{verb}: generation {} has cut it to {took:?}", by.generation);
        assert_eq!(self.0.show("shop", "Result"), "success");
    }
}

/// systemd says SIGTERM to both, and again to the one that is left when the main process has ended.
#[test]
fn a_request_in_either_version_is_answered() {
    if !have(&NEEDS) {
        return;
    }
    let sandbox = Sandbox::new();
    let shop = Shop(Systemd::boot(&sandbox, Network::Own, &[("shop.service", &unit("60"))]));
    // In the new version, while the old one could take over again.
    shop.0.systemctl(&["start", "shop"]);
    let _first = shop.0.serves("shop", 1);
    shop.0.systemctl(&["reload", "shop"]);
    let second = shop.0.serves("shop", 2);
    shop.stops("restart", shop.in_flight(second), second);
    let third = shop.0.serves("shop", 3);
    assert_eq!(third.generation, 1, "a first start");
    assert_eq!(shop.0.in_its_network(|| get(third.http, "/version")).expect("it answers"), "v1");
    // In the old version: both end.
    let slow = shop.in_flight(third);
    shop.0.systemctl(&["reload", "shop"]);
    let fourth = shop.0.serves("shop", 4);
    shop.stops("stop", slow, third);
    assert_eq!(shop.0.show("shop", "ActiveState"), "inactive");
    assert!(shop.0.in_its_network(|| who_answers(fourth.http)).is_err(), "the service has ended");
    let journal = shop.0.journal("shop");
    let ends: Vec<_> = journal.lines().filter(|line| line.starts_with("drained ")).collect();
    assert!(ends.len() == 4 && ends.iter().all(|line| line.ends_with(" forced=0")), "{journal}");
    assert!(!journal.contains("SIGKILL"), "{journal}");

    // After the probation the new version is the main process, and the old one still drains.
    shop.0.write_unit("shop.service", &unit("0"));
    for (verb, count) in [("restart", 5), ("stop", 8)] {
        shop.0.systemctl(&["start", "shop"]);
        let old = shop.0.serves("shop", count);
        let slow = shop.in_flight(old);
        shop.0.systemctl(&["reload", "shop"]);
        let new = shop.0.serves("shop", count + 1);
        shop.0.wait_for("shop", "MainPID", &new.pid.to_string());
        shop.stops(verb, slow, old);
        if verb == "restart" {
            shop.0.systemctl(&["stop", "shop"]);
        }
    }
}

/// Updates, and then a request in flight in the version that is left. systemd waits for the end of a main
/// process if that is its own child, and else kills it.
fn a_stop_after_updates(probation: &str, options: &str, update: &[&str]) {
    const GENERATIONS: usize = 3;
    let sandbox = Sandbox::new();
    let unit = unit(probation) + options;
    let shop = Shop(Systemd::boot(&sandbox, Network::Own, &[("shop.service", &unit)]));
    shop.0.systemctl(&["start", "shop"]);
    let mut serving = shop.0.serves("shop", 1);
    for count in 2..=GENERATIONS {
        shop.0.systemctl(update);
        let entry = shop.0.root().join("proc").join(serving.pid.to_string());
        serving = shop.0.serves("shop", count);
        shop.0.wait_for("shop", "MainPID", &serving.pid.to_string());
        eventually("the version before has ended", SOON, || (!entry.exists()).then_some(()));
        assert_eq!(shop.0.show("shop", "ActiveState"), "active");
    }
    let group = format!("/sys/fs/cgroup{}/cgroup.procs", shop.0.show("shop", "ControlGroup"));
    let left = shop.0.run("cat", &[&group]).stdout;
    assert_eq!(left.trim(), serving.pid.to_string(), "nothing is left beside the version that serves");
    shop.stops("stop", shop.in_flight(serving), serving);
    assert_eq!(shop.0.show("shop", "ActiveState"), "inactive");
    let journal = shop.0.journal("shop");
    assert!(!journal.contains("SIGKILL") && !journal.contains("not our child"), "{journal}");
}

const RELOAD: [&str; 2] = ["reload", "shop"];
const HANGUP: [&str; 4] = ["kill", "--kill-whom=main", "--signal=HUP", "shop"];

#[test]
fn a_request_is_answered_after_updates_by_sighup() {
    if have(&NEEDS) {
        a_stop_after_updates("0.3", "", &HANGUP);
    }
}

#[test]
fn a_request_is_answered_after_updates_by_sighup_without_probation() {
    if have(&NEEDS) {
        a_stop_after_updates("0", "", &HANGUP);
    }
}

/// systemd says where it listens to the processes that it starts itself, and hears only one of them.
#[test]
fn a_request_is_answered_after_updates_by_sighup_of_a_unit_of_which_systemd_hears_the_main_process_only() {
    if have(&NEEDS) {
        a_stop_after_updates("0.3", "NotifyAccess=main\nDelegate=yes\n", &HANGUP);
    }
}

/// hotctl, which has started the new version, may still run when that one is established.
#[test]
fn a_request_is_answered_after_reloads_without_probation() {
    if have(&NEEDS) {
        a_stop_after_updates("0", "", &RELOAD);
    }
}

/// `app@v1`, then `app@v2`, and then not.
#[test]
fn the_unit_before_serves_again() {
    if !have(&NEEDS) {
        return;
    }
    let sandbox = Sandbox::new();
    let shop = Shop(Systemd::boot(&sandbox, Network::Own, &[("app@.service", &template())]));
    let version = |address| shop.0.in_its_network(|| get(address, "/version")).expect("the service answers");
    shop.0.systemctl(&["start", "app@v1"]);
    let first = shop.0.serves("app@v1", 1);
    shop.0.systemctl(&["start", "app@v2"]);
    let second = shop.0.serves("app@v2", 1);
    assert_eq!((second.http, version(first.http)), (first.http, "v2".to_owned()));

    shop.0.systemctl(&["stop", "app@v2"]);
    assert_eq!(version(first.http), "v1");
    let states = |unit| (shop.0.show(unit, "ActiveState"), shop.0.show(unit, "Result"));
    assert_eq!(states("app@v2"), ("inactive".to_owned(), "success".to_owned()));
    assert_eq!(states("app@v1").0, "active");
    let status = shop.status("app").expect("v1 serves");
    assert_eq!((status.serving.generation, status.serving.process.version.as_str()), (1, "v1"));

    // Again, and then all units at once.
    shop.0.systemctl(&["start", "app@v2"]);
    let _third = shop.0.serves("app@v2", 2);
    assert_eq!(version(first.http), "v2");
    shop.0.systemctl(&["stop", "app@*"]);
    for unit in ["app@v1", "app@v2"] {
        assert_eq!(states(unit), ("inactive".to_owned(), "success".to_owned()), "{unit}");
    }
    assert!(shop.0.in_its_network(|| who_answers(first.http)).is_err(), "the service has ended");
}

/// A successor that is told to stop before it serves, as the supervisor of another unit does.
#[test]
fn a_unit_that_starts_gives_up_at_once() {
    if !have(&NEEDS) {
        return;
    }
    let sandbox = Sandbox::new();
    let slow = format!(
        "[Service]\nExecStart=\nExecStart={PROGRAMS}/axum-server --listen 127.0.0.1:8080 \
         --control /run/app/control.sock --warm-up 600 --app-version v2\n"
    );
    let units = [("app@.service", &*template()), ("app@v2.service.d/slow.conf", &slow)];
    let shop = Shop(Systemd::boot(&sandbox, Network::Own, &units));
    shop.0.systemctl(&["start", "app@v1"]);
    let first = shop.0.serves("app@v1", 1);
    shop.0.systemctl(&["start", "--no-block", "app@v2"]);
    eventually("it warms up", SOON, || shop.0.journal("app@v2").contains("origin=inherited").then_some(()));
    shop.0.systemctl(&["stop", "app@v2"]);
    assert_eq!(shop.0.show("app@v2", "ActiveState"), "inactive");
    assert!(!shop.0.journal("app@v2").contains("SIGKILL"));
    assert!(shop.status("app").expect("v1 serves").successor.is_none());
    assert_eq!(shop.0.in_its_network(|| get(first.http, "/version")).expect("it answers"), "v1");
}
