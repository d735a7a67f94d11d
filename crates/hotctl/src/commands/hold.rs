//! `hotctl hold -- COMMAND`: keeps the listening sockets, and starts the service again when it has crashed.
//!
//! Deliberately absent: a store that a service can put sockets into, as systemd has one. Which sockets are
//! held is said on the command line.
//!
//! When and how often COMMAND is started again: [`restart_backoff`]; how a crash is noticed:
//! [`super::owner`]; which version serves: [`follow`]; what hold does as process 1 of a container:
//! [`first_process`]; what it tells the service manager that started it: [`supervisor`].

mod command;
mod first_process;
mod follow;
mod restart_backoff;
mod supervisor;

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use hotupdate_proto::Process;
use hotupdate_proto::timing::fixed::hold::{LOOK_AGAIN, SETTLE};
use serde::Serialize;
use signal_hook::consts::{SIGCHLD, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use socket2::Socket;

use self::follow::Serving;
use self::restart_backoff::RestartBackoff;
use super::owner::{Last, Owner};
use super::processes::is_running;
use super::successor;
use crate::cli::Hold;
use crate::client::{check_kind, unreachable_socket};
use crate::context::{Context, TICK};
use crate::exit::{Exit, Failure};
use crate::listen_spec::ListenSpec;
use crate::report::Report;
use crate::text;

/// So often it is looked for a lock that is not there: a service makes it again within two seconds.
const LOOKS: u32 = 5;

/// What the keeper waits for. Each kind is sent by a thread of its own.
enum KeeperEvent {
    /// SIGTERM or SIGINT.
    Stop(i32),
    /// A signal that means something to a version of the service.
    Other(i32),
    /// Children exited, and wait to be reaped.
    Ended,
    /// This version serves.
    Serves(Serving),
    /// No process holds the lock of the control socket, and what it says of the last one.
    Free(Last),
}

/// Why the service does not run any more.
enum End {
    /// It was stopped on purpose.
    Stopped,
    /// It crashed; the text says how.
    Crash(String),
}

/// One line of JSON.
#[derive(Serialize)]
struct Record<'a> {
    kind: &'a str,
    text: &'a str,
}

struct Keeper<'a> {
    context: Context<'a>,
    hold: &'a Hold,
    owner: Owner,
    sockets: Vec<Socket>,
    events: Receiver<KeeperEvent>,
    sender: Sender<KeeperEvent>,
    backoff: RestartBackoff,
    /// The COMMAND that was started last, while it runs.
    child: Option<u32>,
    /// Which version exited last, of those that are children of hold, and how.
    ended: Option<(u32, ExitStatus)>,
    /// The process that serves, as far as it is known.
    serving: Option<Process>,
    /// The process ids of the versions that have served, and may still drain, if they mean the same processes
    /// to hold.
    here: Vec<u32>,
    stopping: bool,
}

pub(crate) fn run(
    socket: Option<PathBuf>,
    report: &Report,
    timeout: Option<Duration>,
    hold: &Hold,
) -> Result<Exit, Failure> {
    let socket = socket.ok_or_else(|| {
        Failure::new(
            Exit::Usage,
            "name the control socket of the service with --socket; its lock tells whether the service runs",
        )
    })?;
    // Otherwise the service, which cannot use it either, would be started again and again.
    check_kind(&socket).map_err(|error| unreachable_socket(&socket, &error))?;
    let owner = Owner::of(&socket);
    let context = Context::without_interrupt(socket, report, timeout);
    if is_there(&owner)? {
        let failure = Failure::refused(format!(
            "a service is running at {} already, with sockets that cannot be held from here",
            context.socket.display()
        ));
        return Err(match context.try_status() {
            Some(status) => failure.still(&status.serving.process),
            None => failure,
        });
    }
    let (sockets, addresses) = listen(&hold.listen)?;
    let (sender, events) = channel();
    listen_to_signals(&sender)
        .map_err(|error| Failure::refused(format!("cannot handle signals: {error}")))?;
    follow::start(context.socket.clone(), sender.clone())
        .map_err(|error| Failure::refused(format!("cannot follow the service: {error}")))?;
    let backoff = RestartBackoff::new(hold.restarts);
    let mut keeper = Keeper {
        context,
        hold,
        owner,
        sockets,
        events,
        sender,
        backoff,
        child: None,
        ended: None,
        serving: None,
        here: Vec::new(),
        stopping: false,
    };
    keeper.tell("holding", &format!("holding {}", addresses.join(", ")));
    keeper.start().map_err(|error| Failure::refused(keeper.not_started(&error)))?;
    let kept = keeper.keep();
    if first_process::is_hold() {
        keeper.end_the_rest();
    }
    kept.map(|()| keeper.last_exit())
}

fn listen(specs: &[ListenSpec]) -> Result<(Vec<Socket>, Vec<String>), Failure> {
    let (mut sockets, mut held) = (Vec::new(), Vec::new());
    for (index, spec) in specs.iter().enumerate() {
        if specs[..index].iter().any(|before| before.name == spec.name) {
            return Err(Failure::new(Exit::Usage, format!("two listeners have the name {}", spec.name)));
        }
        let (socket, address) = spec.listen().map_err(|error| {
            Failure::refused(format!("cannot listen on {spec}: {}", text::os_error(&error)))
        })?;
        sockets.push(socket);
        held.push(format!("{}={address}", spec.name));
    }
    Ok((sockets, held))
}

fn listen_to_signals(sender: &Sender<KeeperEvent>) -> io::Result<()> {
    let (mut signals, sender) = (Signals::new([SIGTERM, SIGINT, SIGCHLD])?, sender.clone());
    if first_process::is_hold() {
        first_process::PASSED_ON.iter().try_for_each(|signal| signals.add_signal(*signal))?;
    }
    thread::Builder::new().spawn(move || {
        for signal in signals.forever() {
            let _ = sender.send(match signal {
                SIGCHLD => KeeperEvent::Ended,
                SIGTERM | SIGINT => KeeperEvent::Stop(signal),
                _ => KeeperEvent::Other(signal),
            });
        }
    })?;
    Ok(())
}

fn is_there(owner: &Owner) -> Result<bool, Failure> {
    owner.is_there().map_err(|error| {
        Failure::refused(format!("cannot see whether the service runs: its lock: {}", text::os_error(&error)))
    })
}

impl Keeper<'_> {
    fn keep(&mut self) -> Result<(), Failure> {
        loop {
            let end = match self.starting()? {
                Some(end) => end,
                None => self.serving()?,
            };
            match end {
                End::Stopped => return Ok(()),
                End::Crash(how) if self.stopping => {
                    self.tell("crashed", &how);
                    return Ok(());
                }
                End::Crash(how) => {
                    if !self.start_again(how)? {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Until COMMAND serves, or has failed to.
    fn starting(&mut self) -> Result<Option<End>, Failure> {
        loop {
            if let Some(serving) = self.who_serves() {
                self.backoff.served();
                self.note_serving(serving);
                self.watch(Duration::ZERO)?;
                return Ok(None);
            }
            if self.child.is_none() && !is_there(&self.owner)? {
                return Ok(Some(match self.ended {
                    Some((_, ended)) if ended.success() || self.stopping => {
                        let how = successor::how(ended);
                        self.tell("stopped", &format!("{} {how}; the sockets are closed", self.program()));
                        End::Stopped
                    }
                    Some((_, ended)) => End::Crash(format!("{} {}", self.program(), successor::how(ended))),
                    None => End::Crash("the service is down".to_owned()),
                }));
            }
            match self.events.recv_timeout(TICK) {
                Ok(KeeperEvent::Stop(signal)) => self.pass_on(signal),
                Ok(KeeperEvent::Other(signal)) => self.pass_on_to_one(signal),
                Ok(KeeperEvent::Ended) => self.reap(),
                // Asked above; and from the watch of an earlier process.
                Ok(KeeperEvent::Serves(_) | KeeperEvent::Free(_)) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(Some(End::Stopped)),
            }
        }
    }

    /// Until the service does not run any more.
    fn serving(&mut self) -> Result<End, Failure> {
        let mut unknown = 0;
        loop {
            match self.events.recv() {
                Ok(KeeperEvent::Stop(signal)) => {
                    // Ctrl-C again: what was told to stop does so without hold, unless it ends with it.
                    let is_hurried = self.stopping && signal == SIGINT;
                    if is_hurried && self.child.is_none() && !first_process::is_hold() {
                        return Ok(End::Stopped);
                    }
                    self.pass_on(signal);
                    if self.child.is_none() && self.serving.as_ref().is_some_and(first_process::is_elsewhere)
                    {
                        return Ok(End::Stopped);
                    }
                }
                Ok(KeeperEvent::Other(signal)) => self.pass_on_to_one(signal),
                Ok(KeeperEvent::Ended) => self.reap(),
                Ok(KeeperEvent::Serves(serving)) => self.note_serving(serving),
                Ok(KeeperEvent::Free(last)) => match self.who_serves() {
                    // A new version has taken over in this moment, or the lock was made again.
                    Some(serving) => {
                        unknown = 0;
                        self.note_serving(serving);
                        self.watch(LOOK_AGAIN)?;
                    }
                    // What was removed from its path is made again in a moment.
                    None if last == Last::Unknown && (unknown < LOOKS || self.is_serving_here()) => {
                        unknown += 1;
                        self.watch(LOOK_AGAIN)?;
                    }
                    None => return Ok(self.gone(last)),
                },
                Err(_) => return Ok(End::Stopped),
            }
        }
    }

    /// The service does not run any more: stopped or crashed?
    fn gone(&mut self, last: Last) -> End {
        if self.stopping || last == Last::Stopped {
            self.tell("stopped", "the service has stopped; the sockets are closed");
            // From here on clients are refused, since no process will ever answer them.
            self.sockets.clear();
            self.wait_for_ends(None);
            return End::Stopped;
        }
        let Some(process) = self.serving.take() else { return End::Crash("the service is down".to_owned()) };
        self.wait_for_ends(Some(Instant::now() + SETTLE));
        End::Crash(match self.ended {
            Some((pid, ended)) if pid == process.pid => format!("{process} {}", successor::how(ended)),
            _ => format!("the service is down (served last: {process})"),
        })
    }

    /// Until COMMAND and later versions have exited. Ctrl-C again ends the wait for the latter.
    fn wait_for_ends(&mut self, until: Option<Instant>) {
        while (self.child.is_some() || self.is_any_here()) && until.is_none_or(|until| Instant::now() < until)
        {
            match self.events.recv_timeout(TICK) {
                Ok(KeeperEvent::Stop(signal)) => {
                    if self.stopping && signal == SIGINT {
                        self.here.clear();
                    }
                    self.pass_on(signal);
                }
                Ok(KeeperEvent::Other(signal)) => self.pass_on_to_one(signal),
                _ => self.reap(),
            }
        }
        self.reap();
    }

    /// False if a signal came first and hold is to exit.
    fn start_again(&mut self, mut how: String) -> Result<bool, Failure> {
        loop {
            let Some(pause) = self.backoff.next() else {
                let times = self.hold.restarts;
                let line = format!("{how}; the service is down after {times} restarts in a row: giving up");
                return Err(Failure::new(Exit::NotRunning, line));
            };
            let when =
                if pause.is_zero() { "now".to_owned() } else { format!("in {}", text::duration(pause)) };
            let which = self.backoff.number();
            self.tell("crashed", &format!("{how}; starting {} again {when} ({which})", self.program()));
            if !self.pause(pause) {
                return Ok(false);
            }
            // The service was started by other means meanwhile.
            if is_there(&self.owner)? {
                return Ok(true);
            }
            match self.start() {
                Ok(()) => return Ok(true),
                Err(error) => how = self.not_started(&error),
            }
        }
    }

    fn pause(&mut self, pause: Duration) -> bool {
        let until = Instant::now() + pause;
        loop {
            match self.events.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(KeeperEvent::Stop(_)) => {
                    self.tell("stopped", "stopped by a signal; the service is down");
                    return false;
                }
                Ok(KeeperEvent::Ended) => self.reap(),
                // No version runs that could take it.
                Ok(KeeperEvent::Other(_) | KeeperEvent::Serves(_) | KeeperEvent::Free(_)) => {}
                Err(_) => return true,
            }
        }
    }

    /// Sends [`KeeperEvent::Free`] when the service does not run any more, at the earliest after `pause`.
    fn watch(&self, pause: Duration) -> Result<(), Failure> {
        let (owner, sender) = (self.owner.clone(), self.sender.clone());
        let watch = move || {
            thread::sleep(pause);
            let last = loop {
                match owner.wait_until_gone() {
                    Ok(last) => break last,
                    Err(_) => thread::sleep(LOOK_AGAIN),
                }
            };
            let _ = sender.send(KeeperEvent::Free(last));
        };
        let thread = thread::Builder::new().spawn(watch);
        thread.map(drop).map_err(|error| Failure::refused(format!("cannot watch the service: {error}")))
    }

    fn note_serving(&mut self, Serving { process, how }: Serving) {
        if self.serving.as_ref() == Some(&process) {
            return;
        }
        self.tell("serving", &how);
        supervisor::ready();
        self.here.retain(|pid| is_running(*pid));
        if self.owner.is(process.pid) {
            self.here.push(process.pid);
        }
        self.serving = Some(process);
    }

    /// The version that serves is one that hold can see, and it runs.
    fn is_serving_here(&self) -> bool {
        let serving = self.serving.as_ref().map(|process| process.pid);
        serving.is_some_and(|pid| (self.child == Some(pid) || self.here.contains(&pid)) && is_running(pid))
    }

    fn is_any_here(&self) -> bool {
        self.here.iter().any(|pid| is_running(*pid))
    }

    fn who_serves(&self) -> Option<Serving> {
        Serving::of(self.context.try_status()?)
    }

    /// That a message cannot be written is no reason to close the sockets.
    fn tell(&self, kind: &str, text: &str) {
        self.context.report.say(format!("hotctl: hold: {text}"));
        supervisor::status(text);
        let _ = self.context.report.record("event", &Record { kind, text });
    }
}
