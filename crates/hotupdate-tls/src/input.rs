//! What was read from the transport and not dealt with: plaintext that was decrypted in its place, and
//! ciphertext after it.

use std::ops::Range;

use crate::protection::{HEADER, MAX_PLAINTEXT};

/// How much is read at once, until a read shows that there is more.
const READ: usize = 4096;
const LARGE_READ: usize = HEADER + MAX_CIPHERTEXT;

/// The most that the body of a record may be long. TLS 1.3 allows 256 bytes of overhead, TLS 1.2 a few more.
pub(crate) const MAX_CIPHERTEXT: usize = MAX_PLAINTEXT + 2048;

#[derive(Default)]
pub(crate) struct Input {
    /// Zeros from `end` on.
    bytes: Vec<u8>,
    plaintext: Range<usize>,
    start: usize,
    end: usize,
    /// The last read found as much as it had space for.
    full: bool,
}

/// The header of a record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header {
    pub(crate) typ: u8,
    pub(crate) major: u8,
    /// Of the body.
    pub(crate) length: usize,
}

impl Input {
    pub(crate) fn new(plaintext: &[u8], ciphertext: &[u8]) -> Self {
        let start = plaintext.len();
        let bytes = [plaintext, ciphertext].concat();
        Self { plaintext: 0..start, start, end: bytes.len(), bytes, full: false }
    }

    /// Space for what comes next from the transport.
    pub(crate) fn space(&mut self) -> &mut [u8] {
        self.compact();
        let missing = self.header().map_or(0, |header| {
            (HEADER + header.length.min(MAX_CIPHERTEXT)).saturating_sub(self.ciphertext().len())
        });
        let wanted = self.end + missing.max(if self.full { LARGE_READ } else { READ });
        if self.bytes.len() < wanted {
            self.bytes.resize(wanted, 0);
        }
        &mut self.bytes[self.end..]
    }

    /// The transport has filled the first `count` bytes of the space.
    pub(crate) fn filled(&mut self, count: usize) {
        self.full = self.end + count == self.bytes.len();
        self.end += count;
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
        self.end += count;
    }

    pub(crate) fn ciphertext(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    pub(crate) fn header(&self) -> Option<Header> {
        let &[typ, major, _, high, low] = self.ciphertext().first_chunk::<HEADER>()?;
        Some(Header { typ, major, length: u16::from_be_bytes([high, low]).into() })
    }

    /// The record at the front, if it is whole.
    pub(crate) fn record(&self) -> Option<&[u8]> {
        let length = HEADER + self.header()?.length;
        self.ciphertext().get(..length)
    }

    /// Takes the first `length` bytes of the ciphertext: they may be decrypted where they are, and part of
    /// them kept as plaintext.
    pub(crate) fn take(&mut self, length: usize) -> Taken<'_> {
        debug_assert!(self.plaintext.is_empty());
        let start = self.start;
        self.start += length;
        Taken { bytes: &mut self.bytes[start..start + length], start, plaintext: &mut self.plaintext }
    }

    pub(crate) fn clear(&mut self) {
        self.start = self.end;
    }

    /// Gives the memory back if nothing is in it: the connection is idle.
    pub(crate) fn release(&mut self) {
        if self.start == self.end && self.plaintext.is_empty() {
            *self = Self::default();
        }
    }

    /// Moves what there is to the front.
    fn compact(&mut self) {
        if self.plaintext.is_empty() {
            self.plaintext = self.start..self.start;
        }
        let from = self.plaintext.start;
        if from > 0 {
            self.bytes.copy_within(from..self.end, 0);
            self.plaintext = 0..self.plaintext.end - from;
            self.start -= from;
            self.end -= from;
        }
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
