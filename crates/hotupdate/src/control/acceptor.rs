//! Accepting callers on the control socket: how many at a time, and which users.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hotupdate_proto::timing::fixed::control::{ACCEPT_PAUSE, LEAVING};
use hotupdate_proto::{ListenerKind, Refusal, SocketFile};
use tokio::net::UnixStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::ownership::Ownership;
use super::replies;
use super::reserve::Reserve;
use super::session::{self, Caller, SessionConfig};
use super::upkeep::Upkeep;
use super::user::{Users, is_known};
use crate::address::Address;
use crate::listeners::gate::{Gate, GateControl};
use crate::listeners::stream::Acceptor;
use crate::rate_limited_log::RateLimitedLog;

/// Callers on the control socket at the same time; they cost a descriptor each. If more come, the one that
/// has been idle longest has to leave, and if none is idle the newest is turned away.
pub(super) const MAX_SESSIONS: usize = 256;

/// The path's listener and its lock.
pub(crate) struct Control {
    pub(crate) gate: Arc<Gate<Acceptor>>,
    lock: OwnedFd,
    file: SocketFile,
}

impl Drop for Control {
    /// The task that accepts callers holds the gate as long as it is not closed.
    fn drop(&mut self) {
        self.gate.close();
    }
}

impl Control {
    /// Callers are accepted as soon as the gate is open.
    pub(crate) fn new(ownership: Ownership, path: &Path, config: SessionConfig, users: Users) -> Self {
        let Ownership { listener, lock, file } = ownership;
        let address = Address::Unix(Some(path.to_owned()));
        let gate = Gate::parked("control", ListenerKind::Unix, address, listener);
        tokio::spawn(accept_callers(gate.clone(), config, users));
        Self { gate, lock, file }
    }

    /// Looks whether it is at its path; returns what takes its place if it is not.
    pub(crate) fn look(&self, upkeep: &mut Upkeep) -> Option<Ownership> {
        upkeep.look(self.lock.as_fd(), self.file, || self.ownership())
    }

    pub(crate) fn ownership(&self) -> io::Result<Ownership> {
        Ok(Ownership { listener: self.gate.duplicate()?, lock: self.lock.try_clone()?, file: self.file })
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

async fn accept_callers(gate: Arc<Gate<Acceptor>>, config: SessionConfig, users: Users) {
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
        let Some(right) = users.right_of(uid) else {
            let refusal = Refusal::NotAllowed { uid };
            let unknown = if is_known(uid) { "" } else { ", or a user that our user namespace does not map" };
            config.complain(format!("{refusal}{unknown}"));
            tokio::spawn(session::refuse(stream, replies::refused(&refusal), config.write));
            continue;
        };
        let Some(place) = place(&config).await else {
            tokio::spawn(session::refuse(stream, replies::crowded(), Duration::ZERO));
            continue;
        };
        let (config, reserve) = (config.clone(), reserve.clone());
        tokio::spawn(async move {
            session::serve(stream, Caller { uid, right }, config).await;
            drop(place);
            let _ = reserve.fill();
        });
    }
}

/// A place for another caller. If all are taken, the caller that has been idle longest leaves for it, so that
/// a flood of callers that say nothing pushes itself out.
async fn place(config: &SessionConfig) -> Option<OwnedSemaphorePermit> {
    if let Ok(place) = config.places.clone().try_acquire_owned() {
        return Some(place);
    }
    config.complain(format_args!("too many callers on the control socket, at most {MAX_SESSIONS} at a time"));
    config.idle.notify_one();
    let place = timeout(LEAVING, config.places.clone().acquire_owned()).await;
    // If none was idle, the first to fall idle later must not leave for a caller that is gone.
    pin!(config.idle.notified()).enable();
    place.ok()?.ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifecycle::Lifecycle;
    use hotupdate_proto::Timing;
    use std::pin::Pin;
    use std::task::{Context, Waker};
    use tokio::sync::{mpsc, watch};

    fn config() -> SessionConfig {
        let (requests, lifecycle) = (mpsc::channel(1).0, watch::channel(Lifecycle::Serving).1);
        SessionConfig::new("process 1".into(), &Timing::default(), requests, lifecycle)
    }

    /// With so many places.
    fn config_of(places: usize) -> SessionConfig {
        let config = config();
        config.places.forget_permits(MAX_SESSIONS - places);
        config
    }

    fn is_pending(future: Pin<&mut impl Future>) -> bool {
        future.poll(&mut Context::from_waker(Waker::noop())).is_pending()
    }

    #[tokio::test]
    async fn the_caller_that_has_been_idle_longest_leaves() {
        let config = config_of(2);
        let [one, two] = [place(&config).await.unwrap(), place(&config).await.unwrap()];
        let (mut later, mut longest) = (pin!(config.place_is_needed()), pin!(config.place_is_needed()));
        assert!(is_pending(longest.as_mut()) && is_pending(later.as_mut()));
        let leaves = async {
            longest.await;
            drop(one);
        };
        let (third, ()) = tokio::join!(place(&config), leaves);
        assert!(third.is_some());
        assert!(is_pending(later), "one was enough");
        drop(two);
    }

    #[tokio::test]
    async fn a_caller_that_falls_idle_too_late_stays() {
        let config = config_of(1);
        let _busy = place(&config).await.unwrap();
        assert!(place(&config).await.is_none(), "the newest is turned away");
        assert!(is_pending(pin!(config.place_is_needed())));
    }

    #[tokio::test]
    async fn a_caller_stays_as_long_as_there_are_places() {
        let config = config_of(2);
        let _one = place(&config).await.unwrap();
        // It hung up in the moment in which it had to leave.
        config.idle.notify_one();
        assert!(is_pending(pin!(config.place_is_needed())));
    }
}
