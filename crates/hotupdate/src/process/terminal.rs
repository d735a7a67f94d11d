//! The terminal that this process was started at: whether it has closed.
//!
//! SIGHUP is sent by an operator who asks for something, and for a terminal that goes (signal(7)). A shell
//! passes the second kind on to its jobs with kill(2), so that the sender of the signal does not tell them
//! apart. What does is that a terminal that has gone cannot be opened any more (tty(4)).

use std::time::{Duration, Instant};

use hotupdate_proto::timing::fixed::process::TERMINAL_LOOK;
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use tokio::time::sleep;

/// What is known of the terminal.
#[derive(Debug)]
pub(crate) enum Terminal {
    /// There is none, or not any more.
    None,
    Open,
    /// It has closed at that moment. The same news may come once more: from the kernel and from a shell.
    Closed(Instant),
}

impl Terminal {
    pub(crate) fn of_this_process() -> Self {
        if is_there() { Self::Open } else { Self::None }
    }

    /// Whether it has just closed, and SIGHUP says no more than that.
    pub(crate) fn has_just_closed(&self, within: Duration) -> bool {
        matches!(self, Self::Closed(at) if at.elapsed() < within)
    }
}

/// Whether the terminal of this process goes within this time. Its end is a little later than the signal.
pub(crate) async fn closes(within: Duration) -> bool {
    let until = Instant::now() + within;
    while is_there() {
        if Instant::now() >= until {
            return false;
        }
        sleep(TERMINAL_LOOK).await;
    }
    true
}

fn is_there() -> bool {
    let opened = open("/dev/tty", OFlags::RDONLY | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty());
    // Any other error, such as too many open files, says nothing of the terminal.
    !matches!(opened, Err(Errno::NXIO | Errno::IO | Errno::NODEV | Errno::NOENT | Errno::ACCESS))
}
