//! For tests of services that are replaced: two versions in one test, or two real processes.
//!
//! Both are shown in the guide [`testing`](crate::guides::testing).

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use hotupdate_proto::Timing;
use hotupdate_proto::frame;
use hotupdate_proto::operator::{Call, ProcessState, Reply};
use hotupdate_proto::timing::fixed::testing::{ANSWER, INTERVAL, SOON};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Map;

use crate::config::Builder;

#[doc(no_inline)]
pub use hotupdate_proto::operator::{ProcessStatus, Status};

mod table;
#[doc(hidden)]
pub use table::Table;

/// Settings for a version that lives in a test beside another: no probation, so that the version before ends
/// as soon as its connections have; signals are left to the test; no deadline of a handoff is missed on a
/// slow machine; versions may crash as often as a test wants; and a control socket that is removed stays so,
/// since the folder of a test goes at its end, often a moment before its services.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let directory = tempfile::tempdir()?;
/// let control = directory.path().join("control.sock");
/// let old = hotupdate::testing::builder(&control).version("1").join().await?.ready().await?;
/// let new = hotupdate::testing::builder(&control).version("2").join().await?.ready().await?;
/// old.drained().await;
/// # Ok(())
/// # }
/// ```
pub fn builder(control: impl AsRef<Path>) -> Builder {
    let timing = Timing::default()
        .reply(SOON)
        .batch(SOON)
        .stop(SOON)
        .serving(SOON)
        .released(2 * SOON)
        .resume(SOON)
        .probation(Duration::ZERO)
        .crash_backoff(Duration::ZERO)
        .path_check(Duration::MAX);
    crate::builder(control).stop_signals(false).timing(timing)
}

/// A real process that is under test. It is killed when this value is dropped.
///
/// ```no_run
/// # fn example() -> std::io::Result<()> {
/// use std::process::Command;
///
/// use hotupdate::testing::Process;
///
/// # let directory = std::path::Path::new("/run/test");
/// let control = directory.join("control.sock");
/// let server = || {
///     let mut command = Command::new("target/debug/server"); // in a test: env!("CARGO_BIN_EXE_server")
///     command.arg("--control").arg(&control);
///     command
/// };
/// let old = Process::start(&mut server(), &control)?;
/// let new = Process::start(&mut server(), &control)?; // it takes over from the old one
/// assert!(old.wait()?.success(), "the old one has drained");
/// assert_eq!(hotupdate::testing::status(&control)?.serving.process.pid, new.id());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Process {
    child: Child,
    control: PathBuf,
}

impl Process {
    /// Starts the program, and waits until it serves: as the first of its service, or as the successor of the
    /// one that serves at this control socket.
    ///
    /// # Errors
    /// If the program cannot be started, ends before it serves (its standard error says why, and goes where
    /// that of the test goes), or does not serve within a minute.
    pub fn start(command: &mut Command, control: impl AsRef<Path>) -> io::Result<Self> {
        let program = command.get_program().to_string_lossy().into_owned();
        let mut process = Self { child: command.spawn()?, control: control.as_ref().to_owned() };
        let serves = |process: &mut Self| {
            if let Some(status) = process.child.try_wait()? {
                return Err(io::Error::other(format!("{program} ended before it served: {status}")));
            }
            // Before the first process is there, nothing answers.
            let serves = status(&process.control).is_ok_and(|Status { serving, .. }| {
                serving.process.pid == process.id() && serving.state == ProcessState::Serving
            });
            Ok(serves.then_some(()))
        };
        process.until(serves, || format!("{program} does not serve at {}", control.as_ref().display()))?;
        Ok(process)
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends it SIGTERM: a process that serves stops gracefully, or gives the service back to its predecessor
    /// if that is in probation.
    ///
    /// # Errors
    /// What kill(2) says, for example that it has ended.
    pub fn terminate(&self) -> io::Result<()> {
        let pid = i32::try_from(self.id()).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::NotFound)?;
        Ok(kill_process(pid, Signal::TERM)?)
    }

    /// Waits until it has ended, as it does when a successor serves and it has drained.
    ///
    /// # Errors
    /// If it has not ended within a minute.
    pub fn wait(mut self) -> io::Result<ExitStatus> {
        let id = self.id();
        self.until(|process| process.child.try_wait(), || format!("process {id} does not end"))
    }

    fn until<T>(
        &mut self,
        mut look: impl FnMut(&mut Self) -> io::Result<Option<T>>,
        what: impl FnOnce() -> String,
    ) -> io::Result<T> {
        let begun = Instant::now();
        loop {
            if let Some(found) = look(self)? {
                return Ok(found);
            }
            if begun.elapsed() > SOON {
                return Err(io::Error::new(io::ErrorKind::TimedOut, format!("waited {SOON:?}: {}", what())));
            }
            thread::sleep(INTERVAL);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // One that has ended cannot be killed, and what is left of it was waited for before.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks the process that serves at this control socket how the service is: which processes there are, how
/// many connections they have, how the last handoff went. It is what `hotctl status` shows.
///
/// # Errors
/// If no process answers there.
pub fn status(control: impl AsRef<Path>) -> io::Result<Status> {
    let call = Call {
        method: format!("{}.Status", hotupdate_proto::INTERFACE),
        parameters: Map::new(),
        oneway: false,
        more: false,
        upgrade: false,
    };
    let mut stream = UnixStream::connect(control)?;
    stream.set_read_timeout(Some(ANSWER))?;
    stream.write_all(&frame::encode(&call).map_err(io::Error::other)?)?;
    let mut bytes = Vec::new();
    BufReader::new(stream).read_until(0, &mut bytes)?;
    bytes.pop();
    let Reply { mut parameters, error, .. } = frame::decode(&bytes).map_err(io::Error::other)?;
    match (parameters.remove("status"), error) {
        (Some(status), None) => Ok(serde_json::from_value::<Status>(status)?),
        (_, error) => Err(io::Error::other(format!("it answers {}", error.as_deref().unwrap_or("nothing")))),
    }
}
