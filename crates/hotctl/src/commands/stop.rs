//! `hotctl stop`: no more connections, drain, exit; with `--wait`, until nobody listens there.
//!
//! Deliberately absent: signals. The process may live in another container, where its pid means nothing here.

use std::time::{Duration, Instant};

use hotupdate_proto::Process;

use super::ordinary;
use crate::cli;
use crate::client::CallError;
use crate::context::{Context, look_until};
use crate::exit::{Exit, Failure};
use crate::progress::Progress;
use crate::text;

/// What the default wait of `--wait` allows beyond the deadline of the drain: forced connections need a moment, too.
const SLACK: Duration = Duration::from_secs(10);

pub(crate) fn run(context: &Context<'_>, stop: &cli::Stop) -> Result<(), Failure> {
    let before = context.status()?.serving;
    ordinary::call(context, "Stop", &ordinary::within(stop.deadline))?;
    let open = before.connections.open();
    let left = if open == 0 { String::new() } else { format!(", {} left to drain", text::connections(open)) };
    if !stop.wait {
        context.report.record("stopping", &before)?;
        context.report.say(format!("{} stops{left}", before.process));
        return Ok(());
    }
    let progress = Progress::new(context.report);
    progress.at(format!("{} stops{left}", before.process));
    until_gone(context, &before.process, stop.deadline)?;
    drop(progress);
    context.report.record("stopped", &before)?;
    context.report.say(format!("{} is gone, nobody listens on {}", before.process, context.socket.display()));
    Ok(())
}

fn until_gone(context: &Context<'_>, stopping: &Process, deadline: Option<Duration>) -> Result<(), Failure> {
    let patience = context.patience().max(deadline.map_or(Duration::ZERO, |deadline| deadline + SLACK));
    let until = Instant::now() + patience;
    let gone = look_until(until, || match context.status() {
        Err(CallError::Unreachable { .. }) => Some(Ok(())),
        Ok(status) if status.serving.process.instance != stopping.instance => {
            let line = format!("{stopping} is gone, but its place was taken");
            Some(Err(Failure::refused(line).now(&status.serving.process)))
        }
        _ => context.interrupted().then(|| {
            Err(Failure::new(Exit::Interrupted, format!("interrupted; {stopping} goes on stopping")))
        }),
    });
    gone.unwrap_or_else(|| {
        let after = text::duration(patience);
        Err(Failure::new(Exit::TimedOut, format!("{stopping} has not ended in {after}")))
    })
}
