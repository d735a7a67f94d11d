//! Doing what the machines say.
//!
//! Deliberately absent: telling people, see `driver/report.rs`.

use std::sync::Arc;
use std::time::Instant;

use hotupdate_proto::incumbent::{Afterwards, Effect, Event, Stopped};
use hotupdate_proto::inventory::UnreadLink;
use hotupdate_proto::{Fault, Message};
use rustix::time::{ClockId, clock_gettime};
use tracing::Span;

use super::{Driver, Role, TaskResult};
use crate::connections::drain::{Phase, Plan};
use crate::control;
use crate::control::replies;
use crate::lifecycle::Lifecycle;
use crate::listeners::gate::GateControl;
use crate::settings::AfterDrain;
use crate::systemd::Manager;

impl Driver {
    // ---- as the incumbent ------------------------------------------------------------------------------------------

    /// Brings an event to the machine of a process that serves, or served.
    pub(super) async fn incumbent(&mut self, event: Event) {
        self.events.push_back(event);
        self.catch_up().await;
    }

    async fn catch_up(&mut self) {
        while let Some(event) = self.events.pop_front() {
            let Role::Incumbent(machine) = &mut self.role else { return };
            let effects = machine.handle(Instant::now(), event);
            self.perform_now(effects).await;
        }
    }

    /// Does what a command came to.
    pub(super) async fn perform(&mut self, effects: Vec<Effect>) {
        self.perform_now(effects).await;
        self.catch_up().await;
    }

    async fn perform_now(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Reply(reply) => self.reply(reply),
                Effect::Send(message) => self.send(&message),
                Effect::SendTo(generation, message) => {
                    if let Some(link) = self.predecessors.get(&generation) {
                        link.send(&message, Vec::new());
                    }
                }
                Effect::Close => {
                    self.peer = None;
                    self.span = Span::none();
                    self.sealed.clear();
                }
                // The machine does not listen any more; the reader goes on for the end of the link.
                Effect::Quiet => {}
                Effect::Stop => self.stop().await,
                Effect::Accept(unread) => self.accept(&unread),
                Effect::Read(generation) => {
                    if let Some(link) = self.predecessors.get_mut(&generation) {
                        link.resume(None);
                    }
                }
                Effect::BeforeRelease => self.events.push_back(Event::BeforeReleaseDone(Ok(()))),
                Effect::LetGo(afterwards) => self.let_go(afterwards),
                Effect::Established => self.confirm_main_process(),
                Effect::Drain { until } => self.drain(until),
                Effect::Undrain => self.undrain(),
                Effect::Force => self.force(),
                Effect::Demote(generation) => {
                    self.span = Span::none();
                    if let Some(link) = self.peer.take() {
                        self.predecessors.insert(generation, link);
                    }
                }
                Effect::Promote(generation) => {
                    // What can be taken can be given: features belong to both sides.
                    self.moves.peer_knows = self.moves.knows(generation);
                    self.moves.forget(generation);
                    self.peer = self.predecessors.remove(&generation);
                    self.span = self.peer.as_ref().map_or_else(Span::none, |peer| peer.span.clone());
                }
                Effect::Forget(generation) => {
                    self.predecessors.remove(&generation);
                    self.moves.forget(generation);
                    self.rows.remove(&generation);
                    self.connections.metrics().forget(generation);
                }
                Effect::Exit => self.exit(),
                Effect::Report(report) => self.report(report),
            }
        }
    }

    fn reply(&mut self, reply: Result<hotupdate_proto::Joined, hotupdate_proto::Refusal>) {
        let (reply, joined) = match reply {
            Ok(joined) => (replies::joined(&joined), true),
            Err(refusal) => (replies::refused(&refusal), false),
        };
        if let (Some(peer), Ok(bytes)) = (&self.peer, hotupdate_proto::frame::encode(&reply)) {
            peer.send_bytes(bytes);
        }
        if !joined {
            self.peer = None;
        }
    }

    fn send(&mut self, message: &Message) {
        let Some(peer) = &self.peer else { return };
        match self.attach(message) {
            Ok(descriptors) => {
                peer.send(message, descriptors.into_iter().map(|fd| Arc::new(fd) as _).collect());
                // The other side has it; the final word is sealed anew.
                if let Message::Complete { .. } = message {
                    self.sealed.clear();
                }
            }
            // Out of descriptors, most likely. The attempt fails, and nothing else.
            Err(error) => {
                let doing = format!("sending `{}`", message.name());
                self.events.push_back(Event::Closed(Fault::Local(format!("{doing}: {error}"))));
            }
        }
    }

    /// Parks every listener. When the loop is through, nothing is accepted any more.
    pub(super) async fn stop_now(&mut self) {
        for (gate, _) in &self.resources.gates {
            if let Err(error) = gate.park() {
                let what = format!("the listener {:?} cannot be parked: {error}", gate.name());
                return self.events.push_back(Event::CannotStop(what));
            }
        }
        let at_ns = monotonic_ns();
        if let Some(control) = &self.control
            && let Err(error) = control.gate.park()
        {
            return self
                .events
                .push_back(Event::CannotStop(format!("the control socket cannot be parked: {error}")));
        }
        let mut links = Vec::new();
        for (generation, link) in &mut self.predecessors {
            links.push(UnreadLink { generation: *generation, unread: to_text(&link.pause().await) });
        }
        let stopped = Stopped { at_ns, connections: self.connections.summary(), links, ..Stopped::default() };
        if self.exports.is_empty() {
            self.events.push_back(Event::Stopped(stopped));
        } else {
            let stop = self.stops;
            self.export(move |sealed| TaskResult::Finished { stop, stopped, sealed });
        }
    }

    fn accept(&mut self, unread: &[UnreadLink]) {
        self.stops += 1;
        self.stop_is_off();
        self.open_all();
        self.read_predecessors(unread);
        self.announce();
        self.lifecycle.send_replace(Lifecycle::Serving);
        self.resources.tasks.set_serving(true);
    }

    pub(super) fn read_predecessors(&mut self, unread: &[UnreadLink]) {
        for (generation, link) in &mut self.predecessors {
            let rest = unread.iter().find(|rest| rest.generation == *generation);
            link.resume(rest.map(|rest| from_text(&rest.unread)));
        }
    }

    fn let_go(&mut self, afterwards: Afterwards) {
        self.reopen_at = None;
        self.stopping = !matches!(afterwards, Afterwards::ServedBy(_));
        self.pass_on_main_process(afterwards);
        if let (true, Some(control)) = (self.stopping, &self.control)
            && let Ok(ownership) = control.ownership()
        {
            control::remove(&self.settings.path, &ownership);
        }
        for (gate, _) in &self.resources.gates {
            gate.close();
        }
        self.resources.descriptors.clear();
        if let Some(control) = self.control.take() {
            control.gate.close();
        }
        self.predecessors.clear();
        self.moves.forget_all();
        self.rows.clear();
        self.lifecycle.send_replace(Lifecycle::Retired);
    }

    fn drain(&mut self, until: Instant) {
        let since = tokio::time::Instant::now();
        let until = tokio::time::Instant::from(until);
        let whole = until.saturating_duration_since(since);
        let timing = &self.settings.timing;
        let (grace, spread) = (timing.drain_grace.min(whole / 4), timing.drain_spread.min(whole / 2));
        if !self.draining {
            self.expect_moves();
            self.progress.reset();
        }
        self.connections.set_phase(Phase::Draining(Plan { since, until, grace, spread }));
        self.lifecycle.send_if_modified(|now| {
            let earlier = *now < Lifecycle::Draining;
            *now = (*now).max(Lifecycle::Draining);
            earlier
        });
        self.draining = true;
    }

    /// To be sent when they are there, outside of the critical path.
    pub(super) fn collect_rows(&self) {
        let (connections, back) = (self.connections.clone(), self.done.0.clone());
        tokio::task::spawn_blocking(move || drop(back.blocking_send(TaskResult::Rows(connections.rows()))));
    }

    fn undrain(&mut self) {
        (self.draining, self.drained, self.rows_sent, self.last_progress) = (false, false, false, None);
        // First of all, or else answers in between would say `Connection: close`: nothing drains, and nothing moves.
        self.connections.set_phase(Phase::Serving);
        self.take_all_back();
        // Others have read the links of our predecessors meanwhile.
        self.moves.forget_all();
    }

    /// The last words go out first.
    fn exit(&mut self) {
        self.exiting = true;
        if self.settings.after_drain == AfterDrain::StayUntilTerm && !self.stopping {
            tracing::info!("drained; stays until SIGTERM");
            return;
        }
        let flushed = self.peer.as_ref().map(crate::link::Link::flushed);
        let told = self.manager.as_ref().map(Manager::told);
        let (back, write) = (self.done.0.clone(), self.settings.timing.write);
        tokio::spawn(async move {
            if let Some(told) = told {
                let _ = tokio::time::timeout(write, told).await;
            }
            if let Some(flushed) = flushed {
                let _ = tokio::time::timeout(write, flushed).await;
            }
            let _ = back.send(TaskResult::Flushed).await;
        });
    }
}

pub(super) fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or_default() * 1_000_000_000
        + u64::try_from(now.tv_nsec).unwrap_or_default()
}

/// Bytes as JSON can carry them: one character each, because a message may be cut in the middle of one.
pub(super) fn to_text(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

pub(crate) fn from_text(text: &str) -> Vec<u8> {
    text.chars().filter_map(|c| u8::try_from(u32::from(c)).ok()).collect()
}
