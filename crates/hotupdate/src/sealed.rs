//! Application state in a sealed memfd, as it travels.
//!
//! A seal (fcntl(2), `F_ADD_SEALS`) makes sure that what was checked is what is read, whatever another
//! process does with its copy of the descriptor.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, OnceLock, PoisonError};

use hotupdate_proto::StateItem;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, memfd_create};

use zeroize::Zeroizing;

use crate::state::{Export, State};

/// The most bytes of one state. More belongs into a file or a database.
pub(crate) const MAX_STATE: u64 = 1 << 30;

/// Read at once, in microseconds: less than what a descriptor is worth that stays open.
const SMALL: u64 = 64 << 10;

const SEALS: SealFlags =
    SealFlags::SEAL.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::WRITE);

impl Export {
    /// Calls the application and seals what it says.
    pub(crate) fn run(&self) -> io::Result<(StateItem, OwnedFd)> {
        // It may hold keys.
        let bytes = Zeroizing::new((self.export)());
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if length > MAX_STATE {
            return Err(io::Error::other(format!(
                "the state {:?} has more than {MAX_STATE} bytes",
                self.name
            )));
        }
        let mut file =
            File::from(memfd_create("hotupdate-state", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
        file.write_all(&bytes)?;
        let fd = OwnedFd::from(file);
        fcntl_add_seals(&fd, SEALS)?;
        Ok((StateItem { name: self.name.clone(), schema: self.schema.clone(), length }, fd))
    }
}

/// Checks that a state that arrived can be read, and is as long as it is said to be.
pub(crate) fn check(item: &StateItem, fd: &OwnedFd) -> Result<(), String> {
    let wrong = |what: String| format!("the state {:?} {what}", item.name);
    let seals = fcntl_get_seals(fd).map_err(|error| wrong(format!("is not a memfd: {error}")))?;
    if !seals.contains(SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE) {
        return Err(wrong("is not sealed".to_owned()));
    }
    let stat = fstat(fd).map_err(|error| wrong(format!("cannot be examined: {error}")))?;
    let length = u64::try_from(stat.st_size).unwrap_or(u64::MAX);
    if length != item.length || length > MAX_STATE {
        return Err(wrong(format!("has {length} bytes and was announced with {}", item.length)));
    }
    Ok(())
}

/// State that arrived. It is read when the application asks for it: a large one takes its time, which an
/// application that does not need it should not spend, least of all between two versions, when no process
/// accepts.
#[derive(Debug)]
pub(crate) struct Arrived {
    item: StateItem,
    /// Until it is read.
    fd: Mutex<Option<OwnedFd>>,
    state: OnceLock<Option<State>>,
}

impl Arrived {
    /// A state that was checked.
    pub(crate) fn new(item: StateItem, fd: OwnedFd) -> Self {
        let is_small = item.length <= SMALL;
        let arrived = Self { item, fd: Mutex::new(Some(fd)), state: OnceLock::new() };
        if is_small {
            arrived.get();
        }
        arrived
    }

    pub(crate) fn get(&self) -> Option<&State> {
        let read = || {
            let fd = self.fd.lock().unwrap_or_else(PoisonError::into_inner).take()?;
            let state = read(&self.item, fd);
            state.inspect_err(|error| tracing::error!(name = self.item.name, %error, "a state is lost")).ok()
        };
        self.state.get_or_init(read).as_ref()
    }
}

fn read(item: &StateItem, fd: OwnedFd) -> io::Result<State> {
    // It was checked, and is sealed.
    let mut bytes = vec![0; usize::try_from(item.length).map_err(io::Error::other)?];
    File::from(fd).read_exact_at(&mut bytes, 0)?;
    Ok(State { schema: item.schema.clone(), bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn export(bytes: &'static [u8]) -> Export {
        Export { name: "hits".into(), schema: "u64".into(), export: Box::new(|| bytes.to_vec()) }
    }

    #[test]
    fn what_was_exported_is_what_is_read() {
        for bytes in [&b""[..], b"12", &[7; 300_000]] {
            let (item, fd) = export(bytes).run().unwrap();
            check(&item, &fd).unwrap();
            let arrived = Arrived::new(item, fd);
            for _ in 0..2 {
                let state = State { schema: "u64".into(), bytes: bytes.to_vec() };
                assert_eq!(arrived.get(), Some(&state));
            }
            assert!(arrived.fd.lock().unwrap().is_none(), "what was read is not kept twice");
        }
    }

    #[test]
    fn an_unsealed_file_and_a_wrong_length_are_refused() {
        let (item, _) = export(b"12").run().unwrap();
        let unsealed = memfd_create("x", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        assert!(check(&item, &unsealed).unwrap_err().contains("not sealed"));
        let (_, longer) = export(b"123").run().unwrap();
        assert!(check(&item, &longer).unwrap_err().contains("3 bytes"));
        let file = tempfile::tempfile().unwrap();
        assert!(check(&item, &file.into()).is_err());
    }
}
