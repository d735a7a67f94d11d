//! Heads of frames (RFC 9113, section 4.1), and the few frames that the layer itself writes.

use bytes::{BufMut as _, BytesMut};

/// What a client says first (RFC 9113, section 3.4).
pub(crate) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes of a head.
pub(crate) const HEAD: usize = 9;

/// What every peer accepts as the length of a payload, whatever it has announced.
pub(crate) const DEFAULT_MAX_FRAME_SIZE: u32 = 1 << 14;

/// The connection windows of both sides, until a WINDOW_UPDATE opens them further (RFC 9113, section 6.9.2).
pub(crate) const INITIAL_WINDOW: i64 = 65_535;

/// No window may exceed it (RFC 9113, section 6.9.1).
pub(crate) const MAX_WINDOW: i64 = (1 << 31) - 1;

pub(crate) mod kind {
    pub(crate) const DATA: u8 = 0;
    pub(crate) const HEADERS: u8 = 1;
    pub(crate) const RST_STREAM: u8 = 3;
    pub(crate) const SETTINGS: u8 = 4;
    pub(crate) const PUSH_PROMISE: u8 = 5;
    pub(crate) const PING: u8 = 6;
    pub(crate) const GOAWAY: u8 = 7;
    pub(crate) const WINDOW_UPDATE: u8 = 8;
    pub(crate) const CONTINUATION: u8 = 9;
}

pub(crate) mod flag {
    /// Of SETTINGS and PING.
    pub(crate) const ACK: u8 = 0x1;
    /// Of DATA and HEADERS.
    pub(crate) const END_STREAM: u8 = 0x1;
    /// Of HEADERS and CONTINUATION.
    pub(crate) const END_HEADERS: u8 = 0x4;
    /// Of DATA and HEADERS.
    pub(crate) const PADDED: u8 = 0x8;
    /// Of HEADERS.
    pub(crate) const PRIORITY: u8 = 0x20;
}

/// The head of a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Head {
    /// Bytes of the payload.
    pub(crate) length: u32,
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    /// 0: the connection.
    pub(crate) stream: u32,
}

impl Head {
    /// `None` if not all of it is there.
    #[inline]
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let &[a, b, c, kind, flags, d, e, f, g] = bytes.first_chunk::<HEAD>()?;
        Some(Self {
            length: u32::from_be_bytes([0, a, b, c]),
            kind,
            flags,
            // The highest bit is reserved and ignored.
            stream: u32::from_be_bytes([d & 0x7f, e, f, g]),
        })
    }

    #[inline]
    pub(crate) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Bytes of the whole frame.
    pub(crate) fn frame_length(&self) -> usize {
        HEAD + self.length as usize
    }

    pub(crate) fn put(&self, out: &mut BytesMut) {
        out.put_uint(self.length.into(), 3);
        out.put_u8(self.kind);
        out.put_u8(self.flags);
        out.put_u32(self.stream);
    }
}

/// Writes a whole frame. The payload has at most [`DEFAULT_MAX_FRAME_SIZE`] bytes.
pub(crate) fn put(out: &mut BytesMut, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    debug_assert!(payload.len() <= DEFAULT_MAX_FRAME_SIZE as usize);
    Head { length: payload.len() as u32, kind, flags, stream }.put(out);
    out.extend_from_slice(payload);
}

/// Opens the connection's window by so many bytes: 1 to [`MAX_WINDOW`].
pub(crate) fn put_window_update(out: &mut BytesMut, bytes: i64) {
    debug_assert!((1..=MAX_WINDOW).contains(&bytes));
    put(out, kind::WINDOW_UPDATE, 0, 0, &(bytes as u32).to_be_bytes());
}

/// Writes a header block as HEADERS and as many CONTINUATION frames as it takes. `flags` may say `END_STREAM`
/// and, if the block begins with them, that there are five bytes of priority.
pub(crate) fn put_block(out: &mut BytesMut, flags: u8, stream: u32, block: &[u8]) {
    let mut kind = kind::HEADERS;
    let mut flags = flags & (flag::END_STREAM | flag::PRIORITY);
    let mut rest = block;
    loop {
        let (piece, after) = rest.split_at(rest.len().min(DEFAULT_MAX_FRAME_SIZE as usize));
        if after.is_empty() {
            flags |= flag::END_HEADERS;
        }
        put(out, kind, flags, stream, piece);
        if after.is_empty() {
            return;
        }
        (kind, flags, rest) = (kind::CONTINUATION, 0, after);
    }
}

/// What HEADERS carries beside its piece of a header block: the five bytes of priority, or none. `None` if it
/// says that it has more than is there.
#[inline]
pub(crate) fn strip_headers(head: Head, payload: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut rest = payload;
    let mut padding = 0;
    if head.has(flag::PADDED) {
        let (&length, after) = rest.split_first()?;
        (padding, rest) = (length.into(), after);
    }
    let priority = if head.has(flag::PRIORITY) { 5 } else { 0 };
    let (priority, rest) = rest.split_at_checked(priority)?;
    Some((priority, &rest[..rest.len().checked_sub(padding)?]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_as_it_was_written() {
        let mut out = BytesMut::new();
        put(&mut out, kind::DATA, flag::END_STREAM, 0x7fff_ffff, b"abc");
        let head = Head { length: 3, kind: kind::DATA, flags: 1, stream: 0x7fff_ffff };
        assert_eq!(Head::parse(&out), Some(head));
        assert_eq!(Head::parse(&out[..8]), None);
    }

    #[test]
    fn a_long_block_continues_and_ends_once() {
        for length in [0, 1, 16_384, 16_385, 40_000] {
            let block: Vec<u8> = (0..length).map(|n| n as u8).collect();
            let mut out = BytesMut::new();
            put_block(&mut out, flag::END_STREAM, 5, &block);
            let (mut read, mut ends) = (Vec::new(), 0);
            while let Some(head) = Head::parse(&out) {
                let frame = out.split_to(head.frame_length());
                assert_eq!(head.kind == kind::HEADERS, read.is_empty());
                assert_eq!(head.has(flag::END_STREAM), read.is_empty());
                ends += usize::from(head.has(flag::END_HEADERS));
                read.extend_from_slice(&frame[HEAD..]);
            }
            assert_eq!((read, ends, out.len()), (block, 1, 0));
        }
    }

    #[test]
    fn padding_and_priority_are_no_part_of_a_block() {
        let head = |flags| Head { flags, ..Head::default() };
        let both = flag::PADDED | flag::PRIORITY;
        assert_eq!(strip_headers(head(0), b"block"), Some((&b""[..], &b"block"[..])));
        assert_eq!(strip_headers(head(both), b"\x0212345block.."), Some((&b"12345"[..], &b"block"[..])));
        assert_eq!(strip_headers(head(both), b"\x0212345."), None);
        assert_eq!(strip_headers(head(flag::PRIORITY), b"1234"), None);
        assert_eq!(strip_headers(head(flag::PADDED), b""), None);
    }
}
