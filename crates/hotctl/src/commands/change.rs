//! `Handoff` and `Rollback`: calls that reply when another process serves, and the line that says which.

use std::time::Instant;

use hotupdate_proto::Process;
use hotupdate_proto::operator::{HandoffResult, ProcessState, Status};

use super::drained;
use super::status::warning_line;
use crate::client::CallError;
use crate::context::{Context, NOTHING, look_until};
use crate::exit::{Exit, Failure};
use crate::text;

/// Calls `method` and waits until another process serves than before.
pub(crate) fn call(context: &Context<'_>, method: &str, before: &Status) -> Result<HandoffResult, Failure> {
    let until = Instant::now() + context.change_timeout();
    match context.call(method, &NOTHING, context.change_timeout()) {
        // The process that was asked may exit before its reply is read: what counts is which one serves.
        Err(CallError::Closed { .. }) => settle(context, before, until),
        result => result.map_err(|error| context.failure(error)),
    }
}

fn settle(context: &Context<'_>, before: &Status, until: Instant) -> Result<HandoffResult, Failure> {
    let old = &before.serving.process;
    let settled = look_until(until, || match context.try_status() {
        Some(status) if is_another(&status, old) => Some(Ok(changed(&status, before))),
        Some(status) if status.serving.process.instance == old.instance => {
            let line = "the service ended the connection before it answered";
            Some(Err(Failure::refused(line).still(old)))
        }
        _ => context.interrupted().then(|| Err(CallError::Interrupted.into())),
    });
    settled.unwrap_or_else(|| {
        Err(Failure::new(
            Exit::TimedOut,
            format!("{old} ended the connection, and no process has served since"),
        ))
    })
}

/// The status after the change, `None` if the service does not answer in time.
///
/// # Errors
///
/// If the process that served before serves again: the new one crashed, or was rolled back, in the meantime.
pub(crate) fn look(context: &Context<'_>, changed: &HandoffResult) -> Result<Option<Status>, Failure> {
    let after = context.try_status();
    if let Some(status) = &after {
        still_stands(changed, status)?;
    }
    Ok(after)
}

/// Whether the change has not been undone.
pub(crate) fn still_stands(changed: &HandoffResult, status: &Status) -> Result<(), Failure> {
    let HandoffResult { from, to, .. } = changed;
    match status.serving.process.instance == from.instance {
        true => Err(Failure::refused(format!("{to} served, but does not any more")).still(from)),
        false => Ok(()),
    }
}

/// Another process serves; that it owns the control socket is not enough.
fn is_another(status: &Status, old: &Process) -> bool {
    status.serving.process.instance != old.instance && status.serving.state == ProcessState::Serving
}

/// The change from `before` to `status`, as the service itself would put it.
pub(crate) fn changed(status: &Status, before: &Status) -> HandoffResult {
    let from = before.serving.generation;
    let handoff = status.last_handoff.as_ref().filter(|handoff| handoff.from == from);
    let Status { serving, .. } = status;
    let mut result =
        HandoffResult::new(before.serving.process.clone(), serving.process.clone(), serving.generation);
    result.gap_ns = handoff.and_then(|handoff| handoff.gap_ns);
    result
}

/// `4242 (v1.3.0) serves now, generation 3; 4100 (v1.2.9) is draining 17 connections; new connections waited
/// up to 180 µs`
pub(crate) fn sentence(changed: &HandoffResult, status: Option<&Status>, verb: &str) -> String {
    let HandoffResult { from, to, generation, gap_ns, .. } = changed;
    let rest = status.map_or_else(String::new, |status| format!("; {}", what_is_left(status, from)));
    // Programs that do not know the protocol accept all the time.
    let gap_ns = gap_ns.filter(|_| from.program.is_none() || to.program.is_none());
    format!("{to} {verb}, generation {generation}{rest}{}", text::gap(gap_ns))
}

fn what_is_left(status: &Status, old: &Process) -> String {
    let left = status.predecessors.iter().find(|predecessor| predecessor.process.instance == old.instance);
    match left {
        Some(left) => format!("{old} {}", drained::what_runs(left, "is draining")),
        None => format!("{old} has exited"),
    }
}

/// `; migrated 117 connections`: those that the new version has taken from the ones before it.
pub(crate) fn what_has_migrated(status: Option<&Status>, to: &Process) -> String {
    let serving = status.map(|status| &status.serving).filter(|it| it.process.instance == to.instance);
    match serving.map_or(0, |serving| serving.totals.adopted) {
        0 => String::new(),
        migrated => format!("; migrated {}", text::connections(migrated)),
    }
}

/// What an operator should know of the process that serves now, a line each.
pub(crate) fn warn(context: &Context<'_>, status: Option<&Status>, to: &Process) {
    let serving = status.filter(|status| status.serving.process.instance == to.instance);
    for warning in serving.map(|status| status.warnings.as_slice()).unwrap_or_default() {
        context.report.outcome("warning", warning, to);
        context.report.say(warning_line(warning));
    }
}
