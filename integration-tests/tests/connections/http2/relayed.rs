//! Streams that are open while their connection moves: they go on in the old process to their end, and new
//! ones are answered by the new process.

use std::net::SocketAddr;
use std::process::Command;

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use integration_tests::client::{parse_pid, who_answers};
use integration_tests::process::{binary, eventually};
use integration_tests::status::GoAways;
use integration_tests::{SOON, Sandbox, Service, Status};
use rustix::process::Signal;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::clients::{Client, number};
use super::stage::{Asks as _, Over};

const HANDOFFS: usize = 10;

fn start<'a>(sandbox: &'a Sandbox, program: &str, version: usize, more: &[&str]) -> Service<'a> {
    let arguments = Service::arguments(sandbox, &format!("v{version}"), more);
    Service::spawn(sandbox, &binary(program), &arguments)
}

/// Streams that last longer than requests wait for them, at every handoff.
fn streams_of_tonic(over: Over) -> anyhow::Result<()> {
    let sandbox = Sandbox::new();
    let tls = sandbox.path().join("tls").display().to_string();
    let mut more = vec!["--probation", "0"];
    if over == Over::Tls {
        more.extend(["--tls", &tls]);
    }
    let mut service = start(&sandbox, "tonic-greeter", 0, &more);
    let mut command = Command::new(binary("tonic-greeter"));
    command.args(["greet", &service.wait_serving().http.to_string()]);
    command.args(["--calls", "4", "--streams", "4", "--greetings", "20", "--every-ms", "30"]);
    if over == Over::Tls {
        command.args(["--ca", &format!("{tls}/cert.pem")]);
    }
    let client = Client::start(&mut command, Some(Signal::TERM))?;
    eventually("its streams are open", SOON, || {
        (Status::ask(&sandbox.control()).ok()?.serving.totals.requests > 100).then_some(())
    });
    let mut relayed = 0;
    for handoff in 1..=HANDOFFS {
        let next = start(&sandbox, "tonic-greeter", handoff, &more);
        next.wait_serving();
        let (totals, of_old) = eventually("its connection has moved", SOON, || {
            let status = Status::ask(&sandbox.control()).ok()?;
            let of_old = status.predecessors.iter().map(|old| old.totals.relayed).sum::<u64>();
            let is_known = of_old > 0 || status.predecessors.is_empty();
            (status.serving.totals.adopted == 1 && is_known).then_some((status.serving.totals, of_old))
        });
        relayed += of_old;
        ensure!(totals.accepted == 0 && totals.goaways == GoAways::default(), "{totals:?}");
        let drained = service.wait_drained();
        ensure!(drained.forced == 0, "{drained:?}");
        service = next;
    }
    // All of them may have come to their ends just then.
    ensure!(relayed > HANDOFFS as u64 / 2, "{relayed}");
    let said = client.end()?;
    let count = |word| number(&said, word);
    assert_eq!((count("failed")?, count("connections")?), (0, 1), "{said}");
    assert!(count("calls")? > 500 && count("streams")? > 10 && count("messages")? > 400, "{said}");
    Ok(())
}

#[test]
fn streams_of_tonic_that_stay_open() -> anyhow::Result<()> {
    streams_of_tonic(Over::Tcp)
}

#[test]
fn streams_of_tonic_that_stay_open_over_tls() -> anyhow::Result<()> {
    streams_of_tonic(Over::Tls)
}

// ---- server-sent events

/// A client with one connection.
struct Asking {
    sender: SendRequest<Empty<Bytes>>,
    connection: JoinHandle<hyper::Result<()>>,
}

impl Asking {
    async fn connect(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        Ok(Self { sender, connection: tokio::spawn(connection) })
    }

    async fn get(&mut self, path: &str) -> anyhow::Result<Incoming> {
        let request = Request::get(format!("http://test{path}")).body(Empty::new())?;
        Ok(timeout(SOON, self.sender.send_request(request)).await??.into_body())
    }

    async fn who_answers(&mut self) -> anyhow::Result<u32> {
        let answer = timeout(SOON, self.get("/").await?.collect()).await??.to_bytes();
        parse_pid(str::from_utf8(&answer)?)
    }
}

/// The next event; `None` at the end.
async fn next(events: &mut Incoming) -> anyhow::Result<Option<u64>> {
    loop {
        let Some(frame) = timeout(SOON, events.frame()).await? else { return Ok(None) };
        let Ok(data) = frame?.into_data() else { bail!("there are no trailers") };
        if !data.is_empty() {
            let event = str::from_utf8(&data)?.trim().strip_prefix("data: ").context("one event")?;
            return Ok(Some(event.parse()?));
        }
    }
}

/// What was answered by this process is served by the next one when this returns.
fn replace<'a>(sandbox: &'a Sandbox, version: usize, more: &[&str]) -> Service<'a> {
    let next = start(sandbox, "axum-server", version, more);
    next.wait_serving();
    eventually("its connection has moved", SOON, || {
        (Status::ask(&sandbox.control()).ok()?.serving.totals.adopted == 1).then_some(())
    });
    next
}

/// Ten of them come in a second: three more versions have started by then, also on a machine that is busy.
const EVENTS: u64 = 60;

/// The second one and those after it find that it was relayed already.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_go_on_through_handoffs_that_follow_each_other() -> anyhow::Result<()> {
    let (sandbox, more) = (Sandbox::new(), ["--probation", "0"]);
    let first = start(&sandbox, "axum-server", 0, &more);
    let mut client = Asking::connect(first.wait_serving().http).await?;
    let mut events = client.get(&format!("/events?count={EVENTS}")).await?;
    assert_eq!(next(&mut events).await?, Some(0));
    let second = replace(&sandbox, 1, &more);
    let mut last = second.pid();
    for version in 2..5 {
        let third = start(&sandbox, "axum-server", version, &more);
        third.wait_serving();
        last = third.pid();
        assert_eq!(client.who_answers().await?, second.pid());
    }
    for n in 1..EVENTS {
        assert_eq!(next(&mut events).await?, Some(n));
    }
    assert_eq!(next(&mut events).await?, None);
    assert_eq!((first.wait_drained().forced, second.wait_drained().forced), (0, 0));
    assert_eq!(client.who_answers().await?, last);
    assert!(!client.connection.is_finished());
    Ok(())
}

/// The streams that it served have ended, and the connection goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_old_process_is_killed_while_it_serves_a_stream() -> anyhow::Result<()> {
    let (sandbox, more) = (Sandbox::new(), ["--probation", "0"]);
    let old = start(&sandbox, "axum-server", 0, &more);
    let mut client = Asking::connect(old.wait_serving().http).await?;
    let mut events = client.get("/events?count=1000").await?;
    let new = replace(&sandbox, 1, &more);
    assert_eq!((next(&mut events).await?, client.who_answers().await?), (Some(0), new.pid()));
    old.kill();
    let error = loop {
        match next(&mut events).await {
            Ok(event) => assert!(event.is_some(), "the stream has ended as if it were whole"),
            Err(error) => break error,
        }
    };
    let reset = error.downcast_ref::<hyper::Error>().and_then(std::error::Error::source);
    let reset = reset.and_then(|source| source.downcast_ref::<h2::Error>());
    assert!(reset.is_some_and(h2::Error::is_reset), "{error:?}");
    assert_eq!(client.who_answers().await?, new.pid());
    let after = replace(&sandbox, 2, &more);
    assert_eq!(client.who_answers().await?, after.pid());
    Ok(())
}

/// The connection was its own, as any that has moved; the old process takes over, and nothing is left there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_new_process_is_killed_while_the_old_one_serves_a_stream() -> anyhow::Result<()> {
    let (sandbox, more) = (Sandbox::new(), ["--probation", "30"]);
    let old = start(&sandbox, "axum-server", 0, &more);
    let address = old.wait_serving().http;
    let mut client = Asking::connect(address).await?;
    let mut events = client.get("/events?count=1000").await?;
    assert_eq!(next(&mut events).await?, Some(0));
    let new = replace(&sandbox, 1, &more);
    assert_eq!(client.who_answers().await?, new.pid());
    new.kill();
    assert!(timeout(SOON, client.connection).await?.is_ok(), "the connection has ended");
    eventually("the old process serves again", SOON, || {
        let status = Status::ask(&sandbox.control()).ok()?;
        let is_empty = status.serving.connections.idle + status.serving.connections.active == 0;
        (status.serving.process.pid == old.pid() && is_empty).then_some(())
    });
    assert_eq!(who_answers(address)?, old.pid());
    Ok(())
}
