//! The commands: from the command line to what is done.
//!
//! Deliberately absent: the words for failures, which belong to each command.

mod change;
mod connections;
pub(crate) mod detach;
mod drained;
mod endings;
mod generate;
mod handoff;
pub(crate) mod hold;
mod list;
mod ordinary;
mod start;
mod status;
mod stop;
mod successor;
mod watch;

use std::path::PathBuf;

use crate::cli::{Cli, Command};
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::find;
use crate::report::Report;

/// Does what was asked.
pub(crate) fn run(cli: Cli, report: &Report) -> Result<Exit, Failure> {
    let Cli { socket, json: _, color: _, timeout, command } = cli;
    let context = |socket: Option<PathBuf>| {
        let socket = socket.map_or_else(|| find::only(&find::places()), Ok)?;
        Context::new(socket, report, timeout)
    };
    let done = match command {
        // It ends as its command does.
        Command::Hold(hold) => return hold::run(socket, report, timeout, &hold),
        Command::Completions { shell } => generate::completions(report, shell),
        Command::Man { command } => generate::man(report, command.as_deref()),
        Command::List => list::run(report, socket, timeout),
        Command::Status => status::run(&context(socket)?),
        Command::Connections => connections::run(&context(socket)?),
        Command::Handoff(handoff) => handoff::run(&context(socket)?, &handoff),
        Command::Abort => ordinary::abort(&context(socket)?),
        Command::Rollback => ordinary::rollback(&context(socket)?),
        Command::Drain(drain) => ordinary::drain(&context(socket)?, &drain),
        Command::Stop(stop) => stop::run(&context(socket)?, &stop),
        Command::Watch => watch::run(&context(socket)?),
    };
    done.map(|()| Exit::Done)
}
