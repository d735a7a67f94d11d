//! `--until drained`: waits until the version that served before has drained and exited.

use std::time::Instant;

use hotupdate_proto::operator::{HandoffResult, Status};

use super::change;
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
    let HandoffResult { from, to, generation, gap_ns: _ } = changed;
    let mut stream = StatusStream::new(context);
    let mut open = None;
    loop {
        if let Some(status) = stream.next() {
            change::still_stands(changed, &status)?;
            // A status from before the change says nothing about what is left.
            if status.serving.generation >= *generation {
                open = change::connections_of(&status, from);
                let Some(open) = open else {
                    context.report.record("drained", from)?;
                    return Ok(status);
                };
                progress.at(format!("{to} serves; draining, {open} left"));
            }
        }
        if context.interrupted() {
            return Err(
                Failure::new(Exit::Interrupted, format!("interrupted; {from} is still draining")).now(to)
            );
        }
        if Instant::now() >= until {
            let left = open.map_or_else(String::new, |open| format!(" {}", text::connections(open)));
            let after = text::duration(context.change_timeout());
            let line = format!("timed out after {after}: {from} is still draining{left}");
            return Err(Failure::new(Exit::TimedOut, line).now(to));
        }
    }
}
