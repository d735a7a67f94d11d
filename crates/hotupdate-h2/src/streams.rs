//! The streams of a client that are open.

use std::collections::VecDeque;

use bytes::{Buf as _, BufMut as _};

/// Open streams, in the order in which they were opened: their numbers only grow (RFC 9113, section 5.1.1).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Streams {
    open: VecDeque<Stream>,
    last: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stream {
    number: u32,
    /// The client has ended its side.
    requested: bool,
    /// The server has ended its side.
    answered: bool,
}

impl Streams {
    /// After streams of which none is open any more.
    pub(crate) fn after(last: u32) -> Self {
        Self { open: VecDeque::new(), last }
    }

    /// The last that was opened, 0 if none was.
    pub(crate) fn last(&self) -> u32 {
        self.last
    }

    /// The first one that is open, of those that are.
    pub(crate) fn first_open(&self) -> Option<u32> {
        self.open.front().map(|stream| stream.number)
    }

    pub(crate) fn len(&self) -> usize {
        self.open.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// The numbers of those that are open.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = u32> {
        self.open.iter().map(|stream| stream.number)
    }

    #[inline]
    pub(crate) fn is_open(&self, number: u32) -> bool {
        self.find(number).is_some()
    }

    /// As a part of a state.
    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        out.put_u32(self.open.len() as u32);
        for Stream { number, requested, answered } in &self.open {
            out.put_u32(*number);
            out.put_u8(u8::from(*requested) | u8::from(*answered) << 1);
        }
    }

    /// Reads what [`put`](Self::put) has written, of streams of which this was the last one.
    pub(crate) fn get(from: &mut &[u8], last: u32) -> Option<Self> {
        let mut streams = Self::after(0);
        for _ in 0..from.try_get_u32().ok()? {
            let (number, ended) = (from.try_get_u32().ok()?, from.try_get_u8().ok()?);
            if number <= streams.last || number > last || ended > 2 {
                return None;
            }
            streams.open(number);
            let Some(stream) = streams.open.back_mut() else { continue };
            (stream.requested, stream.answered) = (ended & 1 != 0, ended & 2 != 0);
        }
        streams.last = last;
        Some(streams)
    }

    /// HEADERS has come; it opens a stream if it is a new one.
    #[inline]
    pub(crate) fn open(&mut self, number: u32) {
        if number > self.last {
            self.last = number;
            self.open.push_back(Stream { number, requested: false, answered: false });
        }
    }

    #[inline]
    fn find(&self, number: u32) -> Option<usize> {
        // Most clients ask for one thing after the other: the stream is the only one.
        match self.open.front() {
            Some(stream) if stream.number == number => Some(0),
            Some(_) => self.open.binary_search_by_key(&number, |stream| stream.number).ok(),
            None => None,
        }
    }

    /// The client has ended its side.
    #[inline]
    pub(crate) fn requested(&mut self, number: u32) {
        self.change(number, |stream| stream.requested = true);
    }

    /// The server has ended its side.
    #[inline]
    pub(crate) fn answered(&mut self, number: u32) {
        self.change(number, |stream| stream.answered = true);
    }

    #[inline]
    fn change(&mut self, number: u32, change: impl FnOnce(&mut Stream)) {
        let Some(at) = self.find(number) else { return };
        let Some(stream) = self.open.get_mut(at) else { return };
        change(stream);
        if stream.requested && stream.answered {
            self.close(at);
        }
    }

    #[inline]
    fn close(&mut self, at: usize) {
        // Which moves no other one.
        if at == 0 {
            self.open.pop_front()
        } else {
            self.open.remove(at)
        };
    }

    /// One of both sides has reset it.
    pub(crate) fn reset(&mut self, number: u32) {
        if let Some(at) = self.find(number) {
            self.close(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_open_until_both_sides_have_ended_or_one_resets() {
        let mut streams = Streams::default();
        for number in [1, 3, 7] {
            streams.open(number);
        }
        streams.answered(3);
        streams.open(3); // trailers
        streams.requested(3);
        assert_eq!(streams.len(), 2);
        streams.reset(1);
        streams.reset(1);
        streams.requested(7);
        streams.requested(7);
        assert_eq!((streams.len(), streams.last()), (1, 7));
        streams.answered(7);
        assert!(streams.is_empty());
        streams.open(5);
        assert!(streams.is_empty(), "it was passed over, and is closed");
    }
}
