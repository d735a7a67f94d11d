//! Holds back what has arrived until a message is whole.
//!
//! Deliberately absent: payloads. Only the lengths in the headers of frames (RFC 6455, section 5.2) are looked at; what
//! frames mean, and what is wrong with them, is tungstenite's business. It never holds part of a message, so that
//! everything that has arrived and was not delivered is in here, and can move.

use bytes::{Buf, Bytes, BytesMut};

/// Per fragment a little is allowed on top of the largest message, so that fragments without payload have an end too.
const SLACK: usize = 64 * 1024;

/// Bytes between the socket and tungstenite.
#[derive(Debug)]
pub(super) struct Gate {
    /// Whole frames of a message whose last frame is not here yet.
    fragments: BytesMut,
    /// What follows them.
    rest: BytesMut,
    max_message: usize,
    broken: bool,
}

/// What a look into the gate finds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Passed {
    /// A whole message with all of its fragments, or a control frame.
    Whole(Bytes),
    /// The message is not complete.
    Nothing,
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

impl Gate {
    /// The bytes that arrived before, and were not delivered, come first.
    pub(super) fn new(arrived: &[u8], max_message: usize) -> Self {
        Self { fragments: BytesMut::new(), rest: arrived.into(), max_message, broken: false }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.rest.extend_from_slice(bytes);
    }

    /// How many bytes are held.
    pub(super) fn len(&self) -> usize {
        self.fragments.len() + self.rest.len()
    }

    /// Whether what is held is all there is to know. Not any more after a frame that makes no sense.
    pub(super) fn is_whole(&self) -> bool {
        !self.broken
    }

    /// What is held, as [`Gate::new`] takes it.
    pub(super) fn write_to(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.fragments);
        out.extend_from_slice(&self.rest);
    }

    /// Lets the next message pass, if it is whole.
    pub(super) fn next(&mut self) -> Passed {
        loop {
            if self.broken {
                return self.pass_everything();
            }
            let frame = match Frame::parse(&self.rest) {
                Ok(Some(frame)) => frame,
                Ok(None) => return Passed::Nothing,
                Err(NonSense) => {
                    self.broken = true;
                    continue;
                }
            };
            if frame.is_control() {
                // It may stand between the fragments of a message, and is not part of it (section 5.4).
                return self.take(&frame).map_or(Passed::Nothing, |frame| Passed::Whole(frame.freeze()));
            }
            let begins = frame.opcode != 0;
            if begins != self.fragments.is_empty() {
                self.broken = true;
                continue;
            }
            let (limit, so_far) = (self.max_message, self.fragments.len());
            if frame.payload > limit || so_far.saturating_add(frame.length) > limit.saturating_add(SLACK) {
                return Passed::TooLarge(so_far.saturating_add(frame.payload));
            }
            let last = frame.last;
            let Some(bytes) = self.take(&frame) else { return Passed::Nothing };
            if last && self.fragments.is_empty() {
                return Passed::Whole(bytes.freeze());
            }
            self.fragments.unsplit(bytes);
            if last {
                return Passed::Whole(self.fragments.split().freeze());
            }
        }
    }

    fn take(&mut self, frame: &Frame) -> Option<BytesMut> {
        (self.rest.len() >= frame.length).then(|| self.rest.split_to(frame.length))
    }

    /// Tungstenite finds out what is wrong, and says so.
    fn pass_everything(&mut self) -> Passed {
        if self.len() == 0 {
            return Passed::Nothing;
        }
        let mut all = self.fragments.split();
        all.unsplit(self.rest.split());
        Passed::Whole(all.freeze())
    }
}

/// A header that no frame of ours can have.
#[derive(Debug)]
struct NonSense;

impl Frame {
    /// `None` if the header is not complete.
    fn parse(mut bytes: &[u8]) -> Result<Option<Self>, NonSense> {
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
            return Err(NonSense);
        }
        let Ok(payload) = payload else { return Ok(None) };
        let payload = usize::try_from(payload).map_err(|_| NonSense)?;
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

    fn all(gate: &mut Gate) -> Vec<Bytes> {
        std::iter::from_fn(|| match gate.next() {
            Passed::Whole(bytes) => Some(bytes),
            Passed::Nothing => None,
            Passed::TooLarge(size) => panic!("{size}"),
        })
        .collect()
    }

    #[test]
    fn whole_messages_pass_wherever_the_bytes_are_cut_and_whenever_they_move() {
        let messages =
            [frame(0x81, b"one"), frame(0x82, &[7; 200]), frame(0x82, &[8; 70_000]), frame(0x81, b"")];
        let (first, ping, second, third) =
            (frame(0x01, b"a"), frame(0x89, b"!"), frame(0x00, b""), frame(0x80, b"c"));
        let bytes = [&messages.concat()[..], &first, &ping, &second, &third].concat();
        let mut expected: Vec<_> = messages.into_iter().map(Bytes::from).collect();
        expected.push(ping.into());
        expected.push([first, second, third].concat().into());
        for cut in (0..300).chain(bytes.len() - 100..=bytes.len()) {
            let mut gate = Gate::new(&bytes[..cut], 1 << 20);
            let mut passed = all(&mut gate);
            let mut moved = Vec::new();
            gate.write_to(&mut moved);
            let mut gate = Gate::new(&moved, 1 << 20);
            gate.push(&bytes[cut..]);
            passed.extend(all(&mut gate));
            assert_eq!(passed, expected, "cut at {cut}");
            assert_eq!((gate.len(), gate.is_whole()), (0, true));
        }
    }

    #[test]
    fn a_message_that_will_be_too_large_is_known_from_its_header() {
        let mut gate = Gate::new(&frame(0x81, &[0; 101])[..6], 100);
        assert_eq!(gate.next(), Passed::TooLarge(101));
        let mut gate = Gate::new(&[], SLACK);
        let mut fragments = frame(0x01, &[]);
        while gate.next() == Passed::Nothing {
            gate.push(&fragments);
            fragments = frame(0x00, &[]).repeat(10_000);
            assert!(gate.len() < 4 * SLACK, "fragments without end");
        }
    }

    #[test]
    fn nonsense_passes_and_does_not_move() {
        let control_in_pieces = frame(0x09, b"");
        let long_control = frame(0x88, &[0; 126]);
        let beginning_twice = [frame(0x01, b"a"), frame(0x81, b"b")].concat();
        let no_beginning = frame(0x80, b"a");
        for bytes in
            [vec![0xC1, 0], vec![0x83, 0], control_in_pieces, long_control, beginning_twice, no_beginning]
        {
            let mut gate = Gate::new(&bytes, 100);
            assert_eq!(all(&mut gate).concat(), bytes);
            assert!(!gate.is_whole());
        }
    }
}
