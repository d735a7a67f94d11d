//! What the clients of a run speak: how they visit, and the connections that they keep.
//!
//! Deliberately absent: making a connection again. That it ends is what is judged.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bytes::Bytes;
use futures_util::future::try_join;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use super::visitor::{PATIENCE, visit};
use crate::client::parse_pid;
use crate::steady::{self, Fate, Steady};

/// Connections that are idle when the handoff begins.
const IDLE: usize = 3;

/// Connections of HTTP/2 on which requests are in flight then.
const BUSY: usize = 2;

/// How long the two requests take that are in flight on such a connection: the one after the first has to
/// wait for the second, which takes longer than anything waits for it. They are few, because each of them is
/// some calls of the process that serves.
const TAKES: [Duration; 2] = [Duration::from_millis(150), Duration::from_millis(400)];

/// A protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Speaks {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
}

impl Speaks {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Http1, Self::Http2];

    /// Which process answers a request that takes so long, on a connection of its own.
    ///
    /// # Errors
    ///
    /// If none does.
    pub fn visit(self, address: SocketAddr, takes: Duration) -> anyhow::Result<u32> {
        match self {
            Self::Http1 => visit(address, takes),
            Self::Http2 => Http2::connect(address)?.get(takes),
        }
    }

    /// Connections that have had an answer, and are idle.
    ///
    /// # Errors
    ///
    /// If one of them fails.
    pub fn keep(self, address: SocketAddr) -> anyhow::Result<Vec<Box<dyn Kept>>> {
        let mut all: Vec<Box<dyn Kept>> = Vec::new();
        match self {
            Self::Http1 => {
                for client in steady::idle(address, IDLE)? {
                    all.push(Box::new(client));
                }
            }
            Self::Http2 => {
                for _ in 0..IDLE {
                    all.push(Box::new(Http2::answered(address)?));
                }
                for _ in 0..BUSY {
                    let client = Http2::answered(address)?;
                    all.push(Box::new(Busy { address: client.address, state: State::Idle(Some(client)) }));
                }
            }
        }
        Ok(all)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
        }
    }
}

impl fmt::Display for Speaks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Speaks {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let found = Self::ALL.into_iter().find(|speaks| speaks.name() == text);
        found.with_context(|| format!("{text:?} is none of {}", Self::ALL.map(Self::name).join(", ")))
    }
}

/// A connection that a client keeps.
pub trait Kept: fmt::Debug + Send {
    /// The address of the client.
    fn address(&self) -> SocketAddr;

    /// The handoff is about to begin.
    fn begin(&mut self) {}

    /// How it does when all is over, at the latest at `until`.
    fn fate(&mut self, until: Instant) -> Fate;
}

/// How each of them does.
pub fn fates(kept: &mut [Box<dyn Kept>], within: Duration) -> Vec<Fate> {
    let until = Instant::now() + within;
    thread::scope(|scope| {
        let all: Vec<_> =
            kept.iter_mut().map(|connection| scope.spawn(move || connection.fate(until))).collect();
        all.into_iter().map(|fate| fate.join().expect("a client does not panic")).collect()
    })
}

/// `Connection: close` is an answer too.
impl Kept for Steady {
    fn address(&self) -> SocketAddr {
        Steady::address(self).expect("it is connected")
    }

    fn fate(&mut self, until: Instant) -> Fate {
        match self.ask() {
            Ok(()) => steady::answer_until(self, until),
            Err(_) => Fate::Ended,
        }
    }
}

/// A connection of HTTP/2, which does something while its client waits for an answer.
#[derive(Debug)]
struct Http2 {
    runtime: Runtime,
    sender: SendRequest<Empty<Bytes>>,
    address: SocketAddr,
}

impl Http2 {
    fn connect(server: SocketAddr) -> anyhow::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let connecting = async {
            let stream = TcpStream::connect(server).await.context("connect")?;
            stream.set_nodelay(true)?;
            let address = stream.local_addr()?;
            let (sender, connection) =
                handshake(TokioExecutor::new(), TokioIo::new(stream)).await.context("shake hands")?;
            tokio::spawn(connection);
            anyhow::Ok((sender, address))
        };
        let (sender, address) = runtime.block_on(async { timeout(PATIENCE, connecting).await })??;
        Ok(Self { runtime, sender, address })
    }

    fn answered(server: SocketAddr) -> anyhow::Result<Self> {
        let mut client = Self::connect(server)?;
        client.get(Duration::ZERO)?;
        Ok(client)
    }

    fn get(&mut self, takes: Duration) -> anyhow::Result<u32> {
        let answer = get(self.sender.clone(), takes);
        self.runtime.block_on(async { timeout(PATIENCE, answer).await })?
    }

    /// Asks twice at a time, until another process answers or it is told to stop.
    fn ask_until(&mut self, stop: &AtomicBool) -> anyhow::Result<()> {
        let first = self.get(Duration::ZERO)?;
        let again = |takes| {
            let sender = &self.sender;
            async move {
                while !stop.load(Ordering::Relaxed)
                    && timeout(PATIENCE, get(sender.clone(), takes)).await?? == first
                {}
                anyhow::Ok(())
            }
        };
        let [one, other] = TAKES.map(again);
        self.runtime.block_on(try_join(one, other)).map(drop)
    }
}

async fn get(mut sender: SendRequest<Empty<Bytes>>, takes: Duration) -> anyhow::Result<u32> {
    let request = Request::get(format!("http://crash/?sleep={}", takes.as_secs_f64())).body(Empty::new())?;
    sender.ready().await.context("send")?;
    let answer = sender.send_request(request).await.context("send")?;
    ensure!(answer.status().is_success(), "answered {}", answer.status());
    let body = answer.into_body().collect().await.context("receive")?.to_bytes();
    parse_pid(std::str::from_utf8(&body)?)
}

impl Kept for Http2 {
    fn address(&self) -> SocketAddr {
        self.address
    }

    fn fate(&mut self, until: Instant) -> Fate {
        let answer = get(self.sender.clone(), Duration::ZERO);
        let within = until.saturating_duration_since(Instant::now());
        match self.runtime.block_on(async { timeout(within, answer).await }) {
            Ok(Ok(pid)) => Fate::AnsweredBy(pid),
            Ok(Err(_)) => Fate::Ended,
            Err(_) => Fate::Waits,
        }
    }
}

/// One on which two requests at a time are in flight until another process answers.
#[derive(Debug)]
struct Busy {
    address: SocketAddr,
    state: State,
}

#[derive(Debug)]
enum State {
    /// `None` once it has failed.
    Idle(Option<Http2>),
    Asks {
        stop: Arc<AtomicBool>,
        thread: JoinHandle<anyhow::Result<Http2>>,
    },
}

impl Kept for Busy {
    fn address(&self) -> SocketAddr {
        self.address
    }

    fn begin(&mut self) {
        let State::Idle(client) = &mut self.state else { return };
        let Some(mut client) = client.take() else { return };
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let thread = thread::spawn(move || {
            client.ask_until(&told)?;
            Ok(client)
        });
        self.state = State::Asks { stop, thread };
    }

    fn fate(&mut self, until: Instant) -> Fate {
        let state = std::mem::replace(&mut self.state, State::Idle(None));
        let client = match state {
            State::Idle(client) => client,
            State::Asks { stop, thread } => {
                stop.store(true, Ordering::Relaxed);
                thread.join().expect("a client does not panic").ok()
            }
        };
        client.map_or(Fate::Ended, |mut client| client.fate(until))
    }
}
