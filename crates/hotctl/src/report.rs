//! Output: text or JSON lines on stdout, messages on stderr.

use std::fmt;
use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};

use clap::ValueEnum;
use hotupdate_proto::Process;
use hotupdate_proto::operator::ProcessState;
use hotupdate_proto::text::is_unfit;
use serde::Serialize;
use serde_json::Serializer;
use serde_json::ser::Formatter;

use crate::exit::{Exit, Failure, Serves};
use crate::text;

/// When to use colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    Always,
    Never,
}

/// The colour of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Paint {
    None,
    Green,
    Yellow,
    Cyan,
    Dim,
}

impl Paint {
    /// Green serves, cyan is starting, yellow is draining.
    pub(crate) fn of(state: ProcessState) -> Self {
        match state {
            ProcessState::Starting | ProcessState::Standby => Self::Cyan,
            ProcessState::Serving => Self::Green,
            ProcessState::Draining => Self::Yellow,
            _ => Self::Dim,
        }
    }

    /// The text in this colour (ECMA-48, "select graphic rendition"), if colour is wanted.
    pub(crate) fn on(self, text: &str, color: bool) -> String {
        let code = match self {
            Self::None => return text.to_owned(),
            Self::Green => 32,
            Self::Yellow => 33,
            Self::Cyan => 36,
            Self::Dim => 2,
        };
        if color { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

/// The output of a command.
pub(crate) struct Report {
    command: &'static str,
    json: bool,
    color: bool,
}

/// One JSON line. `type` comes first, for human readers.
#[derive(Serialize)]
struct Line<'a, T> {
    r#type: &'a str,
    #[serde(flatten)]
    value: &'a T,
}

/// A failure for programs, beside the line for people on stderr.
#[derive(Serialize)]
struct Failed<'a> {
    command: &'a str,
    exit: u8,
    reason: &'a str,
    serving: Option<&'a Process>,
}

impl Report {
    pub(crate) fn new(command: &'static str, json: bool, color: Color) -> Self {
        let color = match color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => {
                std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()) && io::stdout().is_terminal()
            }
        };
        Self { command, json, color }
    }

    /// With `--json`.
    pub(crate) fn json(&self) -> bool {
        self.json
    }

    /// Colour is wanted on stdout.
    pub(crate) fn color(&self) -> bool {
        self.color
    }

    /// Data: writes to stdout, and flushes.
    pub(crate) fn data(
        &self,
        write: impl FnOnce(&mut BufWriter<StdoutLock<'static>>) -> io::Result<()>,
    ) -> Result<(), Failure> {
        let mut out = BufWriter::new(io::stdout().lock());
        write(&mut out).and_then(|()| out.flush()).map_err(|error| Failure::output(&error))
    }

    /// Data as one JSON line; nothing without `--json`.
    pub(crate) fn record(&self, kind: &str, value: &impl Serialize) -> Result<(), Failure> {
        if self.json { self.data(|out| json_line(out, kind, value)) } else { Ok(()) }
    }

    /// A message on stderr; nothing with `--json`, since the record says the same.
    pub(crate) fn say(&self, line: impl fmt::Display) {
        if !self.json {
            message(&line.to_string());
        }
    }

    /// The record of a change that has happened. If stdout is full it only warns: an exit code of 1 would say
    /// that the old version serves.
    pub(crate) fn outcome(&self, kind: &str, value: &impl Serialize, serves: &Process) {
        match self.record(kind, value) {
            // The reader has closed stdout: no line for it.
            Ok(()) | Err(Failure { exit: Exit::Done, .. }) => {}
            Err(failure) => message(&format!("hotctl: {}: {}", self.command, failure.now(serves))),
        }
    }

    /// The one line that ends a command that failed, and its record.
    pub(crate) fn failure(&self, failure: &Failure) {
        let Failure { exit, reason, serves } = failure;
        let serving = serves.as_deref().and_then(|serves| match serves {
            Serves::Still(process) | Serves::Now(process) => Some(process),
            Serves::Stopping(_) | Serves::Silent(_) => None,
        });
        let record = Failed { command: self.command, exit: exit.code(), reason, serving };
        // If this fails too, the exit code still says it.
        let _ = self.record("error", &record);
        message(&format!("hotctl: {}: {failure}", self.command));
    }
}

/// One JSON line with its `type`, fit for a terminal too.
pub(crate) fn json_line(out: &mut impl Write, kind: &str, value: &impl Serialize) -> io::Result<()> {
    Line { r#type: kind, value }.serialize(&mut Serializer::with_formatter(&mut *out, Plain))?;
    writeln!(out)
}

/// JSON demands that the C0 controls are escaped, and permits it for every other character (RFC 8259, section
/// 7): here for all those that steer a terminal or hide what is said.
struct Plain;

impl Formatter for Plain {
    fn write_string_fragment<W: Write + ?Sized>(&mut self, out: &mut W, fragment: &str) -> io::Result<()> {
        for part in fragment.split_inclusive(is_unfit) {
            let fit = part.trim_end_matches(is_unfit);
            out.write_all(fit.as_bytes())?;
            for unit in part[fit.len()..].encode_utf16() {
                write!(out, "\\u{unit:04x}")?;
            }
        }
        Ok(())
    }
}

/// A line on stderr. A closed stderr is no reason to fail.
pub(crate) fn message(line: &str) {
    let _ = writeln!(io::stderr(), "{}", text::plain(line));
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn line(text: &str) -> String {
        let mut out = Vec::new();
        json_line(&mut out, "x", &serde_json::json!({ text: text })).expect("a buffer takes everything");
        String::from_utf8(out).expect("JSON is UTF-8")
    }

    #[test]
    fn json_cannot_steer_the_terminal() {
        let all: String = (0..=0x2_ffff).filter_map(char::from_u32).collect();
        let shown = line(&all);
        assert!(!shown.trim_end_matches('\n').contains(is_unfit), "{shown}");
        let value: Value = serde_json::from_str(&shown).expect("it is still JSON");
        assert!(value[&all] == all, "it says something else");
    }

    #[test]
    fn only_what_is_unfit_is_escaped() {
        let shown = line("v1\u{7f}ü\u{9b}2J\u{202e} 🦀\u{85}\u{85}\"\n");
        assert!(shown.contains(r#":"v1\u007fü\u009b2J\u202e 🦀\u0085\u0085\"\n""#), "{shown}");
    }
}
