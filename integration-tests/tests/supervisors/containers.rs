//! Containers of an image from scratch: one that is updated from within, and two that share a directory; and
//! the commands of `examples/containers`, as they stand.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use integration_tests::client::{InFlight, get};
use integration_tests::podman::{IMAGE, NEEDS};
use integration_tests::process::needs::{CURL, IP, have};
use integration_tests::process::{Outcome, free_address};
use integration_tests::readme::repository;
use integration_tests::{Podman, Readme, SOON, Sandbox, Status, eventually};

/// What a service has in containers: where it listens, and the folder that they share.
struct Shop<'a> {
    sandbox: &'a Sandbox,
    podman: Podman<'a>,
    http: SocketAddr,
}

impl<'a> Shop<'a> {
    #[track_caller]
    fn new(sandbox: &'a Sandbox) -> Self {
        let podman = Podman::new(sandbox);
        fs::create_dir(sandbox.path().join("shared")).expect("the sandbox is ours");
        Self { sandbox, podman, http: free_address() }
    }

    /// Starts a container whose process 1 is this command, which may have words before the server's.
    #[track_caller]
    fn run(&self, name: &str, options: &[&str], before: &[&str], server: &[String]) {
        let shared = format!("{}:/run/shop", self.sandbox.path().join("shared").display());
        let usual = ["run", "--detach", "--name", name, "--network", "host", "--volume", &shared];
        let hardened = ["--read-only", "--cap-drop", "all", "--security-opt", "no-new-privileges"];
        let mut all = [&usual[..], &hardened, options, &[IMAGE], before].concat();
        all.extend(server.iter().map(String::as_str));
        self.podman.podman(&all);
    }

    fn server(&self, version: &str) -> Vec<String> {
        self.server_with_probation(version, "0")
    }

    fn server_with_probation(&self, version: &str, seconds: &str) -> Vec<String> {
        let listen = self.http.to_string();
        ["axum-server", "--listen", &listen, "--app-version", version, "--probation", seconds]
            .map(str::to_owned)
            .to_vec()
    }

    fn status(&self) -> anyhow::Result<Status> {
        Status::ask(&self.sandbox.path().join("shared/control.sock"))
    }

    /// Stops a container while a request is in flight, which is answered.
    #[track_caller]
    fn stops(&self, container: &str) {
        let slow = InFlight::start(self.http, Duration::from_secs(5));
        eventually("the request is in flight", SOON, || {
            (self.status().ok()?.serving.connections.active == 1).then_some(())
        });
        self.podman.podman(&["stop", "--time", "30", container]);
        slow.answer().expect("what is in flight is answered");
        assert_eq!(self.podman.inspect(container, "State.ExitCode"), "0");
    }

    /// Waits until this version serves as this generation, and clients get it.
    #[track_caller]
    fn serves(&self, version: &str, generation: u64) {
        eventually(&format!("{version} serves"), SOON, || {
            let serving = self.status().ok()?.serving;
            (serving.state == "serving" && serving.generation == generation).then_some(())
        });
        assert_eq!(get(self.http, "/version").expect("the service answers"), version);
    }
}

/// Deploys from within; then a stop with a request in flight.
fn updates_from_within(deploys: u64, before: impl Fn(&Shop<'_>) -> Vec<String>) {
    if !have(&NEEDS) {
        return;
    }
    let sandbox = Sandbox::new();
    let shop = Shop::new(&sandbox);
    let before = before(&shop);
    shop.run("shop", &[], &before.iter().map(String::as_str).collect::<Vec<_>>(), &shop.server("v1"));
    shop.serves("v1", 1);
    let handoff = ["exec", "shop", "hotctl", "handoff", "--log", "/proc/1/fd/1", "--"];
    for generation in 2..=deploys + 1 {
        let version = format!("v{generation}");
        let server = shop.server(&version);
        let words: Vec<_> = handoff.into_iter().chain(server.iter().map(String::as_str)).collect();
        shop.podman.podman(&words);
        shop.serves(&version, generation);
        let said = format!("serving generation={generation}");
        assert!(shop.podman.logs("shop").contains(&said), "{}", shop.podman.logs("shop"));
    }
    shop.stops("shop");
}

#[test]
fn updates_from_within_under_a_keeper() {
    updates_from_within(3, |shop| {
        let listen = format!("http={}", shop.http);
        ["hotctl", "hold", "--listen", &listen, "--"].map(str::to_owned).to_vec()
    });
}

/// Process 1 is the first version, which stays when it has drained.
#[test]
fn ten_updates_from_within() {
    updates_from_within(10, |_| Vec::new());
}

/// What has drained stays, so that it is not started again, and does not take the service back.
#[test]
fn the_next_one_takes_over_and_the_last_one_is_not_restarted() {
    if !have(&NEEDS) {
        return;
    }
    let sandbox = Sandbox::new();
    let shop = Shop::new(&sandbox);
    let name = |generation: u64| format!("v{generation}");
    for generation in 1..=4 {
        let version = name(generation);
        shop.run(&version, &["--restart", "always"], &[], &shop.server(&version));
        shop.serves(&version, generation);
        let drained = eventually("the predecessors have drained", SOON, || {
            let predecessors = shop.status().ok()?.predecessors;
            predecessors.iter().all(|it| it.state == "drained").then_some(predecessors)
        });
        assert_eq!(drained.len(), (1..generation).count(), "{drained:?}");
    }
    for generation in 1..=4 {
        assert_eq!(shop.podman.inspect(&name(generation), "State.Running"), "true");
        assert_eq!(shop.podman.inspect(&name(generation), "RestartCount"), "0");
    }
    for generation in 1..=3 {
        shop.podman.podman(&["stop", "--time", "30", &name(generation)]);
        assert_eq!(shop.podman.inspect(&name(generation), "State.ExitCode"), "0");
        shop.serves("v4", 4);
    }
    shop.stops("v4");
}

/// As long as it can, the version before serves again.
#[test]
fn the_next_one_is_stopped_and_the_last_one_serves_again() {
    if !have(&NEEDS) {
        return;
    }
    let sandbox = Sandbox::new();
    let shop = Shop::new(&sandbox);
    for (generation, version) in [(1, "v1"), (2, "v2")] {
        shop.run(version, &["--restart", "on-failure"], &[], &shop.server_with_probation(version, "60"));
        shop.serves(version, generation);
    }
    let slow = InFlight::start(shop.http, Duration::from_secs(2));
    eventually("the request is in flight", SOON, || {
        (shop.status().ok()?.serving.connections.active == 1).then_some(())
    });
    shop.podman.podman(&["stop", "--time", "30", "v2"]);
    slow.answer().expect("what is in flight is answered");
    assert_eq!(shop.podman.inspect("v2", "State.ExitCode"), "0");
    shop.serves("v1", 1);
    shop.stops("v1");
}

fn commands(name: &str) -> String {
    Readme::of("examples/containers").commands(name)
}

/// Runs a script where port 8080 is free and no other process is, in a folder with what the README has in its
/// own.
#[track_caller]
fn walk(script: &str) -> Outcome {
    let sandbox = Sandbox::new();
    let podman = Podman::new(&sandbox);
    // The context of a build ends at its folder.
    let folder = sandbox.path().join("walk");
    fs::create_dir(&folder).expect("the sandbox is ours");
    fs::rename(podman.image(), folder.join("image")).expect("the sandbox is ours");
    symlink(repository().join("examples"), folder.join("examples")).expect("the sandbox is ours");
    let begins = "ip link set lo up\ntrap 'podman rm --all --force --time 0 >/dev/null' EXIT";
    let waits = "until curl -s http://127.0.0.1:8080/version >/dev/null; do sleep 0.05; done";
    fs::write(folder.join("walk"), format!("{begins}\nwaits() {{ {waits}; }}\n{script}"))
        .expect("it is ours");
    let (mut command, output) = sandbox.command(Path::new("unshare"));
    command.args(["--net", "--pid", "--mount", "--fork", "--kill-child", "--mount-proc"]);
    command.args(["bash", "-euo", "pipefail", "walk"]).envs(podman.environment()).current_dir(folder);
    let outcome = sandbox.outcome(command, output);
    assert_eq!(outcome.code(), 0, "{}\n{}", outcome.stdout, outcome.stderr);
    outcome
}

#[test]
fn the_readme_updates_one_container() {
    if !have(&NEEDS) || !have(&[CURL, IP]) {
        return;
    }
    let [image, one, update] = ["image", "one", "update"].map(commands);
    let outcome = walk(&format!(
        "{image}\n{one}\nwaits\ncurl -s http://127.0.0.1:8080/version; echo\n{update}
        curl -s http://127.0.0.1:8080/version; echo
        podman kill --signal HUP shop
        until podman exec shop hotctl status | grep -q '^3 .*serving'; do sleep 0.05; done
        podman stop shop; podman logs shop 2>&1"
    ));
    let lines: Vec<_> = outcome.stdout.lines().collect();
    assert!(lines.contains(&env!("CARGO_PKG_VERSION")) && lines.contains(&"v2"), "{}", outcome.stdout);
    assert!(outcome.stdout.contains("serving generation=2"), "{}", outcome.stdout);
    assert!(outcome.stdout.contains("the service has stopped; the sockets are closed"), "{}", outcome.stdout);
}

#[test]
fn the_readme_replaces_a_container() {
    if !have(&NEEDS) || !have(&[CURL, IP]) {
        return;
    }
    let [image, two, next] = ["image", "two", "next"].map(commands);
    let outcome = walk(&format!(
        "{image}\n{two}\nwaits\ncurl -s http://127.0.0.1:8080/version; echo\n{next}
        curl -s http://127.0.0.1:8080/version; echo
        podman exec shop-v2 hotctl status; podman ps --all --format '{{{{.Names}}}} {{{{.Status}}}}'"
    ));
    let lines: Vec<_> = outcome.stdout.lines().collect();
    assert!(lines.contains(&"v1") && lines.contains(&"v2"), "{}", outcome.stdout);
    assert!(outcome.stderr.contains("shop-v2 is ready: "), "{}", outcome.stderr);
    assert!(!outcome.stdout.contains("draining"), "{}", outcome.stdout);
    let containers: Vec<_> =
        lines.iter().filter(|line| line.starts_with("shop-v") && line.contains(" Up ")).collect();
    assert!(matches!(containers[..], [one] if one.starts_with("shop-v2")), "{}", outcome.stdout);
}
