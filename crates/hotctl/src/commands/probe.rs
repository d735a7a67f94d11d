//! `hotctl status --ready` and `--live`: what a supervisor asks of one process, answered by the exit code.
//!
//! The process that serves answers for all: one that is still starting and has no control socket yet must not
//! look ready because another one serves.

use hotupdate_proto::environment::NAME;
use hotupdate_proto::operator::{ProcessState, ProcessStatus, Status};

use crate::cli;
use crate::context::Context;
use crate::exit::Failure;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Probe {
    /// Does it serve?
    Ready,
    /// Is it there: starting, serving, draining, or idle after its drain?
    Live,
}

impl cli::Status {
    /// Which probe this is, if it is one.
    pub(crate) fn probe(&self) -> Option<Probe> {
        match (self.ready, self.live) {
            (true, _) => Some(Probe::Ready),
            (_, true) => Some(Probe::Live),
            _ => None,
        }
    }
}

pub(crate) fn run(context: &Context<'_>, probe: Probe, name: Option<&str>) -> Result<(), Failure> {
    let name = name.map_or_else(own_name, str::to_owned);
    let status = context.status()?;
    // A process and the next version of it may have the same name.
    let called: Vec<_> = all(&status).filter(|it| it.process.is_called(&name)).collect();
    let satisfies = |it: &&&ProcessStatus| probe == Probe::Live || it.state == ProcessState::Serving;
    let Some(found) = called.iter().find(satisfies) else {
        let serves = &status.serving;
        let not = if probe == Probe::Ready { "is not ready" } else { "is not there" };
        let failure = Failure::refused(match called.first() {
            Some(other) => format!("{name} {not}: {} is {}", other.process, other.state),
            None => format!("{name} {not}: no process of this name has joined"),
        });
        return Err(if serves.state == ProcessState::Serving {
            failure.still(&serves.process)
        } else {
            failure
        });
    };
    let kind = if probe == Probe::Ready { "ready" } else { "live" };
    context.report.record(kind, found)?;
    context.report.say(format!("{name} is {kind}: {} is {}", found.process, found.state));
    Ok(())
}

/// Newest first.
fn all(status: &Status) -> impl Iterator<Item = &ProcessStatus> {
    status.successor.iter().chain([&status.serving]).chain(&status.predecessors)
}

/// Where the library looks, too: the variable, or the name of this host.
fn own_name() -> String {
    let given = std::env::var(NAME).ok().filter(|name| !name.is_empty());
    given.unwrap_or_else(|| rustix::system::uname().nodename().to_string_lossy().into_owned())
}
