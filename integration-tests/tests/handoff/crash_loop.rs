//! A version that takes over and dies, and that its supervisor starts again at once, again and again.
//!
//! Deliberately absent: how the waits grow, see `crates/hotupdate-proto/tests/pair/crash_loop.rs`.

use std::path::Path;
use std::time::{Duration, Instant};

use integration_tests::client::who_answers;
use integration_tests::process::{binary, eventually};
use integration_tests::{SOON, Sandbox, Service, hotctl};

/// What `Restart=on-failure` does, without a pause.
const SUPERVISOR: &str = r#"until "$@"; do :; done"#;

/// In so long a time at most two successors take over.
const WINDOW: Duration = Duration::from_secs(10);

#[test]
fn at_most_two_takeovers_in_ten_seconds() {
    let sandbox = Sandbox::new();
    let first = Service::start(&sandbox, "v1", &["--probation", "60"]);
    let address = first.wait_serving().http;
    let server = binary("axum-server").to_string_lossy().into_owned();
    let mut command = ["-c", SUPERVISOR, "sh", &server].map(str::to_owned).to_vec();
    command.extend(Service::arguments(&sandbox, "v2", &["--probation", "60"]));
    let supervisor = Service::spawn(&sandbox, Path::new("/bin/sh"), &command);

    let mut takeovers = Vec::new();
    while takeovers.len() < 3 {
        let next = eventually("the next one takes over", SOON, || {
            assert!(supervisor.is_alive());
            let known = |pid| pid == first.pid() || takeovers.iter().any(|(_, known)| *known == pid);
            sandbox.servings().into_iter().map(|serving| serving.pid).find(|pid| !known(*pid))
        });
        // One that is killed before the first has heard that it serves has not taken over.
        let handed_over = format!("handed over successor={next} ");
        eventually("the first knows it", SOON, || sandbox.transcript().contains(&handed_over).then_some(()));
        takeovers.push((Instant::now(), next));
        Service::of(&sandbox, next).kill();
        eventually("the first serves again", SOON, || {
            (who_answers(address).ok()? == first.pid()).then_some(())
        });
    }
    let between = takeovers[2].0 - takeovers[0].0;
    // Both ends were seen with some delay.
    assert!(between >= WINDOW - Duration::from_secs(1), "three takeovers in {between:?}");
    let (_, last) = takeovers[1];
    let line =
        format!("backing off: {last} (v2) was the last of 2 successors that took over and died within");
    let log = sandbox.transcript();
    let says = |words: &str| log.lines().any(|said| said.contains(words) && said.contains(&line));
    assert!(says("this process waits"), "the successor:\n{log}");
    assert!(says("a successor is turned away"), "the incumbent:\n{log}");
    assert!(log.contains("or at once by `hotctl handoff -- COMMAND`"), "{log}");

    // The next one waits for even longer, but an operator does not.
    let begun = Instant::now();
    let outcome = sandbox.handoff("v3", &[]).expect_success();
    assert!(begun.elapsed() < WINDOW, "{outcome:?}");
    assert_eq!(sandbox.servings().len(), 5, "three have died");
    let third = sandbox.servings()[4].pid;
    assert_eq!(who_answers(address).expect("the service answers"), third);
    supervisor.kill();
    let _stops = hotctl(&sandbox, &["stop"]).expect_success();
}
