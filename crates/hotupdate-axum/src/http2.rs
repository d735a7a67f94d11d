//! One HTTP/2 connection: served, and taken out of hyper alive when no stream is open, to migrate.
//!
//! hyper is served on a layer that follows the frames (`hotupdate-h2`), so that the connection has never to
//! say that it leaves. GOAWAY is for what cannot migrate; its client opens a new connection without losing a
//! request (RFC 9113, section 6.8).

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use axum::body::Body;
use hotupdate::connections::{GoAway, MAX_STATE};
use hotupdate::drain::{Phase, Plan};
use hotupdate_h2::{Handle, Layer, Limits, State, Stays};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Sleep, sleep, sleep_until};

use crate::app::BoxError;
use crate::detect::Protocol;
use crate::io::Io;
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
    state: Option<Box<State>>,
    service: S,
    watch: &mut Watch,
    settings: &Http2,
) -> Option<(Io<T>, Box<State>)>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    S: Service<Request<Incoming>, Response = Response<Tracked<Body>>, Error = BoxError>,
    S::Future: Send + 'static,
{
    watch.set_protocol(Some(Protocol::Http2));
    let builder = settings.builder(state.as_ref().map(|state| state.server_settings()));
    let mut limits = Limits::default();
    limits.held = HELD;
    let (layer, handle) = match state {
        None => Layer::new(io, limits),
        Some(state) => Layer::resume(io, *state, limits),
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
        watch.close(io.into_inner()).await;
    }
    None
}

/// What has become of a connection, or has to be done about it.
#[derive(Debug)]
enum Event {
    Ended(hyper::Result<()>),
    /// The process wants something else.
    Phase(Phase),
    /// It is at rest, and has a slot.
    Migrates,
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
            Self::Stays(Stays::Streams(_) | Stays::Held) => GoAway::Streams,
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
    /// It did not come to rest in time. It is tried again when the streams have ended that were open then, up
    /// to this number, or when it is at rest by chance; and given up at this moment.
    Blocked(Option<u32>, Pin<Box<Sleep>>),
    /// It was told to leave.
    Told,
}

impl Departure {
    /// The process serves again.
    fn cancel<T>(&mut self, handle: &Handle<T>) {
        match self {
            Self::Unasked | Self::Told => {}
            Self::Holds(_) | Self::Blocked(..) => {
                handle.release();
                *self = Self::Unasked;
            }
        }
    }

    /// Right after hyper was polled.
    fn poll<T>(
        &mut self,
        plan: &Plan,
        handle: &Handle<T>,
        watch: &mut Watch,
        cx: &mut Context<'_>,
    ) -> Poll<Event> {
        loop {
            if let Some(why) = self.cannot(handle, watch) {
                return self.leaves(why, handle, watch);
            }
            match self {
                Self::Told => return watch.poll_idle(cx).map(|()| Event::TimedOut),
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
                        handle.release();
                        let open = handle.is_open_up_to(u32::MAX).then(|| handle.last_stream());
                        let given_up = plan.scheduled_close(watch.activity().id());
                        *self = Self::Blocked(open, Box::pin(sleep_until(given_up)));
                        // What was held can be read, and hyper has to be told.
                        cx.waker().wake_by_ref();
                    }
                },
                Self::Blocked(open, until) => {
                    watch.slot().release();
                    let Err(why) = handle.rest() else {
                        *self = Self::Unasked;
                        continue;
                    };
                    if open.is_some_and(|last| !handle.is_open_up_to(last)) {
                        *self = Self::Unasked;
                        continue;
                    }
                    ready!(until.as_mut().poll(cx));
                    return self.leaves(Why::Stays(why), handle, watch);
                }
            }
        }
    }

    /// Why it cannot migrate, whatever it does.
    fn cannot<T>(&self, handle: &Handle<T>, watch: &Watch) -> Option<Why> {
        if matches!(self, Self::Told) {
            return None;
        }
        if !watch.can_migrate_http2() {
            return Some(Why::NotAccepted);
        }
        // It may have been too much just now.
        handle.rest().err().filter(|why| why.is_final() && *why != Stays::Held).map(Why::Stays)
    }

    fn leaves<T>(&mut self, why: Why, handle: &Handle<T>, watch: &mut Watch) -> Poll<Event> {
        handle.release();
        watch.slot().release();
        *self = Self::Told;
        Poll::Ready(Event::Leaves(why))
    }
}
