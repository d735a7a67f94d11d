//! Calls in good form: what they ask may not exist, or make no sense.
//!
//! Deliberately absent: orders that make sense, see `life.rs`.

use serde_json::{Value, json};

use super::survives;
use crate::common::peer::{Peer, call};

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
