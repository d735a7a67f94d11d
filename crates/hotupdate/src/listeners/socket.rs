//! Listeners that another program accepts from.

use std::fmt;
use std::io;

use crate::address::Address;
use crate::listeners::gate::{Claim, Gated};
use crate::platform::{BorrowedFd, OwnedFd};

/// A listening socket as it is: open or parked, the runtime does not watch it. Otherwise every connection of
/// the other program would wake this process.
impl Gated for OwnedFd {
    const SENDS: bool = false;

    fn register(fd: OwnedFd, _: &Address) -> io::Result<Self> {
        Ok(fd)
    }

    fn deregister(self) -> io::Result<OwnedFd> {
        Ok(self)
    }
}

/// A stream listener that goes from one version to the next, and from which a program accepts that this
/// process runs and speaks for ([`Builder::program`](crate::Builder::program)), as `hotctl run` does.
///
/// The next version of the same service may just as well accept from it by itself, as a
/// [`Listener`](crate::Listener), and the other way round.
///
/// Nothing stops the other program from accepting: that is for the process that runs it, when
/// [`Drain::started`](crate::Drain::started) resolves. **Dropping it closes it**, as a
/// [`Listener`](crate::Listener) is closed, but not the duplicate that the program has.
///
/// ```no_run
/// # async fn start(_: std::os::fd::OwnedFd) {}
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let mut hot = hotupdate::builder("/run/shop/control.sock").program("gunicorn app:app").join().await?;
/// let http = hot.tcp_socket("http", "0.0.0.0:8080").await?;
/// start(http.with_fd(|fd| fd.try_clone_to_owned())?).await;
/// let hot = hot.ready().await?;
/// hot.drain().started().await; // the program is told to stop
/// # Ok(())
/// # }
/// ```
pub struct ListeningSocket {
    gate: Claim<OwnedFd>,
}

impl ListeningSocket {
    pub(crate) fn new(gate: Claim<OwnedFd>) -> Self {
        Self { gate }
    }

    /// The key under which the next version will ask for it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.gate.name
    }

    /// Where it listens: what was asked for, with the port that the kernel chose for port 0.
    #[must_use]
    pub fn local_addr(&self) -> &Address {
        &self.gate.address
    }

    /// Calls `use_it` with the listening socket, to duplicate it or to set an option. It is non-blocking, and
    /// options belong to the socket: every process that has it shares them.
    ///
    /// # Errors
    /// What `use_it` returns, and an error when the listener is closed.
    pub fn with_fd<R>(&self, use_it: impl FnOnce(BorrowedFd<'_>) -> io::Result<R>) -> io::Result<R> {
        self.gate.with_fd(use_it)
    }
}

impl fmt::Debug for ListeningSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ListeningSocket")
            .field("name", &self.gate.name)
            .field("local_addr", &self.gate.address)
            .finish()
    }
}
