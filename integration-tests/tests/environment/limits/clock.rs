//! The wall clock is set, by hours: every deadline goes on, and every age stays an age.
//!
//! Deliberately absent: the monotonic clock, which cannot be set. `libfaketime` (Debian's package
//! `faketime`) sets the other one for some processes: it reads an offset from a file whenever they ask for
//! the time.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use integration_tests::client::{InFlight, who_answers};
use integration_tests::process::needs::{FAKETIME, faketime, have};
use integration_tests::process::{Exit, binary, eventually};
use integration_tests::steady::Steady;
use integration_tests::{Sandbox, Service, Status, hotctl};

use super::{SOON, comes_to, start_after, status_when};

const HOUR_MS: u64 = 3_600_000;

/// The time of some processes.
struct Clock<'a> {
    sandbox: &'a Sandbox,
}

impl<'a> Clock<'a> {
    fn new(sandbox: &'a Sandbox) -> Self {
        let clock = Self { sandbox };
        clock.set("+0");
        clock
    }

    /// To the true time and this: `+10h`.
    fn set(&self, offset: &str) {
        let (half, whole) = (self.sandbox.path().join("clock.new"), self.sandbox.path().join("clock"));
        fs::write(&half, offset).unwrap();
        fs::rename(half, whole).unwrap();
    }

    fn variables(&self) -> [(&'static str, String); 4] {
        [
            ("LD_PRELOAD", faketime().unwrap()),
            ("FAKETIME_TIMESTAMP_FILE", self.sandbox.path().join("clock").display().to_string()),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ]
    }

    fn start(&self, version: &str, more: &[&str]) -> Service<'a> {
        let variables = self.variables().map(|(name, value)| format!("{name}={value}")).join(" ");
        start_after(self.sandbox, version, more, &format!("export {variables}"))
    }

    /// What hotctl prints to a person who has this clock, too.
    fn hotctl(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(binary("hotctl"));
        command.envs(self.variables()).arg("--socket").arg(self.sandbox.control()).args(arguments);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

/// The words of the column, or of the columns, of ages in a table: seconds at most, since the test takes no
/// longer.
fn assert_ages(table: &str, column: &str) {
    let (head, rows) = table.split_once('\n').unwrap();
    let at = head.find(column).unwrap();
    let ages: Vec<_> =
        rows.lines().take_while(|row| !row.is_empty()).map(|row| row[at..].split(' ').next()).collect();
    assert!(!ages.is_empty(), "{table}");
    for age in ages.into_iter().flatten() {
        let number = age.trim_end_matches(|c: char| c.is_ascii_lowercase());
        assert!(number.parse::<u32>().is_ok_and(|n| n < 1000), "an age of {age:?}:\n{table}");
        assert!(["ms", "s"].contains(&&age[number.len()..]), "an age of {age:?}:\n{table}");
    }
}

fn is_sensible(status: &Status) -> bool {
    let all = status.predecessors.iter().chain(&status.successor).chain([&status.serving]);
    all.into_iter().all(|process| process.since_ms < 120_000)
}

/// What a program that runs by this clock takes for the time.
fn wrong_ms(clock: &Clock<'_>) -> u64 {
    let output = Command::new("date").arg("+%s000").envs(clock.variables()).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
}

fn now_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

/// A handoff, every stage of which lives through a step of the clock.
fn is_set(offset: &str) {
    let sandbox = Sandbox::new();
    let clock = Clock::new(&sandbox);
    let old = clock.start("v1", &["--drain-deadline", "20"]);
    let serving = old.wait_serving();
    let mut client = Steady::connect(serving.http).unwrap();
    assert_eq!(client.who().unwrap(), old.pid());
    let new = clock.start("v2", &["--standby"]);
    status_when(&sandbox, "standby", |status| {
        status.successor.as_ref().is_some_and(|it| it.state == "standby")
    });

    clock.set(offset);
    assert!(wrong_ms(&clock).abs_diff(now_ms()) > 9 * HOUR_MS, "the clock was not set");
    assert_ages(&clock.hotctl(&["connections"]), "AGE");
    assert_ages(&clock.hotctl(&["status"]), "SINCE");
    let slow = InFlight::start(serving.http, Duration::from_secs(4));
    status_when(&sandbox, "a slow request", |status| status.serving.connections.active == 1);
    let _done = hotctl(&sandbox, &["handoff"]).expect_success();

    comes_to(&mut client, new.pid());
    eventually("a row in each process", SOON, || {
        (clock.hotctl(&["connections"]).lines().count() == 3).then_some(())
    });

    clock.set("+0");
    let status = status_when(&sandbox, "the old one drains", |status| status.predecessors.len() == 1);
    assert!(is_sensible(&status), "{status:?}");
    assert_ages(&clock.hotctl(&["status"]), "SINCE");
    assert_ages(&clock.hotctl(&["connections"]), "AGE");
    assert_eq!(slow.answer().unwrap().0, old.pid(), "the drain had no end before its time");
    assert_eq!(old.wait_drained().forced, 0);
    assert_eq!(who_answers(serving.http).unwrap(), new.pid());
}

#[test]
fn it_is_set_forward() {
    if !have(&[FAKETIME]) {
        return;
    }
    is_set("+10h");
}

#[test]
fn it_is_set_back() {
    if !have(&[FAKETIME]) {
        return;
    }
    is_set("-10h");
}

/// A deadline does not wait for the clock to come back to it.
#[test]
fn a_drain_ends_when_the_clock_is_set_back() {
    if !have(&[FAKETIME]) {
        return;
    }
    let sandbox = Sandbox::new();
    let clock = Clock::new(&sandbox);
    let old = clock.start("v1", &["--drain-deadline", "1"]);
    let serving = old.wait_serving();
    let slow = InFlight::start(serving.http, Duration::from_secs(600));
    status_when(&sandbox, "a slow request", |status| status.serving.connections.active == 1);
    let new = clock.start("v2", &[]);
    new.wait_serving();
    let begun = Instant::now();
    clock.set("-10h");
    assert_eq!(old.wait_exit(), Exit::Status(0));
    assert!(begun.elapsed() < SOON, "it took {:?}", begun.elapsed());
    assert_eq!(old.wait_drained().forced, 1);
    assert!(slow.answer().is_err(), "it was closed");
}
