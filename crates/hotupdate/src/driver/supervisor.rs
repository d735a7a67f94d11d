//! The supervisor of this process, systemd or a container runtime: what it is told, the signals that it
//! sends, and why this process stays after its drain.
//!
//! Which process the supervisor takes for the service, and which may leave, is decided in
//! [`hotupdate_proto::supervision`].
//!
//! Deliberately absent: the manager's own messages, see [`crate::systemd`].

use std::future::pending;
use std::io;
use std::iter;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use hotupdate_proto::incumbent::{Afterwards, Peer};
use hotupdate_proto::message::{Place, ServiceManager};
use hotupdate_proto::operator::ProcessState;
use hotupdate_proto::supervision::{Circumstances, Effect, Ending, Event};
use hotupdate_proto::timing::fixed::driver::STATUS;
use hotupdate_proto::{
    FEATURE_SUPERVISION, Generation, Incumbent, Message, Predecessor, ShortText, Supervision,
};
use rustix::process::Signal as UnixSignal;
use tokio::signal::unix::{Signal as Stream, SignalKind, signal};
use tokio::time::timeout;

use super::exports::Exports;
use super::listeners::Listeners;
use super::status::View;
use super::{Driver, TaskResult};
use crate::process::heir::{self, ExitCode, Heir};
use crate::process::place;
use crate::process::signal::{Signal, Signals};
use crate::process::watched::Watched;
use crate::settings::Settings;
use crate::systemd::{Kind, Manager, Watchdog};

/// What comes from a supervisor, or on behalf of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Signal(Signal),
    /// The process that serves has ended.
    HeirEnded,
    /// The process that started this one has ended.
    ParentEnded,
    /// The manager wants to hear that the service is well.
    Watchdog,
}

pub(super) struct Supervisor {
    machine: Supervision,
    manager: Option<Manager>,
    /// The manager listens to this process.
    is_heard: bool,
    /// The process that serves, when this one does not.
    heir: Option<Heir>,
    /// The process that has started this one, if its end is awaited.
    parent: Option<Watched>,
    /// How long it is awaited.
    parent_until: Option<Instant>,
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
        // Until it is the main one, systemd may hear other processes only.
        let is_heard = found.is_some();
        let manager = found.or_else(|| Manager::at(told?.notify_socket.clone(), has_store?));
        let is_main = place::is_executed_by_systemd();
        // A parent that goes on to run for ever is waited for in vain, so only where that makes a difference.
        let parent = told.filter(|_| !is_main).and_then(|_| place::parent());
        let circumstances = Circumstances {
            place,
            pid: std::process::id(),
            is_first: place::is_first(),
            listens: manager.is_some(),
            is_taken_for_the_service: place::is_taken_for_the_service(),
            is_main,
            has_parent: parent.is_some(),
            after_drain: settings.after_drain,
        };
        Self {
            machine: Supervision::new(circumstances),
            manager,
            is_heard,
            heir: None,
            parent,
            parent_until: None,
            watchdog: Watchdog::of_this_process().or(watchdog),
            is_watched: false,
            line: None,
            stays: None,
            is_leaving: false,
            children: None,
            signals,
            told_to_stop: None,
        }
    }

    fn place(&self) -> &Place {
        &self.machine.circumstances().place
    }

    // ---- signals ------------------------------------------------------------------------------------------

    /// What comes next. Safe to cancel.
    pub(super) async fn next(&mut self) -> Call {
        loop {
            let Self { signals, heir, parent, watchdog, is_watched, children, .. } = self;
            tokio::select! {
                signal = signals.next() => {
                    if signal.stops() {
                        self.told_to_stop = Some(signal);
                        self.machine.handle(Event::ToldToStop);
                        self.pass_on(signal);
                    }
                    return Call::Signal(signal);
                }
                () = heir_ended(heir) => return Call::HeirEnded,
                () = parent_ended(parent) => return Call::ParentEnded,
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

    /// Whether a manager has to be told which process is the main one.
    pub(super) fn has_main_process(&self) -> bool {
        let Circumstances { listens, is_taken_for_the_service, place, .. } = self.machine.circumstances();
        *listens && !is_taken_for_the_service && place.unit.is_some()
    }

    /// What a successor has to know of the manager.
    pub(super) fn for_successor(&self) -> Option<ServiceManager> {
        let manager = self.manager.as_ref()?;
        Some(ServiceManager {
            unit: self.place().unit.clone()?,
            notify_socket: manager.path().to_owned(),
            has_store: manager.has_store(),
            watchdog_us: self.watchdog.as_ref().map(Watchdog::us),
        })
    }

    /// The manager, if what this process has is what it is to keep.
    fn store(&self) -> Option<&Manager> {
        self.manager.as_ref().filter(|_| self.machine.circumstances().is_main)
    }

    /// The listeners have changed, or it is known only now that the manager listens. In this order: a name
    /// may be in use again for another socket.
    pub(super) fn keep(&self, listeners: &mut Listeners) {
        let Some(manager) = self.store() else { return };
        manager.forget(Kind::Listener, listeners.take_stale().into_iter().map(ShortText::from));
        manager.keep(Kind::Listener, listeners.duplicates());
    }

    /// What is stored beside the listeners has changed, or it is known only now that the manager listens.
    pub(super) fn keep_states(&self, exports: &Exports) {
        let Some(manager) = self.store() else { return };
        for (name, sealed) in exports.take_untold() {
            manager.forget(Kind::State, iter::once(name.clone()));
            manager.keep(Kind::State, sealed.into_iter().map(|sealed| (name.clone(), sealed)));
        }
    }

    /// This process lets go of the service.
    fn let_go(&self, afterwards: Afterwards, listeners: &Listeners, exports: &Exports) {
        let Some(manager) = &self.manager else { return };
        match afterwards {
            Afterwards::ServedBy(_) => {}
            Afterwards::Stopped => manager.stopping(),
            // No process is going to accept again. (SIGTERM may be a restart, and then one is.)
            Afterwards::StoppedForGood => {
                manager.stopping();
                manager.forget(Kind::Listener, listeners.names());
                manager.forget(Kind::State, exports.stored_names());
            }
        }
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
        let is_told = peer.features.iter().any(|feature| feature == FEATURE_SUPERVISION);
        self.machine.handle(Event::Succeeded { is_told });
    }

    /// Another process says that it serves. Whether signals reach it.
    fn watch_heir(&mut self, pid: u32, place: &Place) -> bool {
        let is_here = self.place().sees(place) && pid != std::process::id();
        self.heir.take_if(|heir| heir.pid != pid || heir.place != *place);
        self.heir.get_or_insert_with(|| Heir::new(pid, place.clone(), is_here)).is_near()
    }

    /// A process that cannot leave alone has the process that serves end, too.
    fn pass_on(&self, signal: Signal) {
        let Some(heir) = self.heir.as_ref().filter(|_| self.machine.follows_heir()) else { return };
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
}

/// Waits until what was said last is taken; not for ever, since this process has nothing else left to do.
async fn hears(whom: &str, heard: impl Future<Output = ()>, write: Duration) {
    if timeout(write, heard).await.is_err() {
        tracing::warn!(
            waited = ?write,
            "{whom} does not take the last words of this process (deadline `write`)"
        );
    }
}

async fn heir_ended(heir: &mut Option<Heir>) {
    match heir {
        Some(heir) => heir.ended().await,
        None => pending().await,
    }
}

async fn parent_ended(parent: &mut Option<Watched>) {
    match parent {
        Some(watched) => watched.ended().await,
        None => pending().await,
    }
    *parent = None;
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
            Call::HeirEnded => {
                self.supervise(Event::HeirEnded);
                self.end_unless_kept();
            }
            Call::ParentEnded => self.supervise(Event::ParentEnded { is_alone: self.is_alone() }),
            Call::Watchdog => {
                let Supervisor { manager, is_heard, .. } = &self.supervisor;
                if let Some(manager) = manager.as_ref().filter(|_| *is_heard) {
                    manager.is_well();
                }
            }
        }
    }

    /// Brings an event to the machine, and does what it says.
    fn supervise(&mut self, event: Event) {
        for effect in self.supervisor.machine.handle(event) {
            match effect {
                Effect::Tell { is_established } => self.tell_predecessors(is_established),
                Effect::BecomeMain { is_untold } => self.become_main(is_untold),
                Effect::NameMain(pid) => self.name_main(pid),
                Effect::TellMain(pid) => self.links.send(&Message::Main { pid }, Vec::new()),
            }
        }
        let Supervisor { machine, parent_until, .. } = &mut self.supervisor;
        match machine.waits_for_parent() {
            true => _ = parent_until.get_or_insert(Instant::now() + self.settings.timing.parent),
            false => *parent_until = None,
        }
    }

    // ---- this process serves ------------------------------------------------------------------------------

    /// This process serves, or serves again after another did.
    pub(super) fn serves(&mut self) {
        (self.supervisor.heir, self.supervisor.is_watched) = (None, true);
        let mut predecessors = self.machine.incumbent().into_iter().flat_map(Incumbent::predecessors);
        let is_established = predecessors.all(|predecessor| !predecessor.probation);
        self.supervise(Event::Serving { is_established, is_alone: self.is_alone() });
    }

    /// No other process can take the place of this one.
    pub(super) fn established(&mut self) {
        self.supervise(Event::Established { is_alone: self.is_alone() });
    }

    /// No predecessor is left that could say which process is the main one.
    fn is_alone(&self) -> bool {
        let mut predecessors = self.machine.incumbent().into_iter().flat_map(Incumbent::predecessors);
        !predecessors.any(Predecessor::is_told_who_serves)
    }

    /// A predecessor is gone.
    pub(super) fn is_alone_if_so(&mut self) {
        if self.is_alone() {
            self.supervise(Event::Alone);
        }
    }

    /// A predecessor says what the manager has confirmed.
    pub(super) fn hear_of_manager(&mut self, message: &Message) {
        if let Message::Main { pid } = message {
            self.supervise(Event::Main(*pid));
        }
    }

    fn tell_predecessors(&self, is_established: bool) {
        let predecessors = self.machine.incumbent().into_iter().flat_map(Incumbent::predecessors);
        let (pid, place) = (std::process::id(), self.supervisor.place().clone());
        let serves = Message::Serves { pid, place, is_established };
        for predecessor in predecessors.filter(|predecessor| predecessor.is_told_who_serves()) {
            self.links.send_to(predecessor.generation, &serves, Vec::new());
        }
    }

    /// The manager listens to this process, and the listeners that it has are the ones to keep.
    fn become_main(&mut self, is_untold: bool) {
        self.supervisor.is_heard = true;
        let Some(manager) = &self.supervisor.manager else { return };
        // It knows best what it started itself.
        if is_untold && self.identity.generation != Generation::FIRST {
            manager.main_is(std::process::id());
        }
        self.supervisor.keep(&mut self.listeners);
        self.supervisor.keep_states(&self.exports);
    }

    // ---- another process serves ---------------------------------------------------------------------------

    /// What the process that serves says to this one, which does not, as far as supervisors are concerned.
    pub(super) fn hear_of_heir(&mut self, message: &Message) {
        if !self.drain.is_draining() {
            return;
        }
        match message {
            Message::Serves { pid, place, is_established } => {
                let (pid, place, is_established) = (*pid, place.clone(), *is_established);
                let is_new = self.supervisor.heir.as_ref().is_none_or(|heir| heir.pid != pid);
                let is_near = self.supervisor.watch_heir(pid, &place);
                self.supervise(Event::ServedBy { pid, place, is_near, is_established });
                // It said so and died: its end is not going to be seen.
                if self.supervisor.heir.as_ref().is_some_and(Heir::was_gone) {
                    self.supervise(Event::HeirEnded);
                }
                // It came when another process served, or none was known.
                if let Some(signal) = self.supervisor.told_to_stop.filter(|_| is_new) {
                    self.supervisor.pass_on(signal);
                }
                self.end_unless_kept();
            }
            Message::Farewell => {
                self.supervisor.heir.iter_mut().for_each(Heir::stops);
                self.supervise(Event::Farewell);
            }
            _ => {}
        }
    }

    /// Tells the manager which process is the main one, after every process that may have said something
    /// else, and asks for its answer.
    fn name_main(&mut self, pid: u32) {
        let Some(manager) = &self.supervisor.manager else { return };
        manager.main_is(pid);
        let (confirmed, results) = (manager.confirmed(), self.results.0.clone());
        tokio::spawn(async move {
            let confirmed = confirmed.await;
            let _ = results.send(TaskResult::MainConfirmed { pid, confirmed }).await;
        });
    }

    /// The manager has answered, or cannot be told.
    pub(super) fn main_confirmed(&mut self, pid: u32, confirmed: bool) {
        tracing::debug!(pid, confirmed, "systemd was told which process is the main one");
        self.settle_main(if confirmed { Event::Confirmed(pid) } else { Event::Unconfirmed });
    }

    fn settle_main(&mut self, event: Event) {
        self.supervise(event);
        // From here on it is the other process that is to be well.
        self.supervisor.is_watched &= self.supervisor.machine.waits_for_manager();
        self.end_unless_kept();
    }

    /// This process has let go of the service, or is about to.
    pub(super) async fn tell_manager_who_serves(&mut self, afterwards: Afterwards) {
        self.supervisor.let_go(afterwards, &self.listeners, &self.exports);
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
        let ending = self.supervisor.machine.ending(self.drain.is_succeeded(), self.links.has_peer());
        match ending {
            Ending::Leaves => return self.flush_and_end(0),
            Ending::Follows => {
                let code = self.supervisor.heir.as_ref().map_or(heir::DIED, Heir::code);
                return self.flush_and_end(code);
            }
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

    /// When the manager should have confirmed which process is the main one, or the parent have ended.
    pub(super) fn supervisor_deadline(&self) -> Option<Instant> {
        let deadlines = [self.confirm_deadline(), self.supervisor.parent_until];
        deadlines.into_iter().flatten().min()
    }

    fn confirm_deadline(&self) -> Option<Instant> {
        let (_, until) = self.supervisor.stays.filter(|(ending, _)| *ending == Ending::StaysForManager)?;
        self.supervisor.machine.waits_for_manager().then_some(until)
    }

    pub(super) fn tick_supervisor(&mut self, now: Instant) {
        if self.confirm_deadline().is_some_and(|until| now >= until) {
            let pid = self.supervisor.heir.as_ref().map(|heir| heir.pid);
            tracing::warn!(
                pid,
                waited = ?self.settings.timing.confirm,
                "systemd has not confirmed which process is the main one (deadline `confirm`); this process \
                 ends"
            );
            self.settle_main(Event::Unconfirmed);
        }
        if self.supervisor.parent_until.is_some_and(|until| now >= until) {
            tracing::warn!(
                waited = ?self.settings.timing.parent,
                "the process that has started this one goes on to run (deadline `parent`): systemd cannot wait \
                 for the end of this one, and kills it at a stop"
            );
            self.supervisor.parent = None;
            self.supervise(Event::ParentEnded { is_alone: self.is_alone() });
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
