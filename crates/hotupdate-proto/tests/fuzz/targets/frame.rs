//! Any stream of bytes, in any pieces: it is cut as a plain search for NULs would cut it, and frames that say
//! their length where they say it.

use arbitrary::Unstructured;
use hotupdate_proto::frame::{BINARY, Decoder, FrameError, MAX_MESSAGE};

/// How many pieces may be about as long as the limit: each costs a millisecond.
const LONG_PIECES: usize = 2;

/// What the decoder should say: all that was pushed and was not part of a frame.
#[derive(Default)]
struct Model(Vec<u8>);

impl Model {
    fn next_frame(&mut self) -> Option<Result<Vec<u8>, FrameError>> {
        if let [BINARY, rest @ ..] = &self.0[..] {
            let [a, b, c, d, body @ ..] = rest else { return None };
            let length = u32::from_le_bytes([*a, *b, *c, *d]) as usize;
            return match length {
                _ if length > MAX_MESSAGE => Some(Err(FrameError::TooLong)),
                _ if length > body.len() => None,
                _ => {
                    let rest = self.0.split_off(5 + length);
                    Some(Ok(std::mem::replace(&mut self.0, rest)))
                }
            };
        }
        let end = self.0.contains(&0).then(|| self.0.iter().position(|byte| *byte == 0)).flatten();
        if end.unwrap_or(self.0.len()) > MAX_MESSAGE {
            return Some(Err(FrameError::TooLong));
        }
        let rest = self.0.split_off(end? + 1);
        let mut frame = std::mem::replace(&mut self.0, rest);
        frame.pop();
        Some(Ok(frame))
    }
}

pub(crate) fn check(bytes: &[u8]) {
    let (mut decoder, mut model) = (Decoder::default(), Model::default());
    let mut long = 0;
    let mut u = Unstructured::new(bytes);
    while !u.is_empty() {
        match u.int_in_range(0..=7).unwrap_or(0) {
            0 if long < LONG_PIECES && u.ratio(1, 4).unwrap_or(false) => {
                long += 1;
                let length = MAX_MESSAGE - 2 + u.int_in_range(0..=4).unwrap_or(0);
                push(&mut decoder, &mut model, &vec![u.arbitrary().unwrap_or(b' '); length]);
            }
            1 => {
                // Its length may be the right one.
                let length = u32::from(u.arbitrary::<u8>().unwrap_or(0));
                push(&mut decoder, &mut model, &[&[BINARY], &length.to_le_bytes()[..]].concat());
            }
            0 | 2 | 3 => {
                if !take(&mut decoder, &mut model) {
                    return;
                }
            }
            _ => {
                let length = u.int_in_range(0..=64).unwrap_or(0).min(u.len());
                push(&mut decoder, &mut model, u.bytes(length).unwrap_or_default());
            }
        }
    }
    // Not to the end: a million NULs are a million frames.
    let _ = (0..100).all(|_| take(&mut decoder, &mut model));
}

fn push(decoder: &mut Decoder, model: &mut Model, piece: &[u8]) {
    decoder.push(piece);
    model.0.extend_from_slice(piece);
}

/// Whether anything sensible may follow.
fn take(decoder: &mut Decoder, model: &mut Model) -> bool {
    let expected = model.next_frame();
    let got = decoder.next_frame();
    let sensible = got != Some(Err(FrameError::TooLong));
    assert!(got == expected, "{:?} instead of {:?}", got.map(short), expected.map(short));
    assert!(decoder.unread() == model.0, "what is left is not what was not taken");
    if !sensible {
        // The end may come all the same, and changes nothing.
        decoder.push(b"\0{}\0");
        assert_eq!(decoder.next_frame(), Some(Err(FrameError::TooLong)));
    }
    sensible
}

fn short(frame: Result<Vec<u8>, FrameError>) -> Result<usize, FrameError> {
    frame.map(|frame| frame.len())
}
