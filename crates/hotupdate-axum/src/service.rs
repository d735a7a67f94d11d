//! The application as hyper calls it: counted, told where its requests come from, and polite while its
//! process drains.
//!
//! Deliberately absent: routing, and anything else that a `tower` layer could do.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::extract::ConnectInfo;
use hotupdate::Address;
use hotupdate::connections::{BodyDemand, ConnectionActivity, RequestGuard};
use http::header::{CONNECTION, UPGRADE};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};

use crate::app::{App, BoxError, sealed::Sealed};
use crate::drain::Draining;
use crate::migration::KIND;

/// What the service of one connection knows about it.
#[derive(Debug)]
pub(crate) struct ConnectionContext {
    peer: Address,
    draining: Draining,
    activity: ConnectionActivity,
    /// Not if the application has put something around it.
    migrates: bool,
}

/// Counts a request until both of its bodies are done with: a request whose body is still being read is not
/// over, even if it was answered.
type InFlight = RequestGuard;

impl ConnectionContext {
    pub(crate) fn new(activity: &ConnectionActivity, migrates: bool) -> Self {
        Self {
            peer: activity.peer_addr().clone(),
            draining: Draining::of(activity),
            activity: activity.clone(),
            migrates,
        }
    }

    /// Wraps `app` for one connection.
    pub(crate) fn service<S: App>(
        self,
        app: S,
    ) -> impl Service<
        Request<Incoming>,
        Response = Response<Tracked<Body>>,
        Error = BoxError,
        Future: Send + 'static,
    > + Clone
    + Send
    + Unpin
    + 'static {
        // Boxed, so that `app` need not be `Unpin` for its connection to be taken apart.
        let (link, app) = (Arc::new(self), Box::new(app));
        service_fn(move |request| {
            let in_flight = link.begin();
            let upgrade = Upgrade::asked_for(&request);
            let version = request.version();
            let request = link.prepare(request, &in_flight);
            let (link, app) = (link.clone(), S::clone(&app));
            async move {
                let mut response = app.answer(request, Sealed).await?;
                link.look_at(&mut response, version, upgrade);
                Ok(response.map(|body| Tracked::new(body, in_flight)))
            }
        })
    }

    fn begin(&self) -> Arc<InFlight> {
        Arc::new(self.activity.begin_request())
    }

    fn prepare(&self, mut request: Request<Incoming>, in_flight: &Arc<InFlight>) -> Request<Body> {
        let extensions = request.extensions_mut();
        if let Some(address) = self.peer.ip() {
            extensions.insert(ConnectInfo::<SocketAddr>(address));
        }
        extensions.insert(ConnectInfo(self.peer.clone()));
        extensions.insert(self.draining.clone());
        if self.migrates {
            extensions.insert(Migrates);
        }
        request.map(|body| {
            if http_body::Body::is_end_stream(&body) {
                Body::empty()
            } else {
                let demand = Some(self.activity.body_demand());
                Body::new(Tracked { demand, ..Tracked::new(body, in_flight.clone()) })
            }
        })
    }

    fn look_at<B>(&self, response: &mut Response<B>, version: Version, upgrade: Option<Upgrade>) {
        match upgrade {
            Some(upgrade) if upgrade.is_granted_by(response.status()) => {
                self.activity.set_upgraded(upgrade.protocol(version));
            }
            // hyper closes after this response (RFC 9112, section 9.6). HTTP/2 has GOAWAY instead.
            _ if version < Version::HTTP_2
                && self.draining.is_draining()
                && !(self.migrates && self.activity.can_migrate(KIND)) =>
            {
                self.activity.set_closing();
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            _ => {}
        }
    }
}

/// An extension of requests whose connection migrates, so that it comes back from hyper as it was given to
/// it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Migrates;

/// The client wants to speak something else.
#[derive(Clone, Copy, Debug)]
enum Upgrade {
    WebSocket,
    Connect,
    Other,
}

impl Upgrade {
    fn asked_for<B>(request: &Request<B>) -> Option<Self> {
        if request.method() == Method::CONNECT {
            return Some(Self::Connect);
        }
        let token = request.headers().get(UPGRADE)?;
        Some(if token.as_bytes().eq_ignore_ascii_case(b"websocket") { Self::WebSocket } else { Self::Other })
    }

    fn is_granted_by(self, status: StatusCode) -> bool {
        match self {
            Self::Connect => status.is_success(),
            Self::WebSocket | Self::Other => status == StatusCode::SWITCHING_PROTOCOLS,
        }
    }

    fn protocol(self, version: Version) -> &'static str {
        match self {
            // Only one of its streams was upgraded (RFC 8441).
            _ if version >= Version::HTTP_2 => "h2",
            Self::WebSocket => "websocket",
            Self::Connect | Self::Other => "raw",
        }
    }
}

/// A body that keeps its request counted until it has ended or is dropped.
#[derive(Debug)]
pub(crate) struct Tracked<B> {
    body: B,
    in_flight: Option<Arc<InFlight>>,
    /// Of the body of a request that has not been read to its end.
    demand: Option<BodyDemand>,
}

impl<B> Tracked<B> {
    fn new(body: B, in_flight: Arc<InFlight>) -> Self {
        Self { body, in_flight: Some(in_flight), demand: None }
    }
}

impl<B: http_body::Body + Unpin> http_body::Body for Tracked<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        let Poll::Ready(frame) = frame else {
            self.demand.iter().for_each(BodyDemand::wanted);
            return Poll::Pending;
        };
        self.demand.iter().for_each(BodyDemand::satisfied);
        if matches!(frame, None | Some(Err(_))) || self.body.is_end_stream() {
            if let Some(demand) = self.demand.take() {
                demand.finished();
            }
            self.in_flight = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: Method, upgrade: Option<&str>) -> Request<()> {
        let builder = Request::builder().method(method);
        let builder = match upgrade {
            Some(token) => builder.header(UPGRADE, token),
            None => builder,
        };
        builder.body(()).unwrap()
    }

    #[test]
    fn an_upgrade_is_one_when_it_is_granted() {
        assert!(Upgrade::asked_for(&request(Method::GET, None)).is_none());
        let upgrade = Upgrade::asked_for(&request(Method::GET, Some("WebSocket"))).unwrap();
        assert!(!upgrade.is_granted_by(StatusCode::OK));
        assert!(upgrade.is_granted_by(StatusCode::SWITCHING_PROTOCOLS));
        assert_eq!(upgrade.protocol(Version::HTTP_11), "websocket");
        let upgrade = Upgrade::asked_for(&request(Method::CONNECT, None)).unwrap();
        assert!(upgrade.is_granted_by(StatusCode::OK) && !upgrade.is_granted_by(StatusCode::BAD_GATEWAY));
        assert_eq!((upgrade.protocol(Version::HTTP_11), upgrade.protocol(Version::HTTP_2)), ("raw", "h2"));
    }
}
