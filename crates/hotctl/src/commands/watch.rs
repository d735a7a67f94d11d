//! `hotctl watch`: the service as it changes, on the whole terminal; with `--json`, as JSON lines.
//!
//! Deliberately absent: commands. Who watches presses no key by accident that changes a service.

mod draw;
mod scene;

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use self::scene::Scene;
use crate::client::CallError;
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::watch::{Seen, Watch};

/// Ages and rates change also when nothing happens.
const REDRAW: Duration = Duration::from_millis(250);

pub(crate) fn run(context: &Context<'_>) -> Result<(), Failure> {
    let has_terminal = io::stdout().is_terminal() && io::stdin().is_terminal();
    if !has_terminal && !context.report.json() {
        let line = "this is no terminal; with --json it prints what happens as JSON lines";
        return Err(Failure::new(Exit::Usage, line));
    }
    // Where nobody serves there is nothing to watch; later that is something to see.
    let status = context.status().map_err(|error| context.failure(error))?;
    if context.report.json() {
        return tell(context);
    }
    let scene = Scene::new(&context.socket, Instant::now(), status);
    let screen = Screen::open()?;
    watch(context, scene, screen)
}

/// What `Monitor` says, until Ctrl-C.
fn tell(context: &Context<'_>) -> Result<(), Failure> {
    let mut watch = Watch::new(context);
    while !context.interrupted() {
        if let Some(Seen::Told(monitored)) = watch.look() {
            context.report.record("monitor", &monitored)?;
        }
    }
    Err(CallError::Interrupted.into())
}

fn watch(context: &Context<'_>, mut scene: Scene, mut screen: Screen) -> Result<(), Failure> {
    let mut watch = Watch::new(context);
    let mut due = Instant::now();
    loop {
        let seen = watch.look();
        let changed = seen.is_some();
        let now = Instant::now();
        match seen {
            Some(Seen::Told(monitored)) => scene.told(now, *monitored),
            Some(Seen::Asked(status)) => scene.status(now, *status),
            None => {}
        }
        if screen.wants_out()? || context.interrupted() {
            return Ok(());
        }
        if changed || now >= due {
            due = now + REDRAW;
            screen.show(|frame| draw::draw(frame, &scene, now, context.report.color()))?;
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
        // A terminal that is left in raw mode is of no use to anybody.
        for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&terminated)).map_err(|error| cannot(&error))?;
        }
        let terminal = ratatui::try_init().map_err(|error| cannot(&error))?;
        Ok(Self { terminal, terminated })
    }

    fn show(&mut self, draw: impl FnOnce(&mut ratatui::Frame<'_>)) -> Result<(), Failure> {
        self.terminal.draw(draw).map(drop).map_err(|error| cannot(&error))
    }

    /// Takes what was typed.
    fn wants_out(&self) -> Result<bool, Failure> {
        let mut out = self.terminated.load(Ordering::Relaxed);
        while event::poll(Duration::ZERO).map_err(|error| cannot(&error))? {
            out |= means_out(&event::read().map_err(|error| cannot(&error))?);
        }
        Ok(out)
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
fn means_out(event: &Event) -> bool {
    let Event::Key(KeyEvent { code, modifiers, kind: KeyEventKind::Press, .. }) = event else { return false };
    match code {
        KeyCode::Char('q') | KeyCode::Esc => true,
        KeyCode::Char('c') => modifiers.contains(KeyModifiers::CONTROL),
        _ => false,
    }
}
