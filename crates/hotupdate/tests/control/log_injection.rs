//! What the other side calls itself, and why it says that it failed, stands on one line of a log: it cannot
//! end the line, steer a terminal, or fill a disk.
//!
//! Deliberately absent: hotctl, which escapes whatever it prints (`crates/hotctl/src/text.rs`).

use crate::common::lies::fails;
use crate::common::peer::{Peer, join, status};
use crate::common::{Folder, Log, eventually};
use hotupdate::ErrorKind;
use serde_json::{Value, json};

/// Ends the line, begins one that looks like another, clears the screen, turns the direction of writing.
const FORGED: &str = "v2\r\n2026-01-01T00:00:00Z  INFO all is well\u{1b}[2J\u{9b}2J\u{202e}\u{2028}";

fn is_clean(text: &str) {
    let unfit = |c: char| c != '\n' && hotupdate_proto::text::is_unfit(c);
    assert!(!text.contains(unfit), "{text:?}");
    for line in text.lines() {
        assert!(!line.starts_with("2026-01-01"), "a line was forged:\n{text}");
        assert!(line.len() < 8 * 1024, "a line of {} bytes", line.len());
    }
}

/// A successor of this name does something; what the incumbent logs.
async fn logged(forge: impl FnOnce(&mut Value), act: impl AsyncFnOnce(&mut Peer)) -> String {
    let folder = Folder::new();
    let (_first, _) = folder.serve("v1").await;
    let (log, _guard) = Log::begin();
    let mut call = join(FORGED);
    forge(&mut call);
    let mut peer = Peer::connect(&folder.control()).await;
    peer.say(&call).await;
    act(&mut peer).await;
    drop(peer);
    eventually("the end of the attempt", async || {
        let status = status(&folder.control()).await;
        let over = status.get("successor").is_none();
        (over && (log.text().contains("is still serving"))).then_some(())
    })
    .await;
    log.text()
}

#[tokio::test]
async fn the_version_of_a_successor() {
    let text = logged(|_| {}, async |peer| drop(peer.next().await)).await;
    assert!(text.contains(r"4242 (v2\r\n2026-01-01T00:00:00Z  INFO all is well\u{1b}[2J"), "{text}");
    is_clean(&text);
}

#[tokio::test]
async fn the_version_of_a_successor_that_is_turned_away() {
    let later = |call: &mut Value| call["parameters"]["versions"] = json!({ "min": 9, "max": 9 });
    let text = logged(later, async |peer| drop(peer.next().await)).await;
    assert!(text.contains("a successor is turned away"), "{text}");
    is_clean(&text);
}

#[tokio::test]
async fn why_a_successor_says_that_it_failed() {
    let text = logged(
        |_| {},
        async |peer| {
            peer.next().await.expect("the reply");
            peer.receive_inventory().await;
            peer.say(&json!({ "type": "failed", "reason": FORGED.repeat(2000) })).await;
        },
    )
    .await;
    assert!(text.contains("the other side gave up: v2"), "{text}");
    is_clean(&text);
}

#[tokio::test]
async fn a_type_that_does_not_exist() {
    let text = logged(
        |_| {},
        async |peer| {
            peer.next().await.expect("the reply");
            peer.receive_inventory().await;
            peer.say(&json!({ "type": FORGED })).await;
        },
    )
    .await;
    assert!(text.contains("unknown variant"), "{text}");
    is_clean(&text);
}

#[tokio::test]
async fn a_caller_that_talks_nonsense() {
    let folder = Folder::new();
    let (_first, _) = folder.serve("v1").await;
    let (log, _guard) = Log::begin();
    let mut peer = Peer::connect(&folder.control()).await;
    peer.say(&json!({ "method": [FORGED] })).await;
    peer.next().await;
    log.says(&["a caller on the control socket is turned away", "not a message", "(v1) is still serving"]);
    is_clean(&log.text());
}

#[test]
fn what_an_incumbent_calls_itself_its_handoff_and_its_error() {
    let (log, _guard) = Log::begin();
    fails(ErrorKind::Refused, r"gave up: v2\r\n", async |impostor| {
        let mut peer = impostor.accept().await;
        let error = json!({ "error": "io.hotupdate.X", "parameters": { "reason": FORGED } });
        peer.say(&error).await;
        peer
    });
    fails(ErrorKind::Refused, r"busy: successor 1 (v2\r\n", async |impostor| {
        let mut peer = impostor.accept().await;
        let successor = json!({ "instance": FORGED, "pid": 1, "version": FORGED });
        let refusal = json!({ "Busy": { "successor": successor, "doing": FORGED } });
        let error = json!({ "error": "io.hotupdate.Busy", "parameters": { "refusal": refusal } });
        peer.say(&error).await;
        peer
    });
    fails(ErrorKind::PeerMisbehaved, "said `end_probation` in the middle", async |impostor| {
        let mut peer = impostor.accept().await;
        let incumbent = json!({ "instance": FORGED, "pid": 1, "version": FORGED });
        let joined = json!({
            "version": 1, "features": [], "generation": 2, "lease_ms": 60_000, "handoff": FORGED,
            "incumbent": incumbent, "incumbent_generation": 1,
        });
        peer.say(&json!({ "parameters": joined })).await;
        peer.say(&json!({ "type": "end_probation" })).await;
        peer
    });
    is_clean(&log.text());
}
