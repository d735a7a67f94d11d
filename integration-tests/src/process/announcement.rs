//! The two lines that the examples print for programs, parsed.
//!
//! Deliberately absent: tolerance. A line that begins like an announcement and is none is a bug in the
//! server.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::str::FromStr;

/// `serving generation=<n> pid=<pid> http=<addr>`: from now on this process accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Serving {
    /// Its number in the succession.
    pub generation: u64,
    /// Its process id.
    pub pid: u32,
    /// Where it answers: HTTP, or what `tcp-echo` speaks.
    pub http: SocketAddr,
}

/// `drained generation=<n> pid=<pid> forced=<n>`: this process has nothing left to do and exits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Its number in the succession.
    pub generation: u64,
    /// Its process id.
    pub pid: u32,
    /// How many connections it closed at the deadline.
    pub forced: u64,
}

impl Serving {
    /// Reads the line; `None` if it is another line.
    ///
    /// # Panics
    ///
    /// If the line begins with `serving generation=` and does not go on as promised.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let fields = Fields::of(line, "serving ")?;
        Some(Self {
            generation: fields.take("generation"),
            pid: fields.take("pid"),
            http: fields.take(if fields.by_name.contains_key("tcp") { "tcp" } else { "http" }),
        })
    }
}

impl Drained {
    /// Reads the line; `None` if it is another line.
    ///
    /// # Panics
    ///
    /// If the line begins with `drained generation=` and does not go on as promised.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let fields = Fields::of(line, "drained ")?;
        Some(Self {
            generation: fields.take("generation"),
            pid: fields.take("pid"),
            forced: fields.take("forced"),
        })
    }
}

struct Fields<'a> {
    line: &'a str,
    by_name: HashMap<&'a str, &'a str>,
}

impl<'a> Fields<'a> {
    fn of(line: &'a str, verb: &str) -> Option<Self> {
        let fields = line.strip_prefix(verb)?;
        fields.starts_with("generation=").then(|| Self {
            line,
            by_name: fields.split_whitespace().filter_map(|field| field.split_once('=')).collect(),
        })
    }

    fn take<T: FromStr>(&self, name: &str) -> T {
        self.by_name
            .get(name)
            .and_then(|value| value.parse().ok())
            .unwrap_or_else(|| panic!("no usable `{name}=` in the announcement {:?}", self.line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_both_lines_and_nothing_else() {
        let serving = Serving::parse("serving generation=3 pid=4242 http=127.0.0.1:8080");
        assert_eq!(
            serving,
            Some(Serving { generation: 3, pid: 4242, http: "127.0.0.1:8080".parse().expect("an address") })
        );
        let raw = Serving::parse("serving generation=3 pid=4242 tcp=127.0.0.1:8080");
        assert_eq!(raw, serving);
        let drained = Drained::parse("drained generation=2 pid=4100 forced=1");
        assert_eq!(drained, Some(Drained { generation: 2, pid: 4100, forced: 1 }));
        assert_eq!(Serving::parse("serving suggestions"), None);
        assert_eq!(Drained::parse("serving generation=3 pid=4242 http=127.0.0.1:8080"), None);
    }

    #[test]
    #[should_panic(expected = "no usable `pid=`")]
    fn half_an_announcement_is_a_bug() {
        let _ = Serving::parse("serving generation=3 pid= http=127.0.0.1:8080");
    }
}
