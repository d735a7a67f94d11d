//! State of another process, of which none arrives, and state that no store keeps.

use std::convert::Infallible;
use std::io;

use hotupdate_proto::ShortText;

use crate::state::State;

#[derive(Debug)]
pub(crate) struct Arrived(Infallible);

impl Arrived {
    pub(crate) fn get(&self) -> Option<&State> {
        match self.0 {}
    }
}

#[derive(Debug)]
pub(crate) struct Slot {
    name: ShortText,
}

impl Slot {
    pub(crate) fn new(name: &str) -> Self {
        Self { name: name.into() }
    }

    pub(crate) fn empty(name: &str) -> Self {
        Self::new(name)
    }

    pub(crate) fn name(&self) -> &ShortText {
        &self.name
    }

    pub(crate) fn set(&self, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
}
