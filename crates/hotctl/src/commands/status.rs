//! `hotctl status`: one line per generation, the listeners, how the last handoff went, why the last attempt
//! failed, what happened lately, and what an operator should know.

use std::borrow::Cow;
use std::io::{self, Write};
use std::time::Duration;

use hotupdate_proto::operator::{
    LastFailure, LastHandoff, ListenerStatus, PastEvent, ProcessState, ProcessStatus, Status, Warning,
};
use hotupdate_proto::{GoAways, Summary, Totals};
use serde::Serialize;

use crate::context::Context;
use crate::exit::Failure;
use crate::report::{Paint, json_line};
use crate::table::{Cell, Table};
use crate::text;

const HEAD: [&str; 7] =
    ["GENERATION", "STATE", "PID", "VERSION", "SINCE", "CONNECTIONS(active/idle/upgraded)", "NOTE"];

#[derive(Serialize)]
struct Record<'a> {
    socket: Cow<'a, str>,
    #[serde(flatten)]
    status: &'a Status,
}

pub(crate) fn run(context: &Context<'_>) -> Result<(), Failure> {
    let status = context.status()?;
    // A JSON string is Unicode, so a path that is not is shown with replacement characters.
    let (report, socket) = (context.report, context.socket.to_string_lossy());
    report.data(|out| match report.json() {
        true => json_line(out, "status", &Record { socket: socket.clone(), status: &status }),
        false => write(out, &status, report.color()),
    })
}

fn write(out: &mut impl Write, status: &Status, color: bool) -> io::Result<()> {
    let Status {
        serving,
        successor,
        predecessors,
        listeners,
        last_handoff,
        last_failure,
        history,
        warnings,
        ..
    } = status;
    let mut table = Table::new(&HEAD);
    successor.iter().chain([serving]).chain(predecessors).for_each(|process| table.row(row(process)));
    table.write(out, color)?;
    write_listeners(out, listeners)?;
    if let Some(handoff) = last_handoff {
        writeln!(out, "\n{}", how_it_went(handoff, serving))?;
    }
    if let Some(failure) = last_failure {
        writeln!(out, "\n{}", text::plain(&why_it_failed(failure)))?;
    }
    // The last failure has its own line, if the service still knows it.
    let mut told = last_failure.is_some();
    let history = history.iter().filter(|event| event.kind != "failed" || !std::mem::take(&mut told));
    write_history(out, history)?;
    write_warnings(out, warnings)
}

fn write_history<'a>(out: &mut impl Write, history: impl Iterator<Item = &'a PastEvent>) -> io::Result<()> {
    let mut history = history.peekable();
    if history.peek().is_none() {
        return Ok(());
    }
    let mut table = Table::new(&["AGO", "HISTORY"]);
    for PastEvent { text, ago_ms, .. } in history {
        table.row(vec![Cell::new(text::age(*ago_ms)), Cell::new(text)]);
    }
    writeln!(out)?;
    table.write(out, false)
}

fn write_warnings(out: &mut impl Write, warnings: &[Warning]) -> io::Result<()> {
    for (index, warning) in warnings.iter().enumerate() {
        let blank = if index == 0 { "\n" } else { "" };
        writeln!(out, "{blank}{}", text::plain(&warning_line(warning)))?;
    }
    Ok(())
}

pub(super) fn warning_line(warning: &Warning) -> String {
    format!("warning: {}", warning.text)
}

fn row(status: &ProcessStatus) -> Vec<Cell> {
    let ProcessStatus { generation, process, state, since_ms, connections, .. } = status;
    let Summary { idle, active, upgraded, .. } = connections;
    let connections = match process.program {
        Some(_) => "its own".to_owned(),
        None => format!("{active}/{idle}/{upgraded}"),
    };
    vec![
        Cell::new(generation),
        Cell::new(state).painted(Paint::of(*state)),
        Cell::new(process.pid),
        Cell::new(text::or_dash(process.label())),
        Cell::new(text::age(*since_ms)),
        Cell::new(connections),
        Cell::new(note(status)),
    ]
}

/// `can take over again; drained; still running: 2 tasks (consumer, report); 117 migrated, 4 finished`
fn note(status: &ProcessStatus) -> String {
    let has_let_go = matches!(status.state, ProcessState::Draining | ProcessState::Drained);
    let ended = if has_let_go { ended(&status.totals) } else { None };
    let short = Some(short_note(status).to_owned()).filter(|note| !note.is_empty());
    let is_empty = status.process.program.is_none() && status.connections.open() == 0;
    let is_drained = status.state == ProcessState::Draining && is_empty;
    let drained = is_drained.then(|| "drained".to_owned());
    short.into_iter().chain(drained).chain(tasks(&status.tasks)).chain(ended).collect::<Vec<_>>().join("; ")
}

/// What an operator can do with it.
pub(super) fn short_note(status: &ProcessStatus) -> &'static str {
    match status.state {
        ProcessState::Standby => "waits for `hotctl handoff`",
        ProcessState::Draining | ProcessState::Drained if status.probation => "can take over again",
        ProcessState::Drained if status.tasks.is_empty() => "stays for its supervisor",
        _ => "",
    }
}

/// What keeps a process alive beside its connections. The application chose the names.
pub(super) fn tasks(names: &[String]) -> Option<String> {
    let count = match names.len() {
        0 => return None,
        1 => "1 task".to_owned(),
        count => format!("{count} tasks"),
    };
    Some(format!("still running: {count} ({})", text::plain(&names.join(", "))))
}

/// What became of the connections of a process that is draining; a count of zero is left out.
fn ended(totals: &Totals) -> Option<String> {
    let Totals { migrated, finished, closed, forced, .. } = totals;
    let words = [(migrated, "migrated"), (finished, "finished"), (closed, "closed"), (forced, "forced")];
    let words = words.into_iter().filter(|(count, _)| **count > 0);
    let mut words: Vec<_> = words.map(|(count, word)| format!("{count} {word}")).collect();
    if totals.relayed > 0 {
        words.push(format!("{} relayed", totals.relayed));
    }
    words.extend(goaways(&totals.goaways));
    (!words.is_empty()).then(|| words.join(", "))
}

/// Connections of HTTP/2 that could not move, and why.
fn goaways(goaways: &GoAways) -> Option<String> {
    let reasons = goaways.reasons().into_iter().filter(|(_, count)| *count > 0);
    let reasons: Vec<_> = reasons.map(|(reason, count)| format!("{reason} {count}")).collect();
    (goaways.sum() > 0).then(|| format!("{} told GOAWAY ({})", goaways.sum(), reasons.join(", ")))
}

fn write_listeners(out: &mut impl Write, listeners: &[ListenerStatus]) -> io::Result<()> {
    if listeners.is_empty() {
        return Ok(());
    }
    let mut table = Table::new(&["LISTENER", "KIND", "ADDRESS", "ORIGIN"]);
    for ListenerStatus { name, kind, address, origin, .. } in listeners {
        let cells = [name.clone(), kind.to_string(), text::or_dash(address), origin.clone()];
        table.row(cells.iter().map(Cell::new).collect());
    }
    writeln!(out)?;
    table.write(out, false)
}

pub(super) fn how_it_went(handoff: &LastHandoff, serving: &ProcessStatus) -> String {
    let LastHandoff { from, gap_ns, took_ms, took_ns, ago_ms, .. } = handoff;
    let took = text::took(took_ns.map_or(Duration::from_millis(*took_ms), Duration::from_nanos));
    let (ago, gap) = (ago(*ago_ms), text::gap(*gap_ns));
    format!("last handoff: generation {from} to {} in {took}{ago}{gap}", serving.generation)
}

pub(super) fn why_it_failed(failure: &LastFailure) -> String {
    let LastFailure { successor, generation, stage, reason, ago_ms, .. } = failure;
    let number = if generation.0 == 0 { String::new() } else { format!(", generation {generation}") };
    format!("last failure: {successor}{number}, {stage}{}: {reason}", ago(*ago_ms))
}

/// `, 12s ago`, if it is known.
fn ago(milliseconds: Option<u64>) -> String {
    milliseconds.map_or_else(String::new, |ago| format!(", {} ago", text::age(ago)))
}
