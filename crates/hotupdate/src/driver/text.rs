//! Bytes in messages, which are JSON.

/// One character for each byte, because a message may be cut in the middle of a character.
pub(super) fn to_text(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

pub(super) fn from_text(text: &str) -> Vec<u8> {
    text.chars().filter_map(|c| u8::try_from(u32::from(c)).ok()).collect()
}
