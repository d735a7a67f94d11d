//! The supervisor of this process, systemd or a container runtime: what it is told, the signals that it
//! sends, and why this process stays after its drain.
//!
//! A process that has drained leaves when its end is not taken for the end of the service:
//!
//! * systemd with `Type=notify` has confirmed that another process is the main one. The process that serves
//!   says `serves`, and this one, to which systemd listens for sure, tells systemd and asks for an answer
//!   (`BARRIER=1`).
//! * Process 1 of a container, and the main process of a unit whose systemd does not listen, cannot leave. It
//!   stays, passes signals on to the process that serves, and ends after it and as it did.

use std::future::pending;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use hotupdate_proto::incumbent::{Afterwards, Peer};
use hotupdate_proto::message::{Place, ServiceManager};
use hotupdate_proto::operator::ProcessState;
use hotupdate_proto::{FEATURE_SUPERVISION, Generation, Message, Predecessor};
use rustix::process::Signal as UnixSignal;
use tokio::signal::unix::{Signal as Stream, SignalKind, signal};
use tokio::time::timeout;

use super::listeners::Listeners;
use super::status::View;
use super::{Driver, TaskResult};
use crate::process::heir::{self, ExitCode, Heir};
use crate::process::place;
use crate::process::signal::{Signal, Signals};
use crate::settings::{AfterDrain, Settings};
use crate::systemd::{Manager, Watchdog};

/// How often the line about the service changes, if only numbers in it do.
const STATUS: Duration = Duration::from_secs(1);

/// What comes from a supervisor, or on behalf of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Signal(Signal),
    /// The process that serves has ended.
    HeirEnded,
    /// The manager wants to hear that the service is well.
    Watchdog,
}

/// Whether the manager knows that the process that serves is the main one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Main {
    /// It was not told yet.
    Unsaid,
    /// It was told so of the process with this id, and has not answered.
    Said(u32),
    /// It has answered, or cannot.
    Settled,
}

/// What becomes of this process when nothing is left to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Leaves,
    /// Until the manager has confirmed which process is the main one.
    StaysForManager,
    /// Until the process that serves has ended.
    StaysForHeir,
    /// Until a signal says so.
    StaysUntilTold,
    /// As the process that served has ended.
    Follows(ExitCode),
}

pub(super) struct Supervisor {
    manager: Option<Manager>,
    /// The manager listens to this process.
    is_heard: bool,
    place: Place,
    /// The end of this process is taken for the end of the service.
    is_taken_for_the_service: bool,
    /// The process that serves, when this one does not.
    heir: Option<Heir>,
    /// The process that took over is going to say where it runs.
    expects_heir: bool,
    main: Main,
    watchdog: Option<Watchdog>,
    /// It is this process that tells the manager that the service is well.
    is_watched: bool,
    /// What the manager was told last of the service, and when.
    line: Option<(String, Instant)>,
    /// Why this process stays, as it was logged, and how long the manager has to confirm.
    stays: Option<(Ending, Instant)>,
    /// It ends as soon as its last words are out.
    is_leaving: bool,
    /// Children end, orphans among them, while this process has nothing else to do.
    children: Option<Stream>,
    signals: Signals,
    after_drain: Option<AfterDrain>,
    /// The last SIGTERM or SIGINT that came.
    told_to_stop: Option<Signal>,
}

impl Supervisor {
    /// `told`: what the incumbent said of its manager.
    pub(super) fn find(settings: &Settings, signals: Signals, told: Option<&ServiceManager>) -> Self {
        let place = place::of_this_process();
        let told = told.filter(|told| place.unit.as_ref() == Some(&told.unit));
        let has_store = settings.descriptor_store.or(told.map(|told| told.has_store));
        let found = Manager::find(has_store);
        let watchdog = told.and_then(|told| Watchdog::of_predecessor(told.watchdog_us?));
        Self {
            // Until it is the main one, systemd may hear other processes only.
            is_heard: found.is_some(),
            manager: found.or_else(|| Manager::at(told?.notify_socket.clone(), has_store?)),
            place,
            is_taken_for_the_service: place::is_taken_for_the_service(),
            heir: None,
            expects_heir: false,
            main: Main::Unsaid,
            watchdog: Watchdog::of_this_process().or(watchdog),
            is_watched: false,
            line: None,
            stays: None,
            is_leaving: false,
            children: None,
            signals,
            after_drain: settings.after_drain,
            told_to_stop: None,
        }
    }

    // ---- signals ------------------------------------------------------------------------------------------

    /// What comes next. Safe to cancel.
    pub(super) async fn next(&mut self) -> Call {
        loop {
            let Self { signals, heir, watchdog, is_watched, children, .. } = self;
            tokio::select! {
                signal = signals.next() => {
                    if signal.stops() {
                        self.told_to_stop = Some(signal);
                        self.pass_on(signal);
                    }
                    return Call::Signal(signal);
                }
                () = heir_ended(heir) => return Call::HeirEnded,
                () = is_due(watchdog, *is_watched) => return Call::Watchdog,
                () = child_ended(children) => self.reap(),
            }
        }
    }

    fn reap(&mut self) {
        heir::reap(|pid, code| {
            if let Some(heir) = &mut self.heir {
                heir.child_ended(pid, code);
            }
        });
    }

    /// A child has ended; it may be the process that serves.
    pub(super) fn note_end_of_child(&mut self, pid: u32, status: &io::Result<ExitStatus>) {
        if let (Some(heir), Ok(status)) = (&mut self.heir, status)
            && let Some(code) = heir::code(status.code(), status.signal())
        {
            heir.child_ended(pid, code);
        }
    }

    /// The signals, when nothing is left to do.
    pub(super) fn into_signals(self) -> Signals {
        self.signals
    }

    // ---- what systemd is told -----------------------------------------------------------------------------

    /// This process serves.
    pub(super) fn ready(&mut self) {
        self.is_watched = true;
        if let Some(manager) = self.manager.as_ref().filter(|_| self.is_heard) {
            manager.ready();
        }
    }

    /// This process serves again.
    fn serves_again(&mut self) {
        (self.heir, self.main, self.is_watched) = (None, Main::Unsaid, true);
    }

    /// This is the service's main process, and its listeners are the ones to keep.
    fn established(&mut self, generation: Generation, listeners: &mut Listeners) {
        self.is_heard = true;
        let Some(manager) = &self.manager else { return };
        // The manager knows best what it started itself.
        if generation != Generation::FIRST {
            manager.main_is(std::process::id());
        }
        self.keep(listeners);
    }

    /// What a successor has to know of the manager.
    pub(super) fn for_successor(&self) -> Option<ServiceManager> {
        let manager = self.manager.as_ref()?;
        Some(ServiceManager {
            unit: self.place.unit.clone()?,
            notify_socket: manager.path().to_owned(),
            has_store: manager.has_store(),
            watchdog_us: self.watchdog.as_ref().map(Watchdog::us),
        })
    }

    /// The listeners have changed. In this order: a name may be in use again for another socket.
    pub(super) fn keep(&self, listeners: &mut Listeners) {
        let Some(manager) = &self.manager else { return };
        manager.forget(listeners.take_stale().into_iter());
        manager.keep(listeners.duplicates());
    }

    /// This process lets go of the service.
    fn let_go(&self, afterwards: Afterwards, listeners: &Listeners) {
        let Some(manager) = &self.manager else { return };
        match afterwards {
            // Before anything here ends, and before the other process says anything that the manager hears
            // from the main process only.
            Afterwards::ServedBy(_) => {
                if let Some(heir) = &self.heir
                    && self.hands_main_over_to(&heir.place)
                {
                    manager.main_is(heir.pid);
                }
            }
            Afterwards::Stopped => manager.stopping(),
            // No process is going to accept again. (SIGTERM may be a restart, and then one is.)
            Afterwards::StoppedForGood => {
                manager.stopping();
                manager.forget(listeners.names());
            }
        }
    }

    /// Whether the manager has to be told that a process there is the main one. In another unit it is one
    /// already, and process 1 of a container is nothing to a manager outside.
    fn hands_main_over_to(&self, place: &Place) -> bool {
        self.manager.is_some() && !self.is_taken_for_the_service && self.place.is_same_unit(place)
    }

    /// The manager was told that this is the main process of the service.
    pub(super) fn is_main_process(&self, pid: u32) -> bool {
        let heir = self.heir.as_ref().filter(|heir| heir.pid == pid);
        heir.is_some_and(|heir| self.hands_main_over_to(&heir.place))
    }

    /// Resolves when systemd has everything that it was told.
    fn told(&self) -> impl Future<Output = ()> + Send + use<> {
        let told = self.manager.as_ref().map(Manager::told);
        async move {
            if let Some(told) = told {
                told.await;
            }
        }
    }

    /// How the service is, if that has changed: whatever people look at with `systemctl status`.
    fn tell_status(&mut self, line: String) {
        let Some(manager) = self.manager.as_ref().filter(|_| self.is_heard) else { return };
        let without_numbers = |line: &str| line.replace(|digit: char| digit.is_ascii_digit(), "");
        let is_news = self.line.as_ref().is_none_or(|(last, then)| {
            *last != line && (then.elapsed() >= STATUS || without_numbers(last) != without_numbers(&line))
        });
        if is_news {
            manager.status(line.clone());
            self.line = Some((line, Instant::now()));
        }
    }

    // ---- what becomes of this process ---------------------------------------------------------------------

    /// Another process has taken over.
    pub(super) fn is_succeeded_by(&mut self, peer: &Peer) {
        // The manager hears how the service is from that process now, also what this one has said before.
        self.line = None;
        self.expects_heir = peer.features.iter().any(|feature| feature == FEATURE_SUPERVISION);
    }

    /// Another process says that it serves.
    fn is_served_by(&mut self, pid: u32, place: Place) {
        if self.heir.as_ref().is_some_and(|heir| heir.pid == pid && heir.place == place) {
            return;
        }
        let is_near = self.place.sees(&place) && pid != std::process::id();
        self.heir = Some(Heir::new(pid, place, is_near));
        // It came when another process served, or none was known.
        if let Some(signal) = self.told_to_stop {
            self.pass_on(signal);
        }
    }

    /// A process that cannot leave alone has the process that serves end, too.
    fn pass_on(&self, signal: Signal) {
        let Some(heir) = self.heir.as_ref().filter(|heir| self.follows(heir)) else { return };
        let which = if let Signal::Interrupt { .. } = signal { UnixSignal::INT } else { UnixSignal::TERM };
        match heir.pass_on(which) {
            Ok(()) => {
                tracing::info!(pid = heir.pid, %signal, "passed a signal on to the process that serves")
            }
            Err(error) => {
                tracing::error!(
                    pid = heir.pid, %signal, %error,
                    "the signal cannot be passed on to the process that serves"
                );
            }
        }
    }

    /// Whether the end of this process would be that of the one that serves.
    fn follows(&self, heir: &Heir) -> bool {
        let is_unit_of_its_own = !place::is_first() && self.place.leaves_alone(&heir.place);
        self.is_taken_for_the_service
            && self.after_drain != Some(AfterDrain::Exit)
            && heir.is_near()
            && !is_unit_of_its_own
    }

    /// What becomes of this process now that nothing is left to do. `is_linked`: a process is there that
    /// serves, or will.
    fn ending(&self, is_succeeded: bool, is_linked: bool) -> Ending {
        if !is_succeeded || self.after_drain == Some(AfterDrain::Exit) && self.is_taken_for_the_service {
            return Ending::Leaves;
        }
        if let Some(heir) = self.heir.as_ref().filter(|heir| self.follows(heir)) {
            let is_over = heir.has_ended() && !is_linked;
            return if is_over { Ending::Follows(heir.code()) } else { Ending::StaysForHeir };
        }
        let is_told = self.told_to_stop.is_some();
        let stays = match self.after_drain {
            Some(AfterDrain::StayUntilTerm) => true,
            Some(AfterDrain::Exit) => false,
            // A runtime that starts it again would have it take the service back.
            None if place::is_first() => true,
            None => {
                let heir = self.heir.as_ref();
                self.is_taken_for_the_service && heir.is_none_or(|heir| !self.place.leaves_alone(&heir.place))
            }
        };
        if stays {
            return if is_told { Ending::Leaves } else { Ending::StaysUntilTold };
        }
        let is_to_be_main = match &self.heir {
            Some(heir) => self.hands_main_over_to(&heir.place),
            // Its word is on its way.
            None => self.manager.is_some() && self.expects_heir,
        };
        let is_awaited = is_to_be_main && is_linked && self.main != Main::Settled && !is_told;
        if is_awaited { Ending::StaysForManager } else { Ending::Leaves }
    }
}

/// Waits until what was said last is taken; not for ever, since this process has nothing else left to do.
async fn hears(whom: &str, heard: impl Future<Output = ()>, write: Duration) {
    if timeout(write, heard).await.is_err() {
        tracing::warn!(waited = ?write, "{whom} does not take the last words of this process (deadline `write`)");
    }
}

async fn heir_ended(heir: &mut Option<Heir>) {
    match heir {
        Some(heir) => heir.ended().await,
        None => pending().await,
    }
}

async fn is_due(watchdog: &mut Option<Watchdog>, is_watched: bool) {
    match watchdog {
        Some(watchdog) if is_watched => watchdog.next().await,
        _ => pending().await,
    }
}

async fn child_ended(children: &mut Option<Stream>) {
    let ended = match children {
        Some(children) => children.recv().await,
        None => None,
    };
    if ended.is_none() {
        pending::<()>().await;
    }
}

impl Driver {
    /// Something comes from a supervisor, or on behalf of it.
    pub(super) async fn called(&mut self, call: Call) {
        match call {
            Call::Signal(signal) => self.signal(signal).await,
            Call::HeirEnded => self.end_unless_kept(),
            Call::Watchdog => {
                let Supervisor { manager, is_heard, .. } = &self.supervisor;
                if let Some(manager) = manager.as_ref().filter(|_| *is_heard) {
                    manager.is_well();
                }
            }
        }
    }

    // ---- this process serves ------------------------------------------------------------------------------

    /// Tells the generations before this one that it serves.
    pub(super) fn tell_predecessors(&self) {
        let Some(machine) = self.machine.incumbent() else { return };
        let predecessors = machine.predecessors();
        let is_established = predecessors.iter().all(|predecessor| !predecessor.probation);
        let (pid, place) = (std::process::id(), self.supervisor.place.clone());
        let serves = Message::Serves { pid, place, is_established };
        for predecessor in predecessors.iter().filter(|predecessor| predecessor.is_told_who_serves()) {
            self.links.send_to(predecessor.generation, &serves, Vec::new());
        }
    }

    /// This process serves again, after another did.
    pub(super) fn serves_again(&mut self) {
        self.supervisor.serves_again();
        self.tell_predecessors();
    }

    /// No other process can take the place of this one.
    pub(super) fn established(&mut self) {
        self.supervisor.established(self.identity.generation, &mut self.listeners);
        self.tell_predecessors();
    }

    // ---- another process serves ---------------------------------------------------------------------------

    /// What the process that serves says to this one, which does not, as far as supervisors are concerned.
    pub(super) fn hear_of_heir(&mut self, message: &Message) {
        if !self.drain.is_draining() {
            return;
        }
        match message {
            Message::Serves { pid, place, is_established } => {
                self.supervisor.is_served_by(*pid, place.clone());
                if *is_established {
                    self.hand_main_over(*pid);
                }
                self.end_unless_kept();
            }
            Message::Farewell => {
                if let Some(heir) = &mut self.supervisor.heir {
                    heir.stops();
                }
            }
            _ => {}
        }
    }

    /// Tells the manager once more, after every process that may have said something else, and asks for its
    /// answer.
    fn hand_main_over(&mut self, pid: u32) {
        let Some(manager) = self.supervisor.manager.as_ref().filter(|_| self.supervisor.is_main_process(pid))
        else {
            return;
        };
        manager.main_is(pid);
        let (confirmed, results) = (manager.confirmed(), self.results.0.clone());
        self.supervisor.main = Main::Said(pid);
        tokio::spawn(async move {
            let confirmed = confirmed.await;
            let _ = results.send(TaskResult::MainConfirmed { pid, confirmed }).await;
        });
    }

    /// The manager has answered, or cannot be told.
    pub(super) fn main_confirmed(&mut self, pid: u32, confirmed: bool) {
        if self.supervisor.main != Main::Said(pid) {
            return;
        }
        tracing::debug!(pid, confirmed, "systemd was told which process is the main one");
        self.settle_main();
        self.end_unless_kept();
    }

    fn settle_main(&mut self) {
        self.supervisor.main = Main::Settled;
        // From here on it is the other process that is to be well.
        self.supervisor.is_watched = false;
    }

    /// This process has let go of the service, or is about to.
    pub(super) async fn tell_manager_who_serves(&mut self, afterwards: Afterwards) {
        self.supervisor.let_go(afterwards, &self.listeners);
        if !matches!(afterwards, Afterwards::ServedBy(_)) {
            // For those that stay as long as this process: what comes next is no crash.
            self.links.send_to_predecessors(&Message::Farewell);
        }
        let (told, write) = (self.supervisor.told(), self.settings.timing.write);
        let _ = timeout(write, told).await;
    }

    /// Tells the manager how the service is, if this process has the say.
    pub(super) fn tell_status(&mut self) {
        if self.supervisor.manager.is_none() {
            return;
        }
        let is_succeeded = self.drain.is_succeeded();
        let (view, _) = self.view();
        let Some(machine) = view.machine else { return };
        let line = match machine.process_state() {
            ProcessState::Serving => serving(view, machine.predecessors()),
            ProcessState::Draining if !is_succeeded && machine.successor().is_none() => {
                let connections = view.connections.summary();
                format!("generation {} ({}) stops: {connections}", view.generation(), view.process())
            }
            _ => return,
        };
        self.supervisor.tell_status(line);
    }

    // ---- nothing is left to do ----------------------------------------------------------------------------

    /// Ends this process if it has nothing left to do, and nothing keeps it.
    pub(super) fn end_unless_kept(&mut self) {
        if !self.drain.is_exiting() {
            return;
        }
        let ending = self.supervisor.ending(self.drain.is_succeeded(), self.links.has_peer());
        match ending {
            Ending::Leaves => return self.flush_and_end(0),
            Ending::Follows(code) => return self.flush_and_end(code),
            Ending::StaysForManager | Ending::StaysForHeir | Ending::StaysUntilTold => {}
        }
        if self.supervisor.stays.is_some_and(|(before, _)| before == ending) {
            return;
        }
        self.supervisor.stays = Some((ending, Instant::now() + self.settings.timing.confirm));
        let pid = self.supervisor.heir.as_ref().map(|heir| heir.pid);
        match ending {
            Ending::StaysForManager => {
                tracing::debug!(pid, "drained; systemd has still to confirm which process is the main one");
            }
            Ending::StaysForHeir => {
                tracing::info!(pid, "drained; stays until the process that serves has ended");
            }
            _ => tracing::info!("drained; stays until SIGTERM"),
        }
        if ending != Ending::StaysForManager && place::is_first() {
            self.supervisor.children = signal(SignalKind::child()).ok();
            self.supervisor.reap();
        }
    }

    /// The last words go out first.
    fn flush_and_end(&mut self, code: ExitCode) {
        if std::mem::replace(&mut self.supervisor.is_leaving, true) {
            return;
        }
        self.say_that_main_goes_on();
        let (told, flushed, answered) =
            (self.supervisor.told(), self.links.flushed(), self.operators.answered());
        let (results, write) = (self.results.0.clone(), self.settings.timing.write);
        tokio::spawn(async move {
            tokio::join!(
                hears("systemd", told, write),
                hears("the process that serves", flushed, write),
                hears("an operator", answered, write),
            );
            let _ = results.send(TaskResult::Flushed { code }).await;
        });
    }

    /// From here on the application decides how long this process runs. It mostly ends at once; where it does
    /// not, operators see why the process is still there.
    fn say_that_main_goes_on(&self) {
        /// What operators see among the tasks.
        const MAIN: &str = "main";
        let (connections, totals) = self.connections.snapshot();
        let tasks = vec![MAIN.to_owned()];
        let progress = Message::Progress { connections, closed: Vec::new(), totals, tasks };
        self.links.send(&progress, Vec::new());
    }

    /// The last words are out.
    pub(super) fn end(&mut self, code: ExitCode) {
        if code != 0 {
            let pid = self.supervisor.heir.as_ref().map(|heir| heir.pid);
            tracing::error!(pid, code, "the process that served has failed, and this one ends with it");
            std::process::exit(code);
        }
        self.application.end();
    }

    /// SIGTERM or SIGINT came, and nothing is left to do.
    pub(super) fn told_to_leave(&mut self) {
        match self.supervisor.is_leaving {
            true => self.application.end(),
            false => self.end_unless_kept(),
        }
    }

    /// When the manager should have confirmed which process is the main one.
    pub(super) fn supervisor_deadline(&self) -> Option<Instant> {
        let (_, until) = self.supervisor.stays.filter(|(ending, _)| *ending == Ending::StaysForManager)?;
        (self.supervisor.main != Main::Settled).then_some(until)
    }

    pub(super) fn tick_supervisor(&mut self, now: Instant) {
        if self.supervisor_deadline().is_some_and(|until| now >= until) {
            let pid = self.supervisor.heir.as_ref().map(|heir| heir.pid);
            tracing::warn!(
                pid,
                waited = ?self.settings.timing.confirm,
                "systemd has not confirmed which process is the main one (deadline `confirm`); this process ends"
            );
            self.settle_main();
            self.end_unless_kept();
        }
    }
}

/// `generation 3 (4242 v2) serves; generation 2 is draining: 3 open (1 active)`.
fn serving(view: View<'_>, predecessors: &[Predecessor]) -> String {
    let mut line = format!("generation {} ({}) serves", view.generation(), view.process());
    for Predecessor { generation, connections, probation, drained, .. } in predecessors {
        if !drained {
            line.push_str(&format!("; generation {generation} is draining: {connections}"));
        } else if *probation {
            line.push_str(&format!("; generation {generation} can take over again"));
        }
    }
    line
}
