//! The primitives of HPACK that do not depend on a table: integers and the bounds of strings (RFC 7541,
//! section 5).
//!
//! Deliberately absent: Huffman codes. A string stays as it came, with its length before it.

use std::ops::Range;

/// A header block that no decoder accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// Reads an integer whose first byte has so many bits of it, and advances `at`. As in h2, at most four bytes
/// follow.
#[inline]
pub(crate) fn integer(block: &[u8], at: &mut usize, bits: u32) -> Result<usize, Malformed> {
    let mask = (1_usize << bits) - 1;
    let first = usize::from(*block.get(*at).ok_or(Malformed)?) & mask;
    *at += 1;
    if first < mask { Ok(first) } else { long_integer(block, at, mask) }
}

fn long_integer(block: &[u8], at: &mut usize, mut value: usize) -> Result<usize, Malformed> {
    for shift in [0, 7, 14, 21] {
        let byte = *block.get(*at).ok_or(Malformed)?;
        *at += 1;
        value += usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Malformed)
}

/// Writes an integer after the bits of `first` that are not its own.
pub(crate) fn put_integer(out: &mut Vec<u8>, first: u8, bits: u32, mut value: usize) {
    let mask = (1_usize << bits) - 1;
    if value < mask {
        out.push(first | value as u8);
        return;
    }
    out.push(first | mask as u8);
    value -= mask;
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Where a string literal stands, with its length before it. Advances `at` beyond it.
#[inline]
pub(crate) fn string(block: &[u8], at: &mut usize) -> Result<Range<usize>, Malformed> {
    let start = *at;
    let length = integer(block, at, 7)?;
    let end = at.checked_add(length).filter(|end| *end <= block.len()).ok_or(Malformed)?;
    *at = end;
    Ok(start..end)
}

/// The least and the most bytes that a string literal has when it is decoded: a byte takes 5 to 30 bits (RFC
/// 7541, appendix B), and up to seven bits of padding end the last one.
pub(crate) fn decoded_length(literal: &[u8]) -> (usize, usize) {
    let mut at = 0;
    let length = integer(literal, &mut at, 7).unwrap_or(0);
    let huffman = literal.first().is_some_and(|first| first & 0x80 != 0);
    if huffman { ((length * 8).saturating_sub(7).div_ceil(30), length * 8 / 5) } else { (length, length) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_read_as_they_were_written() {
        for bits in 4..8 {
            for value in [0, 1, 14, 15, 30, 31, 126, 127, 128, 300, 16_383, 1 << 20, 1 << 27] {
                let mut out = Vec::new();
                put_integer(&mut out, 0, bits, value);
                let mut at = 0;
                assert_eq!(integer(&out, &mut at, bits), Ok(value));
                assert_eq!(at, out.len());
                for short in 0..out.len() {
                    assert_eq!(integer(&out[..short], &mut 0, bits), Err(Malformed));
                }
            }
        }
        assert_eq!(integer(b"\x7f\xff\xff\xff\xff\x00", &mut 0, 7), Err(Malformed), "longer than h2 reads");
    }

    #[test]
    fn the_examples_of_the_rfc() {
        // RFC 7541, appendix C.1.2 and C.4.1.
        assert_eq!(integer(&[0b1110_1010 | 0b1_1111, 0b1001_1010, 0b0000_1010], &mut 0, 5), Ok(1337));
        let example = b"\x8c\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff";
        assert_eq!(string(example, &mut 0), Ok(0..13));
        let (least, most) = decoded_length(example);
        assert!((least..=most).contains(&"www.example.com".len()));
        assert_eq!(decoded_length(b"\x03abc"), (3, 3));
    }
}
