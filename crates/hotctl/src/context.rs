//! What every command has at hand: the socket, how long it may wait, whether Ctrl-C was pressed, how to report.
//!
//! Deliberately absent: anything that changes; a command keeps its own state.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hotupdate_proto::INTERFACE;
use hotupdate_proto::operator::Status;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::client::{CallError, Client};
use crate::exit::{Exit, Failure};
use crate::report::Report;

/// How long an answer may take that only needs a look. A service that needs longer is in trouble, and so is its caller.
const ANSWER: Duration = Duration::from_secs(5);

/// How long a change may take: longer than the default lease of a successor (60 s), so that the service gives up first
/// and says why.
const CHANGE: Duration = Duration::from_secs(90);

/// How long a look beside the main thing may take, such as who serves after an error.
const GLANCE: Duration = Duration::from_secs(2);

/// How often it is asked who serves, if the connection ends instead of an answer: whoever was asked has died or handed over in
/// that moment, and the next one answers.
const QUESTIONS: usize = 3;

/// The rhythm in which hotctl looks up from waiting: for Ctrl-C, for a child that ended.
pub(crate) const TICK: Duration = Duration::from_millis(50);

/// Looks in this rhythm until there is something to say, or the time is over; once at least.
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

/// See the head of this file.
pub(crate) struct Context<'a> {
    pub(crate) socket: PathBuf,
    pub(crate) report: &'a Report,
    timeout: Option<Duration>,
    interrupt: Arc<AtomicBool>,
}

#[derive(Deserialize)]
struct StatusReply {
    status: Status,
}

impl<'a> Context<'a> {
    /// The first Ctrl-C asks the waits to end, the second one ends hotctl where it stands.
    pub(crate) fn new(
        socket: PathBuf,
        report: &'a Report,
        timeout: Option<Duration>,
    ) -> Result<Self, Failure> {
        let context = Self::without_interrupt(socket, report, timeout);
        let interrupt = &context.interrupt;
        let (signal, code) = (signal_hook::consts::SIGINT, Exit::Interrupted.code());
        signal_hook::flag::register_conditional_shutdown(signal, code.into(), Arc::clone(interrupt))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(interrupt)))
            .map_err(|error| Failure::refused(format!("cannot listen to SIGINT: {error}")))?;
        Ok(context)
    }

    /// For a command that deals with signals itself.
    pub(crate) fn without_interrupt(socket: PathBuf, report: &'a Report, timeout: Option<Duration>) -> Self {
        Self { socket, report, timeout, interrupt: Arc::new(AtomicBool::new(false)) }
    }

    /// Ctrl-C was pressed.
    pub(crate) fn interrupted(&self) -> bool {
        self.interrupt.load(Ordering::Relaxed)
    }

    /// How long a change may take.
    pub(crate) fn patience(&self) -> Duration {
        self.timeout.unwrap_or(CHANGE)
    }

    /// How long an answer may take.
    pub(crate) fn answer(&self) -> Duration {
        self.timeout.unwrap_or(ANSWER)
    }

    /// Who serves, and everything else that the service knows of itself.
    pub(crate) fn status(&self) -> Result<Status, CallError> {
        self.ask(self.answer())
    }

    /// The same beside something else, so it may fail and must not take long.
    pub(crate) fn glance(&self) -> Option<Status> {
        self.ask(GLANCE.min(self.answer())).ok()
    }

    fn ask(&self, limit: Duration) -> Result<Status, CallError> {
        let mut asked = 0;
        loop {
            asked += 1;
            match self.call("Status", &NOTHING, limit) {
                Err(CallError::Closed { .. }) if asked < QUESTIONS => {}
                answer => return answer.map(|StatusReply { status }| status),
            }
        }
    }

    /// One question, one answer.
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

    /// Connects and asks; the replies are for the caller to take.
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

    /// The next reply by `until`, looking up for Ctrl-C.
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

    /// The failure that an error of a call comes to; where the service still answers, with who serves.
    pub(crate) fn failure(&self, error: CallError) -> Failure {
        let worth_a_look = !matches!(error, CallError::Unreachable { .. });
        let failure = Failure::from(error);
        match worth_a_look.then(|| self.glance()).flatten() {
            Some(status) => failure.still(&status.serving.process),
            None => failure,
        }
    }
}
