//! Everything a process serves with: its listeners, its state, and what accepts connections of other
//! versions.

use std::fmt;
use std::io;
use std::sync::Arc;

use hotupdate_proto::operator::Warning;
use hotupdate_proto::{ListenerItem, frame};
use tokio::sync::Notify;

use crate::address::Address;
use crate::error::{Doing, Error, Result};
use crate::listeners::gate::GateControl;
use crate::listeners::inherited::Origin;
use crate::migration;
use crate::platform::OwnedFd;
use crate::state::{Export, Slot};
use crate::tasks::{Hook, Tasks};

/// The most bytes that describe all listeners of a process: half a message, because there are other things to
/// say.
const MAX_DESCRIPTION: usize = frame::MAX_MESSAGE / 2;

/// Everything a process serves with.
#[derive(Default)]
pub(crate) struct Resources {
    pub(crate) gates: Vec<(Arc<dyn GateControl>, Origin)>,
    pub(crate) descriptors: Vec<(ListenerItem, OwnedFd, Origin)>,
    pub(crate) exports: Vec<Export>,
    /// What the descriptor store is to have besides the listeners.
    pub(crate) stored: Vec<Arc<Slot>>,
    /// Something of that has changed.
    pub(crate) stored_changed: Arc<Notify>,
    /// What accepts connections of other versions.
    pub(crate) handlers: Vec<migration::Handler>,
    /// What the application does before another process takes over from this one.
    pub(crate) hooks: Vec<Hook>,
    pub(crate) tasks: Tasks,
    /// Names under which the descriptor store may have something that this process does not use.
    pub(crate) stale: Vec<String>,
    /// The application dropped a listener.
    pub(crate) dropped: Arc<Notify>,
    /// What operators should know of it.
    pub(crate) warnings: Vec<Warning>,
}

impl Drop for Resources {
    /// A listener that the application still holds would keep clients waiting in a queue that no process
    /// reads.
    fn drop(&mut self) {
        self.gates.iter().for_each(|(gate, _)| gate.close());
    }
}

impl fmt::Debug for Resources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.gates.iter().map(|(gate, _)| gate.name().to_string()).collect();
        f.debug_struct("Resources").field("listeners", &names).finish_non_exhaustive()
    }
}

impl Resources {
    /// A successor and operators are told of all listeners, and one message holds only so much. That has to
    /// be found now and not when the next version wants to come.
    pub(crate) fn check(&self) -> Result<()> {
        let items = self.items().doing(|| "looking at the listeners".to_owned())?;
        match frame::encode(&items) {
            Ok(bytes) if bytes.len() <= MAX_DESCRIPTION => Ok(()),
            _ => {
                let what = format!(
                    "{} listeners cannot be described in {MAX_DESCRIPTION} bytes; use fewer, or shorter \
                     names",
                    items.len()
                );
                Err(Error::misuse("becoming ready", what))
            }
        }
    }

    /// Listeners that the application dropped: their names and addresses. They are not among the resources
    /// any more.
    pub(crate) fn take_dropped(&mut self) -> Vec<(String, Address)> {
        let dropped = self.gates.extract_if(.., |(gate, _)| gate.is_closed());
        let dropped: Vec<_> =
            dropped.map(|(gate, _)| (gate.name().to_string(), gate.address().clone())).collect();
        // What the descriptor store has of them would keep clients waiting.
        self.stale.extend(dropped.iter().map(|(name, _)| name.clone()));
        dropped
    }

    /// What a successor is told about the listeners of this process.
    pub(crate) fn items(&self) -> io::Result<Vec<ListenerItem>> {
        let mut items = Vec::with_capacity(self.gates.len() + self.descriptors.len());
        for (gate, _) in &self.gates {
            match gate.describe() {
                // Its turn comes, see `take_dropped`.
                Err(_) if gate.is_closed() => {}
                item => items.push(item?),
            }
        }
        items.extend(self.descriptors.iter().map(|(item, _, _)| item.clone()));
        Ok(items)
    }
}
