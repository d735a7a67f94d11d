//! WebSockets that move to the next version: what their clients see, which is nothing.
//!
//! Deliberately absent: real processes, see `integration-tests/tests/chat.rs`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]

use std::future::IntoFuture as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::any;
use futures_util::{SinkExt as _, StreamExt as _};
use hotupdate::Serving;
use hotupdate_axum::ws::{self, CloseCode, Event, Message, WebSocket};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;

const SOON: Duration = Duration::from_secs(20);
const SPREAD: Duration = Duration::from_millis(400);

// ---- a server ----------------------------------------------------------------------------------------------------

/// What moves with each socket.
#[derive(Default, Serialize, Deserialize)]
struct Counts {
    received: u64,
    sent: u64,
    ticks: bool,
}

#[derive(Clone, Copy)]
struct How {
    version: u64,
    adopts: bool,
    probation: Duration,
}

fn version(version: u64) -> How {
    How { version, adopts: true, probation: Duration::ZERO }
}

async fn start(dir: &TempDir, how: How) -> (Serving, SocketAddr) {
    let How { version, adopts, probation } = how;
    let mut starting = hotupdate::builder(dir.path().join("control.sock"))
        .version(version.to_string())
        .stop_signals(false)
        .drain_spread(SPREAD)
        .probation(probation)
        .join()
        .await
        .unwrap();
    let listener = starting.tcp("http", "127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let route = |ticks| {
        any(move |upgrade: ws::Upgrade| async move {
            let counts = Counts { ticks, ..Counts::default() };
            let upgrade = upgrade.protocols(["numbers"]).max_message_size(2 << 20);
            upgrade.on_upgrade(move |socket| serve(socket, counts, version))
        })
    };
    let app = Router::new()
        .route("/echo", route(false))
        .route("/ticks", route(true))
        .route("/pour", any(async |upgrade: ws::Upgrade| upgrade.on_upgrade(pour)));
    let hot = starting.ready().await.unwrap();
    if adopts {
        ws::adopt(&hot, "numbers", move |socket, counts| serve(socket, counts, version));
        ws::adopt(&hot, "pour", stop_pouring);
    }
    tokio::spawn(hotupdate_axum::serve(listener, app, &hot).into_future());
    (hot, address)
}

/// Says who has received what as which message; sends numbers in between.
async fn serve(mut socket: WebSocket, mut counts: Counts, version: u64) {
    let mut tick = tokio::time::interval(Duration::from_millis(1));
    loop {
        tokio::select! {
            event = socket.recv_or_drain() => match event {
                Event::Message(message) => {
                    counts.received += 1;
                    let text = match &message {
                        Message::Text(text) => text.to_string(),
                        other => format!("{} bytes", other.len()),
                    };
                    let answer = format!("{version}:{}:{text}", counts.received);
                    if socket.send(Message::text(answer)).await.is_err() {
                        return;
                    }
                }
                Event::Draining => match socket.hand_over("numbers", &counts).await {
                    Ok(()) => return,
                    Err(stays) => socket = stays.socket,
                },
                _ => return,
            },
            _ = tick.tick(), if counts.ticks => {
                counts.sent += 1;
                if socket.send(Message::text(format!("tick {}", counts.sent))).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Nothing more can be poured.
static FULL: Notify = Notify::const_new();

/// Sends until nothing more can be sent; the last message is half on its way when the socket moves.
async fn pour(mut socket: WebSocket) {
    let mut sent = 1u32;
    socket.send(Message::text(format!("{:>20000}", 0))).await.unwrap();
    loop {
        let sending = socket.send(Message::text(format!("{sent:>20000}")));
        let taken = timeout(Duration::from_millis(100), sending).await;
        sent += 1;
        if taken.is_err() {
            break;
        }
    }
    FULL.notify_one();
    while let Event::Draining = socket.recv_or_drain().await {
        match socket.hand_over("pour", &sent).await {
            Ok(()) => return,
            // The next version says one by one what it takes.
            Err(stays) => socket = stays.socket,
        }
    }
}

async fn stop_pouring(mut socket: WebSocket, sent: u32) {
    socket.send(Message::text(format!("{sent} in all"))).await.unwrap();
    socket.close(CloseCode::Normal, "").await;
}

// ---- a client ----------------------------------------------------------------------------------------------------

struct Client {
    socket: WebSocketStream<TcpStream>,
}

impl Client {
    async fn connect(address: SocketAddr, path: &str) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (socket, _) =
            within(tokio_tungstenite::client_async(format!("ws://test{path}"), stream)).await.unwrap();
        Self { socket }
    }

    async fn say(&mut self, text: &str) {
        self.socket.send(Message::text(text)).await.unwrap();
    }

    async fn raw(&mut self, bytes: &[u8]) {
        self.socket.get_mut().write_all(bytes).await.unwrap();
    }

    async fn hear(&mut self) -> Message {
        within(self.socket.next()).await.expect("the connection ended").expect("the connection failed")
    }

    async fn text(&mut self) -> String {
        match self.hear().await {
            Message::Text(text) => text.to_string(),
            other => panic!("{other:?} instead of a text"),
        }
    }

    /// Sends the beginning of something in one piece with a message, so that the server has read both when it answers.
    async fn begin(&mut self, beginning: &[u8]) {
        self.raw(&[&frame(0x81, b"first"), beginning].concat()).await;
        let answer = self.text().await;
        assert!(answer.ends_with(":1:first"), "{answer}");
    }

    async fn expect_close(&mut self, code: u16) {
        match self.hear().await {
            Message::Close(Some(close)) => assert_eq!(u16::from(close.code), code, "{close:?}"),
            other => panic!("{other:?} instead of a close frame"),
        }
        // Sends the answer, if it is due; then the server closes.
        assert!(within(self.socket.next()).await.is_none_or(|rest| rest.is_err()));
        let mut rest = Vec::new();
        within(self.socket.get_mut().read_to_end(&mut rest)).await.unwrap();
        assert_eq!(rest, b"");
    }
}

/// A frame with a mask of zeros.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        short @ 0..126 => bytes.push(0x80 | u8::try_from(short).unwrap()),
        long => {
            bytes.push(0x80 | 127);
            bytes.extend(u64::try_from(long).unwrap().to_be_bytes());
        }
    }
    bytes.extend([0; 4]);
    bytes.extend(payload);
    bytes
}

async fn within<F: Future>(future: F) -> F::Output {
    timeout(SOON, future).await.expect("it took too long")
}

// ---- what has to hold --------------------------------------------------------------------------------------------

/// Numbers both ways, several at once, until told to stop; returns how many were answered, and by how many versions.
async fn converse(address: SocketAddr, stop: Arc<AtomicBool>) -> (u64, usize) {
    let mut client = Client::connect(address, "/ticks").await;
    let (mut said, mut answered, mut ticks) = (0, 0, 0);
    let mut versions = vec![];
    while !stop.load(Relaxed) || answered < said {
        while said < answered + 5 && !stop.load(Relaxed) {
            said += 1;
            client.say(&format!("number {said}")).await;
        }
        let heard = client.text().await;
        match heard.strip_prefix("tick ") {
            Some(tick) => {
                ticks += 1;
                assert_eq!(tick, ticks.to_string(), "lost, doubled, or out of order");
            }
            None => {
                answered += 1;
                let (version, rest) = heard.split_once(':').unwrap();
                assert_eq!(rest, format!("{answered}:number {answered}"), "lost, doubled, or out of order");
                let version: u64 = version.parse().unwrap();
                assert!(versions.last().is_none_or(|last| *last <= version), "back from the new version");
                if versions.last() != Some(&version) {
                    versions.push(version);
                }
            }
        }
    }
    (answered, versions.len())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_conversations_go_on_through_fifty_handoffs() {
    const HANDOFFS: u64 = 50;
    let dir = tempfile::tempdir().unwrap();
    let (mut hot, address) = start(&dir, version(1)).await;
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..20).map(|_| tokio::spawn(converse(address, stop.clone()))).collect();
    let (mut moved, mut forced) = (0, 0);
    for next in 2..=HANDOFFS + 1 {
        let (new, _) = start(&dir, version(next)).await;
        within(hot.drained()).await;
        moved += hot.connections().moved();
        forced += hot.connections().forced();
        hot = new;
    }
    stop.store(true, Relaxed);
    for client in clients {
        let (answered, versions) = within(client).await.unwrap();
        assert!(answered > HANDOFFS && versions > 10, "{answered} answers from {versions} versions");
    }
    assert_eq!(forced, 0);
    // One that connects during the first handoff may begin in the second version, or be still HTTP when it moves.
    assert!((19 * HANDOFFS..=20 * HANDOFFS).contains(&moved), "{moved} moves");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_cut_at_every_byte_by_the_move() {
    let fragmented =
        [frame(0x01, b"frag"), frame(0x89, b"ping"), frame(0x00, b"men"), frame(0x80, b"ted")].concat();
    let bytes = [fragmented, frame(0x81, b"single")].concat();
    let dir = tempfile::tempdir().unwrap();
    let (old, address) = start(&dir, version(1)).await;
    let mut clients = Vec::new();
    for cut in 0..=bytes.len() {
        let mut client = Client::connect(address, "/echo").await;
        client.begin(&bytes[..cut]).await;
        clients.push(client);
    }
    let (_new, _) = start(&dir, version(2)).await;
    within(old.drained()).await;
    for (cut, client) in clients.iter_mut().enumerate() {
        client.raw(&bytes[cut..]).await;
        assert_eq!(client.hear().await, Message::Pong("ping".into()), "cut at {cut}");
        let (fragmented, single) = (client.text().await, client.text().await);
        assert!(fragmented.ends_with(":2:fragmented"), "cut at {cut}: {fragmented}");
        assert!(single.ends_with(":3:single"), "cut at {cut}: {single}");
        if cut < bytes.len() {
            assert!(single.starts_with('2'), "cut at {cut}: {single}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_messages_half_received() {
    let dir = tempfile::tempdir().unwrap();
    let (old, address) = start(&dir, version(1)).await;
    // What fits moves half; of what does not, the old version awaits the rest.
    let (small, large) = (frame(0x82, &[7; 80 << 10]), frame(0x82, &[7; 1 << 20]));
    let (mut moves, mut waits) =
        (Client::connect(address, "/echo").await, Client::connect(address, "/echo").await);
    moves.begin(&small[..small.len() / 2]).await;
    waits.begin(&large[..large.len() / 2]).await;
    let (new, _) = start(&dir, version(2)).await;
    let peer = moves.socket.get_ref().local_addr().unwrap().to_string();
    within(async {
        while !new.connections().rows().iter().any(|row| row.peer == peer) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    moves.raw(&small[small.len() / 2..]).await;
    assert_eq!(moves.text().await, format!("2:2:{} bytes", 80 << 10));
    waits.raw(&large[large.len() / 2..]).await;
    let answer = waits.text().await;
    assert!(answer.ends_with(&format!(":2:{} bytes", 1 << 20)), "{answer}");
    within(old.drained()).await;
    assert_eq!(old.connections().forced(), 0);
    waits.say("next").await;
    assert_eq!(waits.text().await, "2:3:next");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_slow_client_has_not_taken_is_sent_by_the_next_version() {
    let dir = tempfile::tempdir().unwrap();
    let (old, address) = start(&dir, version(1)).await;
    let mut client = Client::connect(address, "/pour").await;
    assert_eq!(client.text().await, format!("{:>20000}", 0));
    within(FULL.notified()).await;
    let (_new, _) = start(&dir, version(2)).await;
    within(old.drained()).await;
    assert_eq!(old.connections().moved(), 1);
    let mut heard = 1;
    loop {
        let text = client.text().await;
        if let Some(all) = text.strip_suffix(" in all") {
            assert_eq!(all, heard.to_string());
            break;
        }
        assert_eq!(text, format!("{heard:>20000}"));
        heard += 1;
    }
    client.expect_close(1000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_close_frame_cut_at_every_byte_is_answered() {
    let goodbye = frame(0x88, &[&1000u16.to_be_bytes()[..], b"bye"].concat());
    let dir = tempfile::tempdir().unwrap();
    let (old, address) = start(&dir, version(1)).await;
    let mut clients = Vec::new();
    for cut in 0..=goodbye.len() {
        let mut client = Client::connect(address, "/echo").await;
        client.begin(&goodbye[..cut]).await;
        clients.push(client);
    }
    let (_new, _) = start(&dir, version(2)).await;
    for (cut, client) in clients.iter_mut().enumerate() {
        client.raw(&goodbye[cut..]).await;
        client.expect_close(1000).await;
    }
    within(old.drained()).await;
    assert_eq!(old.connections().forced(), 0);
}

/// The new version may say what it takes some time after it serves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_unserved_until_it_is_known_who_moves() {
    let dir = tempfile::tempdir().unwrap();
    let (old, address) = start(&dir, version(1)).await;
    let mut client = Client::connect(address, "/echo").await;
    client.begin(b"").await;
    let (new, _) = start(&dir, How { adopts: false, ..version(2) }).await;
    within(old.retired()).await;
    for count in 2..=10 {
        client.say("and?").await;
        assert_eq!(client.text().await, format!("1:{count}:and?"));
    }
    ws::adopt(&new, "numbers", |socket, counts| serve(socket, counts, 2));
    within(old.drained()).await;
    client.say("and now?").await;
    assert_eq!(client.text().await, "2:11:and now?");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whom_the_next_version_does_not_take_is_told_to_come_back_within_the_window() {
    let dir = tempfile::tempdir().unwrap();
    let (old, address) = start(&dir, version(1)).await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = Client::connect(address, "/echo").await;
        client.begin(b"").await;
        clients.push(client);
    }
    let (_new, _) = start(&dir, How { adopts: false, ..version(2) }).await;
    let began = Instant::now();
    let farewells: Vec<_> = clients
        .into_iter()
        .map(|mut client| {
            tokio::spawn(async move {
                client.expect_close(1012).await;
                began.elapsed()
            })
        })
        .collect();
    let mut times = Vec::new();
    for farewell in farewells {
        times.push(farewell.await.unwrap());
    }
    times.sort_unstable();
    within(old.drained()).await;
    assert_eq!((old.connections().forced(), old.connections().moved()), (0, 0));
    // A second more, in which the next version could still have said that it takes them.
    assert!(times[19] < SPREAD + Duration::from_secs(2), "{times:?}");
    assert!(times[19] - times[0] > SPREAD / 2, "all at once: {times:?}");
}

#[test]
fn a_successor_that_dies_before_it_has_them_changes_nothing() {
    let runtime =
        || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (living, doomed) = (runtime(), runtime());
    living.block_on(async move {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let (old, address) = start(&dir, How { probation: SOON, ..version(1) }).await;
        let half = frame(0x81, b"half");
        let mut client = Client::connect(address, "/echo").await;
        client.begin(&half[..3]).await;
        // It becomes ready and dies before it says what it takes.
        let control = dir.path().join("control.sock");
        let successor = doomed.spawn(async move {
            let mut starting = hotupdate::builder(control).stop_signals(false).join().await.unwrap();
            let listener = starting.tcp("http", "127.0.0.1:0").await.unwrap();
            (starting.ready().await.unwrap(), listener)
        });
        let served = successor.await.unwrap();
        within(old.drain().started()).await;
        doomed.shutdown_background();
        within(old.drain().ended()).await;
        drop(served);
        client.raw(&half[3..]).await;
        assert_eq!(client.text().await, "1:2:half");
        // And the next attempt works.
        let (_new, _) = start(&dir, version(3)).await;
        client.say("again").await;
        let answer = client.text().await;
        assert!(answer.ends_with(":3:again"), "{answer}");
        while !client.socket_is_served_by(3).await {}
    });
}

impl Client {
    async fn socket_is_served_by(&mut self, version: u64) -> bool {
        self.say("who?").await;
        self.text().await.starts_with(&format!("{version}:"))
    }
}

#[tokio::test]
async fn a_message_that_is_too_large_and_a_subprotocol() {
    let dir = tempfile::tempdir().unwrap();
    let (_hot, address) = start(&dir, version(1)).await;
    let mut client = Client::connect(address, "/echo").await;
    client.raw(&frame(0x82, &vec![0; (2 << 20) + 1])[..100]).await;
    client.expect_close(1009).await;

    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = "GET /echo HTTP/1.1\r\nHost: test\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
        Sec-WebSocket-Protocol: letters, numbers\r\n\r\n";
    // The first message comes right behind the request.
    stream.write_all(&[request.as_bytes(), &frame(0x81, b"early")].concat()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"1:1:early") {
        assert_ne!(within(stream.read_buf(&mut answer)).await.unwrap(), 0);
    }
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    assert!(answer.contains("\r\nsec-websocket-protocol: numbers\r\n"), "{answer}");
    assert!(answer.contains("\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{answer}");
}
