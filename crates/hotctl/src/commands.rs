//! The commands: one module each, and the dispatch from the command line.

mod attempt;
mod attendant;
mod change;
mod connections;
pub(crate) mod detach;
mod drained;
mod failure_lines;
mod generate;
mod handoff;
mod hold;
mod install_units;
pub(crate) use install_units::name as unit_name;
mod list;
mod output;
mod owner;
pub(crate) use owner::stopped;
mod probe;
mod processes;
mod run;
pub(crate) use run::ReadyTarget;
mod simple;
mod start;
mod status;
mod stop;
mod successor;
mod watch;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;

use crate::cli::{Cli, Command};
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::report::{self, Report};
use crate::{find, text};

/// Does what the command line says.
pub(crate) fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    match Cli::of(arguments) {
        Ok(cli) => finish(cli),
        Err(error) => usage(&error),
    }
}

fn finish(cli: Cli) -> ExitCode {
    let report = Report::new(cli.command.name(), cli.json, cli.color);
    match run(cli, &report) {
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

fn run(cli: Cli, report: &Report) -> Result<Exit, Failure> {
    let Cli { socket, json: _, color: _, timeout, command } = cli;
    let context = |socket: Option<PathBuf>| {
        let socket = socket.map_or_else(|| find::only(&find::places()), Ok)?;
        Context::new(socket, report, timeout)
    };
    let done = match command {
        // It exits as its COMMAND does.
        Command::Hold(hold) => return hold::run(socket, report, timeout, &hold),
        Command::Run(options) => return run::run(socket, report, options),
        Command::Completions { shell } => generate::completions(report, shell),
        Command::Man { command } => generate::man(report, command.as_deref()),
        Command::InstallUnits(options) => install_units::run(report, &options),
        Command::List => list::run(report, socket, timeout),
        Command::Status(status) => match status.probe() {
            Some(probe) => probe::run(&context(socket)?, probe, status.name.as_deref()),
            None => status::run(&context(socket)?),
        },
        Command::Connections => connections::run(&context(socket)?),
        Command::Handoff(handoff) => handoff::run(&context(socket)?, &handoff),
        Command::Abort => simple::abort(&context(socket)?),
        Command::Rollback => simple::rollback(&context(socket)?),
        Command::Drain(drain) => simple::drain(&context(socket)?, &drain),
        Command::Stop(stop) => stop::run(&context(socket)?, &stop),
        Command::Watch => watch::run(&context(socket)?),
    };
    done.map(|()| Exit::Done)
}
