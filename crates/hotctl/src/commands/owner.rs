//! Whether a process serves, without asking it: the serving process holds the lock of the control socket
//! (flock(2)), and passes it on to the next version. One that stops on purpose says so in the lock file
//! before it lets go; one that dies cannot. That files are missing says nothing: any cleaner removes them.
//!
//! Deliberately absent: trust in process ids. The serving process may be the child of any process, in any
//! container, where its process id may mean another process.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use hotupdate_proto::lock;
use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

use super::processes;

/// The lock of a control socket, and its file.
#[derive(Clone, Debug)]
pub(super) struct Owner {
    lock: PathBuf,
}

/// What a lock says that is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Last {
    /// The last process stopped on purpose.
    Stopped,
    /// It died.
    Died,
    /// Nothing: there is no lock file, and perhaps a process that makes it again in a moment.
    Unknown,
}

impl Owner {
    pub(super) fn of(socket: &Path) -> Self {
        Self { lock: lock::path(socket) }
    }

    /// A process serves, or is about to. Takes the lock for a moment if it is free; a service that starts in
    /// this moment tries again.
    pub(super) fn is_there(&self) -> io::Result<bool> {
        let Some(lock) = self.open()? else { return Ok(false) };
        match flock(&lock, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(false),
            Err(Errno::WOULDBLOCK) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns when no process holds the lock; also when its file was removed meanwhile.
    pub(super) fn wait_until_gone(&self) -> io::Result<Last> {
        let Some(lock) = self.open()? else { return Ok(Last::Unknown) };
        loop {
            match flock(&lock, FlockOperation::LockShared) {
                Ok(()) => return last_word(&lock),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The lock as it is now, for [`Lock::is_stopped`]; `None` if it cannot be read.
    pub(super) fn lock(&self) -> Option<Lock> {
        self.open().ok().flatten().map(Lock)
    }

    /// Whether this process, as hold sees it, has the lock open: then it is the one that serves. Not known of
    /// a process of another user (proc_pid_fd(5)).
    pub(super) fn is(&self, pid: u32) -> bool {
        let identity = |path: &Path| fs::metadata(path).map(|file| (file.dev(), file.ino())).ok();
        let Some(lock) = identity(&self.lock) else { return false };
        let mut open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        open.any(|entry| identity(&entry.path()) == Some(lock))
    }

    fn open(&self) -> io::Result<Option<File>> {
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
        match options.open(&self.lock) {
            Ok(lock) => Ok(Some(lock)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// A lock that stays what it was, also when its file is removed.
#[derive(Debug)]
pub(super) struct Lock(File);

impl Lock {
    /// Whether the service has stopped on purpose: no process holds the lock, and the last one said so.
    pub(super) fn is_stopped(&self) -> bool {
        let is_free = flock(&self.0, FlockOperation::NonBlockingLockShared).is_ok();
        let is_stopped = is_free && last_word(&self.0).is_ok_and(|last| last == Last::Stopped);
        if is_free {
            // A service that starts in this moment needs it.
            let _ = flock(&self.0, FlockOperation::Unlock);
        }
        is_stopped
    }
}

/// The processes that have the lock of this control socket open and are stopped (SIGSTOP, or a debugger): why a
/// service does not answer. None where this process may not look into them.
pub(crate) fn stopped(socket: &Path) -> Vec<u32> {
    let owner = Owner::of(socket);
    processes::stopped().filter(|pid| owner.is(*pid)).collect()
}

fn last_word(lock: &File) -> io::Result<Last> {
    let mut said = [0; lock::STOPPED.len()];
    let length = lock.read_at(&mut said, 0)?;
    Ok(if said[..length] == *lock::STOPPED { Last::Stopped } else { Last::Died })
}
