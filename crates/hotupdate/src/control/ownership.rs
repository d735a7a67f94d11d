//! Which process owns the path of the control socket, how it is made, and what of it is inherited.
//!
//! The owner is the process that holds the lock on `<path>.lock` (flock(2)). Lock and listener are open file
//! descriptions and travel to the next version, so the path always leads to the owner, the lock is never free
//! in between, and no process ever has to unlink a socket that might belong to another one.
//!
//! The socket is bound under its final name: that is the one by which the kernel knows it (`/proc/net/unix`),
//! and cleaners such as systemd-tmpfiles(8) leave alone what is there. The lock keeps every other process
//! from binding meanwhile.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use hotupdate_proto::timing::fixed::control::LOOK_AGAIN;
use hotupdate_proto::{SocketFile, lock};
use rustix::fs::{FileType, FlockOperation, Mode, OFlags, fchmod, flock};
use rustix::io::{Errno, pwrite};
use socket2::{Domain, SockAddr, SockRef, Socket, Type};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep};

use crate::error::{Doing, Error, Result};

use super::path::{check_own_directory, check_path, check_replaceable};
use super::user::{Users, check_peer, denied, give, share};

/// Operators and successors that wait to be accepted.
const BACKLOG: i32 = 128;

/// What makes a process the owner of a control socket's path.
#[derive(Debug)]
pub(crate) struct Ownership {
    pub(crate) listener: OwnedFd,
    pub(crate) lock: OwnedFd,
    /// The file that the listener is bound to.
    pub(crate) file: SocketFile,
}

/// What is found at a path.
#[derive(Debug)]
pub(crate) enum Found {
    /// No process: this one is the first, and owns it now.
    First(Ownership),
    /// A process that listens, and the file through which it was reached.
    Incumbent(UnixStream, SocketFile),
}

/// Becomes the owner of the path, or connects to its owner.
pub(crate) async fn find(path: &Path, users: &Users, within: Duration) -> Result<Found> {
    check_path(path, users)?;
    if let Err(not_ours) = check_own_directory(path) {
        return meet(path, users).await?.ok_or(not_ours);
    }
    let deadline = Instant::now() + within;
    loop {
        let lock = match open_lock(path) {
            Err(error) if is_denied(&error) => {
                return meet(path, users).await?.ok_or_else(|| not_openable(path, &error));
            }
            lock => lock?,
        };
        let file = socket_file(path);
        // The holder of the lock may be alive although we have it, if the lock file was removed.
        match (try_lock(&lock, path)?, connect(path).await) {
            (_, Ok(stream)) => {
                check_peer(&stream, path, users)?;
                // If it was made again in this moment, it is asked again.
                if let Some(file) = file.filter(|file| socket_file(path) == Some(*file)) {
                    return Ok(Found::Incumbent(stream, file));
                }
            }
            // A lock whose file was removed in this moment excludes no other process.
            (true, Err(error))
                if is_nobody(&error)
                    && error.kind() != io::ErrorKind::WouldBlock
                    && is_at(&lock, &lock::path(path)) =>
            {
                check_replaceable(path)?;
                let lock = lock.into();
                give(&lock, path, users)?;
                say_running(&lock);
                let (listener, file) = bind(path, users)?;
                return Ok(Found::First(Ownership { listener, lock, file }));
            }
            // The owner has the lock and not yet its socket, or is going away.
            (_, Err(error)) if is_nobody(&error) && Instant::now() < deadline => sleep(LOOK_AGAIN).await,
            (_, Err(error)) if is_nobody(&error) => {
                let why = format!(
                    "its lock is held, and no process answers ({error}; deadline `find`); if the holder \
                     hangs, or its socket file was removed, stop it: `lsof` names the process that has the \
                     lock file open"
                );
                return Err(Error::timed_out(format!("the control socket {}", path.display()), why));
            }
            (_, Err(error)) => {
                return Err(error).doing(|| format!("connecting to the control socket {}", path.display()));
            }
        }
    }
}

/// Connects to the owner, and makes nothing; `None` if there is no owner.
async fn meet(path: &Path, users: &Users) -> Result<Option<Found>> {
    let doing = || format!("connecting to the control socket {}", path.display());
    let file = socket_file(path);
    match connect(path).await {
        Ok(stream) => {
            check_peer(&stream, path, users)?;
            let file = file.filter(|file| socket_file(path) == Some(*file));
            Ok(file.map(|file| Found::Incumbent(stream, file)))
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let remedy = "be that user, or let the version that serves name this one (`allow_successor_uid`)";
            Err(Error::unusable_path(doing(), denied(path, &error, remedy)))
        }
        Err(error) if is_nobody(&error) => Ok(None),
        Err(error) => Err(error).doing(doing),
    }
}

/// Why this user cannot be the first there.
fn not_openable(path: &Path, error: &Error) -> Error {
    let remedy = "no process serves there, and only that user, or root, can make the control socket";
    let why = denied(&lock::path(path), error, remedy);
    Error::unusable_path(format!("the control socket {}", path.display()), why)
}

fn is_denied(error: &Error) -> bool {
    error.io_error().is_some_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
}

/// Removes the socket. Only its owner may, and only when no successor follows: later it could belong to
/// another process.
pub(crate) fn remove(path: &Path, ownership: &Ownership) {
    if is_at(&ownership.lock, &lock::path(path)) && socket_file(path) == Some(ownership.file) {
        let _ = fs::remove_file(path);
    }
}

/// Says in the lock that a process serves.
pub(crate) fn say_running(lock: &OwnedFd) {
    say(lock, lock::RUNNING);
}

/// Says in the lock that the service was stopped on purpose, before the lock is let go.
pub(crate) fn say_stopped(lock: &OwnedFd) {
    say(lock, lock::STOPPED);
}

fn say(lock: &OwnedFd, word: &[u8]) {
    if let Err(error) = pwrite(lock, word, 0) {
        let word = word.trim_ascii().escape_ascii();
        tracing::warn!(%error, "`{word}` cannot be written into the lock of the control socket");
    }
}

/// Whether the file at the path is this one.
pub(super) fn is_at(file: impl AsFd, path: &Path) -> bool {
    let ours = rustix::fs::fstat(file).map(|stat| (stat.st_dev, stat.st_ino));
    let there = fs::symlink_metadata(path).map(|there| (there.dev(), there.ino()));
    matches!((ours, there), (Ok(ours), Ok(there)) if ours == there)
}

/// The socket that is at the path.
pub(super) fn socket_file(path: &Path) -> Option<SocketFile> {
    let there = fs::symlink_metadata(path).ok()?;
    there.file_type().is_socket().then(|| SocketFile { device: there.dev(), inode: there.ino() })
}

/// Checks a control listener and a lock that arrived: they have to be what they are said to be, and the
/// listener that one through which the incumbent was `reached`. (Our own name for it is of no use: it may
/// have another one in another container.)
pub(crate) fn check_inherited(ownership: &Ownership, reached: Option<&Path>) -> Result<(), String> {
    let bound = SockRef::from(&ownership.listener).local_addr().ok();
    let bound = bound.as_ref().and_then(SockAddr::as_pathname);
    check_kinds(ownership)?;
    if bound != reached {
        let show = |path: Option<&Path>| path.map_or("nowhere".into(), |path| path.display().to_string());
        return Err(format!(
            "the control listener is bound to {}, and it was reached at {}",
            show(bound),
            show(reached)
        ));
    }
    Ok(())
}

/// The same of those that were made again.
pub(crate) fn check_kinds(ownership: &Ownership) -> Result<(), String> {
    use rustix::net::{AddressFamily, SocketType, sockopt};
    let Ownership { listener, lock, file: _ } = ownership;
    let is_listener = sockopt::socket_domain(listener) == Ok(AddressFamily::UNIX)
        && sockopt::socket_type(listener) == Ok(SocketType::STREAM)
        && sockopt::socket_acceptconn(listener) == Ok(true)
        && SockRef::from(listener).nonblocking().is_ok_and(|nonblocking| nonblocking);
    if !is_listener {
        return Err("the control listener is not a non-blocking Unix socket that listens".to_owned());
    }
    // flock(2) takes whatever it gets, and would not be released by the death of the process that has the
    // file.
    if !rustix::fs::fstat(lock)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile)
    {
        return Err("the lock is not a file".to_owned());
    }
    // The lock belongs to the open file description, so taking it again through a duplicate succeeds, and
    // through any other description of the same file it does not.
    flock(lock, FlockOperation::NonBlockingLockExclusive)
        .map_err(|error| format!("the lock is not held: {error}"))
}

pub(super) fn open_lock(path: &Path) -> Result<File> {
    let path = lock::path(path);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    options.custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
    options.open(&path).doing(|| format!("opening the lock file {}", path.display()))
}

pub(super) fn try_lock(lock: &File, path: &Path) -> Result<bool> {
    match flock(lock.as_fd(), FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error).doing(|| format!("locking {}", lock::path(path).display())),
    }
}

async fn connect(path: &Path) -> io::Result<UnixStream> {
    // The kernel's backlog of the listener can be full (`EAGAIN`, unix(7)): ask again, like one that is not
    // there yet.
    UnixStream::connect(path).await
}

fn is_nobody(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, ConnectionReset, NotFound, WouldBlock};
    // Reset: it was closed while we waited to be accepted.
    matches!(error.kind(), ConnectionRefused | ConnectionReset | NotFound | WouldBlock)
}

/// Makes the socket, with its final name and rights from the first instant; what a process left behind there
/// is removed before. Only the holder of the lock does.
pub(super) fn bind(path: &Path, users: &Users) -> Result<(OwnedFd, SocketFile)> {
    let doing = || format!("making the control socket {}", path.display());
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error).doing(doing),
        _ => {}
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).doing(doing)?;
    // bind(2) gives the file the mode of the socket's own inode (net/unix/af_unix.c, unix_bind_bsd).
    fchmod(&socket, Mode::RUSR | Mode::WUSR).doing(doing)?;
    SockAddr::unix(path).and_then(|address| socket.bind(&address)).doing(doing)?;
    let ready = || {
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        let file = socket_file(path).ok_or_else(|| io::Error::other("it was removed in this moment"))?;
        let mode = fs::symlink_metadata(path)?.mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(io::Error::other(format!("the socket came out with mode {mode:04o}")));
        }
        share(path, users)?;
        Ok(file)
    };
    match ready() {
        Ok(file) => Ok((socket.into(), file)),
        Err(error) => {
            let _ = fs::remove_file(path);
            Err(error).doing(doing)
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    pub(in crate::control) const SOON: Duration = Duration::from_secs(10);

    pub(in crate::control) fn directory(mode: u32) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(mode)).unwrap();
        directory
    }

    #[tokio::test]
    async fn the_first_owns_the_path_and_the_second_meets_it() {
        let directory = directory(0o700);
        let path = directory.path().join("control.sock");
        let first = find(&path, &Users::default(), SOON).await.unwrap();
        assert!(matches!(first, Found::First(_)));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert!(matches!(find(&path, &Users::default(), SOON).await.unwrap(), Found::Incumbent(..)));
        let names: Vec<_> = fs::read_dir(&directory).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names.len(), 2, "only the socket and its lock: {names:?}");
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced() {
        let directory = directory(0o700);
        let path = directory.path().join("control.sock");
        drop(find(&path, &Users::default(), SOON).await.unwrap());
        assert!(path.exists(), "as after kill -9");
        assert!(matches!(find(&path, &Users::default(), SOON).await.unwrap(), Found::First(_)));
    }

    #[tokio::test]
    async fn a_removed_lock_file_does_not_make_a_second_owner() {
        let directory = directory(0o700);
        let path = directory.path().join("control.sock");
        let _first = find(&path, &Users::default(), SOON).await.unwrap();
        fs::remove_file(lock::path(&path)).unwrap();
        assert!(matches!(find(&path, &Users::default(), SOON).await.unwrap(), Found::Incumbent(..)));
    }

    #[tokio::test]
    async fn of_many_first_starts_exactly_one_is_first() {
        let directory = directory(0o700);
        let path = directory.path().join("control.sock");
        let starts: Vec<_> = (0..16)
            .map(|_| {
                let path = path.clone();
                tokio::spawn(async move { find(&path, &Users::default(), SOON).await.unwrap() })
            })
            .collect();
        let mut found = Vec::new();
        for start in starts {
            found.push(start.await.unwrap());
        }
        assert_eq!(found.iter().filter(|f| matches!(f, Found::First(_))).count(), 1);
    }

    #[tokio::test]
    async fn a_held_lock_without_a_socket_is_waited_for_and_then_named() {
        let directory = directory(0o700);
        let path = directory.path().join("control.sock");
        let lock = open_lock(&path).unwrap();
        assert!(try_lock(&lock, &path).unwrap());
        let error = find(&path, &Users::default(), Duration::from_millis(50)).await.unwrap_err();
        assert!(error.to_string().contains("deadline `find`"), "{error}");
    }

    #[tokio::test]
    async fn an_inherited_lock_has_to_be_the_one() {
        let directory = directory(0o700);
        let path = directory.path().join("control.sock");
        let Found::First(owner) = find(&path, &Users::default(), SOON).await.unwrap() else {
            panic!("no process was there")
        };
        let duplicate = |fd: &OwnedFd| fd.try_clone().unwrap();
        let ownership = |listener, lock| Ownership { listener, lock, file: owner.file };
        let stream = connect(&path).await.unwrap();
        let address = stream.peer_addr().unwrap();
        let reached = address.as_pathname();
        let same = ownership(duplicate(&owner.listener), duplicate(&owner.lock));
        check_inherited(&same, reached).unwrap();
        assert!(check_inherited(&same, Some(Path::new("/elsewhere"))).unwrap_err().contains("/elsewhere"));
        let other = ownership(duplicate(&owner.listener), open_lock(&path).unwrap().into());
        assert!(check_inherited(&other, reached).unwrap_err().contains("lock"));
        let a_socket = ownership(duplicate(&owner.listener), duplicate(&owner.listener));
        assert!(check_inherited(&a_socket, reached).unwrap_err().contains("the lock is not a file"));
        let swapped = ownership(duplicate(&owner.lock), duplicate(&owner.lock));
        assert!(check_inherited(&swapped, reached).unwrap_err().contains("listener"));
    }
}
