//! A version that dies whenever it has taken over, and that systemd starts again at once.

use std::time::{Duration, Instant};

use integration_tests::process::needs::have;
use integration_tests::systemd::{NEEDS, PROGRAMS};
use integration_tests::{Network, SOON, Sandbox, Status, Systemd, eventually};

/// In so long a time at most two successors take over.
const WINDOW: Duration = Duration::from_secs(10);

#[test]
fn at_most_two_takeovers_in_ten_seconds() {
    if !have(&NEEDS) {
        return;
    }
    let unit = format!(
        "[Unit]
StartLimitIntervalSec=0
[Service]
Type=notify
NotifyAccess=all
RuntimeDirectory=app
RuntimeDirectoryPreserve=yes
ExecStart={PROGRAMS}/axum-server --listen 127.0.0.1:8080 --control /run/app/control.sock --probation 60 --app-version %i
Restart=on-failure
RestartSec=0
"
    );
    let sandbox = Sandbox::new();
    let systemd = Systemd::boot(&sandbox, Network::Own, &[("app@.service", &unit)]);
    let serving = || Some(Status::ask(&systemd.root().join("run/app/control.sock")).ok()?.serving);
    systemd.systemctl(&["start", "app@v1"]);
    systemd.systemctl(&["start", "app@v2"]);
    let mut takeovers = Vec::new();
    for count in 1..=3 {
        let _ = systemd.serves("app@v2", count);
        takeovers.push(Instant::now());
        systemd.systemctl(&["kill", "--kill-whom=main", "--signal=KILL", "app@v2"]);
        eventually("the first serves again", SOON, || (serving()?.generation == 1).then_some(()));
    }
    let between = takeovers[2] - takeovers[0];
    // Both ends were seen with some delay.
    assert!(between >= WINDOW - Duration::from_secs(1), "three takeovers in {between:?}");
    let journal = systemd.journal("app@v2");
    assert!(journal.contains("backing off: ") && journal.contains("this process waits"), "{journal}");
    // It waits, and systemd does not start it again and again.
    let starts = systemd.show("app@v2", "NRestarts");
    assert!(["2", "3"].contains(&starts.as_str()), "{starts} restarts");
    systemd.systemctl(&["stop", "app@v2"]);
    assert_eq!(serving().expect("version 1 serves").generation, 1);
}
