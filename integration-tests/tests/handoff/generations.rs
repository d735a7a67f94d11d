//! Three generations at once: what the operator sees of each, and how they leave.
//!
//! Deliberately absent: more than eight, where the oldest is hurried; the machines are tested for that.

use std::time::Duration;

use integration_tests::client::InFlight;
use integration_tests::process::eventually;
use integration_tests::{Handover, SOON, Sandbox, Service, Status, Way, hotctl};

/// Longer than two handoffs on a busy machine take.
const SLEEP: Duration = Duration::from_secs(8);

#[test]
fn three_generations_each_with_a_request_in_flight() -> anyhow::Result<()> {
    let sandbox = Sandbox::new();
    let arguments = ["--probation", "0.5"];
    let first = Service::start(&sandbox, "v1", &arguments).wait_serving();
    let oldest = in_flight(&sandbox, first.http);
    let second = Handover::run(&sandbox, Way::ByHand, first, "v2", &arguments).to;
    let older = in_flight(&sandbox, first.http);
    let third = Handover::run(&sandbox, Way::ByHand, second, "v3", &arguments).to;

    let status = eventually("a status with one connection in each old generation", SOON, || {
        let status = Status::ask(&sandbox.control()).ok()?;
        (status.draining() == [(2, 1), (1, 1)]).then_some(status)
    });
    assert_eq!((status.serving.generation, status.serving.process.pid), (3, third.pid));
    let pids: Vec<_> = status.predecessors.iter().map(|process| process.process.pid).collect();
    assert_eq!(pids, [second.pid, first.pid]);
    assert!(status.predecessors.iter().all(|process| process.state == "draining"), "{status:?}");
    assert!(status.predecessors.iter().all(|process| process.connections.active == 1), "{status:?}");
    assert!(oldest.is_waiting() && older.is_waiting(), "the requests were too short for this machine");

    for_people(&sandbox, [third.pid, second.pid, first.pid]);
    for_programs(&sandbox)?;

    assert_eq!(oldest.answer()?.0, first.pid);
    assert_eq!(older.answer()?.0, second.pid);
    for predecessor in [first, second] {
        assert_eq!(Service::of(&sandbox, predecessor.pid).wait_drained().forced, 0);
    }
    eventually("a status without predecessors", SOON, || {
        Status::ask(&sandbox.control()).ok()?.predecessors.is_empty().then_some(())
    });
    Ok(())
}

fn in_flight(sandbox: &Sandbox, address: std::net::SocketAddr) -> InFlight {
    let request = InFlight::start(address, SLEEP);
    eventually("the request is in flight", SOON, || {
        let status = Status::ask(&sandbox.control()).ok()?;
        (status.serving.connections.active == 1).then_some(())
    });
    request
}

/// One row for each process, with its version and what it does.
fn for_people(sandbox: &Sandbox, pids: [u32; 3]) {
    let table = hotctl(sandbox, &["status"]).expect_success().stdout;
    let states = ["serving", "draining", "draining"];
    for ((pid, state), version) in pids.iter().zip(states).zip(["v3", "v2", "v1"]) {
        let row = table.lines().find(|line| line.split_whitespace().any(|word| word == pid.to_string()));
        let row = row.unwrap_or_else(|| panic!("no row for {pid} in\n{table}"));
        assert!(row.contains(state) && row.contains(version), "{row}");
    }
}

fn for_programs(sandbox: &Sandbox) -> anyhow::Result<()> {
    let line = hotctl(sandbox, &["--json", "status"]).expect_success().stdout;
    let status: serde_json::Value = serde_json::from_str(&line)?;
    assert_eq!(status["serving"]["generation"], 3, "{line}");
    let generations: Vec<_> = [0, 1].map(|index| status["predecessors"][index]["generation"].as_u64()).into();
    assert_eq!(generations, [Some(2), Some(1)], "{line}");
    Ok(())
}
