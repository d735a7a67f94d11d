//! SIGTERM and SIGINT stop gracefully: what is in flight is answered first.
//!
//! Deliberately absent: SIGHUP, which starts a successor, see `walk.rs`.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use integration_tests::client::InFlight;
use integration_tests::process::{Exit, eventually};
use integration_tests::{SOON, Sandbox, Service, Status};
use rustix::process::Signal;

const SLEEP: Duration = Duration::from_secs(2);

fn stops_gracefully(signal: Signal) -> anyhow::Result<()> {
    let sandbox = Sandbox::new();
    let service = Service::start(&sandbox, "v1", &[]);
    let serving = service.wait_serving();
    let slow = InFlight::start(serving.http, SLEEP);
    eventually("the request is in flight", SOON, || {
        let status = Status::ask(&sandbox.control()).ok()?;
        (status.serving.connections.active == 1).then_some(())
    });

    service.signal(signal);

    let (pid, took) = slow.answer()?;
    assert_eq!(pid, service.pid());
    assert!(took >= SLEEP, "the request was cut to {took:?}");
    assert_eq!(service.wait_drained().forced, 0);
    assert_eq!(service.wait_exit(), Exit::Status(0));
    assert!(TcpStream::connect(serving.http).is_err(), "somebody still holds the listener");
    Ok(())
}

#[test]
fn sigterm() -> anyhow::Result<()> {
    stops_gracefully(Signal::TERM)
}

#[test]
fn sigint() -> anyhow::Result<()> {
    stops_gracefully(Signal::INT)
}

#[test]
fn with_nothing_in_flight_it_ends_at_once() {
    let sandbox = Sandbox::new();
    let service = Service::start(&sandbox, "v1", &[]);
    service.wait_serving();
    let begun = Instant::now();
    service.signal(Signal::TERM);
    service.wait_drained();
    assert!(begun.elapsed() < Duration::from_secs(2), "it took {:?}", begun.elapsed());
}

#[test]
fn the_next_start_is_a_first_start() {
    let sandbox = Sandbox::new();
    let service = Service::start(&sandbox, "v1", &[]);
    service.wait_serving();
    service.signal(Signal::TERM);
    service.wait_drained();
    let next = Service::start(&sandbox, "v2", &[]).wait_serving();
    assert_eq!(next.generation, 1, "nobody was there to succeed");
}
