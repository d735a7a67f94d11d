//! The units that `hotctl install-units` writes: the example has them, systemd calls them well shut in, and
//! the commands of the example's README work with them.

use std::fs;
use std::path::Path;
use std::process::Command;

use integration_tests::client::{get, who_answers};
use integration_tests::process::binary;
use integration_tests::process::needs::{SYSTEMD_ANALYZE, have};
use integration_tests::readme::repository;
use integration_tests::systemd::{NEEDS, PROGRAMS};
use integration_tests::{Network, Readme, SOON, Sandbox, Systemd, eventually};
use rustix::process::Signal;

const SOCKET: &str = "/run/axum-server/control.sock";

const EXAMPLE: &str = "examples/systemd";

fn commands(name: &str) -> String {
    Readme::of(EXAMPLE).commands(name)
}

/// Runs commands of the README where they are to be run.
#[track_caller]
fn run(systemd: &Systemd<'_>, name: &str) {
    let said = systemd.run("bash", &["-euxc", &format!("cd {PROGRAMS}\n{}", commands(name))]);
    assert_eq!(said.code(), 0, "{name}: {}{}", said.stdout, said.stderr);
}

fn booted(sandbox: &Sandbox) -> Systemd<'_> {
    let systemd = Systemd::boot(sandbox, Network::Own, &[]);
    run(&systemd, "release");
    run(&systemd, "units");
    systemd
}

#[track_caller]
fn answers(systemd: &Systemd<'_>) -> u32 {
    let address = "127.0.0.1:8080".parse().expect("an address");
    systemd.in_its_network(|| who_answers(address)).expect("the service answers")
}

/// Which generation the process has that answers now; processes have other numbers inside.
fn generation(systemd: &Systemd<'_>) -> u64 {
    let said = systemd.run("hotctl", &["--json", "--socket", SOCKET, "status"]);
    assert_eq!(said.code(), 0, "{}", said.stderr);
    let status: serde_json::Value = serde_json::from_str(&said.stdout).expect("it is JSON");
    assert_eq!(status["serving"]["process"]["pid"], answers(systemd), "{status}");
    status["serving"]["generation"].as_u64().expect("a number")
}

#[test]
fn the_example_has_what_is_printed() {
    let sandbox = Sandbox::new();
    let line = commands("units").lines().take(2).collect::<Vec<_>>().join("\n");
    let line = line.replace("/usr/local/bin/hotctl", &binary("hotctl").display().to_string());
    let line = format!("{line} --hotctl /usr/local/bin/hotctl --directory {}", sandbox.path().display());
    let status = Command::new("sh").args(["-c", &line]).status().expect("sh runs");
    assert!(status.success(), "{line}");
    for name in ["axum-server.service", "axum-server@.service"] {
        let printed = fs::read_to_string(sandbox.path().join(name)).expect("it was written");
        let example = fs::read_to_string(repository().join(EXAMPLE).join(name)).expect("the example has it");
        assert_eq!(printed, example, "{name}: `hotctl install-units --force --directory examples/systemd …`");
    }
}

#[test]
fn systemd_calls_them_well_shut_in() {
    if !have(&[SYSTEMD_ANALYZE]) {
        return;
    }
    for name in ["axum-server.service", "axum-server@.service"] {
        let output = Command::new("systemd-analyze")
            .args(["security", "--offline=yes", "--no-pager"])
            .arg(repository().join(EXAMPLE).join(name))
            .output()
            .expect("systemd-analyze runs");
        let text = String::from_utf8_lossy(&output.stdout);
        let (_, level) = text.rsplit_once(".service: ").expect(&text);
        let level: f64 = level.split(' ').next().and_then(|level| level.parse().ok()).expect(level);
        assert!(level < 2.0, "{name}: {text}");
    }
}

#[test]
fn one_unit_is_reloaded_crashes_and_is_stopped() {
    if !have(&NEEDS) {
        return;
    }
    let sandbox = Sandbox::new();
    let systemd = booted(&sandbox);
    run(&systemd, "reload");
    assert_eq!(generation(&systemd), 2);
    let unit = "axum-server.service";
    // What a reload has started is not called hotctl.
    let journal = systemd.run("journalctl", &["--quiet", "--output=short", "-t", "axum-server"]).stdout;
    assert!(journal.contains("generation=2"), "{journal}");

    // A version that does not start.
    let broken = "rm /opt/axum-server/current; mkdir -p /opt/axum-server/current; \
                  printf '#!/bin/sh\necho it is broken >&2\nexit 3\n' > /opt/axum-server/current/axum-server; \
                  chmod +x /opt/axum-server/current/axum-server";
    assert_eq!(systemd.run("sh", &["-c", broken]).code(), 0);
    let before = answers(&systemd);
    assert_ne!(systemd.run("systemctl", &["reload", unit]).code(), 0);
    assert_eq!(answers(&systemd), before);
    let journal = systemd.journal(unit);
    assert!(journal.contains("it is broken") && journal.contains("exited (status 3)"), "{journal}");
    let repair = "rm -r /opt/axum-server/current; ln -sfn v2 /opt/axum-server/current";
    assert_eq!(systemd.run("sh", &["-c", repair]).code(), 0);

    // A crash, when the version before has gone.
    eventually("only version 2 is left", SOON, || {
        let journal = systemd.journal(unit);
        journal.lines().any(|line| line.starts_with("drained generation=1 ")).then_some(())
    });
    systemd.systemctl(&["kill", "--kill-whom=main", &format!("--signal={}", Signal::KILL.as_raw()), unit]);
    let _ = systemd.serves(unit, 3);
    assert_ne!(answers(&systemd), before);

    systemd.systemctl(&["stop", unit]);
    assert_eq!(systemd.show(unit, "Result"), "success");
    assert_eq!(systemd.show(unit, "ActiveState"), "inactive");
    // The directory stays, and the next start finds nothing in its way.
    systemd.systemctl(&["start", unit]);
    assert_eq!(generation(&systemd), 1);
    run(&systemd, "after");
    assert_eq!(systemd.show(unit, "ActiveState"), "inactive");
}

#[test]
fn a_reload_that_takes_too_long_leaves_nothing_behind() {
    if !have(&NEEDS) {
        return;
    }
    let sandbox = Sandbox::new();
    let systemd = booted(&sandbox);
    let unit = "axum-server.service";
    systemd.systemctl(&["start", unit]);
    // It hangs, and systemd ends `ExecReload=` after two seconds.
    let hangs = "printf '#!/bin/sh\nexec sleep 1000\n' > /opt/axum-server/v2/axum-server; \
                 ln -sfn v2 /opt/axum-server/current; mkdir -p /run/systemd/system/axum-server.service.d; \
                 printf '[Service]\nTimeoutStartSec=2\n' > /run/systemd/system/axum-server.service.d/short.conf; \
                 systemctl daemon-reload";
    assert_eq!(systemd.run("sh", &["-c", hangs]).code(), 0);
    let before = answers(&systemd);
    assert_ne!(systemd.run("systemctl", &["reload", unit]).code(), 0);
    let group = format!("/sys/fs/cgroup{}/cgroup.procs", systemd.show(unit, "ControlGroup"));
    eventually("only the service is left in the unit", SOON, || {
        (systemd.run("cat", &[&group]).stdout.lines().count() == 1).then_some(())
    });
    assert_eq!(answers(&systemd), before);
    assert_eq!(systemd.show(unit, "ActiveState"), "active");
}

#[test]
fn each_version_is_an_instance() {
    if !have(&NEEDS) {
        return;
    }
    let sandbox = Sandbox::new();
    let systemd = booted(&sandbox);
    run(&systemd, "instances");
    assert_eq!(generation(&systemd), 2);
    systemd.wait_for("axum-server@v1.service", "ActiveState", "inactive");
    assert_eq!(systemd.show("axum-server@v1.service", "Result"), "success");
    run(&systemd, "boot");
    // The way back, and to the other kind of unit.
    systemd.systemctl(&["start", "axum-server@v1"]);
    assert_eq!(generation(&systemd), 3);
    systemd.wait_for("axum-server@v2.service", "ActiveState", "inactive");
    systemd.systemctl(&["start", "axum-server"]);
    assert_eq!(generation(&systemd), 4);
    let ready = ["--socket", SOCKET, "status", "--ready", "--name"];
    assert_eq!(systemd.run("hotctl", &[&ready[..], &["axum-server"]].concat()).code(), 0);
    assert_eq!(systemd.run("hotctl", &[&ready[..], &["axum-server@v1"]].concat()).code(), 1);
    let found = systemd.run("hotctl", &["list"]);
    assert!(found.stdout.contains(SOCKET), "{}{}", found.stdout, found.stderr);
    systemd.systemctl(&["stop", "axum-server"]);
}

/// The unit of the Debian package of hotctl, as a user finds it there.
#[test]
fn the_unit_of_the_package_runs_any_command() {
    if !have(&NEEDS) {
        return;
    }
    let sandbox = Sandbox::new();
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/hotctl/packaging/hotupdate@.service");
    let unit = fs::read_to_string(unit).expect("it is in this repository");
    let systemd = Systemd::boot(&sandbox, Network::Own, &[("hotupdate@.service", &unit)]);
    let prepare = format!(
        "install -m 755 {PROGRAMS}/hotctl /usr/bin/hotctl; mkdir -p /etc/hotupdate /opt/shop/v1 /opt/shop/v2
        for version in v1 v2; do
            printf '#!/bin/sh\nexec {PROGRAMS}/axum-server --app-version %s \"$@\"\n' $version >/opt/shop/$version/shop
            chmod +x /opt/shop/$version/shop
        done
        ln -sfn v1 /opt/shop/current
        echo 'COMMAND=/opt/shop/current/shop --listen 127.0.0.1:8080' >/etc/hotupdate/shop"
    );
    assert_eq!(systemd.run("sh", &["-euc", &prepare]).code(), 0);
    systemd.systemctl(&["start", "hotupdate@shop"]);
    let version = || {
        let address = "127.0.0.1:8080".parse().expect("an address");
        systemd.in_its_network(|| get(address, "/version")).expect("the service answers")
    };
    assert_eq!(version(), "v1");
    assert_eq!(systemd.run("ln", &["-sfn", "v2", "/opt/shop/current"]).code(), 0);
    systemd.systemctl(&["reload", "hotupdate@shop"]);
    assert_eq!(version(), "v2");

    // One that does not start.
    let broken = "rm /opt/shop/current; mkdir /opt/shop/current; echo exit 3 >/opt/shop/current/shop";
    assert_eq!(systemd.run("sh", &["-c", broken]).code(), 0);
    assert_ne!(systemd.run("systemctl", &["reload", "hotupdate@shop"]).code(), 0);
    assert_eq!(version(), "v2");
    assert_eq!(systemd.show("hotupdate@shop", "ActiveState"), "active");

    systemd.systemctl(&["stop", "hotupdate@shop"]);
    assert_eq!(systemd.show("hotupdate@shop", "ActiveState"), "inactive");
    assert_eq!(systemd.show("hotupdate@shop", "Result"), "success");
    // What no file describes is not started.
    assert_eq!(systemd.run("systemctl", &["start", "hotupdate@other"]).code(), 0);
    assert_eq!(systemd.show("hotupdate@other", "ActiveState"), "inactive");
}
