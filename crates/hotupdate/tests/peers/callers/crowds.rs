//! More callers than there are places for, and callers that do not read: one that only asks gets an answer.
//!
//! Deliberately absent: thousands, see `integration-tests/tests/campaigns/abuse.rs`.

use hotupdate::Builder;
use serde_json::{Value, json};

use super::{impatient, survives, survives_with, timing};
use crate::common::peer::{Peer, status};
use crate::common::{self, BRIEF, Folder, Log, SOON};

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
        |builder| builder.timing(timing().write(std::time::Duration::from_millis(1))),
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

#[test]
fn a_watcher_that_does_not_read() {
    survives_with(
        |builder| builder.timing(timing().write(BRIEF)),
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
    let patient = |builder: Builder| builder.timing(timing().hello(SOON));
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
