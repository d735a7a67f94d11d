//! Connections that outlive their process, with real processes: through fifty handoffs no client sees a
//! close, a reset, a `Connection: close`, or a wrong byte; and whatever kills the successor, each connection
//! has exactly one server.
//!
//! Deliberately absent: how fast, see `src/bin/moves.rs`.

mod crowd;
mod dying;
mod hanging;

use std::time::{Duration, Instant};

use integration_tests::process::eventually;
use integration_tests::steady::idle;
use integration_tests::{SOON, Sandbox, Service, Status};

use self::crowd::{Crowd, connect, get, pipeline, post, slow, talk, talker};

/// A predecessor is gone at once when nothing is left in it.
const ARGUMENTS: [&str; 2] = ["--probation", "0"];

const KEEP_ALIVE: usize = 200;
const IDLE: usize = 2_000;
const TALKING: usize = 200;
const POSTING: usize = 10;
const PIPELINING: usize = 10;
const SLOW: usize = 10;

/// An idle client that does not move would hold its predecessor for at least this long: the grace.
const GRACE: Duration = Duration::from_secs(5);

/// What clients wait between two things they do. More would keep a debug build from doing anything else.
const PAUSE: Duration = Duration::from_millis(if cfg!(debug_assertions) { 200 } else { 50 });

/// Keep-alive clients ask again at once.
const THINKING: Duration = if cfg!(debug_assertions) { PAUSE } else { Duration::ZERO };

#[test]
fn through_fifty_handoffs_no_client_notices_anything() {
    const HANDOFFS: usize = 50;
    let sandbox = Sandbox::new();
    let mut serving = Service::start(&sandbox, "v0", &ARGUMENTS).wait_serving();
    let mut idle = idle(serving.http, IDLE).expect("the service answers");
    let mut crowd = Crowd::new(serving.http);
    crowd.start(KEEP_ALIVE, THINKING, connect, get);
    crowd.start(TALKING, PAUSE, talker, talk);
    crowd.start(POSTING, PAUSE / 10, connect, post);
    crowd.start(PIPELINING, PAUSE / 10, connect, pipeline);
    let (mut after_serving, mut after_answer) = (Vec::new(), Vec::new());
    for number in 1..=HANDOFFS {
        crowd.answers_go_on();
        let next = Service::start(&sandbox, &format!("v{number}"), &ARGUMENTS).wait_serving();
        let begun = Instant::now();
        let before = Service::of(&sandbox, serving.pid);
        eventually("the predecessor is gone", SOON, || before.try_exit());
        after_serving.push(begun.elapsed());
        after_answer.push(crowd.since_last_answer(serving.pid).expect("it answered"));
        serving = next;
    }
    let answered = crowd.stop();
    for client in &mut idle {
        assert_eq!(client.who().expect("its connection is the same"), serving.pid);
    }
    println!(
        "{answered} answers; {IDLE} idle connections, {TALKING} WebSockets, {} others",
        KEEP_ALIVE + POSTING + PIPELINING
    );
    println!("from `serving` to the end of the predecessor: {}", told(after_serving).1);
    let (worst, after_answer) = told(after_answer);
    println!("from its last answer to its end: {after_answer}");
    assert!(worst < GRACE, "a predecessor stayed for {worst:?}");
    assert!(sandbox.drained().iter().all(|drained| drained.forced == 0));
}

/// The longest, and all in one line.
fn told(mut times: Vec<Duration>) -> (Duration, String) {
    times.sort_unstable();
    let (all, worst) = (times.len(), times[times.len() - 1]);
    let soon = times.iter().filter(|time| **time < Duration::from_millis(100)).count();
    (worst, format!("median {:?}, worst {worst:?}; below 100 ms: {soon} of {all}", times[all / 2]))
}

/// The clients that are idle do not hold a process that still has requests in flight.
#[test]
fn a_predecessor_goes_with_its_last_request() {
    const HANDOFFS: usize = 20;
    let sandbox = Sandbox::new();
    let mut serving = Service::start(&sandbox, "v0", &ARGUMENTS).wait_serving();
    let mut idle = idle(serving.http, IDLE).expect("the service answers");
    let mut crowd = Crowd::new(serving.http);
    crowd.start(SLOW, Duration::ZERO, connect, slow);
    let mut after_answer = Vec::new();
    for number in 1..=HANDOFFS {
        let next = Service::start(&sandbox, &format!("v{number}"), &ARGUMENTS).wait_serving();
        let before = Service::of(&sandbox, serving.pid);
        eventually("the predecessor is gone", SOON, || before.try_exit());
        after_answer.push(crowd.since_last_answer(serving.pid).expect("it answered"));
        serving = next;
    }
    crowd.stop();
    for client in &mut idle {
        assert_eq!(client.who().expect("its connection is the same"), serving.pid);
    }
    let (worst, after_answer) = told(after_answer);
    println!("from the last answer of a predecessor to its end: {after_answer}");
    assert!(worst < GRACE, "a predecessor stayed for {worst:?}");
}

/// Versions follow each other faster than slow requests end, so that several drain at a time, and connections
/// move from each of them to the process that serves by then.
#[test]
fn many_generations_at_a_time() {
    let sandbox = Sandbox::new();
    let mut serving = Service::start(&sandbox, "v0", &ARGUMENTS).wait_serving();
    let mut idle = idle(serving.http, 100).expect("the service answers");
    let mut crowd = Crowd::new(serving.http);
    crowd.start(SLOW, Duration::ZERO, connect, slow);
    crowd.start(SLOW, PAUSE / 10, connect, get);
    let mut most = 0;
    for number in 1..=20 {
        serving = Service::start(&sandbox, &format!("v{number}"), &ARGUMENTS).wait_serving();
        let status = eventually("a status", SOON, || Status::ask(&sandbox.control()).ok());
        most = most.max(status.predecessors.len());
        crowd.answers_go_on();
    }
    crowd.stop();
    for client in &mut idle {
        assert_eq!(client.who().expect("its connection is the same"), serving.pid);
    }
    println!("at most {most} predecessors at a time");
}
