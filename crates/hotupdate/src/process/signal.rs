//! Signals: SIGTERM and SIGINT stop gracefully, and one of the application's choice starts a successor.
//!
//! Deliberately absent: anything before the process is ready; until then signals do what they always did.

use std::future::pending;

use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

use crate::error::{Doing, Result};
use crate::settings::Settings;

/// What a signal means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    Stop,
    Successor,
}

/// The signals that this process listens to.
#[derive(Debug)]
pub(crate) struct Signals {
    terminate: Option<Stream>,
    interrupt: Option<Stream>,
    successor: Option<Stream>,
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
        })
    }

    pub(crate) async fn next(signals: Option<&mut Self>) -> Signal {
        let Some(Self { terminate, interrupt, successor }) = signals else { return pending().await };
        tokio::select! {
            () = next(terminate) => Signal::Stop,
            () = next(interrupt) => Signal::Stop,
            () = next(successor) => Signal::Successor,
        }
    }
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
