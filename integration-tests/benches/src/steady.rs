//! What a server costs when nothing is updated: requests of `hotupdate_axum::serve` beside those of
//! `axum::serve`, in random order, and the memory of connections that are idle.

mod http2;

use std::hash::{BuildHasher as _, RandomState};
use std::net::SocketAddr;
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use integration_tests::steady::idle;
use integration_tests::{SOON, Sandbox, Service};
use serde::Serialize;
use serde_json::json;

use crate::load::{Outcome, now, read};
use crate::numbers::median;
use crate::process::{Clock, memory, raise_limit, server, used_until_gone};
use crate::results::Findings;
use crate::say;
use crate::scenario::LoadProcess;
use crate::table::{NOTHING, Table, number};

/// Clients that ask at the same time.
const CLIENTS: usize = 16;

/// Before anything is counted.
const WARM_UP: Duration = Duration::from_millis(200);

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Steady {
    /// Times that each is measured; the medians are told.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How long, in milliseconds.
    #[arg(long, default_value_t = 1_000)]
    millis: u64,
    /// Connections that are idle.
    #[arg(long, default_value_t = 10_000)]
    idle: usize,
}

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
enum Server {
    Axum,
    /// Axum again: what differs without a difference.
    Control,
    /// Axum with `TCP_NODELAY`, which hotupdate sets: answers to several streams leave one by one, and none
    /// of them waits until the client has acknowledged the one before.
    Nodelay,
    Hotupdate,
}

impl Server {
    const ALL: [Self; 4] = [Self::Axum, Self::Control, Self::Nodelay, Self::Hotupdate];
}

/// How clients ask, and for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
struct Case {
    is_http2: bool,
    /// A connection for each request.
    is_fresh: bool,
    path: &'static str,
}

impl Case {
    fn all() -> impl Iterator<Item = Self> {
        let of = |is_http2| [false, true].into_iter().map(move |is_fresh| (is_http2, is_fresh));
        let of = [false, true].into_iter().flat_map(of);
        of.flat_map(|(is_http2, is_fresh)| ["/", "/json"].map(|path| Self { is_http2, is_fresh, path }))
    }

    fn name(self) -> String {
        let protocol = if self.is_http2 { "HTTP/2" } else { "HTTP/1.1" };
        let connection = if self.is_fresh { "a connection each" } else { "keep-alive" };
        format!("{protocol}, {connection}, {}", if self.path == "/" { "hello" } else { "1 KiB of JSON" })
    }
}

/// One measurement.
#[derive(Clone, Copy, Debug, Serialize)]
struct Round {
    case: Case,
    server: Server,
    per_second: f64,
    /// Processor time of the server for a request, in microseconds, if there was one.
    processor_us: Option<f64>,
}

/// Memory of one connection that is idle, in bytes; `updating` that of both processes in the middle of an
/// update, at most.
#[derive(Clone, Copy, Debug, Serialize)]
struct Memory {
    connections: usize,
    axum: f64,
    hotupdate: f64,
    updating: f64,
}

impl Steady {
    pub(crate) fn all(rounds: usize, is_quick: bool) -> Self {
        if is_quick {
            Self { rounds: 1, millis: 400, idle: 2_000 }
        } else {
            Self { rounds, millis: 800, idle: 10_000 }
        }
    }

    pub(crate) fn run(&self) -> anyhow::Result<Findings> {
        raise_limit()?;
        let memory = self.memory()?;
        let rounds = self.requests()?;
        let mut table = Table::new(&[
            "requests",
            "in a second: axum",
            "axum again",
            "axum, TCP_NODELAY",
            "hotupdate",
            "processor time each (µs): axum",
            "axum again",
            "axum, TCP_NODELAY",
            "hotupdate",
        ]);
        let ratio = |one: Option<f64>, of: Option<f64>| {
            one.zip(of).map_or_else(|| NOTHING.to_owned(), |(one, of)| format!("× {:.3}", one / of))
        };
        for case in Case::all() {
            let of = |server, value: fn(&Round) -> Option<f64>| {
                let rounds = rounds.iter().filter(|round| (round.case, round.server) == (case, server));
                median(rounds.filter_map(value))
            };
            let [axum, control, nodelay, hotupdate] =
                Server::ALL.map(|server| of(server, |round| Some(round.per_second)));
            let used = Server::ALL.map(|server| of(server, |round| round.processor_us));
            table.row([
                case.name(),
                number(axum, 0),
                ratio(control, axum),
                ratio(nodelay, axum),
                ratio(hotupdate, axum),
                number(used[0], 2),
                ratio(used[1], used[0]),
                ratio(used[2], used[0]),
                ratio(used[3], used[0]),
            ]);
        }
        let mut idle = Table::new(&["memory of idle connections", "each (B)", "all (MiB)"]);
        for (name, each) in [
            ("axum", memory.axum),
            ("hotupdate", memory.hotupdate),
            ("hotupdate in the middle of an update, both processes, at most", memory.updating),
        ] {
            let all = each * memory.connections as f64 / 1024.0 / 1024.0;
            idle.row([name.to_owned(), number(Some(each), 0), number(Some(all), 1)]);
        }
        Ok(Findings {
            name: "steady",
            title: "Requests and idle connections without an update",
            text: format!(
                "{table}\n{idle}\n{} rounds of {} ms in random order, {CLIENTS} clients without a pause; \
                 {} idle HTTP/1.1 connections.\n",
                self.rounds, self.millis, memory.connections
            ),
            figures: json!({ "rounds": rounds, "memory": memory }),
            plot: None,
            disturbed: None,
        })
    }

    // ---- requests -----------------------------------------------------------------------------------------

    fn requests(&self) -> anyhow::Result<Vec<Round>> {
        let sandboxes = Server::ALL.map(|server| (server, Sandbox::new()));
        let servers =
            sandboxes.iter().map(|(server, sandbox)| anyhow::Ok((*server, start(sandbox, *server)?)));
        let servers = servers.collect::<Result<Vec<_>, _>>()?;
        let mut rounds = Vec::new();
        for round in 0..self.rounds {
            say(&format!("steady, round {} of {}", round + 1, self.rounds))?;
            let mut all: Vec<_> =
                Case::all().flat_map(|case| servers.iter().map(move |server| (case, server))).collect();
            // In random order: this hasher is another one each time.
            let order = RandomState::new();
            all.sort_by_key(|(case, (server, _))| order.hash_one((case, server)));
            for (case, (server, service)) in all {
                rounds.push(self.measure(case, *server, service)?);
            }
        }
        Ok(rounds)
    }

    fn measure(&self, case: Case, server: Server, service: &Service<'_>) -> anyhow::Result<Round> {
        let (address, clock) = (service.wait_serving().http, Clock::of(service.pid())?);
        let used = || Some((Instant::now(), clock.read()?));
        let (mut begin, mut end) = (None, None);
        let answers = ask(case, address, || {
            sleep(WARM_UP);
            let from = now();
            begin = used();
            sleep(Duration::from_millis(self.millis));
            end = used();
            (from, now())
        })?;
        let (begin, end) = begin.zip(end).context("the server is gone")?;
        let (took, used) = (end.0 - begin.0, end.1 - begin.1);
        Ok(Round {
            case,
            server,
            per_second: answers as f64 / took.as_secs_f64(),
            processor_us: (answers > 0).then(|| used.as_secs_f64() * 1e6 / answers as f64),
        })
    }

    // ---- memory -------------------------------------------------------------------------------------------

    fn memory(&self) -> anyhow::Result<Memory> {
        say(&format!("steady: {} idle connections", self.idle))?;
        let (one, other) = (Sandbox::new(), Sandbox::new());
        let (axum, clients) = held(&start(&one, Server::Axum)?, self.idle)?;
        drop(clients);

        let old = start(&other, Server::Hotupdate)?;
        let begin = memory_of(&old)?;
        let (hotupdate, _clients) = held(&old, self.idle)?;
        let new = start(&other, Server::Hotupdate)?;
        let most = scope(|scope| {
            let watcher = scope.spawn(|| most_of_both(old.pid(), new.pid()));
            used_until_gone(&old)?;
            watcher.join().map_err(|_| anyhow!("the watcher has panicked"))
        })?;
        let each = |bytes: u64| bytes as f64 / self.idle as f64;
        Ok(Memory {
            connections: self.idle,
            axum: each(axum),
            hotupdate: each(hotupdate),
            updating: each(most.saturating_sub(2 * begin)),
        })
    }
}

/// What so many idle connections add to the memory of a server, and the connections.
fn held(
    service: &Service<'_>,
    connections: usize,
) -> anyhow::Result<(u64, Vec<integration_tests::steady::Steady>)> {
    let begin = memory_of(service)?;
    let clients = idle(service.wait_serving().http, connections)?;
    Clock::of(service.pid())?.settled()?;
    Ok((memory_of(service)?.saturating_sub(begin), clients))
}

fn memory_of(service: &Service<'_>) -> anyhow::Result<u64> {
    memory(service.pid()).context("the server is gone")
}

/// The most memory of both processes together while both are there.
fn most_of_both(old: u32, new: u32) -> u64 {
    let (until, mut most) = (Instant::now() + SOON, 0);
    while let Some(held) = memory(old)
        && Instant::now() < until
    {
        most = most.max(held + memory(new).unwrap_or(0));
        sleep(Duration::from_micros(500));
    }
    most
}

fn start(sandbox: &Sandbox, which: Server) -> anyhow::Result<Service<'_>> {
    let arguments: &[&str] = match which {
        Server::Axum | Server::Control => &["--axum"],
        Server::Nodelay => &["--axum", "--nodelay"],
        Server::Hotupdate => &["--probation", "0"],
    };
    let service = server(sandbox, 1, arguments)?;
    service.wait_serving();
    Ok(service)
}

/// Asks without a pause while `measure` runs: how many answers came in the time that it returns.
fn ask(
    case: Case,
    address: SocketAddr,
    measure: impl FnOnce() -> (u64, u64) + Send,
) -> anyhow::Result<usize> {
    if case.is_http2 {
        return http2::ask(case, address, measure);
    }
    let folder = tempfile::tempdir()?;
    let samples = folder.path().join("samples");
    let clients = CLIENTS.to_string();
    let none = ["--paced", "0", "--fresh", "0", "--idle", "0", "--streams", "0"];
    let arguments = ["--thinks", "0", "--closed", &clients, "--path", case.path].into_iter().chain(none);
    let arguments = arguments.chain(case.is_fresh.then_some("--reconnect")).map(str::to_owned);
    let (load, _) = LoadProcess::start(address, address, &arguments.collect::<Vec<_>>(), &samples)?;
    let (from, until) = measure();
    load.end()?;
    let samples = read(&samples)?;
    if let Some(failed) = samples.iter().find(|sample| sample.outcome == Outcome::Lost) {
        bail!("{}: a request was lost: {failed:?}", case.name());
    }
    Ok(samples.iter().filter(|sample| (from..until).contains(&(sample.at + sample.took))).count())
}
