//! The one owner of COMMAND and of what is known of it: brings what happens to the machine, and does what it
//! says.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::future::{pending, poll_fn};
use std::io;
use std::task::Poll;
use std::time::Instant;

use hotupdate_proto::program::{Effect, End, Event, Failure as GivenUp};
use hotupdate_proto::{Program, ProgramTiming};
use rustix::process::{Signal, getpid, set_child_subreaper};
use serde::Serialize;
use signal_hook::consts::{SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGWINCH};
use tokio::signal::unix::{Signal as Stream, SignalKind, signal};
use tokio::task::JoinHandle;
use tokio::time::sleep_until;

use super::child::Child;
use super::listeners::Sockets;
use super::notify::Notify;
use super::probe::{Answer, Probe, Target};
use super::settings::{Ready, Settings};
use crate::commands::processes::{self, children};
use crate::commands::successor;
use crate::exit::{Exit, Failure};
use crate::report::Report;
use crate::text;

/// What COMMAND gets as this process gets it. SIGTERM and SIGINT are for the service, and the library hears
/// them.
const PASSED_ON: [i32; 5] = [SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGWINCH];

/// What matters to the service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// COMMAND is never going to serve, and why.
    GivesUp(String),
    /// It is started again.
    Starts,
    /// It has ended while it served.
    Exits(End),
    /// It has ended, as it was told.
    Left,
}

/// One line of JSON.
#[derive(Serialize)]
struct Record<'a> {
    kind: &'a str,
    text: &'a str,
}

pub(super) struct Keeper<'a> {
    report: &'a Report,
    command: Vec<OsString>,
    text: String,
    settings: Settings,
    waits: ProgramTiming,
    sockets: Sockets,
    notify: Option<Notify>,
    probe: Option<Probe>,
    machine: Program,
    programs: BTreeMap<u32, Child>,
    asked: Option<JoinHandle<Answer>>,
    /// Why it was not ready when it was asked last.
    answer: Option<String>,
    is_ready: bool,
    /// Since when another process serves, or none.
    draining: Option<Instant>,
    is_succeeded: bool,
    last_end: Option<End>,
    outcomes: VecDeque<Outcome>,
    failure: Option<Failure>,
    ends: Stream,
    signals: Vec<(Signal, Stream)>,
}

impl<'a> Keeper<'a> {
    /// Starts COMMAND.
    pub(super) async fn new(
        report: &'a Report,
        command: Vec<OsString>,
        text: String,
        settings: Settings,
        mut sockets: Sockets,
    ) -> io::Result<Self> {
        let waits = settings.timing(&ProgramTiming::default());
        let probe = probe(&settings, &mut sockets, &waits).await?;
        let notify = (settings.ready == Ready::Says).then(Notify::new).transpose()?;
        // First, so that no end is missed. What COMMAND leaves behind becomes a child of this process.
        let ends = signal(SignalKind::child())?;
        set_child_subreaper(Some(getpid()))?;
        let passed_on = PASSED_ON.into_iter().filter_map(Signal::from_named_raw);
        let signals = passed_on.map(|passed| Ok((passed, signal(SignalKind::from_raw(passed.as_raw()))?)));
        let signals = signals.collect::<io::Result<_>>()?;
        let (machine, start) = Program::new(Instant::now(), settings.readiness(), waits.clone());
        let mut keeper = Self {
            report,
            command,
            text,
            settings,
            waits,
            sockets,
            notify,
            probe,
            machine,
            programs: BTreeMap::new(),
            asked: None,
            answer: None,
            is_ready: false,
            draining: None,
            is_succeeded: false,
            last_end: None,
            outcomes: VecDeque::new(),
            failure: None,
            ends,
            signals,
        };
        keeper.perform(vec![start]);
        Ok(keeper)
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// How operators see what this process still does.
    pub(super) fn task(&self) -> String {
        let pid = self.machine.current().and_then(|number| Some(self.programs.get(&number)?.pid()));
        pid.map_or_else(|| self.text.clone(), |pid| format!("{}, process {pid}", self.text))
    }

    /// Whether the version before may be told to stop.
    pub(super) fn is_ready(&self) -> bool {
        self.is_ready
    }

    /// What has come of it, once.
    pub(super) fn outcome(&mut self) -> Option<Outcome> {
        self.outcomes.pop_front()
    }

    // ---- what the library says ----------------------------------------------------------------------------

    pub(super) fn serves(&mut self) {
        self.tell("serving", format!("{} serves", self.task()));
        self.handle(Event::Serves);
    }

    /// This process has until then; another one has taken over, or the service stops.
    pub(super) fn drains(&mut self, until: Instant, is_succeeded: bool) {
        self.is_succeeded |= is_succeeded;
        let since = *self.draining.get_or_insert_with(Instant::now);
        let own = since.checked_add(self.settings.stop_within);
        self.handle(Event::Drains(own.map_or(until, |own| own.min(until))));
    }

    pub(super) fn resumes(&mut self) {
        (self.draining, self.is_succeeded) = (None, false);
        self.handle(Event::Resumes);
    }

    pub(super) fn handle(&mut self, event: Event) {
        let effects = self.machine.handle(Instant::now(), event);
        self.perform(effects);
    }

    // ---- what COMMAND and the kernel say ------------------------------------------------------------------

    /// Waits for the next thing that happens, and does what it asks for. Safe to cancel.
    pub(super) async fn next(&mut self) {
        let Self { ends, notify, asked, signals, machine, programs, .. } = self;
        let program = machine.current().and_then(|number| Some(programs.get(&number)?.pid()));
        tokio::select! {
            _ = ends.recv() => self.reap(),
            () = said_ready(notify, program) => self.handle(Event::SaidReady),
            answer = answered(asked) => {
                self.asked = None;
                self.answer = answer.err();
                self.handle(Event::Answered { well: self.answer.is_none() });
            }
            passed = next_signal(signals) => self.pass_on(passed),
            () = due(machine.deadline()) => {
                let effects = self.machine.tick(Instant::now());
                self.perform(effects);
            }
        }
    }

    /// Until no program is left of those that were told to stop.
    pub(super) async fn until_left(&mut self) {
        while self.outcome() != Some(Outcome::Left) {
            if self.outcomes.is_empty() {
                self.next().await;
            }
        }
    }

    fn reap(&mut self) {
        loop {
            let ended = self.programs.iter_mut().find_map(|(number, child)| Some((*number, child.ended()?)));
            let Some((number, end)) = ended else { break };
            self.end(number, end);
        }
        // Orphans: process 1 gets all, and any process that of its COMMAND. When this process does not serve,
        // the library waits for them, because it looks at how the process ends that does.
        if self.draining.is_none() {
            let is_program = |pid: &u32| self.programs.values().any(|child| child.pid() == *pid);
            children().filter(|pid| !is_program(pid)).for_each(processes::reap);
        }
    }

    fn end(&mut self, number: u32, end: End) {
        let Some(child) = self.programs.remove(&number) else { return };
        let is_current = self.machine.current() == Some(number);
        self.tell("ended", format!("{}, process {}, {end}", self.text, child.pid()));
        self.last_end = Some(end);
        if is_current && !self.is_ready {
            self.answer = Some(format!("{end} {} after its start", text::duration(child.age())));
        }
        self.handle(Event::Ended(number, end));
    }

    fn pass_on(&mut self, passed: Signal) {
        let current = self.machine.current().and_then(|number| self.programs.get(&number));
        if let Some(child) = current {
            child.signal(passed);
            self.tell("signal", format!("signal {} goes to process {}", passed.as_raw(), child.pid()));
        }
    }

    // ---- what the machine says ----------------------------------------------------------------------------

    fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Start(number) => self.start(number),
                Effect::Probe => {
                    let probe = self.probe.clone().map(|probe| tokio::spawn(probe.ask(self.waits.answer)));
                    self.asked = probe;
                }
                Effect::BecomeReady => {
                    self.warn_of_shell();
                    self.is_ready = true;
                }
                Effect::Stop(number) => self.stop(number),
                Effect::Kill(number) => {
                    if let Some(child) = self.programs.get(&number) {
                        child.kill();
                        self.tell("killed", format!("process {} had its time, and is killed", child.pid()));
                    }
                }
                Effect::GiveUp(failure) => {
                    let why = self.why(failure);
                    self.outcomes.push_back(Outcome::GivesUp(why));
                }
                Effect::Exit(end) => {
                    self.last_end = Some(end);
                    self.outcomes.push_back(Outcome::Exits(end));
                }
                Effect::Left => self.outcomes.push_back(Outcome::Left),
            }
        }
    }

    fn start(&mut self, number: u32) {
        let started =
            Child::start(&self.command, &self.settings, &self.sockets, self.notify.as_ref(), self.waits.exec);
        match started {
            Ok(child) => {
                let again = if self.is_ready { "again " } else { "" };
                self.tell("started", format!("{} was started {again}as process {}", self.text, child.pid()));
                self.programs.insert(number, child);
                if self.is_ready {
                    self.outcomes.push_back(Outcome::Starts);
                }
            }
            Err(error) => {
                let program = self.command.first().map(|name| name.to_string_lossy().into_owned());
                let why = successor::why(&program.unwrap_or_default(), &error);
                // The first time this process ends of it, and its last line says why.
                if self.is_ready {
                    self.tell("ended", format!("{} could not be started again ({why})", self.text));
                }
                self.answer = Some(format!("could not be started: {why}"));
                self.last_end = Some(End::NotStarted);
                self.handle(Event::Ended(number, End::NotStarted));
            }
        }
    }

    fn stop(&mut self, number: u32) {
        let signal = Signal::from_named_raw(self.settings.stop_signal).unwrap_or(Signal::TERM);
        if let Some(child) = self.programs.get_mut(&number) {
            child.stop(signal);
            let pid = child.pid();
            self.tell("stopping", format!("process {pid} is asked to stop (signal {})", signal.as_raw()));
        }
    }

    fn why(&self, failure: GivenUp) -> String {
        let last = self.answer.as_deref();
        match failure {
            GivenUp::Ended(end) => last.map_or_else(|| end.to_string(), str::to_owned),
            GivenUp::NotReady => {
                let within = text::duration(self.settings.ready_within);
                let silent = || self.probe.as_ref().filter(|_| self.asked.is_some()).map(|probe| &*probe.at);
                let silent = silent().map(|at| format!(": {at} does not answer"));
                let last = last.map(|last| format!(": {last}")).or(silent).unwrap_or_default();
                match self.settings.ready {
                    Ready::Says => format!("has not said READY=1 within {within}"),
                    _ => format!("was not ready within {within}{last}"),
                }
            }
            GivenUp::Refused => "is not going to serve".to_owned(),
        }
    }

    fn warn_of_shell(&self) {
        let child = self.machine.current().and_then(|number| self.programs.get(&number));
        let Some((child, shell)) = child.and_then(|child| Some((child, child.shell()?))) else { return };
        let pid = child.pid();
        self.tell(
            "warning",
            format!(
                "{shell}, process {pid}, has started a program instead of becoming it: LISTEN_PID is {pid}, \
                 so a program that looks at it takes no listener; let the script say `exec`"
            ),
        );
    }

    // ---- how it ends --------------------------------------------------------------------------------------

    /// The first reason counts, and the exit code is that of COMMAND if it has one.
    pub(super) fn fails(&mut self, failure: Failure) {
        let code = self.last_end.map(End::code).filter(|code| *code != 0);
        let exit = code.map_or(failure.exit, Exit::Command);
        self.failure.get_or_insert(Failure { exit, ..failure });
    }

    pub(super) fn failure(&mut self) -> Failure {
        self.failure.take().unwrap_or_else(|| Failure::refused(format!("{} does not serve", self.text)))
    }

    /// As COMMAND ended that was told to stop. One that dies of the signal has done as it was told; and if
    /// the service goes on, its end is no failure at all.
    pub(super) fn exit(&self) -> Exit {
        match self.last_end {
            _ if self.is_succeeded => Exit::Done,
            Some(End::Killed(signal)) if i32::from(signal) == self.settings.stop_signal => Exit::Done,
            Some(end) => Exit::Command(end.code()),
            None => Exit::Done,
        }
    }

    /// That a message cannot be written is no reason to end.
    fn tell(&self, kind: &str, text: String) {
        self.report.say(format!("hotctl: run: {text}"));
        let _ = self.report.record("event", &Record { kind, text: &text });
    }
}

/// Where COMMAND is asked. Nothing else may answer there.
async fn probe(
    settings: &Settings,
    sockets: &mut Sockets,
    waits: &ProgramTiming,
) -> io::Result<Option<Probe>> {
    let probe = match &settings.ready {
        Ready::Runs | Ready::Says => return Ok(None),
        Ready::Answers(Target::Path(path)) => return Ok(Some(Probe::at(sockets.add_private()?, path))),
        Ready::Answers(Target::Url(host, port, path)) => {
            if sockets.is_shared(*port) {
                return Err(io::Error::other(format!(
                    "--ready-http: port {port} is that of a listener of the service, where another version may \
                     answer; say a path instead, for a listener that only this version has"
                )));
            }
            Probe::elsewhere(host, *port, path)
        }
    };
    if probe.is_taken(waits.answer).await {
        return Err(io::Error::other(format!(
            "--ready-http: {} is taken by another process already; say a path instead, for a listener that \
             only this version has",
            probe.at
        )));
    }
    Ok(Some(probe))
}

async fn said_ready(notify: &Option<Notify>, program: Option<u32>) {
    match notify {
        Some(notify) => notify.ready(program).await,
        None => pending().await,
    }
}

async fn answered(asked: &mut Option<JoinHandle<Answer>>) -> Answer {
    match asked {
        Some(asked) => asked.await.unwrap_or_else(|error| Err(error.to_string())),
        None => pending().await,
    }
}

async fn next_signal(signals: &mut [(Signal, Stream)]) -> Signal {
    poll_fn(|cx| {
        let came = signals
            .iter_mut()
            .find_map(|(signal, stream)| stream.poll_recv(cx).is_ready().then_some(*signal));
        came.map_or(Poll::Pending, Poll::Ready)
    })
    .await
}

async fn due(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline.into()).await,
        None => pending().await,
    }
}
