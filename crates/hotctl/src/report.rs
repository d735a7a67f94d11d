//! How the answer looks: text or JSON lines on stdout, talk on stderr.
//!
//! Deliberately absent: what is said; the commands choose their words.

use std::fmt;
use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};

use hotupdate_proto::Process;
use hotupdate_proto::operator::ProcessState;
use serde::Serialize;

use crate::cli::Color;
use crate::exit::{Exit, Failure, Serves};
use crate::text;

/// What a line of text is painted with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Paint {
    None,
    Green,
    Yellow,
    Cyan,
    Dim,
}

impl Paint {
    /// Serving is green, what is on its way is cyan, what leaves is yellow.
    pub(crate) fn of(state: ProcessState) -> Self {
        match state {
            ProcessState::Starting | ProcessState::Standby => Self::Cyan,
            ProcessState::Serving => Self::Green,
            ProcessState::Draining => Self::Yellow,
            ProcessState::Gone => Self::Dim,
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

/// Where a command says what it has to say.
pub(crate) struct Report {
    command: &'static str,
    json: bool,
    color: bool,
}

/// One JSON line. `type` comes first, so that people can read it too.
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

    /// JSON lines were asked for.
    pub(crate) fn json(&self) -> bool {
        self.json
    }

    /// Colour is wanted on stdout.
    pub(crate) fn color(&self) -> bool {
        self.color
    }

    /// Data: what `write` puts on stdout, in one go.
    pub(crate) fn data(
        &self,
        write: impl FnOnce(&mut BufWriter<StdoutLock<'static>>) -> io::Result<()>,
    ) -> Result<(), Failure> {
        let mut out = BufWriter::new(io::stdout().lock());
        write(&mut out).and_then(|()| out.flush()).map_err(|error| Failure::output(&error))
    }

    /// Data as one JSON line; nothing where text was asked for.
    pub(crate) fn record(&self, kind: &str, value: &impl Serialize) -> Result<(), Failure> {
        if self.json { self.data(|out| json_line(out, kind, value)) } else { Ok(()) }
    }

    /// Talk: a line on stderr; nothing where JSON was asked for, since the record says the same.
    pub(crate) fn say(&self, line: impl fmt::Display) {
        if !self.json {
            talk(&line.to_string());
        }
    }

    /// The record of what cannot be undone because stdout is full: an exit code of 1 would say that the old version serves.
    pub(crate) fn outcome(&self, kind: &str, value: &impl Serialize, serves: &Process) {
        match self.record(kind, value) {
            // A reader that had enough is told nothing.
            Ok(()) | Err(Failure { exit: Exit::Done, .. }) => {}
            Err(failure) => talk(&format!("hotctl: {}: {}", self.command, failure.now(serves))),
        }
    }

    /// The one line that ends a command that failed, and its record.
    pub(crate) fn failure(&self, failure: &Failure) {
        let Failure { exit, reason, serves } = failure;
        let serving = serves.as_ref().and_then(|serves| match serves {
            Serves::Still(process) | Serves::Now(process) => Some(process),
            Serves::Silent(_) => None,
        });
        let record = Failed { command: self.command, exit: exit.code(), reason, serving };
        // Nobody is left to tell if this fails too; the exit code still says it.
        let _ = self.record("error", &record);
        talk(&format!("hotctl: {}: {failure}", self.command));
    }
}

/// One JSON line with its `type`.
pub(crate) fn json_line(out: &mut impl Write, kind: &str, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, &Line { r#type: kind, value })?;
    writeln!(out)
}

/// A closed stderr is no reason to fail.
fn talk(line: &str) {
    let _ = writeln!(io::stderr(), "{}", text::plain(line));
}
