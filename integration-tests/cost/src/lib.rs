//! What a request costs with `hotupdate_axum::serve`, beside `axum::serve`: instructions of the server, as
//! valgrind counts them, and memory of idle connections.
//!
//! Both servers are in one process, built the same way, and do the same work one after the other. Only their
//! ratio is compared with the ratio that is written down: it is the same on every machine, as far as that is
//! possible.
//!
//! Deliberately absent: time. It says something else in each run.

// Elsewhere it is empty, so that the workspace builds where developers work.
#![cfg(target_os = "linux")]
#![expect(clippy::print_stdout, reason = "it is what the program says")]

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Parser, Subcommand};

mod client;
mod server;

use client::{Client, Protocol, Request};
use server::Addresses;

/// How much more than it was a request may cost before that is a failure. A new connection of HTTP/2 has two
/// values, some 5 % apart, as the process happens to be; what is written down lies between.
const TOLERANCE: f64 = 0.03;

/// When connections are idle beyond doubt.
const LATER: Duration = Duration::from_secs(4);

/// Before what is counted, so that caches and pools are as they stay.
const WARM_UP: u32 = 50;
/// What a process does beside it differs, and so does the way of the allocator: the median is what it costs.
const ROUNDS: usize = 5;
const KEPT: u32 = 80;
const FRESH: u32 = 20;

/// What a request costs with `hotupdate_axum::serve`, beside `axum::serve`
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Counts instructions per request, and fails if the ratio is 3 % above that in FILE
    Instructions {
        /// Where the ratios are written down
        file: PathBuf,
        /// Writes down the ratios of today
        #[arg(long)]
        write: bool,
        /// Only what has this in its name
        #[arg(long, default_value = "", conflicts_with = "write")]
        only: String,
        /// Keeps here what callgrind has counted, for callgrind_annotate
        #[arg(long)]
        keep: Option<PathBuf>,
    },
    /// Measures the memory of idle connections
    Memory {
        /// How many of them
        #[arg(long, default_value_t = 900)]
        connections: usize,
    },
    /// Both servers, until they are killed
    #[command(hide = true)]
    Serve { folder: PathBuf },
}

/// The whole program.
#[must_use]
pub fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            println!("cost: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Verb) -> anyhow::Result<ExitCode> {
    match command {
        Verb::Instructions { file, write, only, keep } => instructions(&file, write, &only, keep),
        Verb::Memory { connections } => memory(connections),
        Verb::Serve { folder } => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let say = |Addresses { axum, hotupdate }| println!("{axum} {hotupdate}");
            runtime.block_on(server::serve(&folder, say))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Something that is done many times.
#[derive(Clone, Copy, Debug)]
struct Case {
    name: &'static str,
    protocol: Protocol,
    request: Request,
    fresh: bool,
}

const CASES: [Case; 10] = {
    use Protocol::{Http1, Http2};
    use Request::{Hello, Json, Large};
    const fn case(name: &'static str, protocol: Protocol, request: Request, fresh: bool) -> Case {
        Case { name, protocol, request, fresh }
    }
    [
        case("http1-kept-hello", Http1, Hello, false),
        case("http1-kept-json", Http1, Json, false),
        case("http1-kept-large", Http1, Large, false),
        case("http1-fresh-hello", Http1, Hello, true),
        case("http1-fresh-json", Http1, Json, true),
        case("http2-kept-hello", Http2, Hello, false),
        case("http2-kept-json", Http2, Json, false),
        case("http2-kept-large", Http2, Large, false),
        case("http2-fresh-hello", Http2, Hello, true),
        case("http2-fresh-json", Http2, Json, true),
    ]
};

impl Case {
    /// Does it to a server. Returns instructions for each request.
    fn count(self, server: SocketAddr, parts: &mut Parts) -> anyhow::Result<f64> {
        let Self { name, protocol, request, fresh } = self;
        let mut kept = Client::connect(server, protocol)?;
        // Before that a client does not know how much it may send.
        kept.ask(Request::Hello)?;
        let mut ask = |times: u32| -> anyhow::Result<()> {
            for _ in 0..times {
                if fresh {
                    let mut client = Client::connect(server, protocol)?;
                    client.ask(request)?;
                    client.close()?;
                } else {
                    kept.ask(request)?;
                }
            }
            Ok(())
        };
        ask(WARM_UP)?;
        let times = if fresh { FRESH } else { KEPT };
        let mut rounds = [0; ROUNDS];
        for round in &mut rounds {
            parts.next("between")?;
            ask(times)?;
            *round = parts.next(&format!("{name}-{server}"))?;
        }
        rounds.sort_unstable();
        kept.close().with_context(|| format!("{name}, at the end"))?;
        Ok(rounds[ROUNDS / 2] as f64 / f64::from(times))
    }
}

/// Counts of callgrind, part by part.
struct Parts {
    client: Client,
    files: PathBuf,
    number: u32,
    /// What it costs to end a part.
    costs: u64,
    keep: Option<PathBuf>,
}

impl Parts {
    fn new(server: SocketAddr, files: PathBuf, keep: Option<PathBuf>) -> anyhow::Result<Self> {
        let client = Client::connect(server, Protocol::Http1)?;
        let mut parts = Self { client, files, number: 0, costs: 0, keep };
        for _ in 0..WARM_UP {
            parts.next("between")?;
        }
        parts.costs = parts.next("between")?;
        Ok(parts)
    }

    /// Instructions since the end of the last part.
    fn next(&mut self, name: &str) -> anyhow::Result<u64> {
        self.client.ask(Request::Part)?;
        self.number += 1;
        let file = self.files.with_extension(self.number.to_string());
        let part = fs::read_to_string(&file)
            .with_context(|| format!("cannot read what callgrind has written to {}", file.display()))?;
        let sum =
            part.lines().find_map(|line| line.strip_prefix("totals: ").or(line.strip_prefix("summary: ")));
        let sum: u64 = sum.context("callgrind has written no sum")?.trim().parse()?;
        if let Some(keep) = &self.keep {
            fs::copy(&file, keep.join(name))?;
        }
        fs::remove_file(file)?;
        Ok(sum.saturating_sub(self.costs))
    }
}

fn instructions(file: &Path, write: bool, only: &str, keep: Option<PathBuf>) -> anyhow::Result<ExitCode> {
    let folder = tempfile::tempdir()?;
    let counts = folder.path().join("part");
    let mut valgrind = Command::new("valgrind");
    valgrind.arg("--tool=callgrind").arg(format!("--callgrind-out-file={}", counts.display()));
    valgrind.arg(format!("--dump-before={}", server::END_OF_A_PART)).arg("--quiet");
    let (_server, addresses) = Server::start(valgrind, folder.path())?;
    let mut parts = Parts::new(addresses.axum, counts, keep)?;
    let before = if write { String::new() } else { fs::read_to_string(file).unwrap_or_default() };
    let mut ratios = String::new();
    let mut rose = false;
    println!(
        "{:<20} {:>12} {:>14} {:>7} {:>9}",
        "instructions for a", "axum::serve", "hotupdate_axum", "ratio", "recorded"
    );
    for case in CASES.into_iter().filter(|case| case.name.contains(only)) {
        let axum = case.count(addresses.axum, &mut parts)?;
        let ours = case.count(addresses.hotupdate, &mut parts)?;
        let ratio = ours / axum;
        writeln!(ratios, "{} {ratio:.3}", case.name)?;
        let recorded = recorded(&before, case.name)?;
        let verdict = match recorded {
            Some(recorded) if ratio > recorded * (1. + TOLERANCE) => "ROSE",
            Some(recorded) if ratio < recorded * (1. - TOLERANCE) => "fell",
            _ => "",
        };
        rose |= verdict == "ROSE";
        let recorded = recorded.map_or("-".to_owned(), |recorded| format!("{recorded:.3}"));
        println!("{:<20} {axum:>12.0} {ours:>14.0} {ratio:>7.3} {recorded:>9} {verdict}", case.name);
    }
    if write {
        fs::write(file, ratios)?;
    }
    if rose {
        println!(
            "cost: a request costs more than 3 % above what {} says; --keep shows where, `make cost` writes it \
             down",
            file.display()
        );
    }
    Ok(if rose { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// A line of the file is a name and a ratio.
fn recorded(file: &str, name: &str) -> anyhow::Result<Option<f64>> {
    let line = file.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map(|ratio| ratio.trim().parse().with_context(|| format!("{name}: {ratio:?} is no ratio")))
        .transpose()
}

fn memory(connections: usize) -> anyhow::Result<ExitCode> {
    println!("{:<16} {:>12} {:>16} {:>16}", "idle connections", "resident", "each", "and later");
    for ours in [false, true] {
        let folder = tempfile::tempdir()?;
        let (server, Addresses { axum, hotupdate }) = Server::start(Command::new("env"), folder.path())?;
        let (name, address) = if ours { ("hotupdate_axum", hotupdate) } else { ("axum::serve", axum) };
        let mut clients = Vec::new();
        let ask = |client: &mut Client| client.ask(Request::Hello);
        for _ in 0..WARM_UP {
            ask(&mut Client::connect(address, Protocol::Http1)?)?;
        }
        let before = server.resident()?;
        for _ in 0..connections {
            let mut client = Client::connect(address, Protocol::Http1)?;
            ask(&mut client)?;
            clients.push(client);
        }
        let idle = server.resident()?;
        std::thread::sleep(LATER);
        let later = server.resident()?;
        let each = |now: u64| now.saturating_sub(before) * 1024 / connections as u64;
        println!("{name:<16} {:>9} kB {:>14} B {:>14} B", later, each(idle), each(later));
    }
    Ok(ExitCode::SUCCESS)
}

/// Both servers in a process of their own. It is killed when this is dropped.
struct Server(Child);

impl Server {
    fn start(mut with: Command, folder: &Path) -> anyhow::Result<(Self, Addresses)> {
        with.arg(std::env::current_exe()?).arg("serve").arg(folder);
        let mut server =
            Self(with.stdout(Stdio::piped()).spawn().with_context(|| format!("cannot start {with:?}"))?);
        let mut line = String::new();
        BufReader::new(server.0.stdout.take().expect("it is piped")).read_line(&mut line)?;
        let [axum, hotupdate] = *line.split_whitespace().collect::<Vec<_>>() else {
            bail!("the server says {line:?} instead of where it listens");
        };
        Ok((server, Addresses { axum: axum.parse()?, hotupdate: hotupdate.parse()? }))
    }

    /// kB
    fn resident(&self) -> anyhow::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        Ok(line.context("no VmRSS")?.trim().trim_end_matches(" kB").parse()?)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It is gone already if that fails.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
