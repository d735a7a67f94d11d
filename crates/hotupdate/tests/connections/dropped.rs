//! Listeners that the application drops: clients are refused instead of waiting for ever, the next version is
//! not offered them, and the log says so; but not at the end of a process, which drops everything.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hotupdate::{Listener, Serving, Starting};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::common::peer::{Peer, call, status};
use crate::common::{Folder, Log, SOON, answer, ask, eventually, refused, replace_by};

const ANY: &str = "127.0.0.1:0";

const LONG: Duration = Duration::from_secs(60);

/// What the log says of it, whenever it happens.
const DROPPED: &str = "the application dropped this listener";

/// Claims the listener `echo`, which answers, and `admin`, which the test drops.
async fn claim(starting: &mut Starting, says: &'static str) -> (SocketAddr, Listener) {
    let echo = starting.tcp("echo", ANY).await.unwrap();
    let address = echo.local_addr().ip().unwrap();
    answer(echo, says);
    (address, starting.tcp("admin", ANY).await.unwrap())
}

async fn serve(folder: &Folder, says: &'static str) -> (Serving, SocketAddr, Listener) {
    let mut starting = folder.join(says).await;
    let (echo, admin) = claim(&mut starting, says).await;
    (starting.ready().await.unwrap(), echo, admin)
}

async fn listed(folder: &Folder) -> Vec<String> {
    let status = status(&folder.control()).await;
    let listeners = status["listeners"].as_array().unwrap().iter();
    listeners.map(|listener| listener["name"].as_str().unwrap().to_owned()).collect()
}

/// A successor binds it afresh, and it is served again.
async fn is_not_offered(folder: &Folder, admin: SocketAddr, log: &Log) {
    let mut next = folder.join("vn").await;
    answer(next.tcp("echo", ANY).await.unwrap(), "vn");
    answer(next.tcp("admin", admin).await.unwrap(), "vn");
    let _next = timeout(SOON, next.ready()).await.expect("a handoff ends").unwrap();
    assert_eq!(ask(admin).await, "vn");
    log.says(&["the incumbent has no such listener; it is bound afresh", "admin"]);
}

#[tokio::test]
async fn while_it_serves() {
    let (folder, (log, _guard)) = (Folder::new(), Log::begin());
    let (_first, echo, admin) = serve(&folder, "v1").await;
    assert_eq!(listed(&folder).await, ["echo", "admin"]);
    let address = admin.local_addr().ip().unwrap();
    drop(admin);
    refused(address).await;
    assert_eq!(listed(&folder).await, ["echo"]);
    log.says(&[DROPPED, "its clients are refused", "admin", &address.to_string()]);
    assert_eq!(ask(echo).await, "v1");
    is_not_offered(&folder, address, &log).await;
}

#[tokio::test]
async fn datagram_sockets() {
    let (folder, (log, _guard)) = (Folder::new(), Log::begin());
    let mut starting = folder.join("v1").await;
    let udp = starting.udp("dns", ANY).await.unwrap();
    let path = folder.file("log.sock");
    let unix = starting.unix_datagram("log", &path).await.unwrap();
    let _first = starting.ready().await.unwrap();
    assert_eq!(listed(&folder).await, ["dns", "log"]);
    let address = udp.local_addr();
    drop((udp, unix));
    std::net::UdpSocket::bind(address).expect("the address is free");
    let client = std::os::unix::net::UnixDatagram::unbound().unwrap();
    assert_eq!(client.send_to(b"?", &path).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    assert!(listed(&folder).await.is_empty());
    log.says(&[DROPPED, "dns"]);
    log.says(&[DROPPED, "log.sock"]);
}

#[tokio::test]
async fn before_ready() {
    let (folder, (log, _guard)) = (Folder::new(), Log::begin());
    let mut starting = folder.join("v1").await;
    let (echo, admin) = claim(&mut starting, "v1").await;
    let address = admin.local_addr().ip().unwrap();
    drop(admin);
    refused(address).await;
    let _first = starting.ready().await.unwrap();
    log.says(&[DROPPED, "before it was ready", "admin"]);
    assert_eq!(listed(&folder).await, ["echo"]);
    assert_eq!(ask(echo).await, "v1");
}

/// The successor does not want it after all: it closes with the incumbent.
#[tokio::test]
async fn before_a_successor_is_ready() {
    let (folder, (log, _guard)) = (Folder::new(), Log::begin());
    let (first, echo, admin) = serve(&folder, "v1").await;
    let address = admin.local_addr().ip().unwrap();
    let mut second = folder.join("v2").await;
    let (_, dropped) = claim(&mut second, "v2").await;
    assert_eq!(dropped.local_addr(), admin.local_addr());
    drop(dropped);
    assert!(std::net::TcpStream::connect(address).is_ok(), "the incumbent has it as long as it serves");
    let _second = second.ready().await.unwrap();
    log.says(&[DROPPED, "before it was ready", "admin"]);
    assert_eq!(ask(echo).await, "v2");
    assert_eq!(listed(&folder).await, ["echo"]);
    timeout(SOON, first.retired()).await.expect("the incumbent lets go");
    refused(address).await;
}

/// A successor that was offered it already has it, and keeps it if it serves.
#[tokio::test]
async fn in_a_handoff() {
    let (folder, (log, _guard)) = (Folder::new(), Log::begin());
    let (_first, _, admin) = serve(&folder, "v1").await;
    let address = admin.local_addr().ip().unwrap();
    let gives_up = folder.join("v2").await;
    drop(admin);
    eventually("it is told", async || log.text().contains(DROPPED).then_some(())).await;
    assert!(std::net::TcpStream::connect(address).is_ok(), "the successor holds it");
    drop(gives_up);
    refused(address).await;
    assert_eq!(listed(&folder).await, ["echo"]);
    is_not_offered(&folder, address, &log).await;
}

#[tokio::test]
async fn in_a_handoff_that_succeeds() {
    let folder = Folder::new();
    let (first, echo, admin) = serve(&folder, "v1").await;
    let address = admin.local_addr().ip().unwrap();
    let mut second = folder.join("v2").await;
    drop(admin);
    let (_, inherited) = claim(&mut second, "v2").await;
    answer(inherited, "v2");
    let _second = second.ready().await.unwrap();
    timeout(SOON, first.retired()).await.expect("the incumbent lets go");
    assert_eq!((ask(echo).await.as_str(), ask(address).await.as_str()), ("v2", "v2"));
}

/// Drops the listener while it is parked: state is exported the second time when nothing is accepted any
/// more.
async fn drops_when_parked(folder: &Folder) -> (Serving, SocketAddr, SocketAddr) {
    let mut starting = folder.join("v1").await;
    let (echo, admin) = claim(&mut starting, "v1").await;
    let address = admin.local_addr().ip().unwrap();
    let (admin, calls) = (Mutex::new(Some(admin)), Mutex::new(0));
    let export = move || {
        let mut calls = calls.lock().unwrap();
        *calls += 1;
        if *calls == 2 {
            drop(admin.lock().unwrap().take());
        }
        Vec::new()
    };
    starting.export("gap", "", export).unwrap();
    (starting.ready().await.unwrap(), echo, address)
}

#[tokio::test]
async fn while_it_is_parked_and_the_next_version_serves() {
    let (folder, (log, _guard)) = (Folder::new(), Log::begin());
    let (_first, echo, address) = drops_when_parked(&folder).await;
    let mut second = folder.join("v2").await;
    let (_, admin) = claim(&mut second, "v2").await;
    answer(admin, "v2");
    let _second = second.ready().await.unwrap();
    assert_eq!((ask(echo).await.as_str(), ask(address).await.as_str()), ("v2", "v2"));
    eventually("it is told", async || log.text().contains(DROPPED).then_some(())).await;
}

#[tokio::test]
async fn while_it_is_parked_and_the_handoff_fails() {
    let (folder, (log, _guard)) = (Folder::new(), Log::begin());
    let (_first, echo, address) = drops_when_parked(&folder).await;
    let mut peer = Peer::successor(&folder.control()).await;
    peer.receive_inventory().await;
    let ready =
        json!({ "type": "ready", "adopted": ["echo"], "bound": [], "unclaimed": [], "release": "now" });
    peer.say(&ready).await;
    peer.next_of("released").await;
    drop(peer);
    refused(address).await;
    assert_eq!(ask(echo).await, "v1", "it serves again what it still has");
    assert_eq!(listed(&folder).await, ["echo"]);
    log.says(&[DROPPED, "admin"]);
}

#[tokio::test]
async fn in_the_probation_of_the_next_version() {
    let (folder, (log, _guard)) = (Folder::new(), Log::begin());
    let mut starting = folder.builder("v1").probation(LONG).join().await.unwrap();
    let (echo, admin) = claim(&mut starting, "v1").await;
    let _first = starting.ready().await.unwrap();
    let address = admin.local_addr().ip().unwrap();
    let mut second = folder.join("v2").await;
    let (_, inherited) = claim(&mut second, "v2").await;
    answer(inherited, "v2");
    let second = second.ready().await.unwrap();
    drop(admin);
    eventually("it is told", async || log.text().contains(DROPPED).then_some(())).await;
    log.says(&[DROPPED, "should this process have to serve again", "admin"]);
    assert_eq!(ask(address).await, "v2");
    assert_eq!(call(&folder.control(), "io.hotupdate.Rollback", json!({})).await["error"], Value::Null);
    assert_eq!(ask(echo).await, "v1");
    timeout(SOON, second.retired()).await.expect("the second lets go");
    refused(address).await;
    assert_eq!(listed(&folder).await, ["echo"]);
}

/// It ends like every process, with nothing to say about it.
#[tokio::test]
async fn while_it_drains() {
    let (folder, (log, _guard)) = (Folder::new(), Log::begin());
    let mut starting = folder.join("v1").await;
    let (echo, admin) = claim(&mut starting, "v1").await;
    let first = starting.ready().await.unwrap();
    let client = tokio::net::TcpStream::connect(echo).await.unwrap();
    eventually("it is accepted", async || (first.connections().summary().open() == 1).then_some(())).await;
    let (_second, _) = folder.serve("v2").await;
    timeout(SOON, first.retired()).await.expect("it lets go");
    drop(admin);
    drop(client);
    timeout(SOON, first.drained()).await.expect("it drains");
    assert!(!log.text().contains(DROPPED), "{}", log.text());
}

/// As `axum::serve` does when its graceful shutdown begins.
#[tokio::test]
async fn when_another_version_has_taken_over() {
    let (folder, (log, _guard)) = (Folder::new(), Log::begin());
    let mut starting = folder.join("v1").await;
    let (_, admin) = claim(&mut starting, "v1").await;
    let first = starting.ready().await.unwrap();
    let ends = Arc::new(tokio::sync::Notify::new());
    tokio::spawn({
        let (retired, ends) = (first.retired(), ends.clone());
        async move {
            retired.await;
            drop(admin);
            ends.notify_one();
        }
    });
    replace_by(&folder, &first, "v2").await;
    timeout(SOON, ends.notified()).await.expect("it ends");
    assert!(!log.text().contains(DROPPED), "{}", log.text());
}
