//! A raw protocol through ten handoffs: a hundred conversations, each over one connection, and none is
//! interrupted.
//!
//! Deliberately absent: sleeping. The clients talk all the time, so a handoff meets their connections in
//! every state.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::thread::{self, JoinHandle};

use anyhow::{Context, ensure};
use integration_tests::process::{binary, eventually, hotctl};
use integration_tests::{SOON, Sandbox, Service, Serving, Status};
use rustix::process::Signal;

const CLIENTS: usize = 100;
const HANDOFFS: usize = 10;
/// What a client has seen so far.
#[derive(Debug, Default)]
struct Seen {
    lines: AtomicU64,
    pid: AtomicU32,
    over: AtomicBool,
}

struct Client {
    seen: Arc<Seen>,
    thread: JoinHandle<anyhow::Result<BTreeSet<String>>>,
}

impl Client {
    fn start(number: usize, address: SocketAddr) -> Self {
        let seen = Arc::new(Seen::default());
        let ours = seen.clone();
        Self { seen, thread: thread::spawn(move || talk(number, address, &ours)) }
    }
}

/// Sends numbered lines, each in two pieces: while an answer is awaited, half of the next line is with the
/// server. Returns the versions that answered.
fn talk(number: usize, address: SocketAddr, seen: &Seen) -> anyhow::Result<BTreeSet<String>> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(SOON))?;
    let mut answers = BufReader::new(stream.try_clone()?);
    let text = |n: u64| format!("client {number} line {n}\n");
    let (mut versions, mut n) = (BTreeSet::new(), 1);
    stream.write_all(&text(1).as_bytes()[..5])?;
    while !seen.over.load(Relaxed) {
        let (line, next) = (text(n), text(n + 1));
        // The cut is somewhere else each time, also before the first byte.
        let cut = usize::try_from(n)? % next.len();
        let begun = if n == 1 { 5 } else { usize::try_from(n - 1)? % line.len() };
        stream.write_all(&[&line.as_bytes()[begun..], &next.as_bytes()[..cut]].concat())?;
        let mut answer = String::new();
        answers.read_line(&mut answer).with_context(|| format!("client {number} waits for answer {n}"))?;
        let mut words = answer.splitn(4, ' ');
        let mut word = || words.next().with_context(|| format!("client {number}: {answer:?} to line {n}"));
        let (version, pid, counted, echo) = (word()?, word()?, word()?, word()?);
        ensure!(counted == n.to_string() && echo == line, "client {number}: {answer:?} to line {n}");
        versions.insert(version.to_owned());
        seen.pid.store(pid.parse()?, Relaxed);
        seen.lines.store(n, Relaxed);
        n += 1;
    }
    Ok(versions)
}

fn start<'a>(sandbox: &'a Sandbox, version: &str) -> Service<'a> {
    let arguments = Service::arguments(sandbox, version, &["--probation", "60"]);
    Service::spawn(sandbox, &binary("tcp-echo"), &arguments)
}

/// Each client is answered by this process, on the connection that it has always had.
#[track_caller]
fn all_answered_by(clients: &[Client], pid: u32) {
    eventually(&format!("all clients are answered by {pid}"), SOON, || {
        if clients.iter().any(|client| client.thread.is_finished()) {
            return Some(()); // with an error, which is shown at the end
        }
        clients.iter().all(|client| client.seen.pid.load(Relaxed) == pid).then_some(())
    });
}

fn end(clients: Vec<Client>) -> anyhow::Result<Vec<BTreeSet<String>>> {
    clients.iter().for_each(|client| client.seen.over.store(true, Relaxed));
    let join = |client: Client| client.thread.join().expect("no client panics");
    clients.into_iter().map(join).collect()
}

#[test]
fn conversations_go_on_through_ten_handoffs_and_a_rollback() -> anyhow::Result<()> {
    let sandbox = Sandbox::new();
    let mut services = vec![start(&sandbox, "v1")];
    let first: Serving = services[0].wait_serving();
    let clients: Vec<_> = (0..CLIENTS).map(|number| Client::start(number, first.http)).collect();
    all_answered_by(&clients, first.pid);

    for handoff in 1..=HANDOFFS {
        // Each client is in the middle of a conversation, not at its beginning.
        let lines = || clients.iter().map(|client| client.seen.lines.load(Relaxed)).min().unwrap_or_default();
        let before = lines();
        eventually("everybody says more", SOON, || (lines() > before).then_some(()));
        let service = start(&sandbox, &format!("v{}", handoff + 1));
        assert_eq!(service.wait_serving().generation, u64::try_from(handoff)? + 1);
        all_answered_by(&clients, service.pid());
        services.push(service);
        // The one before the last cannot come back any more, and has nothing left.
        if let Some(old) = handoff.checked_sub(2) {
            assert_eq!(services[old].wait_drained().forced, 0);
        }
    }

    let status = Status::ask(&sandbox.control())?;
    assert_eq!(status.serving.connections.idle, CLIENTS as u64, "{status:?}");
    let _ = hotctl(&sandbox, &["rollback"]).expect_success();
    all_answered_by(&clients, services[HANDOFFS - 1].pid());

    let seen = end(clients)?;
    let all: BTreeSet<_> = (1..=HANDOFFS + 1).map(|n| format!("v{n}")).collect();
    assert!(seen.iter().all(|versions| *versions == all), "each version answered everybody: {seen:?}");
    Ok(())
}

#[test]
fn a_signal_starts_the_successor_too() -> anyhow::Result<()> {
    let sandbox = Sandbox::new();
    let first = start(&sandbox, "v1");
    let serving = first.wait_serving();
    let clients = vec![Client::start(0, serving.http)];
    all_answered_by(&clients, serving.pid);
    first.signal(Signal::HUP);
    let next = eventually("a successor serves", SOON, || {
        sandbox.servings().into_iter().find(|serving| serving.generation == 2)
    });
    all_answered_by(&clients, next.pid);
    end(clients)?;
    Ok(())
}
