//! Text for operators: durations, numbers of connections, errors of the system, and strings that a service
//! chose.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::time::Duration;

use hotupdate_proto::text::{is_unfit, write_plain};
use unicode_width::UnicodeWidthStr;

/// A duration with two or three significant digits: `180 µs`, `1.2 ms`, `12 s`, `2 h 5 min`.
pub(crate) fn duration(span: Duration) -> String {
    let (nanos, seconds) = (span.as_nanos(), span.as_secs());
    match seconds {
        0 if nanos < 1000 => format!("{nanos} ns"),
        0 if nanos < 1_000_000 => format!("{} µs", nanos / 1000),
        0 if nanos < 10_000_000 => format!("{:.1} ms", span.as_secs_f64() * 1e3),
        0 => format!("{} ms", nanos / 1_000_000),
        1..10 if span.subsec_millis() >= 100 => format!("{:.1} s", span.as_secs_f64()),
        1..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// How long a handoff took: in milliseconds where [`duration`] would say microseconds.
pub(crate) fn took(span: Duration) -> String {
    match span.as_nanos() {
        nanos @ 0..1_000_000 => format!("{:.1} ms", (nanos as f64 / 1e6).max(0.1)),
        _ => duration(span),
    }
}

/// The same in one short word for a column: `180ms`, `12s`, `5m`, `2h5m`, `3d`.
pub(crate) fn age(milliseconds: u64) -> String {
    match milliseconds / 1000 {
        0 => format!("{milliseconds}ms"),
        seconds @ 1..120 => format!("{seconds}s"),
        seconds @ 120..7200 => format!("{}m", seconds / 60),
        seconds @ 7200..172_800 => format!("{}h{}m", seconds / 3600, seconds / 60 % 60),
        seconds => format!("{}d", seconds / 86_400),
    }
}

/// `1 connection`, `17 connections`.
pub(crate) fn connections(count: u64) -> String {
    if count == 1 { "1 connection".to_owned() } else { format!("{count} connections") }
}

/// `; new connections waited up to 180 µs`: the time in which no process accepted. Nothing where the clocks
/// did not compare.
pub(crate) fn gap(nanos: Option<u64>) -> String {
    nanos.map_or_else(String::new, |nanos| {
        format!("; new connections waited up to {}", duration(Duration::from_nanos(nanos)))
    })
}

/// One line of what clap prints for a wrong command line: the error and its tip, without the usage.
pub(crate) fn usage_line(error: &str) -> String {
    let parts = error.split("\n\n").map(|part| part.split_whitespace().collect::<Vec<_>>().join(" "));
    let told = parts.filter_map(|part| {
        let tip = part.strip_prefix("tip: ").map(ToOwned::to_owned);
        tip.or_else(|| part.strip_prefix("error: ").map(ToOwned::to_owned))
    });
    told.chain(["see `hotctl --help`".to_owned()]).collect::<Vec<_>>().join("; ")
}

/// An error of the system without Rust's ` (os error 2)`.
pub(crate) fn os_error(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}

/// A string that a service chose, fit for one line of a terminal: no line breaks, no escape sequences.
pub(crate) fn plain(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unfit) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        // Writing to a string does not fail.
        let _ = write_plain(&mut escaped, character);
    }
    Cow::Owned(escaped)
}

/// Left-aligned in a column of this width.
pub(crate) fn pad(text: &str, width: usize) -> String {
    format!("{text}{:blanks$}", "", blanks = width.saturating_sub(text.width()))
}

/// `-` where there is nothing to show, so that columns can be cut with awk.
pub(crate) fn or_dash(text: impl fmt::Display) -> String {
    let text = text.to_string();
    if text.is_empty() { "-".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_the_precision_that_matters() {
        let text = |nanos| duration(Duration::from_nanos(nanos));
        assert_eq!(text(180_400), "180 µs");
        assert_eq!(text(1_230_000), "1.2 ms");
        assert_eq!(text(23_000_000), "23 ms");
        assert_eq!(text(1_500_000_000), "1.5 s");
        assert_eq!(text(90_000_000_000), "90 s");
        assert_eq!(text(7_500_000_000_000), "2 h 5 min");
        assert_eq!(text(0), "0 ns");
        let took = |nanos| took(Duration::from_nanos(nanos));
        assert_eq!([took(0), took(412_000), took(1_230_000)], ["0.1 ms", "0.4 ms", "1.2 ms"]);
        assert_eq!([age(7), age(12_000), age(300_000), age(7_500_000)], ["7ms", "12s", "5m", "2h5m"]);
    }

    #[test]
    fn a_version_string_cannot_steer_the_terminal() {
        assert_eq!(plain("v1\u{1b}[2J\nv2"), "v1\\u{1b}[2J\\nv2");
        assert_eq!(plain("v1.2.9 ü"), "v1.2.9 ü");
    }
}
