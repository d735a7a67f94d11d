//! `hotctl handoff`: from the version that serves to the next one, started here or already standing by.
//!
//! Deliberately absent: how a started successor is followed, see [`super::start`].

use super::{change, drained, start};
use crate::cli::{Handoff, Until};
use crate::context::Context;
use crate::exit::Failure;
use crate::progress::Progress;

use std::time::Instant;

pub(crate) fn run(context: &Context<'_>, handoff: &Handoff) -> Result<(), Failure> {
    let until = Instant::now() + context.patience();
    // First of all: where nobody serves, there is nobody to take over from, and nothing is started.
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
    let moved = change::what_has_moved(after.as_ref(), &changed.to);
    context.report.say(format!("{}{moved}", change::sentence(&changed, after.as_ref(), "serves now")));
    Ok(())
}
