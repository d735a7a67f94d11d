//! The path of the control socket: where it usually is, and what may be there.

use std::env;
use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

use hotupdate_proto::{environment, lock};
use rustix::process::geteuid;

use super::user::{Users, denied};
use crate::error::{Doing, Error, Result};

/// `sun_path` has 108 bytes, one of them for the NUL (unix(7)).
const MAX_PATH: usize = 107;

/// The path of the control socket of the service `name`, where operators look for it. Its directory is made,
/// for this user only, if it is not there.
///
/// It is the first of these that there is:
///
/// 1. `$HOTUPDATE_SOCKET`, the path itself, which `hotctl` reads, too
/// 2. `$RUNTIME_DIRECTORY/control.sock`, where systemd has made a directory for the service (systemd.exec(5),
///    `RuntimeDirectory=`): of several the one that is called `name`, or else the first
/// 3. `/run/NAME/control.sock`, for root, and for the user that owns that directory, so that a version
///    started by hand finds the one that systemd has started
/// 4. `$XDG_RUNTIME_DIR/NAME/control.sock`, for any other user
///
/// All versions of a service have to come to the same path, or else they do not meet: the second would find
/// that it is the first, and cannot bind the listeners. `hotctl` finds what is in `/run` and
/// `$XDG_RUNTIME_DIR` by itself.
///
/// ```no_run
/// # async fn example() -> Result<(), hotupdate::Error> {
/// let mut hot = hotupdate::join(hotupdate::control_path("hello")?).await?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`ApiMisuse`](crate::ErrorKind::ApiMisuse) if `name` cannot be that of a directory;
/// [`UnusablePath`](crate::ErrorKind::UnusablePath) if none of these is there, or the directory cannot be
/// made. There is no place in `/tmp`: another user can take its names first, and cleaners empty it. What the
/// directory has to be like is checked by [`Builder::join`](crate::Builder::join).
pub fn control_path(name: &str) -> Result<PathBuf> {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
    let surroundings = Surroundings {
        socket: set(environment::SOCKET),
        runtime_directory: set("RUNTIME_DIRECTORY"),
        xdg_runtime_dir: set("XDG_RUNTIME_DIR"),
        run: PathBuf::from("/run"),
        uid: geteuid().as_raw(),
    };
    let path = surroundings.path(name)?;
    make_directory(&path)?;
    Ok(path)
}

/// What decides where a control socket is.
struct Surroundings {
    socket: Option<OsString>,
    runtime_directory: Option<OsString>,
    xdg_runtime_dir: Option<OsString>,
    /// `/run`
    run: PathBuf,
    uid: u32,
}

impl Surroundings {
    fn path(&self, name: &str) -> Result<PathBuf> {
        let Self { socket, runtime_directory, xdg_runtime_dir, run, uid } = self;
        let mut parts = Path::new(name).components();
        let only = (parts.next(), parts.next());
        if !matches!(only, (Some(Component::Normal(part)), None) if part == name) {
            let why = "it is to be the name of a directory: not empty, without slashes";
            return Err(Error::misuse(format!("the name {name:?} of a service"), why));
        }
        if let Some(socket) = socket {
            return Ok(socket.into());
        }
        const SOCKET: &str = "control.sock";
        let made: Vec<_> = runtime_directory.iter().flat_map(env::split_paths).collect();
        if let Some(directory) = made.iter().find(|directory| directory.ends_with(name)).or(made.first()) {
            return Ok(directory.join(SOCKET));
        }
        let system = run.join(name);
        if *uid == 0 || fs::metadata(&system).is_ok_and(|there| there.is_dir() && there.uid() == *uid) {
            return Ok(system.join(SOCKET));
        }
        match xdg_runtime_dir.as_ref().map(Path::new).filter(|directory| directory.is_absolute()) {
            Some(directory) => Ok(directory.join(name).join(SOCKET)),
            None => Err(Error::unusable_path(
                format!("looking for the control socket of {name}"),
                format!(
                    "$XDG_RUNTIME_DIR is not set, and {} does not belong to this user; set ${} to a path in \
                     a directory of this user, or let systemd make one: RuntimeDirectory={name}",
                    system.display(),
                    environment::SOCKET
                ),
            )),
        }
    }
}

/// Only the last part: a parent that is missing is a mistake in the path.
fn make_directory(path: &Path) -> Result<()> {
    match DirBuilder::new().mode(0o700).create(directory(path)) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            let why = format!("its directory cannot be made: {error}");
            Err(Error::unusable_path(doing(path), why))
        }
        _ => Ok(()),
    }
}

fn doing(path: &Path) -> String {
    format!("the control socket {}", path.display())
}

/// Checks everything that can be checked before anything is made.
///
/// Symbolic links are followed on the way to the directory, because `/var/run` is one, and what counts is
/// where they lead to. The socket and its lock must not be links: a service with two names would have two
/// locks, and so two owners.
pub(super) fn check_path(path: &Path, users: &Users) -> Result<()> {
    let doing = || doing(path);
    if path.file_name().is_none() {
        return Err(Error::unusable_path(doing(), "the path does not name a file"));
    }
    let length = path.as_os_str().as_bytes().len();
    if length > MAX_PATH {
        let why = format!("the path is too long: it has {length} bytes, a socket takes {MAX_PATH}");
        return Err(Error::unusable_path(doing(), why));
    }
    let directory = directory(path);
    let metadata = match fs::metadata(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let why = format!(
                "its directory does not exist ({error}); make it with mode 0700, or let systemd do it: \
                 RuntimeDirectory="
            );
            return Err(Error::unusable_path(doing(), why));
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(shut_out(path, &error)),
        metadata => metadata.doing(|| format!("{}: its directory", doing()))?,
    };
    if !metadata.is_dir() {
        return Err(Error::unusable_path(doing(), format!("{} is not a directory", directory.display())));
    }
    let (uid, owner, mode) = (geteuid().as_raw(), metadata.uid(), metadata.mode());
    if !users.trusts_files_of(owner) {
        let why = format!(
            "its directory belongs to uid {owner}, and has to belong to uid {uid} or to root; to take over \
             from that user, name it (`allow_predecessor_uid`)"
        );
        return Err(Error::unusable_path(doing(), why));
    }
    if mode & 0o022 != 0 {
        let why = format!(
            "its directory can be written to by other users (mode {:04o}), which could take the service; use \
             a directory of mode 0700 or 0755",
            mode & 0o7777
        );
        return Err(Error::unusable_path(doing(), why));
    }
    let names = [path.to_owned(), lock::path(path)];
    names.iter().try_for_each(|path| check_no_link(path, doing))?;
    match fs::symlink_metadata(lock::path(path)) {
        // Its holder may still serve, whatever is at the path now.
        Ok(lock) if lock.is_file() => Ok(()),
        Ok(_) => {
            Err(Error::unusable_path(doing(), format!("{} is not a lock file", lock::path(path).display())))
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(shut_out(path, &error)),
        // Nothing is left there by a path that cannot be used.
        Err(_) => check_replaceable(path),
    }
}

/// This user may not enter a directory on the way.
fn shut_out(path: &Path, error: &io::Error) -> Error {
    let remedy = "be that user, or use a directory that this user can enter, too (mode 0755)";
    Error::unusable_path(doing(path), denied(path, error, remedy))
}

/// In the directory of another user nothing is made or opened, although a process of that user may be met
/// there: that user could put links in the place of what is made.
pub(super) fn check_own_directory(path: &Path) -> Result<()> {
    let (uid, directory) = (geteuid().as_raw(), directory(path));
    let owner = fs::metadata(directory).doing(|| format!("{}: its directory", doing(path)))?.uid();
    if owner == uid || owner == 0 {
        return Ok(());
    }
    let why = format!(
        "its directory belongs to uid {owner}: nothing is made there unless it belongs to uid {uid} or to \
         root"
    );
    Err(Error::unusable_path(doing(path), why))
}

fn check_no_link(path: &Path, doing: impl FnOnce() -> String) -> Result<()> {
    let Ok(to) = fs::read_link(path) else { return Ok(()) };
    let why = format!(
        "{} is a symbolic link (to {}) and not a socket or a lock of its own; use the path that it leads to",
        path.display(),
        to.display()
    );
    Err(Error::unusable_path(doing(), why))
}

/// What is in the way may only be a socket that a process left behind: anything else may be data.
pub(super) fn check_replaceable(path: &Path) -> Result<()> {
    let doing = || format!("making the control socket {}", path.display());
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => Ok(()),
        Ok(_) => {
            Err(Error::unusable_path(doing(), "something that is not a socket is there; it is left alone"))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).doing(doing),
    }
}

pub(super) fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    fn surroundings(run: &Path) -> Surroundings {
        let (socket, runtime_directory, xdg_runtime_dir) = (None, None, None);
        Surroundings {
            socket,
            runtime_directory,
            xdg_runtime_dir,
            run: run.to_owned(),
            uid: geteuid().as_raw() + 1,
        }
    }

    #[test]
    fn the_first_place_that_there_is() {
        let run = tempfile::tempdir().unwrap();
        let mut found = surroundings(run.path());
        let path = |found: &Surroundings| found.path("hello").map(|path| path.display().to_string());
        let none = path(&found).unwrap_err();
        assert_eq!(none.kind(), ErrorKind::UnusablePath);
        assert!(none.to_string().contains("set $HOTUPDATE_SOCKET"), "{none}");

        found.xdg_runtime_dir = Some("relative".into());
        assert!(path(&found).is_err());
        found.xdg_runtime_dir = Some("/run/user/7".into());
        assert_eq!(path(&found).unwrap(), "/run/user/7/hello/control.sock");

        fs::create_dir(run.path().join("hello")).unwrap();
        assert_eq!(path(&found).unwrap(), "/run/user/7/hello/control.sock", "it belongs to another user");
        let system = run.path().join("hello/control.sock").display().to_string();
        found.uid = geteuid().as_raw();
        assert_eq!(path(&found).unwrap(), system);
        found.uid = 0;
        fs::remove_dir(run.path().join("hello")).unwrap();
        assert_eq!(path(&found).unwrap(), system);

        found.runtime_directory = Some("/run/a".into());
        assert_eq!(path(&found).unwrap(), "/run/a/control.sock");
        found.runtime_directory = Some("/run/a:/run/hello".into());
        assert_eq!(path(&found).unwrap(), "/run/hello/control.sock");
        found.socket = Some("my.sock".into());
        assert_eq!(path(&found).unwrap(), "my.sock");
    }

    #[test]
    fn a_name_is_that_of_a_directory() {
        let run = tempfile::tempdir().unwrap();
        for wrong in ["", ".", "..", "/", "a/b", "/a", "a/", "./a"] {
            let error = surroundings(run.path()).path(wrong).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ApiMisuse, "{error}");
        }
    }

    #[test]
    fn its_directory_is_made_for_this_user_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hello/control.sock");
        for _ in 0..2 {
            make_directory(&path).unwrap();
            assert_eq!(fs::metadata(directory(&path)).unwrap().mode() & 0o777, 0o700);
        }
        check_path(&path, &Users::default()).unwrap();
        let error = make_directory(&folder.path().join("none/hello/control.sock")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnusablePath);
        assert!(error.to_string().contains("its directory cannot be made: No such file"), "{error}");
        make_directory(Path::new("control.sock")).unwrap();
    }
}
