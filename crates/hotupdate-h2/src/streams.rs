//! The streams of a client that are open.

use std::collections::VecDeque;

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
