//! `--until drained`: waits until the version that served before has drained and exited, or stays for its
//! supervisor alone. One whose `main`, or a task of it, goes on after the drain is waited for.

use std::time::Instant;

use hotupdate_proto::operator::{HandoffResult, ProcessState, ProcessStatus, Status};
use hotupdate_proto::timing::fixed::operator::EXITS;

use super::change;
use super::status::tasks;
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::progress::Progress;
use crate::status_stream::StatusStream;
use crate::text;

pub(crate) fn wait(
    context: &Context<'_>,
    changed: &HandoffResult,
    progress: &Progress,
    until: Instant,
) -> Result<Status, Failure> {
    let HandoffResult { from, to, generation, .. } = changed;
    let mut stream = StatusStream::new(context);
    let mut left = None;
    // The status of a process that has drained and may exit, and since when.
    let mut drained: Option<(Instant, Status)> = None;
    loop {
        if let Some(status) = stream.next() {
            change::still_stands(changed, &status)?;
            // A status from before the change says nothing about what is left.
            if status.serving.generation >= *generation {
                let predecessor = status.predecessors.iter().find(|it| it.process.instance == from.instance);
                let Some(predecessor) = predecessor else {
                    context.report.record("drained", from)?;
                    return Ok(status);
                };
                let what = what_runs(predecessor, "is still draining");
                progress.at(format!("{to} serves; {from} {what}"));
                left = Some(what);
                let since = drained.map_or_else(Instant::now, |(since, _)| since);
                drained = has_drained(predecessor).then_some((since, status));
            }
        }
        if let Some((_, status)) = drained.take_if(|(since, _)| since.elapsed() >= EXITS) {
            context.report.record("drained", from)?;
            return Ok(status);
        }
        if context.interrupted() {
            return Err(
                Failure::new(Exit::Interrupted, format!("interrupted; {from} is still draining")).now(to)
            );
        }
        if Instant::now() >= until {
            let left = left.as_deref().unwrap_or("is draining");
            let after = text::duration(context.change_timeout());
            let line = format!("timed out after {after}: {from} {left}");
            return Err(Failure::new(Exit::TimedOut, line).now(to));
        }
    }
}

/// Whether it has nothing left to do, and serves no more.
fn has_drained(process: &ProcessStatus) -> bool {
    process.state == ProcessState::Drained && !process.probation && process.tasks.is_empty()
}

/// `is draining 17 connections`, or `has drained, still running: 2 tasks (mail, report)`: a process that has
/// drained is not gone.
pub(super) fn what_runs(left: &ProcessStatus, draining: &str) -> String {
    if left.process.program.is_some() {
        return match (left.state == ProcessState::Drained, left.tasks.first(), left.probation) {
            (false, None, _) => "is stopping its program".to_owned(),
            (_, Some(program), _) => format!("is stopping {program}"),
            (true, None, true) => "has ended its program, and can take over again".to_owned(),
            (true, None, false) => "has ended its program".to_owned(),
        };
    }
    match (left.connections.open(), tasks(&left.tasks)) {
        (0, Some(tasks)) => format!("has drained, {tasks}"),
        (0, None) if left.probation => "has drained, and can take over again".to_owned(),
        (0, None) => "has drained, and is still running".to_owned(),
        (open, Some(tasks)) => format!("{draining} {}, {tasks}", text::connections(open)),
        (open, None) => format!("{draining} {}", text::connections(open)),
    }
}
