//! From serving to gone: rollback, probation, farewell, drain, several generations at once.
//!
//! Deliberately absent: processes that are killed, see `integration-tests/tests/handoff/kill.rs`.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::common::peer::{Peer, call, status};
use crate::common::{BRIEF, Folder, SOON, answer, ask, ask_on, eventually, refused, replace_by, serve};
use hotupdate::{AfterDrain, Error, Serving, Timing};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

const LONG: Duration = Duration::from_secs(60);

/// Serves with a probation that outlasts the test.
async fn patient(folder: &Folder, name: &'static str) -> (Serving, SocketAddr) {
    serve(folder.builder(name).probation(LONG).join().await.unwrap(), name).await
}

/// A client whose connection was accepted.
async fn client(address: SocketAddr, name: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    assert_eq!(ask_on(&mut stream).await.unwrap(), name);
    stream
}

/// Whether it has happened, without waiting.
async fn has(event: impl Future<Output = ()>) -> bool {
    timeout(Duration::ZERO, event).await.is_ok()
}

async fn ends(serving: &Serving) {
    timeout(SOON, serving.drained()).await.expect("it ends");
}

#[tokio::test]
async fn a_rollback_gives_the_service_back() {
    let folder = Folder::new();
    let (first, address) = patient(&folder, "v1").await;
    let mut kept = client(address, "v1").await;
    let (second, _) = folder.serve("v2").await;
    let mut accepted = client(address, "v2").await;

    let reply = call(&folder.control(), "io.hotupdate.Rollback", json!({})).await;
    let changed = &reply["parameters"];
    assert_eq!(
        (&changed["from"]["version"], &changed["to"]["version"]),
        (&json!("v2"), &json!("v1")),
        "{reply}"
    );
    assert_eq!(changed["generation"], 1);
    assert_eq!(ask(address).await, "v1");
    assert!(!first.drain().is_draining() && second.drain().is_draining());
    // No client's connection is cut by it.
    assert_eq!(ask_on(&mut kept).await.unwrap(), "v1");
    assert_eq!(ask_on(&mut accepted).await.unwrap(), "v2");
    let there = status(&folder.control()).await;
    assert_eq!(
        (&there["serving"]["generation"], &there["predecessors"][0]["generation"]),
        (&json!(1), &json!(2))
    );
    assert!(!has(second.drained()).await);
    drop(accepted);
    ends(&second).await;

    let again = call(&folder.control(), "io.hotupdate.Rollback", json!({})).await;
    assert_eq!(again["error"], "io.hotupdate.NoPredecessor", "its own probation has no length");
    let (third, _) = folder.serve("v3").await;
    assert_eq!((third.generation().0, ask(address).await.as_str()), (3, "v3"), "2 was given away before");
}

#[tokio::test]
async fn what_was_rolled_back_can_be_rolled_forward() {
    let folder = Folder::new();
    let (_first, address) = patient(&folder, "v1").await;
    let (_second, _) = patient(&folder, "v2").await;
    for name in ["v1", "v2", "v1", "v2"] {
        let reply = call(&folder.control(), "io.hotupdate.Rollback", json!({})).await;
        assert_eq!(reply["parameters"]["to"]["version"], name, "{reply}");
        assert_eq!(ask(address).await, name);
    }
    let (third, _) = folder.serve("v3").await;
    assert_eq!((third.generation().0, ask(address).await.as_str()), (3, "v3"));
}

#[tokio::test]
async fn a_rollback_after_the_probation_is_refused() {
    let folder = Folder::new();
    let (first, _) = folder.serve("v1").await;
    let (second, address) = replace_by(&folder, &first, "v2").await;
    let reply = call(&folder.control(), "io.hotupdate.Rollback", json!({})).await;
    assert_eq!(reply["error"], "io.hotupdate.NoPredecessor");
    assert_eq!(ask(address).await, "v2");
    replace_by(&folder, &second, "v3").await;
}

/// A process of its own, as far as that is possible in one: a runtime that is shut down from one instant to
/// the next.
fn doomed(folder: &Folder, name: &'static str) -> tokio::runtime::Runtime {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let builder = folder.builder(name).probation(LONG);
    let (up, is_up) = std::sync::mpsc::channel();
    runtime.spawn(async move {
        let _serving = serve(builder.join().await.unwrap(), name).await;
        up.send(()).unwrap();
        std::future::pending::<()>().await;
    });
    is_up.recv_timeout(SOON).expect("it serves");
    runtime
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_predecessor_takes_over_when_its_successor_dies_ten_times() {
    let folder = Folder::new();
    let (_first, address) = patient(&folder, "v1").await;
    let mut kept = client(address, "v1").await;
    for generation in 2..12 {
        let second = tokio::task::block_in_place(|| doomed(&folder, "v2"));
        assert_eq!(ask(address).await, "v2");
        assert_eq!(
            status(&folder.control()).await["serving"]["generation"],
            generation,
            "it never goes back"
        );
        second.shutdown_background();
        assert_eq!(ask(address).await, "v1", "it serves again");
        assert_eq!(status(&folder.control()).await["serving"]["generation"], 1, "under its own generation");
        assert_eq!(ask_on(&mut kept).await.unwrap(), "v1", "it has not closed what was open");
    }
    let (last, _) = folder.serve("v3").await;
    assert_eq!((last.generation().0, ask(address).await.as_str()), (12, "v3"));
}

/// The one that warms up holds the listeners, but the one that was replaced is warm.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_predecessor_takes_over_also_when_somebody_else_warms_up() {
    let folder = Folder::new();
    let (first, address) = patient(&folder, "v1").await;
    let second = tokio::task::block_in_place(|| doomed(&folder, "v2"));
    assert_eq!(ask(address).await, "v2");
    let mut third = folder.join("v3").await;
    let _listener = third.tcp("echo", address).await.unwrap();
    second.shutdown_background();
    assert_eq!(ask(address).await, "v1", "it serves again");
    match third.ready().await {
        Err(error) => {
            let why = "the incumbent died, and generation 1 serves again";
            assert!(error.to_string().contains(why), "{error}");
        }
        // It was ready before it had heard that; then the first one is told.
        Ok(third) => {
            assert_eq!(third.generation().0, 3);
            ends(&first).await;
        }
    }
    let (last, _) = folder.serve("v4").await;
    assert_eq!((last.generation().0, ask(address).await.as_str()), (4, "v4"));
}

#[tokio::test]
async fn a_service_that_is_stopped_does_not_come_back() {
    let folder = Folder::new();
    let (first, address) = patient(&folder, "v1").await;
    let (second, _) = patient(&folder, "v2").await;
    let mut open = client(address, "v2").await;
    let reply = call(&folder.control(), "io.hotupdate.Stop", json!({})).await;
    assert!(reply.get("error").is_none(), "{reply}");
    refused(address).await;
    ends(&first).await;
    assert_eq!(ask_on(&mut open).await.unwrap(), "v2", "what is open may end in peace");
    assert!(!has(second.drained()).await);
    drop(open);
    ends(&second).await;
    assert!(!folder.control().exists(), "the control socket is gone with it");
    let (next, _) = folder.serve("v3").await;
    assert_eq!(next.generation().0, 1, "a first start");
}

#[tokio::test]
async fn first_it_is_retired_and_then_drained() {
    let folder = Folder::new();
    let starting = folder.builder("v1").probation(BRIEF).join().await.unwrap();
    let (first, address) = serve(starting, "v1").await;
    let mut open = client(address, "v1").await;
    let begun = Instant::now();
    let (_second, _) = folder.serve("v2").await;
    first.drain().started().await;
    timeout(SOON, first.retired()).await.expect("its probation ends");
    assert!(begun.elapsed() >= BRIEF, "the probation was only {:?}", begun.elapsed());
    assert!(!has(first.drained()).await, "a connection is open");
    assert_eq!(ask_on(&mut open).await.unwrap(), "v1");
    drop(open);
    ends(&first).await;
    assert_eq!(first.connections().forced(), 0);
}

#[tokio::test]
async fn with_nothing_open_it_is_drained_when_it_is_retired() {
    let folder = Folder::new();
    let (first, address) = folder.serve("v1").await;
    drop(client(address, "v1").await);
    let begun = Instant::now();
    replace_by(&folder, &first, "v2").await;
    assert!(has(first.retired()).await);
    assert!(begun.elapsed() < Duration::from_secs(5), "it took {:?}", begun.elapsed());
}

#[tokio::test]
async fn what_is_left_at_the_deadline_is_closed_and_counted() {
    let folder = Folder::new();
    let starting = folder.builder("v1").drain_deadline(BRIEF).join().await.unwrap();
    let (first, address) = serve(starting, "v1").await;
    let mut open = client(address, "v1").await;
    let (_second, _) = folder.serve("v2").await;
    let end = timeout(SOON, open.read(&mut [0])).await.expect("the drain has an end");
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    ends(&first).await;
    assert_eq!(first.connections().forced(), 1);
}

#[tokio::test]
async fn where_a_supervisor_would_restart_it_it_stays_until_sigterm() {
    let folder = Folder::new();
    // The only process here that listens to signals.
    let builder = folder.builder("v1").stop_signals(true).after_drain(AfterDrain::StayUntilTerm);
    let (first, _) = serve(builder.join().await.unwrap(), "v1").await;
    let (_second, address) = folder.serve("v2").await;
    timeout(SOON, first.retired()).await.unwrap();
    eventually("the successor knows that it is drained", async || {
        (first.connections().summary().open() == 0).then_some(())
    })
    .await;
    assert!(timeout(BRIEF, first.drained()).await.is_err(), "it ended, and would be restarted");
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM).unwrap();
    ends(&first).await;
    assert_eq!(ask(address).await, "v2");
}

fn left(status: &Value) -> Vec<(u64, u64)> {
    let open = |c: &Value| c["idle"].as_u64().unwrap() + c["active"].as_u64().unwrap();
    let predecessors = status["predecessors"].as_array().unwrap();
    predecessors.iter().map(|p| (p["generation"].as_u64().unwrap(), open(&p["connections"]))).collect()
}

/// Every connection of every generation: whose it is, and the client.
async fn rows(path: &std::path::Path) -> Vec<(u64, String)> {
    let mut peer = Peer::connect(path).await;
    peer.say(&json!({ "method": "io.hotupdate.Connections", "more": true })).await;
    let mut found = Vec::new();
    loop {
        let reply = peer.next().await.expect("a reply");
        let generation = reply["parameters"]["generation"].as_u64().unwrap();
        for row in reply["parameters"]["rows"].as_array().unwrap() {
            found.push((generation, row["peer"].as_str().unwrap().to_owned()));
        }
        if reply["continues"] != true {
            return found;
        }
    }
}

#[tokio::test]
async fn three_generations_at_once() {
    let folder = Folder::new();
    let (first, address) = folder.serve("v1").await;
    let mut one = client(address, "v1").await;
    let (second, _) = folder.serve("v2").await;
    let mut two = client(address, "v2").await;
    let (_third, _) = folder.serve("v3").await;
    assert_eq!(ask(address).await, "v3");

    let path = folder.control();
    assert_eq!(left(&status(&path).await), [(2, 1), (1, 1)], "newest first, with what is left");
    let clients = [(2, two.local_addr().unwrap()), (1, one.local_addr().unwrap())];
    let expected = clients.map(|(generation, peer)| (generation, peer.to_string()));
    eventually("a row for each client", async || (rows(&path).await == expected).then_some(())).await;

    assert_eq!(ask_on(&mut one).await.unwrap(), "v1");
    assert_eq!(ask_on(&mut two).await.unwrap(), "v2");
    drop(two);
    ends(&second).await;
    eventually("only the first is left", async || (left(&status(&path).await) == [(1, 1)]).then_some(()))
        .await;
    drop(one);
    ends(&first).await;
    eventually("nobody is left", async || left(&status(&path).await).is_empty().then_some(())).await;
}

#[tokio::test]
async fn the_oldest_is_hurried_when_there_are_too_many() {
    let folder = Folder::new();
    let (first, address) = folder.serve("v1").await;
    let mut one = client(address, "v1").await;
    let (_second, _) = folder.serve("v2").await;
    let mut two = client(address, "v2").await;
    let timing = Timing::default().hurry(BRIEF).probation(Duration::ZERO);
    let builder = folder.builder("v3").timing(timing).max_draining(1);
    let (_third, _) = serve(builder.join().await.unwrap(), "v3").await;
    ends(&first).await;
    assert_eq!(first.connections().forced(), 1);
    assert!(matches!(one.read(&mut [0]).await, Ok(0) | Err(_)));
    assert_eq!(ask_on(&mut two).await.unwrap(), "v2", "only the oldest");
}

/// A successor that stands by: its `ready` resolves when it is released.
async fn standby(folder: &Folder) -> tokio::task::JoinHandle<Result<Serving, Error>> {
    let mut starting = folder.builder("v2").on_command(true).join().await.unwrap();
    let listener = starting.tcp("echo", "127.0.0.1:0").await.unwrap();
    answer(listener, "v2");
    let ready = tokio::spawn(starting.ready());
    eventually("it stands by", async || {
        (status(&folder.control()).await["successor"]["state"] == "standby").then_some(())
    })
    .await;
    ready
}

#[tokio::test]
async fn on_command_it_takes_over_when_it_is_told_to() {
    let folder = Folder::new();
    let (first, address) = folder.serve("v1").await;
    let ready = standby(&folder).await;
    assert_eq!(ask(address).await, "v1");
    let reply = call(&folder.control(), "io.hotupdate.Handoff", json!({})).await;
    assert_eq!(reply["parameters"]["to"]["version"], "v2", "{reply}");
    assert!(reply["parameters"]["gap_ns"].as_u64().is_some(), "{reply}");
    ready.await.unwrap().unwrap();
    assert_eq!(ask(address).await, "v2");
    ends(&first).await;
}

#[tokio::test]
async fn an_operator_aborts_it() {
    let folder = Folder::new();
    let (first, address) = folder.serve("v1").await;
    let ready = standby(&folder).await;
    let reply = call(&folder.control(), "io.hotupdate.Abort", json!({})).await;
    assert!(reply.get("error").is_none(), "{reply}");
    let error = ready.await.unwrap().unwrap_err();
    assert!(error.to_string().contains("aborted by an operator"), "{error}");
    assert_eq!(ask(address).await, "v1");
    replace_by(&folder, &first, "v3").await;
}

#[tokio::test]
async fn a_successor_that_is_never_ready_loses_its_lease() {
    let folder = Folder::new();
    let (first, address) = serve(folder.builder("v1").lease(BRIEF).join().await.unwrap(), "v1").await;
    let mut second = folder.join("v2").await;
    let _listener = second.tcp("echo", "127.0.0.1:0").await.unwrap();
    eventually("its lease ends", async || {
        let status = status(&folder.control()).await;
        status["last_failure"]["reason"].as_str()?.contains("deadline `lease`").then_some(())
    })
    .await;
    let error = second.ready().await.unwrap_err();
    assert!(error.to_string().contains("deadline `lease`"), "{error}");
    assert_eq!(ask(address).await, "v1");
    replace_by(&folder, &first, "v3").await;
}
