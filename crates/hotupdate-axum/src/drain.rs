//! The extractor that tells a handler that its process drains.
//!
//! Deliberately absent: stopping the handler. A handler that does not listen is cut off at the deadline of
//! the drain.

use std::convert::Infallible;
use std::future::pending;

use axum::extract::FromRequestParts;
use futures_util::{Stream, StreamExt as _};
use hotupdate::Address;
use hotupdate::connections::ConnectionActivity;
use hotupdate::drain::{Phase, Plan};
use http::request::Parts;
use tokio::time::Instant;

use crate::service::{ConnectionContext, answered};

/// Tells a handler that its process drains: the next version serves already, and this request should end
/// soon.
///
/// For handlers that would otherwise go on for long: server-sent events, long polls, WebSockets. It never
/// fails; outside of [`serve`](crate::serve()) it never drains, so tests of handlers need nothing. Services
/// without extractors call [`Draining::current`].
///
/// It has to be extracted by the task that answers the request. A middleware that hands requests on to other
/// tasks (`tokio::spawn(next.run(request))`) extracts it before that, or the server is told to put it into
/// the extensions of each request, with [`Serve::connect_info`](crate::Serve::connect_info).
///
/// ```
/// use axum::response::IntoResponse;
/// use hotupdate_axum::Draining;
///
/// # async fn news() -> Option<String> { None }
/// async fn long_poll(draining: Draining) -> impl IntoResponse {
///     tokio::select! {
///         news = news() => news.unwrap_or_default(),
///         () = draining.started() => String::new(),      // ask again: the new version answers
///     }
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Draining {
    connection: Option<ConnectionActivity>,
    /// Whether the connection comes back from hyper as it was given to it, so that it can migrate.
    #[cfg_attr(not(feature = "ws"), expect(dead_code, reason = "only WebSockets ask"))]
    pub(crate) migrates: bool,
}

impl Draining {
    pub(crate) fn of(activity: &ConnectionActivity, migrates: bool) -> Self {
        Self { connection: Some(activity.clone()), migrates }
    }

    /// That of the request which this task is just answering, as the extractor would have it; outside of that
    /// one that never drains.
    ///
    /// ```
    /// use std::convert::Infallible;
    ///
    /// use axum::body::Body;
    /// use http::{Request, Response};
    /// use hotupdate_axum::Draining;
    ///
    /// async fn answer(_: Request<Body>) -> Result<Response<Body>, Infallible> {
    ///     let draining = Draining::current();
    ///     Ok(Response::new(if draining.is_draining() { "draining" } else { "ok" }.into()))
    /// }
    ///
    /// # fn is_app(_: impl hotupdate_axum::App) {}
    /// # is_app(tower::service_fn(answer));
    /// ```
    #[must_use]
    pub fn current() -> Self {
        answered(ConnectionContext::draining).unwrap_or_else(Self::never)
    }

    /// That of this request, if its connection is known.
    pub(crate) fn find(parts: &Parts) -> Option<Self> {
        parts.extensions.get().cloned().or_else(|| answered(ConnectionContext::draining))
    }

    pub(crate) fn peer_addr(&self) -> Option<&Address> {
        self.connection.as_ref().map(ConnectionActivity::peer_addr)
    }

    fn never() -> Self {
        Self { connection: None, migrates: false }
    }

    /// Whether the process drains now.
    ///
    /// A drain may end again: when the next version fails, or an operator takes it back, this process serves
    /// on.
    ///
    /// ```
    /// # use hotupdate_axum::Draining;
    /// async fn health(draining: Draining) -> &'static str {
    ///     if draining.is_draining() { "draining" } else { "ok" }
    /// }
    /// ```
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.connection.as_ref().is_some_and(ConnectionActivity::is_draining)
    }

    /// Resolves when the process drains, at once if it does already.
    ///
    /// ```
    /// # use hotupdate_axum::Draining;
    /// # async fn next_job() {}
    /// async fn work(draining: Draining) {
    ///     while !draining.is_draining() {
    ///         tokio::select! {
    ///             () = next_job() => {}
    ///             () = draining.started() => {}
    ///         }
    ///     }
    /// }
    /// ```
    pub async fn started(&self) {
        match &self.connection {
            Some(connection) => connection.drain().started().await,
            None => pending().await,
        }
    }

    /// Resolves when the process drains and the moment has come at which this connection should be closed:
    /// each connection has its own place in the window over which a drain is spread (`drain_spread`).
    ///
    /// For connections whose clients reconnect at once, such as WebSockets: if all of them were closed in the
    /// same instant, all of them would reconnect in the same instant.
    ///
    /// ```
    /// use axum::extract::ws::{CloseFrame, Message, WebSocket};
    /// # use hotupdate_axum::Draining;
    /// async fn echo(mut socket: WebSocket, draining: Draining) {
    ///     loop {
    ///         tokio::select! {
    ///             message = socket.recv() => match message {
    ///                 Some(Ok(message)) => drop(socket.send(message).await),
    ///                 _ => return,
    ///             },
    ///             () = draining.scheduled_close() => {
    ///                 let restart = CloseFrame { code: 1012, reason: "service restart".into() };
    ///                 drop(socket.send(Message::Close(Some(restart))).await);
    ///                 return;
    ///             }
    ///         }
    ///     }
    /// }
    /// ```
    pub async fn scheduled_close(&self) {
        let Some(connection) = &self.connection else { return pending().await };
        let (mut drain, id) = (connection.drain(), connection.id());
        let mut phase = drain.phase();
        loop {
            phase = match phase {
                Phase::Serving => drain.changed().await,
                Phase::Draining(plan) => tokio::select! {
                    () = tokio::time::sleep_until(scheduled_close(&plan, id)) => return,
                    phase = drain.changed() => phase,
                },
                _ => return,
            }
        }
    }

    /// Ends `stream` when the process drains, between two of its items.
    ///
    /// ```
    /// use axum::response::sse::{Event, Sse};
    /// use futures_util::Stream;
    /// # use hotupdate_axum::Draining;
    /// # use std::convert::Infallible;
    /// # fn news() -> impl Stream<Item = Result<Event, Infallible>> { futures_util::stream::empty() }
    /// async fn events(draining: Draining) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    ///     Sse::new(draining.take_until_draining(news()))
    /// }
    /// ```
    pub fn take_until_draining<S: Stream>(self, stream: S) -> impl Stream<Item = S::Item> + use<S> {
        stream.take_until(async move { self.started().await })
    }
}

/// The connection's place in the window. Without the grace, which is for clients that have not been told yet.
fn scheduled_close(plan: &Plan, id: u64) -> Instant {
    plan.scheduled_close(id).checked_sub(plan.grace).map_or(plan.since, |turn| turn.max(plan.since))
}

impl<S: Sync> FromRequestParts<S> for Draining {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::find(parts).unwrap_or_else(Self::never))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use futures_util::FutureExt as _;

    #[tokio::test]
    async fn outside_of_serve_it_never_drains() {
        let (mut parts, ()) = http::Request::new(()).into_parts();
        let Ok(draining) = Draining::from_request_parts(&mut parts, &()).await;
        assert!(!draining.is_draining());
        assert_eq!(draining.started().now_or_never(), None);
        assert_eq!(draining.scheduled_close().now_or_never(), None);
        let all: Vec<_> = draining.take_until_draining(futures_util::stream::iter([1, 2])).collect().await;
        assert_eq!(all, [1, 2]);
    }

    #[test]
    fn a_scheduled_close_has_no_grace_and_stays_in_the_window() {
        let (since, second) = (Instant::now(), Duration::from_secs(1));
        let plan = Plan::new(since, since + 60 * second, 5 * second, 10 * second);
        for id in 0..100 {
            let close = scheduled_close(&plan, id);
            assert!(since <= close && close < since + 10 * second);
        }
        let short = Plan::new(since, since + second, 5 * second, 10 * second);
        assert_eq!(scheduled_close(&short, 1), since);
    }
}
