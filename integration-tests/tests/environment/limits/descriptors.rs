//! `RLIMIT_NOFILE`, in the process that serves and in the one that wants to.
//!
//! Deliberately absent: sockets by the thousand, see `make bench` and `hotupdate`'s `listeners.rs`.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use integration_tests::process::{Exit, eventually};
use integration_tests::steady::{Fate, Steady, ask_all, idle};
use integration_tests::{Handover, Sandbox, Service, Serving, Way, hotctl};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{ARGUMENTS, SOON, comes_to, fails, handoff_after, incumbent, next_attempt_works, status_when};

/// One batch of moving connections and a few: fewer than there are connections, more than a handoff needs.
const FEW: usize = 12;

/// More than fit into the batches that may be on their way at a time.
const MANY: usize = 300;

/// The descriptors of a service to which no client talks.
fn quiet(service: &Service<'_>) -> usize {
    let mut last = (Instant::now(), 0);
    eventually("a quiet service", SOON, || {
        let fds = service.facts().fds;
        if fds != last.1 {
            last = (Instant::now(), fds);
        }
        (last.0.elapsed() > Duration::from_millis(100)).then_some(fds)
    })
}

/// What callers and failed attempts cost is given back at once, or in a moment.
fn has_what_it_had(service: &Service<'_>, before: usize) {
    eventually("as many descriptors as before", SOON, || (quiet(service) == before).then_some(()));
}

#[test]
fn the_incumbent_has_none_left() {
    let sandbox = Sandbox::new();
    let (service, serving) = incumbent(&sandbox);
    // An operator's call that ends after the client has come would leave a lower number free, and that is the
    // limit.
    quiet(&service);
    let mut client = Steady::connect(serving.http).unwrap();
    assert_eq!(client.who().unwrap(), service.pid());
    let before = quiet(&service);
    for _ in 0..3 {
        service.allow_descriptors(0);
        fails(&sandbox.handoff("v2", &ARGUMENTS), serving, &["Too many open files"]);
        assert_eq!(client.who().unwrap(), service.pid(), "it serves on");
        has_what_it_had(&service, before);
    }
    let shown = hotctl(&sandbox, &["status"]).expect_success();
    assert!(shown.stdout.contains("Too many open files"), "{}", shown.stdout);
    service.allow_all_descriptors();
    let next = next_attempt_works(&sandbox, serving);
    comes_to(&mut client, next.pid);
}

/// The worst moment: the listeners are parked, and to open them again must not need a descriptor.
#[test]
fn the_incumbent_has_none_left_when_it_has_to_accept_again() {
    let sandbox = Sandbox::new();
    let (service, serving) = incumbent(&sandbox);
    let successor = Service::start(&sandbox, "v2", &["--standby"]);
    status_when(&sandbox, "a successor in standby", |status| {
        status.successor.as_ref().is_some_and(|it| it.state == "standby")
    });
    let mut client = Steady::connect(serving.http).unwrap();
    assert_eq!(client.who().unwrap(), service.pid());
    let mut operator = UnixStream::connect(sandbox.control()).unwrap();
    operator.write_all(b"{\"method\":\"io.hotupdate.Status\"}\0").unwrap();
    let mut answers = BufReader::new(operator.try_clone().unwrap());
    answers.read_until(0, &mut Vec::new()).unwrap();
    service.allow_descriptors(0);
    successor.freeze();

    operator.write_all(b"{\"method\":\"io.hotupdate.Handoff\"}\0").unwrap();
    let mut answer = Vec::new();
    answers.read_until(0, &mut answer).unwrap();

    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.contains("io.hotupdate.Failed") && answer.contains("deadline `serving`"), "{answer}");
    successor.kill();
    service.allow_all_descriptors();
    assert_eq!(Steady::connect(serving.http).unwrap().who().unwrap(), service.pid(), "it accepts again");
    assert_eq!(client.who().unwrap(), service.pid());
    next_attempt_works(&sandbox, serving);
}

/// Moving needs a second descriptor of each connection for a moment, and there are few: it takes longer, and
/// no client notices.
#[test]
fn the_incumbent_has_few_left_for_many_connections() {
    let sandbox = Sandbox::new();
    let (service, serving) = incumbent(&sandbox);
    let mut clients = idle(serving.http, MANY).unwrap();
    quiet(&service);
    service.allow_descriptors(FEW);
    let next = Handover::run(&sandbox, Way::ByHand, serving, "v2", &ARGUMENTS).to;
    assert_eq!(service.wait_drained().forced, 0);
    for client in &mut clients {
        assert_eq!(client.who().unwrap(), next.pid, "all of them moved");
    }
}

/// The clients of a service whose unit has a higher limit than the usual shell.
fn crowd(serving: Serving) -> Vec<Steady> {
    const CROWD: usize = 1_500;
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
        .expect("up to the hard limit it may be raised");
    idle(serving.http, CROWD).unwrap()
}

/// A client that comes now is answered by this process within a second.
#[track_caller]
fn answers_at_once(serving: Serving) -> Steady {
    let asked = Instant::now();
    let mut client = Steady::connect(serving.http).unwrap();
    assert_eq!(client.who().unwrap(), serving.pid);
    assert!(asked.elapsed() < Duration::from_secs(1), "a new client waited for {:?}", asked.elapsed());
    client
}

/// The soft limit is low in a shell, for programs that use select(2). A service raises it.
#[test]
fn the_successor_is_started_from_a_shell_with_a_low_soft_limit() {
    let sandbox = Sandbox::new();
    let (service, serving) = incumbent(&sandbox);
    let mut clients = crowd(serving);
    let outcome = handoff_after(&sandbox, "v2", "ulimit -Sn 1024");
    assert_eq!(outcome.code(), 0, "{}", outcome.stderr);
    assert!(!outcome.stderr.contains("warning"), "{}", outcome.stderr);
    let next = eventually("the successor says that it serves", SOON, || {
        sandbox.servings().last().copied().filter(|next| next.pid != service.pid())
    });
    let _new: Vec<_> = (0..20).map(|_| answers_at_once(next)).collect();
    assert_eq!(service.wait_drained().forced, 0);
    for client in &mut clients {
        assert_eq!(client.who().unwrap(), next.pid, "all of them moved");
    }
    let limits = fs::read_to_string(format!("/proc/{}/limits", next.pid)).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("there is such a limit");
    let [soft, hard] = [3, 4].map(|word| line.split_whitespace().nth(word));
    assert_eq!(soft, hard, "{line}");
}

/// It could not answer the clients that there are, so it is told to come with more; the incumbent serves on.
#[test]
fn the_successor_may_not_open_what_the_incumbent_has_open() {
    let sandbox = Sandbox::new();
    let (service, serving) = incumbent(&sandbox);
    let mut clients = crowd(serving);
    let outcome = handoff_after(&sandbox, "v2", "ulimit -n 1024");
    let limit = ["its limit of open files is 1024, and ", "give it a higher one (ulimit -n, LimitNOFILE=)"];
    fails(&outcome, serving, &limit);
    let shown = hotctl(&sandbox, &["status"]).expect_success();
    assert!(limit.iter().all(|word| shown.stdout.contains(word)), "{}", shown.stdout);
    let _new: Vec<_> = (0..20).map(|_| answers_at_once(serving)).collect();
    for client in &mut clients {
        assert_eq!(client.who().unwrap(), service.pid());
    }
    let next = next_attempt_works(&sandbox, serving);
    comes_to(&mut clients[0], next.pid);
}

/// Each time that it has to grow while connections come costs every thread milliseconds.
#[test]
fn the_table_of_the_successor_is_large_before_it_serves() {
    let sandbox = Sandbox::new();
    let (_service, serving) = incumbent(&sandbox);
    let _clients = idle(serving.http, MANY).unwrap();
    let successor = Service::start(&sandbox, "v2", &["--standby"]);
    status_when(&sandbox, "a successor in standby", |status| {
        status.successor.as_ref().is_some_and(|it| it.state == "standby")
    });
    let status = fs::read_to_string(format!("/proc/{}/status", successor.pid())).unwrap();
    let size = status.lines().find_map(|line| line.strip_prefix("FDSize:")).expect("the table has a size");
    let size: usize = size.trim().parse().unwrap();
    assert!(size >= MANY + 256 && successor.facts().fds < 100, "{size} places");
}

/// Connections stop moving where new clients need the rest. What stays where it is drains politely.
#[test]
fn the_successor_has_few_left_for_many_connections() {
    let sandbox = Sandbox::new();
    let (service, serving) = incumbent(&sandbox);
    let mut clients = idle(serving.http, MANY).unwrap();
    let limit = quiet(&service) + 10;
    let outcome = handoff_after(&sandbox, "v2", &format!("ulimit -n {limit}"));
    assert_eq!(outcome.code(), 0, "{}", outcome.stderr);
    let said = format!("warning: its limit of open files is {limit}: ");
    assert!(outcome.stderr.contains(&said), "{}", outcome.stderr);
    let next = eventually("the successor says that it serves", SOON, || {
        sandbox.servings().last().copied().filter(|next| next.pid != service.pid())
    });
    status_when(&sandbox, "connections that moved", |status| status.serving.connections.idle > 200);
    let new: Vec<_> = (0..20).map(|_| answers_at_once(next)).collect();

    let fates = ask_all(&mut clients, SOON);
    let answered = |pid| fates.iter().filter(|fate| **fate == Fate::AnsweredBy(pid)).count();
    let (moved, stayed) = (answered(next.pid), answered(service.pid()));
    assert_eq!(moved + stayed, MANY, "{fates:?}");
    assert!(moved > 200 && stayed > 10, "{moved} moved, {stayed} stayed");
    assert_eq!(service.wait_drained().forced, 0, "polite to the end");
    let shown = hotctl(&sandbox, &["status"]).expect_success();
    let warning = format!("warning: its limit of open files is {limit}: ");
    assert!(shown.stdout.contains(&warning), "{}", shown.stdout);

    let rest = clients.into_iter().zip(&fates).filter(|(_, fate)| **fate == Fate::AnsweredBy(next.pid));
    let mut rest: Vec<_> = rest.map(|(client, _)| client).chain(new).collect();
    let third = Handover::run(&sandbox, Way::Hotctl, next, "v3", &ARGUMENTS).to;
    for client in &mut rest {
        comes_to(client, third.pid);
    }
}

/// From far too few descriptors for a successor to those that suffice, one by one.
#[test]
fn the_successor_has_too_few_for_a_handoff() {
    let sandbox = Sandbox::new();
    let (service, serving) = incumbent(&sandbox);
    // An operator's call that ends after the client has come would leave a lower number free, and that is the
    // limit.
    quiet(&service);
    let mut client = Steady::connect(serving.http).unwrap();
    assert_eq!(client.who().unwrap(), service.pid());
    let before = quiet(&service);
    let mut joined = 0;
    for limit in 4.. {
        let outcome = handoff_after(&sandbox, "v2", &format!("ulimit -n {limit}"));
        if outcome.code() == 0 {
            break;
        }
        // It may not even be able to load its libraries; whatever it is, the line says how it ended.
        fails(&outcome, serving, &["before it was ready"]);
        joined += u32::from(outcome.error_line().contains("limit of open files"));
        let panicked = sandbox.transcript().contains("hotupdate/src");
        assert!(!panicked, "the library panicked");
        assert_eq!(client.who().unwrap(), service.pid(), "it serves on");
        has_what_it_had(&service, before);
        assert!(limit < 40, "a successor does with less");
    }
    assert!(joined > 0, "no limit was reached in the middle of a handoff");
    // hotctl may be quicker to know that it serves than it is to print so.
    let next = eventually("the successor says that it serves", SOON, || {
        sandbox.servings().last().copied().filter(|next| next.pid != service.pid())
    });
    assert_eq!(service.wait_exit(), Exit::Status(0));
    // The old connection may have had no room there, and was closed politely; a new client has.
    assert_eq!(Steady::connect(next.http).unwrap().who().unwrap(), next.pid);
}
