//! Clients that never leave their connection, and what they do on it.
//!
//! Deliberately absent: reconnecting.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use integration_tests::process::eventually;
use integration_tests::steady::{self, Steady};
use tokio_tungstenite::tungstenite::{self, Message};

use integration_tests::SOON;

/// When each process gave its last answer.
pub(crate) type LastAnswers = Arc<Mutex<HashMap<u32, Instant>>>;

/// Threads, each with a client that stays on its connection.
pub(crate) struct Crowd {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    last: LastAnswers,
    threads: Vec<JoinHandle<anyhow::Result<()>>>,
}

impl Crowd {
    pub(crate) fn new(address: SocketAddr) -> Self {
        let (stop, answered, last) = Default::default();
        Self { address, stop, answered, last, threads: Vec::new() }
    }

    /// Clients that do `once` again and again, a pause apart; it tells which process answered.
    pub(crate) fn start<C: 'static>(
        &mut self,
        how_many: usize,
        pause: Duration,
        connect: fn(SocketAddr) -> anyhow::Result<C>,
        once: fn(&mut C, u64) -> anyhow::Result<u32>,
    ) {
        for number in 0..how_many {
            let (address, stop, answered, last) =
                (self.address, self.stop.clone(), self.answered.clone(), self.last.clone());
            let run = move || {
                let mut client = connect(address)?;
                let mut turn = number as u64;
                while !stop.load(Relaxed) {
                    let pid = once(&mut client, turn)?;
                    last.lock().expect("no client panics").insert(pid, Instant::now());
                    answered.fetch_add(1, Relaxed);
                    turn += 1;
                    thread::sleep(pause);
                }
                Ok(())
            };
            let thread = thread::Builder::new().stack_size(256 * 1024).spawn(run);
            self.threads.push(thread.expect("the system gives a thread"));
        }
    }

    pub(crate) fn answers_go_on(&mut self) {
        let before = self.answered.load(Relaxed);
        eventually("more answers", SOON, || {
            if let Some(lost) = self.threads.iter().position(JoinHandle::is_finished) {
                let why = self.threads.swap_remove(lost).join().expect("no client panics");
                panic!("a client has lost its connection: {why:?}");
            }
            (self.answered.load(Relaxed) > before + 100).then_some(())
        });
    }

    /// How long ago this process answered its last request.
    pub(crate) fn since_last_answer(&self, pid: u32) -> Option<Duration> {
        self.last.lock().expect("no client panics").get(&pid).map(Instant::elapsed)
    }

    pub(crate) fn stop(self) -> u64 {
        self.stop.store(true, Relaxed);
        for thread in self.threads {
            thread.join().expect("no client panics").expect("no client notices anything");
        }
        self.answered.load(Relaxed)
    }
}

pub(crate) fn connect(address: SocketAddr) -> anyhow::Result<Steady> {
    Ok(Steady::connect(address)?)
}

pub(crate) fn get(client: &mut Steady, _: u64) -> anyhow::Result<u32> {
    client.who()
}

pub(crate) fn slow(client: &mut Steady, _: u64) -> anyhow::Result<u32> {
    client.send(b"GET /?sleep=0.4 HTTP/1.1\r\nHost: slow\r\n\r\n")?;
    client.answered_by()
}

/// A WebSocket client.
pub(crate) struct Talker {
    socket: tungstenite::WebSocket<TcpStream>,
    said: u64,
}

pub(crate) fn talker(address: SocketAddr) -> anyhow::Result<Talker> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(SOON))?;
    stream.set_nodelay(true)?;
    let opened = tungstenite::client(format!("ws://{address}/ws"), stream);
    let (socket, _) = opened.map_err(|error| anyhow::anyhow!("open a WebSocket: {error}"))?;
    Ok(Talker { socket, said: 0 })
}

/// Three numbered messages at once, and a question; each comes back once, in order.
pub(crate) fn talk(client: &mut Talker, turn: u64) -> anyhow::Result<u32> {
    let numbers = client.said..client.said + 3;
    client.said = numbers.end;
    for number in numbers.clone() {
        client.socket.write(Message::text(format!("{turn}: message {number}")))?;
    }
    client.socket.write(Message::text("who"))?;
    client.socket.flush()?;
    for number in numbers {
        let message = client.socket.read().context("wait for an echo")?;
        ensure!(message == Message::text(format!("{turn}: message {number}")), "{number}: {message:?}");
    }
    let answer = client.socket.read().context("wait for an answer")?;
    steady::pid(&answer.into_data())
}

/// A body in pieces, with a length or in chunks.
pub(crate) fn post(client: &mut Steady, turn: u64) -> anyhow::Result<u32> {
    let pieces: Vec<String> =
        (0..5).map(|piece| format!("{turn}:{piece};").repeat(1 + turn as usize % 50)).collect();
    let chunked = turn.is_multiple_of(2);
    if chunked {
        client.send(b"POST /echo HTTP/1.1\r\nHost: post\r\nTransfer-Encoding: chunked\r\n\r\n")?;
    } else {
        let length: usize = pieces.iter().map(String::len).sum();
        client.send(
            format!("POST /echo HTTP/1.1\r\nHost: post\r\nContent-Length: {length}\r\n\r\n").as_bytes(),
        )?;
    }
    for piece in &pieces {
        thread::sleep(Duration::from_millis(turn % 5));
        if chunked {
            client.send(format!("{:x}\r\n{piece}\r\n", piece.len()).as_bytes())?;
        } else {
            client.send(piece.as_bytes())?;
        }
    }
    if chunked {
        client.send(b"0\r\n\r\n")?;
    }
    let answer = client.answer()?;
    ensure!(answer == pieces.concat().into_bytes(), "{turn}: a wrong byte");
    client.served_by().context("no process has served it")
}

/// Five requests at once, the stream cut somewhere.
pub(crate) fn pipeline(client: &mut Steady, turn: u64) -> anyhow::Result<u32> {
    let bodies: Vec<_> = (0..5).map(|n| format!("{turn}.{n}")).collect();
    let mut stream = String::new();
    for body in &bodies {
        stream.push_str(&format!(
            "POST /echo HTTP/1.1\r\nHost: p\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ));
    }
    let cut = turn as usize * 37 % stream.len();
    client.send(&stream.as_bytes()[..cut])?;
    thread::sleep(Duration::from_millis(turn % 4));
    client.send(&stream.as_bytes()[cut..])?;
    for body in bodies {
        let answer = client.answer()?;
        ensure!(answer == body.as_bytes(), "{body}: {answer:?}");
    }
    client.served_by().context("no process has served it")
}
