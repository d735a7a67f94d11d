//! `--until drained`: waits until the version that served before is gone.
//!
//! Deliberately absent: hurrying it, see `hotctl drain`.

use std::time::Instant;

use hotupdate_proto::operator::{HandoffResult, Status};

use super::change;
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::progress::Progress;
use crate::text;
use crate::watch::Watch;

pub(crate) fn wait(
    context: &Context<'_>,
    changed: &HandoffResult,
    progress: &Progress,
    until: Instant,
) -> Result<Status, Failure> {
    let HandoffResult { from, to, generation, gap_ns: _ } = changed;
    let mut watch = Watch::new(context);
    let mut open = None;
    loop {
        if let Some(status) = watch.next() {
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
            return Err(Failure::new(Exit::Interrupted, format!("interrupted; {from} drains on")).now(to));
        }
        if Instant::now() >= until {
            let left = open.map_or_else(String::new, |open| format!(" ({} left)", text::connections(open)));
            return Err(Failure::new(Exit::TimedOut, format!("{from} has not drained in time{left}")).now(to));
        }
    }
}
