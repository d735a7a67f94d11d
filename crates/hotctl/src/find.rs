//! Finds control sockets: `*.sock` with a lock beside it, in `$XDG_RUNTIME_DIR` or `/run`, or one level
//! below.
//!
//! Deliberately absent: connecting to sockets without a lock. A control socket always has one, and merely
//! connecting to another socket can start a service (socket activation of systemd).

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, DirEntry};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use hotupdate_proto::INTERFACE;
use hotupdate_proto::timing::fixed::operator::PROBE;
use serde::Deserialize;

use crate::client::{CallError, Client};
use crate::context::NOTHING;
use crate::exit::{Exit, Failure};

/// The most entries of a directory that are read.
const MAX_ENTRIES: usize = 4096;

#[derive(Deserialize)]
struct Info {
    interfaces: Vec<String>,
}

/// The directories in which control sockets are looked for.
pub(crate) fn places() -> Vec<PathBuf> {
    let own = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
    own.into_iter().chain([PathBuf::from("/run")]).collect()
}

/// The only control socket in these places.
pub(crate) fn only(places: &[PathBuf]) -> Result<PathBuf, Failure> {
    let candidates = candidates(places);
    let (answering, silent): (Vec<_>, Vec<_>) = candidates.into_iter().partition(|path| probe(path).is_ok());
    match (answering.as_slice(), silent.as_slice()) {
        ([path], _) => Ok(path.clone()),
        // The command's own call says what is wrong with it.
        ([], [path]) => Ok(path.clone()),
        ([], []) => Err(Failure::new(
            Exit::NotRunning,
            format!("no control socket in {}; {NAME_ONE}", listed(places)),
        )),
        ([], silent) => Err(Failure::new(
            Exit::NotRunning,
            format!("no service answers on {}; {NAME_ONE}", listed(silent)),
        )),
        (several, _) => Err(Failure::new(
            Exit::Usage,
            format!("there is more than one control socket: {}; {NAME_ONE}", listed(several)),
        )),
    }
}

const NAME_ONE: &str = "name one with --socket";

fn listed(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// Sockets that look like control sockets, whether or not a process listens there.
pub(crate) fn candidates(places: &[PathBuf]) -> BTreeSet<PathBuf> {
    let below = |place: &PathBuf| {
        let folders = entries(place).filter(|entry| is_folder(place, entry));
        folders.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    let folders = places.iter().flat_map(|place| [vec![place.clone()], below(place)].concat());
    folders
        .flat_map(|folder| entries(&folder).filter(looks_right).collect::<Vec<_>>())
        .map(|e| e.path())
        .collect()
}

/// The directory of a service whose user systemd makes up is a link to one in `/run/private`; a link to
/// another entry of the same place would find everything twice.
fn is_folder(place: &Path, entry: &DirEntry) -> bool {
    match entry.file_type() {
        Ok(kind) if kind.is_symlink() => fs::canonicalize(entry.path())
            .is_ok_and(|target| target.is_dir() && target.parent() != Some(place)),
        kind => kind.is_ok_and(|kind| kind.is_dir()),
    }
}

fn entries(folder: &Path) -> impl Iterator<Item = DirEntry> + use<> {
    fs::read_dir(folder).into_iter().flatten().flatten().take(MAX_ENTRIES)
}

fn looks_right(entry: &DirEntry) -> bool {
    let path = entry.path();
    path.extension().is_some_and(|extension| extension == "sock")
        && entry.file_type().is_ok_and(|kind| kind.is_socket())
        && lock_of(&path).exists()
}

fn lock_of(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".lock");
    PathBuf::from(name)
}

/// Asks a socket whether it is a control socket.
fn probe(path: &Path) -> Result<(), CallError> {
    let until = Instant::now() + PROBE;
    let mut client = Client::connect(path, PROBE)?;
    client.send("org.varlink.service.GetInfo", &NOTHING, false)?;
    match client.receive::<Info>(until)? {
        Some((info, _)) if info.interfaces.iter().any(|name| name == INTERFACE) => Ok(()),
        Some(_) => {
            Err(CallError::Garbled { path: path.to_owned(), reason: "it is another service".to_owned() })
        }
        None => Err(CallError::TimedOut { path: path.to_owned(), after: PROBE }),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    fn stale(folder: &Path, name: &str) -> PathBuf {
        let path = folder.join(name);
        drop(UnixListener::bind(&path).unwrap());
        fs::write(lock_of(&path), "").unwrap();
        path
    }

    #[test]
    fn only_sockets_with_a_lock_are_asked() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("one/two")).unwrap();
        let here = stale(folder.path(), "a.sock");
        let below = stale(&folder.path().join("one"), "b.sock");
        stale(&folder.path().join("one/two"), "too-deep.sock");
        fs::remove_file(lock_of(&stale(folder.path(), "stranger.sock"))).unwrap();
        fs::write(folder.path().join("file.sock"), "").unwrap();
        let places = [folder.path().to_owned(), folder.path().to_owned()];
        assert_eq!(candidates(&places).into_iter().collect::<Vec<_>>(), [here, below]);
    }

    #[test]
    fn no_socket_is_an_error_with_a_way_out() {
        let folder = tempfile::tempdir().unwrap();
        let failure = only(&[folder.path().to_owned()]).unwrap_err();
        assert_eq!(failure.exit, Exit::NotRunning);
        assert!(failure.reason.ends_with("; name one with --socket"), "{failure}");
    }
}
