//! A process that stands still in the middle of a move and goes on later: no client loses its connection, and
//! those whose connections are not the frozen one's are answered meanwhile.

use std::thread;
use std::time::{Duration, Instant};

use integration_tests::process::{Exit, eventually};
use integration_tests::steady::{Fate, Steady, answer_until, ask_all, idle};
use integration_tests::{Sandbox, Service};
use rustix::process::Signal;

use super::crowd::{talk, talker};
use super::dying::wait_for_descriptors;
use integration_tests::SOON;

/// Longer than the old process waits for an answer (deadline `prepared`, 5 s) and than the grace after which
/// a silent client is told to leave (5 s); shorter than it waits until what it says then is read (deadline
/// `write`, another 5 s), after which nothing moves.
const STANDSTILL: Duration = Duration::from_millis(8_500);

/// How long clients are waited for meanwhile: long enough for the old process to take back what is on its
/// way, and short enough to look at each of them before the standstill is over.
const ANSWERED_WITHIN: Duration = Duration::from_millis(7_500);

const ARGUMENTS: [&str; 2] = ["--probation", "0"];

/// More than are on their way, or wait for it, at the same time.
const CONNECTIONS: usize = 3_500;

const TALKERS: usize = 200;

/// Two batches: a process closes its copies and says so then. If it is frozen in between, and another hot
/// update is made without it, that word does not come, and they are lost.
const GIVEN_UNSAID: usize = 500;

/// Each client is answered by this process, on the connection that it has always had, and told nothing.
fn all_are_served_by(clients: &mut [Steady], pid: u32) {
    for (number, client) in clients.iter_mut().enumerate() {
        let until = Instant::now() + SOON;
        while client.who().unwrap_or_else(|error| panic!("client {number}: {error:#}")) != pid {
            assert!(Instant::now() < until, "client {number} is never served by {pid}");
        }
    }
}

#[test]
fn who_waits_for_a_successor_that_stands_still_is_served_and_moves_when_it_goes_on() {
    let sandbox = Sandbox::new();
    let first = Service::start(&sandbox, "v1", &ARGUMENTS);
    let serving = first.wait_serving();
    let mut talkers: Vec<_> =
        (0..TALKERS).map(|_| talker(serving.http).expect("the service answers")).collect();
    let mut talk_all = || -> Vec<_> {
        talkers.iter_mut().map(|client| talk(client, 0).expect("no WebSocket ends")).collect()
    };
    talk_all();
    let mut clients = idle(serving.http, CONNECTIONS).expect("the service answers");
    let successor = Service::start(&sandbox, "v2", &ARGUMENTS);
    wait_for_descriptors(successor.pid(), 300);
    successor.freeze();
    let frozen = Instant::now();
    let fds = std::fs::metadata(format!("/proc/{}/fd", successor.pid())).expect("it stands still").len();
    let before = thread::scope(|scope| {
        // By itself: on a machine under load it may take long to look at thousands of clients.
        scope.spawn(|| {
            eventually("the standstill is over", SOON, || (frozen.elapsed() >= STANDSTILL).then_some(()));
            successor.signal(Signal::CONT);
        });
        ask_all(&mut clients, ANSWERED_WITHIN.saturating_sub(frozen.elapsed()))
    });
    let count = |fate| before.iter().filter(|before| **before == fate).count();
    // What the new process has answered has waited until it went on.
    let wait = count(Fate::Waits) + count(Fate::AnsweredBy(successor.pid()));
    let answered = count(Fate::AnsweredBy(serving.pid));
    println!(
        "frozen: {answered} are answered by the old process, {wait} wait; the new one has {fds} descriptors"
    );
    assert_eq!(answered + wait, CONNECTIONS, "{before:?}");
    // Those that were given to the new process before, which alone may serve them.
    assert!(wait as u64 <= fds, "some wait for no process");
    for (client, _) in clients.iter_mut().zip(&before).filter(|(_, fate)| **fate == Fate::Waits) {
        assert_eq!(answer_until(client, Instant::now() + SOON), Fate::AnsweredBy(successor.pid()));
    }
    all_are_served_by(&mut clients, successor.pid());
    eventually("all WebSockets have moved", SOON, || {
        talk_all().into_iter().all(|pid| pid == successor.pid()).then_some(())
    });
    assert_eq!(first.wait_exit(), Exit::Status(0));
}

#[test]
fn an_old_process_that_stands_still_through_another_hot_update_keeps_what_it_offered() {
    let stood_still = (0..5).any(|_| stands_still_through_another_hot_update());
    assert!(stood_still, "it always ended before it could be stopped");
}

/// Whether the old process stood still: it may have moved everything, and ended, a moment before.
fn stands_still_through_another_hot_update() -> bool {
    let sandbox = Sandbox::new();
    let first = Service::start(&sandbox, "v1", &ARGUMENTS);
    let serving = first.wait_serving();
    let mut clients = idle(serving.http, 1_000).expect("the service answers");
    let second = Service::start(&sandbox, "v2", &ARGUMENTS);
    wait_for_descriptors(second.pid(), 300);
    if !first.try_freeze() {
        return false;
    }
    second.wait_serving();
    // The first attempts fail, since connections may be on their way, and one of the next has not to wait.
    let third = eventually("a third version serves", 2 * SOON, || {
        let third = Service::start(&sandbox, "v3", &ARGUMENTS);
        let serves = || sandbox.servings().iter().any(|serving| serving.pid == third.pid());
        eventually("an attempt comes to an end", SOON, || {
            (serves() || third.try_exit().is_some()).then_some(())
        });
        serves().then_some(third)
    });
    first.signal(Signal::CONT);
    let after = ask_all(&mut clients, SOON);
    let ended = after.iter().filter(|fate| **fate == Fate::Ended).count();
    // It had given them when it was frozen, and had not said so.
    assert!(ended <= GIVEN_UNSAID, "{ended} have ended: {after:?}");
    let mut fates = after.iter();
    clients.retain(|_| fates.next() != Some(&Fate::Ended));
    all_are_served_by(&mut clients, third.pid());
    assert_eq!((first.wait_exit(), second.wait_exit()), (Exit::Status(0), Exit::Status(0)));
    true
}
