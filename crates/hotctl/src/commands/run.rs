//! `hotctl run -- COMMAND`: a program that does not know the protocol, and takes its listeners as
//! descriptors, is updated as any other service.
//!
//! This process speaks for the program, with the library: it is the one that joins, serves, drains and is in
//! probation, and the next version is another such process, or a service that speaks for itself. So
//! everything that holds for a service holds here, and hotctl's other commands need to know nothing of it.
//!
//! When COMMAND is started, ready, told to stop, and started again is decided in
//! [`hotupdate_proto::program`].
//!
//! Deliberately absent: starting COMMAND again after a crash. As with exec(3), the exit of COMMAND is that of
//! this process, and `hotctl hold` or a service manager starts it again.

mod child;
mod keeper;
mod listeners;
mod notify;
mod probe;
pub(crate) use probe::Target as ReadyTarget;
mod settings;

use std::ffi::OsString;
use std::path::PathBuf;
use std::pin::pin;

use hotupdate::connections::Phase;
use hotupdate::{Serving, Starting};
use hotupdate_proto::ProgramTiming;
use hotupdate_proto::program::Event;
use tokio::runtime;

use self::keeper::{Keeper, Outcome};
use self::settings::Settings;
use crate::cli;
use crate::exit::{Exit, Failure};
use crate::report::Report;

/// The longest text about COMMAND, in characters: it stands in lines.
const MAX_TEXT: usize = 120;

pub(crate) fn run(socket: Option<PathBuf>, report: &Report, options: cli::Run) -> Result<Exit, Failure> {
    let socket = socket.ok_or_else(|| {
        Failure::new(
            Exit::Usage,
            "name the control socket with --socket; `hotctl handoff` finds this service there",
        )
    })?;
    log();
    // One thread: the end of the one that starts COMMAND is what the kernel takes for the end of this
    // process.
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::refused(format!("cannot begin: {error}")))?;
    runtime.block_on(supervise(socket, report, options))
}

/// What the library has to say of importance; of the rest, `run` says what matters itself.
fn log() {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_target(false).with_ansi(false);
    let _ = lines.with_writer(std::io::stderr).try_init();
}

async fn supervise(socket: PathBuf, report: &Report, options: cli::Run) -> Result<Exit, Failure> {
    let waits = ProgramTiming::default();
    let text = options.label.clone().unwrap_or_else(|| shown(&options.command));
    let builder = hotupdate::builder(&socket).program(text.clone());
    let builder = builder.lease(waits.lease).drain_deadline(waits.drain);
    let mut hot = builder.join().await.map_err(failed)?;
    let settings = match Settings::of(&options, hot.import(settings::STATE), &waits) {
        Ok(settings) => settings,
        Err(why) => return Err(failed(hot.give_up("the options", why).await)),
    };
    let sockets = listeners::claim(&mut hot, &settings).await.map_err(failed)?;
    let exported = settings.clone();
    hot.export(settings::STATE, settings::SCHEMA, move || exported.to_bytes()).map_err(failed)?;
    let keeper = Keeper::new(report, options.command, text, settings, sockets).await;
    let mut keeper = match keeper {
        Ok(keeper) => keeper,
        Err(error) => return Err(failed(hot.give_up("preparing the start", error).await)),
    };
    match become_ready(hot, &mut keeper).await? {
        Some(hot) => serve(hot, keeper).await,
        None => Err(keeper.failure()),
    }
}

/// `None`: the program is never going to serve, and is not there any more.
async fn become_ready(hot: Starting, keeper: &mut Keeper<'_>) -> Result<Option<Serving>, Failure> {
    while !keeper.is_ready() {
        keeper.next().await;
        if let Some(Outcome::GivesUp(why)) = keeper.outcome() {
            let error = hot.give_up(keeper.text(), why).await;
            keeper.fails(failed(error));
            keeper.until_left().await;
            return Ok(None);
        }
    }
    let mut ready = pin!(hot.ready());
    loop {
        tokio::select! {
            biased;
            hot = &mut ready => match hot {
                Ok(hot) => {
                    keeper.serves();
                    return Ok(Some(hot));
                }
                Err(error) => {
                    keeper.fails(failed(error));
                    keeper.handle(Event::Refused);
                    keeper.until_left().await;
                    return Ok(None);
                }
            },
            () = keeper.next() => {
                if let Some(Outcome::GivesUp(why)) = keeper.outcome() {
                    keeper.fails(Failure::refused(format!("{}: {why}", keeper.text())));
                    keeper.until_left().await;
                    return Ok(None);
                }
            }
        }
    }
}

/// Until the program has ended, in one way or the other.
async fn serve(hot: Serving, mut keeper: Keeper<'_>) -> Result<Exit, Failure> {
    let mut drain = hot.drain();
    let mut drained = pin!(hot.drained());
    // As long as a program runs, this process is not done.
    let mut guard = Some(hot.task_guard(&keeper.task()));
    let mut phase = drain.phase();
    loop {
        match phase {
            Phase::Serving => keeper.resumes(),
            // Only where no process goes on with the service, clients are not spread (`Timing::drain_stop`).
            Phase::Draining(plan) => keeper.drains(plan.until.into_std(), !plan.spread.is_zero()),
            _ => keeper.handle(Event::Forced),
        }
        loop {
            while let Some(outcome) = keeper.outcome() {
                match outcome {
                    Outcome::Exits(end) => return Ok(Exit::Command(end.code())),
                    Outcome::Left => guard = None,
                    Outcome::Starts => guard = Some(hot.task_guard(&keeper.task())),
                    Outcome::GivesUp(_) => {}
                }
            }
            tokio::select! {
                biased;
                () = keeper.next() => {}
                changed = drain.changed() => {
                    phase = changed;
                    break;
                }
                () = &mut drained, if guard.is_none() => return Ok(keeper.exit()),
            }
        }
    }
}

fn failed(error: hotupdate::Error) -> Failure {
    Failure::refused(error.to_string())
}

/// COMMAND as one would type it, more or less.
fn shown(command: &[OsString]) -> String {
    let words: Vec<_> = command.iter().map(|word| word.to_string_lossy()).collect();
    let line = words.join(" ");
    match line.char_indices().nth(MAX_TEXT) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}
