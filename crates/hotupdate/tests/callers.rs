//! Whatever a caller does on the control socket: the service answers, nothing is left behind, the next handoff works.
//!
//! Deliberately absent: callers that join (`hostile.rs`), and those that may not (`control_socket.rs`).

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]

mod common;

use std::os::fd::AsFd;
use std::time::Instant;

use common::peer::{Peer, call, join, process, status};
use common::{
    BRIEF, Folder, Log, SOON, alone, ask, describe_descriptors, descriptors, hand_over, nothing_leaked, serve,
};
use hotupdate::{Builder, Timing};
use serde_json::{Value, json};

/// Does `attack` to a service with these settings.
fn survives_with(settings: impl FnOnce(Builder) -> Builder, attack: impl AsyncFnOnce(&Folder)) {
    alone(withstand(settings, attack));
}

async fn withstand(settings: impl FnOnce(Builder) -> Builder, attack: impl AsyncFnOnce(&Folder)) {
    let folder = Folder::new();
    let starting = settings(folder.builder("v1")).join().await.unwrap();
    let (first, address) = serve(starting, "v1").await;
    assert_eq!(ask(address).await, "v1");
    let before = descriptors();
    attack(&folder).await;
    assert_eq!(ask(address).await, "v1", "it serves on");
    assert_eq!(status(&folder.control()).await["serving"]["state"], "serving");
    nothing_leaked(before).await;
    let (_second, same) = hand_over(&folder, &first, "v2").await;
    assert_eq!(same, address);
    assert!(descriptors() <= before + 4, "{:#?}", describe_descriptors());
}

fn survives(attack: impl AsyncFnOnce(&Folder)) {
    survives_with(|builder| builder, attack);
}

fn impatient(builder: Builder) -> Builder {
    builder.timing(Timing { hello: BRIEF, ..timing() })
}

fn timing() -> Timing {
    Timing { probation: std::time::Duration::ZERO, ..Timing::default() }
}

/// Says these bytes; the reply names what is wrong with them, and the connection ends.
async fn is_told(folder: &Folder, bytes: &[u8], what: &str) {
    let mut peer = Peer::connect(&folder.control()).await;
    // It may hang up in the middle of a long one.
    let _ = peer.send(bytes, &[]).await;
    let reply = peer.end().await.unwrap_or_else(|| panic!("no reply, {what:?} was due"));
    assert_eq!(reply["error"], "org.varlink.service.InvalidParameter");
    let parameter = reply["parameters"]["parameter"].as_str().unwrap();
    assert!(parameter.contains(what) && !parameter.contains('\n'), "{parameter:?} does not say {what:?}");
}

#[test]
fn garbage() {
    survives(async |folder| {
        is_told(folder, b"GET / HTTP/1.1\r\n\r\n\0", "not a message").await;
        is_told(folder, b"\xff\xfe\xfd\0", "not a message").await;
        is_told(folder, b"[]\0", "not a message").await;
        is_told(folder, b"{\"method\":7}\0", "not a message").await;
    });
}

#[test]
fn deep_nesting() {
    survives(async |folder| {
        let deep = format!("{{\"method\":\"x\",\"parameters\":{{\"a\":{}\0", "[".repeat(500_000));
        is_told(folder, deep.as_bytes(), "recursion").await;
    });
}

#[test]
fn a_flood_of_nul_bytes() {
    survives(async |folder| is_told(folder, &[0; 1 << 20], "not a message").await);
}

#[test]
fn a_message_of_ten_mebibytes() {
    survives(async |folder| is_told(folder, &vec![b' '; 10 << 20], "more than 1048576 bytes").await);
}

#[test]
fn half_a_message_then_silence() {
    survives_with(impatient, async |folder| {
        let begun = Instant::now();
        let mut peer = Peer::connect(&folder.control()).await;
        peer.send(b"{\"method\":\"io.hotupd", &[]).await.unwrap();
        assert_eq!(peer.end().await, None);
        assert!(begun.elapsed() >= BRIEF, "it was cut off after {:?}", begun.elapsed());
    });
}

#[test]
fn silence() {
    survives_with(impatient, async |folder| {
        assert_eq!(Peer::connect(&folder.control()).await.end().await, None);
    });
}

#[test]
fn half_a_message_then_the_end() {
    survives(async |folder| {
        let mut peer = Peer::connect(&folder.control()).await;
        peer.send(b"{\"method\":\"io.hotupd", &[]).await.unwrap();
        drop(peer);
    });
}

#[test]
fn a_call_with_descriptors() {
    survives(async |folder| {
        let file = tempfile::tempfile().unwrap();
        let mut peer = Peer::connect(&folder.control()).await;
        peer.say_with(&json!({ "method": "io.hotupdate.Status" }), &[file.as_fd(); 3]).await;
        let reply = peer.end().await.expect("a reply");
        assert_eq!(reply["parameters"]["parameter"], "a call with descriptors");
    });
}

#[test]
fn descriptors_without_end() {
    survives(async |folder| {
        let file = tempfile::tempfile().unwrap();
        let mut peer = Peer::connect(&folder.control()).await;
        // No message is ever whole, and each byte brings as many as the kernel takes.
        while peer.send(b" ", &[file.as_fd(); 253]).await.is_ok() {
            tokio::task::yield_now().await;
        }
        let last = peer.end().await.expect("a reply");
        assert!(last["parameters"]["parameter"].as_str().unwrap().contains("no message owns"), "{last}");
    });
}

#[test]
fn methods_that_do_not_exist() {
    survives(async |folder| {
        let path = folder.control();
        let error = async |method: &str| call(&path, method, json!({})).await["error"].take();
        assert_eq!(error("io.hotupdate.Explode").await, "org.varlink.service.MethodNotFound");
        assert_eq!(error("org.example.Explode").await, "org.varlink.service.InterfaceNotFound");
        assert_eq!(error("").await, "org.varlink.service.MethodNotFound");
        assert_eq!(error("io.hotupdate.Monitor").await, "org.varlink.service.ExpectedMore");
        assert_eq!(error("io.hotupdate.Rollback").await, "io.hotupdate.NoPredecessor");
        assert_eq!(error("io.hotupdate.Handoff").await, "io.hotupdate.NoSuccessor");
        assert_eq!(error("io.hotupdate.Abort").await, "io.hotupdate.NoHandoff");
    });
}

/// What a Varlink tool asks first of a service that it does not know.
#[test]
fn a_client_that_asks_what_there_is_to_ask() {
    survives(async |folder| {
        let mut peer = Peer::connect(&folder.control()).await;
        let info = peer.call("org.varlink.service.GetInfo", json!({})).await;
        assert_eq!(
            info["parameters"]["interfaces"],
            json!(["org.varlink.service", "io.hotupdate"]),
            "{info}"
        );
        for interface in ["org.varlink.service", "io.hotupdate"] {
            let reply = describe(&mut peer, interface).await;
            let text = reply["parameters"]["description"].as_str().unwrap();
            assert!(text.contains(&format!("interface {interface}\n")) && text.contains("method "), "{text}");
        }
        let unknown = describe(&mut peer, "org.example").await;
        assert_eq!(unknown["error"], "org.varlink.service.InterfaceNotFound");
        assert_eq!(unknown["parameters"]["interface"], "org.example");
    });
}

async fn describe(peer: &mut Peer, interface: &str) -> Value {
    peer.call("org.varlink.service.GetInterfaceDescription", json!({ "interface": interface })).await
}

/// It answers the call that follows.
#[test]
fn a_call_that_wants_no_answer() {
    survives(async |folder| {
        let mut peer = Peer::connect(&folder.control()).await;
        peer.say(&json!({ "method": "io.hotupdate.Status", "oneway": true })).await;
        let reply = peer.call("io.hotupdate.Abort", json!({})).await;
        assert_eq!(reply["error"], "io.hotupdate.NoHandoff");
    });
}

#[test]
fn orders_that_make_no_sense() {
    survives(async |folder| {
        for method in ["io.hotupdate.Stop", "io.hotupdate.Drain"] {
            for deadline in [json!("soon"), json!(-1)] {
                let reply = call(&folder.control(), method, json!({ "deadline_ms": deadline })).await;
                assert_eq!(reply["error"], "org.varlink.service.InvalidParameter", "{reply}");
            }
        }
    });
}

/// They may stay as long as they like, so some places are left for those who only ask.
#[test]
fn more_watchers_than_there_are_places_for() {
    survives(async |folder| {
        let mut watchers = Vec::new();
        let watch = async || {
            let mut peer = Peer::connect(&folder.control()).await;
            peer.say(&json!({ "method": "io.hotupdate.Monitor", "more": true })).await;
            let reply = peer.next().await.expect("a reply");
            (peer, reply)
        };
        for _ in 0..192 {
            let (peer, reply) = watch().await;
            assert!(reply.get("error").is_none(), "{reply}");
            watchers.push(peer);
        }
        let (_, reply) = watch().await;
        assert_eq!(reply["error"], "io.hotupdate.Busy");
        assert_eq!(reply["parameters"]["reason"], "192 callers watch already");
        watchers.pop();
        common::eventually("a place for another", async || {
            watch().await.1.get("error").is_none().then_some(())
        })
        .await;
    });
}

/// To make them is work that the clients of the service wait for: two at a time, each in its own time.
#[test]
fn lists_of_connections_without_end() {
    survives_with(
        |builder| builder.timing(Timing { write: std::time::Duration::from_millis(1), ..timing() }),
        async |folder| {
            let list = async || {
                let mut peer = Peer::connect(&folder.control()).await;
                peer.say(&json!({ "method": "io.hotupdate.Connections", "more": true })).await;
                peer.next().await.expect("a reply")
            };
            common::eventually("one is turned away", async || {
                let reply = list().await;
                let reason = reply["parameters"]["reason"].as_str()?;
                (reply["error"] == "io.hotupdate.Busy" && reason.contains("2 callers read lists"))
                    .then_some(())
            })
            .await;
            common::eventually("the next has its turn", async || {
                list().await.get("error").is_none().then_some(())
            })
            .await;
        },
    );
}

/// Whoever talks nonsense to a process that does not serve yet is not told that it does.
#[test]
fn garbage_for_a_process_that_starts() {
    alone(async {
        let folder = Folder::new();
        let starting = folder.join("v1").await;
        let (log, _guard) = Log::begin();
        is_told(&folder, b"hello\0", "not a message").await;
        log.says(&["a caller on the control socket is turned away", "(v1) is still starting"]);
        drop(starting);
    });
}

/// A `Join` that is no use; the error that it gets.
async fn join_fails(folder: &Folder, change: impl FnOnce(&mut Value)) -> Value {
    let mut call = join("odd");
    change(&mut call);
    let mut peer = Peer::connect(&folder.control()).await;
    peer.say(&call).await;
    peer.end().await.expect("a reply")
}

#[test]
fn a_join_with_wrong_parameters() {
    survives(async |folder| {
        for wrong in [
            json!({}),
            json!({ "versions": 1 }),
            json!({ "versions": {"min": -1, "max": 1}, "process": process("") }),
        ] {
            let reply = join_fails(folder, |call| call["parameters"] = wrong).await;
            assert_eq!(reply["error"], "org.varlink.service.InvalidParameter", "{reply}");
        }
    });
}

#[test]
fn a_join_without_upgrade() {
    survives(async |folder| {
        let reply = join_fails(folder, |call| drop(call.as_object_mut().unwrap().remove("upgrade"))).await;
        assert_eq!(reply["error"], "org.varlink.service.InvalidParameter");
        assert_eq!(reply["parameters"]["parameter"], "upgrade");
    });
}

#[test]
fn a_join_of_another_time() {
    survives(async |folder| {
        let later = json!({ "min": 2, "max": 9 });
        let reply = join_fails(folder, |call| call["parameters"]["versions"] = later).await;
        assert_eq!(reply["error"], "io.hotupdate.Incompatible");
        let reason = reply["parameters"]["reason"].as_str().unwrap();
        assert!(reason.contains("speaks protocol version 1, the successor 2 to 9"), "{reason}");
    });
}

/// Whoever tries again and again must not fill a disk.
#[test]
fn successors_that_are_turned_away_again_and_again() {
    survives(async |folder| {
        let (log, _guard) = Log::begin();
        let later = json!({ "min": 2, "max": 9 });
        let is_refused = async || {
            let reply = join_fails(folder, |call| call["parameters"]["versions"] = later.clone()).await;
            assert_eq!(reply["error"], "io.hotupdate.Incompatible");
        };
        let begun = Instant::now();
        for _ in 0..100 {
            is_refused().await;
        }
        let lines = log.text().matches("a successor is turned away").count();
        assert!(lines > 0 && lines as f64 <= begun.elapsed().as_secs_f64() + 1.0, "{}", log.text());
        common::eventually("a line that stands for the others", async || {
            is_refused().await;
            log.text().contains(" more); ").then_some(())
        })
        .await;
        log.says(&["a successor is turned away (and ", "(v1) is still serving", "incompatible"]);
    });
}

#[test]
fn a_join_with_endless_strings() {
    survives(async |folder| {
        for field in ["instance", "version"] {
            let reply = join_fails(folder, |call| {
                call["parameters"]["process"][field] = Value::String("\u{1}".repeat(150_000));
            })
            .await;
            assert_eq!(reply["error"], "org.varlink.service.InvalidParameter", "{field}");
        }
    });
}

#[test]
fn a_watcher_that_does_not_read() {
    survives_with(
        |builder| builder.timing(Timing { write: BRIEF, ..timing() }),
        async |folder| {
            let mut watcher = Peer::connect(&folder.control()).await;
            watcher.say(&json!({ "method": "io.hotupdate.Monitor", "more": true })).await;
            // Each failed attempt is an event with the whole status.
            for _ in 0..300 {
                drop(Peer::successor(&folder.control()).await);
            }
            assert_eq!(ask_status(folder).await["last_failure"]["stage"], "receiving the inventory");
            // Its connection has not ended while it can be read from.
            assert!(watcher.next().await.unwrap()["continues"].as_bool().unwrap());
        },
    );
}

async fn ask_status(folder: &Folder) -> Value {
    common::eventually("a status without a successor", async || {
        Some(status(&folder.control()).await).filter(|status| status.get("successor").is_none())
    })
    .await
}

#[test]
fn three_hundred_silent_callers() {
    // None of them runs out of time before the last has come, however slow the machine is.
    let patient = |builder: Builder| builder.timing(Timing { hello: SOON, ..timing() });
    survives_with(patient, async |folder| {
        let (log, _guard) = Log::begin();
        let mut silent = Vec::new();
        for _ in 0..300 {
            silent.push(Peer::connect(&folder.control()).await);
        }
        common::eventually("some are turned away at once", async || {
            log.text().contains("too many callers").then_some(())
        })
        .await;
        // Operators get through while the others still wait.
        common::eventually("a reply to an operator", async || {
            let mut operator = Peer::connect(&folder.control()).await;
            operator.say(&json!({ "method": "io.hotupdate.Status" })).await;
            operator.next().await
        })
        .await;
        drop(silent);
    });
}

#[test]
fn three_hundred_callers_that_asked_once_and_stay() {
    survives_with(impatient, async |folder| {
        let mut idle = Vec::new();
        for _ in 0..256 {
            let mut peer = Peer::connect(&folder.control()).await;
            assert!(peer.call("io.hotupdate.Status", json!({})).await.get("error").is_none());
            idle.push(peer);
        }
        let reply =
            tokio::time::timeout(SOON, status(&folder.control())).await.expect("an operator gets through");
        assert_eq!(reply["serving"]["state"], "serving");
    });
}
