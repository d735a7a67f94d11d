//! The inner half of `handoff -- COMMAND`: hotctl starts itself, leaves its session and becomes COMMAND.
//!
//! Why not in the outer half: what happens between fork(2) and exec(2) is unsafe code in Rust, and an extra exec is not.
//! Deliberately absent: a second fork. The process stays a child of hotctl, which so learns how it ended.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};

/// The hidden first argument that leads here.
pub(crate) const NAME: &str = "__detach";

/// The shell's word for "found, but cannot be run"; the outer half says it better.
const CANNOT_RUN: u8 = 126;

/// Becomes the command in `arguments`, or writes the error number to the socket that stdin is.
pub(crate) fn run(mut arguments: impl Iterator<Item = OsString>) -> ExitCode {
    // The duplicate is close-on-exec: when COMMAND runs, the outer half reads the end of the stream.
    let outer = io::stdin().as_fd().try_clone_to_owned().map(File::from);
    let Some(program) = arguments.next() else { return ExitCode::from(CANNOT_RUN) };
    let error = match rustix::process::setsid() {
        Ok(_) => Command::new(program).args(arguments).stdin(Stdio::null()).exec(),
        Err(error) => error.into(),
    };
    if let Ok(mut outer) = outer {
        let _ = write!(outer, "{}", error.raw_os_error().unwrap_or(0));
    }
    ExitCode::from(CANNOT_RUN)
}
