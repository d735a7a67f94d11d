//! HTTP/2 and gRPC through handoffs, with clients as they are: they see no GOAWAY and no failure, and their
//! connections stay the same.
//!
//! Deliberately absent: curl without TLS. The one of Debian 12 cannot use such a connection a second time,
//! with any server.

use std::io::Read as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, ensure};
use integration_tests::process::needs::{H2LOAD, NODE, PYTHON_HTTP2, have};
use integration_tests::process::{binary, eventually};
use integration_tests::status::GoAways;
use integration_tests::{SOON, Sandbox, Service, Status};
use rustix::process::Signal;

const HANDOFFS: usize = 50;

const PYTHON: &str = "/usr/bin/python3";

/// A client that runs, and how it is told to come to an end.
struct Client {
    child: Child,
    /// With a signal, and not with the end of its standard input.
    signal: Option<Signal>,
}

impl Client {
    fn start(command: &mut Command, signal: Option<Signal>) -> anyhow::Result<Self> {
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        Ok(Self { child, signal })
    }

    fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// What it says.
    fn end(mut self) -> anyhow::Result<String> {
        drop(self.child.stdin.take());
        if let Some(signal) = self.signal {
            rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal)?;
        }
        let ended = eventually("the client ends", SOON, || self.child.try_wait().transpose())?;
        let mut said = String::new();
        self.child.stdout.take().context("it is piped")?.read_to_string(&mut said)?;
        ensure!(ended.success(), "the client has failed, {ended}: {said}");
        Ok(said)
    }
}

/// A test that fails leaves no client behind.
impl Drop for Client {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Replaces the service 50 times, or until the client ends by itself. Returns what the client says at its
/// end. It has so many connections.
fn through_handoffs(
    program: &str,
    connections: u64,
    client: impl FnOnce(&str) -> anyhow::Result<Client>,
) -> anyhow::Result<String> {
    let sandbox = Sandbox::new();
    let start = |version: &str| {
        let arguments = Service::arguments(&sandbox, version, &["--probation", "0"]);
        Service::spawn(&sandbox, &binary(program), &arguments)
    };
    let mut service = start("v0");
    let mut client = client(&service.wait_serving().http.to_string())?;
    let status = || Status::ask(&sandbox.control());
    let open = |status: &Status| status.serving.connections.idle + status.serving.connections.active;
    eventually("its connections are open", SOON, || {
        status().ok().filter(|status| open(status) == connections)
    });
    for handoff in 1..=HANDOFFS {
        let next = start(&format!("v{handoff}"));
        next.wait_serving();
        let drained = service.wait_drained();
        ensure!(drained.forced == 0, "{drained:?}");
        // What has left the old process arrives in the new one.
        let totals = eventually("its connections have moved", SOON, || {
            let totals = status().ok()?.serving.totals;
            (client.has_ended() || totals.adopted + totals.accepted == connections).then_some(totals)
        });
        ensure!(totals.accepted == 0, "handoff {handoff}: a client has come again: {totals:?}");
        ensure!(totals.goaways == GoAways::default(), "{totals:?}");
        if client.has_ended() {
            ensure!(handoff >= 5, "it has ended after {handoff} handoffs: {}", client.end()?);
            break;
        }
        service = next;
    }
    client.end()
}

/// The number behind a word, as in `failed=3`.
fn number(said: &str, word: &str) -> anyhow::Result<u64> {
    let find = |token: &str| token.strip_prefix(word)?.strip_prefix('=')?.parse().ok();
    said.split_whitespace().find_map(find).with_context(|| format!("no {word} in {said:?}"))
}

fn script(program: &str, name: &str, address: &str) -> anyhow::Result<Client> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/connections/http2").join(name);
    Client::start(Command::new(program).arg(path).arg(address), None)
}

#[test]
fn calls_and_streams_of_tonic() -> anyhow::Result<()> {
    let said = through_handoffs("tonic-greeter", 1, |address| {
        let mut command = Command::new(binary("tonic-greeter"));
        Client::start(command.args(["greet", address]), Some(Signal::TERM))
    })?;
    let count = |word| number(&said, word);
    assert_eq!((count("failed")?, count("connections")?), (0, 1), "{said}");
    assert!(count("calls")? > 500 && count("streams")? > 50 && count("messages")? > 250, "{said}");
    Ok(())
}

#[test]
fn calls_and_streams_of_python() -> anyhow::Result<()> {
    if !have(&[PYTHON_HTTP2]) {
        return Ok(());
    }
    let said = through_handoffs("tonic-greeter", 1, |address| script(PYTHON, "calls.py", address))?;
    assert_eq!(number(&said, "failed")?, 0, "{said}");
    assert!(number(&said, "answered")? > 100, "{said}");
    Ok(())
}

#[test]
fn requests_of_python() -> anyhow::Result<()> {
    if !have(&[PYTHON_HTTP2]) {
        return Ok(());
    }
    let said = through_handoffs("axum-server", 1, |address| script(PYTHON, "requests.py", address))?;
    assert_eq!(number(&said, "failed")?, 0, "{said}");
    assert!(number(&said, "answered")? > 100, "{said}");
    Ok(())
}

#[test]
fn requests_of_node() -> anyhow::Result<()> {
    if !have(&[NODE]) {
        return Ok(());
    }
    let said = through_handoffs("axum-server", 1, |address| script("node", "requests.js", address))?;
    assert_eq!((number(&said, "failed")?, number(&said, "goaway")?), (0, 0), "{said}");
    assert!(number(&said, "answered")? > 200, "{said}");
    Ok(())
}

#[test]
fn load_of_nghttp2() -> anyhow::Result<()> {
    if !have(&[H2LOAD]) {
        return Ok(());
    }
    let said = through_handoffs("axum-server", 4, |address| {
        let mut command = Command::new("h2load");
        command.args(["--duration", "4", "-c", "4", "-m", "10"]);
        Client::start(command.arg(format!("http://{address}/version")), None)
    })?;
    let requests = said.lines().find(|line| line.starts_with("requests: ")).context("it has a summary")?;
    assert!(requests.contains(" 0 failed, 0 errored, 0 timeout"), "{said}");
    Ok(())
}
