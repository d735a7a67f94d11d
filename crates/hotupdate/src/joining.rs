//! From finding the control socket to holding the whole inventory.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hotupdate_proto::incumbent::Local;
use hotupdate_proto::operator::{Call, Reply, Warning};
use hotupdate_proto::successor::{Effect, Event};
use hotupdate_proto::timing::fixed::control::ASK_AGAIN;
use hotupdate_proto::{
    Fault, Generation, INTERFACE, Join, Joined, LinkItem, ListenerKind, Message, Refusal, SocketFile,
    Successor, frame,
};
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::Span;

use crate::control::{self, Found, Ownership};
use crate::driver::{self, Inherited, until};
use crate::error::{Error, ErrorKind, Result};
use crate::link;
use crate::link::channel::{self, Receiver};
use crate::listeners::inherited::Offered;
use crate::process::signal::Signals;
use crate::process::{limits, spawn};
use crate::resources::Resources;
use crate::sealed;
use crate::settings::Settings;
use crate::starting::Starting;
use crate::state;
use crate::systemd;

/// What arrived with the inventory.
pub(crate) struct Inventory {
    pub(crate) offered: Vec<Offered>,
    pub(crate) state: HashMap<String, state::Arrived>,
    pub(crate) links: Vec<(LinkItem, OwnedFd)>,
    pub(crate) ownership: Ownership,
}

struct Arrived {
    /// The address of the listener that took our connection, and the file at which it was.
    reached: Option<PathBuf>,
    file: SocketFile,
    /// The names of sockets by the kernel's number.
    cookies: HashMap<u64, String>,
    offered: Vec<Offered>,
    state: HashMap<String, state::Arrived>,
    links: Vec<(LinkItem, OwnedFd)>,
    ownership: Option<Ownership>,
}

struct Complete {
    machine: Successor,
    joined: Joined,
    receiver: Receiver,
    inventory: Inventory,
}

/// How one try to join ended, if it did not fail.
enum Tried {
    Complete(Box<Complete>),
    /// The incumbent died, or has not begun to serve: look again.
    Again,
    /// The incumbent takes no successor before that time has passed.
    BackOff(std::time::Duration, Refusal),
}

pub(crate) async fn join(settings: Settings) -> Result<Starting> {
    spawn::detach_if_asked();
    limits::raise();
    let local = settings.local();
    // First of all: process 1 of a container cannot be stopped before.
    let mut signals = Signals::install(&settings)?;
    let found = tokio::select! {
        biased;
        signal = signals.stop() => {
            let why = format!("stopped by {signal}");
            return Err(Error::new(ErrorKind::Cancelled, doing(&settings.path), why));
        }
        found = find(&settings, &local) => found?,
    };
    match found {
        Place::First(ownership) => Ok(first(settings, local, signals, ownership)),
        Place::Successor(complete) => succeed(settings, local, signals, *complete),
    }
}

/// What this process is going to be.
enum Place {
    First(Ownership),
    Successor(Box<Complete>),
}

async fn find(settings: &Settings, local: &Local) -> Result<Place> {
    let deadline = Instant::now() + settings.timing.find;
    let mut backs_off = false;
    loop {
        let within = deadline.saturating_duration_since(Instant::now());
        let (stream, file) = match control::find(&settings.path, &settings.users, within).await? {
            Found::First(ownership) => return Ok(Place::First(ownership)),
            Found::Incumbent(stream, file) => (stream, file),
        };
        match try_join(settings, local, stream, file).await? {
            Tried::Complete(complete) => {
                make_room(&complete).await;
                return Ok(Place::Successor(complete));
            }
            Tried::Again if Instant::now() < deadline => sleep(ASK_AGAIN).await,
            Tried::Again => {
                let why = "the process there is still starting (deadline `find`)";
                return Err(Error::timed_out(doing(&settings.path), why));
            }
            // A supervisor that starts this version again and again gains nothing by doing so at once.
            Tried::BackOff(wait, refusal) if Instant::now() < deadline => {
                if !std::mem::replace(&mut backs_off, true) {
                    tracing::warn!(%refusal, "this process waits, at most for the deadline `find`");
                }
                sleep_until(deadline.min(Instant::now() + wait)).await;
            }
            Tried::BackOff(_, refusal) => {
                let fault = Fault::PeerFailed(refusal.to_string());
                return Err(Error::fault(doing(&settings.path), &fault, None));
            }
        }
    }
}

/// Room for the connections that are going to come, before they do.
async fn make_room(complete: &Complete) {
    let connections = complete.joined.occupancy.map_or(0, |there| there.connections);
    // The kernel may need a while for it.
    let _ = tokio::task::spawn_blocking(move || limits::make_room(connections)).await;
}

fn doing(path: &Path) -> String {
    format!("joining at {}", path.display())
}

fn first(settings: Settings, local: Local, signals: Signals, ownership: Ownership) -> Starting {
    // In this order: what is taken over is removed from the environment.
    let (misdirected, systemd::Passed { offered, states }) = (systemd::misdirected(), systemd::passed());
    let (release, abandon_listeners) = (settings.release, settings.abandon_listeners);
    let timing = settings.timing.clone();
    tracing::info!(path = %settings.path.display(), "first start: no process serves at this path");
    let (application, connections) = driver::start_first(settings, local, signals, ownership);
    let mut resources = Resources::default();
    if let Some(text) = &misdirected {
        tracing::warn!("{text}");
        resources.warnings.push(Warning::new("misdirected_sockets", text.clone()));
    }
    Starting {
        application,
        generation: Generation::FIRST,
        span: Span::none(),
        incumbent: None,
        in_probation: None,
        release,
        abandon_listeners,
        offered,
        state: HashMap::new(),
        stored: states,
        connections,
        timing,
        resources,
        misdirected,
        ready: Default::default(),
        failed: None,
        serving: Default::default(),
    }
}

fn succeed(settings: Settings, local: Local, signals: Signals, complete: Complete) -> Result<Starting> {
    // The incumbent has the sockets that count. Those of systemd must not stay open here: their clients would
    // wait for ever.
    drop(systemd::passed());
    let Complete { machine, joined, receiver, inventory } = complete;
    let Inventory { offered, state, links, ownership } = inventory;
    let (release, abandon_listeners) = (settings.release, settings.abandon_listeners);
    let timing = settings.timing.clone();
    let in_probation = links.iter().find(|(link, _)| link.probation).map(|(link, _)| link.process.clone());
    let span = link::span(&joined.handoff);
    tracing::info!(
        parent: &span,
        incumbent = %joined.incumbent,
        generation = %joined.generation,
        listeners = offered.len(),
        "joined"
    );
    let (generation, incumbent) = (joined.generation, joined.incumbent.clone());
    let inherited = Inherited { machine, joined, receiver, links, ownership };
    let (application, connections, failed) = driver::start_successor(settings, local, signals, inherited)?;
    Ok(Starting {
        application,
        generation,
        span,
        incumbent: Some(incumbent),
        in_probation,
        release,
        abandon_listeners,
        offered,
        state,
        stored: HashMap::new(),
        connections,
        timing,
        resources: Default::default(),
        misdirected: None,
        ready: Default::default(),
        failed: Some(failed),
        serving: Default::default(),
    })
}

async fn try_join(settings: &Settings, local: &Local, stream: UnixStream, file: SocketFile) -> Result<Tried> {
    let attempt =
        std::env::var(hotupdate_proto::environment::ATTEMPT).ok().filter(|attempt| !attempt.is_empty());
    let (machine, join) = Successor::join(std::time::Instant::now(), local.clone(), attempt);
    let mut machine = machine.with_max_descriptors(limits::most());
    let stream = Arc::new(stream);
    let mut receiver = Receiver::new(stream.clone(), b"");
    let write = settings.timing.write;

    let mut event = match call(&stream, &join, write).await {
        // An incumbent that hangs up without listening has said why: that can still be read.
        Ok(()) | Err(Fault::PeerGone) => answer(&mut receiver, machine.deadline()).await,
        Err(fault) => Event::Closed(fault),
    };
    let mut serves_on = None;
    let mut arrived = Arrived::new(peer_path(&stream), file);
    loop {
        match &event {
            Event::Replied(Err(Refusal::Starting | Refusal::NotServing)) => return Ok(Tried::Again),
            Event::Replied(Err(refusal @ Refusal::BackingOff { wait_ms, .. })) => {
                let wait = std::time::Duration::from_millis(*wait_ms);
                return Ok(Tried::BackOff(wait, refusal.clone()));
            }
            Event::Replied(Ok(joined)) => serves_on = Some(format!("process {}", joined.incumbent)),
            Event::Replied(Err(_)) => serves_on = Some("the process there".to_owned()),
            _ => {}
        }
        for effect in machine.handle(std::time::Instant::now(), event) {
            match effect {
                Effect::Send(message) => say(&stream, &message, write).await,
                Effect::Complete(joined) => {
                    let inventory = arrived.complete().map_err(|what| {
                        Error::fault(doing(&settings.path), &Fault::PeerMisbehaved(what), serves_on)
                    })?;
                    return Ok(Tried::Complete(Box::new(Complete { machine, joined, receiver, inventory })));
                }
                Effect::StartOver => return Ok(Tried::Again),
                Effect::Fail(fault) => {
                    return Err(Error::fault(doing(&settings.path), &fault, serves_on));
                }
                Effect::Close | Effect::Open(_) | Effect::Serve(_) | Effect::Rebound(_) => {}
                Effect::SendTo(..) | Effect::Read(_) => {}
            }
        }
        event = match next(&mut receiver, machine.deadline()).await {
            Ok((message, descriptors)) => match arrived.take(&message, descriptors) {
                Ok(()) => Event::Message(message),
                Err(what) => Event::Closed(Fault::PeerMisbehaved(what)),
            },
            Err(event) => event,
        };
    }
}

fn peer_path(stream: &UnixStream) -> Option<PathBuf> {
    stream.peer_addr().ok()?.as_pathname().map(Path::to_owned)
}

async fn call(stream: &UnixStream, join: &Join, write: std::time::Duration) -> Result<(), Fault> {
    let local = |error: &dyn std::fmt::Display| Fault::Local(format!("calling `Join`: {error}"));
    let parameters = match serde_json::to_value(join) {
        Ok(Value::Object(parameters)) => parameters,
        Ok(_) => return Err(local(&"not an object")),
        Err(error) => return Err(local(&error)),
    };
    let call =
        Call { method: format!("{INTERFACE}.Join"), parameters, oneway: false, more: false, upgrade: true };
    let bytes = frame::encode(&call).map_err(|error| local(&error))?;
    match channel::send(stream, &bytes, &[], Instant::now() + write).await {
        // A caller that is not allowed is told so before it has said anything: that is what is read next.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        sent => sent.map_err(|error| local(&error)),
    }
}

/// The reply to `Join`.
async fn answer(receiver: &mut Receiver, deadline: Option<std::time::Instant>) -> Event {
    let frame = tokio::select! {
        frame = receiver.frame() => frame,
        () = until(deadline) => return Event::Tick,
    };
    match frame.and_then(|frame| parse_reply(&frame)) {
        Ok(replied) => Event::Replied(replied),
        Err(fault) => Event::Closed(fault),
    }
}

fn parse_reply(frame: &[u8]) -> Result<Result<Joined, Refusal>, Fault> {
    let nonsense =
        |what: &dyn std::fmt::Display| Fault::PeerMisbehaved(format!("its reply to `Join`: {what}"));
    let Reply { parameters, error, .. } = frame::decode(frame).map_err(|error| nonsense(&error))?;
    let Some(error) = error else {
        return serde_json::from_value(Value::Object(parameters)).map(Ok).map_err(|error| nonsense(&error));
    };
    if let Some(refusal) =
        parameters.get("refusal").and_then(|refusal| serde_json::from_value(refusal.clone()).ok())
    {
        return Ok(Err(refusal));
    }
    let reason = parameters.get("reason").and_then(Value::as_str).unwrap_or(&error).to_owned();
    // A version that is not spoken here may have other words for its refusals; their names stay.
    match error.strip_prefix(INTERFACE) {
        // All there is to say of these two.
        Some(".Starting") => Ok(Err(Refusal::Starting)),
        Some(".NotServing") => Ok(Err(Refusal::NotServing)),
        Some(".Incompatible") => Err(Fault::PeerIncompatible(reason)),
        _ => Err(Fault::PeerFailed(reason)),
    }
}

async fn next(
    receiver: &mut Receiver,
    deadline: Option<std::time::Instant>,
) -> Result<(Message, Vec<OwnedFd>), Event> {
    tokio::select! {
        message = receiver.message() => message.map_err(Event::Closed),
        () = until(deadline) => Err(Event::Tick),
    }
}

async fn say(stream: &UnixStream, message: &Message, write: std::time::Duration) {
    if let Ok(bytes) = frame::encode_message(message) {
        // A dead incumbent is noticed by reading.
        let _ = channel::send(stream, &bytes, &[], Instant::now() + write).await;
    }
}

impl Arrived {
    fn new(reached: Option<PathBuf>, file: SocketFile) -> Self {
        Self {
            reached,
            file,
            cookies: HashMap::new(),
            offered: Vec::new(),
            state: HashMap::new(),
            links: Vec::new(),
            ownership: None,
        }
    }

    /// Checks that descriptors are what their message says, before the machine acknowledges them.
    fn take(&mut self, message: &Message, descriptors: Vec<OwnedFd>) -> Result<(), String> {
        match message {
            Message::Listeners { items, .. } => {
                for (item, fd) in items.iter().zip(descriptors) {
                    if self.offered.iter().any(|offered| offered.name == item.name) {
                        return Err(format!("the listener {:?} is offered twice", item.name));
                    }
                    let offered = Offered::check(item, fd)?;
                    if offered.kind != ListenerKind::Other
                        && item.cookie != 0
                        && let Some(known) = self.cookies.insert(item.cookie, item.name.clone())
                    {
                        return Err(format!(
                            "the listeners {known:?} and {:?} are the same socket",
                            item.name
                        ));
                    }
                    self.offered.push(offered);
                }
            }
            Message::State { items, .. } => {
                for (item, fd) in items.iter().zip(descriptors) {
                    sealed::check(item, &fd)?;
                    self.state.insert(item.name.clone(), state::Arrived::new(item.clone(), fd));
                }
            }
            Message::Links { items, .. } => self.links.extend(items.iter().cloned().zip(descriptors)),
            Message::Control { .. } => {
                let [listener, lock] =
                    <[OwnedFd; 2]>::try_from(descriptors).map_err(|_| "two descriptors were due")?;
                let ownership = Ownership { listener, lock, file: self.file };
                control::check_inherited(&ownership, self.reached.as_deref())?;
                self.ownership = Some(ownership);
            }
            _ => {}
        }
        Ok(())
    }

    fn complete(self) -> Result<Inventory, String> {
        let Self { reached: _, file: _, cookies: _, offered, state, links, ownership } = self;
        let ownership = ownership.ok_or("the inventory came without the control socket")?;
        Ok(Inventory { offered, state, links, ownership })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replied(error: &str) -> Result<Result<Joined, Refusal>, Fault> {
        parse_reply(
            format!(r#"{{"error":"io.hotupdate.{error}","parameters":{{"reason":"why"}}}}"#).as_bytes(),
        )
    }

    /// A peer in another language need not say more than the name of an error and a reason.
    #[test]
    fn the_name_of_an_error_says_whether_to_look_again() {
        assert_eq!(replied("Starting"), Ok(Err(Refusal::Starting)));
        assert_eq!(replied("NotServing"), Ok(Err(Refusal::NotServing)));
        assert_eq!(replied("Incompatible"), Err(Fault::PeerIncompatible("why".to_owned())));
        assert_eq!(replied("Busy"), Err(Fault::PeerFailed("why".to_owned())));
    }
}
