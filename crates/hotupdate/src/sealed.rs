//! Application state in a sealed memfd, as it travels.
//!
//! A seal (fcntl(2), `F_ADD_SEALS`) makes sure that what was checked is what is read, whatever another
//! process does with its copy of the descriptor.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use hotupdate_proto::{ShortText, StateItem};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, memfd_create};

use zeroize::Zeroizing;

use crate::state::{Export, Found, State};

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
        let fd = seal(&self.name, &bytes)?;
        // Its limit is lower than the largest number.
        let length = bytes.len() as u64;
        Ok((StateItem { name: self.name.clone(), schema: self.schema.clone(), length }, fd))
    }
}

fn seal(name: &str, bytes: &[u8]) -> io::Result<OwnedFd> {
    if u64::try_from(bytes.len()).map_or(true, |length| length > MAX_STATE) {
        return Err(io::Error::other(format!("the state {name:?} has more than {MAX_STATE} bytes")));
    }
    let mut file =
        File::from(memfd_create("hotupdate-state", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
    file.write_all(bytes)?;
    let fd = OwnedFd::from(file);
    fcntl_add_seals(&fd, SEALS)?;
    Ok(fd)
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

/// What the descriptor store is to have under one name.
#[derive(Debug)]
pub(crate) struct Slot {
    name: ShortText,
    latest: Mutex<Latest>,
}

#[derive(Debug)]
struct Latest {
    sealed: Option<OwnedFd>,
    /// systemd has heard of it.
    is_told: bool,
}

impl Slot {
    /// Whatever is there stays, until [`set`](Self::set).
    pub(crate) fn new(name: &str) -> Self {
        Self { name: name.into(), latest: Mutex::new(Latest { sealed: None, is_told: true }) }
    }

    /// Nothing: what is there was stored by a version that is gone.
    pub(crate) fn empty(name: &str) -> Self {
        Self { name: name.into(), latest: Mutex::new(Latest { sealed: None, is_told: false }) }
    }

    /// Replaces what is there.
    pub(crate) fn set(&self, bytes: &[u8]) -> io::Result<()> {
        let sealed = seal(&self.name, bytes)?;
        *self.latest() = Latest { sealed: Some(sealed), is_told: false };
        Ok(())
    }

    pub(crate) fn name(&self) -> &ShortText {
        &self.name
    }

    /// Once for each change: a duplicate to be kept, if there is something to keep.
    pub(crate) fn take_untold(&self) -> Option<Option<io::Result<OwnedFd>>> {
        let Latest { sealed, is_told } = &mut *self.latest();
        let is_news = !std::mem::replace(is_told, true);
        is_news.then(|| sealed.as_ref().map(OwnedFd::try_clone))
    }

    fn latest(&self) -> MutexGuard<'_, Latest> {
        // Replaced as a whole.
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads a state that an earlier process of this service stored.
pub(crate) fn read_stored(file: File) -> io::Result<Found> {
    let seals = fcntl_get_seals(&file)?;
    let length = file.metadata()?.len();
    if !seals.contains(SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE) || length > MAX_STATE {
        return Err(io::Error::other("it is not sealed, or too long"));
    }
    let mut bytes = Zeroizing::new(vec![0; usize::try_from(length).map_err(io::Error::other)?]);
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_tells_each_change_once() {
        let slot = Slot::new("keys");
        assert!(slot.take_untold().is_none(), "what is there stays");
        for bytes in [&b"one"[..], b"", b"two"] {
            slot.set(bytes).unwrap();
            let kept = slot.take_untold().unwrap().unwrap().unwrap();
            assert_eq!(*read_stored(kept.into()).unwrap(), bytes);
            assert!(slot.take_untold().is_none());
        }
        let empty = Slot::empty("keys");
        assert!(empty.take_untold().unwrap().is_none() && empty.take_untold().is_none());
        let error = read_stored(tempfile::tempfile().unwrap()).unwrap_err();
        assert!(!error.to_string().is_empty());
    }

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
