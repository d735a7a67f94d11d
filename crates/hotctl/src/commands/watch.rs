//! `hotctl watch`: the service as it changes, on the whole terminal; with `--json`, as JSON lines.
//!
//! Deliberately absent: commands. No key that is pressed by accident changes a service.

mod model;
mod screen;
mod view;

use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use self::model::Model;
use self::screen::Screen;
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

/// What `Monitor` says, until Ctrl-C, or until the reader of stdout has closed it.
fn tell(context: &Context<'_>) -> Result<(), Failure> {
    let mut stream = StatusStream::new(context);
    while !context.interrupted() {
        if is_unread(&io::stdout()) {
            return Ok(());
        }
        if let Some(Update::Event(monitored)) = stream.next_update() {
            context.report.record("monitor", &monitored)?;
        }
    }
    Err(CallError::Interrupted.into())
}

/// The other end of a pipe or a terminal is gone: what is written there is read by no process.
fn is_unread(output: &impl AsFd) -> bool {
    let mut output = [PollFd::new(output, PollFlags::empty())];
    let polled = poll(&mut output, Some(&Timespec::default()));
    polled.is_ok() && output[0].revents().intersects(PollFlags::ERR | PollFlags::HUP)
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
        if screen.wants_to_quit() || context.interrupted() {
            return Ok(());
        }
        if changed || now >= due {
            due = now + REDRAW;
            screen.show(|frame| view::draw(frame, &model, now, context.report.color()))?;
        }
    }
}

fn cannot(error: &io::Error) -> Failure {
    Failure::refused(format!("cannot use the terminal: {error}"))
}
