//! A process that is watched for its end. Its process id stays its own meanwhile (pidfd_open(2)).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

#[derive(Debug)]
pub(crate) struct Watched(AsyncFd<OwnedFd>);

impl Watched {
    /// `None` if there is no such process, or the kernel cannot watch it.
    #[allow(deprecated, reason = "an `OwnedFd` stays what it is, and what takes its place is unsafe code")]
    pub(crate) fn open(pid: Pid) -> Option<Self> {
        let process = pidfd_open(pid, PidfdFlags::NONBLOCK).ok()?;
        AsyncFd::with_interest(process, Interest::READABLE).ok().map(Self)
    }

    /// Resolves when it has ended: its children have another parent then. Safe to cancel.
    pub(crate) async fn ended(&self) {
        // A pidfd that cannot be waited for says the same as one that is ready.
        drop(self.0.readable().await);
    }
}

impl AsFd for Watched {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.get_ref().as_fd()
    }
}
