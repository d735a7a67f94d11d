//! The process that serves, as one sees it whose supervisor takes it for the service: signals are passed on
//! to it, and its end is the end of both.
//!
//! Deliberately absent: a process in another pid namespace. A signal does not reach it, and it has a
//! supervisor of its own.

use std::io;
use std::os::fd::AsFd;

use hotupdate_proto::message::Place;
use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, WaitOptions, pidfd_send_signal, test_kill_process, wait, waitid,
};

use super::watched::Watched;

/// How a process ended, as a shell says it: its exit code, or 128 and the number of the signal.
pub(crate) type ExitCode = i32;

/// What is known of a process that died and was no child: that it did not stop on purpose.
pub(crate) const DIED: ExitCode = 1;

#[derive(Debug)]
pub(crate) struct Heir {
    pub(crate) pid: u32,
    pub(crate) place: Place,
    process: Option<Watched>,
    was_gone: bool,
    has_ended: bool,
    /// It said that it stops on purpose.
    stops: bool,
    /// How it ended, if this process could learn that.
    code: Option<ExitCode>,
}

impl Heir {
    /// The process that says so of itself. `is_near`: a process id means the same here and there. It lives as
    /// long as its link is open, so that the process id is still its own.
    pub(crate) fn new(pid: u32, place: Place, is_near: bool) -> Self {
        let process = is_near.then(|| open(pid)).flatten();
        let was_gone = is_near && process.is_none() && is_gone(pid);
        Self { pid, place, process, was_gone, has_ended: false, stops: false, code: None }
    }

    /// Whether it had ended before this process could wait for it.
    pub(crate) fn was_gone(&self) -> bool {
        self.was_gone
    }

    /// Whether it can be waited for, and signals reach it.
    pub(crate) fn is_near(&self) -> bool {
        self.process.is_some()
    }

    /// It stops on purpose: its end is a success, if nothing else is known of it.
    pub(crate) fn stops(&mut self) {
        self.stops = true;
    }

    /// A process ended that is a child of this one.
    pub(crate) fn child_ended(&mut self, pid: u32, code: ExitCode) {
        if pid == self.pid {
            self.code = Some(code);
        }
    }

    /// # Errors
    /// As pidfd_send_signal(2); without a word if it has ended.
    pub(crate) fn pass_on(&self, signal: Signal) -> io::Result<()> {
        let Some(process) = &self.process else { return Ok(()) };
        match pidfd_send_signal(process, signal) {
            Err(Errno::SRCH) | Ok(()) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Resolves once, when it has ended. Safe to cancel.
    pub(crate) async fn ended(&mut self) {
        let (Some(process), false) = (&self.process, self.has_ended) else {
            return std::future::pending().await;
        };
        process.ended().await;
        self.has_ended = true;
        // Left as it is for whatever else waits for this child.
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        if let Ok(Some(ended)) = waitid(WaitId::PidFd(process.as_fd()), options) {
            self.code = self.code.or(code(ended.exit_status(), ended.terminating_signal()));
        }
    }

    /// How this process ends after it.
    pub(crate) fn code(&self) -> ExitCode {
        self.code.unwrap_or(if self.stops { 0 } else { DIED })
    }
}

/// How a process ended, from what wait(2) tells of it.
pub(crate) fn code(exit_status: Option<i32>, signal: Option<i32>) -> Option<ExitCode> {
    exit_status.or(signal.map(|signal| 128 + signal))
}

/// Waits for the children that have ended, orphans among them, and tells of each.
pub(crate) fn reap(mut ended: impl FnMut(u32, ExitCode)) {
    while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
        if let Some(code) = code(status.exit_status(), status.terminating_signal()) {
            ended(pid.as_raw_nonzero().get().unsigned_abs(), code);
        }
    }
}

fn is_gone(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.is_none_or(|pid| test_kill_process(pid) == Err(Errno::SRCH))
}

fn open(pid: u32) -> Option<Watched> {
    Watched::open(i32::try_from(pid).ok().and_then(Pid::from_raw)?)
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    fn heir(pid: u32) -> Heir {
        Heir::new(pid, Place::default(), true)
    }

    #[tokio::test]
    async fn a_child_ends_as_it_ended() {
        for (script, expected) in [("exit 0", 0), ("exit 7", 7), ("kill -KILL $$", 137)] {
            let mut child = Command::new("sh").args(["-c", script]).spawn().unwrap();
            let mut heir = heir(child.id());
            timeout(SOON, heir.ended()).await.unwrap();
            assert!(heir.has_ended && heir.code() == expected, "{script}: {}", heir.code());
            child.wait().unwrap();
            assert!(timeout(Duration::ZERO, heir.ended()).await.is_err(), "once");
        }
    }

    #[tokio::test]
    async fn signals_reach_it() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let mut heir = heir(child.id());
        assert!(heir.is_near() && timeout(Duration::ZERO, heir.ended()).await.is_err());
        heir.pass_on(Signal::TERM).unwrap();
        timeout(SOON, heir.ended()).await.unwrap();
        assert_eq!(heir.code(), 143);
        child.wait().unwrap();
        heir.pass_on(Signal::TERM).unwrap();
    }

    /// Another process is its parent, and only its own word says how it ended.
    #[test]
    fn what_is_no_child_ends_well_if_it_said_so() {
        let mut heir = Heir::new(1, Place::default(), false);
        assert!(!heir.is_near());
        assert_eq!(heir.code(), 1);
        heir.stops();
        assert_eq!(heir.code(), 0);
        heir.child_ended(2, 3);
        assert_eq!(heir.code(), 0, "another process");
        heir.child_ended(1, 3);
        assert_eq!(heir.code(), 3);
    }
}
