//! `hotctl handoff`: from the version that serves to the next one, which is started here or already in
//! standby.

use super::{change, drained, start};
use crate::cli::{Handoff, Until};
use crate::context::Context;
use crate::exit::Failure;
use crate::progress::Progress;

use std::time::Instant;

pub(crate) fn run(context: &Context<'_>, handoff: &Handoff) -> Result<(), Failure> {
    let until = Instant::now() + context.change_timeout();
    // First of all: without a running service there is nothing to take over, and COMMAND is not started.
    let before = context.status().map_err(|error| context.failure(error))?;
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
