//! Descriptors that are held back for callers on the control socket: when a service is at its limit of open
//! files and answers no client, an operator that asks why must not be kept out by the same limit.
//!
//! Deliberately absent: descriptors for anything else. A handoff needs more of them, and says so if there are
//! none.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{MemfdFlags, memfd_create};

/// An operator needs one, `hotctl handoff -- …` three at a time: its own question, its watch, and the
/// successor.
const SIZE: usize = 4;

/// Some descriptors of nothing in particular.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reserve(Arc<Mutex<Vec<OwnedFd>>>);

impl Reserve {
    /// Takes as many as are missing.
    ///
    /// # Errors
    /// As memfd_create(2); what there was to be had is held.
    pub(crate) fn fill(&self) -> io::Result<()> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while held.len() < SIZE {
            held.push(memfd_create("hotupdate-reserve", MemfdFlags::CLOEXEC)?);
        }
        Ok(())
    }

    /// Whether some are missing.
    pub(crate) fn is_short(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len() < SIZE
    }

    /// Closes one; whether there was one.
    pub(crate) fn spend(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().is_some()
    }
}
