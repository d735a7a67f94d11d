//! Signals that stop this process: SIGTERM and SIGINT, or what Windows says instead.

use std::fmt;
use std::io;
use std::process;

use crate::error::{Doing, Result};
use crate::settings::Settings;

/// What a signal means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    /// Stop.
    Terminate,
    /// Stop; `again`: and do not wait, since a person has said it before.
    Interrupt { again: bool },
    /// Start a new version, which is not possible.
    Successor,
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
pub(super) struct Signals {
    system: system::Signals,
    interrupted: bool,
}

impl Signals {
    pub(super) fn install(settings: &Settings) -> Result<Self> {
        let system = system::Signals::install(settings).doing(|| "listening to signals".to_owned())?;
        Ok(Self { system, interrupted: false })
    }

    /// The next signal. Safe to cancel.
    pub(super) async fn next(&mut self) -> Signal {
        match self.system.next().await {
            Signal::Interrupt { .. } => {
                Signal::Interrupt { again: std::mem::replace(&mut self.interrupted, true) }
            }
            signal => signal,
        }
    }
}

/// Ends this process with the code that a shell shows for the signal.
pub(super) fn die_of(signal: Signal) -> ! {
    process::exit(if let Signal::Interrupt { .. } = signal { 130 } else { 143 })
}

#[cfg(unix)]
mod system {
    use std::future::pending;

    use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

    use super::{Settings, Signal, io};

    pub(super) struct Signals {
        terminate: Option<Stream>,
        interrupt: Option<Stream>,
        successor: Option<Stream>,
    }

    impl Signals {
        pub(super) fn install(settings: &Settings) -> io::Result<Self> {
            let stop = |kind| settings.stop_signals.then(|| signal(kind)).transpose();
            Ok(Self {
                terminate: stop(SignalKind::terminate())?,
                interrupt: stop(SignalKind::interrupt())?,
                successor: settings.successor_signal.map(signal).transpose()?,
            })
        }

        pub(super) async fn next(&mut self) -> Signal {
            let Self { terminate, interrupt, successor } = self;
            tokio::select! {
                () = next(terminate) => Signal::Terminate,
                () = next(interrupt) => Signal::Interrupt { again: false },
                () = next(successor) => Signal::Successor,
            }
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
}

#[cfg(windows)]
mod system {
    use std::future::pending;

    use tokio::signal::windows::{
        CtrlBreak, CtrlC, CtrlClose, CtrlShutdown, ctrl_break, ctrl_c, ctrl_close, ctrl_shutdown,
    };

    use super::{Settings, Signal, io};

    struct Stops(CtrlC, CtrlBreak, CtrlClose, CtrlShutdown);

    pub(super) struct Signals(Option<Stops>);

    impl Signals {
        pub(super) fn install(settings: &Settings) -> io::Result<Self> {
            let stops =
                || Ok::<_, io::Error>(Stops(ctrl_c()?, ctrl_break()?, ctrl_close()?, ctrl_shutdown()?));
            Ok(Self(settings.stop_signals.then(stops).transpose()?))
        }

        /// Of a console that closes, and of a system that shuts down, Windows waits some seconds for the end.
        pub(super) async fn next(&mut self) -> Signal {
            let Some(Stops(interrupt, brk, close, shutdown)) = &mut self.0 else { return pending().await };
            tokio::select! {
                _ = interrupt.recv() => Signal::Interrupt { again: false },
                _ = brk.recv() => Signal::Terminate,
                _ = close.recv() => Signal::Terminate,
                _ = shutdown.recv() => Signal::Terminate,
            }
        }
    }
}
