//! An incumbent or a predecessor that lies about descriptors in ways that a type check alone does not find.
//!
//! Deliberately absent: the plain lies (`impostor.rs`).

use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use crate::common::lies::{fails, honest, offer, recovers};
use crate::common::peer::{Impostor, Peer, control, listeners, status};
use crate::common::{self, Folder, Log, alone, answer, ask, descriptors, eventually};
use hotupdate::{Builder, ErrorKind, Serving};
use hotupdate_proto::MigrationItem;
use hotupdate_proto::migration::bulk;
use serde_json::{Value, json};

fn directory() -> OwnedFd {
    std::fs::File::open("/").unwrap().into()
}

fn pipe() -> OwnedFd {
    std::io::pipe().unwrap().0.into()
}

// ---- the inventory
// -----------------------------------------------------------------------------------------------

#[test]
fn a_directory() {
    fails(ErrorKind::PeerMisbehaved, "\"http\" is not a usable socket", async |impostor| {
        offer(impostor, directory()).await
    });
}

#[test]
fn a_pipe() {
    fails(ErrorKind::PeerMisbehaved, "\"http\" is not a usable socket", async |impostor| {
        offer(impostor, pipe()).await
    });
}

#[test]
fn the_same_socket_under_two_names() {
    fails(ErrorKind::PeerMisbehaved, "the listeners \"a\" and \"b\" are the same socket", async |impostor| {
        let (mut peer, fd) = (impostor.welcome().await, impostor.listener.as_fd());
        peer.say_with(&listeners(1, &[impostor.item("a"), impostor.item("b")]), &[fd, fd]).await;
        peer
    });
}

/// `O_NONBLOCK` belongs to the open file description, so the other side can change it at any time: that must
/// not matter.
#[test]
fn a_listener_in_blocking_mode_blocks_nobody() {
    alone(async {
        let folder = Folder::new();
        let impostor = Impostor::at(&folder);
        impostor.listener.set_nonblocking(false).unwrap();
        let (joined, peer) = tokio::join!(folder.builder("v2").join(), honest(&impostor));
        let mut starting = joined.unwrap();
        let listener = starting.tcp("http", "127.0.0.1:0").await.unwrap();
        drop(peer);
        let _serving = starting.ready().await.unwrap();
        answer(listener, "v2");
        let address = impostor.listener.local_addr().unwrap();
        assert_eq!(ask(address).await, "v2");
        assert_eq!(status(&folder.control()).await["serving"]["state"], "serving");
    });
}

async fn owns(impostor: &Impostor, fds: [BorrowedFd<'_>; 2]) -> Peer {
    let mut peer = impostor.welcome().await;
    peer.say_with(&control(1), &fds).await;
    peer
}

#[test]
fn a_control_socket_in_blocking_mode() {
    fails(ErrorKind::PeerMisbehaved, "the control listener is not a non-blocking", async |impostor| {
        let [socket, lock] = impostor.control();
        rustix::io::ioctl_fionbio(socket, false).unwrap();
        owns(impostor, [socket, lock]).await
    });
}

#[test]
fn the_control_socket_twice() {
    fails(ErrorKind::PeerMisbehaved, "the lock is not a file", async |impostor| {
        let [socket, _] = impostor.control();
        owns(impostor, [socket, socket]).await
    });
}

#[test]
fn the_lock_twice() {
    fails(ErrorKind::PeerMisbehaved, "the control listener is not a", async |impostor| {
        let [_, lock] = impostor.control();
        owns(impostor, [lock, lock]).await
    });
}

#[test]
fn a_lock_that_is_a_directory() {
    fails(ErrorKind::PeerMisbehaved, "the lock is not a file", async |impostor| {
        let ([socket, _], directory) = (impostor.control(), directory());
        owns(impostor, [socket, directory.as_fd()]).await
    });
}

#[test]
fn state_that_is_a_directory_or_a_pipe() {
    for fd in [directory, pipe] {
        fails(ErrorKind::PeerMisbehaved, "the state \"hits\" is not a memfd", async |impostor| {
            let mut peer = impostor.welcome().await;
            let item = json!({ "name": "hits", "schema": "text", "length": 2 });
            let message = json!({ "type": "state", "batch": 1, "items": [item], "fds": 1 });
            peer.say_with(&message, &[fd().as_fd()]).await;
            peer
        });
    }
}

fn blocking_link() -> OwnedFd {
    UnixStream::pair().unwrap().0.into()
}

/// The link to an older generation is a descriptor too.
async fn link(impostor: &Impostor, fd: OwnedFd) -> Peer {
    let mut peer = impostor.welcome().await;
    let item = json!({
        "generation": 1, "process": common::peer::process("v0"), "probation": false,
        "connections": { "idle": 0, "active": 0, "upgraded": 0 },
    });
    let message = json!({ "type": "links", "batch": 1, "items": [item], "fds": 1 });
    peer.say_with(&message, &[fd.as_fd()]).await;
    peer.say_with(&control(2), &impostor.control()).await;
    peer
}

#[test]
fn a_link_that_is_a_file_or_blocks() {
    let cases: [(fn() -> OwnedFd, _); 2] =
        [(directory, "the link to generation 1"), (blocking_link, "the descriptor is in blocking mode")];
    for (fd, what) in cases {
        alone(async {
            let folder = Folder::new();
            let before = descriptors();
            let impostor = Impostor::at(&folder);
            let (joined, peer) = tokio::join!(folder.builder("v2").join(), link(&impostor, fd()));
            let error = joined.unwrap_err().to_string();
            assert!(error.contains(what) && !error.contains('\n'), "{error}");
            drop((peer, impostor));
            recovers(&folder, before).await;
        });
    }
}

// ---- connections that move
// ---------------------------------------------------------------------------------------

/// A successor of the impostor that serves and takes connections, and the link to it.
pub(crate) async fn serves(builder: Builder, impostor: &Impostor) -> (Serving, Peer) {
    let talk = async {
        let mut peer = impostor.accept().await;
        let joined = json!({
            "version": 1, "features": ["migrate"], "generation": 2, "lease_ms": 60_000, "handoff": "h1",
            "incumbent": common::peer::process("impostor"), "incumbent_generation": 1,
        });
        peer.say(&json!({ "parameters": joined })).await;
        peer.say_with(&listeners(1, &[impostor.item("http")]), &[impostor.listener.as_fd()]).await;
        peer.say_with(&control(2), &impostor.control()).await;
        peer
    };
    let (joined, mut peer) = tokio::join!(builder.join(), talk);
    let mut starting = joined.unwrap();
    let listener = starting.tcp("http", "127.0.0.1:0").await.unwrap();
    let release = async {
        peer.next_of("ready").await;
        peer.say(&json!({
            "type": "released", "connections": {"idle": 2, "active": 0, "upgraded": 0}, "stopped_at_ns": 1,
            "state": [], "links": [],
        }))
        .await;
    };
    starting.on_migrated("count", |connection, _: u8| async move { drop(connection) }).unwrap();
    let (serving, ()) = tokio::join!(starting.ready(), release);
    let serving = serving.unwrap();
    answer(listener, "v2");
    (serving, peer)
}

pub(crate) fn moving(id: u64, fd: BorrowedFd<'_>) -> Value {
    let cookie = rustix::net::sockopt::socket_cookie(fd).unwrap_or(1);
    json!({
        "row": {
            "id": id, "listener": "http", "peer": "", "local": "", "protocol": "raw", "age_ms": 0,
            "requests": 0, "state": "idle",
        },
        "kind": "count", "cookie": cookie, "state": "1",
    })
}

/// The same batch in the compact form.
fn bulk(items: &[Value]) -> Vec<u8> {
    let items: Vec<MigrationItem> =
        items.iter().map(|item| serde_json::from_value(item.clone()).unwrap()).collect();
    bulk::encode(1, &items).unwrap()
}

/// A predecessor moves these, as connections; the service serves on and says whose fault it was.
fn moves(fds: impl Fn(&mut Vec<TcpStream>) -> Vec<OwnedFd>, change: impl Fn(&mut Value), what: &str) {
    for in_bulk in [false, true] {
        move_them(&fds, &change, in_bulk, what);
    }
}

fn move_them(
    fds: impl FnOnce(&mut Vec<TcpStream>) -> Vec<OwnedFd>,
    change: impl FnOnce(&mut Value),
    in_bulk: bool,
    what: &str,
) {
    alone(async {
        let (folder, (log, _guard)) = (Folder::new(), Log::begin());
        let impostor = Impostor::at(&folder);
        let (_serving, mut peer) = serves(folder.builder("v2"), &impostor).await;
        let mut clients = Vec::new();
        let fds = fds(&mut clients);
        let before = descriptors();
        let mut items: Vec<_> = fds.iter().zip(1..).map(|(fd, id)| moving(id, fd.as_fd())).collect();
        change(&mut items[0]);
        let message = json!({ "type": "prepare", "batch": 1, "items": items, "fds": fds.len() });
        let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        match in_bulk {
            true => peer.send(&bulk(&items), &borrowed).await.unwrap(),
            false => peer.say_with(&message, &borrowed).await,
        }
        eventually("a line in the log", async || log.text().contains("a violation").then_some(())).await;
        log.says(&[
            "a violation of the protocol",
            "the other side misbehaved",
            what,
            "(v2) is still serving",
        ]);
        assert_eq!(ask(impostor.listener.local_addr().unwrap()).await, "v2");
        assert_eq!(status(&folder.control()).await["serving"]["generation"], 2);
        common::nothing_leaked(before).await;
    });
}

/// What a predecessor says that is not of the protocol is quoted on one line of the log.
#[test]
fn a_type_of_message_that_forges_a_line() {
    const FORGED: &str = "v2\r\n2026-01-01T00:00:00Z  INFO all is well\u{1b}[2J";
    alone(async {
        let (folder, (log, _guard)) = (Folder::new(), Log::begin());
        let impostor = Impostor::at(&folder);
        let (_serving, mut peer) = serves(folder.builder("v2"), &impostor).await;
        peer.say(&json!({ "type": FORGED })).await;
        eventually("a line in the log", async || log.text().contains("a violation").then_some(())).await;
        log.says(&["a violation of the protocol", "all is well", "(v2) is still serving"]);
        let text = log.text();
        assert!(!text.contains(|c: char| c != '\n' && hotupdate_proto::text::is_unfit(c)), "{text:?}");
        assert!(!text.lines().any(|line| line.starts_with("2026-01-01")), "a line was forged:\n{text}");
    });
}

pub(crate) fn connection(clients: &mut Vec<TcpStream>) -> OwnedFd {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    clients.push(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
    let (accepted, _) = listener.accept().unwrap();
    accepted.set_nonblocking(true).unwrap();
    accepted.into()
}

#[test]
fn what_moves_is_no_connection() {
    moves(|_| vec![directory()], |_| {}, "whose descriptor is not a socket");
    moves(|_| vec![pipe()], |_| {}, "whose descriptor is not a socket");
    let listener = || TcpListener::bind("127.0.0.1:0").unwrap();
    moves(|_| vec![listener().into()], |_| {}, "whose descriptor is not a connection");
}

#[test]
fn what_moves_blocks() {
    let blocking = |clients: &mut Vec<TcpStream>| {
        let accepted = connection(clients);
        rustix::io::ioctl_fionbio(&accepted, false).unwrap();
        vec![accepted]
    };
    moves(blocking, |_| {}, "whose descriptor is in blocking mode");
}

#[test]
fn what_moves_is_another_connection() {
    let change = |item: &mut Value| item["cookie"] = json!(7);
    moves(|clients| vec![connection(clients)], change, "whose descriptor is another socket");
}

/// The family is as the address says: with a wrong one it is read and closed like any other.
#[test]
fn what_moves_is_of_another_family() {
    takes(|frame| frame, &[]);
}

/// What a later version says of its connections is not understood, and they stay where they are.
#[test]
fn what_moves_is_described_in_an_unknown_form() {
    let later = |mut frame: Vec<u8>| {
        frame[5] = bulk::FORM + 1;
        frame
    };
    takes(later, &[1]);
}

/// A predecessor moves a connection in this form, and is told which stay with it.
fn takes(change: impl FnOnce(Vec<u8>) -> Vec<u8>, refused: &[u64]) {
    alone(async {
        let folder = Folder::new();
        let impostor = Impostor::at(&folder);
        let (serving, mut peer) = serves(folder.builder("v2"), &impostor).await;
        let mut clients = Vec::new();
        let fd = connection(&mut clients);
        let frame = change(bulk(&[moving(1, fd.as_fd())]));
        peer.send(&frame, &[fd.as_fd()]).await.unwrap();
        assert_eq!(
            peer.next_of("prepared").await,
            json!({ "type": "prepared", "batch": 1, "refused": refused })
        );
        peer.say(&json!({ "type": "commit", "batch": 1 })).await;
        let taken = 1 - u64::try_from(refused.len()).unwrap();
        eventually("the commit", async || (serving.connections().adopted() == taken).then_some(())).await;
        assert_eq!(ask(impostor.listener.local_addr().unwrap()).await, "v2");
        drop(fd);
        // Its new owner drops it, or else no process has it any more: either way that is the end.
        let mut client = clients.pop().unwrap();
        client.set_read_timeout(Some(common::SOON)).unwrap();
        assert_eq!(std::io::Read::read(&mut client, &mut [0]).unwrap(), 0);
    });
}

#[test]
fn what_moves_moves_twice() {
    let twice = |clients: &mut Vec<TcpStream>| {
        let accepted = connection(clients);
        vec![accepted.try_clone().unwrap(), accepted]
    };
    moves(twice, |_| {}, "moved connection 2 twice");
}
