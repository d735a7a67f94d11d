//! Signals: SIGTERM and SIGINT stop gracefully, and one of the application's choice starts a successor.
//!
//! They are listened to from the first moment of `join` until the process has ended: process 1 of a container
//! ignores a signal that it has no handler for, and a handler cannot be taken back.

use std::fmt;
use std::future::pending;
use std::process;

use hotupdate_proto::inventory::MAX_TASKS;
use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

use crate::error::{Doing, Result};
use crate::settings::Settings;
use crate::tasks::Tasks;

/// What a signal means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    /// Stop. A supervisor may say it more than once and means the same.
    Terminate,
    /// Stop; `again`: and do not wait, since a person has said it before.
    Interrupt { again: bool },
    /// Start a new version.
    Successor,
}

impl Signal {
    /// Whether it tells this process to stop.
    pub(crate) fn stops(self) -> bool {
        matches!(self, Self::Terminate | Self::Interrupt { .. })
    }

    fn kind(self) -> SignalKind {
        match self {
            Self::Interrupt { .. } => SignalKind::interrupt(),
            _ => SignalKind::terminate(),
        }
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Terminate => "SIGTERM",
            Self::Interrupt { .. } => "SIGINT",
            Self::Successor => "the signal for a successor",
        })
    }
}

/// The signals that this process listens to.
#[derive(Debug)]
pub(crate) struct Signals {
    terminate: Option<Stream>,
    interrupt: Option<Stream>,
    successor: Option<Stream>,
    /// SIGINT has come.
    interrupted: bool,
}

impl Signals {
    pub(crate) fn install(settings: &Settings) -> Result<Self> {
        let listen =
            |kind: SignalKind| signal(kind).doing(|| format!("listening to signal {}", kind.as_raw_value()));
        let stop = |kind| settings.stop_signals.then(|| listen(kind)).transpose();
        Ok(Self {
            terminate: stop(SignalKind::terminate())?,
            interrupt: stop(SignalKind::interrupt())?,
            successor: settings.successor_signal.map(listen).transpose()?,
            interrupted: false,
        })
    }

    /// The next signal. Safe to cancel.
    pub(crate) async fn next(&mut self) -> Signal {
        let Self { terminate, interrupt, successor, interrupted } = self;
        tokio::select! {
            () = next(terminate) => Signal::Terminate,
            () = next(interrupt) => Signal::Interrupt { again: std::mem::replace(interrupted, true) },
            () = next(successor) => Signal::Successor,
        }
    }

    /// Resolves when this process is told to stop, while it looks for the one that it succeeds.
    pub(crate) async fn stop(&mut self) -> Signal {
        loop {
            match self.next().await {
                signal if signal.stops() => return signal,
                _ => tracing::warn!("the signal for a successor is ignored: this process does not serve yet"),
            }
        }
    }

    /// The application goes on, and nothing of the service is left in this process. If it has `served`, the
    /// application may still have work of its own, which a supervisor does not cut short.
    pub(crate) async fn until_the_end(mut self, served: bool, tasks: &Tasks) {
        // Without a signal that could come there is nothing to stay for.
        while self.terminate.is_some() || self.successor.is_some() {
            match self.next().await {
                Signal::Successor => {
                    tracing::warn!("the signal for a successor is ignored: this process does not serve");
                }
                signal if !served => die_of(signal),
                signal @ Signal::Interrupt { again: true } => die_of(signal),
                signal => {
                    let tasks = tasks.names(MAX_TASKS);
                    tracing::info!(
                        %signal, ?tasks,
                        "this process has drained already and ends when its application does: `main` has not \
                         returned yet; SIGINT twice ends it now"
                    );
                }
            }
        }
    }
}

/// Ends this process as the signal would end one that has no handler for it.
pub(crate) fn die_of(signal: Signal) -> ! {
    let number = signal.kind().as_raw_value();
    // Process 1 does not die of its own signals, see pid_namespaces(7).
    if process::id() != 1 {
        let _ = signal_hook::low_level::emulate_default_handler(number);
    }
    process::exit(128 + number)
}

/// How operators call a signal.
pub(crate) fn name(kind: SignalKind) -> String {
    match kind {
        kind if kind == SignalKind::hangup() => "SIGHUP".to_owned(),
        kind if kind == SignalKind::user_defined1() => "SIGUSR1".to_owned(),
        kind if kind == SignalKind::user_defined2() => "SIGUSR2".to_owned(),
        kind => format!("signal {}", kind.as_raw_value()),
    }
}

async fn next(stream: &mut Option<Stream>) {
    let came = match stream {
        Some(stream) => stream.recv().await,
        None => None,
    };
    if came.is_none() {
        pending::<()>().await;
    }
}
