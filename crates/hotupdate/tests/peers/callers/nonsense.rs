//! Callers that say nothing sensible, or nothing.
//!
//! Deliberately absent: many of them at a time, see [`super::crowds`].

use std::os::fd::AsFd;
use std::time::Instant;

use serde_json::json;

use super::{impatient, survives, survives_with};
use crate::common::peer::Peer;
use crate::common::{BRIEF, Folder, Log, alone};

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

/// A caller that talks nonsense to a process that does not serve yet is not told that it does.
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
