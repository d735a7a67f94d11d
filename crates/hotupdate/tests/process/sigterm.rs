//! SIGTERM: what is open may end first, unless it comes twice.
//!
//! Deliberately absent: requests in flight, see `integration-tests/tests/handoff/signals.rs`.

use rustix::process::Signal;
use serde_json::json;

use crate::common::peer::{call, status};
use crate::common::{eventually, refused};
use crate::service::{ON_COMMAND, STAYS};
use crate::stage::{Client, Stage, who};

#[tokio::test]
async fn once_lets_clients_finish_and_twice_does_not() {
    let stage = Stage::new();
    let mut first = stage.start(&[]);
    let serving = stage.serves(1).await;
    let mut client = Client::connect(serving.address).await;
    assert_eq!(client.ask().await, first.pid());
    first.signal(Signal::TERM);
    refused(serving.address).await;
    assert_eq!(client.ask().await, first.pid());
    first.signal(Signal::TERM);
    client.end().await;
    first.drains(1).await;
    assert!(!stage.control().exists(), "nobody serves any more");
}

#[tokio::test]
async fn to_a_successor_that_stands_by() {
    let stage = Stage::new();
    let mut first = stage.start(&[]);
    let serving = stage.serves(1).await;
    let mut second = stage.start(&[(ON_COMMAND, "1")]);
    eventually("it stands by", async || {
        (status(&stage.control()).await["successor"]["state"] == "standby").then_some(())
    })
    .await;
    second.signal(Signal::TERM);
    assert!(!second.end().await.success());
    let now = eventually("the end of the attempt", async || {
        Some(status(&stage.control()).await).filter(|status| status.get("successor").is_none())
    })
    .await;
    assert!(now["last_failure"]["reason"].as_str().unwrap().contains("stopped by a signal"), "{now}");
    assert_eq!(who(serving.address).await, first.pid());

    // And the next one is not kept from anything.
    let mut third = stage.start(&[(ON_COMMAND, "1")]);
    eventually("it is released", async || {
        call(&stage.control(), "io.hotupdate.Handoff", json!({})).await.get("error").is_none().then_some(())
    })
    .await;
    first.drains(0).await;
    assert_eq!(who(serving.address).await, third.pid());
    third.signal(Signal::TERM);
    third.drains(0).await;
}

/// A container runtime that stops an old version while it drains has said all that it is going to say.
#[tokio::test]
async fn one_that_would_stay_does_not_when_it_came_before() {
    let stage = Stage::new();
    let mut first = stage.start(&[(STAYS, "1")]);
    let serving = stage.serves(1).await;
    let mut client = Client::connect(serving.address).await;
    assert_eq!(client.ask().await, first.pid());
    let mut second = stage.start(&[]);
    stage.serves(2).await;
    first.signal(Signal::TERM);
    assert_eq!(client.ask().await, first.pid(), "the client finishes first");
    drop(client);
    first.drains(0).await;
    second.signal(Signal::TERM);
    second.drains(0).await;
}
