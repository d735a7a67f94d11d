//! The chat room: no client notices that its program is replaced, neither members who count every message nor a
//! browser.
//!
//! Deliberately absent: WebSockets that cannot move, see `crates/hotupdate-axum/tests/websockets/staying.rs`.

#![allow(clippy::print_stdout, reason = "a test may say what it measured")]

mod browser;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures_util::{SinkExt as _, StreamExt as _};
use integration_tests::process::{binary, eventually};
use integration_tests::{SOON, Sandbox, Service, Status, hotctl};
use rustix::process::Signal;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

const NO_PROBATION: [&str; 2] = ["--probation", "0"];

fn start<'a>(sandbox: &'a Sandbox, version: &str) -> Service<'a> {
    start_with(sandbox, version, &NO_PROBATION)
}

fn start_with<'a>(sandbox: &'a Sandbox, version: &str, more: &[&str]) -> Service<'a> {
    let arguments = Service::arguments(sandbox, version, more);
    Service::spawn(sandbox, &binary("websocket-chat"), &arguments)
}

pub(crate) fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("the system gives an epoll")
}

pub(crate) async fn connect(address: SocketAddr, path: &str) -> anyhow::Result<WebSocketStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let url = format!("ws://{address}{path}");
    Ok(timeout(SOON, tokio_tungstenite::client_async(url, stream)).await??.0)
}

// ---- members
// -----------------------------------------------------------------------------------------------------

const MEMBERS: usize = 12;
const HANDOFFS: usize = 10;

/// So many of its own messages a member has not heard when it says the next one.
const WINDOW: usize = 3;

/// Between two messages of a member. A chat, not a benchmark: the room keeps the last 1000 for members that
/// fall behind.
const PAUSE: Duration = Duration::from_millis(10);

/// So many messages a member may be ahead of another one: on a machine that has much else to do, a member may
/// have to wait for long, and the room does not keep everything for it.
const AHEAD: u64 = 500;

/// What is true for all members.
struct Talk {
    address: SocketAddr,
    pause: Duration,
    stop: AtomicBool,
    /// The last message that each has heard.
    heard: [AtomicU64; MEMBERS],
}

impl Talk {
    fn may_talk(&self, number: usize) -> bool {
        let heard = self.heard.each_ref().map(|heard| heard.load(Relaxed));
        heard[number] < heard.into_iter().min().unwrap_or(0) + AHEAD
    }
}

/// What one member has heard, in its order.
#[derive(Debug, Default)]
struct Heard {
    messages: Vec<(u64, String)>,
    pids: Vec<u64>,
}

/// Talks until told to stop, then says `over` and listens until every member has said so.
async fn talk(talk: &Talk, number: usize) -> anyhow::Result<Heard> {
    let mut socket = connect(talk.address, &format!("/chat?name=member{number}")).await?;
    let (mut heard, mut said, mut echoed, mut over) = (Heard::default(), 0, 0, 0);
    let mut farewell = false;
    let mut tick = tokio::time::interval(talk.pause);
    while over < MEMBERS {
        let message = tokio::select! {
            message = timeout(SOON, socket.next()) => message.context("silence")?.context("the end")??,
            _ = tick.tick(), if said < echoed + WINDOW && !farewell => {
                farewell = talk.stop.load(Relaxed);
                if !farewell && !talk.may_talk(number) {
                    continue;
                }
                said += 1;
                let word = if farewell { "over" } else { "number" };
                socket.send(Message::text(format!("{word} {said} of member{number}"))).await?;
                continue;
            }
        };
        let notice: Value = serde_json::from_str(message.to_text()?)?;
        if notice["type"] == "served" {
            heard.pids.push(notice["pid"].as_u64().context("no pid")?);
            continue;
        }
        let text = notice["text"].as_str().context("no text")?.to_owned();
        ensure!(
            text.ends_with(&format!("of {}", notice["name"].as_str().context("no name")?)),
            "{notice} has another name"
        );
        over += usize::from(text.starts_with("over"));
        echoed += usize::from(text.ends_with(&format!("of member{number}")));
        let seq = notice["seq"].as_u64().context("no number")?;
        talk.heard[number].store(seq, Relaxed);
        heard.messages.push((seq, text));
    }
    Ok(heard)
}

/// Every member hears everything exactly once, and in the same order.
fn judge(all: &[Heard]) -> anyhow::Result<usize> {
    let first = &all[0].messages;
    for (number, heard) in all.iter().enumerate() {
        // A member hears the history too, so all hear the same.
        let differs = first.iter().zip(&heard.messages).find(|(ours, theirs)| ours != theirs);
        ensure!(differs.is_none(), "member {number} has heard something else: {differs:?}");
        ensure!(first.len() == heard.messages.len(), "member {number} has heard {}", heard.messages.len());
    }
    let mut counts = HashMap::new();
    for (position, (seq, text)) in (1..).zip(first) {
        ensure!(*seq == position, "message {position} came as {seq}");
        let mut words = text.split(' ').skip(1);
        let (count, member) = (words.next().context("no count")?, words.nth(1).context("no member")?);
        let counted = counts.entry(member.to_owned()).or_insert(0u64);
        *counted += 1;
        ensure!(count == counted.to_string(), "{text:?} is number {counted} of its member");
    }
    ensure!(counts.len() == MEMBERS, "{} members were heard", counts.len());
    Ok(first.len())
}

/// Members talk while `operate` does something to the first process; it returns the one that serves in the
/// end. Returns what was heard.
fn while_they_talk(
    pause: Duration,
    arguments: &[&str],
    operate: impl for<'a> FnOnce(&'a Sandbox, Service<'a>) -> Service<'a>,
) -> Vec<Heard> {
    let sandbox = Sandbox::new();
    let first = start_with(&sandbox, "v1", arguments);
    let all = Talk {
        address: first.wait_serving().http,
        pause,
        stop: AtomicBool::new(false),
        heard: Default::default(),
    };
    thread::scope(|scope| {
        let all = &all;
        let members: Vec<_> =
            (0..MEMBERS).map(|number| scope.spawn(move || runtime().block_on(talk(all, number)))).collect();
        // The members must come to an end also if something else goes wrong.
        let operated = catch_unwind(AssertUnwindSafe(|| operate(&sandbox, first)));
        all.stop.store(true, Relaxed);
        let heard: Vec<_> = members.into_iter().map(|member| member.join()).collect();
        if let Err(panic) = operated {
            resume_unwind(panic);
        }
        let heard = heard.into_iter().map(|heard| heard.expect("it does not panic"));
        // Here, so that the sandbox tells what the processes wrote.
        heard.collect::<anyhow::Result<Vec<_>>>().unwrap_or_else(|error| panic!("a member: {error}"))
    })
}

fn through_handoffs(
    next: impl for<'a> Fn(&Service<'a>, &'a Sandbox, usize) -> Service<'a>,
) -> anyhow::Result<()> {
    let heard = while_they_talk(PAUSE, &NO_PROBATION, |sandbox, mut serving| {
        for handoff in 1..=HANDOFFS {
            let successor = next(&serving, sandbox, handoff);
            assert_eq!(serving.wait_drained().forced, 0);
            serving = successor;
        }
        serving
    });
    let messages = judge(&heard)?;
    let served: usize = heard.iter().map(|heard| heard.pids.len()).sum();
    println!("{messages} messages, {served} times served by another process");
    ensure!(served > MEMBERS * HANDOFFS / 2, "members did not move: served {served} times");
    Ok(())
}

#[test]
fn everybody_hears_everything_once_and_in_one_order() -> anyhow::Result<()> {
    through_handoffs(|_, sandbox, handoff| {
        let successor = start(sandbox, &format!("v{}", handoff + 1));
        successor.wait_serving();
        successor
    })
}

#[test]
fn also_when_a_signal_starts_the_successor() -> anyhow::Result<()> {
    through_handoffs(|serving, sandbox, handoff| {
        serving.signal(Signal::HUP);
        let servings = || sandbox.servings().get(handoff).copied();
        Service::of(sandbox, eventually("the successor serves", SOON, servings).pid)
    })
}

/// Handoffs right after each other: predecessors of predecessors still have members.
#[test]
fn also_when_nobody_waits_for_the_drain() -> anyhow::Result<()> {
    let old = std::cell::RefCell::new(Vec::new());
    through_handoffs(|_, sandbox, handoff| {
        let mut last = start(sandbox, &format!("v{handoff}.1"));
        for more in 2..=3 {
            last.wait_serving();
            old.borrow_mut().push(last.pid());
            last = start(sandbox, &format!("v{handoff}.{more}"));
        }
        last.wait_serving();
        for pid in old.take() {
            assert_eq!(Service::of(sandbox, pid).wait_drained().forced, 0);
        }
        last
    })
}

/// Slowly: what the second version has numbered has to fit into the state of a member, about 300 messages.
#[test]
fn a_rollback_brings_the_members_back() -> anyhow::Result<()> {
    let heard = while_they_talk(30 * PAUSE, &[], |sandbox, first| {
        eventually("the members are there", SOON, || has_members(sandbox, &first));
        let second = start_with(sandbox, "v2", &[]);
        second.wait_serving();
        eventually("the members moved", SOON, || has_members(sandbox, &second));
        let _ = hotctl(sandbox, &["rollback"]).expect_success();
        second.wait_drained();
        eventually("the members are back", SOON, || has_members(sandbox, &first));
        first
    });
    judge(&heard)?;
    for Heard { pids, .. } in &heard {
        ensure!(pids.len() == 3 && pids[0] == pids[2], "a member was served by {pids:?}");
    }
    Ok(())
}

/// Whether this process serves, and has all members.
fn has_members(sandbox: &Sandbox, service: &Service<'_>) -> Option<()> {
    let serving = Status::ask(&sandbox.control()).ok()?.serving;
    (serving.process.pid == service.pid() && serving.connections.upgraded == MEMBERS as u64).then_some(())
}
