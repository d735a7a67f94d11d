//! The protocol: each line is answered with `<version> <pid> <n> <line>`, where n counts the lines of the
//! connection.
//!
//! Deliberately absent: processes. What a connection needs in order to go on anywhere is one value,
//! [`Conversation`].

use std::mem;
use std::process::id;

use serde::{Deserialize, Serialize};

/// The longest line; a client that sends a longer one is not one of ours.
pub(crate) const MAX_LINE: usize = 16 * 1024;

/// Where a connection is in its conversation. This is what travels, so a later version may add fields, each
/// with a default, and must not change those that are here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Conversation {
    /// Lines answered so far.
    lines: u64,
    /// The beginning of a line.
    unread: Vec<u8>,
    /// Answers that the client has not taken yet.
    unsent: Vec<u8>,
}

/// The client sends a line that is too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooLong;

impl Conversation {
    /// The client said something: answers what is a whole line now.
    pub(crate) fn heard(&mut self, bytes: &[u8], version: &str) -> Result<(), TooLong> {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.unread.extend_from_slice(part);
            if self.unread.len() > MAX_LINE {
                return Err(TooLong);
            }
            if part.ends_with(b"\n") {
                self.lines += 1;
                self.unsent.extend_from_slice(format!("{version} {} {} ", id(), self.lines).as_bytes());
                self.unsent.extend_from_slice(&mem::take(&mut self.unread));
            }
        }
        Ok(())
    }

    /// What is to be sent.
    pub(crate) fn unsent(&self) -> &[u8] {
        &self.unsent
    }

    /// So many bytes of it have been.
    pub(crate) fn sent(&mut self, bytes: usize) {
        self.unsent.drain(..bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conversation_goes_on_wherever_it_was_cut() {
        let said = b"one\ntwo\r\n\nthree\n";
        for cut in 0..=said.len() {
            let mut old = Conversation::default();
            old.heard(&said[..cut], "v").expect("short lines");
            let text = serde_json::to_string(&old).expect("it is JSON");
            let mut new: Conversation = serde_json::from_str(&text).expect("it is ours");
            assert_eq!(new, old);
            new.heard(&said[cut..], "v").expect("short lines");
            let pid = id();
            let all = format!("v {pid} 1 one\nv {pid} 2 two\r\nv {pid} 3 \nv {pid} 4 three\n");
            assert_eq!(String::from_utf8_lossy(new.unsent()), all);
            new.sent(all.len());
            assert_eq!(new, Conversation { lines: 4, ..Conversation::default() });
        }
    }

    #[test]
    fn a_line_has_a_limit() {
        let mut conversation = Conversation::default();
        assert_eq!(conversation.heard(&[b'x'; MAX_LINE], "v"), Ok(()));
        assert_eq!(conversation.heard(b"x", "v"), Err(TooLong));
    }
}
