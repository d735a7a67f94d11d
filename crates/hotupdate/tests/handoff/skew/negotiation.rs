//! What is negotiated before anything irreversible: protocol versions and features.
//!
//! Deliberately absent: a second protocol version; what it would say is made up here.

use hotupdate::ErrorKind;
use serde_json::{Value, json};

use super::replay::Replay;
use super::{HANDOFF, hand_over_from, hand_over_to};
use crate::common::lies::fails;
use crate::common::peer::{Peer, join, process, status};
use crate::common::{Folder, Log, ask_on, replace_by};

/// A field that no process knows, in every object.
fn say_more(message: &mut Value) {
    match message {
        Value::Object(fields) => {
            fields.values_mut().for_each(say_more);
            fields.insert("later".to_owned(), json!({ "than": ["version", 1] }));
        }
        Value::Array(items) => items.iter_mut().for_each(say_more),
        _ => {}
    }
}

#[tokio::test]
async fn fields_that_nobody_knows_are_ignored_in_a_successor() {
    hand_over_to(say_more, &Folder::new()).await;
}

#[tokio::test]
async fn fields_that_nobody_knows_are_ignored_in_an_incumbent() {
    let folder = Folder::new();
    hand_over_from(Replay::incumbent(&folder, HANDOFF).altered(say_more), &folder).await;
}

/// What a successor of a later version would say that still speaks this one.
fn speaks_later_versions(message: &mut Value) {
    if let Some(parameters) = message.get_mut("parameters") {
        parameters["versions"] = json!({ "min": 1, "max": 2 });
        parameters["features"] = json!(["teleport", "migrate", "x"]);
    }
}

#[tokio::test]
async fn a_successor_that_speaks_later_versions_too_is_spoken_to_in_ours() {
    hand_over_to(speaks_later_versions, &Folder::new()).await;
}

#[tokio::test]
async fn of_versions_and_features_those_that_both_have_are_chosen() {
    let folder = Folder::new();
    let (_first, _) = folder.serve("v1").await;
    let mut call = join("v2");
    speaks_later_versions(&mut call);
    let mut peer = Peer::connect(&folder.control()).await;
    let reply = peer.call("io.hotupdate.Join", call["parameters"].take()).await;
    assert_eq!(reply["error"], "org.varlink.service.InvalidParameter", "without `upgrade`: {reply}");

    let mut call = join("v2");
    speaks_later_versions(&mut call);
    let mut peer = Peer::connect(&folder.control()).await;
    peer.say(&call).await;
    let joined = peer.next().await.expect("a reply");
    let (version, features) = (&joined["parameters"]["version"], &joined["parameters"]["features"]);
    assert_eq!((version, features), (&json!(1), &json!(["migrate"])), "{joined}");
}

#[tokio::test]
async fn a_successor_that_speaks_only_a_later_version_is_refused_and_nothing_stops() {
    let folder = Folder::new();
    let (first, address) = folder.serve("v1").await;
    let mut client = tokio::net::TcpStream::connect(address).await.unwrap();
    assert_eq!(ask_on(&mut client).await.unwrap(), "v1");
    let (log, _guard) = Log::begin();

    let mut call = join("v2");
    call["parameters"]["versions"] = json!({ "min": 2, "max": 2 });
    let mut peer = Peer::connect(&folder.control()).await;
    peer.say(&call).await;
    let reply = peer.end().await.expect("a reply");
    assert_eq!(reply["error"], "io.hotupdate.Incompatible");
    let why = "the incumbent speaks protocol version 1, the successor 2";
    assert!(reply["parameters"]["reason"].as_str().unwrap().contains(why), "{reply}");

    log.says(&["a successor is turned away", "4242 (v2)", "incompatible", why, "(v1) is still serving"]);
    assert!(!log.text().contains("joined"), "no handoff began:\n{}", log.text());
    assert_eq!(ask_on(&mut client).await.unwrap(), "v1", "on the same connection");
    drop(client);
    let status = status(&folder.control()).await;
    assert!(status.get("successor").is_none() && status["serving"]["state"] == "serving", "{status}");
    replace_by(&folder, &first, "v2").await;
}

/// The reply of an incumbent that speaks only a later version, as version 1 words it.
#[test]
fn an_incumbent_that_speaks_only_a_later_version_is_named() {
    fails(
        ErrorKind::PeerIncompatible,
        "the incumbent speaks protocol version 2 to 3, the successor 1",
        async |impostor| {
            let mut peer = impostor.accept().await;
            let refusal = json!({ "Incompatible": {
                "ours": { "min": 2, "max": 3 }, "theirs": { "min": 1, "max": 1 },
            } });
            let parameters = json!({ "reason": "incompatible", "refusal": refusal });
            peer.say(&json!({ "error": "io.hotupdate.Incompatible", "parameters": parameters })).await;
            peer
        },
    );
}

/// The same from one that words its refusals in another way: the name of the error is enough.
#[test]
fn an_error_by_the_name_of_incompatible_is_understood_whatever_it_holds() {
    fails(ErrorKind::PeerIncompatible, "come back with version 3", async |impostor| {
        let mut peer = impostor.accept().await;
        let parameters = json!({ "reason": "come back with version 3", "refusal": { "TooOld": 1 } });
        peer.say(&json!({ "error": "io.hotupdate.Incompatible", "parameters": parameters })).await;
        peer
    });
}

#[test]
fn a_feature_that_was_not_offered() {
    fails(ErrorKind::PeerMisbehaved, "the feature \"teleport\", which was not offered", async |impostor| {
        let mut peer = impostor.accept().await;
        peer.say(&json!({ "parameters": {
            "version": 1, "features": ["teleport"], "generation": 2, "lease_ms": 60_000, "handoff": "h",
            "incumbent": process("x"), "incumbent_generation": 1,
        } }))
        .await;
        peer
    });
}

/// What a process that speaks only version 1 is told, is what its user sees.
#[tokio::test]
async fn the_user_of_the_library_is_told_by_name() {
    let folder = Folder::new();
    let impostor = crate::common::peer::Impostor::at(&folder);
    let refuse = async {
        let mut peer = impostor.accept().await;
        let parameters = json!({ "reason": "only version 2 here" });
        peer.say(&json!({ "error": "io.hotupdate.Incompatible", "parameters": parameters })).await;
        peer
    };
    let (joined, _peer) = tokio::join!(folder.builder("v2").join(), refuse);
    assert_eq!(joined.unwrap_err().kind(), ErrorKind::PeerIncompatible);
}
