//! The path of the control socket: its names, and what may be there.
//!
//! Deliberately absent: who owns it, see [`super::ownership`].

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::process::geteuid;

use crate::error::{Doing, Error, Result};

/// `sun_path` has 108 bytes, one of them for the NUL (unix(7)).
const MAX_PATH: usize = 107;

/// Checks everything that can be checked before anything is made.
///
/// Symbolic links are followed on the way to the directory, because `/var/run` is one, and what counts is where they lead
/// to. The socket and its lock must not be links: a service with two names would have two locks, and so two owners.
pub(super) fn check_path(path: &Path) -> Result<()> {
    let doing = || format!("the control socket {}", path.display());
    if path.file_name().is_none() {
        return Err(Error::unusable_path(doing(), "the path does not name a file"));
    }
    let length = temporary(path).as_os_str().as_bytes().len().max(path.as_os_str().as_bytes().len());
    if length > MAX_PATH {
        let why = format!(
            "the path is too long: with its temporary name it has {length} bytes, a socket takes {MAX_PATH}"
        );
        return Err(Error::unusable_path(doing(), why));
    }
    let directory = directory(path);
    let metadata = match fs::metadata(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let why = format!(
                "its directory does not exist ({error}); make it with mode 0700, or let systemd do it: RuntimeDirectory="
            );
            return Err(Error::unusable_path(doing(), why));
        }
        metadata => metadata.doing(|| format!("{}: its directory", doing()))?,
    };
    if !metadata.is_dir() {
        return Err(Error::unusable_path(doing(), format!("{} is not a directory", directory.display())));
    }
    let (uid, owner, mode) = (geteuid().as_raw(), metadata.uid(), metadata.mode());
    if owner != uid && owner != 0 {
        let why = format!("its directory belongs to uid {owner}, and has to belong to uid {uid} or to root");
        return Err(Error::unusable_path(doing(), why));
    }
    if mode & 0o022 != 0 {
        let why = format!(
            "its directory can be written to by others (mode {:04o}): whoever can, could take the service; use a \
             directory of mode 0700 or 0755",
            mode & 0o7777
        );
        return Err(Error::unusable_path(doing(), why));
    }
    [path.to_owned(), lock_path(path), temporary(path)].iter().try_for_each(|path| check_no_link(path, doing))
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

/// What is in the way may only be a socket that somebody left: anything else is somebody's data.
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

fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

pub(super) fn lock_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    name.into()
}

/// In the same directory, so that the rename stays in one file system. Only the holder of the lock makes it.
pub(super) fn temporary(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

#[cfg(test)]
mod tests {
    use super::super::ownership::tests::{SOON, directory};
    use crate::control::ownership::find;

    #[tokio::test]
    async fn unsafe_directories_and_long_paths_are_refused() {
        for mode in [0o777, 0o1777, 0o770, 0o720] {
            let directory = directory(mode);
            let error = find(&directory.path().join("control.sock"), SOON).await.unwrap_err();
            assert!(error.to_string().contains("written to by others"), "{error}");
        }
        let directory = directory(0o700);
        let long = directory.path().join("x".repeat(107));
        let error = find(&long, SOON).await.unwrap_err();
        assert!(error.to_string().contains("too long"), "{error}");
        let error = find(&directory.path().join("none/control.sock"), SOON).await.unwrap_err();
        assert!(error.to_string().contains("No such file"), "{error}");
    }
}
