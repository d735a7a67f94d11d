//! The migration of live connections from a process that drains to the one that serves: two-phase commit.
//!
//! [`outbound`] is the side that lets connections go, [`inbound`] the side that takes them;
//! [`crate::Incumbent`] owns both. Deliberately absent: the descriptors, and what the connections carry; the
//! caller keeps both by connection id.
//!
//! ```text
//! outbound (drains)                          inbound (serves)
//!   |<------------- ready, serving or accepts: kinds |
//!   | prepare {batch, items}+fds ------------------->|  checks and holds them, touches none
//!   |<--------------------- prepared {batch, refused} |
//!   | commit {batch} ------------------------------->|  serves them from here on
//!   | abort {batch} -------------------------------->|  or closes its copies: the other side has them again
//!   |<------------------------------------- quiesce  |  its own accept loops are about to stop
//!   | quiesced ------------------------------------->|  nothing is on its way until the next accepts
//! ```
//!
//! A connection has exactly one server at every moment, whichever process dies or hangs. Outbound does not
//! touch what it has sent; inbound does not touch what is not committed. If the process that serves dies
//! before `commit`, the other goes on with its copies; if it dies after, the connection was its own. If the
//! process that drains dies before `commit`, the other has the only copies left and serves them. If the
//! process that serves hangs, the batch is taken back, and `abort` is said first.

use serde::{Deserialize, Serialize};

pub mod bulk;

mod item;
pub use item::{Endpoint, MigrationItem, StateBytes};

pub mod inbound;
pub use inbound::{Inbound, InboundEffect};

pub mod outbound;
pub use outbound::{Leaving, Outbound, OutboundEffect};

/// The most connections in one batch: as many as a message may own descriptors. On a busy machine it is the
/// wait for each other's turn that costs time, and large batches need few turns.
pub const MAX_BATCH: usize = crate::message::MAX_DESCRIPTORS;

/// The most bytes of state in one batch, so that the message stays below its limit even if every byte needs
/// an escape.
pub const MAX_BATCH_STATE: usize = 128 * 1024;

/// Batches on their way at the same time: at most 1,000 descriptors are in flight, which every user may have
/// (unix(7): as many as the soft `RLIMIT_NOFILE`, 1,024 by default).
pub const WINDOW: usize = 4;

/// The kind of an item that is no connection: one end of a pair of sockets, the relay of the connection in the
/// item before it, which has the same id.
///
/// The process that lets the connection go serves what is open on it to the end, and both processes speak
/// over the pair until then. A process that does not know this kind refuses the id, and the connection stays.
pub const RELAY: &str = "relay";

/// A kind of connection that a process accepts from the one that served before it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ConnectionKind {
    /// What the connection carries: `http/1.1`, or a word of the application.
    pub kind: String,
    /// Only from the listener of this name; from any if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listener: Option<String>,
    /// The newest form of [`bulk`] in which they may come; 0 for JSON only.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub bulk: u8,
}

impl ConnectionKind {
    /// As this crate reads them.
    #[must_use]
    pub fn new(kind: &str, listener: Option<&str>) -> Self {
        Self { kind: kind.to_owned(), listener: listener.map(ToOwned::to_owned), bulk: bulk::FORM }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature is serde's")]
fn is_zero(form: &u8) -> bool {
    *form == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{MAX_MESSAGE, encode_message};
    use crate::message::Message;

    #[test]
    fn a_full_batch_fits_into_a_message_though_every_byte_of_state_needs_an_escape() {
        let item = |bytes: usize| MigrationItem {
            kind: "http/1.1".into(),
            cookie: u64::MAX,
            state: vec![0; bytes].into(),
            ..MigrationItem::default()
        };
        let mut items: Vec<_> = (1..MAX_BATCH).map(|_| item(0)).collect();
        items.push(item(MAX_BATCH_STATE));
        let length = encode_message(&Message::Prepare { batch: u32::MAX, items }).unwrap().len();
        assert!(length > MAX_MESSAGE / 2, "{length} bytes: few batches would carry much more than they do");
    }
}
