//! A client that comes every few milliseconds, on a connection of its own each time, and writes down what
//! became of it.
//!
//! Deliberately absent: retries.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use anyhow::{Context, ensure};

use super::clients::Speaks;
use crate::client::parse_pid;

/// The longest wait of a visitor.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// One visit.
#[derive(Clone, Debug)]
pub struct Visit {
    /// Before the connection was asked for.
    pub begun: SystemTime,
    /// When the answer was there, or the failure.
    pub ended: SystemTime,
    /// How long the request was to take.
    pub takes: Duration,
    /// The process that answered, or what happened instead.
    pub result: Result<u32, String>,
}

impl Visit {
    /// How long the visitor waited beyond what it asked for.
    #[must_use]
    pub fn waited(&self) -> Duration {
        self.ended.duration_since(self.begun).unwrap_or_default().saturating_sub(self.takes)
    }
}

/// A thread that visits one after the other.
#[derive(Debug)]
pub struct Visitor {
    stop: Arc<AtomicBool>,
    visits: Arc<Mutex<Vec<Visit>>>,
    thread: JoinHandle<()>,
}

impl Visitor {
    /// Begins with requests that take so long, and a pause after each.
    #[must_use]
    pub fn start(speaks: Speaks, address: SocketAddr, takes: Duration, pause: Duration) -> Self {
        let (stop, visits) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let thread = {
            let (stop, visits) = (Arc::clone(&stop), Arc::clone(&visits));
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let begun = SystemTime::now();
                    let result = speaks.visit(address, takes).map_err(|error| format!("{error:#}"));
                    let visit = Visit { begun, ended: SystemTime::now(), takes, result };
                    visits.lock().unwrap_or_else(PoisonError::into_inner).push(visit);
                    thread::sleep(pause);
                }
            })
        };
        Self { stop, visits, thread }
    }

    /// The visits that have ended.
    #[must_use]
    pub fn visits(&self) -> Vec<Visit> {
        self.visits.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets the last visit end, and returns all of them.
    ///
    /// # Panics
    ///
    /// If the thread did.
    #[must_use]
    pub fn stop(self) -> Vec<Visit> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("a visitor does not panic");
        let mut visits = self.visits.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *visits)
    }
}

/// A visit of HTTP/1.1.
pub(super) fn visit(address: SocketAddr, takes: Duration) -> anyhow::Result<u32> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).context("connect")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let path = format!("/?sleep={}", takes.as_secs_f64());
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).context("send")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("receive")?;
    let (head, body) =
        answer.split_once("\r\n\r\n").with_context(|| format!("half an answer: {answer:?}"))?;
    ensure!(head.starts_with("HTTP/1.1 200 "), "answered {head:?}");
    parse_pid(body)
}
