//! Containers of an image from scratch: one that is updated from within, and two that share a directory.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use integration_tests::client::{InFlight, get};
use integration_tests::podman::{IMAGE, NEEDS};
use integration_tests::process::needs::have;
use integration_tests::{Podman, SOON, Sandbox, Status, eventually};

/// An address that was free a moment ago.
fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("some port is free");
    listener.local_addr().expect("a bound socket has an address")
}

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
        let listen = self.http.to_string();
        ["axum-server", "--listen", &listen, "--app-version", version, "--probation", "0"]
            .map(str::to_owned)
            .to_vec()
    }

    fn status(&self) -> anyhow::Result<Status> {
        Status::ask(&self.sandbox.path().join("shared/control.sock"))
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

#[test]
fn updates_from_within_under_a_keeper() {
    if !have(&NEEDS) {
        return;
    }
    let sandbox = Sandbox::new();
    let shop = Shop::new(&sandbox);
    let listen = format!("http={}", shop.http);
    shop.run("shop", &[], &["hotctl", "hold", "--listen", &listen, "--"], &shop.server("v1"));
    shop.serves("v1", 1);
    let handoff = ["exec", "shop", "hotctl", "handoff", "--log", "/proc/1/fd/1", "--"];
    for generation in 2..=3 {
        let version = format!("v{generation}");
        let server = shop.server(&version);
        let words: Vec<_> = handoff.into_iter().chain(server.iter().map(String::as_str)).collect();
        shop.podman.podman(&words);
        shop.serves(&version, generation);
        let said = format!("serving generation={generation}");
        assert!(shop.podman.logs("shop").contains(&said), "{}", shop.podman.logs("shop"));
    }
    let slow = InFlight::start(shop.http, Duration::from_secs(2));
    eventually("the request is in flight", SOON, || {
        (shop.status().ok()?.serving.connections.active == 1).then_some(())
    });
    shop.podman.podman(&["stop", "shop"]);
    slow.answer().expect("what is in flight is answered");
    assert_eq!(shop.podman.inspect("shop", "State.ExitCode"), "0");
}

#[test]
fn the_next_one_takes_over() {
    if !have(&NEEDS) {
        return;
    }
    let sandbox = Sandbox::new();
    let shop = Shop::new(&sandbox);
    for (version, generation) in [("v1", 1), ("v2", 2)] {
        shop.run(version, &[], &[], &shop.server(version));
        shop.serves(version, generation);
    }
    shop.podman.podman(&["stop", "v1"]);
    assert_eq!(shop.podman.inspect("v1", "State.ExitCode"), "0");
    shop.serves("v2", 2);
    shop.podman.podman(&["stop", "v2"]);
    assert_eq!(shop.podman.inspect("v2", "State.ExitCode"), "0");
}
