//! Clients that expect their connection to outlive every process that serves it: a close, a reset, a
//! `Connection: close` or a wrong byte is an error.
//!
//! Deliberately absent: reconnecting. The mixed [`crate::load`] has clients that do.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

/// No answer takes longer, on a machine that has much else to do.
const PATIENCE: Duration = Duration::from_secs(30);

/// Connections opened at a time: below the queue of a listener.
const AT_ONCE: usize = 64;

/// One connection.
#[derive(Debug)]
pub struct Steady {
    stream: TcpStream,
    unread: Vec<u8>,
    served_by: Option<u32>,
}

impl Steady {
    /// Connects.
    ///
    /// # Errors
    ///
    /// If no process listens.
    pub fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, unread: Vec::new(), served_by: None })
    }

    /// Its own address, which is the peer that the server sees.
    ///
    /// # Errors
    ///
    /// If the system refuses to say.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.stream.local_addr()
    }

    /// Sends bytes.
    ///
    /// # Errors
    ///
    /// If the connection is closed.
    pub fn send(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.stream.write_all(bytes).context("send")
    }

    /// Sends `GET /`.
    ///
    /// # Errors
    ///
    /// If the connection is closed.
    pub fn ask(&mut self) -> anyhow::Result<()> {
        self.send(b"GET / HTTP/1.1\r\nHost: steady\r\n\r\n")
    }

    /// Which process answers the last `GET /`.
    ///
    /// # Errors
    ///
    /// As [`Steady::answer`].
    pub fn answered_by(&mut self) -> anyhow::Result<u32> {
        pid(&self.answer()?)
    }

    /// Which process answers now.
    ///
    /// # Errors
    ///
    /// As [`Steady::answer`].
    pub fn who(&mut self) -> anyhow::Result<u32> {
        self.ask()?;
        self.answered_by()
    }

    /// The body of the next answer.
    ///
    /// # Errors
    ///
    /// If the connection ends, or the server asks to end it, or something else than an answer comes.
    pub fn answer(&mut self) -> anyhow::Result<Vec<u8>> {
        let (body, closes) = self.last_answer()?;
        ensure!(!closes, "the server says `Connection: close`");
        Ok(body)
    }

    /// The body of the next answer, and whether the server asks to end the connection.
    ///
    /// # Errors
    ///
    /// If the connection ends, or something else than an answer comes.
    pub fn last_answer(&mut self) -> anyhow::Result<(Vec<u8>, bool)> {
        let end = loop {
            match self.unread.windows(4).position(|window| window == b"\r\n\r\n") {
                Some(end) => break end + 4,
                None => self.read()?,
            }
        };
        let head: Vec<u8> = self.unread.drain(..end).collect();
        let head = String::from_utf8(head)?.to_ascii_lowercase();
        ensure!(head.starts_with("http/1.1 200 "), "{head}");
        let header = |name| Some(head.split_once(name)?.1.split_once("\r\n")?.0);
        let length: usize = header("\r\ncontent-length: ").context("no length")?.parse()?;
        self.served_by = header("\r\nserved-by: ").map(|by| pid(by.as_bytes())).transpose()?;
        while self.unread.len() < length {
            self.read()?;
        }
        Ok((self.unread.drain(..length).collect(), head.contains("\r\nconnection: close\r\n")))
    }

    /// The process that gave the last answer, if its head says so.
    #[must_use]
    pub fn served_by(&self) -> Option<u32> {
        self.served_by
    }

    /// Whether bytes of an answer come by then, or the end of the connection.
    fn is_readable_until(&self, until: Instant) -> io::Result<bool> {
        let wait = until.saturating_duration_since(Instant::now());
        // The shortest timeout is a tick of the kernel's clock, which thousands of clients cannot wait for one
        // after the other. Zero would mean "for ever" (socket(7)).
        let peeked = if wait.is_zero() {
            self.stream.set_nonblocking(true)?;
            let peeked = self.stream.peek(&mut [0]);
            self.stream.set_nonblocking(false)?;
            peeked
        } else {
            self.stream.set_read_timeout(Some(wait))?;
            let peeked = self.stream.peek(&mut [0]);
            self.stream.set_read_timeout(Some(PATIENCE))?;
            peeked
        };
        match peeked {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            _ => Ok(true),
        }
    }

    fn read(&mut self) -> anyhow::Result<()> {
        let mut bytes = [0; 4096];
        let n = self.stream.read(&mut bytes).context("receive")?;
        if n == 0 {
            bail!("the connection ended after {:?}", String::from_utf8_lossy(&self.unread));
        }
        self.unread.extend_from_slice(&bytes[..n]);
        Ok(())
    }
}

/// Opens this many connections, each of which has had an answer and is idle.
///
/// # Errors
///
/// If one of them fails.
pub fn idle(address: SocketAddr, how_many: usize) -> anyhow::Result<Vec<Steady>> {
    let mut all = Vec::with_capacity(how_many);
    while all.len() < how_many {
        let mut some = Vec::new();
        for _ in 0..AT_ONCE.min(how_many - all.len()) {
            let mut client = Steady::connect(address)?;
            client.ask()?;
            some.push(client);
        }
        for client in &mut some {
            client.answer()?;
        }
        all.append(&mut some);
    }
    Ok(all)
}

/// How a client's connection does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fate {
    /// It was answered by this process.
    AnsweredBy(u32),
    /// It ended.
    Ended,
    /// Nothing came in time.
    Waits,
}

/// Asks on every connection, and tells which process answers until the time is over; `Connection: close` is
/// an answer too.
pub fn ask_all(clients: &mut [Steady], within: Duration) -> Vec<Fate> {
    let until = Instant::now() + within;
    let sent: Vec<_> = clients.iter_mut().map(Steady::ask).collect();
    let fate = |(client, sent): (&mut Steady, anyhow::Result<()>)| {
        if sent.is_err() {
            return Fate::Ended;
        }
        answer_until(client, until)
    };
    clients.iter_mut().zip(sent).map(fate).collect()
}

/// The process that answers a question that was sent, at the latest at `until`.
pub fn answer_until(client: &mut Steady, until: Instant) -> Fate {
    if !client.is_readable_until(until).unwrap_or(true) {
        return Fate::Waits;
    }
    match client.last_answer().and_then(|(body, _)| pid(&body)) {
        Ok(pid) => Fate::AnsweredBy(pid),
        Err(_) => Fate::Ended,
    }
}

/// Reads `ospid:<pid>`, which `GET /` answers.
///
/// # Errors
///
/// If it is something else.
pub fn pid(body: &[u8]) -> anyhow::Result<u32> {
    let text = std::str::from_utf8(body)?;
    text.strip_prefix("ospid:")
        .with_context(|| format!("{text:?} is no process id"))?
        .parse()
        .context(text.to_owned())
}
