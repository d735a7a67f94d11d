//! Application state that travels: bytes with a schema.
//!
//! Deliberately absent: serialization. The two versions of a program agree on bytes by the schema string.

pub(crate) use crate::sealed::Arrived;

/// State as it was exported.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
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
