//! `hotctl stop`: stop accepting, drain, exit; with `--wait`, until the process has stopped.
//!
//! Deliberately absent: signals. The process may run in another container, where its pid means nothing here.

use std::time::{Duration, Instant};

use hotupdate_proto::Process;

use super::simple;
use crate::cli;
use crate::client::CallError;
use crate::context::{Context, look_until};
use crate::exit::{Exit, Failure};
use crate::progress::Progress;
use crate::text;

/// How long `--wait` waits beyond the deadline of the drain: closing connections takes a moment, too.
const SLACK: Duration = Duration::from_secs(10);

pub(crate) fn run(context: &Context<'_>, stop: &cli::Stop) -> Result<(), Failure> {
    let before = context.status()?.serving;
    simple::call(context, "Stop", &simple::within(stop.deadline))?;
    let open = before.connections.open();
    let left = if open == 0 { String::new() } else { format!(", draining {}", text::connections(open)) };
    if !stop.wait {
        context.report.record("stopping", &before)?;
        context.report.say(format!("{} is stopping{left}", before.process));
        return Ok(());
    }
    let progress = Progress::new(context.report);
    progress.at(format!("{} is stopping{left}", before.process));
    until_gone(context, &before.process, stop.deadline)?;
    drop(progress);
    context.report.record("stopped", &before)?;
    context.report.say(format!(
        "{} has stopped; no process listens on {}",
        before.process,
        context.socket.display()
    ));
    Ok(())
}

fn until_gone(context: &Context<'_>, stopping: &Process, deadline: Option<Duration>) -> Result<(), Failure> {
    let timeout = context.change_timeout().max(deadline.map_or(Duration::ZERO, |deadline| deadline + SLACK));
    let until = Instant::now() + timeout;
    let gone = look_until(until, || match context.status() {
        Err(CallError::Unreachable { .. }) => Some(Ok(())),
        Ok(status) if status.serving.process.instance != stopping.instance => {
            let line = format!("{stopping} has stopped, but the service was started again");
            Some(Err(Failure::refused(line).now(&status.serving.process)))
        }
        _ => context.interrupted().then(|| {
            Err(Failure::new(Exit::Interrupted, format!("interrupted; {stopping} is still stopping")))
        }),
    });
    gone.unwrap_or_else(|| {
        let after = text::duration(timeout);
        Err(Failure::new(Exit::TimedOut, format!("timed out after {after}: {stopping} is still stopping")))
    })
}
