//! Sockets without connections: what is sent to them is received by one process or the other, also while
//! no process receives.
//!
//! Deliberately absent: protocols on top; those have to move their own state.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};

use crate::common::{self, Folder, SOON, ask_on, eventually};
use hotupdate::{Starting, UdpSocket, UnixDatagramSocket};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Numbers that were received.
type Numbers = Arc<Mutex<BTreeSet<u32>>>;

fn note(numbers: &Numbers, bytes: &[u8]) {
    let number = u32::from_be_bytes(bytes.try_into().unwrap());
    assert!(numbers.lock().unwrap().insert(number), "{number} came twice");
}

async fn all(numbers: &[&Numbers], up_to: u32) {
    let count = || numbers.iter().map(|numbers| numbers.lock().unwrap().len()).sum::<usize>();
    eventually(&format!("{up_to} datagrams"), async || (count() == up_to as usize).then_some(())).await;
}

fn receive_udp(socket: UdpSocket) -> Numbers {
    let numbers = Numbers::default();
    let received = numbers.clone();
    tokio::spawn(async move {
        let mut buffer = [0; 64];
        while let Some(datagram) = socket.recv_from(&mut buffer).await {
            note(&received, &buffer[..datagram.unwrap().0]);
        }
    });
    numbers
}

fn receive_unix(socket: UnixDatagramSocket) -> Numbers {
    let numbers = Numbers::default();
    let received = numbers.clone();
    tokio::spawn(async move {
        let mut buffer = [0; 64];
        while let Some(datagram) = socket.recv_from(&mut buffer).await {
            note(&received, &buffer[..datagram.unwrap().0]);
        }
    });
    numbers
}

/// Does something in each handoff while no process accepts or receives: that is when state is exported the
/// second time.
fn in_the_gap(starting: &mut Starting, act: impl Fn() + Send + Sync + 'static) {
    let calls = std::sync::atomic::AtomicU32::new(0);
    let export = move || {
        if calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 1 {
            act();
        }
        Vec::new()
    };
    starting.export("gap", "", export).unwrap();
}

#[tokio::test]
async fn udp() {
    let folder = Folder::new();
    let mut first = folder.join("v1").await;
    let socket = first.udp("dns", "127.0.0.1:0").await.unwrap();
    let address = socket.local_addr();
    let client = Arc::new(std::net::UdpSocket::bind("127.0.0.1:0").unwrap());
    let sender = client.clone();
    let send = move |numbers: std::ops::Range<u32>| {
        for number in numbers {
            sender.send_to(&number.to_be_bytes(), address).unwrap();
        }
    };
    let late = send.clone();
    in_the_gap(&mut first, move || late(100..200));
    let by_first = receive_udp(socket);
    let first = first.ready().await.unwrap();
    send(0..100);
    all(&[&by_first], 100).await;

    let mut second = folder.join("v2").await;
    let socket = second.udp("dns", address).await.unwrap();
    assert_eq!(socket.local_addr(), address);
    let by_second = receive_udp(socket);
    let _second = second.ready().await.unwrap();
    send(200..250);
    all(&[&by_first, &by_second], 250).await;
    assert_eq!(by_second.lock().unwrap().len(), 150, "the first received after its release");
    timeout(SOON, first.drained()).await.unwrap();
}

#[tokio::test]
async fn an_answer_can_be_sent() {
    let folder = Folder::new();
    let mut starting = folder.join("v1").await;
    let socket = starting.udp("dns", "127.0.0.1:0").await.unwrap();
    let _serving = starting.ready().await.unwrap();
    let client = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    client.send_to(b"?", socket.local_addr()).await.unwrap();
    let (_, from) = socket.recv_from(&mut [0; 8]).await.unwrap().unwrap();
    socket.send_to(b"!", from).await.unwrap();
    let mut buffer = [0; 8];
    assert_eq!(timeout(SOON, client.recv(&mut buffer)).await.unwrap().unwrap(), 1);
}

#[tokio::test]
async fn no_answer_can_be_sent_when_another_process_serves() {
    let folder = Folder::new();
    let mut starting = folder.join("v1").await;
    let socket = starting.udp("dns", "127.0.0.1:0").await.unwrap();
    let first = starting.ready().await.unwrap();
    let mut second = folder.join("v2").await;
    let _dns = second.udp("dns", "127.0.0.1:0").await.unwrap();
    let _second = second.ready().await.unwrap();
    tokio::time::timeout(SOON, first.drained()).await.expect("the old one ends");
    let error = socket.send_to(b"!", socket.local_addr()).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::NotConnected, "{error}");
    assert!(socket.recv_from(&mut [0; 8]).await.is_none());
}

/// A client that asked the old version just before the new one took over.
#[tokio::test]
async fn answers_can_be_sent_as_long_as_this_process_may_serve_again() {
    let folder = Folder::new();
    let mut starting = folder.builder("v1").probation(SOON).join().await.unwrap();
    let udp = starting.udp("dns", "127.0.0.1:0").await.unwrap();
    let unix = starting.unix_datagram("log", folder.file("log.sock")).await.unwrap();
    let first = starting.ready().await.unwrap();
    let client = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let path = folder.file("client.sock");
    let unix_client = tokio::net::UnixDatagram::bind(&path).unwrap();
    let mut buffer = [0; 8];

    client.send_to(b"?", udp.local_addr()).await.unwrap();
    assert_eq!(udp.peek_from(&mut buffer).await.unwrap().unwrap(), (1, client.local_addr().unwrap()));
    let (_, from) = udp.recv_from(&mut buffer).await.unwrap().unwrap();
    unix_client.send_to(b"?", unix.local_addr().path().unwrap()).await.unwrap();
    let (_, sender) = unix.recv_from(&mut buffer).await.unwrap().unwrap();
    assert_eq!(sender.path(), Some(path.as_path()));
    assert_eq!(unix.send_to(b"1", &path).await.unwrap(), 1);
    assert_eq!(timeout(SOON, unix_client.recv(&mut buffer)).await.unwrap().unwrap(), 1);

    let mut second = folder.join("v2").await;
    let _inherited = second.udp("dns", udp.local_addr()).await.unwrap();
    let _inherited = second.unix_datagram("log", folder.file("log.sock")).await.unwrap();
    let _second = second.ready().await.unwrap();
    eventually("the first drains", async || first.drain().is_draining().then_some(())).await;
    assert_eq!(timeout(SOON, udp.send_to(b"!", from)).await.unwrap().unwrap(), 1);
    assert_eq!(timeout(SOON, client.recv(&mut buffer)).await.unwrap().unwrap(), 1);

    // More than its queue holds: the rest waits until something is received.
    let sends = async {
        for number in 0..100 {
            unix.send_to(&[number], &path).await.unwrap();
        }
    };
    let receives = async {
        for number in 0..100 {
            unix_client.recv(&mut buffer).await.unwrap();
            assert_eq!(buffer[0], number);
        }
    };
    timeout(SOON, async { tokio::join!(sends, receives) }).await.expect("all are received");
}

#[tokio::test]
async fn options_of_a_socket() {
    let folder = Folder::new();
    let mut starting = folder.join("v1").await;
    let tcp = starting.tcp("echo", "127.0.0.1:0").await.unwrap();
    let udp = starting.udp("dns", "127.0.0.1:0").await.unwrap();
    let unix = starting.unix_datagram("log", folder.file("log.sock")).await.unwrap();
    tcp.with_fd(|fd| socket2::SockRef::from(&fd).set_keepalive(true)).unwrap();
    udp.with_fd(|fd| socket2::SockRef::from(&fd).set_broadcast(true)).unwrap();
    let first = starting.ready().await.unwrap();
    assert!(tcp.with_fd(|fd| socket2::SockRef::from(&fd).keepalive()).unwrap(), "the socket is the same");
    assert!(udp.with_fd(|fd| socket2::SockRef::from(&fd).broadcast()).unwrap());
    assert!(unix.with_fd(|fd| socket2::SockRef::from(&fd).nonblocking()).unwrap());
    common::replace_by(&folder, &first, "v2").await;
    assert!(tcp.with_fd(|_| Ok(())).is_err() && udp.with_fd(|_| Ok(())).is_err(), "they are closed");
    assert!(unix.with_fd(|_| Ok(())).is_err());
}

#[tokio::test]
async fn unix_datagram() {
    let folder = Folder::new();
    let path = folder.file("log.sock");
    let mut first = folder.join("v1").await;
    let by_first = receive_unix(first.unix_datagram("log", &path).await.unwrap());
    let client = Arc::new(std::os::unix::net::UnixDatagram::unbound().unwrap());
    let (sender, to) = (client.clone(), path.clone());
    let send = move |numbers: std::ops::Range<u32>| {
        for number in numbers {
            sender.send_to(&number.to_be_bytes(), &to).unwrap();
        }
    };
    let late = send.clone();
    // The kernel queues eleven (`net.unix.max_dgram_qlen`) and has the sender wait then.
    in_the_gap(&mut first, move || late(5..10));
    let first = first.ready().await.unwrap();
    send(0..5);
    all(&[&by_first], 5).await;

    let mut second = folder.join("v2").await;
    let by_second = receive_unix(second.unix_datagram("log", &path).await.unwrap());
    let _second = second.ready().await.unwrap();
    send(10..15);
    all(&[&by_first, &by_second], 15).await;
    assert_eq!(by_second.lock().unwrap().len(), 10, "the first received after its release");
    timeout(SOON, first.drained()).await.unwrap();
}

/// The same for connections: clients that connect and speak while no process accepts are served a moment later.
#[tokio::test]
async fn connections_that_come_while_nobody_accepts() {
    let folder = Folder::new();
    let (clients, connected) = mpsc::channel();
    let mut first = folder.join("v1").await;
    let listener = first.tcp("echo", "127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().ip().unwrap();
    in_the_gap(&mut first, move || {
        for _ in 0..100 {
            let mut client = std::net::TcpStream::connect(address).expect("no client is refused");
            client.write_all(b"?").unwrap();
            clients.send(client).unwrap();
        }
    });
    let first = first.ready().await.unwrap();
    let (_second, _) = common::replace_by(&folder, &first, "v2").await;
    let clients: Vec<_> = connected.try_iter().collect();
    assert_eq!(clients.len(), 100);
    for mut client in clients {
        client.set_nonblocking(true).unwrap();
        let mut answer = [0; 2];
        eventually("an answer to a client that waited", async || client.read(&mut answer).ok()).await;
        assert_eq!(answer, *b"v2");
        let mut client = TcpStream::from_std(client).unwrap();
        assert_eq!(ask_on(&mut client).await.unwrap(), "v2");
    }
}
