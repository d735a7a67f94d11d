//! `hotctl watch`: the service as it changes, on the whole terminal; with `--json`, as JSON lines.
//!
//! Deliberately absent: commands. No key that is pressed by accident changes a service.

mod model;
mod view;

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use self::model::Model;
use crate::client::CallError;
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::status_stream::{StatusStream, Update};

/// Ages and rates change also when nothing happens.
const REDRAW: Duration = Duration::from_millis(250);

pub(crate) fn run(context: &Context<'_>) -> Result<(), Failure> {
    let has_terminal = io::stdout().is_terminal() && io::stdin().is_terminal();
    if !has_terminal && !context.report.json() {
        let line = "this is no terminal; with --json it prints what happens as JSON lines";
        return Err(Failure::new(Exit::Usage, line));
    }
    // A service that does not run is an error at the beginning; later it is something to show.
    let status = context.status().map_err(|error| context.failure(error))?;
    if context.report.json() {
        return tell(context);
    }
    let model = Model::new(&context.socket, Instant::now(), status);
    let screen = Screen::open()?;
    watch(context, model, screen)
}

/// What `Monitor` says, until Ctrl-C.
fn tell(context: &Context<'_>) -> Result<(), Failure> {
    let mut stream = StatusStream::new(context);
    while !context.interrupted() {
        if let Some(Update::Event(monitored)) = stream.next_update() {
            context.report.record("monitor", &monitored)?;
        }
    }
    Err(CallError::Interrupted.into())
}

fn watch(context: &Context<'_>, mut model: Model, mut screen: Screen) -> Result<(), Failure> {
    let mut stream = StatusStream::new(context);
    let mut due = Instant::now();
    loop {
        let update = stream.next_update();
        let changed = update.is_some();
        let now = Instant::now();
        match update {
            Some(Update::Event(monitored)) => model.told(now, *monitored),
            Some(Update::Status(status)) => model.status(now, *status),
            None => {}
        }
        if screen.wants_to_quit()? || context.interrupted() {
            return Ok(());
        }
        if changed || now >= due {
            due = now + REDRAW;
            screen.show(|frame| view::draw(frame, &model, now, context.report.color()))?;
        }
    }
}

/// The terminal, given back when dropped; also when hotctl panics, which is ratatui's hook.
struct Screen {
    terminal: DefaultTerminal,
    terminated: Arc<AtomicBool>,
}

impl Screen {
    fn open() -> Result<Self, Failure> {
        let terminated = Arc::new(AtomicBool::new(false));
        // A terminal that is left in raw mode cannot be used.
        for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&terminated)).map_err(|error| cannot(&error))?;
        }
        let terminal = ratatui::try_init().map_err(|error| cannot(&error))?;
        Ok(Self { terminal, terminated })
    }

    fn show(&mut self, draw: impl FnOnce(&mut ratatui::Frame<'_>)) -> Result<(), Failure> {
        self.terminal.draw(draw).map(drop).map_err(|error| cannot(&error))
    }

    /// Whether a key or a signal asks to quit.
    fn wants_to_quit(&self) -> Result<bool, Failure> {
        let mut quit = self.terminated.load(Ordering::Relaxed);
        while event::poll(Duration::ZERO).map_err(|error| cannot(&error))? {
            quit |= is_quit(&event::read().map_err(|error| cannot(&error))?);
        }
        Ok(quit)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that is gone needs no restoring.
        let _ = ratatui::try_restore();
    }
}

fn cannot(error: &io::Error) -> Failure {
    Failure::refused(format!("cannot use the terminal: {error}"))
}

/// `q`, Escape, or Ctrl-C, which is a key like any other in raw mode.
fn is_quit(event: &Event) -> bool {
    let Event::Key(KeyEvent { code, modifiers, kind: KeyEventKind::Press, .. }) = event else { return false };
    match code {
        KeyCode::Char('q') | KeyCode::Esc => true,
        KeyCode::Char('c') => modifiers.contains(KeyModifiers::CONTROL),
        _ => false,
    }
}
