//! Clients that keep their connections and ask one request after the other, and what became of each request.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// A request that takes longer has no answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// What became of requests.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Answered, and the connection is kept.
    pub(crate) kept: AtomicU32,
    /// Answered, and told to close: no harm to a client.
    pub(crate) told: AtomicU32,
    /// The connection had been used before, and ended instead of an answer: a client repeats it, if it may.
    pub(crate) lost_kept: AtomicU32,
    /// The connection was new.
    pub(crate) lost_new: AtomicU32,
    /// It ended within an answer.
    pub(crate) cut: AtomicU32,
    /// There was no answer in time.
    pub(crate) silent: AtomicU32,
    /// The client was not let in.
    pub(crate) refused: AtomicU32,
}

/// How one request ended.
enum Ended {
    Kept,
    Told,
    Lost,
    Cut,
    Silent,
}

/// Clients at work.
pub(crate) struct Load {
    over: Arc<AtomicBool>,
    pub(crate) tally: Arc<Tally>,
    clients: JoinSet<BTreeMap<u32, u32>>,
}

impl Load {
    pub(crate) fn start(server: SocketAddr, clients: u32) -> Self {
        let (over, tally) = (Arc::new(AtomicBool::new(false)), Arc::new(Tally::default()));
        let mut all = JoinSet::new();
        for _ in 0..clients {
            all.spawn(client(server, over.clone(), tally.clone()));
        }
        Self { over, tally, clients: all }
    }

    pub(crate) fn answered(&self) -> u32 {
        self.tally.kept.load(Relaxed) + self.tally.told.load(Relaxed)
    }

    /// How many answers each process has given.
    pub(crate) async fn end(mut self) -> (Arc<Tally>, BTreeMap<u32, u32>) {
        self.over.store(true, Relaxed);
        let mut by_process = BTreeMap::new();
        while let Some(answers) = self.clients.join_next().await {
            for (pid, count) in answers.expect("a client does not panic") {
                *by_process.entry(pid).or_default() += count;
            }
        }
        (self.tally, by_process)
    }
}

async fn client(server: SocketAddr, over: Arc<AtomicBool>, tally: Arc<Tally>) -> BTreeMap<u32, u32> {
    let mut by_process = BTreeMap::new();
    while !over.load(Relaxed) {
        let Ok(mut stream) = TcpStream::connect(server).await else {
            tally.refused.fetch_add(1, Relaxed);
            continue;
        };
        let mut is_new = true;
        while !over.load(Relaxed) {
            let ended = match timeout(PATIENCE, ask(&mut stream, &mut by_process)).await {
                Ok(ended) => ended,
                Err(_) => Ended::Silent,
            };
            let counter = match ended {
                Ended::Kept => &tally.kept,
                Ended::Told => &tally.told,
                Ended::Lost if is_new => &tally.lost_new,
                Ended::Lost => &tally.lost_kept,
                Ended::Cut => &tally.cut,
                Ended::Silent => &tally.silent,
            };
            counter.fetch_add(1, Relaxed);
            if !matches!(ended, Ended::Kept) {
                break;
            }
            is_new = false;
        }
    }
    by_process
}

async fn ask(stream: &mut TcpStream, by_process: &mut BTreeMap<u32, u32>) -> Ended {
    if stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.is_err() {
        return Ended::Lost;
    }
    let mut answer = Vec::new();
    loop {
        match stream.read_buf(&mut answer).await {
            Ok(0) | Err(_) if answer.is_empty() => return Ended::Lost,
            Ok(0) | Err(_) => return Ended::Cut,
            Ok(_) => {}
        }
        if let Some((head, body)) = whole(&answer) {
            let pid = body.trim().strip_prefix("ospid:").and_then(|pid| pid.parse().ok());
            *by_process.entry(pid.expect("the server says who it is")).or_default() += 1;
            let is_told = head.to_ascii_lowercase().contains("connection: close");
            return if is_told { Ended::Told } else { Ended::Kept };
        }
    }
}

/// Head and body of an answer that has arrived as a whole.
fn whole(answer: &[u8]) -> Option<(&str, &str)> {
    let text = str::from_utf8(answer).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut fields = head.lines().filter_map(|line| line.split_once(':'));
    match fields.find(|(name, _)| name.eq_ignore_ascii_case("content-length")) {
        Some((_, length)) => (body.len() >= length.trim().parse().ok()?).then_some((head, body)),
        // In chunks, of which the last one is empty.
        None => {
            let (first, rest) = body.split_once("\r\n")?;
            let length = usize::from_str_radix(first, 16).ok()?;
            rest.ends_with("\r\n0\r\n\r\n").then(|| (head, &rest[..length]))
        }
    }
}
