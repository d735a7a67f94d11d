//! Listeners in systemd's descriptor store: systemd restarts a service that was killed, and no client
//! notices. The keys of its session tickets are beside them, so that sessions of TLS resume.

use std::fs;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use integration_tests::client::{InFlight, who_answers};
use integration_tests::process::needs::have;
use integration_tests::process::{binary, eventually, listening_inode};
use integration_tests::systemd::NEEDS;
use integration_tests::tls::{Client, Https};
use integration_tests::{Network, SOON, Sandbox, Serving, Status, Systemd, hotctl};
use rustls::ClientConfig;
use tokio::runtime::Builder;

/// A systemd with the unit `hot.service`, which has started.
struct Hot<'a> {
    sandbox: &'a Sandbox,
    systemd: Systemd<'a>,
}

impl<'a> Hot<'a> {
    #[track_caller]
    fn start(sandbox: &'a Sandbox, probation: &str) -> Self {
        Self::of(sandbox, &unit(sandbox, "127.0.0.1:0", probation))
    }

    #[track_caller]
    fn of(sandbox: &'a Sandbox, unit: &str) -> Self {
        let systemd = Systemd::boot(sandbox, Network::Shared, &[("hot.service", unit)]);
        systemd.systemctl(&["start", "hot.service"]);
        Self { sandbox, systemd }
    }

    #[track_caller]
    fn systemctl(&self, arguments: &[&str]) {
        self.systemd.systemctl(arguments);
    }

    #[track_caller]
    fn show(&self, property: &str) -> String {
        self.systemd.show("hot.service", property)
    }

    /// The newest of so many processes that said that they serve.
    #[track_caller]
    fn serves(&self, count: usize) -> Serving {
        let lines = || fs::read_to_string(self.sandbox.path().join("logs/server.out")).unwrap_or_default();
        eventually(&format!("{count} processes have said that they serve"), SOON, || {
            lines().lines().filter_map(Serving::parse).nth(count - 1)
        })
    }

    /// The same when it is the main process.
    #[track_caller]
    fn main_serves(&self, count: usize) -> Serving {
        let newest = self.serves(count);
        eventually(&format!("{} is the main process", newest.pid), SOON, || {
            (self.show("MainPID") == newest.pid.to_string()).then_some(newest)
        })
    }

    #[track_caller]
    fn holds(&self, count: &str) {
        eventually(&format!("the store holds {count}"), SOON, || {
            (self.show("NFileDescriptorStore") == count).then_some(())
        });
    }

    /// Kills the main process; returns when systemd has noticed and no process serves.
    #[track_caller]
    fn kill(&self) {
        self.systemctl(&["kill", "--kill-who=main", "--signal=KILL", "hot.service"]);
        eventually("no process serves", SOON, || (self.show("SubState") == "auto-restart").then_some(()));
    }
}

/// The restart takes long enough to see that no process serves meanwhile.
fn unit(sandbox: &Sandbox, address: &str, probation: &str) -> String {
    let (server, hotctl, dir) = (binary("axum-server"), binary("hotctl"), sandbox.path().display());
    let (server, hotctl) = (server.display(), hotctl.display());
    let command = format!("{server} --listen {address} --control {dir}/control.sock --probation {probation}");
    format!(
        "[Unit]
StartLimitIntervalSec=0
[Service]
Type=notify
NotifyAccess=all
ExecStart={command}
ExecReload={hotctl} --socket {dir}/control.sock handoff -- {command}
Restart=on-failure
RestartSec=2
FileDescriptorStoreMax=16
# systemd says so itself from version 254 on.
Environment=FDSTORE=16
StandardOutput=append:{dir}/logs/server.out
StandardError=append:{dir}/logs/server.err
"
    )
}

/// A client that connects while no process serves is answered by the next process.
#[track_caller]
fn survives_a_kill(hot: &Hot<'_>, before: Serving, count: usize) -> Serving {
    let socket = listening_inode(before.http);
    hot.kill();
    let client = InFlight::start(before.http, Duration::ZERO);
    let after = hot.main_serves(count);
    assert_eq!(client.answer().expect("a client in the queue is answered").0, after.pid);
    assert_ne!(after.pid, before.pid);
    assert_eq!((after.http, listening_inode(after.http)), (before.http, socket), "it is another socket");
    hot.holds("1");
    after
}

#[test]
fn a_crash_after_the_first_start_and_after_a_hot_update() {
    if !have(&NEEDS) {
        return;
    }
    let sandbox = Sandbox::new();
    let hot = Hot::start(&sandbox, "0");
    let first = hot.main_serves(1);
    hot.holds("1");
    let second = survives_a_kill(&hot, first, 2);

    hot.systemctl(&["reload", "hot.service"]);
    let third = hot.main_serves(3);
    assert_eq!((third.generation, third.http), (2, first.http));
    assert_eq!(who_answers(third.http).expect("the service answers"), third.pid);
    eventually("the predecessor is gone, and the service is not", SOON, || {
        let gone = sandbox.drained().iter().any(|drained| drained.pid == second.pid);
        gone.then(|| assert_eq!(hot.show("ActiveState"), "active"))
    });
    hot.holds("1");
    let _fourth = survives_a_kill(&hot, third, 4);
}

#[test]
fn a_restart_keeps_them_and_a_stop_does_not() {
    if !have(&NEEDS) {
        return;
    }
    let sandbox = Sandbox::new();
    let hot = Hot::start(&sandbox, "0");
    let first = hot.main_serves(1);
    hot.holds("1");
    let socket = listening_inode(first.http);
    hot.systemctl(&["restart", "hot.service"]);
    let second = hot.main_serves(2);
    assert_eq!((second.http, listening_inode(second.http)), (first.http, socket), "it is another socket");
    assert_eq!(who_answers(second.http).expect("the service answers"), second.pid);
    hot.systemctl(&["stop", "hot.service"]);
    eventually("clients are refused", SOON, || TcpStream::connect(first.http).err());
}

#[test]
fn another_address_is_bound_afresh_and_the_old_one_is_let_go() {
    if !have(&NEEDS) {
        return;
    }
    let sandbox = Sandbox::new();
    let hot = Hot::start(&sandbox, "0");
    let first = hot.main_serves(1);
    hot.holds("1");
    hot.systemd.write_unit("hot.service", &unit(&sandbox, "127.0.0.2:0", "0"));
    hot.systemctl(&["restart", "hot.service"]);
    let second = hot.main_serves(2);
    assert_eq!(second.http.ip().to_string(), "127.0.0.2");
    eventually("the old socket is in no process's hands", SOON, || TcpStream::connect(first.http).err());
    hot.holds("1");
    let _third = survives_a_kill(&hot, second, 3);
}

#[test]
fn a_new_version_that_crashes_in_probation_is_no_business_of_systemd() {
    if !have(&NEEDS) {
        return;
    }
    let sandbox = Sandbox::new();
    let hot = Hot::start(&sandbox, "30");
    let first = hot.main_serves(1);
    hot.systemctl(&["reload", "hot.service"]);
    let second = hot.serves(2);
    assert_eq!(who_answers(first.http).expect("the service answers"), second.pid);
    assert_eq!(hot.show("MainPID"), first.pid.to_string(), "it can still take over again");
    let _killed = hot.systemd.run("kill", &["-KILL", &second.pid.to_string()]).expect_success();
    eventually("the predecessor has taken over", SOON, || {
        (who_answers(first.http).expect("clients wait at most") == first.pid).then_some(())
    });
    let facts = ["ActiveState", "MainPID", "NRestarts", "NFileDescriptorStore"].map(|name| hot.show(name));
    assert_eq!(facts, ["active", &first.pid.to_string(), "0", "1"]);
}

#[test]
fn an_operator_who_stops_the_service_lets_the_listeners_go_while_it_drains() {
    if !have(&NEEDS) {
        return;
    }
    let sandbox = Sandbox::new();
    let hot = Hot::start(&sandbox, "0");
    let first = hot.main_serves(1);
    hot.holds("1");
    let slow = InFlight::start(first.http, Duration::from_secs(4));
    eventually("the request is in flight", SOON, || {
        (Status::ask(&sandbox.control()).ok()?.serving.connections.active == 1).then_some(())
    });
    let _done = hotctl(&sandbox, &["stop"]).expect_success();
    eventually("clients are refused", SOON, || TcpStream::connect(first.http).err());
    assert_eq!(hot.show("ActiveState"), "deactivating", "systemd knows (`STOPPING=1`)");
    assert!(slow.is_waiting(), "the service has ended meanwhile");
    assert_eq!(slow.answer().expect("a drain goes on").0, first.pid);
}

/// The new version dies as the main process while the old one still drains.
fn a_crash_while_the_old_version_still_drains(hot_update: impl FnOnce(&Hot<'_>)) {
    let sandbox = Sandbox::new();
    let hot = Hot::start(&sandbox, "0");
    let first = hot.main_serves(1);
    hot.holds("1");
    let slow = InFlight::start(first.http, Duration::from_secs(4));
    eventually("the request is in flight", SOON, || {
        (Status::ask(&sandbox.control()).ok()?.serving.connections.active == 1).then_some(())
    });
    hot_update(&hot);
    let second = hot.main_serves(2);
    hot.systemctl(&["kill", "--kill-who=main", "--signal=KILL", "hot.service"]);
    eventually("no process serves", SOON, || Status::ask(&sandbox.control()).err());
    let client = InFlight::start(second.http, Duration::ZERO);
    // systemd lets the old version finish first.
    assert_eq!(slow.answer().expect("a drain goes on").0, first.pid);
    let third = hot.main_serves(3);
    assert_eq!(client.answer().expect("a client in the queue is answered").0, third.pid);
}

#[test]
fn a_crash_while_the_old_version_still_drains_after_a_reload() {
    if !have(&NEEDS) {
        return;
    }
    a_crash_while_the_old_version_still_drains(|hot| {
        hot.systemctl(&["reload", "hot.service"]);
    });
}

/// The new version is a child of the old one then, and systemd hears of its end from that one alone.
#[test]
fn a_crash_while_the_old_version_still_drains_after_sighup() {
    if !have(&NEEDS) {
        return;
    }
    a_crash_while_the_old_version_still_drains(|hot| {
        hot.systemctl(&["kill", "--kill-who=main", "--signal=HUP", "hot.service"]);
    });
}

/// Connects, asks, and says whether it has resumed a session.
#[track_caller]
fn visit(clients: &Arc<ClientConfig>, serving: Serving) -> bool {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut client = Client::connect(clients, serving.http).await.expect("the service shakes hands");
        assert_eq!(client.who().await.expect("the service answers"), serving.pid);
        client.resumed()
    })
}

/// Listener and keys.
const BOTH: &str = "2";

#[test]
fn sessions_of_tls_resume_after_a_crash_and_after_a_restart_of_the_unit() {
    if !have(&NEEDS) {
        return;
    }
    let sandbox = Sandbox::new();
    let https = Https::new(&sandbox);
    let directory = sandbox.path().join("tls").display().to_string();
    let unit = unit(&sandbox, &format!("127.0.0.1:0 --tls {directory}"), "0");
    let hot = Hot::of(&sandbox, &unit);
    let mut serving = hot.main_serves(1);
    hot.holds(BOTH);
    let clients = https.clients(&Arc::default());
    assert!(!visit(&clients, serving), "there is no session yet");
    assert!(visit(&clients, serving));
    for count in 2..=3 {
        hot.kill();
        serving = hot.main_serves(count);
        assert!(visit(&clients, serving), "a handshake in full after crash {}", count - 1);
        hot.holds(BOTH);
    }
    hot.systemctl(&["reload", "hot.service"]);
    serving = hot.main_serves(4);
    assert!(visit(&clients, serving), "a handshake in full after a hot update");
    hot.holds(BOTH);
    hot.kill();
    serving = hot.main_serves(5);
    assert!(visit(&clients, serving), "a handshake in full after a hot update and a crash");
    hot.systemctl(&["restart", "hot.service"]);
    serving = hot.main_serves(6);
    assert!(visit(&clients, serving), "a handshake in full after a restart");
    hot.holds(BOTH);
    // Nothing is left of them.
    hot.systemctl(&["stop", "hot.service"]);
    hot.systemctl(&["start", "hot.service"]);
    serving = hot.main_serves(7);
    assert!(!visit(&clients, serving), "the keys have outlived the service");
}
