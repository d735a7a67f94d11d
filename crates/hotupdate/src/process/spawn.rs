//! Starting the program of this process anew, detached.
//!
//! Deliberately absent: waiting until it serves. It joins over the control socket like a successor that
//! anybody started. And a second fork, which would make it a child of the process that adopts orphans: what
//! happens between fork(2) and exec(2) is unsafe code in Rust, and no other process could say how it ended.

use std::env;
use std::ffi::OsString;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use hotupdate_proto::environment::{ATTEMPT, DETACH, NOT_INHERITED};
use rustix::io::Errno;
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use tokio::signal::unix::{SignalKind, signal};

/// How this process was started.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
    directory: Option<PathBuf>,
}

impl Program {
    /// The path is the one that the process was started from, not `/proc/self/exe`: after a new binary was
    /// renamed to that path, the latter still leads to the old one, and ends in ` (deleted)`.
    pub(crate) fn of_this_process() -> Option<Self> {
        let mut arguments = env::args_os();
        let name = PathBuf::from(arguments.next()?);
        let directory = env::current_dir().ok();
        let path = match &directory {
            Some(directory) if name.components().count() > 1 => directory.join(&name),
            _ if name.is_absolute() => name,
            _ => search(&name).or_else(|| env::current_exe().ok())?,
        };
        Some(Self { path, arguments: arguments.collect(), directory })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn start(&self, attempt: &str) -> io::Result<Child> {
        let mut command = Command::new(&self.path);
        command.args(&self.arguments).stdin(Stdio::null()).env(ATTEMPT, attempt).env(DETACH, "1");
        for name in NOT_INHERITED {
            command.env_remove(name);
        }
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        command.spawn()
    }
}

fn search(name: &Path) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).map(|directory| directory.join(name)).find(|path| path.is_file())
}

/// Waits until the child has ended, and leaves it to be waited for once more (waitid(2), `WNOWAIT`): by this
/// process, or by the one that inherits it. tokio's children leave nothing.
pub(crate) async fn ended(child: &Child) -> io::Result<ExitStatus> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(Errno::CHILD)?;
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    // First, or else it could end between a look and the wait for the next.
    let mut ends = signal(SignalKind::child())?;
    loop {
        if let Some(ended) = waitid(WaitId::Pid(pid), options)? {
            let code = ended.exit_status().map(|code| code << 8);
            return Ok(ExitStatus::from_raw(code.or(ended.terminating_signal()).unwrap_or_default()));
        }
        ends.recv().await;
    }
}

/// Leaves the session in which this process was started, if that is what it was started for.
pub(crate) fn detach_if_asked() {
    if env::var_os(DETACH).is_some() {
        // Fails for the leader of a process group (setsid(2)), which has a life of its own already.
        let _ = rustix::process::setsid();
    }
}
