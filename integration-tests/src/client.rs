//! One request at a time, blocking: for tests that ask one question.
//!
//! Deliberately absent: keep-alive, retries and every other kindness that hides what happened.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

/// How long a request may take beyond what it was told to.
const PATIENCE: Duration = Duration::from_secs(60);

/// `GET path` on a connection of its own; the body of the answer.
///
/// # Errors
///
/// If the connection or the request fails, or the status is not 200.
pub fn get(address: SocketAddr, path: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(address).with_context(|| format!("connect to {address}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).context("send")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("read the answer")?;
    let (head, body) =
        answer.split_once("\r\n\r\n").with_context(|| format!("half an answer: {answer:?}"))?;
    ensure!(head.starts_with("HTTP/1.1 200 "), "answered {head:?}");
    Ok(body.to_owned())
}

/// The process that answers `GET /` at this address.
///
/// # Errors
///
/// As [`get`], and if the answer is not `ospid:<pid>`.
pub fn who_answers(address: SocketAddr) -> anyhow::Result<u32> {
    parse_pid(&get(address, "/?sleep=0")?)
}

/// The process id in `ospid:<pid>`.
///
/// # Errors
///
/// If it is something else.
pub fn parse_pid(body: &str) -> anyhow::Result<u32> {
    let pid = body.trim().strip_prefix("ospid:").and_then(|pid| pid.parse().ok());
    pid.with_context(|| format!("not an answer of GET /: {body:?}"))
}

/// `GET /?sleep=…` in flight, in a thread of its own.
#[derive(Debug)]
pub struct InFlight {
    thread: JoinHandle<anyhow::Result<(String, Duration)>>,
}

impl InFlight {
    /// Sends it. That it has arrived shows in the status of the service as an active connection.
    #[must_use]
    pub fn start(address: SocketAddr, sleep: Duration) -> Self {
        let path = format!("/?sleep={}", sleep.as_secs_f64());
        let thread = thread::spawn(move || {
            let begun = Instant::now();
            get(address, &path).map(|body| (body, begun.elapsed()))
        });
        Self { thread }
    }

    /// Whether it waits for its answer.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        !self.thread.is_finished()
    }

    /// Waits for the answer: which process answered, and after how long.
    ///
    /// # Errors
    ///
    /// As [`who_answers`].
    pub fn answer(self) -> anyhow::Result<(u32, Duration)> {
        let (body, took) = self.thread.join().map_err(|_| anyhow::anyhow!("the client panicked"))??;
        Ok((parse_pid(&body)?, took))
    }
}
