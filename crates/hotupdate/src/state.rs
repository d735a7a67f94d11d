//! Application state that travels: bytes with a schema; and that outlives a crash: bytes.
//!
//! Deliberately absent: serialization. The two versions of a program agree on bytes by the schema string.

use std::fmt;
use std::sync::Arc;

use tokio::sync::Notify;
use zeroize::Zeroizing;

use crate::error::{Doing, Result};
pub(crate) use crate::sealed::{Arrived, Slot};

/// State as it was exported.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct State {
    /// What the bytes are, in the application's own words, such as `sessions/2`.
    pub schema: String,
    /// The bytes.
    pub bytes: Vec<u8>,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "State({:?}, {} bytes)", self.schema, self.bytes.len())
    }
}

/// An application's way to say its state: called for the inventory, and again at the release.
pub(crate) struct Export {
    pub(crate) name: String,
    pub(crate) schema: String,
    pub(crate) export: Box<dyn Fn() -> Vec<u8> + Send + Sync>,
}

/// What an earlier process stored. It may hold keys.
pub(crate) type Found = Zeroizing<Vec<u8>>;

/// State that outlives a crash, see [`Starting::stored_state`](crate::Starting::stored_state).
pub struct StoredState {
    found: Option<Found>,
    slot: Arc<Slot>,
    changed: Arc<Notify>,
}

impl StoredState {
    pub(crate) fn new(found: Option<Found>, slot: Arc<Slot>, changed: Arc<Notify>) -> Self {
        Self { found, slot, changed }
    }

    /// What a process stored that has served before this one and has ended without a successor: by a crash,
    /// or at a restart of the unit. A process that takes over from another one finds nothing here, but what
    /// that one [exports](crate::Starting::export).
    #[must_use]
    pub fn get(&self) -> Option<&[u8]> {
        self.found.as_ref().map(|found| found.as_slice())
    }

    /// Stores these bytes instead of what is there, as soon as this process serves and no version before it
    /// can take over again. It takes a few system calls.
    ///
    /// # Errors
    /// [`ErrorKind::Local`](crate::ErrorKind::Local) if the system has no memory or no descriptor for them,
    /// or if they are more than 1 GiB: what was stored before stays.
    pub fn set(&self, bytes: &[u8]) -> Result<()> {
        self.slot.set(bytes).doing(|| "storing a state".to_owned())?;
        self.changed.notify_one();
        Ok(())
    }
}

/// Without the bytes.
impl fmt::Debug for StoredState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredState").field("found", &self.found.is_some()).finish_non_exhaustive()
    }
}
