//! `hotctl hold` under a supervisor: the main process of a unit, and process 1 of a process namespace.

use std::path::Path;
use std::time::Duration;

use integration_tests::client::{InFlight, who_answers};
use integration_tests::process::needs::{NAMESPACES, have};
use integration_tests::process::{Exit, binary, children};
use integration_tests::systemd::{NEEDS, PROGRAMS};
use integration_tests::{Network, SOON, Sandbox, Service, Status, Systemd, eventually, hotctl};
use rustix::process::Signal;

/// A unit whose main process is the keeper.
fn unit(options: &str) -> String {
    let (control, server) =
        ("/run/hot/control.sock", format!("{PROGRAMS}/axum-server --control /run/hot/control.sock"));
    format!(
        "[Service]
Type=notify
RuntimeDirectory=hot
ExecStart={PROGRAMS}/hotctl --socket {control} hold --listen http=127.0.0.1:8080 -- {server} --warm-up 0.5
ExecReload={PROGRAMS}/hotctl --socket {control} handoff -- {server} --probation 0
{options}
"
    )
}

/// It is active when a version serves, and stays the main process; what is in flight when the unit is stopped
/// is answered.
fn in_a_unit(options: &str) {
    if !have(&NEEDS) {
        return;
    }
    let sandbox = Sandbox::new();
    let systemd = Systemd::boot(&sandbox, Network::Own, &[("hot.service", &unit(options))]);
    systemd.systemctl(&["start", "hot.service"]);
    let first = systemd.serves("hot.service", 1);
    let keeper = systemd.show("hot.service", "MainPID");
    assert_ne!(keeper, first.pid.to_string());
    let status = systemd.show("hot.service", "StatusText");
    assert_eq!(status, format!("{} (0.1.0) serves", first.pid));

    systemd.systemctl(&["reload", "hot.service"]);
    let second = systemd.serves("hot.service", 2);
    assert_eq!(systemd.in_its_network(|| who_answers(second.http)).expect("it answers"), second.pid);
    assert_eq!(systemd.show("hot.service", "MainPID"), keeper);

    systemd.wait_for("hot.service", "StatusText", &format!("{} (0.1.0) serves", second.pid));

    let slow = systemd.in_its_network(|| InFlight::start(second.http, Duration::from_secs(5)));
    let control = systemd.root().join("run/hot/control.sock");
    eventually("the request is in flight", SOON, || {
        (Status::ask(&control).ok()?.serving.connections.active == 1).then_some(())
    });
    systemd.systemctl(&["stop", "hot.service"]);
    assert_eq!(slow.answer().expect("what is in flight is answered").0, second.pid);
    assert_eq!(systemd.show("hot.service", "Result"), "success");
    assert_eq!(systemd.show("hot.service", "ActiveState"), "inactive");
}

#[test]
fn the_main_process_of_a_unit() {
    in_a_unit("");
}

/// systemd sends SIGTERM to the keeper alone.
#[test]
fn the_main_process_of_a_unit_that_is_told_alone() {
    in_a_unit("KillMode=mixed");
}

/// The keeper as process 1, and its process id as it is seen from here.
fn as_process_1<'a>(sandbox: &'a Sandbox) -> (Service<'a>, Service<'a>) {
    let words = ["--pid", "--fork", "--kill-child", "--mount-proc"].map(str::to_owned).into_iter();
    let keeper = [
        binary("hotctl").display().to_string(),
        "--socket".to_owned(),
        sandbox.control().display().to_string(),
    ];
    let hold = ["hold", "--listen", "http=127.0.0.1:0", "--"].map(str::to_owned);
    let server = Service::arguments(sandbox, "v1", &["--probation", "0"]);
    let server = std::iter::once(binary("axum-server").display().to_string()).chain(server);
    let all: Vec<_> = words.chain(keeper).chain(hold).chain(server).collect();
    let unshare = Service::spawn(sandbox, Path::new("unshare"), &all);
    let pid = eventually("the keeper runs", SOON, || children(unshare.pid()).first().copied());
    eventually("it serves", SOON, || sandbox.servings().first().copied());
    (unshare, Service::of(sandbox, pid))
}

/// Runs a shell script beside the keeper.
fn beside(sandbox: &Sandbox, keeper: &Service<'_>, script: &str) {
    let keeper = keeper.pid().to_string();
    let words = ["-t", &keeper, "-p", "-m", "sh", "-euc", script].map(str::to_owned);
    assert_eq!(Service::spawn(sandbox, Path::new("nsenter"), &words).wait_exit(), Exit::Status(0));
}

#[test]
fn process_1_reaps_orphans() {
    if !have(&[NAMESPACES]) {
        return;
    }
    let sandbox = Sandbox::new();
    let (_unshare, keeper) = as_process_1(&sandbox);
    let orphans = |count: usize| {
        eventually(&format!("the keeper has {count} children"), SOON, || {
            (children(keeper.pid()).len() == count).then_some(())
        });
    };
    orphans(1);
    let script = "(sleep 1000 & sleep 1000 & sleep 1000 &) >/dev/null 2>&1
        until [ $(grep -lx sleep /proc/[0-9]*/comm 2>/dev/null | wc -l) = 3 ]; do :; done";
    beside(&sandbox, &keeper, script);
    orphans(4);
    beside(&sandbox, &keeper, "kill $(grep -lx sleep /proc/[0-9]*/comm 2>/dev/null | cut -d/ -f3)");
    orphans(1);
    let _serves_on = hotctl(&sandbox, &["status"]).expect_success();
}

/// The kernel would kill what is left when process 1 ends: a later version, the one before it, which drains,
/// and helpers, which need not be waited for.
#[test]
fn process_1_ends_last() {
    if !have(&[NAMESPACES]) {
        return;
    }
    let sandbox = Sandbox::new();
    let (unshare, keeper) = as_process_1(&sandbox);
    let first = sandbox.servings()[0];
    let slow = |seconds| {
        let slow = InFlight::start(first.http, Duration::from_secs(seconds));
        eventually("the request is in flight", SOON, || {
            (Status::ask(&sandbox.control()).ok()?.serving.connections.active == 1).then_some(())
        });
        slow
    };
    let asked_first = slow(6);
    let server = [
        vec![binary("axum-server").display().to_string()],
        Service::arguments(&sandbox, "v2", &["--probation", "0"]),
    ]
    .concat();
    let log = sandbox.log_path("v2", "log").display().to_string();
    let hotctl = binary("hotctl").display().to_string();
    let words =
        [&hotctl, "--socket", &sandbox.control().display().to_string(), "handoff", "--log", &log, "--"]
            .join(" ");
    beside(&sandbox, &keeper, &format!("{words} {}", server.join(" ")));
    let asked_second = slow(4);
    beside(&sandbox, &keeper, "(sleep 1000 &) >/dev/null 2>&1");
    keeper.signal(Signal::TERM);
    let second = sandbox.servings()[1];
    assert_eq!(asked_second.answer().expect("it is answered").0, second.pid);
    assert_eq!(asked_first.answer().expect("it is answered").0, first.pid);
    assert_eq!(unshare.wait_exit(), Exit::Status(0));
}

/// SIGHUP starts the next version, as it does where the service is process 1 itself.
#[test]
fn process_1_passes_signals_on() {
    if !have(&[NAMESPACES]) {
        return;
    }
    let sandbox = Sandbox::new();
    let (_unshare, keeper) = as_process_1(&sandbox);
    for generation in 2..=3 {
        keeper.signal(Signal::HUP);
        eventually("the next version serves", SOON, || {
            (Status::ask(&sandbox.control()).ok()?.serving.generation == generation).then_some(())
        });
    }
}
