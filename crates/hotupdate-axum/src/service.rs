//! The application as hyper calls it: counted, told where its requests come from, and polite while its
//! process drains.
//!
//! A request finds its connection in the thread that answers it, and not in its extensions: to put one value
//! there, and to drop it, costs a fiftieth of a small request.
//!
//! Deliberately absent: routing, and anything else that a `tower` layer could do.

use std::cell::Cell;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Once, OnceLock};
use std::task::{Context, Poll, ready};

use axum::body::{Body, Bytes};
use axum::extract::ConnectInfo;
use hotupdate::connections::{BodyDemand, ConnectionActivity};
use http::header::{CONNECTION, UPGRADE};
use http::request::Parts;
use http::{Extensions, HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper::upgrade::OnUpgrade;
use pin_project_lite::pin_project;

use crate::app::{App, BoxError, sealed::Sealed};
use crate::carrier::{Kinds, Layer, Names};
use crate::drain::Draining;
#[cfg(feature = "tls")]
use crate::tls::TlsInfo;

/// What the service of one connection knows about it.
#[derive(Debug)]
pub(crate) struct ConnectionContext {
    activity: ConnectionActivity,
    carried: Carried,
    connect_info: bool,
    /// Of the requests behind the first one, which may be the only one.
    extensions: OnceLock<Extensions>,
    has_begun: AtomicBool,
}

/// What HTTP is spoken over, as far as requests and their answers need it.
#[derive(Debug)]
pub(crate) struct Carried {
    /// As what the connection may migrate, if it may at all.
    pub(crate) kinds: Option<&'static Kinds>,
    /// Whether it comes back from hyper as it was given to it: not if the application has put something
    /// around it.
    pub(crate) is_whole: bool,
    pub(crate) names: &'static Names,
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<TlsInfo>,
}

impl Carried {
    /// By what the application has put around a connection.
    pub(crate) fn wrapped() -> Self {
        Self {
            kinds: None,
            is_whole: false,
            names: Layer::Bare.names(),
            #[cfg(feature = "tls")]
            tls: None,
        }
    }
}

/// Counts a request until its answer is done with.
#[derive(Debug)]
struct InFlight(Arc<ConnectionContext>);

impl InFlight {
    #[inline]
    fn begin(context: &Arc<ConnectionContext>) -> Self {
        context.activity.request_begins();
        Self(context.clone())
    }
}

impl Drop for InFlight {
    #[inline]
    fn drop(&mut self) {
        self.0.activity.request_ends();
    }
}

thread_local! {
    /// The request that this thread is just answering.
    static ANSWERED: Cell<Option<InFlight>> = const { Cell::new(None) };
}

/// While this is there, its request is the one that the thread is answering.
struct Answering<'a> {
    request: &'a mut Option<InFlight>,
    /// The one that waits for it, if there is one.
    before: Option<InFlight>,
}

impl<'a> Answering<'a> {
    #[inline]
    fn begin(request: &'a mut Option<InFlight>) -> Self {
        let before = ANSWERED.replace(request.take());
        Self { request, before }
    }
}

impl Drop for Answering<'_> {
    #[inline]
    fn drop(&mut self) {
        *self.request = ANSWERED.replace(self.before.take());
    }
}

/// Whether this process serves any connection, so that a request has one.
static SERVES: AtomicBool = AtomicBool::new(false);

/// What is known of the connection of the request that is just being answered by this task. `None` outside of
/// that, as in a task to which the application has handed the request.
pub(crate) fn answered<R>(look: impl FnOnce(&ConnectionContext) -> R) -> Option<R> {
    let request = ANSWERED.take();
    let seen = request.as_ref().map(|InFlight(context)| look(context));
    if seen.is_none() && SERVES.load(Relaxed) {
        static TOLD: Once = Once::new();
        TOLD.call_once(|| {
            tracing::warn!(
                "an extractor of hotupdate_axum was used in another task than the one that answers the \
                 request: it knows no connection, and is never told of a drain; extract before the request \
                 is handed on, or set `connect_info`"
            );
        });
    }
    ANSWERED.set(request);
    seen
}

impl ConnectionContext {
    pub(crate) fn new(activity: &ConnectionActivity, carried: Carried, connect_info: bool) -> Self {
        SERVES.store(true, Relaxed);
        let (extensions, has_begun) = (OnceLock::new(), AtomicBool::new(false));
        Self { activity: activity.clone(), carried, connect_info, extensions, has_begun }
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
        let (context, app) = (Arc::new(self), Box::new(app));
        service_fn(move |request: Request<Incoming>| {
            let (mut head, body) = request.into_parts();
            let (version, upgrade) = (head.version, Upgrade::asked_for(&head));
            if context.extends() {
                context.extend(&mut head.extensions);
            }
            let in_flight = Some(InFlight::begin(&context));
            // Of a stream of HTTP/2 it takes a lock to know whether it has ended.
            let body = if is_empty(&body) && http_body::Body::is_end_stream(&body) {
                Body::empty()
            } else {
                Body::new(Demanded { body, demand: Some(context.activity.body_demand()) })
            };
            let answer = S::clone(&app).answer(Request::from_parts(head, body), Sealed);
            Answer { answer, version, upgrade, in_flight }
        })
    }

    pub(crate) fn draining(&self) -> Draining {
        Draining::of(&self.activity, self.carried.is_whole)
    }

    /// Whether requests have extensions of ours.
    fn extends(&self) -> bool {
        #[cfg(feature = "tls")]
        if self.carried.tls.is_some() {
            return true;
        }
        self.connect_info
    }

    /// To clone them costs less than to put them together.
    fn extend(&self, extensions: &mut Extensions) {
        if self.extensions.get().is_none() && !self.has_begun.swap(true, Relaxed) {
            return self.put_together(extensions);
        }
        let template = self.extensions.get_or_init(|| {
            let mut template = Extensions::new();
            self.put_together(&mut template);
            // axum adds some. A map that has had these has room for them, also as a clone, and need not grow.
            template.insert(More::<0>);
            template.insert(More::<1>);
            template.insert(More::<2>);
            template.remove::<More<0>>();
            template.remove::<More<1>>();
            template.remove::<More<2>>();
            template
        });
        if extensions.is_empty() {
            extensions.clone_from(template);
        } else {
            extensions.extend(template.clone());
        }
    }

    fn put_together(&self, extensions: &mut Extensions) {
        if self.connect_info {
            let peer = self.activity.peer_addr();
            if let Some(address) = peer.ip() {
                extensions.insert(ConnectInfo::<SocketAddr>(address));
            }
            extensions.insert(ConnectInfo(peer.clone()));
        }
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.carried.tls {
            extensions.insert(tls.clone());
        }
        extensions.insert(self.draining());
    }

    fn look_at<B>(&self, response: &mut Response<B>, version: Version, upgrade: Option<Upgrade>) {
        match upgrade {
            Some(upgrade) if upgrade.is_granted_by(response.status()) => {
                self.activity.set_upgraded(upgrade.protocol(version, self.carried.names));
            }
            // hyper closes after this response (RFC 9112, section 9.6). HTTP/2 has GOAWAY instead.
            _ if version < Version::HTTP_2
                && self.activity.is_draining()
                && !self.carried.kinds.is_some_and(|kinds| self.activity.can_migrate(kinds.http1)) =>
            {
                self.activity.set_closing();
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            _ => {}
        }
    }
}

/// Makes room.
#[derive(Clone)]
struct More<const NUMBER: u8>;

pin_project! {
    /// The answer of the application, on its way to hyper.
    struct Answer<F> {
        #[pin]
        answer: F,
        version: Version,
        upgrade: Option<Upgrade>,
        // Until it is there.
        in_flight: Option<InFlight>,
    }
}

impl<F: Future<Output = Result<Response<Body>, BoxError>>> Future for Answer<F> {
    type Output = Result<Response<Tracked<Body>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let answering = Answering::begin(this.in_flight);
        let answer = this.answer.poll(cx);
        drop(answering);
        let mut response = ready!(answer)?;
        let in_flight = this.in_flight.take().expect("it is polled until it is ready");
        in_flight.0.look_at(&mut response, *this.version, *this.upgrade);
        Poll::Ready(Ok(response.map(|body| Tracked { body, _of: in_flight })))
    }
}

/// The client wants to speak something else.
#[derive(Clone, Copy, Debug)]
enum Upgrade {
    WebSocket,
    Connect,
    Other,
}

impl Upgrade {
    #[inline]
    fn asked_for(head: &Parts) -> Option<Self> {
        // hyper puts it there if the client asks, and to look is cheaper than to search the header fields.
        head.extensions.get::<OnUpgrade>()?;
        Self::to(&head.method, &head.headers)
    }

    fn to(method: &Method, headers: &HeaderMap) -> Option<Self> {
        if method == Method::CONNECT {
            return Some(Self::Connect);
        }
        let token = headers.get(UPGRADE)?;
        Some(if token.as_bytes().eq_ignore_ascii_case(b"websocket") { Self::WebSocket } else { Self::Other })
    }

    fn is_granted_by(self, status: StatusCode) -> bool {
        match self {
            Self::Connect => status.is_success(),
            Self::WebSocket | Self::Other => status == StatusCode::SWITCHING_PROTOCOLS,
        }
    }

    fn protocol(self, version: Version, names: &Names) -> &'static str {
        match self {
            // Only one of its streams was upgraded (RFC 8441).
            _ if version >= Version::HTTP_2 => names.h2,
            Self::WebSocket => names.websocket,
            Self::Connect | Self::Other => names.raw,
        }
    }
}

/// The body of an answer. It keeps its request counted until it is dropped: hyper does that when it has the
/// last frame.
#[derive(Debug)]
pub(crate) struct Tracked<B> {
    body: B,
    _of: InFlight,
}

impl<B: http_body::Body + Unpin> http_body::Body for Tracked<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of a request. It keeps its request counted until it has ended or is dropped, also if that was
/// answered before, and tells whether more of it is wanted.
#[derive(Debug)]
struct Demanded {
    body: Incoming,
    /// Until its end.
    demand: Option<BodyDemand>,
}

impl http_body::Body for Demanded {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        let Some(demand) = &self.demand else { return frame };
        match frame {
            Poll::Pending => demand.wanted(),
            Poll::Ready(None | Some(Err(_))) => self.finish(),
            Poll::Ready(_) if is_empty(&self.body) => self.finish(),
            Poll::Ready(_) => demand.satisfied(),
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Whether nothing more of a body comes, as far as its length says it.
#[inline]
fn is_empty(body: &Incoming) -> bool {
    http_body::Body::size_hint(body).upper() == Some(0)
}

impl Demanded {
    fn finish(&mut self) {
        self.demand.take().into_iter().for_each(BodyDemand::finished);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(upgrade: Option<&'static str>) -> HeaderMap {
        upgrade.map(|token| (UPGRADE, HeaderValue::from_static(token))).into_iter().collect()
    }

    #[test]
    fn an_upgrade_is_one_when_it_is_granted() {
        assert!(Upgrade::to(&Method::GET, &headers(None)).is_none());
        let upgrade = Upgrade::to(&Method::GET, &headers(Some("WebSocket"))).unwrap();
        assert!(!upgrade.is_granted_by(StatusCode::OK));
        assert!(upgrade.is_granted_by(StatusCode::SWITCHING_PROTOCOLS));
        let names = Layer::Bare.names();
        assert_eq!(upgrade.protocol(Version::HTTP_11, names), "websocket");
        let upgrade = Upgrade::to(&Method::CONNECT, &headers(None)).unwrap();
        assert!(upgrade.is_granted_by(StatusCode::OK) && !upgrade.is_granted_by(StatusCode::BAD_GATEWAY));
        let protocol = |version| upgrade.protocol(version, names);
        assert_eq!((protocol(Version::HTTP_11), protocol(Version::HTTP_2)), ("raw", "h2"));
    }
}
