//! What was read from the transport and not dealt with: plaintext that was decrypted in its place, and
//! ciphertext after it.

use std::ops::Range;

use crate::protection::{HEADER, MAX_PLAINTEXT};

/// The most that the body of a record may be long. TLS 1.3 allows 256 bytes of overhead, TLS 1.2 a few more.
pub(crate) const MAX_CIPHERTEXT: usize = MAX_PLAINTEXT + 2048;

/// So much is read at once into a buffer that is in use.
const LARGE_READ: usize = HEADER + MAX_CIPHERTEXT;

/// A connection that waits for its client keeps buffers up to this capacity: it will need them for the next
/// request, and they are small beside everything else that a connection needs.
const KEPT: usize = 512;

#[derive(Default)]
pub(crate) struct Input {
    bytes: Vec<u8>,
    plaintext: Range<usize>,
    /// Of the ciphertext.
    start: usize,
}

/// The header of a record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header {
    pub(crate) typ: u8,
    pub(crate) major: u8,
    /// Of the body.
    pub(crate) length: usize,
}

impl Header {
    /// The one at the front of some ciphertext.
    pub(crate) fn of(ciphertext: &[u8]) -> Option<Self> {
        let &[typ, major, _, high, low] = ciphertext.first_chunk::<HEADER>()?;
        Some(Self { typ, major, length: u16::from_be_bytes([high, low]).into() })
    }
}

impl Input {
    pub(crate) fn new(plaintext: &[u8], ciphertext: &[u8]) -> Self {
        let start = plaintext.len();
        Self { plaintext: 0..start, start, bytes: [plaintext, ciphertext].concat() }
    }

    /// Appends what the transport has delivered.
    pub(crate) fn receive(&mut self, bytes: &[u8]) {
        self.compact();
        self.bytes.extend_from_slice(bytes);
    }

    /// Where what comes next can be appended to the beginning of a record, if there is one.
    pub(crate) fn begun(&mut self) -> Option<&mut Vec<u8>> {
        self.compact();
        if self.bytes.is_empty() {
            return None;
        }
        self.bytes.reserve(LARGE_READ);
        Some(&mut self.bytes)
    }

    pub(crate) fn plaintext(&self) -> &[u8] {
        &self.bytes[self.plaintext.clone()]
    }

    pub(crate) fn consume_plaintext(&mut self, count: usize) {
        debug_assert!(count <= self.plaintext.len());
        self.plaintext.start += count;
    }

    /// Puts plaintext back in front of what there is.
    pub(crate) fn give_back(&mut self, plaintext: &[u8]) {
        self.compact();
        self.bytes.splice(..0, plaintext.iter().copied());
        let count = plaintext.len();
        self.plaintext = 0..count + self.plaintext.len();
        self.start += count;
    }

    pub(crate) fn ciphertext(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    pub(crate) fn header(&self) -> Option<Header> {
        Header::of(self.ciphertext())
    }

    /// Takes the first `length` bytes of the ciphertext, if there are so many: they may be decrypted where
    /// they are, and part of them kept as plaintext.
    pub(crate) fn take(&mut self, length: usize) -> Option<Taken<'_>> {
        debug_assert!(self.plaintext.is_empty());
        let start = self.start;
        let bytes = self.bytes.get_mut(start..start + length)?;
        self.start += length;
        Some(Taken { bytes, start, plaintext: &mut self.plaintext })
    }

    /// Gives memory back: the connection is idle, or waits for the rest of a record.
    pub(crate) fn release(&mut self) {
        self.compact();
        release(&mut self.bytes);
    }

    /// Moves what there is to the front.
    fn compact(&mut self) {
        if self.plaintext.is_empty() {
            self.plaintext = self.start..self.start;
        }
        let gone = self.plaintext.start;
        if gone > 0 {
            self.bytes.drain(..gone);
            self.plaintext = 0..self.plaintext.end - gone;
            self.start -= gone;
        }
    }
}

/// Gives the memory of an empty buffer back if it is worth that.
pub(crate) fn release(buffer: &mut Vec<u8>) {
    if buffer.is_empty() && buffer.capacity() > KEPT {
        *buffer = Vec::new();
    }
}

/// See [`Input::take`].
pub(crate) struct Taken<'a> {
    pub(crate) bytes: &'a mut [u8],
    start: usize,
    plaintext: &'a mut Range<usize>,
}

impl Taken<'_> {
    /// This part of it is plaintext to be read.
    pub(crate) fn keep(self, range: Range<usize>) {
        *self.plaintext = self.start + range.start..self.start + range.end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_that_has_begun_gets_room_for_its_rest() {
        let mut input = Input::default();
        assert!(input.begun().is_none(), "a connection that waits needs no buffer");
        input.receive(b"\x17");
        let capacity = input.begun().unwrap().capacity();
        assert!((HEADER + MAX_CIPHERTEXT..2 * MAX_CIPHERTEXT).contains(&capacity), "{capacity}");
    }

    #[test]
    fn a_large_buffer_is_given_back_when_it_is_empty() {
        for (length, kept) in [(KEPT, KEPT), (KEPT + 1, 0)] {
            let mut input = Input::default();
            input.bytes.reserve_exact(length);
            input.receive(b"record");
            input.release();
            assert_eq!((input.ciphertext(), input.bytes.capacity()), (&b"record"[..], length));
            assert!(input.take(6).is_some());
            input.release();
            assert_eq!(input.bytes.capacity(), kept);
        }
    }
}
