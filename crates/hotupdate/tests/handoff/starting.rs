//! Before ready: what is registered, what is refused because the program that calls is wrong, and who hears of ready.

use crate::common::{self, Folder, SOON};
use hotupdate::{Connection, Error};
use tokio::time::timeout;

async fn drop_it(connection: Connection, (): ()) {
    drop(connection);
}

fn misuse<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    match result {
        Err(error @ Error::ApiMisuse { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_kind_that_is_registered_twice_is_refused_by_name_and_the_first_stays() {
    let folder = Folder::new();
    let mut starting = folder.join("v1").await;
    starting.on_migrated("echo", drop_it).unwrap();
    let error = misuse(starting.on_migrated("echo", drop_it));
    assert!(error.contains("\"echo\"") && error.contains("registered before"), "{error}");
    let error = misuse(starting.on_migrated_bytes("echo", Some("public"), |_| None));
    assert!(error.contains("\"public\""), "{error}");
    for wrong in [String::new(), "x".repeat(256)] {
        assert!(misuse(starting.on_migrated(&wrong, drop_it)).contains("1 to 255 bytes"));
    }

    starting.on_migrated_bytes("chat", Some("public"), |_| None).unwrap();
    starting.on_migrated_bytes("chat", Some("private"), |_| None).unwrap();
    let error = misuse(starting.on_migrated("chat", drop_it));
    assert!(error.contains("\"chat\""), "{error}");
    starting.ready().await.unwrap();
}

#[tokio::test]
async fn a_listener_that_is_claimed_twice_is_refused_by_name_and_the_first_stays() {
    let folder = Folder::new();
    let mut starting = folder.join("v1").await;
    let first = starting.tcp("echo", "127.0.0.1:0").await.unwrap();
    let error = misuse(starting.tcp("echo", "127.0.0.1:0").await);
    assert!(error.contains("\"echo\"") && error.contains("taken"), "{error}");
    assert!(misuse(starting.udp("echo", "127.0.0.1:0").await).contains("taken"));
    common::answer(first, "v1");
    starting.ready().await.unwrap();
}

#[tokio::test]
async fn who_waits_for_ready_hears_of_it_or_that_it_never_comes() {
    let folder = Folder::new();
    let starting = folder.join("v1").await;
    let (before, after) = (starting.when_serving(), starting.when_serving());
    let waiting = tokio::spawn(before);
    let serving = starting.ready().await.unwrap();
    let generation = serving.generation();
    let heard = timeout(SOON, waiting).await.unwrap().unwrap().expect("it serves");
    assert_eq!(heard.generation(), generation);
    assert!(timeout(SOON, after).await.unwrap().is_some(), "also when it is asked late");

    let given_up = folder.join("v2").await;
    let waiting = given_up.when_serving();
    drop(given_up);
    assert!(timeout(SOON, waiting).await.unwrap().is_none());
}
