//! From the model to cells of the terminal. The same model at the same time is the same picture.

use std::time::{Duration, Instant};

use hotupdate_proto::operator::{ProcessState, ProcessStatus, ServiceEvent, Status};
use hotupdate_proto::{Summary, Totals};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, LineGauge, Paragraph, Row, Sparkline, Table};

use super::super::status::{how_it_went, short_note, warning_line, why_it_failed};
use super::model::{Drain, Model, Rates};
use crate::text;

/// The most drains that are shown.
const MAX_DRAINS: usize = 4;

/// Colour where it is wanted; bold and dim letters in any case.
#[derive(Clone, Copy)]
struct Palette {
    color: bool,
}

impl Palette {
    fn paint(self, color: Color) -> Style {
        if self.color { Style::new().fg(color) } else { Style::new() }
    }

    fn of(self, state: ProcessState) -> Style {
        match state {
            ProcessState::Starting | ProcessState::Standby => self.paint(Color::Cyan),
            ProcessState::Serving => self.paint(Color::Green).add_modifier(Modifier::BOLD),
            ProcessState::Draining => self.paint(Color::Yellow),
            _ => self.dim(),
        }
    }

    fn dim(self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    fn title(self, title: &str) -> Block<'_> {
        Block::new().borders(Borders::TOP).border_style(self.dim()).title(format!(" {title} "))
    }
}

pub(super) fn draw(frame: &mut Frame<'_>, model: &Model, now: Instant, color: bool) {
    let palette = Palette { color };
    let generations = rows(model.generations().count() + 2);
    let drains = model.drains.len().min(MAX_DRAINS);
    let drains = if drains == 0 { 0 } else { rows(drains + 1) };
    let last = rows(last_lines(model).len() + 1);
    let areas = [
        Constraint::Length(1),
        Constraint::Length(generations),
        Constraint::Length(4),
        Constraint::Length(drains),
        Constraint::Length(last),
        Constraint::Min(0),
    ];
    let [head, generations, rates, drains, last, events] = Layout::vertical(areas).areas(frame.area());
    draw_head(frame, head, model, now, palette);
    draw_generations(frame, generations, model, palette);
    draw_rates(frame, rates, model, palette);
    draw_drains(frame, drains, model, palette);
    draw_last(frame, last, model, palette);
    draw_events(frame, events, model, now, palette);
}

fn rows(count: usize) -> u16 {
    u16::try_from(count).unwrap_or(u16::MAX)
}

fn draw_head(frame: &mut Frame<'_>, area: Rect, model: &Model, now: Instant, palette: Palette) {
    let socket = text::plain(&model.socket.display().to_string()).into_owned();
    let mut line = Line::from(vec![
        Span::styled("hotctl watch ", Style::new().add_modifier(Modifier::BOLD)),
        Span::raw(socket),
    ]);
    if let Some(silent) = model.silent(now) {
        let alarm = palette.paint(Color::Red).add_modifier(Modifier::BOLD | Modifier::REVERSED);
        line.push_span(Span::raw("  "));
        line.push_span(Span::styled(format!(" no answer for {} ", text::duration(silent)), alarm));
    }
    frame.render_widget(line, area);
    let quit = Line::styled("q quits", palette.dim()).right_aligned();
    if area.width > 60 && model.silent(now).is_none() {
        frame.render_widget(quit, area);
    }
}

const HEAD: [&str; 8] = ["GEN", "STATE", "PID", "VERSION", "SINCE", "ACTIVE", "IDLE", "UPGRADED"];

fn draw_generations(frame: &mut Frame<'_>, area: Rect, model: &Model, palette: Palette) {
    let head = HEAD.into_iter().chain(["IN", "NOTE"]);
    let head = Row::new(head).style(palette.dim());
    let widths = [4, 9, 8, 12, 6, 7, 7, 8, 9].map(Constraint::Length);
    let widths = widths.into_iter().chain([Constraint::Min(8)]);
    let rows = model.generations().map(|status| generation(status, palette));
    let table = Table::new(rows, widths).header(head).column_spacing(1).block(palette.title("generations"));
    frame.render_widget(table, area);
}

fn generation(status: &ProcessStatus, palette: Palette) -> Row<'static> {
    let ProcessStatus { generation, process, state, since_ms, connections, totals, .. } = status;
    let Summary { idle, active, upgraded, .. } = connections;
    // The connections of a program are its own.
    let count = |count: u64| match process.program {
        Some(_) => "-".to_owned(),
        None => count.to_string(),
    };
    let cells = [
        generation.to_string(),
        state.to_string(),
        process.pid.to_string(),
        text::plain(&text::or_dash(process.label())).into_owned(),
        text::age(*since_ms),
        count(*active),
        count(*idle),
        count(*upgraded),
        count(totals.entered()),
        short_note(status).to_owned(),
    ];
    Row::new(cells).style(palette.of(*state))
}

fn draw_rates(frame: &mut Frame<'_>, area: Rect, model: &Model, palette: Palette) {
    let block = palette.title("rates");
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let [words, curve] = Layout::horizontal([Constraint::Length(34), Constraint::Min(0)]).areas(inner);
    let line = |rate: Option<f64>, what: &str| {
        let rate = rate.map_or_else(|| "-".to_owned(), |rate| format!("{rate:.0}"));
        Line::raw(format!("{rate:>9} {what}"))
    };
    let Rates { requests, accepted } = model.rates().unwrap_or_default();
    let known = model.rates().map(|_| ());
    let lines = vec![
        line(known.map(|()| requests), "requests/s"),
        line(known.map(|()| accepted), "new connections/s"),
        Line::raw(format!("{:>9} migrated here", model.status.serving.totals.adopted)),
    ];
    frame.render_widget(Paragraph::new(lines), words);
    let newest = model.curve.len().saturating_sub(usize::from(curve.width));
    let data: Vec<u64> = model.curve.iter().skip(newest).copied().collect();
    frame.render_widget(Sparkline::default().data(data).style(palette.paint(Color::Cyan)), curve);
}

fn draw_drains(frame: &mut Frame<'_>, area: Rect, model: &Model, palette: Palette) {
    if area.is_empty() {
        return;
    }
    let block = palette.title("drains");
    let inner = block.inner(area);
    frame.render_widget(block, area);
    for (drain, row) in model.drains.iter().take(MAX_DRAINS).zip(inner.rows()) {
        frame.render_widget(gauge(drain, palette), row);
    }
}

fn gauge(drain: &Drain, palette: Palette) -> LineGauge<'static> {
    let Drain { generation, process, most, left, totals, gone } = drain;
    let Totals { migrated, finished, closed, forced, .. } = totals;
    let what = match (gone, left) {
        (Some(_), _) => "has drained".to_owned(),
        (None, 0) => "nothing left".to_owned(),
        (None, left) => format!("{left} of {most} left"),
    };
    // Counts are exact up to 2^53.
    let ratio = if *most == 0 { 1.0 } else { (most - left) as f64 / *most as f64 };
    let style = if gone.is_some() { palette.dim() } else { palette.paint(Color::Yellow) };
    let process = text::plain(&process.to_string()).into_owned();
    let mut label = format!(
        "{generation}: {process} {what} · {migrated} migrated · {finished} finished · {closed} closed"
    );
    if totals.relayed > 0 {
        label.push_str(&format!(" · {} relayed", totals.relayed));
    }
    if totals.goaways.sum() > 0 {
        label.push_str(&format!(" · {} GOAWAY", totals.goaways.sum()));
    }
    if *forced > 0 {
        label.push_str(&format!(" · {forced} forced"));
    }
    LineGauge::default()
        .ratio(ratio)
        .label(label)
        .filled_symbol("━")
        .filled_style(style)
        .unfilled_style(palette.dim())
}

fn last_lines(model: &Model) -> Vec<(String, bool)> {
    let Status { serving, last_handoff, last_failure, history, warnings, .. } = &model.status;
    let handoff = last_handoff.as_ref().map(|handoff| (how_it_went(handoff, serving), false));
    let failure = last_failure.as_ref().map(|failure| (why_it_failed(failure), true));
    // The last failure has its own line. Events that hotctl has seen itself stand below, and this one may be
    // older.
    let event = history.first().filter(|event| event.kind != "failed" || failure.is_none());
    let event =
        event.map(|event| (format!("last event: {} ago: {}", text::age(event.ago_ms), event.text), true));
    let warnings = warnings.iter().map(|warning| (warning_line(warning), true));
    let lines: Vec<_> = handoff.into_iter().chain(failure).chain(event).chain(warnings).collect();
    if lines.is_empty() { vec![("no handoff so far".to_owned(), false)] } else { lines }
}

fn draw_last(frame: &mut Frame<'_>, area: Rect, model: &Model, palette: Palette) {
    let line = |(line, bad): (String, bool)| {
        let style = if bad { palette.paint(Color::Red) } else { Style::new() };
        Line::styled(text::plain(&line).into_owned(), style)
    };
    let lines: Vec<_> = last_lines(model).into_iter().map(line).collect();
    frame.render_widget(Paragraph::new(lines).block(palette.title("last")), area);
}

fn draw_events(frame: &mut Frame<'_>, area: Rect, model: &Model, now: Instant, palette: Palette) {
    let lines: Vec<_> = model.events.iter().map(|(at, event)| happened(*at, event, now, palette)).collect();
    frame.render_widget(Paragraph::new(lines).block(palette.title("events")), area);
}

fn happened(at: Instant, event: &ServiceEvent, now: Instant, palette: Palette) -> Line<'static> {
    let ServiceEvent { kind, text, .. } = event;
    let style = match kind.as_str() {
        "failed" | "lost" | "took_over" | "violation" => palette.paint(Color::Red),
        "served" | "rolled_back" => palette.paint(Color::Green),
        _ => Style::new(),
    };
    // In whole seconds: nothing but the second hand moves.
    let ago = Duration::from_secs(now.saturating_duration_since(at).as_secs());
    let ago = text::age(u64::try_from(ago.as_millis()).unwrap_or(u64::MAX).max(1000));
    Line::from(vec![
        Span::styled(format!("{ago:>6} ago  "), palette.dim()),
        Span::styled(text::plain(text).into_owned(), style),
    ])
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use hotupdate_proto::Generation;
    use hotupdate_proto::operator::{LastFailure, LastHandoff, Monitored, PastEvent, Warning};
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use hotupdate_proto::Process;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn process(generation: u64, totals: Totals) -> ProcessStatus {
        let pid = 4000 + u32::try_from(generation).expect("a small number");
        let process = Process::new(format!("i{generation}"), pid, format!("v{generation}\u{1b}"));
        let mut status = ProcessStatus::new(Generation(generation), process, ProcessState::Serving);
        status.since_ms = 12_000;
        status.connections = Summary::new(totals.open(), 0, 0);
        status.totals = totals;
        status
    }

    /// Nothing has left but what migrated.
    fn totals(accepted: u64, adopted: u64, migrated: u64, requests: u64) -> Totals {
        let mut totals = Totals::default();
        (totals.accepted, totals.adopted) = (accepted, adopted);
        (totals.migrated, totals.requests) = (migrated, requests);
        totals
    }

    /// 100 connections, 80 of which have moved.
    fn handed_over() -> Status {
        let mut old = process(1, totals(100, 0, 80, 1000));
        (old.state, old.probation) = (ProcessState::Draining, true);
        let mut status = Status::new(process(2, totals(10, 80, 0, 300)));
        let mut handoff = LastHandoff::new("h".to_owned(), Generation(1));
        (handoff.gap_ns, handoff.took_ms) = (Some(180_000), 12);
        (status.predecessors, status.last_handoff) = (vec![old], Some(handoff));
        status
    }

    fn picture(model: &Model, now: Instant, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a test has a backend");
        terminal.draw(|frame| draw(frame, model, now, true)).expect("drawing does not fail");
        terminal.backend().to_string()
    }

    fn model(now: Instant) -> Model {
        let first = process(1, totals(100, 0, 0, 1000));
        let mut model = Model::new(Path::new("/run/x.sock"), now, Status::new(first));
        let event = ServiceEvent::new("joined".to_owned(), Generation(2), "2 joined".to_owned());
        let told = Status::new(process(1, totals(100, 0, 0, 1000)));
        model.told(now + SECOND, Monitored::new(Some(event), told));
        model.status(now + 2 * SECOND, handed_over());
        model
    }

    #[test]
    fn a_handoff_as_it_is_seen() {
        let now = Instant::now();
        let shown = picture(&model(now), now + 3 * SECOND, 110, 24);
        for line in [
            "hotctl watch /run/x.sock",
            "2    serving   4002     v2\\u{1b}     12s    0       90      0        90",
            "1    draining  4001     v1\\u{1b}     12s    0       20      0        100       \
             can take over again",
            "150 requests/s",
            "5 new connections/s",
            "80 migrated here",
            "1: 4001 (v1\\u{1b}) 20 of 20 left · 80 migrated · 0 finished · 0 closed",
            "last handoff: generation 1 to 2 in 12 ms; new connections waited up to 180 µs",
            "1s ago  4002 (v2\\u{1b}) serves now",
            "2s ago  2 joined",
        ] {
            assert!(shown.contains(line), "no {line:?} in\n{shown}");
        }
        assert!(!shown.contains('\u{1b}'), "a version string cannot steer the terminal");
    }

    /// What happened before hotctl looked, and what an operator should know.
    #[test]
    fn the_last_event_and_the_warnings_are_shown() {
        let now = Instant::now();
        let mut model = model(now);
        let past = |kind, text| PastEvent::new(kind, Generation(2), text, 90_000);
        let told = |model: &mut Model, history, failure| {
            let mut status = handed_over();
            (status.history, status.last_failure) = (history, failure);
            status.warnings = vec![Warning::new("few_descriptors", "its limit is low".to_owned())];
            model.status(now + 3 * SECOND, status);
            picture(model, now + 3 * SECOND, 110, 24)
        };
        let shown = told(&mut model, vec![past("took_over", "v2\u{1b} died; v1 serves again")], None);
        assert!(shown.contains("last event: 90s ago: v2\\u{1b} died; v1 serves again"), "{shown}");
        assert!(shown.contains("warning: its limit is low"), "{shown}");
        let failure = LastFailure::new(
            Process::new("i".to_owned(), 7, "v3".to_owned()),
            "joining".to_owned(),
            "no".to_owned(),
        );
        let shown = told(&mut model, vec![past("failed", "v3 failed")], Some(failure));
        assert!(
            shown.contains("last failure: 7 (v3), joining: no") && !shown.contains("last event"),
            "{shown}"
        );
    }

    #[test]
    fn a_drain_that_has_ended_is_shown_for_a_while() {
        let now = Instant::now();
        let mut model = model(now);
        let gone = |model: &mut Model, at| {
            let mut alone = handed_over();
            alone.predecessors.clear();
            model.status(at, alone);
            picture(model, at, 100, 24)
        };
        assert!(gone(&mut model, now + 3 * SECOND).contains("(v1\\u{1b}) has drained · 80 migrated"));
        assert!(!gone(&mut model, now + 20 * SECOND).contains("has drained"));
    }

    /// Between the change of the owner and what the predecessor says first, its counts are not known.
    #[test]
    fn a_rate_knows_no_past() {
        let now = Instant::now();
        let mut model = model(now);
        let mut unknown = handed_over();
        unknown.predecessors[0].totals = Totals::default();
        model.status(now + 3 * SECOND, unknown);
        model.status(now + 4 * SECOND, handed_over());
        assert_eq!(model.rates(), Some(Rates { requests: 0.0, accepted: 0.0 }));
    }

    #[test]
    fn silence_is_an_alarm() {
        let now = Instant::now();
        let model = model(now);
        assert!(!picture(&model, now + 4 * SECOND, 100, 24).contains("no answer"));
        assert!(picture(&model, now + 9 * SECOND, 100, 24).contains("no answer for 7 s"));
    }

    #[test]
    fn any_size_will_do() {
        let now = Instant::now();
        for (width, height) in [(1, 1), (20, 3), (80, 24), (10, 100), (300, 80)] {
            picture(&model(now), now, width, height);
        }
    }
}
