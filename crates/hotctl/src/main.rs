//! `hotctl`: see and steer hot updates of running services.
//!
//! Reading order: [`cli`] the command line · [`commands`] what each command does · [`client`] calls to a
//! service ·
//! [`report`] output · [`exit`] exit codes and error lines.

#[cfg(not(target_os = "linux"))]
compile_error!("hotctl is for Linux: on this system no version of a service takes over from another one");

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

use clap::error::ErrorKind;

use crate::cli::Cli;
use crate::commands::detach::Inner;
use crate::exit::{Exit, Failure};
use crate::report::Report;

fn main() -> ExitCode {
    // Before clap, so that the inner half of what starts a COMMAND is in no help, completion or man page.
    let mut arguments = std::env::args_os().skip(1);
    if let Some(inner) = arguments.next().as_deref().and_then(Inner::named) {
        return inner.run(arguments);
    }
    match Cli::of(std::env::args_os()) {
        Ok(cli) => finish(cli),
        Err(error) => usage(&error),
    }
}

fn finish(cli: Cli) -> ExitCode {
    let report = Report::new(cli.command.name(), cli.json, cli.color);
    match commands::run(cli, &report) {
        Ok(exit) => exit.into(),
        // The reader of stdout has closed it (`| head`): not a failure, and no line for it.
        Err(Failure { exit: Exit::Done, .. }) => Exit::Done.into(),
        Err(failure) => {
            report.failure(&failure);
            failure.exit.into()
        }
    }
}

/// Help and version are data and go to stdout with 0; an error is one line, as all errors are.
fn usage(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let _ = error.print();
            Exit::Done.into()
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            Exit::Usage.into()
        }
        _ => {
            report::message(&format!("hotctl: {}", text::usage_line(&error.to_string())));
            Exit::Usage.into()
        }
    }
}
