//! `hotctl hold -- COMMAND`: keeps the listening sockets, and starts the service again when nobody serves.
//!
//! Deliberately absent: a store that a service can put sockets into; that is systemd's. What is held is said on the
//! command line. How often and when it is tried again is in [`patience`], what tells that nobody serves in [`owner`].

mod command;
mod owner;
mod patience;
mod place;
pub(crate) use place::Place;

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use hotupdate_proto::Process;
use hotupdate_proto::operator::ProcessState;
use serde::Serialize;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use socket2::Socket;

use self::owner::Owner;
use self::patience::Patience;
use super::successor;
use crate::cli::Hold;
use crate::context::{Context, TICK};
use crate::exit::{Exit, Failure};
use crate::report::Report;
use crate::text;

/// How long the end of COMMAND is waited for, to say how it ended: the kernel closes its files a little earlier. If it was
/// another process that died, COMMAND may well live, and drain.
const SETTLE: Duration = Duration::from_millis(200);

/// How long until the next look at a lock that says something else than the service.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What the keeper waits for. Each kind has a thread that sends it.
enum Event {
    /// SIGTERM or SIGINT.
    Stop(i32),
    /// A child ended.
    Ended(u32, io::Result<ExitStatus>),
    /// Nobody holds the lock of the control socket.
    Free,
}

/// How a service came to its end.
enum End {
    /// On purpose.
    Over,
    /// Nobody wanted that.
    Crash(String),
}

/// One line of JSON.
#[derive(Serialize)]
struct Happened<'a> {
    kind: &'a str,
    text: &'a str,
}

struct Keeper<'a> {
    context: Context<'a>,
    hold: &'a Hold,
    owner: Owner,
    sockets: Vec<Socket>,
    events: Receiver<Event>,
    sender: Sender<Event>,
    patience: Patience,
    /// The COMMAND that was started last, while it runs.
    child: Option<u32>,
    /// Its process id, also afterwards.
    last: Option<u32>,
    /// How it ended.
    ended: Option<ExitStatus>,
    /// Whoever serves, as far as we know.
    serving: Option<Process>,
    stopping: bool,
}

pub(crate) fn run(
    socket: Option<PathBuf>,
    report: &Report,
    timeout: Option<Duration>,
    hold: &Hold,
) -> Result<Exit, Failure> {
    let socket = socket.ok_or_else(|| {
        Failure::new(Exit::Usage, "name the control socket of the service with --socket: it tells who serves")
    })?;
    let owner = Owner::of(&socket);
    let context = Context::without_interrupt(socket, report, timeout);
    if is_there(&owner)? {
        let failure = Failure::refused(format!(
            "somebody serves at {} already, with sockets that cannot be held from here",
            context.socket.display()
        ));
        return Err(match context.glance() {
            Some(status) => failure.still(&status.serving.process),
            None => failure,
        });
    }
    let (sockets, places) = listen(&hold.listen)?;
    let (sender, events) = channel();
    listen_to_signals(&sender)
        .map_err(|error| Failure::refused(format!("cannot listen to signals: {error}")))?;
    let patience = Patience::new(hold.restarts);
    let (child, last, ended, serving, stopping) = (None, None, None, None, false);
    let mut keeper = Keeper {
        context,
        hold,
        owner,
        sockets,
        events,
        sender,
        patience,
        child,
        last,
        ended,
        serving,
        stopping,
    };
    keeper.tell("holding", &format!("holding {}", places.join(", ")));
    keeper.start().map_err(|error| Failure::refused(keeper.not_started(&error)))?;
    keeper.keep()
}

fn listen(places: &[Place]) -> Result<(Vec<Socket>, Vec<String>), Failure> {
    let (mut sockets, mut held) = (Vec::new(), Vec::new());
    for (index, place) in places.iter().enumerate() {
        if places[..index].iter().any(|before| before.name == place.name) {
            return Err(Failure::new(Exit::Usage, format!("two listeners have the name {}", place.name)));
        }
        let (socket, address) = place.listen().map_err(|error| {
            Failure::refused(format!("cannot listen on {place}: {}", text::os_error(&error)))
        })?;
        sockets.push(socket);
        held.push(format!("{}={address}", place.name));
    }
    Ok((sockets, held))
}

fn listen_to_signals(sender: &Sender<Event>) -> io::Result<()> {
    let (mut signals, sender) = (Signals::new([SIGTERM, SIGINT])?, sender.clone());
    thread::Builder::new().spawn(move || {
        for signal in signals.forever() {
            let _ = sender.send(Event::Stop(signal));
        }
    })?;
    Ok(())
}

fn is_there(owner: &Owner) -> Result<bool, Failure> {
    owner.is_there().map_err(|error| {
        Failure::refused(format!("cannot see whether somebody serves: its lock: {}", text::os_error(&error)))
    })
}

impl Keeper<'_> {
    fn keep(&mut self) -> Result<Exit, Failure> {
        loop {
            let end = match self.starting()? {
                Some(end) => end,
                None => self.serving()?,
            };
            match end {
                End::Over => return Ok(self.last_exit()),
                End::Crash(how) if self.stopping => {
                    self.tell("crashed", &how);
                    return Ok(self.last_exit());
                }
                End::Crash(how) => {
                    if !self.start_again(how)? {
                        return Ok(self.last_exit());
                    }
                }
            }
        }
    }

    /// Until somebody serves, or it is clear that nobody will.
    fn starting(&mut self) -> Result<Option<End>, Failure> {
        loop {
            if let Some(process) = self.who_serves() {
                self.patience.served();
                self.tell("serving", &format!("{process} serves"));
                self.serving = Some(process);
                self.watch(Duration::ZERO)?;
                return Ok(None);
            }
            if self.child.is_none() && !is_there(&self.owner)? {
                return Ok(Some(match self.ended {
                    Some(ended) if ended.success() || self.stopping => {
                        let how = successor::how(ended);
                        self.tell("stopped", &format!("{} {how}; nothing is held any more", self.program()));
                        End::Over
                    }
                    Some(ended) => End::Crash(format!("{} {}", self.program(), successor::how(ended))),
                    None => End::Crash("nobody serves".to_owned()),
                }));
            }
            match self.events.recv_timeout(TICK) {
                Ok(Event::Stop(signal)) => self.pass_on(signal),
                Ok(Event::Ended(pid, status)) => self.note_end(pid, status),
                // Of a watch that was begun for an earlier one.
                Ok(Event::Free) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(Some(End::Over)),
            }
        }
    }

    /// Until nobody serves.
    fn serving(&mut self) -> Result<End, Failure> {
        loop {
            match self.events.recv() {
                Ok(Event::Stop(signal)) => {
                    // The second one: what was told to stop goes on stopping without us.
                    if self.stopping && self.child.is_none() {
                        return Ok(End::Over);
                    }
                    self.pass_on(signal);
                }
                Ok(Event::Ended(pid, status)) => {
                    self.note_end(pid, status);
                    self.look_who_serves();
                }
                Ok(Event::Free) => match self.who_serves() {
                    // Somebody was quick, or removed the lock's file.
                    Some(process) => {
                        self.serving = Some(process);
                        self.watch(LOOK_AGAIN)?;
                    }
                    None => return Ok(self.gone()),
                },
                Err(_) => return Ok(End::Over),
            }
        }
    }

    /// Nobody serves: was that meant?
    fn gone(&mut self) -> End {
        if self.stopping || !self.owner.left_its_socket() {
            self.tell("stopped", "the service has stopped; nothing is held any more");
            // From here on clients are refused: nobody will ever answer them.
            self.sockets.clear();
            self.wait_for_child(None);
            return End::Over;
        }
        let Some(process) = self.serving.take() else { return End::Crash("nobody serves".to_owned()) };
        self.wait_for_child(Some(Instant::now() + SETTLE));
        End::Crash(match self.ended {
            Some(ended) if self.last == Some(process.pid) => format!("{process} {}", successor::how(ended)),
            _ => format!("nobody serves any more (seen last: {process})"),
        })
    }

    fn wait_for_child(&mut self, until: Option<Instant>) {
        while self.child.is_some() {
            let event = match until {
                Some(until) => self.events.recv_timeout(until.saturating_duration_since(Instant::now())).ok(),
                None => self.events.recv().ok(),
            };
            match event {
                Some(Event::Stop(signal)) => self.pass_on(signal),
                Some(Event::Ended(pid, status)) => self.note_end(pid, status),
                Some(Event::Free) => {}
                None => break,
            }
        }
    }

    /// False if a signal came first, and hold is over.
    fn start_again(&mut self, mut how: String) -> Result<bool, Failure> {
        loop {
            let Some(pause) = self.patience.next() else {
                let times = self.hold.restarts;
                let line = format!("{how}; nobody serves, and it was started again {times} times: giving up");
                return Err(Failure::new(Exit::Nobody, line));
            };
            let when =
                if pause.is_zero() { "now".to_owned() } else { format!("in {}", text::duration(pause)) };
            let which = self.patience.number();
            self.tell("crashed", &format!("{how}; starting {} again {when} ({which})", self.program()));
            if !self.pause(pause) {
                return Ok(false);
            }
            // Somebody else was quicker, and has the right to.
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
                Ok(Event::Stop(_)) => {
                    self.tell("stopped", "stopped by a signal; nobody serves");
                    return false;
                }
                Ok(Event::Ended(pid, status)) => self.note_end(pid, status),
                Ok(Event::Free) => {}
                Err(_) => return true,
            }
        }
    }

    /// [`Event::Free`] comes when nobody serves, at the earliest after `pause`.
    fn watch(&self, pause: Duration) -> Result<(), Failure> {
        let (owner, sender) = (self.owner.clone(), self.sender.clone());
        let watch = move || {
            thread::sleep(pause);
            while owner.wait_until_gone().is_err() {
                thread::sleep(LOOK_AGAIN);
            }
            let _ = sender.send(Event::Free);
        };
        let thread = thread::Builder::new().spawn(watch);
        thread.map(drop).map_err(|error| Failure::refused(format!("cannot watch the service: {error}")))
    }

    /// COMMAND has ended: after a hot update, another process serves.
    fn look_who_serves(&mut self) {
        if let Some(process) = self.who_serves().filter(|process| self.serving.as_ref() != Some(process)) {
            let ended = self.ended.map(successor::how).unwrap_or_default();
            self.tell("serving", &format!("{process} serves; {} {ended}", self.program()));
            self.serving = Some(process);
        }
    }

    fn who_serves(&self) -> Option<Process> {
        let serving = self.context.glance()?.serving;
        (serving.state == ProcessState::Serving).then_some(serving.process)
    }

    /// That nobody listens any more is no reason to let the sockets go.
    fn tell(&self, kind: &str, text: &str) {
        self.context.report.say(format!("hotctl: hold: {text}"));
        let _ = self.context.report.record("event", &Happened { kind, text });
    }
}
