//! Names of listeners and states as systemd's descriptor store can hold them (sd_notify(3), `FDNAME=`).
//!
//! Deliberately absent: names of socket units (`FileDescriptorName=`), which are as their author wrote them.

use std::fmt;

/// What the store has of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Listener,
    State,
}

impl Kind {
    /// Tells what this service stored from what socket units pass: a stored listener has to have the address
    /// that is asked for, and a socket unit has the say about its own.
    fn prefix(self) -> &'static str {
        match self {
            Self::Listener => "hotupdate/",
            Self::State => "hotupdate-state/",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Listener => "listener",
            Self::State => "state",
        })
    }
}

/// `FDNAME_MAX` in systemd's `src/basic/fd-util.h`.
const MAX: usize = 255;

/// The name in the store; `None` if it would be too long for it.
pub(super) fn encode(kind: Kind, name: &str) -> Option<String> {
    let mut encoded = kind.prefix().to_owned();
    for byte in name.bytes() {
        match byte {
            b':' | b'%' | ..=b' ' | 127.. => encoded.push_str(&format!("%{byte:02X}")),
            plain => encoded.push(char::from(plain)),
        }
    }
    (encoded.len() <= MAX).then_some(encoded)
}

/// What it is, and its name; `None` if this is not a name that [`encode`] makes.
pub(super) fn decode(encoded: &str) -> Option<(Kind, String)> {
    let kinds = [Kind::Listener, Kind::State].into_iter();
    let (kind, rest) = kinds.filter_map(|kind| Some((kind, encoded.strip_prefix(kind.prefix())?))).next()?;
    let mut parts = rest.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let (digits, plain) = part.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        bytes.extend_from_slice(plain.as_bytes());
    }
    let name = String::from_utf8(bytes).ok()?;
    (encode(kind, &name)? == encoded).then_some((kind, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_comes_back() {
        for name in ["http", "a:b", "100%", "%41", "ü ✓", "tab\there", "hotupdate/http", "\u{7f}"] {
            for kind in [Kind::Listener, Kind::State] {
                let encoded = encode(kind, name).unwrap();
                let allowed = |byte: u8| byte.is_ascii_graphic() && byte != b':';
                assert!(encoded.bytes().all(allowed), "systemd refuses {encoded:?}");
                assert_eq!(decode(&encoded), Some((kind, name.to_owned())), "{encoded}");
            }
        }
        assert_eq!(encode(Kind::Listener, "http").unwrap(), "hotupdate/http");
        assert_eq!(encode(Kind::Listener, "a:b").unwrap(), "hotupdate/a%3Ab");
        assert_eq!(encode(Kind::State, "a:b").unwrap(), "hotupdate-state/a%3Ab");
    }

    #[test]
    fn what_is_too_long_is_not_cut() {
        assert!(encode(Kind::Listener, &"x".repeat(245)).is_some());
        assert!(encode(Kind::Listener, &"x".repeat(246)).is_none());
        assert!(encode(Kind::Listener, &"✓".repeat(40)).is_none());
    }

    #[test]
    fn other_names_are_others() {
        for other in [
            "http",
            "stored",
            "hotupdate/%",
            "hotupdate/%4",
            "hotupdate/%zz",
            "hotupdate/%41",
            "hotupdate/%FF",
            "hotupdate-state",
            "hotupdate-other/x",
        ] {
            assert_eq!(decode(other), None, "{other}");
        }
    }
}
