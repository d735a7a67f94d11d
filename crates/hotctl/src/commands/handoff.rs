//! `hotctl handoff`: from the version that serves to the next one, which is started here or already in
//! standby.

use super::{change, detach, drained, start};
use crate::cli::{Handoff, Until};
use crate::context::Context;
use crate::exit::Failure;
use crate::progress::Progress;

use std::borrow::Cow;
use std::env;
use std::ffi::OsString;
use std::path::Path;
use std::time::Instant;

use hotupdate_proto::operator::Status;

pub(crate) fn run(context: &Context<'_>, handoff: &Handoff) -> Result<(), Failure> {
    let until = Instant::now() + context.change_timeout();
    // First of all: without a running service there is nothing to take over, and COMMAND is not started.
    let before = context.status().map_err(|error| context.failure(error))?;
    let handoff = &as_run(context, handoff, &before);
    let progress = Progress::new(context.report);
    let changed = if handoff.command.is_empty() {
        progress.at("released");
        change::call(context, "Handoff", &before)?
    } else {
        start::run(context, handoff, &before, &progress, until)?
    };
    context.report.outcome("changed", &changed, &changed.to);
    let after = match handoff.until {
        Until::Serving => change::look(context, &changed)?,
        Until::Drained => Some(drained::wait(context, &changed, &progress, until)?),
    };
    drop(progress);
    let migrated = change::what_has_migrated(after.as_ref(), &changed.to);
    context.report.say(format!("{}{migrated}", change::sentence(&changed, after.as_ref(), "serves now")));
    change::warn(context, after.as_ref(), &changed.to);
    Ok(())
}

/// After a program of `hotctl run`, COMMAND is another such program: `hotctl run` is put before it, unless it
/// is there already.
fn as_run<'a>(context: &Context<'_>, handoff: &'a Handoff, before: &Status) -> Cow<'a, Handoff> {
    let program = handoff.command.first().map(Path::new);
    let is_ours = program.and_then(Path::file_name).is_some_and(|name| name == "hotctl");
    if program.is_none() || is_ours || handoff.native || before.serving.process.program.is_none() {
        return Cow::Borrowed(handoff);
    }
    let ourselves = env::current_exe().map_or_else(|_| detach::OURSELVES.into(), OsString::from);
    let socket = std::path::absolute(&context.socket).unwrap_or_else(|_| context.socket.clone());
    let run = [ourselves, "run".into(), "--socket".into(), socket.into(), "--".into()];
    let command = run.into_iter().chain(handoff.command.iter().cloned()).collect();
    Cow::Owned(Handoff { command, ..handoff.clone() })
}
