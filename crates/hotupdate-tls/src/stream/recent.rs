//! What was read and would be lost with rustls, which gives back no ciphertext that it has: the beginning of
//! a record, and of a handshake message in the records before it.
//!
//! Whether a record is data cannot be seen in TLS 1.3. But nearly always all of them are, and then there is
//! as much plaintext as there can be. Otherwise they are kept until data comes, and are decrypted once more
//! when the connection migrates.

use crate::input::{self, Header, MAX_CIPHERTEXT};
use crate::protection::{ContentType, Direction, HEADER, Protection};
use crate::suite::Suite;

/// What a read has found is kept up to this length. A longer one is that of a long record, which is data.
const MAX_READ: usize = 8 * 1024;

/// How much of what may not be data is kept.
const MAX_KEPT: usize = 4 * MAX_CIPHERTEXT;

#[derive(Default)]
pub(super) struct Recent {
    /// Whole records that may not be data, and the beginning of the next one.
    bytes: Vec<u8>,
    /// The records of the last read are at their end.
    whole: Group,
    last: Group,
    /// Whether the last ones are there.
    last_is_kept: bool,
    /// How much longer than its plaintext a record is. 0 if that is not known.
    overhead: usize,
    lost: bool,
    key_updates: u64,
}

/// Records one after the other.
#[derive(Clone, Copy, Debug, Default)]
struct Group {
    length: usize,
    count: usize,
}

impl Group {
    fn add(&mut self, length: usize) {
        self.length += length;
        self.count += 1;
    }
}

impl Recent {
    /// From the end of the handshake on.
    pub(super) fn set_overhead(&mut self, overhead: usize) {
        self.overhead = overhead;
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether some are not here.
    pub(super) fn is_lost(&self) -> bool {
        self.lost
    }

    /// How many KeyUpdates there may have been since the connection's beginning.
    pub(super) fn key_updates(&self) -> u64 {
        self.key_updates
    }

    pub(super) fn release(&mut self) {
        input::release(&mut self.bytes);
    }

    /// How much may be read at once. A long record is read to its end, and the next one's header with it:
    /// rustls makes its buffer anew when nothing is in it.
    pub(super) fn most(&self) -> usize {
        if self.bytes.is_empty() { MAX_READ } else { MAX_READ.max(missing(self.partial()) + HEADER) }
    }

    /// These bytes were read.
    pub(super) fn read(&mut self, bytes: &[u8]) {
        self.last = Group::default();
        self.last_is_kept = bytes.len() <= MAX_READ;
        if self.last_is_kept {
            self.bytes.extend_from_slice(bytes);
            while let Some(length) = whole_record(self.partial()) {
                self.whole.add(length);
                self.last.add(length);
            }
            return;
        }
        let (begun, missing) = (self.partial().len(), missing(self.partial()));
        if missing > bytes.len() {
            self.bytes.extend_from_slice(bytes);
            return;
        }
        if begun > 0 {
            self.last.add(begun + missing);
        }
        let mut rest = &bytes[missing..];
        while let Some(length) = whole_record(rest) {
            self.last.add(length);
            rest = &rest[length..];
        }
        self.bytes.clear();
        self.whole = Group::default();
        self.bytes.extend_from_slice(rest);
    }

    /// Whether the records of the last read are data: rustls has found so much plaintext in them.
    pub(super) fn are_data(&mut self, plaintext: usize) -> bool {
        let Group { length, count } = self.last;
        if count == 0 {
            return true;
        }
        let shown = plaintext > 0;
        if plaintext + count * self.overhead == length || count == 1 && shown {
            self.are_dealt_with();
            return true;
        }
        self.key_updates += (count - usize::from(shown)) as u64;
        if shown && self.last_is_kept {
            // Some of them are data, perhaps with padding, and then those before them are dealt with.
            self.bytes.drain(..self.whole.length - length);
            (self.whole, self.lost) = (self.last, false);
        } else if !self.last_is_kept || self.whole.length > MAX_KEPT {
            self.are_dealt_with();
            self.lost = true;
        }
        false
    }

    /// Nothing of the records can be lost.
    pub(super) fn are_dealt_with(&mut self) {
        if self.whole.length == self.bytes.len() {
            self.bytes.clear();
        } else {
            self.bytes.drain(..self.whole.length);
        }
        self.whole = Group::default();
        self.lost = false;
    }

    /// What the record layer has to open again, and how many whole records are in it. rustls has opened the
    /// last of them as the last one under the `opener`'s key.
    ///
    /// Before a KeyUpdate everything is dealt with, and before data, too.
    pub(super) fn unopened(&self, suite: Suite, opener: &Direction) -> Option<(&[u8], u64)> {
        let count = opener.sequence.min(self.whole.count as u64);
        let mut rest = &self.bytes[..];
        for _ in count..self.whole.count as u64 {
            rest = &rest[whole_record(rest)?..];
        }
        let mut unopened = (rest, count);
        if count > 0 {
            let first = Direction { sequence: opener.sequence - count, ..opener.clone() };
            let mut protection = Protection::new(suite, first)?;
            for after in (0..count).rev() {
                let (record, behind) = rest.split_at(whole_record(rest)?);
                rest = behind;
                if protection.open(&mut record.to_vec()).ok()?.0 == ContentType::APPLICATION_DATA {
                    unopened = (rest, after);
                }
            }
        }
        Some(unopened)
    }

    /// The beginning of a record.
    fn partial(&self) -> &[u8] {
        &self.bytes[self.whole.length..]
    }
}

/// How much is missing of a record that has begun, if its length is known.
fn missing(partial: &[u8]) -> usize {
    Header::of(partial).map_or(0, |header| HEADER + header.length - partial.len())
}

/// The length of the record at the front of `bytes`, if it is whole, or of all of them if they cannot become
/// one: rustls says so.
fn whole_record(bytes: &[u8]) -> Option<usize> {
    let Header { typ, major, length } = Header::of(bytes)?;
    let possible = (20..=24).contains(&typ) && major == 3 && length <= MAX_CIPHERTEXT;
    let length = if possible { HEADER + length } else { bytes.len() };
    (length <= bytes.len()).then_some(length)
}
