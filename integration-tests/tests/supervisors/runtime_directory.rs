//! Template units whose runtime directory goes with the first of two that has it.

use integration_tests::client::who_answers;
use integration_tests::process::needs::have;
use integration_tests::systemd::{NEEDS, PROGRAMS};
use integration_tests::{Network, SOON, Sandbox, Systemd, eventually};

/// Without `RuntimeDirectoryPreserve=yes`, as it is forgotten.
fn unit() -> String {
    format!(
        "[Service]
Type=notify
RuntimeDirectory=app
RuntimeDirectoryMode=0750
ExecStart={PROGRAMS}/axum-server --control /run/app/control.sock --listen 127.0.0.1:8080 --app-version %i \
  --probation 0
"
    )
}

#[test]
fn a_directory_that_goes_with_the_first_of_two_units_is_made_again() {
    if !have(&NEEDS) {
        return;
    }
    let sandbox = Sandbox::new();
    let systemd = Systemd::boot(&sandbox, Network::Own, &[("app@.service", &unit())]);
    systemd.systemctl(&["start", "app@v1"]);
    let mut serving = systemd.serves("app@v1", 1);
    for (old, new) in [("app@v1", "app@v2"), ("app@v2", "app@v3"), ("app@v3", "app@v4")] {
        systemd.systemctl(&["start", new]);
        let next = systemd.serves(new, 1);
        assert_eq!((next.generation, next.http), (serving.generation + 1, serving.http));
        systemd.wait_for(old, "ActiveState", "inactive");
        // It is there again, for operators and for the next unit.
        eventually("the control socket leads to the version that serves", SOON, || {
            let shown = systemd.run("hotctl", &["--socket", "/run/app/control.sock", "status"]);
            shown.stdout.contains(&format!(" {} ", next.pid)).then_some(())
        });
        let directory = systemd.run("stat", &["--format=%a %U", "/run/app"]).expect_success().stdout;
        assert_eq!(directory, "750 root\n");
        let answered = systemd.in_its_network(|| who_answers(next.http));
        assert_eq!(answered.expect("the service answers"), next.pid);
        serving = next;
    }
    assert!(
        systemd.journal("app@v2").contains("the directory of the control socket was removed; made again")
    );
}
