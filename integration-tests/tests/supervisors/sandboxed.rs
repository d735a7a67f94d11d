//! The options with which a unit shuts a service in, one after the other: each reload is a hot update.

use integration_tests::client::who_answers;
use integration_tests::process::needs::have;
use integration_tests::systemd::{NEEDS, PROGRAMS};
use integration_tests::{Network, SOON, Sandbox, Systemd, eventually};

/// A unit that needs nothing of this machine but the programs.
fn unit(options: &str) -> String {
    let command = format!("{PROGRAMS}/axum-server --listen 127.0.0.1:0 --control /run/%N/control.sock");
    format!(
        "[Service]
Type=notify
NotifyAccess=all
RuntimeDirectory=%N
ExecStart={command} --app-version v1 --probation 0
ExecReload={PROGRAMS}/hotctl --socket /run/%N/control.sock handoff -- {command} --app-version v2 --probation 0
{options}
"
    )
}

#[test]
fn each_option_alone_and_all_of_them() {
    const OPTIONS: [&str; 5] = [
        "DynamicUser=yes",
        "ProtectSystem=strict\nProtectHome=yes\nPrivateTmp=yes\nPrivateDevices=yes",
        "PrivateUsers=yes",
        "RestrictAddressFamilies=AF_UNIX AF_INET\nSystemCallFilter=@system-service\nMemoryDenyWriteExecute=yes",
        "NoNewPrivileges=yes\nCapabilityBoundingSet=\nRestrictNamespaces=yes\nLockPersonality=yes",
    ];
    if !have(&NEEDS) {
        return;
    }
    let all = OPTIONS.join("\n");
    let units: Vec<_> = OPTIONS.into_iter().chain([all.as_str()]).map(unit).collect();
    let names: Vec<_> = (0..units.len()).map(|number| format!("hot{number}.service")).collect();
    let files: Vec<_> = names.iter().zip(&units).map(|(name, unit)| (name.as_str(), unit.as_str())).collect();
    let sandbox = Sandbox::new();
    let systemd = Systemd::boot(&sandbox, Network::Own, &files);
    for (name, text) in files {
        systemd.systemctl(&["start", name]);
        let first = systemd.serves(name, 1);
        systemd.systemctl(&["reload", name]);
        let second = systemd.serves(name, 2);
        assert_eq!((second.generation, second.http), (2, first.http), "{text}");
        let answered = systemd.in_its_network(|| who_answers(second.http));
        assert_eq!(answered.expect("the service answers"), second.pid, "{text}");
        systemd.wait_for(name, "MainPID", &second.pid.to_string());
        eventually("the predecessor has ended", SOON, || {
            systemd.journal(name).contains("drained generation=1").then_some(())
        });
        assert_eq!(systemd.show(name, "ActiveState"), "active", "{text}");
    }
}
