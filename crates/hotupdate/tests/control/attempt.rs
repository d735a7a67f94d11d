//! An attempt belongs to the connection of the operator that began it.

use std::path::Path;

use crate::common::Folder;
use crate::common::peer::{Peer, call, join, status};
use serde_json::{Value, json};

/// A connection that holds the attempt of this name.
async fn hold(path: &Path, attempt: &str) -> Peer {
    let mut operator = Peer::connect(path).await;
    let parameters = json!({ "attempt": attempt });
    let call = json!({ "method": "io.hotupdate.Attempt", "more": true, "parameters": parameters });
    operator.say(&call).await;
    let reply = operator.next().await.expect("a reply at once");
    assert!(reply.get("error").is_none() && reply["continues"] == true, "{reply}");
    operator
}

/// A successor for it, and the reply to its call.
async fn joins(path: &Path, attempt: &str) -> (Peer, Value) {
    let mut successor = Peer::connect(path).await;
    let mut call = join("v2");
    call["parameters"]["attempt"] = attempt.into();
    successor.say(&call).await;
    let reply = successor.next().await.expect("a reply to `Join`");
    (successor, reply)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_ends_with_the_connection_and_the_next_one_works() {
    let folder = Folder::new();
    let (serving, _) = folder.serve("v1").await;
    let path = folder.control();
    let (one, two) = (hold(&path, "one").await, hold(&path, "two").await);
    let (mut successor, reply) = joins(&path, "one").await;
    assert!(reply.get("error").is_none(), "{reply}");
    successor.receive_inventory().await;
    // Another operator that goes takes nothing along.
    drop(two);
    let (_, reply) = joins(&path, "two").await;
    assert!(
        matches!(reply["error"].as_str(), Some("io.hotupdate.Abandoned" | "io.hotupdate.Busy")),
        "{reply}"
    );
    drop(one);
    let failed = successor.next_of("failed").await;
    assert_eq!(failed["reason"], "aborted: the operator that began the attempt has gone");
    assert_eq!(status(&path).await["last_failure"]["attempt"], "one");

    // What it had started twice comes late.
    let (_, reply) = joins(&path, "one").await;
    assert_eq!(reply["error"], "io.hotupdate.Abandoned", "{reply}");
    let (_next, reply) = joins(&path, "three").await;
    assert!(reply.get("error").is_none(), "{reply}");
    assert_eq!(serving.generation().0, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_is_needed_and_more() {
    let folder = Folder::new();
    let (_serving, _) = folder.serve("v1").await;
    let reply = call(&folder.control(), "io.hotupdate.Attempt", json!({ "attempt": "a" })).await;
    assert_eq!(reply["error"], "org.varlink.service.ExpectedMore");
    for wrong in [json!({}), json!({ "attempt": 1 }), json!({ "attempt": "x".repeat(2000) })] {
        let mut operator = Peer::connect(&folder.control()).await;
        operator.say(&json!({ "method": "io.hotupdate.Attempt", "more": true, "parameters": wrong })).await;
        let reply = operator.next().await.expect("a reply");
        assert_eq!(reply["error"], "org.varlink.service.InvalidParameter", "{wrong}");
    }
}
