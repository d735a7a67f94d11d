//! Varlink calls over the control socket: one JSON object and a NUL byte each way, and a deadline for
//! everything.
//!
//! Deliberately absent: retries. Only the caller knows whether a second call is harmless.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hotupdate_proto::frame::{self, Decoder};
use hotupdate_proto::operator::{Call, Reply};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::commands;
use crate::exit::{Exit, Failure};

/// The shortest timeout that the kernel takes for one; zero would mean "for ever" (socket(7)).
pub(crate) const SHORTEST: Duration = Duration::from_millis(1);

/// Why a call failed.
#[derive(Debug)]
pub(crate) enum CallError {
    /// No connection to the control socket.
    Unreachable { path: PathBuf, source: io::Error },
    /// The service answered with an error; `name` is without its interface.
    Refused { name: String, reason: String },
    /// The connection ended before the answer.
    Closed { path: PathBuf },
    /// What came is not Varlink.
    Garbled { path: PathBuf, reason: String },
    /// No answer in time.
    TimedOut { path: PathBuf, after: Duration },
    /// Ctrl-C.
    Interrupted,
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Unreachable { path, source } => unreachable_socket(&path, &source),
            CallError::Refused { reason, .. } => Self::refused(reason),
            CallError::Closed { path } => {
                Self::refused(format!("{} closed the connection without an answer", path.display()))
            }
            CallError::Garbled { path, reason } => {
                Self::refused(format!("{} is not a control socket of hotupdate: {reason}", path.display()))
            }
            CallError::TimedOut { path, after } => {
                let after = crate::text::duration(after);
                Self::new(
                    Exit::TimedOut,
                    format!(
                        "timed out after {after}: no answer from {}{}",
                        path.display(),
                        standstill(&path)
                    ),
                )
            }
            CallError::Interrupted => Self::new(Exit::Interrupted, "interrupted"),
        }
    }
}

pub(crate) fn unreachable_socket(file: &Path, source: &io::Error) -> Failure {
    let path = file.display();
    let why = crate::text::os_error(source);
    match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Failure::new(
            Exit::NotRunning,
            format!(
                "no service listens on {path} ({why}); start it, or find running ones with `hotctl list`"
            ),
        ),
        io::ErrorKind::PermissionDenied => Failure::refused(format!(
            "not allowed to connect to {path} ({why}{}); be the user that owns the service, or root",
            whose(file)
        )),
        io::ErrorKind::WouldBlock => Failure::new(
            Exit::TimedOut,
            format!("timed out: {path} accepts no connections (its queue is full){}", standstill(file)),
        ),
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidFilename => {
            Failure::new(Exit::Usage, format!("{path} is no control socket: {why}"))
        }
        _ => Failure::refused(format!("cannot connect to {path}: {why}")),
    }
}

/// `: 4100 is stopped …`: why a service does not answer, as far as the kernel says it, and what to do.
pub(crate) fn standstill(path: &Path) -> String {
    match commands::stopped(path).as_slice() {
        [] => String::new(),
        [pid] => format!(
            ": process {pid} is stopped (SIGSTOP or a debugger), and its clients wait; `kill -CONT {pid}` lets \
             it go on"
        ),
        several => {
            let pids = several.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
            format!(
                ": processes {pids} are stopped (SIGSTOP or a debugger), and their clients wait; `kill -CONT \
                 {pids}` lets them go on"
            )
        }
    }
}

/// `: /run/shop belongs to uid 1000, mode 0700`: how far this process comes on its way to a file, from the
/// root, is the file itself, or the directory that it may not enter.
fn whose(file: &Path) -> String {
    let mut parts: Vec<_> = file.ancestors().filter(|part| !part.as_os_str().is_empty()).collect();
    parts.reverse();
    let last = parts.into_iter().map_while(|part| Some((part, fs::metadata(part).ok()?))).last();
    last.map_or_else(String::new, |(part, there)| {
        format!(": {} belongs to uid {}, mode {:04o}", part.display(), there.uid(), there.mode() & 0o7777)
    })
}

/// One connection to a control socket.
pub(crate) struct Client {
    path: PathBuf,
    stream: UnixStream,
    decoder: Decoder,
}

impl Client {
    /// Connects within `limit`. The standard library would wait for ever where the backlog is full, which is
    /// what a stopped process looks like.
    pub(crate) fn connect(path: &Path, limit: Duration) -> Result<Self, CallError> {
        let stream = open(path, limit).map_err(|source| {
            // connect(2) says "Connection refused" of everything that is no socket.
            let source = check_kind(path).err().unwrap_or_else(|| source.into());
            CallError::Unreachable { path: path.to_owned(), source }
        })?;
        Ok(Self { path: path.to_owned(), stream, decoder: Decoder::default() })
    }

    /// Sends a call; `more` asks for a stream of replies.
    pub(crate) fn send<P: Serialize>(
        &mut self,
        method: &str,
        parameters: &P,
        more: bool,
    ) -> Result<(), CallError> {
        let parameters = match serde_json::to_value(parameters) {
            Ok(Value::Object(parameters)) => parameters,
            _ => Map::new(),
        };
        let call = Call { method: method.to_owned(), parameters, oneway: false, more, upgrade: false };
        let bytes = frame::encode(&call).map_err(|error| self.garbled(error.to_string()))?;
        match self.stream.write_all(&bytes) {
            // A caller that is not permitted is told so before it has sent anything; the reply is still to be
            // read.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            sent => sent.map_err(|_| CallError::Closed { path: self.path.clone() }),
        }
    }

    /// The next reply, and whether more follow; `None` if it has not arrived by `until`.
    pub(crate) fn receive<T: DeserializeOwned>(
        &mut self,
        until: Instant,
    ) -> Result<Option<(T, bool)>, CallError> {
        let Some(frame) = self.frame(until)? else { return Ok(None) };
        let reply: Reply = frame::decode(&frame).map_err(|error| self.garbled(error.to_string()))?;
        if let Some(name) = reply.error {
            return Err(refusal(&name, &reply.parameters));
        }
        let value = serde_json::from_value(Value::Object(reply.parameters))
            .map_err(|error| self.garbled(format!("{error}; or is hotctl older than the service?")))?;
        Ok(Some((value, reply.continues)))
    }

    fn frame(&mut self, until: Instant) -> Result<Option<Vec<u8>>, CallError> {
        let mut bytes = [0; 16 * 1024];
        loop {
            if let Some(frame) = self.decoder.next_frame() {
                return frame.map(Some).map_err(|error| self.garbled(error.to_string()));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            match self.read(&mut bytes, left) {
                Ok(0) => return Err(CallError::Closed { path: self.path.clone() }),
                Ok(read) => self.decoder.push(&bytes[..read]),
                Err(error) if is_pause(&error) => {}
                Err(_) => return Err(CallError::Closed { path: self.path.clone() }),
            }
        }
    }

    fn read(&mut self, bytes: &mut [u8], limit: Duration) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(limit.max(SHORTEST)))?;
        self.stream.read(bytes)
    }

    fn garbled(&self, reason: String) -> CallError {
        CallError::Garbled { path: self.path.clone(), reason }
    }
}

/// An error if something else than a socket is at the path.
pub(crate) fn check_kind(path: &Path) -> io::Result<()> {
    let what = match fs::metadata(path).map(|metadata| metadata.file_type()) {
        Err(_) => return Ok(()),
        Ok(kind) if kind.is_socket() => return Ok(()),
        Ok(kind) if kind.is_dir() => "it is a directory",
        Ok(kind) if kind.is_file() => "it is a file",
        Ok(_) => "it is something else",
    };
    Err(io::Error::new(io::ErrorKind::InvalidInput, what))
}

fn open(path: &Path, limit: Duration) -> rustix::io::Result<UnixStream> {
    let address = SocketAddrUnix::new(path)?;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // It bounds both connect(2) and every write (unix(7), socket(7)).
    set_socket_timeout(&socket, Timeout::Send, Some(limit.max(SHORTEST)))?;
    rustix::io::retry_on_intr(|| connect(&socket, &address))?;
    Ok(UnixStream::from(socket))
}

fn is_pause(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}

/// The errors of `io.hotupdate` bring a reason; those of `org.varlink.service` name what they stumbled over.
fn refusal(error: &str, parameters: &Map<String, Value>) -> CallError {
    let name = error.rsplit('.').next().unwrap_or(error).to_owned();
    let word = |key: &str| parameters.get(key).and_then(Value::as_str);
    let reason = match (word("reason"), name.as_str()) {
        (Some(reason), _) => reason.to_owned(),
        (None, "MethodNotFound" | "MethodNotImplemented" | "InterfaceNotFound") => {
            let what = word("method").or(word("interface")).unwrap_or("this");
            format!("the service does not know {what}; is it older than hotctl?")
        }
        (None, "InvalidParameter") => {
            format!("the service does not take `{}`", word("parameter").unwrap_or("?"))
        }
        (None, "PermissionDenied") => {
            "the service does not allow it; be the user that owns it, or root".to_owned()
        }
        (None, _) => format!("the service says {error}"),
    };
    CallError::Refused { name, reason }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixListener;

    use super::*;

    /// Root may connect to everything, and tests may run as root, so this one has to be told.
    #[test]
    fn not_permitted_is_not_absent() {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let path = folder.path().join("app/x.sock");
        let failure = unreachable_socket(&path, &io::Error::from_raw_os_error(13));
        assert_eq!(failure.exit, Exit::Refused);
        let uid = rustix::process::geteuid().as_raw();
        let said = format!(
            "not allowed to connect to {} (Permission denied: {} belongs to uid {uid}, mode 0700); be the user \
             that owns the service, or root",
            path.display(),
            folder.path().display()
        );
        assert_eq!(failure.reason, said);
    }

    /// A process that was stopped (SIGSTOP) accepts nothing, and its queue fills up.
    #[test]
    fn a_full_queue_does_not_hold_the_client() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("full.sock");
        let listener = UnixListener::bind(&path).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let limit = Duration::from_millis(50);
        let connected: Vec<_> = (0..3).map(|_| Client::connect(&path, limit)).collect();
        let error = connected.into_iter().find_map(Result::err).unwrap();
        assert_eq!(Failure::from(error).exit, Exit::TimedOut);
    }
}
