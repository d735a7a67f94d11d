//! Which process systemd takes for the service's main one: the old version ends when it is the new one, and
//! not before.
//!
//! Deliberately absent: units whose systemd does not listen (`Type=exec`), see `heirs`.

use std::path::Path;
use std::thread;
use std::time::Duration;

use integration_tests::client::{InFlight, who_answers};
use integration_tests::process::needs::have;
use integration_tests::systemd::{NEEDS, PROGRAMS};
use integration_tests::{Network, SOON, Sandbox, Serving, Systemd, eventually};
use rustix::process::{Pid, Signal, kill_process};

/// How often each unit is reloaded for the first time.
const ROUNDS: usize = 10;

fn unit(probation: &str, options: &str) -> String {
    let command = format!(
        "{PROGRAMS}/axum-server --listen 127.0.0.1:0 --control /run/%N/control.sock --probation {probation}"
    );
    let hotctl = format!("{PROGRAMS}/hotctl --socket /run/%N/control.sock");
    format!(
        "[Unit]
StartLimitIntervalSec=0
[Service]
Type=notify
NotifyAccess=all
RuntimeDirectory=%N
ExecStart={command}
ExecReload={hotctl} handoff -- {command}
{options}
"
    )
}

/// Waits until a process of another namespace, as it counts them, is there no more.
#[track_caller]
fn ends(systemd: &Systemd<'_>, process: Serving) {
    let entry = systemd.root().join("proc").join(process.pid.to_string());
    eventually(&format!("{} has ended", process.pid), SOON, || (!entry.exists()).then_some(()));
}

/// A start, a reload, and the end of the old version; then the unit has to be as it was.
fn reload_for_the_first_time(systemd: &Systemd<'_>, unit: &str, round: usize) {
    systemd.systemctl(&["start", unit]);
    let first = systemd.serves(unit, 2 * round + 1);
    systemd.systemctl(&["reload", unit]);
    let second = systemd.serves(unit, 2 * round + 2);
    assert_eq!((second.generation, second.http), (2, first.http));
    ends(systemd, first);
    // What systemd makes of that end, it makes at once.
    systemd.wait_for(unit, "MainPID", &second.pid.to_string());
    assert_eq!(systemd.show(unit, "ActiveState"), "active", "{unit} in round {round}");
    let answered = systemd.in_its_network(|| who_answers(second.http));
    assert_eq!(answered.expect("the service answers"), second.pid);
    systemd.systemctl(&["stop", unit]);
}

#[test]
fn sixty_first_reloads_in_six_units_at_once() {
    const HIDDEN: &str = "DynamicUser=yes\nProtectProc=invisible\nPrivateUsers=yes\nProtectSystem=strict";
    const UNITS: [(&str, &str, &str); 6] = [
        ("plain.service", "0.3", ""),
        // Not `user.service`: `hidden.service` has its directory, /run/user, mounted for itself.
        ("nobody.service", "0.3", "User=nobody"),
        ("delegate.service", "0.3", "Delegate=yes"),
        ("hidden.service", "0.3", HIDDEN),
        ("at-once.service", "0", "Delegate=yes\nUser=nobody\nProtectProc=invisible\nPrivateUsers=yes"),
        ("main-only.service", "0.3", "NotifyAccess=main\nDelegate=yes"),
    ];
    if !have(&NEEDS) {
        return;
    }
    let texts = UNITS.map(|(_, probation, options)| unit(probation, options));
    let files: Vec<_> = UNITS.iter().zip(&texts).map(|((name, ..), text)| (*name, text.as_str())).collect();
    let sandbox = Sandbox::new();
    let systemd = Systemd::boot(&sandbox, Network::Own, &files);
    thread::scope(|scope| {
        for (name, ..) in UNITS {
            let systemd = &systemd;
            scope
                .spawn(move || (0..ROUNDS).for_each(|round| reload_for_the_first_time(systemd, name, round)));
        }
    });
}

/// Each is reloaded before the one before it has let go, and the first still answers a client.
fn several_generations(options: &str) {
    const GENERATIONS: usize = 5;
    let sandbox = Sandbox::new();
    let systemd = Systemd::boot(&sandbox, Network::Own, &[("hot.service", &unit("1", options))]);
    systemd.systemctl(&["start", "hot.service"]);
    let first = systemd.serves("hot.service", 1);
    let slow = systemd.in_its_network(|| {
        let slow = InFlight::start(first.http, Duration::from_secs(6));
        who_answers(first.http).expect("it answers others meanwhile");
        slow
    });
    let mut processes = vec![first];
    for count in 2..=GENERATIONS {
        systemd.systemctl(&["reload", "hot.service"]);
        processes.push(systemd.serves("hot.service", count));
    }
    let last = processes.pop().expect("it was started");
    assert_eq!(slow.answer().expect("a drain takes its time").0, first.pid);
    processes.into_iter().for_each(|process| ends(&systemd, process));
    systemd.wait_for("hot.service", "MainPID", &last.pid.to_string());
    assert_eq!(systemd.show("hot.service", "ActiveState"), "active");
    let status = systemd.show("hot.service", "StatusText");
    assert!(status.starts_with(&format!("generation {GENERATIONS} ({} ", last.pid)), "{status}");
    systemd.systemctl(&["stop", "hot.service"]);
    assert_eq!(systemd.show("hot.service", "Result"), "success");
}

#[test]
fn several_generations_in_a_row() {
    if have(&NEEDS) {
        several_generations("");
    }
}

/// systemd ignores what the new version says of itself; each old one has to say it.
#[test]
fn several_generations_in_a_row_of_which_systemd_hears_the_main_process_only() {
    if have(&NEEDS) {
        several_generations("NotifyAccess=main");
    }
}

/// It loads units, or waits for a disk.
#[test]
fn a_systemd_that_answers_late() {
    if !have(&NEEDS) {
        return;
    }
    let sandbox = Sandbox::new();
    let systemd = Systemd::boot(&sandbox, Network::Own, &[("hot.service", &unit("1", ""))]);
    systemd.systemctl(&["start", "hot.service"]);
    let first = systemd.serves("hot.service", 1);
    systemd.systemctl(&["kill", "--kill-who=main", "--signal=HUP", "hot.service"]);
    let second = systemd.serves("hot.service", 2);
    let init = Pid::from_raw(systemd.init().cast_signed()).expect("it has a process id");
    kill_process(init, Signal::STOP).expect("it is ours");
    eventually("the old version has said that the new one is the main process", SOON, || {
        systemd.journal("hot.service").contains("drained migrated").then_some(())
    });
    let waits = systemd.root().join("proc").join(first.pid.to_string());
    let since = std::time::Instant::now();
    eventually("two more seconds", SOON, || (since.elapsed() > Duration::from_secs(2)).then_some(()));
    assert!(is_running(&waits), "systemd may take its end for that of the service");
    kill_process(init, Signal::CONT).expect("it is ours");
    ends(&systemd, first);
    systemd.wait_for("hot.service", "MainPID", &second.pid.to_string());
    assert_eq!(systemd.show("hot.service", "ActiveState"), "active");
}

fn is_running(process: &Path) -> bool {
    let status = std::fs::read_to_string(process.join("status")).unwrap_or_default();
    status.lines().any(|line| line.starts_with("State:") && !line.contains('Z'))
}

/// The new version feeds the watchdog, although systemd told its interval to the first process only.
#[test]
fn the_watchdog_goes_on_after_a_reload() {
    if !have(&NEEDS) {
        return;
    }
    let sandbox = Sandbox::new();
    let systemd = Systemd::boot(&sandbox, Network::Own, &[("hot.service", &unit("0.3", "WatchdogSec=2"))]);
    systemd.systemctl(&["start", "hot.service"]);
    let first = systemd.serves("hot.service", 1);
    systemd.systemctl(&["reload", "hot.service"]);
    let second = systemd.serves("hot.service", 2);
    ends(&systemd, first);
    let told = systemd.show("hot.service", "WatchdogTimestampMonotonic");
    let is_fed = |told: &str| systemd.show("hot.service", "WatchdogTimestampMonotonic") != told;
    eventually("the watchdog is fed", SOON, || is_fed(&told).then_some(()));
    let told = systemd.show("hot.service", "WatchdogTimestampMonotonic");
    eventually("and again", SOON, || is_fed(&told).then_some(()));
    let facts = ["ActiveState", "MainPID", "NRestarts"].map(|name| systemd.show("hot.service", name));
    assert_eq!(facts, ["active", &second.pid.to_string(), "0"]);
    // What hangs is ended, so it is not systemd that has stopped to look.
    systemd.systemctl(&["kill", "--kill-who=main", "--signal=STOP", "hot.service"]);
    systemd.wait_for("hot.service", "Result", "watchdog");
}
