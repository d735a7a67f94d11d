//! One HTTP/2 connection: served, and taken out of hyper alive to migrate: when no stream is open, or without
//! those that are.
//!
//! hyper is served on a layer that follows the frames (`hotupdate-h2`), so that the connection has never to
//! say that it leaves. GOAWAY is for what cannot migrate; its client opens a new connection without losing a
//! request (RFC 9113, section 6.8).

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use axum::body::Body;
use hotupdate::connections::{GoAway, MAX_STATE, RelayPair};
use hotupdate::drain::{Phase, Plan};
use hotupdate_h2::{Handle, Layer, Limits, State, Stays};
use hotupdate_proto::timing::fixed::http::{RELAY_AGAIN, SPLIT};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Sleep, sleep, sleep_until};

use crate::app::BoxError;
use crate::carrier::{MigrateRelayed, Relayed};
use crate::detect::Protocol;
use crate::io::Io;
use crate::migration::{Spoken, http2_bytes};
use crate::service::Tracked;
use crate::settings::Http2;
use crate::watch::Watch;

/// So much of new streams waits while old ones finish. What else travels with a connection, mostly the header
/// table of its client and what was read last, has as much room.
const HELD: usize = MAX_STATE / 2;

/// Serves until the client closes or the process lets go of it, from the first byte or from where an earlier
/// version has come to. Returns the connection, and where it stands, if it shall migrate.
pub(crate) async fn serve<T, S>(
    io: Io<T>,
    spoken: Spoken,
    service: S,
    watch: &mut Watch,
    settings: &Http2,
    migrate_relayed: MigrateRelayed<T>,
) -> Option<(Io<T>, Box<State>)>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    S: Service<Request<Incoming>, Response = Response<Tracked<Body>>, Error = BoxError>,
    S::Future: Send + 'static,
{
    watch.set_protocol(Some(Protocol::Http2));
    let mut limits = Limits::default();
    limits.held = HELD;
    let builder = settings.builder(spoken.http2().map(State::server_settings));
    let (layer, handle) = match spoken {
        Spoken::Http2(state) => Layer::resume(io, *state, limits),
        Spoken::Relayed(state, relay) => Layer::join(io, *state, relay, limits),
        Spoken::Unknown | Spoken::Http1 => Layer::new(io, limits),
    };
    let handle = {
        let mut hyper = pin!(builder.serve_connection(TokioIo::new(layer), service));
        let mut departure = Departure::Unasked;
        loop {
            match next(hyper.as_mut(), &handle, &mut departure, watch).await {
                Event::Ended(Ok(())) | Event::TimedOut => break handle,
                Event::Ended(Err(error)) => {
                    tracing::debug!(%error, "an HTTP/2 connection failed");
                    break handle;
                }
                Event::Phase(Phase::Forced) => return None,
                Event::Phase(_) => {}
                Event::Migrates => match handle.take() {
                    Ok((io, state)) => return Some((io, Box::new(state))),
                    Err((_, why)) => unreachable!("it was at rest: {why}"),
                },
                Event::Splits => match RelayPair::new() {
                    Ok(pair) => departure = leave_streams(&handle, watch, migrate_relayed, pair).await?,
                    Err(error) => {
                        tracing::debug!(%error, "no pair of sockets: an HTTP/2 connection stays for now");
                        departure.has_no_relay(&handle, watch);
                    }
                },
                // Streams in flight finish. It cannot be taken back; if the drain is, the client just comes
                // again.
                Event::Leaves(why) => {
                    tracing::debug!(%why, "an HTTP/2 connection gets GOAWAY");
                    watch.activity().set_goaway(why.reason());
                    hyper.as_mut().graceful_shutdown();
                }
            }
        }
    };
    if let Some(io) = handle.into_io() {
        watch.close(io).await;
    }
    None
}

/// Migrates the connection without its streams, which hyper goes on with here: over a relay, or over the
/// connection if it comes back. `None` if both are lost.
///
/// hyper is not polled meanwhile. Handlers go on, and what they answer waits for the few milliseconds.
async fn leave_streams<T>(
    handle: &Handle<Io<T>>,
    watch: &mut Watch,
    migrate_relayed: MigrateRelayed<T>,
    pair: RelayPair,
) -> Option<Departure> {
    let (io, state) = match handle.take_split() {
        Ok(taken) => taken,
        Err(why) => unreachable!("it was ready: {why}"),
    };
    let (carrier, unread, activity) = io.into_parts();
    let migrated = migrate_relayed(carrier, http2_bytes(&state, &unread), pair).await;
    watch.slot().release();
    match migrated {
        Relayed::Migrated(near) => {
            handle.relay(near);
            Some(Departure::Gone)
        }
        Relayed::Stays(carrier) => {
            let mut io = Io::new(carrier, activity);
            io.give_back(unread);
            handle.give_back(io, state);
            Some(Departure::Unasked)
        }
        Relayed::Lost => None,
    }
}

/// What has become of a connection, or has to be done about it.
#[derive(Debug)]
enum Event {
    Ended(hyper::Result<()>),
    /// The process wants something else.
    Phase(Phase),
    /// It is at rest, and has a slot.
    Migrates,
    /// The connection can go, its streams cannot, and it has a slot.
    Splits,
    /// It cannot migrate, for this reason.
    Leaves(Why),
    /// It was told to leave, no stream is open, and it does not go.
    TimedOut,
}

/// Why a connection gets GOAWAY.
#[derive(Clone, Copy, Debug, thiserror::Error)]
enum Why {
    #[error("no other process accepts it")]
    NotAccepted,
    #[error("{0}")]
    Stays(Stays),
}

impl Why {
    /// As it is counted.
    fn reason(self) -> GoAway {
        match self {
            Self::NotAccepted => GoAway::NotAccepted,
            Self::Stays(Stays::Streams(_) | Stays::Relayed(_) | Stays::Held) => GoAway::Streams,
            Self::Stays(Stays::Settings(_)) => GoAway::Settings,
            Self::Stays(_) => GoAway::Client,
        }
    }
}

/// Polls the connection until something has to be done.
async fn next<T, H>(
    mut hyper: Pin<&mut H>,
    handle: &Handle<Io<T>>,
    departure: &mut Departure,
    watch: &mut Watch,
) -> Event
where
    T: AsyncWrite + Unpin,
    H: Future<Output = hyper::Result<()>>,
{
    poll_fn(|cx| {
        if let Poll::Ready(phase) = watch.poll_change(cx) {
            return Poll::Ready(Event::Phase(phase));
        }
        // What has arrived is served, whatever the phase.
        if let Poll::Ready(ended) = hyper.as_mut().poll(cx) {
            return Poll::Ready(Event::Ended(ended));
        }
        // hyper does not say when a tunnel ends, and the frames do.
        if watch.activity().is_upgraded() && !handle.is_open_up_to(u32::MAX) {
            watch.activity().set_upgrade_ended();
        }
        match watch.phase() {
            Phase::Draining(plan) => departure.poll(&plan, handle, watch, cx),
            _ => {
                departure.cancel(handle);
                watch.slot().release();
                Poll::Pending
            }
        }
    })
    .await
}

/// How a connection leaves a process that drains.
#[derive(Debug)]
enum Departure {
    /// It has not been its turn yet.
    Unasked,
    /// It has a slot, and new streams wait until then for those that are open.
    Holds(Pin<Box<Sleep>>),
    /// Those that are open stay here, and all that the client says waits until the connection has gone.
    Splits(Pin<Box<Sleep>>),
    /// It could not go.
    Blocked(Blocked),
    /// It has gone, and what is left are its streams.
    Gone,
    /// It was told to leave.
    Told,
}

/// A connection that has to stay for now. It is tried again when it is at rest by chance, and when something
/// else has changed that was in the way.
#[derive(Debug)]
struct Blocked {
    /// Streams were open, up to this number.
    open: Option<u32>,
    /// When it is worth another try to leave them here.
    split: Split,
    /// When it is given up.
    until: Pin<Box<Sleep>>,
}

/// When a connection that could not leave without its open streams tries that again.
#[derive(Debug)]
enum Split {
    /// Its streams are not all its own, or something has to be answered first.
    WhenItCan,
    /// This process is short of something, and it has nothing to do with this connection.
    At(Pin<Box<Sleep>>),
    /// The process that serves takes no such connection, or it took too long.
    Never,
}

impl Blocked {
    fn new<T>(split: Split, plan: &Plan, handle: &Handle<T>, watch: &Watch) -> Self {
        let open = handle.is_open_up_to(u32::MAX).then(|| handle.last_stream());
        let scheduled = plan.scheduled_close(watch.activity().id());
        let until = match handle.relayed() {
            0 => scheduled,
            // The version before began to drain before this one did: they end there at its deadline, at the
            // latest, and then the connection can go.
            _ => scheduled.max(plan.until - plan.grace.min(plan.until - plan.since)),
        };
        Self { open, split, until: Box::pin(sleep_until(until)) }
    }

    /// Whether it is worth another try.
    fn is_over<T>(&mut self, handle: &Handle<T>, cx: &mut Context<'_>) -> bool {
        let Self { open, split, until: _ } = self;
        let splits = match split {
            Split::WhenItCan => handle.can_split().is_ok(),
            Split::At(time) => time.as_mut().poll(cx).is_ready(),
            Split::Never => false,
        };
        splits || open.is_some_and(|last| !handle.is_open_up_to(last))
    }
}

impl Departure {
    /// Until there is a relay the client is served as before.
    fn has_no_relay<T>(&mut self, handle: &Handle<T>, watch: &mut Watch) {
        handle.unsplit();
        handle.release();
        watch.slot().release();
        *self = match watch.phase() {
            Phase::Draining(plan) => {
                let split = Split::At(Box::pin(sleep(RELAY_AGAIN)));
                Self::Blocked(Blocked::new(split, &plan, handle, watch))
            }
            _ => Self::Unasked,
        };
    }

    /// The process serves again.
    fn cancel<T>(&mut self, handle: &Handle<T>) {
        match self {
            Self::Unasked | Self::Gone | Self::Told => return,
            Self::Splits(_) => handle.unsplit(),
            Self::Holds(_) | Self::Blocked(_) => {}
        }
        handle.release();
        *self = Self::Unasked;
    }

    /// Right after hyper was polled.
    fn poll<T: AsyncWrite + Unpin>(
        &mut self,
        plan: &Plan,
        handle: &Handle<Io<T>>,
        watch: &mut Watch,
        cx: &mut Context<'_>,
    ) -> Poll<Event> {
        loop {
            if let Some(why) = self.cannot(handle, watch) {
                return self.leaves(why, handle, watch);
            }
            match self {
                Self::Gone => {
                    watch.slot().release();
                    return Poll::Pending;
                }
                // It goes when they have ended.
                Self::Told if handle.relayed() > 0 => return Poll::Pending,
                Self::Told => return watch.poll_idle(cx).map(|()| Event::TimedOut),
                Self::Unasked if handle.relayed() > 0 => {
                    *self = Self::Blocked(Blocked::new(Split::WhenItCan, plan, handle, watch));
                }
                Self::Unasked => {
                    ready!(watch.slot().poll_acquire(cx));
                    handle.hold();
                    *self = Self::Holds(Box::pin(sleep(plan.hold)));
                }
                Self::Holds(until) => match handle.poll_rest(cx) {
                    Poll::Ready(Ok(())) => return Poll::Ready(Event::Migrates),
                    Poll::Pending if until.as_mut().poll(cx).is_pending() => return Poll::Pending,
                    // Too long, or too much was held.
                    Poll::Pending | Poll::Ready(Err(_)) => {
                        if watch.can_migrate_relayed() && handle.can_split().is_ok() {
                            handle.split();
                            *self = Self::Splits(Box::pin(sleep(SPLIT)));
                        } else {
                            let split =
                                if watch.can_migrate_relayed() { Split::WhenItCan } else { Split::Never };
                            self.stays(split, plan, handle, watch, cx);
                        }
                    }
                },
                Self::Splits(until) => match handle.poll_split(cx) {
                    Poll::Ready(Ok(())) => return Poll::Ready(Event::Splits),
                    Poll::Pending if until.as_mut().poll(cx).is_pending() => return Poll::Pending,
                    Poll::Pending | Poll::Ready(Err(_)) => {
                        handle.unsplit();
                        self.stays(Split::Never, plan, handle, watch, cx);
                    }
                },
                Self::Blocked(blocked) => {
                    watch.slot().release();
                    let Err(why) = handle.rest() else {
                        *self = Self::Unasked;
                        continue;
                    };
                    if blocked.is_over(handle, cx) {
                        *self = Self::Unasked;
                        continue;
                    }
                    ready!(blocked.until.as_mut().poll(cx));
                    return self.leaves(Why::Stays(why), handle, watch);
                }
            }
        }
    }

    /// For now.
    fn stays<T>(&mut self, split: Split, plan: &Plan, handle: &Handle<T>, watch: &Watch, cx: &Context<'_>) {
        handle.release();
        *self = Self::Blocked(Blocked::new(split, plan, handle, watch));
        // What was held can be read, and hyper has to be told.
        cx.waker().wake_by_ref();
    }

    /// Why it cannot migrate, whatever it does.
    fn cannot<T>(&self, handle: &Handle<T>, watch: &Watch) -> Option<Why> {
        if matches!(self, Self::Gone | Self::Told) {
            return None;
        }
        if !watch.can_migrate_http2() {
            return Some(Why::NotAccepted);
        }
        // It may have been too much just now.
        handle.rest().err().filter(|why| why.is_final() && *why != Stays::Held).map(Why::Stays)
    }

    fn leaves<T>(&mut self, why: Why, handle: &Handle<T>, watch: &mut Watch) -> Poll<Event> {
        if matches!(self, Self::Splits(_)) {
            handle.unsplit();
        }
        handle.release();
        watch.slot().release();
        *self = Self::Told;
        Poll::Ready(Event::Leaves(why))
    }
}
