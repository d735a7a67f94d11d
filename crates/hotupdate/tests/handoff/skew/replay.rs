//! A process of the first protocol version: it says exactly what was recorded, and checks what it hears.
//!
//! Put in is only what belongs to this run: addresses and cookies of sockets, and the monotonic clock.
//!
//! Deliberately absent: behaviour. It waits for what it once waited for, and says what it then said.

use std::collections::VecDeque;
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::Arc;

use rustix::fs::{FlockOperation, MemfdFlags, SealFlags, fcntl_add_seals, flock, memfd_create};
use rustix::net::sockopt::socket_cookie;
use rustix::time::{ClockId, clock_gettime};
use serde_json::Value;
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

use super::recording::{Line, Side, fits, is_at_any_time, read, word};
use super::wire::{Wire, say};
use crate::common::{Folder, SOON};

/// What a replayed process has in its hands.
#[derive(Default)]
struct Hands {
    listener: Option<TcpListener>,
    control: Option<[OwnedFd; 2]>,
    connections: VecDeque<TcpStream>,
    /// What no process touches.
    kept: Vec<OwnedFd>,
}

/// See the head of this file.
pub(crate) struct Replay {
    me: Side,
    lines: Vec<Line>,
    control: Option<UnixListener>,
    wire: Option<Wire>,
    hands: Hands,
    heard: VecDeque<Value>,
    alter: fn(&mut Value),
}

/// What is left when everything was said.
pub(crate) struct End {
    pub(crate) listener: TcpListener,
    pub(crate) connections: VecDeque<TcpStream>,
    wire: Wire,
    _kept: Vec<OwnedFd>,
}

impl Replay {
    /// The process that serves: it owns the control socket and a listener.
    pub(crate) fn incumbent(folder: &Folder, recording: &'static str) -> Self {
        let lock = std::fs::File::create(folder.file("control.sock.lock")).unwrap();
        flock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
        let control = UnixListener::bind(folder.control()).unwrap();
        let owner = rustix::io::fcntl_dupfd_cloexec(&control, 0).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let hands =
            Hands { listener: Some(listener), control: Some([owner, lock.into()]), ..Hands::default() };
        Self { control: Some(control), hands, ..Self::new(Side::Incumbent, recording) }
    }

    /// The process that arrives.
    pub(crate) async fn successor(folder: &Folder, recording: &'static str) -> Self {
        let stream = UnixStream::connect(folder.control()).await.unwrap();
        let wire = Some(Wire::new(Arc::new(stream)));
        Self { wire, ..Self::new(Side::Successor, recording) }
    }

    fn new(me: Side, recording: &'static str) -> Self {
        Self {
            me,
            lines: read(recording),
            control: None,
            wire: None,
            hands: Hands::default(),
            heard: VecDeque::new(),
            alter: |_| {},
        }
    }

    /// Changes everything that is said: how a later version might say it.
    pub(crate) fn altered(self, alter: fn(&mut Value)) -> Self {
        Self { alter, ..self }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.hands.listener.as_ref().unwrap().local_addr().unwrap()
    }

    /// A connection that this process serves, seen from its client.
    pub(crate) fn client(&mut self) -> tokio::net::TcpStream {
        let client = TcpStream::connect(self.address()).unwrap();
        let (accepted, _) = self.hands.listener.as_ref().unwrap().accept().unwrap();
        for stream in [&client, &accepted] {
            stream.set_nonblocking(true).unwrap();
        }
        self.hands.connections.push_back(accepted);
        tokio::net::TcpStream::from_std(client).unwrap()
    }

    /// Goes through the whole conversation.
    pub(crate) async fn run(mut self) -> End {
        if let Some(control) = self.control.take() {
            let (stream, _) = timeout(SOON, control.accept()).await.expect("a successor joins").unwrap();
            self.wire = Some(Wire::new(Arc::new(stream)));
        }
        for line in std::mem::take(&mut self.lines) {
            if line.from == self.me {
                self.say(&line).await;
            } else if !is_at_any_time(word(&line.message())) {
                self.hear(&line).await;
            }
        }
        let more: Vec<_> = self.heard.iter().filter(|message| !is_at_any_time(word(message))).collect();
        assert!(more.is_empty(), "version 1 did not expect this: {more:?}");
        let Hands { listener, connections, kept, .. } = self.hands;
        End { listener: listener.unwrap(), connections, wire: self.wire.unwrap(), _kept: kept }
    }

    async fn say(&mut self, line: &Line) {
        let (mut message, mut text) = (line.message(), line.says.to_owned());
        let owned: Vec<OwnedFd> = line.owns.iter().map(|what| self.hands.give(what)).collect();
        for (number, descriptor) in owned.iter().enumerate() {
            put_in(&mut text, &message["items"][number], descriptor);
        }
        if let Some(then) = message["stopped_at_ns"].as_u64() {
            text = text.replace(&then.to_string(), &monotonic_ns().to_string());
        }
        message = serde_json::from_str(&text).unwrap();
        let exact = message.clone();
        (self.alter)(&mut message);
        if message != exact {
            text = message.to_string();
        }
        say(&self.wire.as_ref().unwrap().stream, &text, &owned).await;
    }

    /// Waits for what once came here. It may have come already.
    async fn hear(&mut self, line: &Line) {
        let then = line.message();
        let here = |message: &Value| word(message) == word(&then);
        loop {
            if let Some(at) = self.heard.iter().position(here) {
                return fits(&then, &self.heard.remove(at).unwrap());
            }
            let next = timeout(SOON, self.wire.as_mut().unwrap().next()).await;
            let next = next.unwrap_or_else(|_| panic!("no {} came, only {:?}", word(&then), self.heard));
            let (text, descriptors) = next.unwrap_or_else(|| {
                panic!("the other side hung up before {}; left: {:?}", word(&then), self.heard)
            });
            let now: Value = serde_json::from_str(&text).unwrap();
            if is_at_any_time(word(&now)) {
                fits(&now, &now);
            }
            self.hands.take(word(&now), descriptors);
            self.heard.push_back(now);
        }
    }
}

impl End {
    /// Nothing more came that version 1 would not have expected, until the other side hung up.
    pub(crate) async fn stays_quiet(mut self) {
        while let Some((text, _)) = timeout(SOON, self.wire.next()).await.expect("it hangs up") {
            let message: Value = serde_json::from_str(&text).unwrap();
            assert!(is_at_any_time(word(&message)), "version 1 did not expect this: {message}");
        }
    }
}

impl Hands {
    /// The descriptor that a line owns.
    fn give(&mut self, what: &Value) -> OwnedFd {
        match what.as_str() {
            None => sealed(what["memfd"].as_str().unwrap()),
            Some("tcp listener") => self.listener.as_ref().unwrap().try_clone().unwrap().into(),
            Some("tcp connection") => self.connections.pop_front().expect("a connection").into(),
            Some("unix listener") => self.control.as_ref().unwrap()[0].try_clone().unwrap(),
            Some("file") => self.control.as_ref().unwrap()[1].try_clone().unwrap(),
            Some("unix connection") => {
                let (link, end) = StdUnixStream::pair().unwrap();
                for end in [&link, &end] {
                    end.set_nonblocking(true).unwrap();
                }
                tokio::spawn(rest(UnixStream::from_std(end).unwrap()));
                link.into()
            }
            Some(other) => panic!("what is {other:?}?"),
        }
    }

    fn take(&mut self, word: &str, descriptors: Vec<OwnedFd>) {
        for descriptor in descriptors {
            match word {
                "listeners" => self.listener = Some(descriptor.into()),
                "prepare" => self.connections.push_back(descriptor.into()),
                _ => self.kept.push(descriptor),
            }
        }
    }
}

/// The oldest generation, which drains and has nothing to move.
async fn rest(link: UnixStream) {
    let link = Arc::new(link);
    let mut wire = Wire::new(link.clone());
    while let Some((text, _)) = wire.next().await {
        if text.contains("\"quiesce\"") {
            say(&link, r#"{"type":"quiesced"}"#, &[]).await;
        }
    }
}

/// Puts what is true of this socket where the recording has what was true of that one.
fn put_in(text: &mut String, item: &Value, socket: &OwnedFd) {
    let Some(then) = item["cookie"].as_u64() else { return };
    let mut replace = |field: &str, then: &str, now: &str| {
        *text = text.replacen(&format!("\"{field}\":{then}"), &format!("\"{field}\":{now}"), 1);
    };
    replace("cookie", &then.to_string(), &socket_cookie(socket).unwrap().to_string());
    let socket = socket2::SockRef::from(socket);
    let local = socket.local_addr().unwrap().as_socket().unwrap();
    match item["row"].is_object() {
        true => {
            let peer = socket.peer_addr().unwrap().as_socket().unwrap();
            replace("peer", &item["row"]["peer"].to_string(), &format!("\"{peer}\""));
            replace("local", &item["row"]["local"].to_string(), &format!("\"{local}\""));
        }
        false => replace("address", &item["address"].to_string(), &format!("\"{local}\"")),
    }
}

fn sealed(content: &str) -> OwnedFd {
    let fd = memfd_create("state", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    let mut file = std::fs::File::from(fd);
    file.write_all(content.as_bytes()).unwrap();
    fcntl_add_seals(&file, SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE).unwrap();
    file.into()
}

fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap() * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap()
}
