//! How long live connections take to move to the next version, and what that costs: a table.
//!
//! Deliberately absent: clients that speak meanwhile. Whether they notice is a test,
//! `tests/connections/migration.rs`.

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use integration_tests::process::eventually;
use integration_tests::steady::{Steady, idle};
use integration_tests::{SOON, Sandbox, Service, status};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const CONNECTIONS: [usize; 5] = [1, 100, 1_000, 10_000, 15_000];

/// Times that each number is measured; the median is told.
const ROUNDS: usize = 3;

/// Descriptors that this program and a server need besides one for each connection.
const SPARE: u64 = 600;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // There is nowhere else to report it.
            let _ = writeln!(io::stderr(), "moves: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<()> {
    let limit = raise_limit()?;
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "{:>11}  {:>10}  {:>12}  {:>10}  {:>15}  {:>15}",
        "connections", "moved in", "old gone in", "in flight", "memory, old", "memory, new"
    )?;
    for connections in CONNECTIONS {
        if limit < connections as u64 + SPARE {
            writeln!(out, "{connections:>11}  (the limit of descriptors is {limit})")?;
            continue;
        }
        let mut rounds = Vec::new();
        for _ in 0..ROUNDS {
            rounds.push(round(connections)?);
        }
        rounds.sort_by_key(|round| round.moved);
        let Round { moved, gone, in_flight, old_bytes, new_bytes } = rounds[ROUNDS / 2];
        writeln!(
            out,
            "{connections:>11}  {:>7.1} ms  {:>9.1} ms  {in_flight:>10}  {:>9} B each  {:>9} B each",
            moved.as_secs_f64() * 1e3,
            gone.as_secs_f64() * 1e3,
            old_bytes,
            new_bytes
        )?;
    }
    Ok(())
}

/// One move of all connections.
struct Round {
    /// From `serving` until the last of them has moved.
    moved: Duration,
    /// From `serving` until the old process has ended.
    gone: Duration,
    /// The most copies of descriptors beyond one for each connection, as sampled.
    in_flight: u64,
    old_bytes: u64,
    new_bytes: u64,
}

fn round(connections: usize) -> anyhow::Result<Round> {
    let sandbox = Sandbox::new();
    let arguments = ["--probation", "0"];
    let old = Service::start(&sandbox, "old", &arguments);
    let address = old.wait_serving().http;
    let fresh = old.facts();
    let mut clients = idle(address, connections)?;
    let full = old.facts();

    let new = Service::start(&sandbox, "new", &arguments);
    let serving = new.wait_serving();
    let begun = Instant::now();
    let (mut moved, mut most) = (None, 0);
    let gone = eventually("the old process is gone", SOON, || {
        most = most.max(descriptors(old.pid()) + descriptors(new.pid()));
        if moved.is_none() && adopted(&sandbox, serving.pid) == Some(connections as u64) {
            moved = Some(begun.elapsed());
        }
        old.try_exit().map(|_| begun.elapsed())
    });
    let after = new.facts();
    for client in &mut clients {
        let who = Steady::who(client).context("a client was lost")?;
        ensure!(who == serving.pid, "{who} answers instead of {}", serving.pid);
    }
    let each = |rss: u64| rss.saturating_sub(fresh.rss_kib) * 1024 / connections as u64;
    let (held, base) = (connections as u64, 2 * fresh.fds as u64);
    Ok(Round {
        moved: moved.unwrap_or(gone),
        gone,
        in_flight: most.saturating_sub(held + base),
        old_bytes: each(full.rss_kib),
        new_bytes: each(after.rss_kib),
    })
}

fn adopted(sandbox: &Sandbox, pid: u32) -> Option<u64> {
    let status = status::call(&sandbox.control(), "io.hotupdate.Status").ok()?;
    let serving = &status["status"]["serving"];
    (serving["process"]["pid"] == pid).then(|| serving["totals"]["adopted"].as_u64())?
}

/// Since Linux 6.2 the size of this folder is the number of open descriptors.
fn descriptors(pid: u32) -> u64 {
    std::fs::metadata(format!("/proc/{pid}/fd")).map_or(0, |folder| folder.len())
}

/// As many descriptors as the system allows, also for the servers that are started from here.
fn raise_limit() -> anyhow::Result<u64> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
        .context("raise the limit of descriptors")?;
    Ok(maximum.unwrap_or(u64::MAX))
}
