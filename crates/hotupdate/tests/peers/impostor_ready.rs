//! Whatever an incumbent says to a successor that is ready, and waits for the word to serve: the start fails,
//! and the next one works.
//!
//! Deliberately absent: its death; then the successor serves with what it holds
//! (`integration-tests/tests/handoff/kill.rs`).

use std::fs::File;
use std::os::fd::AsFd;
use std::time::Instant;

use crate::common::lies::{honest, is_clear, recovers};
use crate::common::peer::{Impostor, Peer};
use crate::common::{BRIEF, Folder, alone, descriptors, eventually};
use hotupdate::{ErrorKind, Timing};
use serde_json::json;

/// Joins in earnest, says that it is ready, and is told this.
fn ready_fails(whose: ErrorKind, what: &str, timing: Timing, word: impl AsyncFnOnce(&mut Peer)) {
    alone(async {
        let folder = Folder::new();
        let before = descriptors();
        let impostor = Impostor::at(&folder);
        let builder = folder.builder("v2").timing(timing);
        let (joined, mut peer) = tokio::join!(builder.join(), honest(&impostor));
        let mut starting = joined.unwrap();
        let mut listener = starting.tcp("http", "127.0.0.1:0").await.unwrap();
        let word = async {
            peer.next_of("ready").await;
            word(&mut peer).await;
        };
        let (ready, ()) = tokio::join!(starting.ready(), word);
        is_clear(&folder, &ready.unwrap_err(), whose, what);
        assert!(listener.accept().await.is_none(), "a listener of a failed start is closed");
        let told = eventually("the other side is told why", async || peer.next().await).await;
        assert_eq!(told["type"], "failed");
        drop((peer, impostor));
        recovers(&folder, before).await;
    });
}

#[test]
fn released_without_its_state() {
    let released = json!({
        "type": "released", "connections": {"idle": 0, "active": 0, "upgraded": 0}, "links": [],
        "stopped_at_ns": 1, "state": [{ "name": "hits", "schema": "text", "length": 2 }], "fds": 1,
    });
    ready_fails(ErrorKind::PeerMisbehaved, "came with 0", Timing::default(), async |peer| {
        peer.say(&released).await
    });
    // Not a file: one in a file system in memory has seals, as /tmp is on some machines.
    ready_fails(ErrorKind::PeerMisbehaved, "the state \"hits\" is not a", Timing::default(), async |peer| {
        peer.say_with(&released, &[File::open("/dev/null").unwrap().as_fd()]).await;
    });
}

#[test]
fn nonsense_instead_of_released() {
    ready_fails(
        ErrorKind::PeerMisbehaved,
        "said `drained` where `released` was due",
        Timing::default(),
        async |peer| {
            peer.say(&json!({ "type": "drained", "forced": 0 })).await;
        },
    );
    ready_fails(ErrorKind::PeerMisbehaved, "not a message", Timing::default(), async |peer| {
        peer.send(b"???\0", &[]).await.unwrap();
    });
}

/// By then the incumbent serves again, and there must not be two.
#[test]
fn released_too_late() {
    let why = " ago, and the incumbent serves again after 1 ms";
    ready_fails(ErrorKind::Local, why, Timing::default(), async |peer| {
        let stopped = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let stopped_at_ns = stopped.tv_sec * 1_000_000_000 + stopped.tv_nsec;
        let begun = Instant::now();
        eventually("2 ms have passed", async || (begun.elapsed().as_millis() >= 2).then_some(())).await;
        peer.say(&json!({
            "type": "released", "connections": {"idle": 0, "active": 0, "upgraded": 0}, "links": [],
            "state": [], "stopped_at_ns": stopped_at_ns, "within_ms": 1,
        }))
        .await;
    });
}

#[test]
fn silence_instead_of_released() {
    let timing = Timing::default().released(BRIEF);
    ready_fails(ErrorKind::TimedOut, "deadline `released`", timing, async |_| {});
}
