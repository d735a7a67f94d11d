//! One upgrade of one system under load.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};
use std::{env, thread};

use anyhow::{Context as _, ensure};
use integration_tests::Status;

use crate::load::{Sample, now, read};
use crate::machine::{self, Used};
use crate::process::{FEW, descriptors, raise_limit};
use crate::stalls::Watch;
use crate::systems::{Place, Running, System, eventually};

/// When what happens in one upgrade.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    /// How long the load runs before the upgrade.
    pub(crate) before: Duration,
    /// How long afterwards latencies are compared.
    pub(crate) after: Duration,
    /// How long the idle clients need to ask, which begins a moment later.
    pub(crate) ask: Duration,
    /// Since the upgrade began: the raw streams end, unless the old process is gone before.
    pub(crate) release: Duration,
    /// Since the upgrade began: an old process that is still there is not waited for.
    pub(crate) gone: Duration,
}

/// What one upgrade showed.
pub(crate) struct Seen {
    pub(crate) system: System,
    pub(crate) samples: Vec<Sample>,
    /// When the upgrade was asked for.
    pub(crate) at: u64,
    pub(crate) times: Times,
    /// Raw streams.
    pub(crate) streams: usize,
    /// Until the old process was gone, if it went.
    pub(crate) gone: Option<Duration>,
    /// When the machine stood still; `None`: it was not watched.
    pub(crate) stalls: Option<Vec<Range<u64>>>,
    /// What other processes used of the processors just before, and the host meanwhile.
    pub(crate) others: f64,
    pub(crate) stolen: f64,
    pub(crate) own: Option<Own>,
}

/// What can be seen of this project alone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Own {
    /// How long no process accepted, as it says itself.
    pub(crate) gap: Option<Duration>,
    /// Until the old process had no connection any more.
    pub(crate) moved: Option<Duration>,
}

/// An address that no process uses now.
fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// Echoes, for proxies, which pass connections on to a program that does.
pub(crate) fn echo() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut bytes = [0; 1024];
                while let Ok(n @ 1..) = stream.read(&mut bytes) {
                    if stream.write_all(&bytes[..n]).is_err() {
                        break;
                    }
                }
            });
        }
    });
    Ok(address)
}

/// The load in a process of its own.
pub(crate) struct LoadProcess(Child);

impl LoadProcess {
    /// And its raw streams.
    pub(crate) fn start(
        http: SocketAddr,
        raw: SocketAddr,
        arguments: &[String],
        samples: &Path,
    ) -> anyhow::Result<(Self, usize)> {
        let mut command = Command::new(env::current_exe()?);
        command.arg("load").args(arguments).arg("--samples").arg(samples);
        command.args(["--http", &http.to_string(), "--raw", &raw.to_string()]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let stdout = child.stdout.take().context("it has an output")?;
        let started = Self(child);
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let streams = line.trim().strip_prefix("ready ").context("the load does not begin")?;
        Ok((started, streams.parse()?))
    }

    pub(crate) fn say(&mut self, command: &str) -> anyhow::Result<()> {
        let stdin = self.0.stdin.as_mut().context("it has an input")?;
        writeln!(stdin, "{command}").context("the load has ended")
    }

    pub(crate) fn end(mut self) -> anyhow::Result<()> {
        self.say("stop")?;
        let status = self.0.wait()?;
        ensure!(status.success(), "the load failed: {status}");
        Ok(())
    }
}

impl Drop for LoadProcess {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn upgrade(
    system: System,
    load: &[String],
    times: Times,
    echo: SocketAddr,
) -> anyhow::Result<Seen> {
    let others = machine::others();
    let temporary = tempfile::Builder::new().prefix("bench-").tempdir()?;
    let folder = fs::canonicalize(temporary.path())?;
    let files = raise_limit()?;
    let place = Place { http: free_address()?, raw: free_address()?, echo, files, folder };
    let mut running = Running::start(system, &place)?;
    let seen = measure(&mut running, system, &place, load, times).with_context(|| running.log())?;
    Ok(Seen { others, ..seen })
}

fn measure(
    running: &mut Running<'_>,
    system: System,
    place: &Place,
    load: &[String],
    times: Times,
) -> anyhow::Result<Seen> {
    let folder = &place.folder;
    eventually("it listens", || {
        [place.http, place.raw].iter().all(|at| TcpStream::connect(at).is_ok()).then_some(())
    })?;
    let own = (system == System::Hotupdate).then(|| running.first()).transpose()?;
    let without = own.map_or(0, descriptors);
    let (samples, stalls) = (folder.join("samples"), folder.join("stalls"));
    let (watch, used) = (Watch::start(&stalls), Used::now());
    let (mut load, streams) = LoadProcess::start(place.http, place.raw, load, &samples)?;
    sleep(times.before);

    let (at, begun) = (now(), Instant::now());
    running.upgrade()?;
    let (mut gone, mut moved) = (None, None);
    let mut look = |until: Duration| {
        while begun.elapsed() < until {
            if gone.is_none() && !running.is_old_there() {
                gone = Some(begun.elapsed());
            }
            if moved.is_none() && own.is_some_and(|pid| descriptors(pid) <= without + FEW) {
                moved = Some(begun.elapsed());
            }
            sleep(Duration::from_millis(1));
        }
        gone
    };
    look(times.after + Duration::from_millis(200));
    let gap = own.and_then(|_| gap(folder));
    load.say("ask")?;
    look(begun.elapsed() + times.ask);
    let mut wait = |until: Duration| {
        while look(begun.elapsed() + Duration::from_millis(50)).is_none() && begun.elapsed() < until {}
    };
    if system != System::Control {
        wait(times.release);
    }
    load.say("release")?;
    if system != System::Control {
        wait(times.gone);
    }
    load.end()?;
    let stolen = used.stolen();
    let stalls = watch.map(|watch| watch.end(&stalls)).transpose()?;
    let gone = gone.filter(|_| system != System::Control);
    let (samples, own) = (read(&samples)?, own.map(|_| Own { gap, moved }));
    Ok(Seen { system, samples, at, times, streams, gone, stalls, others: 0.0, stolen, own })
}

fn gap(folder: &Path) -> Option<Duration> {
    let status = Status::ask(&folder.join("control.sock")).ok()?;
    status.last_handoff?.gap_ns.map(Duration::from_nanos)
}
