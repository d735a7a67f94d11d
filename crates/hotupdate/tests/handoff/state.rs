//! Application state that travels: large, slow, broken, passed on.
//!
//! Deliberately absent: what the bytes mean.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::common::peer::status;
use crate::common::{BRIEF, Folder, SOON, ask, replace_by, serve};
use hotupdate::{ErrorKind, Starting, Timing};

/// What the first call returns is the inventory's, what the second returns is the final word of the first
/// attempt.
fn export_in_turns(starting: &mut Starting, turn: impl Fn(u32) -> Vec<u8> + Send + Sync + 'static) {
    let calls = AtomicU32::new(0);
    starting.export("hits", "text", move || turn(calls.fetch_add(1, Relaxed) + 1)).unwrap();
}

#[tokio::test]
async fn ten_mebibytes() {
    let folder = Folder::new();
    let bytes: Vec<u8> = (0..10u32 << 20).map(|n| (n % 251) as u8).collect();
    let mut first = folder.join("v1").await;
    let exported = bytes.clone();
    first.export("table", "bytes/1", move || exported.clone()).unwrap();
    first.export("nothing", "bytes/1", Vec::new).unwrap();
    let _first = first.ready().await.unwrap();
    let second = folder.join("v2").await;
    assert!(second.import("table").unwrap().bytes == bytes, "the inventory's is not what was exported");
    let second = second.ready().await.unwrap();
    let table = second.import("table").unwrap();
    assert!(table.bytes == bytes && table.schema == "bytes/1", "the final word is not what was exported");
    assert_eq!(second.import("nothing").unwrap().bytes, b"");
    assert!(second.import("anything").is_none());
}

#[tokio::test]
async fn it_goes_from_version_to_version() {
    let folder = Folder::new();
    let mut first = folder.join("v1").await;
    first.export("hits", "text", || b"1".to_vec()).unwrap();
    let _first = first.ready().await.unwrap();
    for n in 2..6u32 {
        let mut next = folder.join("vn").await;
        let hits = String::from_utf8(next.import("hits").unwrap().bytes.clone()).unwrap();
        assert_eq!(hits, (n - 1).to_string());
        next.export("hits", "text", move || n.to_string().into_bytes()).unwrap();
        next.ready().await.unwrap();
    }
}

#[tokio::test]
async fn names_are_keys_and_there_is_a_limit() {
    let folder = Folder::new();
    let mut starting = folder.join("v1").await;
    starting.export("hits", "text", Vec::new).unwrap();
    for name in ["hits", "", &"x".repeat(256)] {
        let error = starting.export(name, "text", Vec::new).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ApiMisuse, "{error}");
    }
    let error = starting.export("schema", &"x".repeat(256), Vec::new).unwrap_err();
    assert!(error.to_string().contains("its schema has more than 255 bytes"), "{error}");
    for n in 1..250 {
        starting.export(&n.to_string(), "text", move || n.to_string().into_bytes()).unwrap();
    }
    let error = starting.export("one more", "text", Vec::new).unwrap_err();
    assert!(error.kind() == ErrorKind::ApiMisuse && error.to_string().contains("250"), "{error}");
    let _first = starting.ready().await.unwrap();
    let second = folder.join("v2").await.ready().await.unwrap();
    assert_eq!(second.import("249").unwrap().bytes, b"249", "as many as allowed do travel");
}

/// The final word does not come: the attempt fails, the incumbent accepts again, and the next attempt works.
async fn release_fails(stop: Duration, why: &str, final_word: impl Fn() -> Vec<u8> + Send + Sync + 'static) {
    let folder = Folder::new();
    let timing = Timing::default().stop(stop).probation(Duration::ZERO);
    let mut first = folder.builder("v1").timing(timing).join().await.unwrap();
    export_in_turns(
        &mut first,
        move |turn| if turn == 2 { final_word() } else { turn.to_string().into_bytes() },
    );
    let (first, address) = serve(first, "v1").await;
    let mut second = folder.join("v2").await;
    let _listener = second.tcp("echo", address).await.unwrap();
    let error = second.ready().await.unwrap_err();
    assert!(error.to_string().contains(why), "{error}");
    assert_eq!(ask(address).await, "v1", "it accepts again");
    let failure = &status(&folder.control()).await["last_failure"];
    assert_eq!(failure["stage"], "released", "{failure}");
    assert!(failure["reason"].as_str().unwrap().contains(why), "operators are told too: {failure}");
    let (third, _) = replace_by(&folder, &first, "v3").await;
    assert_eq!(third.import("hits").unwrap().bytes, b"4", "the late one is not used");
}

#[tokio::test]
async fn a_final_word_that_comes_too_late() {
    release_fails(BRIEF, "deadline `stop`", || {
        std::thread::sleep(2 * BRIEF);
        b"late".to_vec()
    })
    .await;
}

/// The time to export and the time to begin to serve are two deadlines, one after the other.
#[tokio::test]
async fn a_final_word_that_takes_longer_than_a_successor_to_begin() {
    let folder = Folder::new();
    let timing = Timing::default().stop(SOON).released(SOON).serving(BRIEF);
    let mut first = folder.builder("v1").timing(timing.clone()).join().await.unwrap();
    export_in_turns(&mut first, |turn| {
        if turn == 2 {
            std::thread::sleep(2 * BRIEF);
        }
        turn.to_string().into_bytes()
    });
    let _first = first.ready().await.unwrap();
    let second = folder.builder("v2").timing(timing).join().await.unwrap();
    let second = second.ready().await.expect("it is not too late");
    assert_eq!(second.import("hits").unwrap().bytes, b"2");
}

#[tokio::test]
async fn a_final_word_that_panics() {
    // To print a backtrace takes its time.
    release_fails(SOON, "the application's export panicked", || panic!("in the application")).await;
}

#[tokio::test]
async fn an_export_that_panics_at_the_join() {
    let folder = Folder::new();
    let mut first = folder.join("v1").await;
    export_in_turns(&mut first, |turn| if turn == 1 { panic!("in the application") } else { b"2".to_vec() });
    let (first, address) = serve(first, "v1").await;
    let error = folder.builder("v2").join().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    assert!(error.to_string().contains("the application's export panicked"), "{error}");
    assert_eq!(ask(address).await, "v1");
    replace_by(&folder, &first, "v3").await;
}

/// One byte more than travels. Nothing of it is ever touched, so it costs no memory.
fn too_large() -> Vec<u8> {
    vec![0; (1 << 30) + 1]
}

#[tokio::test]
async fn a_state_that_is_too_large_turns_the_successor_away() {
    let folder = Folder::new();
    let mut first = folder.join("v1").await;
    export_in_turns(&mut first, |turn| if turn == 1 { too_large() } else { b"2".to_vec() });
    let (first, address) = serve(first, "v1").await;
    let error = folder.builder("v2").join().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    let why = "the state \"hits\" has more than 1073741824 bytes";
    assert!(error.to_string().contains(why), "{error}");
    assert_eq!(ask(address).await, "v1");
    let failure = &status(&folder.control()).await["last_failure"];
    assert_eq!((&failure["stage"], &failure["generation"]), (&"joining".into(), &0.into()), "{failure}");
    assert!(failure["reason"].as_str().unwrap().contains(why), "operators are told too: {failure}");
    replace_by(&folder, &first, "v3").await;
}

#[tokio::test]
async fn a_final_word_that_is_too_large() {
    release_fails(SOON, "has more than 1073741824 bytes", too_large).await;
}

#[tokio::test]
#[ignore = "takes 3 GiB of memory and some seconds, up to a minute where memory is slow"]
async fn a_gibibyte() {
    let folder = Folder::new();
    // More than the defaults: they are for services, in which no process accepts while the final word is
    // written.
    let [reply, batch, stop] = [SOON; 3];
    let timing = Timing::default().reply(reply).batch(batch).stop(stop).released(2 * SOON);
    let mut first = folder.builder("v1").timing(timing.clone()).join().await.unwrap();
    first.export("table", "bytes/1", || vec![0; 1 << 30]).unwrap();
    let _first = first.ready().await.unwrap();
    let second = folder.builder("v2").timing(timing).join().await.unwrap();
    let second = second.ready().await.unwrap();
    assert_eq!(second.import("table").unwrap().bytes.len(), 1 << 30);
}

#[tokio::test]
async fn an_export_that_takes_longer_than_a_successor_waits() {
    let folder = Folder::new();
    let mut first = folder.join("v1").await;
    export_in_turns(&mut first, |turn| {
        if turn == 1 {
            std::thread::sleep(2 * BRIEF);
        }
        Vec::new()
    });
    let (first, address) = serve(first, "v1").await;
    let timing = Timing::default().reply(BRIEF);
    let error = folder.builder("v2").timing(timing).join().await.unwrap_err();
    assert!(error.to_string().contains("deadline `reply`"), "{error}");
    assert_eq!(ask(address).await, "v1", "an export blocks no client");
    replace_by(&folder, &first, "v3").await;
}

/// The longest wait of a client that comes again and again.
fn longest_wait(address: SocketAddr, over: &AtomicBool) -> Duration {
    let mut longest = Duration::ZERO;
    while !over.load(Relaxed) {
        let begun = Instant::now();
        let mut client = TcpStream::connect(address).unwrap();
        client.write_all(b"?").unwrap();
        client.read_exact(&mut [0; 2]).unwrap();
        longest = longest.max(begun.elapsed());
    }
    longest
}

/// The figures in the documentation of `Starting::export`:
/// `cargo test --release -p hotupdate --test handoff -- --ignored --nocapture how_long`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes 4 GiB of memory, and says how long; nothing is asserted"]
#[allow(clippy::print_stdout, reason = "the figures are what one wants to see")]
async fn how_long_nobody_accepts() {
    for mebibytes in [1, 10, 100, 500, 1024] {
        let folder = Folder::new();
        let mut first = folder.join("v1").await;
        let table = vec![7; mebibytes << 20];
        first.export("table", "bytes/1", move || table.clone()).unwrap();
        let (first, address) = serve(first, "v1").await;
        let over = Arc::new(AtomicBool::new(false));
        let client = tokio::task::spawn_blocking({
            let over = over.clone();
            move || longest_wait(address, &over)
        });
        let begun = Instant::now();
        let second = folder.join("v2").await;
        let joined = begun.elapsed();
        let (second, _) = serve(second, "v2").await;
        let served = begun.elapsed();
        let import = tokio::task::block_in_place(|| second.import("table").unwrap().bytes.len());
        let imported = begun.elapsed();
        over.store(true, Relaxed);
        let (ms, waited) = (|time: Duration| time.as_millis(), client.await.unwrap());
        println!(
            "{} MiB: joined in {} ms; no process accepted, and a client waited, for {} ms; imported in {} ms",
            import >> 20,
            ms(joined),
            ms(waited),
            ms(imported - served),
        );
        first.drained().await;
    }
}
