//! Before ready: what is registered, what is refused because the program that calls is wrong, and what
//! hears of ready.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use crate::common::peer::call;
use crate::common::{Folder, SOON, answer, ask, ask_on, eventually, patient};
use hotupdate::{Connection, Error, ErrorKind};
use serde_json::json;
use tokio::net::UnixStream;
use tokio::time::timeout;

async fn drop_it(connection: Connection, (): ()) {
    drop(connection);
}

fn misuse<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    match result {
        Err(error) if error.kind() == ErrorKind::ApiMisuse => error.to_string(),
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
    answer(first, "v1");
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

#[tokio::test]
async fn an_error_says_who_serves_now() {
    let folder = Folder::new();
    let (_first, address) = folder.serve("v1").await;
    let waiting = folder.join("v2").await;
    let refused = folder.builder("v3").join().await.unwrap_err();
    assert_eq!((refused.kind(), refused.served_by()), (ErrorKind::Refused, Some("the process there")));
    let text = refused.to_string();
    assert!(text.contains("busy: successor") && text.ends_with("; the process there serves on"), "{text}");
    drop(waiting);

    let mut starting = folder.join("v4").await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let failed = starting.tcp("other", taken.local_addr().unwrap()).await.unwrap_err();
    assert_eq!((failed.kind(), failed.served_by()), (ErrorKind::Local, None), "it may try another address");
    let source = failed.io_error();
    assert_eq!(source.map(std::io::Error::kind), Some(std::io::ErrorKind::AddrInUse));

    drop(starting);
    let mut starting = folder.builder("v5").on_command(true).join().await.unwrap();
    let _listener = starting.tcp("echo", address).await.unwrap();
    let ready = tokio::spawn(starting.ready());
    let aborted = async || {
        let reply = call(&folder.control(), "io.hotupdate.Abort", json!({})).await;
        reply["error"].is_null().then_some(())
    };
    eventually("there is something to abort", aborted).await;
    let aborted = timeout(SOON, ready).await.unwrap().unwrap().unwrap_err();
    let us = format!("process {} (v1)", std::process::id());
    assert_eq!(aborted.served_by(), Some(us.as_str()), "{aborted}");
    assert_eq!(ask(address).await, "v1");
}

/// Paths are bytes. What is not UTF-8 is only shown differently.
#[tokio::test]
async fn paths_that_are_no_text_are_paths_all_the_same() {
    let folder = Folder::new();
    let path = |name: &[u8]| folder.path().join(OsStr::from_bytes(name));
    let (control, public) = (path(b"control-\xff.sock"), path(b"public-\xff.sock"));
    let start = async |name: &'static str| {
        let mut starting = hotupdate::builder(&control)
            .version(name)
            .stop_signals(false)
            .timing(patient())
            .join()
            .await
            .unwrap();
        answer(starting.unix("echo", &public).await.unwrap(), name);
        starting.ready().await.unwrap()
    };
    let first = start("v1").await;
    let second = start("v2").await;
    timeout(SOON, first.drained()).await.unwrap();
    assert_eq!(second.generation().0, 2);
    let mut client = UnixStream::connect(&public).await.unwrap();
    assert_eq!(ask_on(&mut client).await.unwrap(), "v2");
}

#[tokio::test]
async fn a_hook_with_a_name_that_is_taken_empty_or_too_long_is_refused() {
    let folder = Folder::new();
    let mut starting = folder.join("v1").await;
    starting.before_release("queue", async || {}).unwrap();
    let error = misuse(starting.before_release("queue", async || {}));
    assert!(error.contains("\"queue\"") && error.contains("taken"), "{error}");
    for wrong in [String::new(), "x".repeat(256)] {
        assert!(misuse(starting.before_release(&wrong, async || {})).contains("1 to 255 bytes"));
    }
}
