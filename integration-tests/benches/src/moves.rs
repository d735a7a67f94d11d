//! What it costs to move connections that are idle to the next version, and connections of HTTP/2 without a
//! stream that is open: time, processor time of both processes, memory; beside what the kernel alone takes to
//! pass their descriptors on.
//!
//! Deliberately absent: clients that speak meanwhile, and whether they notice: that is a test.

mod http2;

use std::net::SocketAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, ensure};
use integration_tests::steady::{Steady, idle};
use integration_tests::{SOON, Sandbox, status};
use serde::Serialize;
use serde_json::json;

use crate::floor::{self, Floor};
use crate::growth::{self, Curve};
use crate::load::now;
use crate::numbers::median;
use crate::process::{Clock, FEW, descriptors, raise_limit, server, used_until_gone};
use crate::results::Findings;
use crate::say;
use crate::table::{Table, number};

/// What fewer connections cost each does not stand out from what a hot update costs.
const MANY: usize = 100;

/// How often the descriptors of both processes are counted.
const LOOK: Duration = Duration::from_micros(100);

/// In milliseconds: clients that are idle, and not between two requests.
const SILENT: u64 = 3_500;

/// What moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
enum What {
    /// Idle connections of HTTP/1.1.
    #[serde(rename = "HTTP/1.1")]
    Http1,
    /// Idle connections of HTTP/2.
    #[serde(rename = "HTTP/2")]
    Http2,
    /// Those that have moved before, and whose clients have said nothing since.
    #[serde(rename = "HTTP/2, once more")]
    Again,
    /// Connections of HTTP/2 without the one stream of each that is open: the old process goes on with it.
    #[serde(rename = "HTTP/2, a stream stays")]
    Stream,
}

impl What {
    const OF_HTTP2: [Self; 3] = [Self::Http2, Self::Again, Self::Stream];

    fn name(self) -> &'static str {
        match self {
            Self::Http1 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
            Self::Again => "HTTP/2, once more",
            Self::Stream => "HTTP/2, a stream stays",
        }
    }

    /// How many connections there are when nothing is measured but what a hot update costs: an old process
    /// with an open stream stays, and one without a connection goes.
    fn fewest(self) -> usize {
        usize::from(self == Self::Stream)
    }

    /// Descriptors of the new process for each connection.
    fn descriptors(self) -> usize {
        1 + usize::from(self == Self::Stream)
    }

    fn connect(self, address: SocketAddr, how_many: usize) -> anyhow::Result<Clients> {
        let http2 = |path| {
            let all = (0..how_many).map(|_| http2::Client::connect(address, path));
            Ok::<_, anyhow::Error>(Clients::Http2(all.collect::<Result<_, _>>()?))
        };
        Ok(match self {
            Self::Http1 => Clients::Http1(idle(address, how_many)?),
            Self::Http2 | Self::Again => http2("/")?,
            Self::Stream => http2("/open")?,
        })
    }
}

enum Clients {
    Http1(Vec<Steady>),
    Http2(Vec<http2::Client>),
}

impl Clients {
    /// Each of them is answered by this version.
    fn are_answered_by(&mut self, version: &str) -> anyhow::Result<()> {
        let check = |answer: Vec<u8>| {
            ensure!(
                answer == version.as_bytes(),
                "{:?} instead of {version}",
                String::from_utf8_lossy(&answer)
            );
            anyhow::Ok(())
        };
        match self {
            Self::Http1(clients) => clients.iter_mut().try_for_each(|client| {
                client.ask()?;
                check(client.answer()?)
            }),
            Self::Http2(clients) => clients.iter_mut().try_for_each(|client| check(client.get("/")?)),
        }
    }

    fn end_streams(&mut self) -> anyhow::Result<()> {
        match self {
            Self::Http1(_) => Ok(()),
            Self::Http2(clients) => clients.iter_mut().try_for_each(http2::Client::reset),
        }
    }
}

/// Descriptors that this program and a server need besides one for each connection.
const SPARE: u64 = 600;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Moves {
    /// How many connections.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 100, 1_000, 10_000, 15_000])]
    connections: Vec<usize>,
    /// How many connections of HTTP/2: idle, idle since they have moved, and with a stream that stays.
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 10_000])]
    http2: Vec<usize>,
    /// Times that each is measured; the medians are told.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// For how many milliseconds the clients have been silent before. After a second connections rest.
    #[arg(long, default_value_t = SILENT)]
    silent: u64,
    /// A thousand connections of each alone.
    #[arg(long, conflicts_with_all = ["connections", "http2"])]
    quick: bool,
}

/// The medians for one number of connections. Times are in milliseconds. Processor time is in microseconds
/// and memory in bytes for each connection; neither is there for less than a hundred.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    what: What,
    connections: usize,
    /// From the moment in which the new process serves until it has all connections.
    moved_ms: f64,
    /// Until the old process has ended.
    gone_ms: f64,
    old_us: Option<f64>,
    new_us: Option<f64>,
    /// Passing the descriptors alone.
    floor_ms: f64,
    floor_sender_us: Option<f64>,
    floor_receiver_us: Option<f64>,
    /// The most copies of descriptors beyond one for each connection, as sampled; not with streams that stay,
    /// which have descriptors of their own.
    in_flight: Option<f64>,
    old_bytes: Option<f64>,
    new_bytes: Option<f64>,
    /// Of the old process, for each stream that stays: the memory of what has left is not given back yet.
    stays_bytes: Option<f64>,
}

impl Moves {
    pub(crate) fn all(rounds: usize, quick: bool) -> Self {
        let (connections, http2) = (vec![1, 100, 1_000, 10_000, 15_000], vec![1_000, 10_000]);
        Self { connections, http2, rounds, silent: SILENT, quick }
    }

    pub(crate) fn run(&self) -> anyhow::Result<Findings> {
        let few = [1_000];
        let [http1, http2] =
            [&self.connections, &self.http2].map(|sizes| if self.quick { &few[..] } else { sizes });
        let limit = raise_limit()?;
        let (mut rows, mut text) = (Vec::new(), String::new());
        for what in [&[What::Http1][..], &What::OF_HTTP2].concat() {
            let sizes = if what == What::Http1 { http1 } else { http2 };
            if !sizes.is_empty() {
                self.measure(what, sizes, limit, &mut rows, &mut text)?;
            }
        }
        let mut table = Table::new(&TITLES);
        rows.iter().for_each(|row| table.row(row.cells()));
        Ok(Findings {
            name: "moves",
            title: "Moving idle connections to the next version",
            text: format!("{table}{text}\nTheir clients have been silent for {} ms.\n", self.silent),
            plot: (http1.len() > 1).then(|| plot(&rows)),
            figures: json!({ "rounds": self.rounds, "silent_ms": self.silent, "rows": rows }),
            disturbed: None,
        })
    }

    /// Each number of connections.
    fn measure(
        &self,
        what: What,
        sizes: &[usize],
        limit: u64,
        rows: &mut Vec<Row>,
        text: &mut String,
    ) -> anyhow::Result<()> {
        let rounds = |connections| {
            let silent = Duration::from_millis(self.silent);
            (0..self.rounds).map(|_| round(what, connections, silent)).collect::<Result<Vec<_>, _>>()
        };
        // A hot update without connections costs something, too, which is no cost of a connection.
        let fewest = what.fewest();
        let without = rounds(fewest)?;
        let base_old = seconds(&without, |round| round.old);
        let base_new = seconds(&without, |round| round.new);
        for &connections in sizes {
            // Each of these has two descriptors: of ten thousand, all that there is room for.
            let most = limit.saturating_sub(SPARE) as usize / what.descriptors() / 1_000 * 1_000;
            let is_fewer = what == What::Stream && most > 0;
            let connections = if is_fewer { connections.min(most) } else { connections };
            if limit < (what.descriptors() * connections) as u64 + SPARE {
                text.push_str(&format!(
                    "\nNot measured: {connections} connections ({}): the limit of descriptors is {limit}.\n",
                    what.name()
                ));
                continue;
            }
            say(&format!("moves: {connections} connections, {}", what.name()))?;
            let rounds = rounds(connections)?;
            let of = |of: fn(&Round) -> f64| median(rounds.iter().map(of)).unwrap_or(f64::NAN);
            let many = |each: f64| (MANY <= connections).then_some(each);
            let each = |of: fn(&Round) -> Duration, base: f64| {
                many((seconds(&rounds, of) - base) * 1e6 / (connections - fewest) as f64)
            };
            rows.push(Row {
                what,
                connections,
                moved_ms: of(|round| round.moved.as_secs_f64() * 1e3),
                gone_ms: of(|round| round.gone.as_secs_f64() * 1e3),
                old_us: each(|round| round.old, base_old),
                new_us: each(|round| round.new, base_new),
                floor_ms: of(|round| round.floor.took.as_secs_f64() * 1e3),
                floor_sender_us: each(|round| round.floor.sender, 0.0),
                floor_receiver_us: each(|round| round.floor.receiver, 0.0),
                in_flight: (what != What::Stream).then(|| of(|round| round.in_flight as f64)),
                old_bytes: many(of(|round| round.old_bytes)),
                new_bytes: many(of(|round| round.new_bytes)),
                stays_bytes: many(of(|round| round.stays_bytes)).filter(|_| what == What::Stream),
            });
        }
        Ok(())
    }
}

const TITLES: [&str; 13] = [
    "",
    "connections",
    "moved in (ms)",
    "old process gone in (ms)",
    "processor time each (µs): old",
    "new",
    "both",
    "floor (ms)",
    "its processor time each (µs): both",
    "most copies",
    "memory each (B): old",
    "new",
    "old, of a stream that stays",
];

impl Row {
    fn cells(&self) -> [String; 13] {
        let both = |one: Option<f64>, other: Option<f64>| one.zip(other).map(|(one, other)| one + other);
        [
            self.what.name().to_owned(),
            self.connections.to_string(),
            number(Some(self.moved_ms), 1),
            number(Some(self.gone_ms), 1),
            number(self.old_us, 1),
            number(self.new_us, 1),
            number(both(self.old_us, self.new_us), 1),
            number(Some(self.floor_ms), 2),
            number(both(self.floor_sender_us, self.floor_receiver_us), 2),
            number(self.in_flight, 0),
            number(self.old_bytes, 0),
            number(self.new_bytes, 0),
            number(self.stays_bytes, 0),
        ]
    }
}

fn plot(rows: &[Row]) -> String {
    let http1 = || rows.iter().filter(|row| row.what == What::Http1);
    let points = |millis: fn(&Row) -> f64| http1().map(|row| (row.connections as f64, millis(row))).collect();
    growth::draw(
        "Moving idle connections",
        &[
            Curve { name: "moved", class: "time", points: points(|row| row.moved_ms) },
            Curve { name: "the kernel alone", class: "floor", points: points(|row| row.floor_ms) },
        ],
    )
}

fn seconds(rounds: &[Round], of: fn(&Round) -> Duration) -> f64 {
    median(rounds.iter().map(|round| of(round).as_secs_f64())).unwrap_or(f64::NAN)
}

/// One move of all connections.
struct Round {
    moved: Duration,
    gone: Duration,
    /// Processor time: of the old process from the moment in which the new one is started to its end, or
    /// until streams are all that is left to it; of the new one in all.
    old: Duration,
    new: Duration,
    floor: Floor,
    in_flight: u64,
    old_bytes: f64,
    new_bytes: f64,
    stays_bytes: f64,
}

fn round(what: What, connections: usize, silent: Duration) -> anyhow::Result<Round> {
    let floor = if connections == 0 { Floor::default() } else { floor::pass(connections)? };
    let sandbox = Sandbox::new();
    // No probation: what the old process costs in it is another question.
    let arguments = ["--probation", "0"];
    let mut old = server(&sandbox, 1, &arguments)?;
    let address = old.wait_serving().http;
    let fresh = old.facts();
    let mut clients = what.connect(address, connections)?;
    if what == What::Again {
        let next = server(&sandbox, 1, &arguments)?;
        next.wait_serving();
        used_until_gone(&old)?;
        old = next;
    }
    sleep(silent);
    let before = Clock::of(old.pid())?.settled()?;
    let full = old.facts();

    let new = server(&sandbox, 2, &arguments)?;
    new.wait_serving();
    let begun = served_at(&sandbox, new.pid())?;
    let (used, stays, gone, (moved, most)) = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| watch(&sandbox, old.pid(), new.pid(), connections, fresh.fds));
        let join = || watcher.join().map_err(|_| anyhow!("the watcher has panicked"));
        if what != What::Stream {
            let used = used_until_gone(&old)?;
            let gone = now();
            return anyhow::Ok((used, 0, gone, join()?));
        }
        let watched = join()?;
        let used = Clock::of(old.pid())?.settled()?;
        let stays = old.facts().rss_kib;
        clients.end_streams()?;
        used_until_gone(&old)?;
        Ok((used, stays, now(), watched))
    })?;
    let new_used = Clock::of(new.pid())?.settled()?;
    let after = new.facts();
    clients.are_answered_by("v2")?;
    let each = |rss: u64| rss.saturating_sub(fresh.rss_kib) as f64 * 1024.0 / connections as f64;
    let since = |at: u64| Duration::from_nanos(at.saturating_sub(begun));
    Ok(Round {
        moved: since(moved.context("not all connections have moved")?),
        gone: since(gone),
        old: used - before,
        new: new_used,
        floor,
        in_flight: most.saturating_sub(connections as u64 + 2 * fresh.fds as u64),
        old_bytes: each(full.rss_kib),
        new_bytes: each(after.rss_kib),
        stays_bytes: each(stays),
    })
}

/// Looks until the new process has all connections. When that was, and the most descriptors of both.
fn watch(sandbox: &Sandbox, old: u32, new: u32, connections: usize, besides: usize) -> (Option<u64>, u64) {
    let (until, mut most) = (Instant::now() + SOON, 0);
    while Instant::now() < until {
        let has = descriptors(new);
        most = most.max(descriptors(old) + has);
        // The question costs the process something, so it is asked at the end alone.
        if (connections + besides) as u64 <= has + FEW && adopted(sandbox, new) == Some(connections as u64) {
            return (Some(now()), most);
        }
        sleep(LOOK);
    }
    (None, most)
}

fn adopted(sandbox: &Sandbox, pid: u32) -> Option<u64> {
    let status = status::call(&sandbox.control(), "io.hotupdate.Status").ok()?;
    let serving = &status["status"]["serving"];
    (serving["process"]["pid"] == pid).then(|| serving["totals"]["adopted"].as_u64())?
}

/// When a process began to serve: the server itself says it.
fn served_at(sandbox: &Sandbox, pid: u32) -> anyhow::Result<u64> {
    let said = sandbox.transcript();
    let line = said.lines().find(|line| line.starts_with("serving") && line.contains(&format!("pid={pid} ")));
    let at = line.and_then(|line| line.rsplit_once(" at=")).context("the server says when it serves")?;
    Ok(at.1.parse()?)
}
