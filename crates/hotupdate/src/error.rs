//! What can go wrong: what was being done, and whose fault it is.
//!
//! Deliberately absent: errors of single connections; those are the business of whoever reads and writes them.

use std::fmt;
use std::io;

use hotupdate_proto::Fault;

/// Why something could not be done. `Debug` prints like `Display`, so that a `main` that returns it reads well.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel said no.
    #[error("{doing}: {error}")]
    Io {
        /// What was being done.
        doing: String,
        /// What the kernel said.
        error: io::Error,
    },
    /// The other process broke the protocol.
    #[error("{doing}: {what}")]
    PeerMisbehaved {
        /// What was being done.
        doing: String,
        /// What it did.
        what: String,
    },
    /// The other process speaks another version of the protocol.
    #[error("{doing}: {what}")]
    PeerIncompatible {
        /// What was being done.
        doing: String,
        /// What does not fit.
        what: String,
    },
    /// The other process, or this machine's configuration, does not allow it. Nothing has changed; try again.
    #[error("{doing}: {why}")]
    Refused {
        /// What was being done.
        doing: String,
        /// Why not.
        why: String,
    },
    /// A mistake in the program that calls this library.
    #[error("{doing}: {what}")]
    ApiMisuse {
        /// What was being done.
        doing: String,
        /// What is wrong.
        what: String,
    },
}

/// What functions of this crate return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Error {
    pub(crate) fn refused(doing: impl Into<String>, why: impl fmt::Display) -> Self {
        Self::Refused { doing: doing.into(), why: why.to_string() }
    }

    pub(crate) fn misuse(doing: impl Into<String>, what: impl Into<String>) -> Self {
        Self::ApiMisuse { doing: doing.into(), what: what.into() }
    }

    pub(crate) fn fault(doing: impl Into<String>, fault: &Fault) -> Self {
        let doing = doing.into();
        let what = fault.to_string();
        match fault {
            Fault::PeerMisbehaved(_) => Self::PeerMisbehaved { doing, what },
            Fault::PeerIncompatible(_) => Self::PeerIncompatible { doing, what },
            _ => Self::Refused { doing, why: what },
        }
    }
}

/// Adds what was being done to an I/O error.
pub(crate) trait Doing<T> {
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Error::Io { doing: doing(), error })
    }
}

impl<T> Doing<T> for rustix::io::Result<T> {
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T> {
        self.map_err(io::Error::from).doing(doing)
    }
}
