//! `hotctl stop`: stop accepting, drain, exit; with `--wait`, until the process has stopped.
//!
//! Deliberately absent: signals. The process may run in another container, where its pid means nothing here.

use std::time::{Duration, Instant};

use hotupdate_proto::Process;
use hotupdate_proto::timing::fixed::operator::SLACK;
use serde_json::{Map, Value};

use super::simple;
use crate::cli;
use crate::client::{CallError, Client};
use crate::context::{Context, TICK, look_until};
use crate::exit::{Exit, Failure};
use crate::progress::Progress;
use crate::text;

pub(crate) fn run(context: &Context<'_>, stop: &cli::Stop) -> Result<(), Failure> {
    let before = context.status()?.serving;
    let limit = context.answer_timeout();
    let mut client = context
        .open("Stop", &simple::within(stop.deadline), stop.wait, limit)
        .map_err(|error| context.failure(error))?;
    let (_, continues) = context
        .reply::<Map<String, Value>>(&mut client, Instant::now() + limit, limit)
        .map_err(|error| context.failure(error))?;
    let open = before.connections.open();
    let left = if open == 0 { String::new() } else { format!(", draining {}", text::connections(open)) };
    if !stop.wait {
        context.report.record("stopping", &before)?;
        context.report.say(format!("{} is stopping{left}", before.process));
        return Ok(());
    }
    let progress = Progress::new(context.report);
    progress.at(format!("{} is stopping{left}", before.process));
    let service = continues.then_some(client);
    until_gone(context, &before.process, stop.deadline, service)?;
    drop(progress);
    context.report.record("stopped", &before)?;
    context.report.say(format!(
        "{} has stopped; no process listens on {}",
        before.process,
        context.socket.display()
    ));
    Ok(())
}

/// `service`: a connection that ends with the process. One that does not keep it is believed to be gone when
/// no process serves at the socket.
fn until_gone(
    context: &Context<'_>,
    stopping: &Process,
    deadline: Option<Duration>,
    mut service: Option<Client>,
) -> Result<(), Failure> {
    let timeout = context.change_timeout().max(deadline.map_or(Duration::ZERO, |deadline| deadline + SLACK));
    let until = Instant::now() + timeout;
    let mut is_there = || {
        let heard =
            service.as_mut().map(|service| service.receive::<Map<String, Value>>(Instant::now() + TICK));
        matches!(heard, Some(Ok(_)))
    };
    let interrupted = || {
        let line = format!("interrupted; {stopping} is still stopping");
        context.interrupted().then(|| Err(Failure::new(Exit::Interrupted, line)))
    };
    let gone = look_until(until, || {
        if is_there() {
            return interrupted();
        }
        match context.status() {
            Err(CallError::Unreachable { .. }) => Some(Ok(())),
            Ok(status) if status.serving.process.instance != stopping.instance => {
                let line = format!("{stopping} has stopped, but the service was started again");
                Some(Err(Failure::refused(line).now(&status.serving.process)))
            }
            _ => interrupted(),
        }
    });
    gone.unwrap_or_else(|| {
        let after = text::duration(timeout);
        Err(Failure::new(Exit::TimedOut, format!("timed out after {after}: {stopping} is still stopping")))
    })
}
