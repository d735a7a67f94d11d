//! `hotctl abort`, `rollback` and `drain`: one call, one reply, one line.

use std::time::Duration;

use hotupdate_proto::operator::{DeadlineParams, ProcessState, Status};
use serde::Serialize;
use serde_json::{Map, Value};

use super::{change, drained};
use crate::cli;
use crate::context::{Context, NOTHING};
use crate::exit::Failure;
use crate::text;

pub(crate) fn abort(context: &Context<'_>) -> Result<(), Failure> {
    let before = context.status()?;
    call(context, "Abort", &NOTHING)?;
    context.report.record("aborted", &before.serving)?;
    context.report.say(format!("aborted; {} is still serving", before.serving.process));
    Ok(())
}

pub(crate) fn rollback(context: &Context<'_>) -> Result<(), Failure> {
    let before = context.status()?;
    let changed = change::call(context, "Rollback", &before)?;
    context.report.outcome("changed", &changed, &changed.to);
    let after = change::look(context, &changed)?;
    let again = changed
        .to
        .program
        .as_ref()
        .map_or("", |_| "; its program is started again, and clients wait in the queue until it accepts");
    context.report.say(format!("{}{again}", change::sentence(&changed, after.as_ref(), "serves again")));
    change::warn(context, after.as_ref(), &changed.to);
    Ok(())
}

pub(crate) fn drain(context: &Context<'_>, drain: &cli::Drain) -> Result<(), Failure> {
    let before = context.status()?;
    call(context, "Drain", &within(Some(drain.deadline)))?;
    context.report.record("drain", &before)?;
    context.report.say(drain_line(&before, drain.deadline));
    Ok(())
}

fn drain_line(status: &Status, deadline: Duration) -> String {
    let Status { serving, predecessors, .. } = status;
    let open = predecessors.iter().map(|predecessor| predecessor.connections.open()).sum();
    let when = match deadline.is_zero() {
        true => "now".to_owned(),
        false => format!("in {} at the latest", text::duration(deadline)),
    };
    let draining: Vec<_> = predecessors.iter().filter(|older| older.connections.open() > 0).collect();
    match (draining.as_slice(), predecessors.as_slice()) {
        ([], []) => format!("no version is draining; {} serves", serving.process),
        // Nothing is left to be closed, and the deadline is none of tasks.
        ([], [one]) if one.process.program.is_some() && one.state == ProcessState::Draining => {
            format!("{} ends its program {when}; {} serves", one.process, serving.process)
        }
        ([], [one]) => format!("{} {}; {} serves", one.process, drained::what_runs(one, ""), serving.process),
        ([], many) => format!("{} versions have drained already; {} serves", many.len(), serving.process),
        ([one], _) => format!("{} closes its {} {when}", one.process, text::connections(open)),
        (many, _) => format!("{} versions close their {} {when}", many.len(), text::connections(open)),
    }
}

/// The parameters of `Drain` and `Stop`.
pub(crate) fn within(deadline: Option<Duration>) -> DeadlineParams {
    let milliseconds = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    DeadlineParams::new(deadline.map(milliseconds))
}

/// A call whose answer says nothing but that it was done.
pub(crate) fn call(context: &Context<'_>, method: &str, parameters: &impl Serialize) -> Result<(), Failure> {
    let answer: Result<Map<String, Value>, _> = context.call(method, parameters, context.answer_timeout());
    answer.map(|_| ()).map_err(|error| context.failure(error))
}
