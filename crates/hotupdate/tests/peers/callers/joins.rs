//! A `Join` that is no use.
//!
//! Deliberately absent: what a successor can do once it has joined, see `hostile.rs`.

use std::time::Instant;

use serde_json::{Value, json};

use super::survives;
use crate::common::peer::{Peer, join, process};
use crate::common::{self, Folder, Log};

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

/// A caller that tries again and again must not fill a disk.
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
