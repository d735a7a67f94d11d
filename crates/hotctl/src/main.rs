//! `hotctl`: see and steer hot updates of running services.
//!
//! Deliberately absent: everything but the way in and the way out; `main` only matches on what a command came to.
//!
//! Reading order: [`cli`] what can be asked · [`commands`] what is done about it · [`client`] how a service is
//! talked to · [`report`] how the answer looks · [`exit`] what a script learns from it.

mod cli;
mod client;
mod commands;
mod context;
mod exit;
mod find;
mod progress;
mod report;
mod table;
mod text;
mod watch;

use std::process::ExitCode;

use clap::Parser;

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
    match Cli::try_parse() {
        Ok(cli) => finish(cli),
        Err(error) => usage(&error),
    }
}

fn finish(cli: Cli) -> ExitCode {
    let report = Report::new(cli.command.name(), cli.json, cli.color);
    match commands::run(cli, &report) {
        Ok(exit) => exit.into(),
        // Nobody reads the output any more (`| head`): that is no failure, and there is nobody to tell.
        Err(Failure { exit: Exit::Done, .. }) => Exit::Done.into(),
        Err(failure) => {
            report.failure(&failure);
            failure.exit.into()
        }
    }
}

/// Help and version are data and go to stdout with 0; clap knows.
fn usage(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    if error.exit_code() == 0 { Exit::Done.into() } else { Exit::Usage.into() }
}
