//! Text that another process chose, made fit for one line of a log or a terminal.
//!
//! Deliberately absent: what is sent. JSON carries every character; only people have to be protected from
//! some.

use std::borrow::Borrow;
use std::fmt::{self, Write};
use std::ops::Deref;

use serde::{Deserialize, Serialize};
use smol_str::{SmolStr, ToSmolStr as _};

/// A text that costs nothing to clone, and no allocation while it is short, as names, addresses and kinds
/// are.
///
/// Its reader has a `&str`:
///
/// ```
/// use hotupdate_proto::ShortText;
///
/// let listener = ShortText::from("http");
/// assert!(listener == "http" && listener.starts_with("ht"));
/// ```
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ShortText(SmolStr);

impl ShortText {
    /// A text that is part of the program.
    #[must_use]
    pub const fn from_static(text: &'static str) -> Self {
        Self(SmolStr::new_static(text))
    }

    /// What a value shows.
    #[must_use]
    pub fn from_display(value: &impl fmt::Display) -> Self {
        Self(value.to_smolstr())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl Deref for ShortText {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl AsRef<str> for ShortText {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl Borrow<str> for ShortText {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

impl From<&str> for ShortText {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl From<String> for ShortText {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl From<&String> for ShortText {
    fn from(text: &String) -> Self {
        Self(text.into())
    }
}

impl PartialEq<str> for ShortText {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

impl PartialEq<&str> for ShortText {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == *other
    }
}

impl PartialEq<ShortText> for String {
    fn eq(&self, other: &ShortText) -> bool {
        self.as_str() == other.as_str()
    }
}

impl PartialEq<String> for ShortText {
    fn eq(&self, other: &String) -> bool {
        self.as_str() == other.as_str()
    }
}

impl fmt::Display for ShortText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

impl fmt::Debug for ShortText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// The most characters of such a text that one line shows: no legitimate reason is longer, and a log must not
/// be flooded.
const MAX_SHOWN: usize = 1024;

/// Shows a text on one line: what could end the line, steer a terminal, or turn the direction of writing is
/// escaped, and a text without end is cut off.
///
/// ```
/// use hotupdate_proto::text::OneLine;
///
/// let forged = "v2\n2026-01-01 INFO all is well\u{1b}[2J";
/// assert_eq!(OneLine(forged).to_string(), r"v2\n2026-01-01 INFO all is well\u{1b}[2J");
/// assert_eq!(OneLine("v1.2.9 ü").to_string(), "v1.2.9 ü");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct OneLine<'a>(pub &'a str);

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut characters = self.0.chars();
        for character in characters.by_ref().take(MAX_SHOWN) {
            write_plain(f, character)?;
        }
        match characters.count() {
            0 => Ok(()),
            more => write!(f, "… ({more} more characters)"),
        }
    }
}

/// Writes one character, escaped if [`is_unfit`].
///
/// # Errors
/// If `out` fails.
pub fn write_plain(out: &mut impl Write, character: char) -> fmt::Result {
    if is_unfit(character) {
        write!(out, "{}", character.escape_default())
    } else {
        out.write_char(character)
    }
}

/// Whether a character does something else than to be seen: control characters (C0, DEL, C1), line and
/// paragraph separators, and those that change the direction of writing (<https://trojansource.codes>).
#[must_use]
pub fn is_unfit(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_ends_the_line_or_steers_the_terminal() {
        let unfit = "\0\t\r\n\u{7}\u{1b}\u{7f}\u{85}\u{9b}\u{2028}\u{2029}\u{202e}\u{2066}";
        let shown = OneLine(unfit).to_string();
        assert!(shown.is_ascii() && !shown.contains(char::is_control), "{shown}");
        assert_eq!(OneLine("\n").to_string(), "\\n");
    }

    #[test]
    fn a_text_without_end_is_cut_off() {
        let shown = OneLine(&"ü".repeat(5000)).to_string();
        assert_eq!(shown.chars().filter(|c| *c == 'ü').count(), MAX_SHOWN);
        assert!(shown.ends_with("… (3976 more characters)"), "{shown}");
        assert_eq!(OneLine(&"x".repeat(MAX_SHOWN)).to_string(), "x".repeat(MAX_SHOWN));
    }
}
