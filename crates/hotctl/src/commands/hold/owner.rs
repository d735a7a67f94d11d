//! Whether a process serves, without asking it: the serving process holds the lock of the control socket
//! (flock(2)), and passes it on to the next version.
//!
//! Deliberately absent: trust in process ids. The serving process may be the child of any process, in any
//! container, where its process id may mean another process.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

/// The lock of a control socket, and its file.
#[derive(Clone, Debug)]
pub(super) struct Owner {
    socket: PathBuf,
    lock: PathBuf,
}

impl Owner {
    pub(super) fn of(socket: &Path) -> Self {
        let mut lock = socket.as_os_str().to_owned();
        lock.push(".lock");
        Self { socket: socket.to_owned(), lock: lock.into() }
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

    /// Returns when no process serves.
    pub(super) fn wait_until_gone(&self) -> io::Result<()> {
        let Some(lock) = self.open()? else { return Ok(()) };
        loop {
            match flock(&lock, FlockOperation::LockShared) {
                Ok(()) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Whether this process, as hold sees it, has the lock open: then it is the one that serves. Not known of a
    /// process of another user (proc_pid_fd(5)).
    pub(super) fn is(&self, pid: u32) -> bool {
        let identity = |path: &Path| fs::metadata(path).map(|file| (file.dev(), file.ino())).ok();
        let Some(lock) = identity(&self.lock) else { return false };
        let mut open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        open.any(|entry| identity(&entry.path()) == Some(lock))
    }

    /// The last owner did not remove its socket, as one does that stops on purpose.
    pub(super) fn left_its_socket(&self) -> bool {
        fs::symlink_metadata(&self.socket).is_ok()
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
