//! Buffers the frames that have arrived until a message is complete.
//!
//! Only the lengths in the headers of frames (RFC 6455, section 5.2) are parsed here; tungstenite decodes and
//! validates. Tungstenite is given complete messages only, so that everything that has arrived and was not
//! delivered is in this buffer, and can migrate.

use bytes::{Buf, Bytes, BytesMut};

/// The headers of fragments may have this much on top of the largest message, so that fragments without
/// payload have a limit too.
const SLACK: usize = 64 * 1024;

/// Bytes between the socket and tungstenite.
#[derive(Debug)]
pub(super) struct FrameBuffer {
    /// Whole frames of a message whose last frame is not here yet.
    fragments: BytesMut,
    /// What follows them.
    rest: BytesMut,
    max_message: usize,
    /// An invalid frame was seen: from there on the lengths mean nothing.
    invalid: bool,
}

/// What [`FrameBuffer::next`] finds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// A message with all of its fragments, or a control frame.
    Complete(Bytes),
    /// The message is not complete yet.
    Incomplete,
    /// The message is larger than allowed, by its own account.
    TooLarge(usize),
}

/// The part of a frame's header that says where it ends.
#[derive(Debug)]
struct Frame {
    last: bool,
    opcode: u8,
    payload: usize,
    length: usize,
}

impl FrameBuffer {
    /// The bytes that arrived before, and were not delivered, come first.
    pub(super) fn new(arrived: &[u8], max_message: usize) -> Self {
        Self { fragments: BytesMut::new(), rest: arrived.into(), max_message, invalid: false }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.rest.extend_from_slice(bytes);
    }

    /// How many bytes are buffered.
    pub(super) fn len(&self) -> usize {
        self.fragments.len() + self.rest.len()
    }

    /// Whether the buffer holds everything that the next process has to know. Not after an invalid frame,
    /// which has been given to tungstenite.
    pub(super) fn is_valid(&self) -> bool {
        !self.invalid
    }

    /// Appends what is buffered, as [`FrameBuffer::new`] takes it.
    pub(super) fn write_to(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.fragments);
        out.extend_from_slice(&self.rest);
    }

    /// Takes out the next message, if it is complete.
    pub(super) fn next(&mut self) -> Next {
        loop {
            if self.invalid {
                return self.take_everything();
            }
            let frame = match Frame::parse(&self.rest) {
                Ok(Some(frame)) => frame,
                Ok(None) => return Next::Incomplete,
                Err(InvalidHeader) => {
                    self.invalid = true;
                    continue;
                }
            };
            if frame.is_control() {
                // It may stand between the fragments of a message, and is not part of it (section 5.4).
                return self.take(&frame).map_or(Next::Incomplete, |frame| Next::Complete(frame.freeze()));
            }
            let begins = frame.opcode != 0;
            if begins != self.fragments.is_empty() {
                self.invalid = true;
                continue;
            }
            let (limit, so_far) = (self.max_message, self.fragments.len());
            if frame.payload > limit || so_far.saturating_add(frame.length) > limit.saturating_add(SLACK) {
                return Next::TooLarge(so_far.saturating_add(frame.payload));
            }
            let last = frame.last;
            let Some(bytes) = self.take(&frame) else { return Next::Incomplete };
            if last && self.fragments.is_empty() {
                return Next::Complete(bytes.freeze());
            }
            self.fragments.unsplit(bytes);
            if last {
                return Next::Complete(self.fragments.split().freeze());
            }
        }
    }

    fn take(&mut self, frame: &Frame) -> Option<BytesMut> {
        (self.rest.len() >= frame.length).then(|| self.rest.split_to(frame.length))
    }

    /// Tungstenite finds out what is invalid, and returns the error.
    fn take_everything(&mut self) -> Next {
        if self.len() == 0 {
            return Next::Incomplete;
        }
        let mut all = self.fragments.split();
        all.unsplit(self.rest.split());
        Next::Complete(all.freeze())
    }
}

/// A header that is invalid in this protocol, without extensions.
#[derive(Debug)]
struct InvalidHeader;

impl Frame {
    /// `None` if the header is not complete.
    fn parse(mut bytes: &[u8]) -> Result<Option<Self>, InvalidHeader> {
        let available = bytes.len();
        let Ok([first, second]) = bytes.try_get_u16().map(u16::to_be_bytes) else { return Ok(None) };
        let (last, opcode) = (first & 0x80 != 0, first & 0x0F);
        let payload = match second & 0x7F {
            126 => bytes.try_get_u16().map(u64::from),
            127 => bytes.try_get_u64(),
            short => Ok(u64::from(short)),
        };
        let extended = matches!(second & 0x7F, 126 | 127);
        let reserved = first & 0x70 != 0 || !matches!(opcode, 0..=2 | 8..=10);
        if reserved || (opcode >= 8 && (extended || !last)) {
            return Err(InvalidHeader);
        }
        let Ok(payload) = payload else { return Ok(None) };
        let payload = usize::try_from(payload).map_err(|_| InvalidHeader)?;
        let mask = if second & 0x80 != 0 { 4 } else { 0 };
        let header = available - bytes.len() + mask;
        Ok(Some(Self { last, opcode, payload, length: header.saturating_add(payload) }))
    }

    fn is_control(&self) -> bool {
        self.opcode >= 8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![first];
        match payload.len() {
            short @ 0..126 => bytes.push(0x80 | u8::try_from(short).unwrap()),
            medium @ 126..0x1_0000 => {
                bytes.push(0x80 | 126);
                bytes.extend(u16::try_from(medium).unwrap().to_be_bytes());
            }
            long => {
                bytes.push(0x80 | 127);
                bytes.extend(u64::try_from(long).unwrap().to_be_bytes());
            }
        }
        bytes.extend([0; 4]);
        bytes.extend(payload);
        bytes
    }

    fn all(buffer: &mut FrameBuffer) -> Vec<Bytes> {
        std::iter::from_fn(|| match buffer.next() {
            Next::Complete(bytes) => Some(bytes),
            Next::Incomplete => None,
            Next::TooLarge(size) => panic!("{size}"),
        })
        .collect()
    }

    #[test]
    fn messages_are_complete_wherever_the_bytes_are_cut_by_a_migration() {
        let messages =
            [frame(0x81, b"one"), frame(0x82, &[7; 200]), frame(0x82, &[8; 70_000]), frame(0x81, b"")];
        let (first, ping, second, third) =
            (frame(0x01, b"a"), frame(0x89, b"!"), frame(0x00, b""), frame(0x80, b"c"));
        let bytes = [&messages.concat()[..], &first, &ping, &second, &third].concat();
        let mut expected: Vec<_> = messages.into_iter().map(Bytes::from).collect();
        expected.push(ping.into());
        expected.push([first, second, third].concat().into());
        for cut in (0..300).chain(bytes.len() - 100..=bytes.len()) {
            let mut buffer = FrameBuffer::new(&bytes[..cut], 1 << 20);
            let mut messages_out = all(&mut buffer);
            let mut migrated = Vec::new();
            buffer.write_to(&mut migrated);
            let mut buffer = FrameBuffer::new(&migrated, 1 << 20);
            buffer.push(&bytes[cut..]);
            messages_out.extend(all(&mut buffer));
            assert_eq!(messages_out, expected, "cut at {cut}");
            assert_eq!((buffer.len(), buffer.is_valid()), (0, true));
        }
    }

    #[test]
    fn a_message_that_will_be_too_large_is_known_from_its_header() {
        let mut buffer = FrameBuffer::new(&frame(0x81, &[0; 101])[..6], 100);
        assert_eq!(buffer.next(), Next::TooLarge(101));
        let mut buffer = FrameBuffer::new(&[], SLACK);
        let mut fragments = frame(0x01, &[]);
        while buffer.next() == Next::Incomplete {
            buffer.push(&fragments);
            fragments = frame(0x00, &[]).repeat(10_000);
            assert!(buffer.len() < 4 * SLACK, "fragments without end");
        }
    }

    #[test]
    fn invalid_frames_go_to_tungstenite_and_do_not_migrate() {
        let control_in_pieces = frame(0x09, b"");
        let long_control = frame(0x88, &[0; 126]);
        let beginning_twice = [frame(0x01, b"a"), frame(0x81, b"b")].concat();
        let no_beginning = frame(0x80, b"a");
        for bytes in
            [vec![0xC1, 0], vec![0x83, 0], control_in_pieces, long_control, beginning_twice, no_beginning]
        {
            let mut buffer = FrameBuffer::new(&bytes, 100);
            assert_eq!(all(&mut buffer).concat(), bytes);
            assert!(!buffer.is_valid());
        }
    }
}
