//! What becomes of listeners when the next version wants others: by name, and no client is refused meanwhile.
//!
//! Deliberately absent: sockets without connections (`datagrams.rs`), and listeners from systemd
//! (`integration-tests`).

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use crate::common::peer::status;
use crate::common::{
    self, Folder, Log, SOON, answer, ask, ask_on, descriptors, eventually, refused, replace_by,
};
use hotupdate::{ErrorKind, Serving, Starting};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::time::timeout;

/// Claims a TCP listener that answers with this name once the process serves; where it is.
async fn tcp(starting: &mut Starting, name: &str, at: impl ToString, says: &'static str) -> SocketAddr {
    let listener = starting.tcp(name, at.to_string()).await.unwrap();
    let address = listener.local_addr().ip().unwrap();
    answer(listener, says);
    address
}

/// The status of the service has this one warning.
async fn warns(folder: &Folder, kind: &str, words: &[&str]) {
    let warnings = status(&folder.control()).await["warnings"].take();
    let text = warnings[0]["text"].as_str().unwrap_or_default();
    let said = words.iter().all(|word| text.contains(word));
    assert!(warnings.as_array().unwrap().len() == 1 && warnings[0]["kind"] == kind && said, "{warnings}");
}

const ANY: &str = "127.0.0.1:0";

/// The successor serves, and the incumbent has let go.
async fn ready(starting: Starting, incumbent: &Serving) -> Serving {
    let serving = starting.ready().await.unwrap();
    timeout(SOON, incumbent.retired()).await.expect("the incumbent lets go");
    serving
}

#[tokio::test]
async fn one_is_added() {
    let (folder, (log, _guard)) = (Folder::new(), Log::begin());
    let (first, echo) = folder.serve("v1").await;
    let mut second = folder.join("v2").await;
    assert_eq!(tcp(&mut second, "echo", echo, "v2").await, echo);
    let admin = tcp(&mut second, "admin", ANY, "a2").await;
    let _second = ready(second, &first).await;
    assert_eq!((ask(echo).await.as_str(), ask(admin).await.as_str()), ("v2", "a2"));
    log.says(&["the incumbent has no such listener; it is bound afresh", "admin"]);
}

#[tokio::test]
async fn one_is_removed() {
    let (folder, (log, _guard)) = (Folder::new(), Log::begin());
    let mut first = folder.join("v1").await;
    let echo = tcp(&mut first, "echo", ANY, "v1").await;
    let admin = tcp(&mut first, "admin", ANY, "a1").await;
    let first = first.ready().await.unwrap();
    assert_eq!(ask(admin).await, "a1");

    let mut second = folder.join("v2").await;
    tcp(&mut second, "echo", echo, "v2").await;
    let _second = ready(second, &first).await;
    refused(admin).await;
    assert_eq!(ask(echo).await, "v2");
    log.says(&["this version does not claim the listener", "admin", &admin.to_string()]);
    warns(&folder, "unclaimed_listener", &["\"admin\"", &admin.to_string(), "hotctl rollback"]).await;
}

#[tokio::test]
async fn one_is_renamed() {
    let (folder, (log, _guard)) = (Folder::new(), Log::begin());
    let (first, echo) = folder.serve("v1").await;
    let mut second = folder.join("v2").await;
    assert_eq!(tcp(&mut second, "web", echo, "v2").await, echo);
    let _second = ready(second, &first).await;
    assert_eq!(ask(echo).await, "v2");
    log.says(&["a listener has a new name", "web", "echo"]);
    assert!(!log.text().contains("does not claim the listener"), "{}", log.text());
}

#[tokio::test]
async fn one_moves_to_another_address() {
    let (folder, (log, _guard)) = (Folder::new(), Log::begin());
    let (first, old) = folder.serve("v1").await;
    let mut second = folder.join("v2").await;
    let new = tcp(&mut second, "echo", "127.0.0.2:0", "v2").await;
    assert_eq!(ask(old).await, "v1", "the old address is served until the handoff");
    let _second = ready(second, &first).await;
    assert_eq!(ask(new).await, "v2");
    refused(old).await;
    log.says(&["a listener has another address", &old.to_string(), "127.0.0.2"]);
    warns(&folder, "moved_listener", &["\"echo\"", &old.to_string(), "127.0.0.2"]).await;
}

#[tokio::test]
async fn two_swap_their_addresses() {
    let folder = Folder::new();
    let mut first = folder.join("v1").await;
    let one = tcp(&mut first, "a", ANY, "a1").await;
    let two = tcp(&mut first, "b", ANY, "b1").await;
    let first = first.ready().await.unwrap();
    assert_eq!((ask(one).await.as_str(), ask(two).await.as_str()), ("a1", "b1"));

    let mut second = folder.join("v2").await;
    assert_eq!(tcp(&mut second, "a", two, "a2").await, two);
    assert_eq!(tcp(&mut second, "b", one, "b2").await, one);
    let _second = ready(second, &first).await;
    assert_eq!((ask(one).await.as_str(), ask(two).await.as_str()), ("b2", "a2"));
}

#[tokio::test]
async fn the_same_name_becomes_another_kind() {
    let folder = Folder::new();
    let (first, echo) = folder.serve("v1").await;
    let mut second = folder.join("v2").await;
    let udp = second.udp("echo", echo).await.unwrap();
    assert_eq!(udp.local_addr(), echo);
    let _second = ready(second, &first).await;
    refused(echo).await;
    let client = std::net::UdpSocket::bind(ANY).unwrap();
    client.send_to(b"hello", echo).unwrap();
    let mut buffer = [0; 8];
    let (length, _) = timeout(SOON, udp.recv_from(&mut buffer)).await.unwrap().unwrap().unwrap();
    assert_eq!(&buffer[..length], b"hello");
}

/// Who asks for any port gets that of his own name, or a new one, and never that of another listener.
#[tokio::test]
async fn port_0_does_not_take_another_listener() {
    let folder = Folder::new();
    let (first, echo) = folder.serve("v1").await;
    let mut second = folder.join("v2").await;
    let admin = tcp(&mut second, "admin", ANY, "a2").await;
    assert_ne!(admin, echo, "clients of `echo` would talk to `admin`");
    assert_eq!(tcp(&mut second, "echo", ANY, "v2").await, echo);
    let _second = ready(second, &first).await;
    assert_eq!((ask(echo).await.as_str(), ask(admin).await.as_str()), ("v2", "a2"));
}

#[tokio::test]
async fn ipv6() {
    let folder = Folder::new();
    let mut first = folder.join("v1").await;
    let address = tcp(&mut first, "echo", "[::1]:0", "v1").await;
    let first = first.ready().await.unwrap();
    assert_eq!(ask(address).await, "v1");
    let mut second = folder.join("v2").await;
    assert_eq!(tcp(&mut second, "echo", address, "v2").await, address);
    let _second = ready(second, &first).await;
    assert_eq!(ask(address).await, "v2");
}

async fn unix(starting: &mut Starting, path: &std::path::Path, says: &'static str) {
    answer(starting.unix("app", path).await.unwrap(), says);
}

async fn ask_unix(path: &std::path::Path) -> String {
    ask_on(&mut UnixStream::connect(path).await.unwrap()).await.unwrap()
}

#[tokio::test]
async fn a_unix_listener_stays_and_moves() {
    let folder = Folder::new();
    let (path, elsewhere) = (folder.file("app.sock"), folder.file("elsewhere.sock"));
    let mut first = folder.join("v1").await;
    unix(&mut first, &path, "v1").await;
    let first = first.ready().await.unwrap();
    assert_eq!(ask_unix(&path).await, "v1");

    let mut second = folder.join("v2").await;
    unix(&mut second, &path, "v2").await;
    let second = ready(second, &first).await;
    assert_eq!(ask_unix(&path).await, "v2");

    let mut third = folder.join("v3").await;
    unix(&mut third, &elsewhere, "v3").await;
    let _third = ready(third, &second).await;
    assert_eq!(ask_unix(&elsewhere).await, "v3");
    eventually("the old path is closed", async || UnixStream::connect(&path).await.err()).await;
}

#[tokio::test]
async fn any_descriptor_by_name() {
    let folder = Folder::new();
    let file = |text: &str| -> OwnedFd {
        std::fs::write(folder.file(text), text).unwrap();
        std::fs::File::open(folder.file(text)).unwrap().into()
    };
    let mut first = folder.join("v1").await;
    let ours = first.descriptor("book", || Ok(file("one"))).unwrap();
    let _first = first.ready().await.unwrap();
    let mut second = folder.join("v2").await;
    let inherited = second.descriptor("book", || panic!("it is offered")).unwrap();
    let identity = |fd: &OwnedFd| rustix::fs::fstat(fd).map(|stat| (stat.st_dev, stat.st_ino)).unwrap();
    assert_eq!(identity(&inherited), identity(&ours));
    let made = second.descriptor("other", || Ok(file("two"))).unwrap();
    assert_ne!(identity(&made), identity(&ours));
    let error = second.descriptor("book", || panic!("not again")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ApiMisuse, "{error}");
    second.ready().await.unwrap();
}

#[tokio::test]
async fn names_are_keys() {
    let folder = Folder::new();
    let mut starting = folder.join("v1").await;
    let _listener = starting.tcp("echo", ANY).await.unwrap();
    for name in ["echo", "", &"x".repeat(256)] {
        let error = starting.tcp(name, ANY).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ApiMisuse, "{error}");
        let error = starting.udp(name, ANY).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ApiMisuse, "{error}");
    }
}

#[tokio::test]
async fn an_address_that_a_stranger_has_is_an_error_and_the_incumbent_serves_on() {
    let folder = Folder::new();
    let (first, echo) = folder.serve("v1").await;
    let stranger = TcpListener::bind(ANY).await.unwrap();
    let taken = stranger.local_addr().unwrap();
    let mut second = folder.join("v2").await;
    let error = second.tcp("admin", taken).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Local, "{error}");
    let text = error.to_string();
    assert!(
        text.contains("\"admin\"") && text.contains(&taken.to_string()) && text.contains("in use"),
        "{text}"
    );
    drop(second);
    assert_eq!(ask(echo).await, "v1");
    replace_by(&folder, &first, "v3").await;
}

/// A listener that the application holds although the start failed must not keep clients waiting.
#[tokio::test]
async fn listeners_of_a_start_that_was_given_up_are_closed() {
    let folder = Folder::new();
    let (first, _) = folder.serve("v1").await;
    let mut second = folder.join("v2").await;
    let mut listener = second.tcp("admin", ANY).await.unwrap();
    let address = listener.local_addr().ip().unwrap();
    drop(second);
    refused(address).await;
    assert!(timeout(SOON, listener.accept()).await.unwrap().is_none());
    replace_by(&folder, &first, "v3").await;
}

/// Connects, asks and hangs up again and again, until it is told to stop; how often.
async fn client(address: SocketAddr, mut stop: tokio::sync::watch::Receiver<bool>) -> io::Result<u32> {
    let mut asked = 0;
    while !*stop.borrow_and_update() {
        ask_on(&mut TcpStream::connect(address).await?).await?;
        asked += 1;
    }
    Ok(asked)
}

#[tokio::test]
async fn clients_that_connect_all_the_time_are_never_refused() {
    let folder = Folder::new();
    let (mut serving, address) = folder.serve("v1").await;
    let stop = tokio::sync::watch::Sender::new(false);
    let clients: Vec<_> = (0..8).map(|_| tokio::spawn(client(address, stop.subscribe()))).collect();
    for _ in 0..10 {
        (serving, _) = replace_by(&folder, &serving, "vn").await;
    }
    stop.send_replace(true);
    for client in clients {
        let asked = client.await.unwrap().expect("no client is refused, reset or forgotten");
        assert!(asked > 10, "asked only {asked} times");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn clients_on_other_threads_are_never_refused() {
    let folder = Folder::new();
    let (mut serving, address) = folder.serve("v1").await;
    let stop = tokio::sync::watch::Sender::new(false);
    let clients: Vec<_> = (0..8).map(|_| tokio::spawn(client(address, stop.subscribe()))).collect();
    for _ in 0..30 {
        (serving, _) = replace_by(&folder, &serving, "vn").await;
    }
    stop.send_replace(true);
    for client in clients {
        client.await.unwrap().expect("no client is refused, reset or forgotten");
    }
}

/// Six descriptors a listener: both processes, and a batch on its way.
fn allow_many_descriptors() {
    let hard = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: hard, maximum: hard }).unwrap();
    assert!(hard.is_none_or(|hard| hard >= 20_000), "this test needs a hard limit of 20,000 open files");
}

#[tokio::test]
async fn three_thousand_listeners_travel() {
    allow_many_descriptors();
    let folder = Folder::new();
    let before = descriptors();
    let mut first = folder.join("v1").await;
    let mut addresses = Vec::new();
    for n in 0..3000 {
        addresses.push(tcp(&mut first, &format!("l{n}"), ANY, "v1").await);
    }
    let first = first.ready().await.unwrap();
    let mut second = folder.join("v2").await;
    for (n, address) in addresses.iter().enumerate() {
        assert_eq!(tcp(&mut second, &format!("l{n}"), ANY, "v2").await, *address);
    }
    let _second = ready(second, &first).await;
    for address in addresses.iter().step_by(300) {
        assert_eq!(ask(*address).await, "v2");
    }
    // Only the second's are left. Other tests of this program have some of their own.
    common::nothing_leaked(before + 3200).await;
}

/// Most probably it is another service, which was started with this control socket by mistake.
#[tokio::test]
async fn a_version_that_claims_none_is_refused_unless_it_asks_for_it() {
    let folder = Folder::new();
    let (first, echo) = folder.serve("v1").await;
    let mut other = folder.join("other").await;
    tcp(&mut other, "web", ANY, "other").await;
    let error = other.ready().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    let said = error.to_string();
    for words in ["claims none of the listeners", "(echo)", "control socket of its own", "(v1) serves on"] {
        assert!(said.contains(words), "{said}");
    }
    let failure = eventually_failed(&folder).await;
    assert!(failure.contains("claims none of the listeners"), "{failure}");
    assert_eq!(ask(echo).await, "v1", "the incumbent serves on");

    // Nothing at all is no more than something else.
    let error = folder.join("nothing").await.ready().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");

    let asks = folder.builder("asks").abandon_listeners(true).join().await.unwrap();
    let _asks = ready(asks, &first).await;
    refused(echo).await;
}

async fn eventually_failed(folder: &Folder) -> String {
    for _ in 0..100 {
        let failure = status(&folder.control()).await["last_failure"].take();
        if let Some(reason) = failure["reason"].as_str() {
            return reason.to_owned();
        }
        tokio::task::yield_now().await;
    }
    panic!("no attempt failed");
}

/// `0.0.0.0` and `127.0.0.1` with one port are two names, and the kernel does not give away one while a
/// socket listens on the other.
#[tokio::test]
async fn an_address_that_the_predecessor_holds() {
    for (before, after) in [
        ("127.0.0.1", "0.0.0.0"),
        ("0.0.0.0", "127.0.0.1"),
        ("127.0.0.1", "[::]"),
        ("[::]", "0.0.0.0"),
        ("[::]", "127.0.0.1"),
        ("[::1]", "[::]"),
    ] {
        let folder = Folder::new();
        let mut first = folder.join("v1").await;
        // A machine without IPv6 cannot try it.
        let Ok(listener) = first.tcp("echo", format!("{before}:0")).await else { continue };
        let (port, address) = (listener.local_addr().ip().unwrap().port(), listener.local_addr().to_string());
        answer(listener, "v1");
        let _first = first.ready().await.unwrap();

        let mut second = folder.join("v2").await;
        let wanted = format!("{after}:{port}");
        let error = second.tcp("echo", wanted.clone()).await.unwrap_err().to_string();
        for words in [&*wanted, &*address, "(v1)", "hotctl stop --wait", "\"echo\""] {
            assert!(error.contains(words), "{before} to {after}: {error}");
        }
        // It ends without another word, and operators know why.
        drop(second);
        let failure = eventually_failed(&folder).await;
        assert!(failure.contains(&wanted) && failure.contains(&address), "{failure}");
    }
}

#[tokio::test]
async fn an_address_of_ipv4_that_is_written_as_one_of_ipv6() {
    let folder = Folder::new();
    let mut first = folder.join("v1").await;
    let echo = tcp(&mut first, "echo", ANY, "v1").await;
    let first = first.ready().await.unwrap();
    let mut second = folder.join("v2").await;
    assert_eq!(tcp(&mut second, "echo", format!("[::ffff:127.0.0.1]:{}", echo.port()), "v2").await, echo);
    let _second = ready(second, &first).await;
    assert_eq!(ask(echo).await, "v2");
}
