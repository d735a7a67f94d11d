//! `hotctl connections`: a line per open connection, of every generation that still runs.
//!
//! Deliberately absent: a table in memory. There may be 100,000 rows, so columns have a fixed width and lines
//! are written as replies arrive.

use std::io::{self, Write};
use std::time::Instant;

use hotupdate_proto::operator::{Connections, Status};
use hotupdate_proto::{ConnectionRow, ConnectionState, Generation};
use serde::Serialize;

use crate::context::{Context, NOTHING};
use crate::exit::Failure;
use crate::report::json_line;
use crate::text;

#[derive(Serialize)]
struct Record<'a> {
    generation: Generation,
    #[serde(flatten)]
    row: &'a ConnectionRow,
}

pub(crate) fn run(context: &Context<'_>) -> Result<(), Failure> {
    let limit = context.answer_timeout();
    let mut client = context.open("Connections", &NOTHING, true, limit)?;
    let (mut has_head, mut is_empty) = (context.report.json(), true);
    loop {
        // The timeout is for each reply: a long table may take longer as long as replies keep coming.
        let (Connections { generation, rows, .. }, more) = context
            .reply(&mut client, Instant::now() + limit, limit)
            .map_err(|error| context.failure(error))?;
        if !std::mem::replace(&mut has_head, true) {
            context.report.data(|out| writeln!(out, "{HEAD}"))?;
        }
        is_empty &= rows.is_empty();
        context.report.data(|out| write(out, context.report.json(), generation, &rows))?;
        if !more {
            break;
        }
    }
    if is_empty {
        say_whose(context);
    }
    Ok(())
}

/// None of a program that does not know the protocol is known.
fn say_whose(context: &Context<'_>) {
    let Some(status) = context.try_status() else { return };
    let Status { serving, predecessors, .. } = status;
    let processes = [serving].into_iter().chain(predecessors).map(|status| status.process);
    for process in processes.filter(|process| process.program.is_some()) {
        context.report.say(format!("the connections of {process} are those of its program: see `ss -tnp`"));
    }
}

fn write(out: &mut impl Write, json: bool, generation: Generation, rows: &[ConnectionRow]) -> io::Result<()> {
    rows.iter().try_for_each(|row| match json {
        true => json_line(out, "connection", &Record { generation, row }),
        false => writeln!(out, "{}", text::plain(&line(generation, row))),
    })
}

const HEAD: &str =
    "GENERATION  ID         LISTENER      PROTOCOL          STATE     AGE     REQUESTS  PEER -> LOCAL";

fn line(generation: Generation, row: &ConnectionRow) -> String {
    let ConnectionRow { id, listener, peer, local, protocol, age_ms, requests, state, .. } = row;
    let age = text::age(*age_ms);
    let (listener, protocol) = (column(listener, 12), column(protocol, 16));
    let (peer, local, state) = (text::or_dash(peer), text::or_dash(local), word(*state));
    let generation = generation.0;
    format!(
        "{generation:<10}  {id:<9}  {listener}  {protocol}  {state:<8}  {age:<6}  {requests:<8}  \
         {peer} -> {local}"
    )
}

/// Escaped first, so that what is padded is what is printed.
fn column(text: &str, width: usize) -> String {
    text::pad(&text::plain(&text::or_dash(text)), width)
}

fn word(state: ConnectionState) -> &'static str {
    match state {
        ConnectionState::Idle => "idle",
        ConnectionState::Active => "active",
        ConnectionState::Upgraded => "upgraded",
        _ => "other",
    }
}
