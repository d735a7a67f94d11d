//! The other end of a control socket, without the library: bytes and descriptors as a test wants them.
//!
//! Deliberately absent: manners.

use std::fs::File;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use sendfd::SendWithFd;
use serde_json::{Value, json};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

use super::{Folder, SOON};

/// One end of a connection to a control socket.
pub(crate) struct Peer {
    stream: UnixStream,
    unread: Vec<u8>,
}

impl Peer {
    pub(crate) async fn connect(path: &Path) -> Self {
        Self::of(timeout(SOON, UnixStream::connect(path)).await.expect("it connects in time").unwrap())
    }

    fn of(stream: UnixStream) -> Self {
        Self { stream, unread: Vec::new() }
    }

    /// A connection on which a successor has joined.
    pub(crate) async fn successor(path: &Path) -> Self {
        let mut peer = Self::connect(path).await;
        peer.say(&join("hostile")).await;
        let reply = peer.next().await.expect("a reply to `Join`");
        assert!(reply.get("error").is_none(), "the join was refused: {reply}");
        peer
    }

    /// Sends bytes, with descriptors on the first.
    ///
    /// # Errors
    /// That the other side has hung up.
    pub(crate) async fn send(&mut self, mut bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut raw: Vec<_> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        while !bytes.is_empty() {
            match self.stream.send_with_fd(bytes, &raw) {
                Ok(sent) => {
                    bytes = &bytes[sent..];
                    raw.clear();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    timeout(SOON, self.stream.writable()).await.expect("it reads, or hangs up")?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Sends a message; that no process is there any more is seen by what comes back.
    pub(crate) async fn say(&mut self, message: &Value) {
        self.say_with(message, &[]).await;
    }

    pub(crate) async fn say_with(&mut self, message: &Value, descriptors: &[BorrowedFd<'_>]) {
        let _ = self.send(format!("{message}\0").as_bytes(), descriptors).await;
    }

    /// The next message, `None` at the end of the stream.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == 0) {
                let frame: Vec<u8> = self.unread.drain(..=end).collect();
                return Some(serde_json::from_slice(&frame[..end]).unwrap());
            }
            let read = timeout(SOON, self.read()).await;
            if read.expect("a message, or the end of the stream").unwrap_or_default() == 0 {
                return None;
            }
        }
    }

    /// Not `read_buf`, which takes a short read for the last one for now: reading stops before each message
    /// with descriptors.
    async fn read(&mut self) -> io::Result<usize> {
        loop {
            self.stream.readable().await?;
            match self.stream.try_read_buf(&mut self.unread) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return read,
            }
        }
    }

    /// The next message of this type; those before it are dropped.
    pub(crate) async fn next_of(&mut self, kind: &str) -> Value {
        loop {
            let message = self.next().await.unwrap_or_else(|| panic!("the stream ended before `{kind}`"));
            if message["type"] == kind {
                return message;
            }
        }
    }

    /// Calls a method, and returns the whole reply.
    pub(crate) async fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.say(&json!({ "method": method, "parameters": parameters })).await;
        self.next().await.unwrap_or_else(|| panic!("no reply to {method}"))
    }

    /// Goes through the inventory as a successor should.
    pub(crate) async fn receive_inventory(&mut self) {
        loop {
            let message = self.next().await.expect("the inventory");
            self.say(&json!({ "type": "received", "batch": message["batch"] })).await;
            if message["type"] == "control" {
                return;
            }
        }
    }

    /// Waits until the other side has hung up; returns the last thing it said.
    pub(crate) async fn end(mut self) -> Option<Value> {
        let mut last = None;
        while let Some(message) = self.next().await {
            last = Some(message);
        }
        last
    }
}

/// Asks the owner of the control socket.
pub(crate) async fn call(path: &Path, method: &str, parameters: Value) -> Value {
    Peer::connect(path).await.call(method, parameters).await
}

/// How the owner of the control socket says that things are.
pub(crate) async fn status(path: &Path) -> Value {
    let mut reply = call(path, "io.hotupdate.Status", json!({})).await;
    assert!(reply.get("error").is_none(), "{reply}");
    reply["parameters"]["status"].take()
}

/// The call that a successor begins with.
pub(crate) fn join(version: &str) -> Value {
    json!({
        "method": "io.hotupdate.Join",
        "upgrade": true,
        "parameters": { "versions": { "min": 1, "max": 1 }, "process": process(version) },
    })
}

pub(crate) fn process(version: &str) -> Value {
    json!({ "instance": "0123456789abcdef0123456789abcdef", "pid": 4242, "version": version })
}

/// A process that owns a control socket and is up to no good.
pub(crate) struct Impostor {
    socket: UnixListener,
    lock: File,
    pub(crate) listener: TcpListener,
}

impl Impostor {
    pub(crate) fn at(folder: &Folder) -> Self {
        let lock = File::create(folder.file("control.sock.lock")).unwrap();
        flock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
        let socket = UnixListener::bind(folder.control()).unwrap();
        Self { socket, lock, listener: TcpListener::bind("127.0.0.1:0").unwrap() }
    }

    /// A caller that has said what it wants.
    pub(crate) async fn accept(&self) -> Peer {
        self.accept_within(SOON).await.expect("a successor joins")
    }

    pub(crate) async fn accept_within(&self, within: Duration) -> Option<Peer> {
        let (stream, _) = timeout(within, self.socket.accept()).await.ok()?.unwrap();
        let mut peer = Peer::of(stream);
        let call = peer.next().await.expect("a call");
        assert_eq!(call["method"], "io.hotupdate.Join");
        Some(peer)
    }

    /// The path of its socket.
    pub(crate) fn path(&self) -> PathBuf {
        self.socket.local_addr().unwrap().as_pathname().unwrap().to_owned()
    }

    /// A successor that was told that it is welcome. An older generation than that of the impostor may drain.
    pub(crate) async fn welcome(&self) -> Peer {
        let mut peer = self.accept().await;
        let joined = json!({
            "version": 1, "features": [], "generation": 3, "lease_ms": 60_000, "handoff": "h1",
            "incumbent": process("impostor"), "incumbent_generation": 2,
        });
        peer.say(&json!({ "parameters": joined })).await;
        peer
    }

    /// What would be true of the listener.
    pub(crate) fn item(&self, name: &str) -> Value {
        let cookie = rustix::net::sockopt::socket_cookie(&self.listener).unwrap();
        let address = self.listener.local_addr().unwrap().to_string();
        json!({ "name": name, "kind": "tcp", "address": address, "cookie": cookie })
    }

    pub(crate) fn control(&self) -> [BorrowedFd<'_>; 2] {
        [self.socket.as_fd(), self.lock.as_fd()]
    }
}

/// A batch of listeners; it says how many descriptors it owns.
pub(crate) fn listeners(batch: u32, items: &[Value]) -> Value {
    json!({ "type": "listeners", "batch": batch, "items": items, "fds": items.len() })
}

/// The control socket as a batch.
pub(crate) fn control(batch: u32) -> Value {
    json!({ "type": "control", "batch": batch, "fds": 2 })
}
