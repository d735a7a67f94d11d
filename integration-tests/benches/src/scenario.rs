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

use crate::load::{Sample, now, read};
use crate::stalls::Watch;
use crate::systems::{Place, Running, System, eventually};

/// How long the load runs before the upgrade, and how long afterwards latencies are compared.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    pub(crate) before: Duration,
    pub(crate) after: Duration,
    /// The old process that is still there by then is not waited for.
    pub(crate) gone: Duration,
}

/// The idle clients ask within this time.
const ASK: Duration = Duration::from_millis(1_500);

/// What one upgrade showed.
pub(crate) struct Seen {
    pub(crate) system: System,
    pub(crate) samples: Vec<Sample>,
    /// When the upgrade was asked for.
    pub(crate) at: u64,
    pub(crate) times: Times,
    /// Until the old process was gone, if it went.
    pub(crate) gone: Option<Duration>,
    /// When the machine stood still; `None`: it was not watched.
    pub(crate) stalls: Option<Vec<Range<u64>>>,
}

/// Temporary files are in memory: a journal of a disk must not be what is measured.
fn folder() -> anyhow::Result<tempfile::TempDir> {
    let memory = Path::new("/dev/shm");
    let builder = &mut tempfile::Builder::new();
    let builder = builder.prefix("bench-");
    Ok(if memory.is_dir() { builder.tempdir_in(memory)? } else { builder.tempdir()? })
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
struct LoadProcess(Child);

impl LoadProcess {
    fn start(place: &Place, arguments: &[String], samples: &Path) -> anyhow::Result<Self> {
        let mut command = Command::new(env::current_exe()?);
        command.arg("load").args(arguments).arg("--samples").arg(samples);
        command.args(["--http", &place.http.to_string(), "--raw", &place.raw.to_string()]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("it has an output")?).read_line(&mut line)?;
        ensure!(line.trim() == "ready", "the load does not begin");
        Ok(Self(child))
    }

    fn say(&mut self, command: &str) -> anyhow::Result<()> {
        let stdin = self.0.stdin.as_mut().context("it has an input")?;
        writeln!(stdin, "{command}").context("the load has ended")
    }

    fn end(mut self) -> anyhow::Result<()> {
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
    let folder = folder()?;
    let path = fs::canonicalize(folder.path())?;
    let place = Place { http: free_address()?, raw: free_address()?, echo, folder: path.clone() };
    let mut running = Running::start(system, &place)?;
    measure(&mut running, system, &place, load, times).with_context(|| running.log())
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
    let (samples, stalls) = (folder.join("samples"), folder.join("stalls"));
    let watch = Watch::start(&stalls);
    let mut load = LoadProcess::start(place, load, &samples)?;
    sleep(times.before);

    let (at, begun) = (now(), Instant::now());
    running.upgrade()?;
    let mut gone = None;
    let mut look = |until: Duration| {
        while begun.elapsed() < until {
            if gone.is_none() && !running.is_old_there() {
                gone = Some(begun.elapsed());
            }
            sleep(Duration::from_millis(1));
        }
        gone
    };
    look(times.after + Duration::from_millis(200));
    load.say("ask")?;
    look(begun.elapsed() + ASK);
    while look(begun.elapsed() + Duration::from_millis(50)).is_none() && begun.elapsed() < times.gone {}
    load.end()?;
    let stalls = watch.map(|watch| watch.end(&stalls)).transpose()?;
    let gone = gone.filter(|_| system != System::Control);
    Ok(Seen { system, samples: read(&samples)?, at, times, gone, stalls })
}
