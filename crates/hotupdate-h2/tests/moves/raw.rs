//! A client that says frames as it likes.

use std::sync::Arc;
use std::time::Duration;

use hotupdate_h2::Stays;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::world::{Ended, Open, Seen, Versions, builder, serve};

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

/// ACK or END_STREAM.
pub(crate) const END: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

pub(crate) fn setting(number: u16, value: u32) -> Vec<u8> {
    [&number.to_be_bytes()[..], &value.to_be_bytes()].concat()
}

/// `:method GET`, `:scheme http`, `:path` and what is added.
pub(crate) fn get(path: &str, more: &[u8]) -> Vec<u8> {
    [&[0x82, 0x86, 0x04, path.len() as u8], path.as_bytes(), more].concat()
}

/// `:method POST`, `:scheme http`, `:path /`.
pub(crate) const POST: &[u8] = &[0x83, 0x86, 0x84];

/// Two thousand streams, each opened and reset at once.
pub(crate) fn rapid_resets() -> Vec<u8> {
    let opened_and_reset = |stream| {
        [frame(HEADERS, END_HEADERS, stream, POST), frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())]
    };
    (3..4_000).step_by(2).flat_map(opened_and_reset).flatten().collect()
}

/// A head, or trailers, in two thousand frames and with no end.
pub(crate) fn endless_head(stream: u32, begin: &[u8]) -> Vec<u8> {
    let mut bytes = frame(HEADERS, 0, stream, begin);
    bytes.extend(frame(CONTINUATION, 0, stream, b"").repeat(2_000));
    bytes
}

/// A literal of a new name that the table learns.
pub(crate) fn learn(name: &str, value: &str) -> Vec<u8> {
    [&[0x40, name.len() as u8], name.as_bytes(), &[value.len() as u8], value.as_bytes()].concat()
}

pub(crate) struct Client {
    io: DuplexStream,
    read: Vec<u8>,
    next: Arc<Notify>,
    server: JoinHandle<Ended>,
    pub(crate) seen: Seen,
}

impl Client {
    /// Has said its preface and these settings, and read the server's first frames.
    pub(crate) async fn connect(settings: &[u8]) -> Self {
        Self::connect_to(|_| builder(), settings).await
    }

    pub(crate) async fn connect_to(versions: Versions, settings: &[u8]) -> Self {
        Self::connect_open(versions, settings, Open::End).await
    }

    /// Its open streams do not keep the connection from moving.
    pub(crate) async fn connect_open(versions: Versions, settings: &[u8], open: Open) -> Self {
        Self::silent_to(versions, 1 << 20, open).introduced(settings).await
    }

    /// Over a socket that takes no more bytes than these before they are read.
    pub(crate) async fn connect_through(bytes: usize, settings: &[u8]) -> Self {
        Self::silent_to(|_| builder(), bytes, Open::End).introduced(settings).await
    }

    /// Over such a socket; its open streams do not keep the connection from moving.
    pub(crate) async fn connect_small(bytes: usize, open: Open) -> Self {
        Self::silent_to(|_| builder(), bytes, open).introduced(&[]).await
    }

    async fn introduced(self, settings: &[u8]) -> Self {
        let mut client = self;
        client.say(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        client.say(&frame(SETTINGS, 0, 0, settings)).await;
        client.say(&frame(SETTINGS, END, 0, &[])).await;
        client.read_all().await;
        client
    }

    pub(crate) fn silent() -> Self {
        Self::silent_to(|_| builder(), 1 << 20, Open::End)
    }

    fn silent_to(versions: Versions, bytes: usize, open: Open) -> Self {
        let (io, server) = tokio::io::duplex(bytes);
        let next = Arc::new(Notify::new());
        let (told, seen) = (next.clone(), Seen::default());
        let log = seen.clone();
        let server = tokio::spawn(async move { serve(server, &told, log, versions, open).await });
        Self { io, read: Vec::new(), next, server, seen }
    }

    pub(crate) async fn say(&mut self, bytes: &[u8]) {
        self.io.write_all(bytes).await.unwrap();
    }

    /// Asks for a move, and lets it happen.
    pub(crate) async fn moves(&mut self) {
        self.next.notify_one();
        settle().await;
    }

    /// What the server says until it says nothing more.
    pub(crate) async fn read_all(&mut self) -> Vec<Frame> {
        settle().await;
        let mut frames = Vec::new();
        loop {
            let mut bytes = [0; 65536];
            let read = tokio::time::timeout(Duration::from_millis(20), self.io.read(&mut bytes)).await;
            let Ok(Ok(n @ 1..)) = read else { break };
            self.read.extend(&bytes[..n]);
        }
        while self.read.len() >= 9 {
            let length = u32::from_be_bytes([0, self.read[0], self.read[1], self.read[2]]) as usize;
            if self.read.len() < 9 + length {
                break;
            }
            let frame: Vec<u8> = self.read.drain(..9 + length).collect();
            frames.push(Frame {
                kind: frame[3],
                flags: frame[4],
                stream: u32::from_be_bytes([frame[5], frame[6], frame[7], frame[8]]),
                payload: frame[9..].to_vec(),
            });
        }
        frames
    }

    /// Ends, and has moved so often.
    pub(crate) async fn ends_after(self, moves: u64) {
        drop(self.io);
        let ended = self.server.await.unwrap();
        assert_eq!((ended.moves, &ended.stays), (moves, &Vec::<Stays>::new()), "{ended:?}");
        assert!(ended.result.is_ok(), "{ended:?}");
    }

    pub(crate) async fn ended(self) -> Ended {
        drop(self.io);
        self.server.await.unwrap()
    }
}

/// Time is virtual: it passes when all tasks wait.
pub(crate) async fn settle() {
    tokio::time::sleep(Duration::from_millis(10)).await;
}

/// The stream has been answered with this body, and what else was said is allowed.
pub(crate) fn assert_answered(frames: &[Frame], stream: u32, body: &[u8]) {
    let of_it: Vec<_> = frames.iter().filter(|frame| frame.stream == stream).collect();
    assert!(of_it.iter().any(|frame| frame.kind == HEADERS), "{frames:?}");
    assert!(of_it.iter().all(|frame| frame.kind != RST_STREAM), "{frames:?}");
    let said: Vec<u8> = of_it.iter().filter(|f| f.kind == DATA).flat_map(|f| f.payload.clone()).collect();
    assert!(said == body, "{} bytes instead of {}", said.len(), body.len());
    assert!(of_it.iter().any(|frame| frame.flags & END != 0 && frame.kind <= HEADERS), "{frames:?}");
    assert!(frames.iter().all(|frame| frame.kind != GOAWAY), "{frames:?}");
}

pub(crate) fn kinds(frames: &[Frame]) -> Vec<u8> {
    frames.iter().map(|frame| frame.kind).collect()
}
