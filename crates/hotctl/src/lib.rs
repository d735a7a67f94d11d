//! The program `hotctl`: see and steer hot updates of running services. It is no library for other programs.
//!
//! Reading order: `cli` the command line · `commands` what each command does · `client` calls to a service ·
//! `report` output · `exit` exit codes and error lines.
//!
//! On other systems than Linux there is nothing in here, and `main.rs` says so.

#![cfg(target_os = "linux")]

mod cli;
mod client;
mod commands;
mod context;
mod exit;
mod find;
mod listen_spec;
mod progress;
mod report;
mod status_stream;
mod table;
mod text;

use std::process::ExitCode;

/// The whole program, with the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    // Before clap, so that the inner half of what starts a COMMAND is in no help, completion or man page.
    let mut arguments = std::env::args_os().skip(1);
    if let Some(inner) = arguments.next().as_deref().and_then(commands::detach::Inner::named) {
        return inner.run(arguments);
    }
    commands::main(std::env::args_os())
}
