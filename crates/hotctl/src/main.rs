//! `hotctl`: see and steer hot updates of running services.
//!
//! Reading order: [`cli`] the command line · [`commands`] what each command does · [`client`] calls to a
//! service · [`report`] output · [`exit`] exit codes and error lines.
//!
//! Deliberately absent: anything on other systems than Linux. There it builds, and says so.

#[cfg(target_os = "linux")]
mod cli;
#[cfg(target_os = "linux")]
mod client;
#[cfg(target_os = "linux")]
mod commands;
#[cfg(target_os = "linux")]
mod context;
#[cfg(target_os = "linux")]
mod exit;
#[cfg(target_os = "linux")]
mod find;
#[cfg(target_os = "linux")]
mod listen_spec;
#[cfg(target_os = "linux")]
mod progress;
#[cfg(target_os = "linux")]
mod report;
#[cfg(target_os = "linux")]
mod status_stream;
#[cfg(target_os = "linux")]
mod table;
#[cfg(target_os = "linux")]
mod text;

use std::process::ExitCode;

#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    // Before clap, so that the inner half of what starts a COMMAND is in no help, completion or man page.
    let mut arguments = std::env::args_os().skip(1);
    if let Some(inner) = arguments.next().as_deref().and_then(commands::detach::Inner::named) {
        return inner.run(arguments);
    }
    commands::main(std::env::args_os())
}

/// The workspace of a service is built where its developers work, and hotctl with it.
#[cfg(not(target_os = "linux"))]
#[expect(clippy::print_stderr, reason = "it is all that this program does")]
fn main() -> ExitCode {
    eprintln!("hotctl: it needs Linux: on this system no version of a service takes over from another one");
    ExitCode::from(2)
}
