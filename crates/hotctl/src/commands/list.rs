//! `hotctl list`: every control socket in the usual directories, and the process that serves there. A socket
//! that does not answer is a line of the list, and no failure.

use std::borrow::Cow;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hotupdate_proto::operator::{ProcessStatus, Status};
use hotupdate_proto::timing::fixed::operator::PROBE;
use serde::Serialize;

use crate::client::{CallError, standstill};
use crate::context::Context;
use crate::exit::Failure;
use crate::find;
use crate::report::{Paint, Report, json_line};
use crate::table::{Cell, Table};
use crate::text;

#[derive(Serialize)]
struct Record<'a> {
    socket: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    serving: Option<&'a ProcessStatus>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unreachable: Option<String>,
}

pub(crate) fn run(report: &Report, named: Option<PathBuf>, timeout: Option<Duration>) -> Result<(), Failure> {
    let places = find::places();
    let mut sockets = find::candidates(&places);
    sockets.extend(named);
    let found = sockets.into_iter().map(|socket| {
        let context = Context::new(socket, report, Some(timeout.unwrap_or(PROBE)))?;
        let status = context.status();
        Ok((context.socket, status))
    });
    let found = found.collect::<Result<Vec<_>, Failure>>()?;
    if found.is_empty() {
        let places: Vec<_> = places.iter().map(|place| place.display().to_string()).collect();
        report.say(format!("no control socket in {}", places.join(", ")));
        return Ok(());
    }
    match report.json() {
        true => found.iter().try_for_each(|(socket, status)| record(report, socket, status)),
        false => table(report, &found),
    }
}

fn record(report: &Report, socket: &Path, status: &Result<Status, CallError>) -> Result<(), Failure> {
    let serving = status.as_ref().ok().map(|status| &status.serving);
    let unreachable = status.as_ref().err().map(why);
    let record = Record { socket: socket.to_string_lossy(), serving, unreachable };
    report.data(|out| json_line(out, "service", &record))
}

fn table(report: &Report, found: &[(PathBuf, Result<Status, CallError>)]) -> Result<(), Failure> {
    let mut table = Table::new(&["SOCKET", "PID", "VERSION", "GENERATION", "STATE"]);
    for (socket, status) in found {
        table.row(row(socket, status));
    }
    report.data(|out| table.write(out, report.color()))
}

fn row(socket: &Path, status: &Result<Status, CallError>) -> Vec<Cell> {
    let socket = Cell::new(socket.display());
    match status {
        Ok(Status { serving, .. }) => vec![
            socket,
            Cell::new(serving.process.pid),
            Cell::new(text::or_dash(serving.process.label())),
            Cell::new(serving.generation),
            Cell::new(serving.state).painted(Paint::of(serving.state)),
        ],
        Err(error) => {
            let state = match error {
                CallError::Unreachable { source, .. }
                    if source.kind() == io::ErrorKind::ConnectionRefused =>
                {
                    "no process listens any more".to_owned()
                }
                _ => format!("unreachable: {}", why(error)),
            };
            let state = Cell::new(state).painted(Paint::Dim);
            vec![socket, Cell::new("-"), Cell::new("-"), Cell::new("-"), state]
        }
    }
}

fn why(error: &CallError) -> String {
    match error {
        CallError::Unreachable { source, .. } => text::os_error(source),
        CallError::Refused { reason, .. } => reason.clone(),
        CallError::Closed { .. } => "closed the connection".to_owned(),
        CallError::Garbled { reason, .. } => reason.clone(),
        CallError::TimedOut { path, .. } => format!("no answer{}", standstill(path)),
        CallError::Interrupted => "interrupted".to_owned(),
    }
}
