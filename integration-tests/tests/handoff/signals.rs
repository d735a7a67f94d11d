//! SIGTERM and SIGINT: what is in flight is answered first, and which process goes on with the service.
//!
//! Deliberately absent: SIGHUP, which starts a successor, see `walk.rs`; and a real systemd, see
//! `../supervisors/stopping.rs`.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use integration_tests::client::{InFlight, get, who_answers};
use integration_tests::process::needs::{NAMESPACES, have};
use integration_tests::process::{Exit, binary, eventually};
use integration_tests::steady::Steady;
use integration_tests::{Handover, SOON, Sandbox, Service, Serving, Status, Way, hotctl};
use rustix::process::Signal;

const SLEEP: Duration = Duration::from_secs(2);

/// The predecessor waits longer than a test.
const PROBATION: [&str; 2] = ["--probation", "60"];

/// Far less than idle clients are given at a handoff, and far more than a stop takes on a busy machine.
const QUICK: Duration = Duration::from_secs(3);

fn stops_gracefully(signal: Signal) -> anyhow::Result<()> {
    let sandbox = Sandbox::new();
    let service = Service::start(&sandbox, "v1", &[]);
    let serving = service.wait_serving();
    let slow = in_flight(&sandbox, serving.http, SLEEP);

    service.signal(signal);

    let (pid, took) = slow.answer()?;
    assert_eq!(pid, service.pid());
    assert!(took >= SLEEP, "the request was cut to {took:?}");
    assert_eq!(service.wait_drained().forced, 0);
    assert_eq!(service.wait_exit(), Exit::Status(0));
    assert!(TcpStream::connect(serving.http).is_err(), "a process still holds the listener");
    Ok(())
}

#[track_caller]
fn in_flight(sandbox: &Sandbox, address: SocketAddr, sleep: Duration) -> InFlight {
    let slow = InFlight::start(address, sleep);
    eventually("the request is in flight", SOON, || {
        let status = Status::ask(&sandbox.control()).ok()?;
        (status.serving.connections.active == 1).then_some(())
    });
    slow
}

/// Sends the signal, and waits until a process has logged that it waits for something.
#[track_caller]
fn signal_and_see(sandbox: &Sandbox, service: &Service<'_>, signal: Signal) {
    let count = || sandbox.transcript().matches("before it ends, this process waits for").count();
    let before = count();
    service.signal(signal);
    eventually("the signal is in the log", SOON, || (count() > before).then_some(()));
}

/// Waits until this process serves, as operators see it.
#[track_caller]
fn serves(sandbox: &Sandbox, service: &Service<'_>) -> Status {
    eventually(&format!("{} serves", service.pid()), SOON, || {
        let status = Status::ask(&sandbox.control()).ok()?;
        (status.serving.process.pid == service.pid() && status.serving.state == "serving").then_some(status)
    })
}

/// The same, and knows that no successor is on its way any more.
#[track_caller]
fn serves_alone(sandbox: &Sandbox, service: &Service<'_>) {
    eventually(&format!("{} serves, and no successor is there", service.pid()), SOON, || {
        serves(sandbox, service).successor.is_none().then_some(())
    });
}

/// No process of the service is left, nor anything that it had.
#[track_caller]
fn all_has_ended(sandbox: &Sandbox, address: SocketAddr) {
    eventually("every process has ended", SOON, || sandbox.processes().is_empty().then_some(()));
    assert!(TcpStream::connect(address).is_err(), "a process still holds the listener");
    assert!(!sandbox.control().exists(), "the control socket is left");
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
    assert_eq!(next.generation, 1, "there was no process to succeed");
}

// ---- again
// ---------------------------------------------------------------------------------------------------

/// A supervisor may say it as often as it likes.
#[test]
fn sigterm_again_cuts_nothing_short() -> anyhow::Result<()> {
    let sandbox = Sandbox::new();
    let service = Service::start(&sandbox, "v1", &[]);
    let serving = service.wait_serving();
    let slow = in_flight(&sandbox, serving.http, SLEEP);
    service.signal(Signal::TERM);
    eventually("it has stopped to accept", SOON, || TcpStream::connect(serving.http).is_err().then_some(()));
    for signal in [Signal::TERM, Signal::TERM, Signal::INT] {
        signal_and_see(&sandbox, &service, signal);
    }
    let (_, took) = slow.answer()?;
    assert!(took >= SLEEP, "the request was cut to {took:?}");
    assert_eq!(service.wait_drained().forced, 0);
    Ok(())
}

#[test]
fn sigint_again_does() {
    let sandbox = Sandbox::new();
    let service = Service::start(&sandbox, "v1", &[]);
    let serving = service.wait_serving();
    let slow = in_flight(&sandbox, serving.http, Duration::from_secs(30));
    service.signal(Signal::INT);
    eventually("it has stopped to accept", SOON, || TcpStream::connect(serving.http).is_err().then_some(()));
    let begun = Instant::now();
    service.signal(Signal::INT);
    assert_eq!(service.wait_drained().forced, 1);
    assert!(begun.elapsed() < Duration::from_secs(10), "it took {:?}", begun.elapsed());
    assert!(slow.answer().is_err());
}

/// The one that was replaced is told to stop while it drains, and so is the one that serves, later.
#[test]
fn a_drain_goes_on_and_the_signal_is_remembered() -> anyhow::Result<()> {
    let sandbox = Sandbox::new();
    let first = Service::start(&sandbox, "v1", &PROBATION);
    let serving = first.wait_serving();
    let slow = in_flight(&sandbox, serving.http, 2 * SLEEP);
    let second = Service::start(&sandbox, "v2", &PROBATION);
    second.wait_serving();
    signal_and_see(&sandbox, &first, Signal::TERM);
    // It does not serve again, although its probation is not over.
    second.signal(Signal::TERM);
    second.wait_drained();
    assert!(slow.is_waiting(), "the request was cut");
    assert!(TcpStream::connect(serving.http).is_err(), "both were told to stop");
    let (pid, took) = slow.answer()?;
    assert!(pid == first.pid() && took >= 2 * SLEEP, "{pid} after {took:?}");
    assert_eq!(first.wait_drained().forced, 0);
    all_has_ended(&sandbox, serving.http);
    Ok(())
}

// ---- before it serves
// ----------------------------------------------------------------------------------------

/// Waits until a successor has everything, and warms up.
#[track_caller]
fn warms_up(sandbox: &Sandbox) {
    eventually("a successor warms up", SOON, || {
        let starts = Status::ask(&sandbox.control()).ok()?.successor?.state == "starting";
        (starts && sandbox.transcript().contains("origin=inherited")).then_some(())
    });
}

#[test]
fn a_successor_that_warms_up_gives_up_at_once() -> anyhow::Result<()> {
    for signal in [Signal::TERM, Signal::INT] {
        let sandbox = Sandbox::new();
        let first = Service::start(&sandbox, "v1", &[]);
        let serving = first.wait_serving();
        let second = Service::start(&sandbox, "v2", &["--warm-up", "60"]);
        warms_up(&sandbox);
        let begun = Instant::now();
        second.signal(signal);
        assert_eq!(second.wait_exit(), Exit::Signal(signal.as_raw()));
        assert!(begun.elapsed() < QUICK, "it took {:?}", begun.elapsed());
        serves_alone(&sandbox, &first);
        assert_eq!(who_answers(serving.http)?, first.pid());
        let _next = Handover::run(&sandbox, Way::ByHand, serving, "v3", &[]);
    }
    Ok(())
}

/// As process 1 it would not even notice a signal that it has no handler for (pid_namespaces(7)).
#[test]
fn a_successor_that_is_process_1_gives_up_at_once() -> anyhow::Result<()> {
    if !have(&[NAMESPACES]) {
        return Ok(());
    }
    for more in [&["--warm-up", "60"][..], &["--standby"]] {
        let sandbox = Sandbox::new();
        let first = Service::start(&sandbox, "v1", &[]);
        let serving = first.wait_serving();
        let server = binary("axum-server").to_string_lossy().into_owned();
        let mut command: Vec<String> =
            ["--pid", "--fork", "--kill-child", &server].map(str::to_owned).to_vec();
        command.extend(Service::arguments(&sandbox, "v2", more));
        let unshare = Service::spawn(&sandbox, Path::new("unshare"), &command);
        let wanted = if more.len() == 1 { "standby" } else { "starting" };
        eventually(&format!("it is {wanted}"), SOON, || {
            (Status::ask(&sandbox.control()).ok()?.successor?.state == wanted).then_some(())
        });
        let pid = unshare.pid();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
        let second = Service::of(&sandbox, children.trim().parse()?);
        let begun = Instant::now();
        second.signal(Signal::TERM);
        let exit = unshare.wait_exit();
        assert!(matches!(exit, Exit::Status(143 | 1)), "{exit:?}");
        assert!(begun.elapsed() < QUICK, "it took {:?}", begun.elapsed());
        serves_alone(&sandbox, &first);
        assert_eq!(who_answers(serving.http)?, first.pid());
        assert!(sandbox.transcript().contains("stopped by SIGTERM"));
    }
    Ok(())
}

// ---- two versions
// --------------------------------------------------------------------------------------------

fn two<'a>(sandbox: &'a Sandbox) -> (Service<'a>, Service<'a>, Serving) {
    let first = Service::start(sandbox, "v1", &PROBATION);
    let serving = first.wait_serving();
    let second = Service::start(sandbox, "v2", &PROBATION);
    second.wait_serving();
    (first, second, serving)
}

/// `systemctl stop app@v2`, `podman stop v2`.
#[test]
fn in_probation_the_version_before_serves_again_and_no_client_is_lost() -> anyhow::Result<()> {
    for signal in [Signal::TERM, Signal::INT] {
        let sandbox = Sandbox::new();
        let first = Service::start(&sandbox, "v1", &PROBATION);
        let serving = first.wait_serving();
        // Two keep their connections all the way, one has a request in flight.
        let mut before = Steady::connect(serving.http)?;
        assert_eq!(before.who()?, first.pid());
        let second = Service::start(&sandbox, "v2", &PROBATION);
        second.wait_serving();
        let mut between = Steady::connect(serving.http)?;
        assert_eq!(between.who()?, second.pid());
        migrates_to(&second, &mut before);
        let slow = in_flight(&sandbox, serving.http, SLEEP);
        let load = thread::spawn(move || {
            let until = Instant::now() + SLEEP;
            let mut answers = Vec::new();
            while Instant::now() < until {
                answers.push(who_answers(serving.http)?);
            }
            anyhow::Ok(answers)
        });

        second.signal(signal);
        serves(&sandbox, &first);
        for client in [&mut before, &mut between] {
            migrates_to(&first, client);
        }
        assert_eq!(slow.answer()?.0, second.pid(), "what was in flight is answered first");
        let answers = load.join().expect("no panic")?;
        assert!(answers.is_sorted_by_key(|pid| *pid == first.pid()), "{answers:?}");
        assert_eq!(answers.last(), Some(&first.pid()));
        assert_eq!(second.wait_drained().forced, 0, "it does not wait for the end of a probation");
        assert!(first.is_alive() && get(serving.http, "/version")? == "v1");
        let _next = Handover::run(&sandbox, Way::ByHand, serving_of(&sandbox, &first)?, "v3", &PROBATION);
    }
    Ok(())
}

/// Waits until the same connection is served by this process; each request is answered meanwhile.
#[track_caller]
fn migrates_to(service: &Service<'_>, client: &mut Steady) {
    eventually(&format!("{} serves the connection", service.pid()), SOON, || {
        let pid = client.who().expect("no client is lost");
        (pid == service.pid()).then_some(())
    });
}

fn serving_of(sandbox: &Sandbox, service: &Service<'_>) -> anyhow::Result<Serving> {
    let highest = sandbox.servings().iter().map(|serving| serving.generation).max().unwrap_or_default();
    Ok(Serving { generation: highest, ..service.wait_serving() })
}

/// `systemctl stop shop` tells every process of the unit, in any order, so soon or so late after each other.
#[test]
fn told_both_both_end() {
    let pauses = [0, 1, 3, 10, 40, 200, 1500].map(Duration::from_millis);
    for (pause, newest_first) in pauses.into_iter().flat_map(|pause| [(pause, true), (pause, false)]) {
        let sandbox = Sandbox::new();
        let (first, second, serving) = two(&sandbox);
        let order = if newest_first { [&second, &first] } else { [&first, &second] };
        order[0].signal(Signal::TERM);
        let begun = Instant::now();
        eventually("a moment", SOON, || (begun.elapsed() >= pause).then_some(()));
        order[1].signal(Signal::TERM);
        let begun = Instant::now();
        all_has_ended(&sandbox, serving.http);
        assert!(begun.elapsed() < QUICK, "{pause:?}, {newest_first}: it took {:?}", begun.elapsed());
        for service in order {
            assert_eq!(service.wait_drained().forced, 0);
        }
    }
}

#[test]
fn an_operators_stop_is_for_good() {
    let sandbox = Sandbox::new();
    let (_first, second, serving) = two(&sandbox);
    let _stops = hotctl(&sandbox, &["stop"]).expect_success();
    second.signal(Signal::TERM);
    all_has_ended(&sandbox, serving.http);
}

// ---- without a successor
// -------------------------------------------------------------------------------------

/// Reads to the end of the connection; a reset is an error.
fn rest(mut stream: &TcpStream) -> std::io::Result<String> {
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

fn keep_alive(address: SocketAddr) -> anyhow::Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(SOON))?;
    stream.write_all(b"GET /version HTTP/1.1\r\nHost: idle\r\n\r\n")?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"v1") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        answer.push(byte[0]);
    }
    Ok(stream)
}

#[test]
fn idle_clients_do_not_hold_a_stop() -> anyhow::Result<()> {
    for way in ["SIGTERM", "hotctl stop"] {
        let sandbox = Sandbox::new();
        let service = Service::start(&sandbox, "v1", &[]);
        let serving = service.wait_serving();
        let idle: Vec<_> = (0..20).map(|_| keep_alive(serving.http)).collect::<anyhow::Result<_>>()?;
        let silent = TcpStream::connect(serving.http)?;
        // Read as curl or a pool does: the client closes when the server has.
        let watches: Vec<_> = idle
            .into_iter()
            .chain([silent])
            .map(|stream| thread::spawn(move || rest(&stream).map(drop)))
            .collect();
        let begun = Instant::now();
        match way {
            "SIGTERM" => service.signal(Signal::TERM),
            _ => drop(hotctl(&sandbox, &["stop"]).expect_success()),
        }
        assert_eq!(service.wait_drained().forced, 0);
        assert!(begun.elapsed() < QUICK, "{way}: it took {:?}", begun.elapsed());
        for watch in watches {
            watch.join().expect("no panic")?;
        }
    }
    Ok(())
}

/// A client that does not close its end, and one that sends in this very moment.
#[test]
fn a_client_that_is_just_sending_is_not_reset() -> anyhow::Result<()> {
    let sandbox = Sandbox::new();
    let service = Service::start(&sandbox, "v1", &[]);
    let serving = service.wait_serving();
    // Half a request is there already: it is answered.
    let mut half = keep_alive(serving.http)?;
    half.write_all(b"GET /version HTTP/1.1\r\nHost")?;
    let mut late = keep_alive(serving.http)?;
    let slow = in_flight(&sandbox, serving.http, SLEEP);
    service.signal(Signal::TERM);
    eventually("it has stopped to accept", SOON, || TcpStream::connect(serving.http).is_err().then_some(()));
    half.write_all(b": half\r\n\r\n")?;
    let answer = rest(&half)?;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("v1"), "{answer}");
    assert!(answer.to_lowercase().contains("connection: close"), "{answer}");
    // The server has closed its end, and the client has not seen it.
    assert_eq!(rest(&late)?, "");
    late.write_all(b"GET /version HTTP/1.1\r\nHost: late\r\n\r\n")?;
    late.shutdown(Shutdown::Write)?;
    // One that is in flight has all the time that it needs.
    assert!(slow.answer()?.1 >= SLEEP);
    assert_eq!(service.wait_drained().forced, 0);
    assert_eq!(late.take_error()?.map(|error| error.to_string()), None, "it was reset");
    Ok(())
}

#[test]
fn an_operator_who_waits_for_a_stop_waits_for_the_end_of_the_process() {
    let sandbox = Sandbox::new();
    let service = Service::start(&sandbox, "v1", &[]);
    let begun = Instant::now();
    let slow = in_flight(&sandbox, service.wait_serving().http, SLEEP);
    let said = hotctl(&sandbox, &["stop", "--wait"]).expect_success().stderr;
    assert!(begun.elapsed() >= SLEEP, "{said}");
    assert!(said.contains(&format!("{} (v1) has stopped", service.pid())), "{said}");
    slow.answer().expect("what is in flight is answered");
    assert_eq!(service.wait_exit(), Exit::Status(0));
}
