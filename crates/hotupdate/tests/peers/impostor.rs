//! Whatever an incumbent answers and offers, the library checks it: each lie is one clear line that says
//! whose fault it was, every descriptor that came is closed, and the next start works.
//!
//! Deliberately absent: what it says when it has the word that we are ready (`impostor_ready.rs`).

use std::io::Write;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};

use crate::common::lies::{fails, fails_with, honest, offer};
use crate::common::peer::{Impostor, Peer, control, listeners};
use crate::common::{self, BRIEF, Folder, alone};
use hotupdate::ErrorKind;
use rustix::fs::{MemfdFlags, memfd_create};
use serde_json::{Value, json};

/// Changes what is said about the real listener.
async fn describe(impostor: &Impostor, change: impl FnOnce(&mut Value)) -> Peer {
    let mut item = impostor.item("http");
    change(&mut item);
    let mut peer = impostor.welcome().await;
    peer.say_with(&listeners(1, &[item]), &[impostor.listener.as_fd()]).await;
    peer
}

#[test]
fn without_a_lie_it_joins() {
    alone(async {
        let folder = Folder::new();
        let impostor = Impostor::at(&folder);
        let (joined, _peer) = tokio::join!(folder.builder("v2").join(), honest(&impostor));
        let listener = joined.unwrap().tcp("http", "127.0.0.1:0").await.unwrap();
        assert_eq!(listener.local_addr().ip(), impostor.listener.local_addr().ok());
    });
}

// ---- the reply
// ----------------------------------------------------------------------------------------------------

#[test]
fn a_garbage_reply() {
    fails(ErrorKind::PeerMisbehaved, "its reply to `Join`", async |impostor| {
        let mut peer = impostor.accept().await;
        peer.send(b"220 mail.example.org ESMTP\0", &[]).await.unwrap();
        peer
    });
}

#[test]
fn a_reply_that_is_no_welcome() {
    fails(ErrorKind::PeerMisbehaved, "its reply to `Join`", async |impostor| {
        let mut peer = impostor.accept().await;
        peer.say(&json!({ "parameters": { "version": 1 } })).await;
        peer
    });
}

#[test]
fn a_reply_without_end() {
    fails(ErrorKind::PeerMisbehaved, "more than 1048576 bytes", async |impostor| {
        let mut peer = impostor.accept().await;
        let _ = peer.send(&vec![b' '; 10 << 20], &[]).await;
        peer
    });
}

#[test]
fn an_error_in_words() {
    fails(ErrorKind::Refused, "not on a Sunday", async |impostor| {
        let mut peer = impostor.accept().await;
        let error = json!({ "error": "io.hotupdate.Sunday", "parameters": { "reason": "not on a Sunday" } });
        peer.say(&error).await;
        peer
    });
}

/// Replies to `Join`.
async fn reply(impostor: &Impostor, version: u16, generation: u64) -> Peer {
    let mut peer = impostor.accept().await;
    peer.say(&json!({ "parameters": {
        "version": version, "features": [], "generation": generation, "lease_ms": 1, "handoff": "h",
        "incumbent": common::peer::process("x"), "incumbent_generation": 1,
    } }))
    .await;
    peer
}

#[test]
fn a_version_that_we_do_not_speak() {
    fails(ErrorKind::PeerIncompatible, "it chose protocol version 7, we speak 1", async |impostor| {
        reply(impostor, 7, 2).await
    });
}

#[test]
fn a_generation_that_nobody_can_follow() {
    fails(ErrorKind::PeerMisbehaved, "gave the generation 18446744073709551615", async |impostor| {
        reply(impostor, 1, u64::MAX).await
    });
}

#[test]
fn silence_instead_of_a_reply() {
    fails_with(
        |timing| timing.reply = BRIEF,
        ErrorKind::TimedOut,
        "deadline `reply`",
        async |impostor| impostor.accept().await,
    );
}

#[test]
fn it_hangs_up_whenever_it_is_asked() {
    fails_with(
        |timing| timing.find = BRIEF,
        ErrorKind::TimedOut,
        "deadline `find`",
        async |impostor| {
            // Each drops the one before. It asks every 50 ms, so no process comes for that long
            // only when it has given up.
            while impostor.accept_within(2 * BRIEF).await.is_some() {}
        },
    );
}

// ---- the inventory
// ------------------------------------------------------------------------------------------------

#[test]
fn silence_instead_of_an_inventory() {
    fails_with(
        |timing| timing.batch = BRIEF,
        ErrorKind::TimedOut,
        "deadline `batch`",
        async |impostor| impostor.welcome().await,
    );
}

#[test]
fn silence_in_the_middle_of_an_inventory() {
    fails_with(
        |timing| timing.batch = BRIEF,
        ErrorKind::TimedOut,
        "deadline `batch`",
        async |impostor| offer(impostor, &impostor.listener).await,
    );
}

#[test]
fn a_connected_socket() {
    fails(
        ErrorKind::PeerMisbehaved,
        "\"http\" is not a usable socket: a stream socket that does not listen",
        async |impostor| {
            let connected = TcpStream::connect(impostor.listener.local_addr().unwrap()).unwrap();
            offer(impostor, &connected).await
        },
    );
}

#[test]
fn a_file() {
    fails(ErrorKind::PeerMisbehaved, "\"http\" is not a usable socket", async |impostor| {
        offer(impostor, &tempfile::tempfile().unwrap()).await
    });
}

#[test]
fn another_listener() {
    fails(ErrorKind::PeerMisbehaved, "\"http\" is bound to 127.0.0.1:", async |impostor| {
        offer(impostor, &TcpListener::bind("127.0.0.1:0").unwrap()).await
    });
}

#[test]
fn a_udp_socket() {
    fails(ErrorKind::PeerMisbehaved, "\"http\" is a udp and was announced as tcp", async |impostor| {
        offer(impostor, &UdpSocket::bind("127.0.0.1:0").unwrap()).await
    });
}

#[test]
fn a_wrong_cookie() {
    fails(ErrorKind::PeerMisbehaved, "and was announced as 7", async |impostor| {
        describe(impostor, |item| item["cookie"] = json!(7)).await
    });
}

#[test]
fn a_wrong_address() {
    fails(ErrorKind::PeerMisbehaved, "and was announced with 192.0.2.1:80", async |impostor| {
        describe(impostor, |item| item["address"] = json!("192.0.2.1:80")).await
    });
}

#[test]
fn a_wrong_kind() {
    fails(ErrorKind::PeerMisbehaved, "is a tcp and was announced as unix", async |impostor| {
        describe(impostor, |item| item["kind"] = json!("unix")).await
    });
}

#[test]
fn an_impossible_name() {
    for name in [String::new(), "x".repeat(256)] {
        fails(ErrorKind::PeerMisbehaved, "has an impossible name", async |impostor| {
            describe(impostor, |item| item["name"] = json!(name)).await
        });
    }
}

#[test]
fn the_same_name_twice() {
    fails(ErrorKind::PeerMisbehaved, "the listener \"http\" is offered twice", async |impostor| {
        let mut peer = impostor.welcome().await;
        let fd = impostor.listener.as_fd();
        peer.say_with(&listeners(1, &[impostor.item("http"), impostor.item("http")]), &[fd, fd]).await;
        peer
    });
}

#[test]
fn too_few_descriptors() {
    fails(
        ErrorKind::PeerMisbehaved,
        "a `listeners` message of 2 descriptors came with 1",
        async |impostor| {
            let mut peer = impostor.welcome().await;
            let items = [impostor.item("a"), impostor.item("b")];
            peer.say_with(&listeners(1, &items), &[impostor.listener.as_fd()]).await;
            peer
        },
    );
}

#[test]
fn too_many_descriptors() {
    fails(ErrorKind::PeerMisbehaved, "1 descriptors came with 3", async |impostor| {
        let mut peer = impostor.welcome().await;
        peer.say_with(&listeners(1, &[impostor.item("a")]), &[impostor.listener.as_fd(); 3]).await;
        peer
    });
}

#[test]
fn a_count_that_does_not_fit_the_items() {
    fails(ErrorKind::PeerMisbehaved, "owns 1 descriptors and says 2", async |impostor| {
        let mut peer = impostor.welcome().await;
        let mut message = listeners(1, &[impostor.item("a")]);
        message["fds"] = json!(2);
        peer.say_with(&message, &[impostor.listener.as_fd(); 2]).await;
        peer
    });
}

#[test]
fn more_items_than_a_message_may_have() {
    fails(ErrorKind::PeerMisbehaved, "with 251 descriptors; the limit is 250", async |impostor| {
        let mut peer = impostor.welcome().await;
        let items: Vec<_> = (0..251).map(|n| impostor.item(&n.to_string())).collect();
        peer.say_with(&listeners(1, &items), &[impostor.listener.as_fd(); 251]).await;
        peer
    });
}

#[test]
fn a_batch_out_of_turn() {
    fails(ErrorKind::PeerMisbehaved, "said `listeners` in the middle of the inventory", async |impostor| {
        let mut peer = impostor.welcome().await;
        peer.say_with(&listeners(2, &[impostor.item("a")]), &[impostor.listener.as_fd()]).await;
        peer
    });
}

#[test]
fn released_without_the_control_socket() {
    fails(ErrorKind::PeerMisbehaved, "said `released` in the middle", async |impostor| {
        let mut peer = offer(impostor, &impostor.listener).await;
        peer.say(&json!({ "type": "released", "stopped_at_ns": 1 })).await;
        peer
    });
}

#[test]
fn control_without_a_lock() {
    fails(ErrorKind::PeerMisbehaved, "the lock is not held", async |impostor| {
        let mut peer = impostor.welcome().await;
        let [socket, _] = impostor.control();
        let other = std::fs::File::open(impostor.path().with_extension("sock.lock")).unwrap();
        peer.say_with(&control(1), &[socket, other.as_fd()]).await;
        peer
    });
}

#[test]
fn control_with_something_else() {
    fails(ErrorKind::PeerMisbehaved, "the control listener is not a", async |impostor| {
        let mut peer = impostor.welcome().await;
        let [_, lock] = impostor.control();
        peer.say_with(&control(1), &[impostor.listener.as_fd(), lock]).await;
        peer
    });
}

#[test]
fn control_of_another_path() {
    fails(ErrorKind::PeerMisbehaved, "the control listener is bound to", async |impostor| {
        let mut peer = impostor.welcome().await;
        let [_, lock] = impostor.control();
        let other = UnixListener::bind(impostor.path().with_extension("other")).unwrap();
        other.set_nonblocking(true).unwrap();
        peer.say_with(&control(1), &[other.as_fd(), lock]).await;
        peer
    });
}

/// Links to predecessors of these generations. The impostor is generation 2, and the successor 3.
async fn links(impostor: &Impostor, generations: &[u64]) -> Peer {
    let mut peer = impostor.welcome().await;
    let item = |generation| {
        json!({
            "generation": generation, "process": common::peer::process("old"), "probation": false,
            "connections": { "idle": 0, "active": 0, "upgraded": 0 },
        })
    };
    let items: Vec<_> = generations.iter().map(item).collect();
    let pairs: Vec<_> = items.iter().map(|_| UnixStream::pair().unwrap()).collect();
    for (ours, theirs) in &pairs {
        ours.set_nonblocking(true).unwrap();
        theirs.set_nonblocking(true).unwrap();
    }
    let fds: Vec<_> = pairs.iter().map(|(_, theirs)| theirs.as_fd()).collect();
    peer.say_with(&json!({ "type": "links", "batch": 1, "items": items, "fds": items.len() }), &fds).await;
    peer
}

#[test]
fn two_processes_of_one_generation() {
    for generations in [&[1, 1][..], &[2]] {
        fails(ErrorKind::PeerMisbehaved, "offered two processes of generation", async |impostor| {
            links(impostor, generations).await
        });
    }
    for generation in [3, 4] {
        let what = format!("offered a link to generation {generation} and gave 3");
        fails(ErrorKind::PeerMisbehaved, &what, async |impostor| links(impostor, &[generation]).await);
    }
}

/// A state batch with this descriptor, said to have two bytes.
async fn state(impostor: &Impostor, fd: OwnedFd) -> Peer {
    let mut peer = impostor.welcome().await;
    let item = json!({ "name": "hits", "schema": "text", "length": 2 });
    peer.say_with(&json!({ "type": "state", "batch": 1, "items": [item], "fds": 1 }), &[fd.as_fd()]).await;
    peer
}

#[test]
fn state_that_is_not_sealed() {
    fails(ErrorKind::PeerMisbehaved, "the state \"hits\" is not sealed", async |impostor| {
        let fd = memfd_create("x", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        std::fs::File::from(fd.try_clone().unwrap()).write_all(b"12").unwrap();
        state(impostor, fd).await
    });
}

#[test]
fn state_that_is_a_socket() {
    fails(ErrorKind::PeerMisbehaved, "the state \"hits\" is not a memfd", async |impostor| {
        state(impostor, impostor.listener.try_clone().unwrap().into()).await
    });
}
