//! What an old process costs that has nothing left to do but to serve again if the new one dies.

use integration_tests::process::eventually;
use integration_tests::steady::idle;
use integration_tests::{SOON, Sandbox, Service, Status};

const IDLE: usize = 500;

/// Connections that use some 14 KB each while their clients speak.
const MANY: usize = 3000;

/// Times that its threads may be woken: a timer of the runtime, which is set in steps, and its end. One that
/// ticks ten times in a second would be far above.
const WAKES: u64 = 40;

#[test]
fn in_its_probation_an_old_process_without_connections_sleeps() {
    let sandbox = Sandbox::new();
    let arguments = ["--probation", "5"];
    let old = Service::start(&sandbox, "v1", &arguments);
    let address = old.wait_serving().http;
    let clients = idle(address, IDLE).expect("the service answers");
    let _ = Service::start(&sandbox, "v2", &arguments).wait_serving();
    eventually("its connections have moved, and the new process knows", SOON, || {
        let draining = Status::ask(&sandbox.control()).ok()?.draining();
        matches!(draining[..], [(1, 0)]).then_some(())
    });
    let begin = old.sleeps().expect("it is in its probation");
    let mut end = begin;
    eventually("its probation is over", SOON, || {
        // At its end its threads go one after the other.
        end = end.max(old.sleeps().unwrap_or_default());
        old.try_exit()
    });
    drop(clients);
    let woken = end - begin;
    println!("{woken} wakes in its probation");
    assert!(woken <= WAKES, "its threads were woken {woken} times");
}

#[test]
fn in_its_probation_an_old_process_gives_back_what_its_connections_have_used() {
    let sandbox = Sandbox::new();
    let arguments = ["--probation", "60"];
    let old = Service::start(&sandbox, "v1", &arguments);
    let address = old.wait_serving().http;
    let before = old.facts().heap_kib;
    let clients = idle(address, MANY).expect("the service answers");
    let full = old.facts().heap_kib;
    let new = Service::start(&sandbox, "v2", &arguments);
    new.wait_serving();
    let mut left = full;
    let given_back = "a quarter of what was used for connections is left at most, and it may serve again";
    eventually(given_back, SOON, || {
        left = old.facts().heap_kib;
        (left.saturating_sub(before) < (full - before) / 4).then_some(())
    });
    println!("{before} KiB before, {full} KiB with {MANY} connections, {left} KiB without");
    let draining = Status::ask(&sandbox.control()).expect("v2 answers").draining();
    assert_eq!(draining[..], [(1, 0)], "the old process is in its probation");
    drop(clients);
}
