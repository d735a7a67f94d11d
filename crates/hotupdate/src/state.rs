//! Application state that travels: bytes with a schema, in a sealed memfd.
//!
//! Deliberately absent: serialization. The two versions of a program agree on bytes by the schema string.
//!
//! A seal (fcntl(2), `F_ADD_SEALS`) makes sure that what was checked is what is read, whoever else holds the descriptor.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::OwnedFd;

use hotupdate_proto::StateItem;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, memfd_create};

/// The most bytes of one state. More belongs into a file or a database.
pub(crate) const MAX_STATE: u64 = 1 << 30;

const SEALS: SealFlags =
    SealFlags::SEAL.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::WRITE);

/// State as it was exported.
#[derive(Clone, PartialEq, Eq)]
pub struct State {
    /// What the bytes are, in the application's own words, such as `sessions/2`.
    pub schema: String,
    /// The bytes.
    pub bytes: Vec<u8>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "State({:?}, {} bytes)", self.schema, self.bytes.len())
    }
}

/// An application's way to say its state: called for the inventory, and again at the release.
pub(crate) struct Export {
    pub(crate) name: String,
    pub(crate) schema: String,
    pub(crate) export: Box<dyn Fn() -> Vec<u8> + Send + Sync>,
}

impl Export {
    /// Calls the application and seals what it says.
    pub(crate) fn run(&self) -> io::Result<(StateItem, OwnedFd)> {
        let bytes = (self.export)();
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

/// Reads a state that arrived.
pub(crate) fn read(item: &StateItem, fd: OwnedFd) -> Result<State, String> {
    check(item, &fd)?;
    let mut file = File::from(fd);
    // The position is shared with whoever wrote it. The length was checked, and is sealed.
    let mut bytes = Vec::with_capacity(usize::try_from(item.length).unwrap_or_default());
    let read = file.rewind().and_then(|()| file.read_to_end(&mut bytes));
    read.map_err(|error| format!("the state {:?} cannot be read: {error}", item.name))?;
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
            assert_eq!(read(&item, fd).unwrap(), State { schema: "u64".into(), bytes: bytes.to_vec() });
        }
    }

    #[test]
    fn an_unsealed_file_and_a_wrong_length_are_refused() {
        let (item, _) = export(b"12").run().unwrap();
        let unsealed = memfd_create("x", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        assert!(read(&item, unsealed).unwrap_err().contains("not sealed"));
        let (_, longer) = export(b"123").run().unwrap();
        assert!(read(&item, longer).unwrap_err().contains("3 bytes"));
        let file = tempfile::tempfile().unwrap();
        assert!(read(&item, file.into()).is_err());
    }
}
