//! What a process has used.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use integration_tests::{SOON, Sandbox, Service, eventually, process::binary};
use nix::time::{ClockId, clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// By so many descriptors two processes differ that have the same connections, while one is there that the
/// other is not: of links, of files that are read.
pub(crate) const FEW: u64 = 10;

/// A process that has used less than this in [`CALM`] is done with its work.
const LITTLE: Duration = Duration::from_micros(300);
const CALM: Duration = Duration::from_millis(20);

/// The processor time of a process, exact to the nanosecond where the kernel counts so, all its threads
/// together, also of one that has ended and was not waited for yet: clock_getcpuclockid(3).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(ClockId);

impl Clock {
    pub(crate) fn of(pid: u32) -> anyhow::Result<Self> {
        let pid = Pid::from_raw(i32::try_from(pid)?);
        Ok(Self(clock_getcpuclockid(pid).with_context(|| format!("the processor time of {pid}"))?))
    }

    pub(crate) fn read(self) -> Option<Duration> {
        clock_gettime(self.0).ok().map(Duration::from)
    }

    /// The time once the process is done with what it does.
    pub(crate) fn settled(self) -> anyhow::Result<Duration> {
        let begun = Instant::now();
        let mut last = self.read().context("the process is gone")?;
        loop {
            std::thread::sleep(CALM);
            let next = self.read().context("the process is gone")?;
            if next < last + LITTLE || SOON < begun.elapsed() {
                return Ok(next);
            }
            last = next;
        }
    }
}

/// Writes the version that the next `bench-server` of this sandbox answers with, and starts it.
pub(crate) fn server<'a>(
    sandbox: &'a Sandbox,
    version: u32,
    arguments: &[&str],
) -> anyhow::Result<Service<'a>> {
    std::fs::write(sandbox.path().join("version"), format!("v{version}"))?;
    let folder = sandbox.path().display().to_string();
    let usual = ["--http", "127.0.0.1:0", "--dir", &folder];
    let arguments: Vec<_> = usual.iter().chain(arguments).map(|argument| (*argument).to_owned()).collect();
    Ok(Service::spawn(sandbox, &binary("bench-server"), &arguments))
}

/// Waits until the process has ended; its processor time in all.
pub(crate) fn used_until_gone(service: &Service<'_>) -> anyhow::Result<Duration> {
    let clock = Clock::of(service.pid())?;
    let mut used = clock.read().context("it has not been waited for")?;
    eventually("the old process is gone", SOON, || {
        if service.is_alive() {
            return None;
        }
        // What is left of it still knows.
        used = clock.read().unwrap_or(used);
        service.try_exit()
    });
    Ok(used)
}

/// As many descriptors as the system allows, also for the servers that are started from here.
pub(crate) fn raise_limit() -> anyhow::Result<u64> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
        .context("raising the limit of descriptors")?;
    Ok(maximum.unwrap_or(u64::MAX))
}

/// Resident memory that is the process' own and no file's, in bytes: `RssAnon`, proc_pid_status(5).
pub(crate) fn memory(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

/// Since Linux 6.2 the size of this folder is the number of open descriptors.
pub(crate) fn descriptors(pid: u32) -> u64 {
    std::fs::metadata(format!("/proc/{pid}/fd")).map_or(0, |folder| folder.len())
}
