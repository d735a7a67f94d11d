//! Whatever a successor does after its `Join`: the incumbent serves on, says whose fault it was, keeps
//! nothing, and the next handoff works.
//!
//! Deliberately absent: callers that do not join (`callers/`), and hostile incumbents (`impostor.rs`).

use std::os::fd::AsFd;
use std::time::Duration;

use crate::common::peer::{Peer, join, status};
use crate::common::{BRIEF, Folder, alone, ask, descriptors, eventually, nothing_leaked, replace_by, serve};
use hotupdate::Timing;
use serde_json::{Value, json};

/// A successor does something, and the attempt fails at this stage for this reason.
fn fails(stage: &str, reason: &str, attack: impl AsyncFnOnce(&Folder, Peer)) {
    fails_with(|_| {}, stage, reason, attack);
}

fn fails_with(
    change: impl FnOnce(&mut Timing),
    stage: &str,
    reason: &str,
    attack: impl AsyncFnOnce(&Folder, Peer),
) {
    let mut timing = Timing::default().probation(Duration::ZERO);
    change(&mut timing);
    alone(async {
        let folder = Folder::new();
        let starting = folder.builder("v1").timing(timing).join().await.unwrap();
        let (first, address) = serve(starting, "v1").await;
        assert_eq!(ask(address).await, "v1");
        let before = descriptors();

        attack(&folder, Peer::successor(&folder.control()).await).await;

        let failure = failure(&folder).await;
        assert_eq!(ask(address).await, "v1", "it serves on");
        assert_eq!(failure["stage"], stage, "{failure}");
        let why = failure["reason"].as_str().unwrap();
        assert!(why.contains(reason) && !why.contains('\n'), "{why:?} does not say {reason:?}");
        nothing_leaked(before).await;
        let (_second, same) = replace_by(&folder, &first, "v2").await;
        assert_eq!(same, address);
    });
}

/// Waits for the end of the attempt; how it failed.
async fn failure(folder: &Folder) -> Value {
    eventually("the end of the attempt", async || {
        let mut status = status(&folder.control()).await;
        status.get("successor").is_none().then(|| status["last_failure"].take())
    })
    .await
}

/// The last word to a successor is why it failed.
async fn is_told_why(peer: Peer, why: &str) {
    let last = peer.end().await.expect("a last word");
    assert_eq!(last["type"], "failed", "{last}");
    assert!(last["reason"].as_str().unwrap().contains(why), "{last} does not say {why:?}");
}

const RECEIVING: &str = "receiving the inventory";
const WARMING: &str = "warming up";
const RELEASED: &str = "released";

fn ready() -> Value {
    json!({ "type": "ready", "adopted": ["echo"], "bound": [], "unclaimed": [], "release": "now" })
}

fn received(batch: u32) -> Value {
    json!({ "type": "received", "batch": batch })
}

#[test]
fn garbage() {
    fails(RECEIVING, "not a message", async |_, mut peer| {
        peer.send(b"hello?\0", &[]).await.unwrap();
        is_told_why(peer, "not a message").await;
    });
}

#[test]
fn a_message_of_unknown_type() {
    fails(RECEIVING, "unknown variant `surrender`", async |_, mut peer| {
        peer.say(&json!({ "type": "surrender" })).await;
        is_told_why(peer, "surrender").await;
    });
}

#[test]
fn a_message_of_ten_mebibytes() {
    fails(RECEIVING, "more than 1048576 bytes", async |_, mut peer| {
        let _ = peer.send(&vec![b'x'; 10 << 20], &[]).await;
        is_told_why(peer, "more than 1048576 bytes").await;
    });
}

#[test]
fn ready_before_the_inventory_is_complete() {
    fails(RECEIVING, "said `ready`", async |_, mut peer| {
        peer.say(&ready()).await;
        is_told_why(peer, "said `ready`").await;
    });
}

#[test]
fn serving_before_it_was_released() {
    fails(WARMING, "said `serving`", async |_, mut peer| {
        peer.receive_inventory().await;
        peer.say(&json!({ "type": "serving" })).await;
        is_told_why(peer, "said `serving`").await;
    });
}

#[test]
fn ready_twice() {
    fails(RELEASED, "said `ready`", async |_, mut peer| {
        peer.receive_inventory().await;
        peer.say(&ready()).await;
        peer.next_of("released").await;
        peer.say(&ready()).await;
        is_told_why(peer, "said `ready`").await;
    });
}

#[test]
fn what_only_an_incumbent_says() {
    fails(RECEIVING, "said `released`", async |_, mut peer| {
        peer.say(&json!({
            "type": "released", "connections": {"idle": 0, "active": 0, "upgraded": 0},
            "stopped_at_ns": 1, "state": [], "links": [],
        }))
        .await;
        is_told_why(peer, "said `released`").await;
    });
}

#[test]
fn a_wrong_batch_number() {
    for number in [0, 2, u32::MAX] {
        fails(RECEIVING, "said `received`", async |_, mut peer| {
            peer.say(&received(number)).await;
            is_told_why(peer, "said `received`").await;
        });
    }
}

#[test]
fn the_same_batch_twice() {
    fails(RECEIVING, "said `received`", async |_, mut peer| {
        peer.say(&received(1)).await;
        peer.say(&received(1)).await;
        is_told_why(peer, "said `received`").await;
    });
}

#[test]
fn a_message_that_says_that_it_owns_descriptors() {
    fails(RECEIVING, "says 3", async |_, mut peer| {
        peer.say(&json!({ "type": "received", "batch": 1, "fds": 3 })).await;
        is_told_why(peer, "says 3").await;
    });
}

#[test]
fn descriptors_on_a_message_that_owns_none() {
    fails(RECEIVING, "250 descriptors came that no message owns", async |_, mut peer| {
        let file = tempfile::tempfile().unwrap();
        peer.say_with(&received(1), &[file.as_fd(); 250]).await;
        is_told_why(peer, "no message owns").await;
    });
}

#[test]
fn more_descriptors_than_one_message_may_own() {
    fails(RECEIVING, "descriptors", async |_, mut peer| {
        let file = tempfile::tempfile().unwrap();
        // 254 for one message: on each half of it as many as the kernel takes at once, or fewer.
        let (bytes, fds) = (format!("{}\0", received(1)), [file.as_fd(); 127]);
        let (one, two) = bytes.as_bytes().split_at(5);
        let _ = peer.send(one, &fds).await;
        let _ = peer.send(two, &fds).await;
        is_told_why(peer, "no message owns").await;
    });
}

#[test]
fn descriptors_without_end() {
    fails(RECEIVING, "no message owns", async |_, mut peer| {
        let file = tempfile::tempfile().unwrap();
        while peer.send(b" ", &[file.as_fd(); 253]).await.is_ok() {
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn silence_in_the_inventory() {
    fails_with(
        |timing| timing.batch = BRIEF,
        RECEIVING,
        "deadline `batch`",
        async |_, peer| {
            is_told_why(peer, "deadline `batch`").await;
        },
    );
}

#[test]
fn silence_while_it_warms_up() {
    fails_with(
        |timing| timing.lease = BRIEF,
        WARMING,
        "deadline `lease`",
        async |_, mut peer| {
            peer.receive_inventory().await;
            is_told_why(peer, "deadline `lease`").await;
        },
    );
}

#[test]
fn silence_after_it_was_released() {
    fails_with(
        |timing| timing.serving = BRIEF,
        RELEASED,
        "deadline `serving`",
        async |_, mut peer| {
            peer.receive_inventory().await;
            peer.say(&ready()).await;
            is_told_why(peer, "deadline `serving`").await;
        },
    );
}

#[test]
fn it_reads_nothing() {
    fails_with(
        |timing| timing.batch = BRIEF,
        RECEIVING,
        "deadline `batch`",
        async |folder, peer| {
            failure(folder).await;
            drop(peer);
        },
    );
}

#[test]
fn half_a_message_then_silence() {
    fails_with(
        |timing| timing.batch = BRIEF,
        RECEIVING,
        "deadline `batch`",
        async |_, mut peer| {
            peer.send(b"{\"type\":\"recei", &[]).await.unwrap();
            is_told_why(peer, "deadline `batch`").await;
        },
    );
}

#[test]
fn it_hangs_up_after_its_join() {
    fails(RECEIVING, "is gone", async |_, peer| drop(peer));
}

#[test]
fn it_hangs_up_in_the_middle_of_a_message() {
    fails(RECEIVING, "is gone", async |_, mut peer| {
        peer.send(b"{\"type\":\"recei", &[]).await.unwrap();
    });
}

#[test]
fn it_hangs_up_in_the_middle_of_the_inventory() {
    fails(RECEIVING, "is gone", async |_, mut peer| {
        peer.say(&received(1)).await;
        peer.next_of("control").await;
    });
}

#[test]
fn it_hangs_up_when_it_has_everything() {
    fails(WARMING, "is gone", async |_, mut peer| peer.receive_inventory().await);
}

#[test]
fn it_hangs_up_when_it_was_released() {
    fails(RELEASED, "is gone", async |_, mut peer| {
        peer.receive_inventory().await;
        peer.say(&ready()).await;
        peer.next_of("released").await;
    });
}

#[test]
fn it_gives_up_in_its_own_words() {
    fails(WARMING, "the disk is full", async |_, mut peer| {
        peer.receive_inventory().await;
        peer.say(&json!({ "type": "failed", "reason": "the disk is full" })).await;
        assert_eq!(peer.end().await.unwrap()["type"], "failed");
    });
}

#[test]
fn a_second_one_meanwhile_is_told_about_the_first() {
    fails(WARMING, "is gone", async |folder, mut first| {
        first.receive_inventory().await;
        let mut second = Peer::connect(&folder.control()).await;
        second.say(&join("second")).await;
        let reply = second.end().await.expect("a reply");
        assert_eq!(reply["error"], "io.hotupdate.Busy");
        let reason = reply["parameters"]["reason"].as_str().unwrap();
        assert!(reason.contains("4242 (hostile)") && reason.contains("warming up"), "{reason}");

        let error = folder.builder("third").join().await.unwrap_err();
        assert_eq!(error.kind(), hotupdate::ErrorKind::Refused, "{error}");
        assert!(error.to_string().contains("4242 (hostile) is already there (warming up)"), "{error}");
    });
}

#[test]
fn ten_failures_of_every_kind_then_a_success() {
    fails(RECEIVING, "is gone", async |folder, last| {
        drop(last);
        for number in 0..10 {
            failure(folder).await;
            let mut peer = Peer::successor(&folder.control()).await;
            if number % 3 > 0 {
                peer.receive_inventory().await;
            }
            if number % 3 > 1 {
                peer.say(&ready()).await;
                peer.next_of("released").await;
            }
        }
        failure(folder).await;
        drop(Peer::successor(&folder.control()).await);
    });
}
