//! What can go wrong: what was being done, whose fault it is, and which process serves now.
//!
//! Deliberately absent: errors of single connections, which reading and writing return.

use std::error;
use std::fmt;
use std::io;

use hotupdate_proto::Fault;

/// Why a process cannot join, become ready, or use a listener.
///
/// It shows as one line: what was being done, what went wrong, and which process serves in spite of it, as
/// far as that is known. `Debug` prints the same, so that a `main` that returns it reads well.
///
/// ```no_run
/// use hotupdate::ErrorKind;
///
/// # async fn example() {
/// if let Err(error) = hotupdate::join("/run/hello/control.sock").await {
///     eprintln!("hello: {error}");
///     if error.kind() == ErrorKind::Refused {
///         // Nothing has changed, for example because another version is being started; try again later.
///     }
/// }
/// # }
/// ```
pub struct Error {
    kind: ErrorKind,
    doing: String,
    what: String,
    io: Option<io::Error>,
    serves: Option<String>,
}

/// Whose fault an [`Error`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The incumbent said no, or gave the attempt up, and says why. Nothing has changed.
    Refused,
    /// The other process did not do something before a named deadline of [`Timing`](crate::Timing).
    TimedOut,
    /// The other process died.
    PeerGone,
    /// The other process broke the protocol.
    PeerMisbehaved,
    /// The other process speaks another version of the protocol.
    PeerIncompatible,
    /// The path cannot be that of a control socket: it is too long, its directory is missing or not safe,
    /// something else is there, or what listens there belongs to a user that is not trusted. Nothing was
    /// changed there.
    UnusablePath,
    /// An operator or a signal ended the attempt.
    Cancelled,
    /// Something failed in this process, most often because the kernel refused it: then
    /// [`Error::io_error`] says what it said.
    Local,
    /// A mistake in the program that calls this library.
    ApiMisuse,
}

/// What functions of this crate return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Whose fault it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The process that serves in spite of this error, such as `process 4711 (1.2.0)`. `None` if it is not
    /// known that another process serves.
    #[must_use]
    pub fn served_by(&self) -> Option<&str> {
        self.serves.as_deref()
    }

    /// What the kernel said, if that is the reason. It is part of the text of this error.
    #[must_use]
    pub fn io_error(&self) -> Option<&io::Error> {
        self.io.as_ref()
    }

    pub(crate) fn new(kind: ErrorKind, doing: impl Into<String>, what: impl Into<String>) -> Self {
        Self { kind, doing: doing.into(), what: what.into(), io: None, serves: None }
    }

    pub(crate) fn timed_out(doing: impl Into<String>, what: impl Into<String>) -> Self {
        Self::new(ErrorKind::TimedOut, doing, what)
    }

    pub(crate) fn unusable_path(doing: impl Into<String>, why: impl Into<String>) -> Self {
        Self::new(ErrorKind::UnusablePath, doing, why)
    }

    /// A mistake in the program that calls: [`ErrorKind::ApiMisuse`]. For crates that build on this one, such
    /// as servers.
    ///
    /// ```
    /// let error = hotupdate::Error::misuse("serving FTP", "there is no listener");
    /// assert_eq!(error.to_string(), "serving FTP: there is no listener");
    /// ```
    #[must_use]
    pub fn misuse(doing: impl Into<String>, what: impl Into<String>) -> Self {
        Self::new(ErrorKind::ApiMisuse, doing, what)
    }

    /// A handoff has failed, from the process `incumbent` if it is known.
    pub(crate) fn fault(doing: impl Into<String>, fault: &Fault, incumbent: Option<String>) -> Self {
        let kind = match fault {
            Fault::PeerMisbehaved(_) => ErrorKind::PeerMisbehaved,
            Fault::PeerIncompatible(_) => ErrorKind::PeerIncompatible,
            Fault::PeerGone => ErrorKind::PeerGone,
            Fault::TimedOut(_) => ErrorKind::TimedOut,
            Fault::Aborted { .. } | Fault::Abandoned | Fault::Stopping => ErrorKind::Cancelled,
            Fault::Local(_) => ErrorKind::Local,
            // What the other side says in its own words.
            _ => ErrorKind::Refused,
        };
        match incumbent {
            // It does not serve on, and in its own words it would be "this process".
            Some(process) if fault.peer_is_stopping() => {
                Self::new(kind, doing, format!("{process} is stopping"))
            }
            serves => Self::new(kind, doing, fault.to_string()).while_served_by(serves),
        }
    }

    /// The process that serves in spite of the error, if one is known.
    pub(crate) fn while_served_by(mut self, process: Option<String>) -> Self {
        self.serves = process;
        self
    }

    /// Without the process that serves, to which this is told.
    pub(crate) fn reason(&self) -> String {
        format!("{}: {}", self.doing, self.what)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind: _, doing, what, io: _, serves } = self;
        write!(f, "{doing}: {what}")?;
        match serves {
            Some(process) => write!(f, "; {process} serves on"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Without a source: what the kernel said is in the text, and a program that prints sources would say it
/// twice.
impl error::Error for Error {}

/// Adds what was being done to an I/O error.
pub(crate) trait Doing<T> {
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| {
            let local = Error::new(ErrorKind::Local, doing(), error.to_string());
            Error { io: Some(error), ..local }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As programs print an error: with everything that is behind it.
    #[test]
    fn what_the_kernel_said_is_said_once() {
        let emfile = io::Error::from_raw_os_error(24);
        let failed: Result<()> = Err(emfile).doing(|| "binding the listener http".to_owned());
        let error = failed.unwrap_err();
        let errors = std::iter::successors(Some(&error as &dyn error::Error), |error| error.source());
        let said = errors.map(ToString::to_string).collect::<Vec<_>>().join(": ");
        assert_eq!(said, "binding the listener http: Too many open files (os error 24)");
        assert_eq!(error.io_error().and_then(io::Error::raw_os_error), Some(24));
    }

    #[test]
    fn an_incumbent_that_is_stopping_is_not_said_to_serve_on() {
        let incumbent = || Some("process 7".to_owned());
        let failed = |why: String| Error::fault("succeeding", &Fault::PeerFailed(why), incumbent());
        let stops = failed(Fault::Stopping.to_string());
        assert_eq!(stops.to_string(), "succeeding: process 7 is stopping");
        assert_eq!(stops.served_by(), None);
        let fails = failed("no room".to_owned());
        assert_eq!(fails.to_string(), "succeeding: the other side gave up: no room; process 7 serves on");
        assert_eq!(fails.served_by(), Some("process 7"));
    }
}
