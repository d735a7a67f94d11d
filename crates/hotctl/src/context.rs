//! What every command needs: the control socket, the timeouts, whether Ctrl-C was pressed, and the report.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hotupdate_proto::INTERFACE;
use hotupdate_proto::operator::Status;
use hotupdate_proto::timing::fixed::operator::{ANSWER, TRY_STATUS};
pub(crate) use hotupdate_proto::timing::fixed::operator::{CHANGE, TICK};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::client::{CallError, Client};
use crate::exit::{Exit, Failure};
use crate::report::Report;

/// How often `Status` is called when the connection ends instead of an answer: the process that was asked has
/// crashed or handed off in that moment, and the next one answers.
const ATTEMPTS: usize = 3;

/// Polls until `look` returns something or `until` has passed; at least once.
pub(crate) fn look_until<T>(until: Instant, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    loop {
        let seen = look();
        if seen.is_some() || Instant::now() >= until {
            return seen;
        }
        thread::sleep(TICK);
    }
}

/// Parameters of the methods that have none.
#[derive(Serialize)]
pub(crate) struct Nothing {}

/// See [`Nothing`].
pub(crate) const NOTHING: Nothing = Nothing {};

/// What ends the wait of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interrupt {
    CtrlC,
    Terminated,
    HungUp,
}

impl Interrupt {
    const ALL: [Self; 3] = [Self::CtrlC, Self::Terminated, Self::HungUp];

    fn signal(self) -> i32 {
        match self {
            Self::CtrlC => signal_hook::consts::SIGINT,
            Self::Terminated => signal_hook::consts::SIGTERM,
            Self::HungUp => signal_hook::consts::SIGHUP,
        }
    }

    /// In words that follow the command that was interrupted.
    pub(crate) fn what_happened(self) -> &'static str {
        match self {
            Self::CtrlC => "was interrupted (Ctrl-C)",
            Self::Terminated => "was told to end (SIGTERM)",
            Self::HungUp => "lost its terminal (SIGHUP)",
        }
    }
}

/// What every command needs.
pub(crate) struct Context<'a> {
    pub(crate) socket: PathBuf,
    pub(crate) report: &'a Report,
    timeout: Option<Duration>,
    interrupt: Arc<AtomicBool>,
    /// The number of the signal that came last.
    signal: Arc<AtomicUsize>,
}

#[derive(Deserialize)]
struct StatusReply {
    status: Status,
}

impl<'a> Context<'a> {
    /// The first Ctrl-C ends the current wait, the second one ends hotctl at once.
    pub(crate) fn new(
        socket: PathBuf,
        report: &'a Report,
        timeout: Option<Duration>,
    ) -> Result<Self, Failure> {
        let context = Self::without_interrupt(socket, report, timeout);
        let (signal, code) = (Interrupt::CtrlC.signal(), Exit::Interrupted.code());
        signal_hook::flag::register_conditional_shutdown(signal, code.into(), Arc::clone(&context.interrupt))
            .map_err(|error| Failure::refused(format!("cannot handle SIGINT: {error}")))?;
        context.catch(Interrupt::CtrlC)?;
        Ok(context)
    }

    /// SIGTERM and SIGHUP are as Ctrl-C from here on: something has begun that has to end in good order.
    pub(crate) fn catch_termination(&self) -> Result<(), Failure> {
        self.catch(Interrupt::Terminated)?;
        self.catch(Interrupt::HungUp)
    }

    fn catch(&self, interrupt: Interrupt) -> Result<(), Failure> {
        let signal = interrupt.signal();
        // A signal has a small number.
        let number = usize::try_from(signal).unwrap_or_default();
        signal_hook::flag::register_usize(signal, Arc::clone(&self.signal), number)
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&self.interrupt)))
            .map(drop)
            .map_err(|error| Failure::refused(format!("cannot handle signals: {error}")))
    }

    /// For a command that handles signals itself.
    pub(crate) fn without_interrupt(socket: PathBuf, report: &'a Report, timeout: Option<Duration>) -> Self {
        Self { socket, report, timeout, interrupt: Arc::default(), signal: Arc::default() }
    }

    /// Ctrl-C was pressed.
    pub(crate) fn interrupted(&self) -> bool {
        self.interrupt.load(Ordering::Relaxed)
    }

    /// Which signal has interrupted the command, if one has.
    pub(crate) fn interrupt(&self) -> Option<Interrupt> {
        let signal = self.signal.load(Ordering::Relaxed);
        Interrupt::ALL.into_iter().find(|interrupt| usize::try_from(interrupt.signal()) == Ok(signal))
    }

    /// The timeout of a change.
    pub(crate) fn change_timeout(&self) -> Duration {
        self.timeout.unwrap_or(CHANGE)
    }

    /// The timeout of a call that changes nothing.
    pub(crate) fn answer_timeout(&self) -> Duration {
        self.timeout.unwrap_or(ANSWER)
    }

    /// The status of the service.
    pub(crate) fn status(&self) -> Result<Status, CallError> {
        self.ask(self.answer_timeout())
    }

    /// The status if the service answers soon; for use beside something else, which must not fail or wait
    /// because of it.
    pub(crate) fn try_status(&self) -> Option<Status> {
        self.ask(TRY_STATUS.min(self.answer_timeout())).ok()
    }

    fn ask(&self, limit: Duration) -> Result<Status, CallError> {
        let mut asked = 0;
        loop {
            asked += 1;
            match self.call("Status", &NOTHING, limit) {
                Err(CallError::Closed { .. }) if asked < ATTEMPTS => {}
                answer => return answer.map(|StatusReply { status }| status),
            }
        }
    }

    /// One call, one reply.
    pub(crate) fn call<P: Serialize, T: DeserializeOwned>(
        &self,
        method: &str,
        parameters: &P,
        limit: Duration,
    ) -> Result<T, CallError> {
        let until = Instant::now() + limit;
        let mut client = self.open(method, parameters, false, limit)?;
        self.reply(&mut client, until, limit).map(|(value, _)| value)
    }

    /// Connects and sends a call; the caller receives the replies.
    pub(crate) fn open<P: Serialize>(
        &self,
        method: &str,
        parameters: &P,
        more: bool,
        limit: Duration,
    ) -> Result<Client, CallError> {
        let mut client = Client::connect(&self.socket, limit)?;
        client.send(&format!("{INTERFACE}.{method}"), parameters, more)?;
        Ok(client)
    }

    /// The next reply by `until`, or an error on Ctrl-C.
    pub(crate) fn reply<T: DeserializeOwned>(
        &self,
        client: &mut Client,
        until: Instant,
        limit: Duration,
    ) -> Result<(T, bool), CallError> {
        loop {
            if let Some(reply) = client.receive(until.min(Instant::now() + TICK))? {
                return Ok(reply);
            }
            if self.interrupted() {
                return Err(CallError::Interrupted);
            }
            if Instant::now() >= until {
                return Err(CallError::TimedOut { path: self.socket.clone(), after: limit });
            }
        }
    }

    /// The failure for an error of a call; with the process that serves, if the service still answers.
    pub(crate) fn failure(&self, error: CallError) -> Failure {
        let reachable = !matches!(error, CallError::Unreachable { .. });
        let failure = Failure::from(error);
        match reachable.then(|| self.try_status()).flatten() {
            Some(status) => failure.seen(&status),
            None => failure,
        }
    }
}
