//! Accepting callers on the control socket: how many at a time, and which users.
//!
//! Deliberately absent: what they say, see [`super::session`].

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hotupdate_proto::{ListenerKind, Refusal};
use tokio::net::UnixStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::ownership::Ownership;
use super::replies;
use super::reserve::Reserve;
use super::session::{self, SessionConfig};
use super::user::{is_known, may};
use crate::address::Address;
use crate::listeners::gate::{Gate, GateControl};
use crate::listeners::stream::Acceptor;
use crate::rate_limited_log::RateLimitedLog;

/// Callers on the control socket at the same time; they cost a descriptor each. If more come, the one that has been silent
/// longest has to go, and if none is silent the newest is turned away.
const MAX_SESSIONS: usize = 256;

/// How long a caller waits for the place of one that is silent.
const CROWDED_PAUSE: Duration = Duration::from_millis(10);

/// How many of those that are silent are asked for their place.
const CROWDED_TRIES: u32 = 5;

/// How long accepting callers pauses after an error, such as being out of descriptors, and between two looks for more.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The path's listener and its lock.
pub(crate) struct Control {
    pub(crate) gate: Arc<Gate<Acceptor>>,
    lock: OwnedFd,
}

impl Drop for Control {
    /// The task that accepts callers holds the gate as long as it is not closed.
    fn drop(&mut self) {
        self.gate.close();
    }
}

impl Control {
    /// Callers are accepted as soon as the gate is open.
    pub(crate) fn new(ownership: Ownership, path: &Path, config: SessionConfig, allowed: Vec<u32>) -> Self {
        let Ownership { listener, lock } = ownership;
        let address = Address::Unix(Some(path.to_owned()));
        let gate = Gate::parked("control", ListenerKind::Unix, address, listener);
        tokio::spawn(accept_callers(gate.clone(), config, allowed));
        Self { gate, lock }
    }

    pub(crate) fn ownership(&self) -> io::Result<Ownership> {
        Ok(Ownership { listener: self.gate.duplicate()?, lock: self.lock.try_clone()? })
    }
}

/// The next caller. Meanwhile what is missing of the reserve is taken as soon as there is room.
async fn next_caller(gate: &Gate<Acceptor>, reserve: &Reserve) -> Option<io::Result<UnixStream>> {
    loop {
        tokio::select! {
            accepted = gate.accept_caller() => return accepted,
            () = tokio::time::sleep(ACCEPT_PAUSE), if reserve.is_short() => drop(reserve.fill()),
        }
    }
}

async fn accept_callers(gate: Arc<Gate<Acceptor>>, config: SessionConfig, allowed: Vec<u32>) {
    let slots = Arc::new(Semaphore::new(MAX_SESSIONS));
    let reserve = Reserve::default();
    // What is missing is taken later.
    let _ = reserve.fill();
    let (log, mut told) = (RateLimitedLog::default(), false);
    while let Some(accepted) = next_caller(&gate, &reserve).await {
        let stream: UnixStream = match accepted {
            Ok(stream) => stream,
            // One that was held back makes room.
            Err(_) if reserve.spend() => continue,
            Err(error) => {
                if !std::mem::replace(&mut told, true)
                    && let Some(suppressed) = log.due()
                {
                    tracing::warn!(%error, "callers on the control socket cannot be accepted{suppressed}");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        told = false;
        let uid = stream.peer_cred().map_or(u32::MAX, |credentials| credentials.uid());
        if !may(uid, &allowed) {
            let refusal = Refusal::NotAllowed { uid };
            let unknown = if is_known(uid) { "" } else { ", or a user that our user namespace does not map" };
            config.complain(format!("{refusal}{unknown}"));
            tokio::spawn(session::refuse(stream, replies::refused(&refusal), config.write));
            continue;
        }
        let slot = match slots.clone().try_acquire_owned() {
            Ok(slot) => Some(slot),
            Err(_) => make_room(&slots, &config).await,
        };
        let Some(slot) = slot else {
            tokio::spawn(session::refuse(stream, replies::crowded(), Duration::ZERO));
            continue;
        };
        let (config, reserve) = (config.clone(), reserve.clone());
        tokio::spawn(async move {
            session::serve(stream, config).await;
            drop(slot);
            let _ = reserve.fill();
        });
    }
}

/// A flood of callers that say nothing must not keep out one that has something to say, so it pushes itself out.
async fn make_room(slots: &Arc<Semaphore>, config: &SessionConfig) -> Option<OwnedSemaphorePermit> {
    config.complain(format_args!("too many callers on the control socket, at most {MAX_SESSIONS} at a time"));
    let mut slot = pin!(slots.clone().acquire_owned());
    // The first may just have said something; then it is the next one's turn.
    for _ in 0..CROWDED_TRIES {
        config.idle_callers.dismiss_one();
        if let Ok(slot) = timeout(CROWDED_PAUSE, &mut slot).await {
            return slot.ok();
        }
    }
    None
}
