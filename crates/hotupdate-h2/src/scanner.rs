//! Finds the frames in a stream of bytes that come in any pieces, and looks only at those that matter.

use crate::frame::{HEAD, Head};

/// What is to be done about a frame, once its head is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Want {
    /// Its payload passes unseen.
    Nothing,
    /// Its payload passes, and is shown when all of it is there.
    Payload,
    /// It does not pass: the scanner stops in front of it.
    Stop,
}

/// Looks at the frames that a [`Scanner`] finds.
pub(crate) trait Follow {
    /// All of a head.
    fn head(&mut self, head: Head) -> Want;
    /// All of a payload that was wanted.
    fn payload(&mut self, head: Head, payload: &[u8]);
}

/// Where a stream of bytes stands.
#[derive(Debug)]
pub(crate) struct Scanner {
    /// A head of which only some bytes have passed.
    partial: [u8; HEAD],
    have: usize,
    /// The frame whose payload is passing, and how much of that is still to come.
    head: Head,
    left: usize,
    /// Its payload, if it is wanted.
    wanted: bool,
    payload: Vec<u8>,
}

impl Scanner {
    /// The first frame begins after so many bytes.
    pub(crate) fn after(bytes: usize) -> Self {
        Self {
            partial: [0; HEAD],
            have: 0,
            head: Head::default(),
            left: bytes,
            wanted: false,
            payload: Vec::new(),
        }
    }

    /// Whether the next byte is the first of a frame.
    #[inline]
    pub(crate) fn is_between(&self) -> bool {
        self.left == 0 && self.have == 0
    }

    /// So many bytes have to pass before it is known whether the next one is the first of a frame.
    pub(crate) fn missing(&self) -> usize {
        if self.have > 0 { HEAD - self.have } else { self.left }
    }

    /// How many of these bytes pass. The rest begins with a head: one that has stopped the scanner, or one of
    /// which not all is there.
    #[inline]
    pub(crate) fn pass(&mut self, bytes: &[u8], follow: &mut impl Follow) -> usize {
        let mut at = self.pass_payload(bytes, follow);
        while self.left == 0
            && let Some(head) = Head::parse(&bytes[at..])
        {
            let want = follow.head(head);
            if want == Want::Stop {
                return at;
            }
            at += HEAD;
            at += self.begin(head, want, &bytes[at..], follow);
        }
        if self.left > 0 { bytes.len() } else { at }
    }

    /// All of these bytes have passed, also those of a head that is not complete. Nothing stops.
    #[inline]
    pub(crate) fn passed(&mut self, mut bytes: &[u8], follow: &mut impl Follow) {
        if self.have > 0 {
            let (rest, after) = bytes.split_at(bytes.len().min(HEAD - self.have));
            self.partial[self.have..self.have + rest.len()].copy_from_slice(rest);
            self.have += rest.len();
            let Some(head) = Head::parse(&self.partial[..self.have]) else { return };
            self.have = 0;
            let want = follow.head(head);
            bytes = &after[self.begin(head, want, after, follow)..];
        }
        let rest = &bytes[self.pass(bytes, follow)..];
        debug_assert!(rest.len() < HEAD, "nothing stops here");
        if !rest.is_empty() {
            self.partial[..rest.len()].copy_from_slice(rest);
            self.have = rest.len();
        }
    }

    /// A payload begins. Returns how much of it is there.
    #[inline]
    fn begin(&mut self, head: Head, want: Want, bytes: &[u8], follow: &mut impl Follow) -> usize {
        let length = head.length as usize;
        if want == Want::Payload {
            if let Some(payload) = bytes.get(..length) {
                follow.payload(head, payload);
                return length;
            }
            (self.head, self.wanted) = (head, true);
        }
        self.left = length;
        self.pass_payload(bytes, follow)
    }

    /// The payload goes on. Returns how much of it is there.
    #[inline]
    fn pass_payload(&mut self, bytes: &[u8], follow: &mut impl Follow) -> usize {
        let n = bytes.len().min(self.left);
        if n > 0 {
            self.left -= n;
            if self.wanted {
                self.pass_wanted(&bytes[..n], follow);
            }
        }
        n
    }

    #[cold]
    fn pass_wanted(&mut self, bytes: &[u8], follow: &mut impl Follow) {
        self.payload.extend_from_slice(bytes);
        if self.left == 0 {
            self.wanted = false;
            follow.payload(self.head, &std::mem::take(&mut self.payload));
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::frame::{kind, put};

    /// Wants the payload of SETTINGS, and stops at PING.
    #[derive(Default)]
    struct Seen {
        heads: Vec<Head>,
        payloads: Vec<Vec<u8>>,
        stops: bool,
    }

    impl Follow for Seen {
        fn head(&mut self, head: Head) -> Want {
            if self.stops && head.kind == kind::PING {
                return Want::Stop;
            }
            self.heads.push(head);
            if head.kind == kind::SETTINGS { Want::Payload } else { Want::Nothing }
        }

        fn payload(&mut self, head: Head, payload: &[u8]) {
            assert_eq!(head.length as usize, payload.len());
            self.payloads.push(payload.to_vec());
        }
    }

    fn frames() -> BytesMut {
        let mut out = BytesMut::from(&b"before"[..]);
        for (kind, payload) in [
            (kind::SETTINGS, &b""[..]),
            (kind::DATA, b"some data"),
            (kind::SETTINGS, b"settings"),
            (kind::DATA, b""),
            (kind::PING, b"12345678"),
            (kind::SETTINGS, b"more"),
        ] {
            put(&mut out, kind, 0, 0, payload);
        }
        out
    }

    #[test]
    fn frames_are_found_in_pieces_of_any_size() {
        let all = frames();
        for size in 1..all.len() {
            let (mut scanner, mut seen) = (Scanner::after(6), Seen::default());
            for piece in all.chunks(size) {
                scanner.passed(piece, &mut seen);
            }
            assert_eq!(seen.heads.len(), 6);
            assert_eq!(seen.payloads, [&b""[..], b"settings", b"more"]);
            assert!(scanner.is_between());
        }
    }

    #[test]
    fn what_stops_stays_whole() {
        let all = frames();
        let end = all.len() - (2 * HEAD + 8 + 4);
        for size in 1..all.len() {
            let (mut scanner, mut seen) = (Scanner::after(6), Seen { stops: true, ..Seen::default() });
            let (mut pending, mut passed) = (Vec::new(), 0);
            for piece in all.chunks(size) {
                pending.extend_from_slice(piece);
                let n = scanner.pass(&pending, &mut seen);
                pending.drain(..n);
                passed += n;
            }
            assert_eq!((passed, pending.len(), scanner.is_between()), (end, all.len() - end, true));
        }
    }
}
