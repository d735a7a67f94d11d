//! `hotctl`, run as a user runs it.
//!
//! Deliberately absent: reading its output through a pipe. `hotctl handoff -- …` leaves a process behind that
//! inherited the output, so a pipe would not end; files do.

use std::fs;
use std::process::Command;
use std::time::Duration;

use super::sandbox::{Output, Sandbox, binary};
use super::service::{Exit, Service, start};

/// What `hotctl` said, or another program that ran to its end.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// How it ended.
    pub exit: Exit,
    /// The data.
    pub stdout: String,
    /// The talk.
    pub stderr: String,
    /// How long it took.
    pub took: Duration,
}

impl Outcome {
    /// The exit code.
    ///
    /// # Panics
    ///
    /// If a signal ended it.
    #[must_use]
    #[track_caller]
    pub fn code(&self) -> i32 {
        match self.exit {
            Exit::Status(code) => code,
            other => panic!("it did not exit by itself: {other:?}"),
        }
    }

    /// Passes the outcome on if the exit code is 0.
    ///
    /// # Panics
    ///
    /// If it is not.
    #[must_use]
    #[track_caller]
    pub fn expect_success(self) -> Self {
        assert_eq!(self.code(), 0, "{}", self.stderr);
        self
    }

    /// The error line, which is the last line on stderr.
    #[must_use]
    pub fn error_line(&self) -> &str {
        self.stderr.lines().last().unwrap_or_default()
    }
}

/// A `hotctl` that runs.
#[derive(Debug)]
pub struct Operator<'a> {
    service: Service<'a>,
    output: Output,
    begun: std::time::Instant,
}

impl Operator<'_> {
    /// Waits for its end.
    ///
    /// # Panics
    ///
    /// If it takes longer than any deadline that a test gives it.
    #[must_use]
    #[track_caller]
    pub fn wait(self) -> Outcome {
        let exit = self.service.wait_exit();
        let read = |path| {
            fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
        };
        Outcome {
            exit,
            stdout: read(&self.output.stdout),
            stderr: read(&self.output.stderr),
            took: self.begun.elapsed(),
        }
    }

    /// The process.
    #[must_use]
    pub fn process(&self) -> &Service<'_> {
        &self.service
    }
}

/// Starts `hotctl --socket <control> <arguments>` and goes on.
///
/// # Panics
///
/// If the program is missing or does not start.
#[must_use]
pub fn spawn_hotctl<'a>(sandbox: &'a Sandbox, arguments: &[&str]) -> Operator<'a> {
    let (mut command, output) = sandbox.command(&binary("hotctl"));
    command.arg("--socket").arg(sandbox.control()).args(arguments);
    let begun = std::time::Instant::now();
    Operator { service: Service::of(sandbox, start(&mut command)), output, begun }
}

/// Runs `hotctl --socket <control> <arguments>` to its end.
///
/// # Panics
///
/// As [`spawn_hotctl`] and [`Operator::wait`].
#[must_use]
#[track_caller]
pub fn hotctl(sandbox: &Sandbox, arguments: &[&str]) -> Outcome {
    spawn_hotctl(sandbox, arguments).wait()
}

impl Sandbox {
    /// Runs a command of this sandbox to its end. What it wrote is in the outcome alone, since there may be
    /// hundreds of them.
    ///
    /// # Panics
    ///
    /// If the program does not start, and as [`Operator::wait`].
    #[must_use]
    #[track_caller]
    pub fn outcome(&self, mut command: Command, output: Output) -> Outcome {
        let begun = std::time::Instant::now();
        let service = Service::of(self, start(&mut command));
        let outcome = Operator { service, output: output.clone(), begun }.wait();
        for path in [output.stdout, output.stderr] {
            let _gone_already = fs::remove_file(path);
        }
        outcome
    }

    /// Runs `hotctl handoff --log … -- axum-server …` to its end.
    ///
    /// # Panics
    ///
    /// As [`hotctl`].
    #[must_use]
    #[track_caller]
    pub fn handoff(&self, version: &str, arguments: &[&str]) -> Outcome {
        let server = binary("axum-server").to_string_lossy().into_owned();
        let log = self.log_path("axum-server", "log").to_string_lossy().into_owned();
        let arguments = Service::arguments(self, version, arguments);
        let mut all = vec!["handoff", "--log", &log, "--", &server];
        all.extend(arguments.iter().map(String::as_str));
        hotctl(self, &all)
    }
}
