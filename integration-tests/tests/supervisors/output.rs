//! What a version writes that a script has started, whose pipe it must not keep.

use integration_tests::process::needs::have;
use integration_tests::systemd::{NEEDS, PROGRAMS};
use integration_tests::{Network, SOON, Sandbox, Systemd, eventually};

const SCRIPT: &str = r#"
export HOTUPDATE_SOCKET=/run/shop/control.sock
mkdir -m 700 /run/shop
start() { "$@" "$0/axum-server" --listen 127.0.0.1:8080; }
start >/dev/null 2>&1 &
until hotctl status >/dev/null 2>&1; do sleep 0.02; done
said=$(start hotctl handoff -- 2>&1)
echo "$said"
hotctl stop --wait
"#;

#[test]
fn it_goes_to_the_journal() {
    if !have(&NEEDS) {
        return;
    }
    let sandbox = Sandbox::new();
    let systemd = Systemd::boot(&sandbox, Network::Own, &[]);
    let said = systemd.run("bash", &["-euc", SCRIPT, PROGRAMS]);
    assert_eq!(said.code(), 0, "{}{}", said.stdout, said.stderr);
    assert!(said.stdout.contains(" goes to the journal from here on"), "{}{}", said.stdout, said.stderr);
    eventually("the last line of the new version is in the journal under its name", SOON, || {
        let journal = systemd.run("journalctl", &["--quiet", "--output=cat", "-t", "axum-server"]).stdout;
        journal.lines().any(|line| line.starts_with("drained generation=2 ")).then_some(())
    });
}
