//! The handshake (RFC 6455, section 4.2), and where the connection comes back from hyper.
//!
//! Deliberately absent: HTTP/2 (RFC 8441), where a WebSocket is one stream of many and cannot migrate by
//! itself; extensions such as compression, whose state could not migrate.

use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::{
    CONNECTION, HeaderName, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::request;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version};
use hyper::upgrade::{OnUpgrade, Parts, Upgraded};
use hyper_util::rt::TokioIo;
use tungstenite::handshake::derive_accept_key;

use super::WebSocket;
use super::carrier::AnyCarrier;
use super::codec::Negotiated;
use crate::drain::Draining;
use crate::io::Io;

/// The same as in axum: 16 MiB, in bytes.
const MAX_MESSAGE: usize = 16 << 20;

/// A request to speak WebSocket.
///
/// ```
/// use axum::response::Response;
/// use hotupdate_axum::ws;
///
/// async fn chat(upgrade: ws::Upgrade) -> Response {
///     upgrade.on_upgrade(|mut socket| async move {
///         while let Some(Ok(message)) = socket.recv().await {
///             println!("{message:?}");
///         }
///     })
/// }
/// # let _: axum::Router = axum::Router::new().route("/chat", axum::routing::any(chat));
/// ```
#[derive(Debug)]
#[must_use = "nothing happens until `on_upgrade` is called"]
pub struct Upgrade {
    accept: HeaderValue,
    on_upgrade: OnUpgrade,
    offered: Vec<String>,
    protocol: Option<(String, HeaderValue)>,
    max_message: usize,
}

/// Why a request cannot become a WebSocket. As a response it has status 400, 405 or 426.
///
/// A handler that also has something to say to other clients takes a `Result`:
///
/// ```
/// use axum::response::{IntoResponse as _, Response};
/// use hotupdate_axum::ws::{Rejection, Upgrade};
///
/// async fn chat(upgrade: Result<Upgrade, Rejection>) -> Response {
///     match upgrade {
///         Ok(upgrade) => upgrade.on_upgrade(|socket| async { drop(socket) }),
///         Err(Rejection::NoUpgrade) => "this is a chat room; it speaks WebSocket".into_response(),
///         Err(rejection) => rejection.into_response(),
///     }
/// }
/// # let _: axum::Router = axum::Router::new().route("/chat", axum::routing::any(chat));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Rejection {
    /// The method is not `GET`.
    #[error("a WebSocket begins with a GET request")]
    MethodNotGet,
    /// It came over something else than HTTP/1.1.
    #[error("a WebSocket begins with an HTTP/1.1 request")]
    NotHttp11,
    /// `Connection` has no `upgrade`, or `Upgrade` no `websocket`.
    #[error("the request does not ask for an upgrade to websocket")]
    NoUpgrade,
    /// `Sec-WebSocket-Version` is not 13.
    #[error("the version of the WebSocket protocol is 13")]
    Version,
    /// `Sec-WebSocket-Key` is missing.
    #[error("the header Sec-WebSocket-Key is missing")]
    NoKey,
    /// The connection is upgraded already, or it does not come from [`serve`](crate::serve()). Over a
    /// connection that the application has wrapped itself, `axum::extract::ws` works.
    #[error("this connection cannot be upgraded")]
    NotUpgradable,
}

impl Upgrade {
    /// Closes the connection (1009) when a message has more bytes; 16 MiB by default.
    ///
    /// ```no_run
    /// # async fn example(upgrade: hotupdate_axum::ws::Upgrade) {
    /// let response = upgrade.max_message_size(64 * 1024).on_upgrade(|socket| async { drop(socket) });
    /// # }
    /// ```
    pub fn max_message_size(mut self, bytes: usize) -> Self {
        self.max_message = bytes;
        self
    }

    /// Agrees on the first of these subprotocols that the client offers, if any.
    ///
    /// ```no_run
    /// # async fn example(upgrade: hotupdate_axum::ws::Upgrade) {
    /// let upgrade = upgrade.protocols(["chat/2", "chat/1"]);
    /// # }
    /// ```
    pub fn protocols<'a>(mut self, ours: impl IntoIterator<Item = &'a str>) -> Self {
        let agreed = ours.into_iter().find(|ours| self.offered.iter().any(|offered| offered == ours));
        self.protocol = agreed.and_then(|name| Some((name.to_owned(), HeaderValue::from_str(name).ok()?)));
        self
    }

    /// Agrees, and runs `serve` with the WebSocket in a task of its own; see [`Upgrade`] for an example.
    #[must_use = "the upgrade happens when the response has been sent"]
    pub fn on_upgrade<F, Fut>(self, serve: F) -> Response
    where
        F: FnOnce(WebSocket) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let Self { accept, on_upgrade, protocol, max_message, .. } = self;
        let (protocol, protocol_header) = protocol.unzip();
        tokio::spawn(async move {
            match on_upgrade.await {
                Ok(upgraded) => match take_out(upgraded) {
                    Some((carrier, arrived)) => {
                        let negotiated = Negotiated { protocol, max_message };
                        serve(WebSocket::begin(carrier, negotiated, &arrived)).await;
                    }
                    None => {
                        tracing::error!("a WebSocket on a connection that is not of hotupdate_axum::serve")
                    }
                },
                // The client was gone before it had the response.
                Err(error) => tracing::debug!(%error, "a WebSocket did not begin"),
            }
        });
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
        if let Some(protocol) = protocol_header {
            headers.insert(SEC_WEBSOCKET_PROTOCOL, protocol);
        }
        response
    }
}

/// The connection as it was given to hyper, see `http1.rs`, and the bytes that were read after the handshake.
fn take_out(upgraded: Upgraded) -> Option<(AnyCarrier, Bytes)> {
    match upgraded.downcast() {
        Ok(parts) => Some(take_apart(parts, AnyCarrier::Bare)),
        #[cfg(feature = "tls")]
        Err(upgraded) => Some(take_apart(upgraded.downcast().ok()?, AnyCarrier::Tls)),
        #[cfg(not(feature = "tls"))]
        Err(_) => None,
    }
}

fn take_apart<C>(parts: Parts<TokioIo<Io<C>>>, carrier: fn(C) -> AnyCarrier) -> (AnyCarrier, Bytes) {
    let (inner, unread, _) = parts.io.into_inner().into_parts();
    // What hyper has read comes before what it was given to read.
    (carrier(inner), [parts.read_buf, unread].concat().into())
}

impl<S: Sync> FromRequestParts<S> for Upgrade {
    type Rejection = Rejection;

    async fn from_request_parts(parts: &mut request::Parts, _: &S) -> Result<Self, Rejection> {
        let headers = &parts.headers;
        let key = check(&parts.method, parts.version, headers)?;
        let accept =
            HeaderValue::from_str(&derive_accept_key(key.as_bytes())).map_err(|_| Rejection::NoKey)?;
        let offered = words(headers, &SEC_WEBSOCKET_PROTOCOL).map(ToOwned::to_owned).collect();
        // Only `serve` puts this there.
        if !parts.extensions.get::<Draining>().is_some_and(|draining| draining.migrates) {
            return Err(Rejection::NotUpgradable);
        }
        let on_upgrade = parts.extensions.remove::<OnUpgrade>().ok_or(Rejection::NotUpgradable)?;
        Ok(Self { accept, on_upgrade, offered, protocol: None, max_message: MAX_MESSAGE })
    }
}

/// Returns the key.
fn check<'a>(
    method: &Method,
    version: Version,
    headers: &'a HeaderMap,
) -> Result<&'a HeaderValue, Rejection> {
    let says =
        |name: HeaderName, word: &str| words(headers, &name).any(|said| said.eq_ignore_ascii_case(word));
    if version != Version::HTTP_11 {
        return Err(Rejection::NotHttp11);
    }
    if method != Method::GET {
        return Err(Rejection::MethodNotGet);
    }
    if !says(CONNECTION, "upgrade") || !says(UPGRADE, "websocket") {
        return Err(Rejection::NoUpgrade);
    }
    if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(Rejection::Version);
    }
    headers.get(SEC_WEBSOCKET_KEY).ok_or(Rejection::NoKey)
}

/// The comma-separated words of a header.
fn words<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> + use<'a> {
    let lines = headers.get_all(name).into_iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim)
}

impl IntoResponse for Rejection {
    fn into_response(self) -> Response {
        let status = match self {
            Self::MethodNotGet => StatusCode::METHOD_NOT_ALLOWED,
            Self::NoUpgrade | Self::NoKey => StatusCode::BAD_REQUEST,
            Self::NotHttp11 | Self::Version | Self::NotUpgradable => StatusCode::UPGRADE_REQUIRED,
        };
        let mut response = (status, self.to_string()).into_response();
        if self == Self::Version {
            // RFC 6455, section 4.4.
            response.headers_mut().insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> http::request::Builder {
        http::Request::get("/")
            .header("connection", "keep-alive, Upgrade")
            .header("upgrade", "WebSocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
    }

    fn judged(request: http::request::Builder, without: Option<&str>) -> Result<String, Rejection> {
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        without.map(|name| parts.headers.remove(name));
        let key = check(&parts.method, parts.version, &parts.headers)?;
        Ok(derive_accept_key(key.as_bytes()))
    }

    #[test]
    fn a_handshake_has_all_of_its_parts() {
        // The example of RFC 6455, section 1.3.
        assert_eq!(judged(request(), None).unwrap(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(judged(request().method("POST"), None), Err(Rejection::MethodNotGet));
        assert_eq!(judged(request().version(Version::HTTP_2), None), Err(Rejection::NotHttp11));
        assert_eq!(judged(request(), Some("connection")), Err(Rejection::NoUpgrade));
        assert_eq!(judged(request(), Some("upgrade")), Err(Rejection::NoUpgrade));
        assert_eq!(judged(request(), Some("sec-websocket-version")), Err(Rejection::Version));
        assert_eq!(judged(request(), Some("sec-websocket-key")), Err(Rejection::NoKey));
    }

    #[tokio::test]
    async fn outside_of_serve_it_is_refused() {
        let (mut parts, ()) = request().body(()).unwrap().into_parts();
        let rejection = Upgrade::from_request_parts(&mut parts, &()).await.unwrap_err();
        assert_eq!(rejection.into_response().status(), StatusCode::UPGRADE_REQUIRED);
    }
}
