//! HTTP over a connection that the application has put something around.
//!
//! Deliberately absent: migration. What is around the connection, such as the keys of TLS, is the
//! application's.

use std::fmt;
use std::future::IntoFuture;
use std::pin::Pin;

use hotupdate::connections::ConnectionActivity;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::app::App;
use crate::carrier::Ways;
use crate::io::Io;
use crate::migration::Spoken;
use crate::serve::{Server, exchange};
use crate::service::{Carried, ConnectionContext};
#[cfg(feature = "http2")]
use crate::settings::Http2;
use crate::settings::{Http1, Settings};
use crate::watch::Watch;

/// Serves `app` over `io`, which is something that the application has put around a connection, such as a TLS
/// of its own; with that of rustls, [`serve()`](crate::serve()) does more (`Serve::tls`).
///
/// It is served as by [`serve()`](crate::serve()): HTTP/1.1 and HTTP/2, the client's address,
/// [`Draining`](crate::Draining), counted requests, and a polite end when the process drains: `Connection:
/// close` or GOAWAY, a grace for idle clients, and nothing that is in flight is cut off before the deadline.
/// It does not migrate.
///
/// `activity` is that of the connection underneath, taken before it was wrapped:
///
/// ```no_run
/// # use std::sync::Arc;
/// # type TlsStream = hotupdate::Connection;
/// # struct TlsAcceptor;
/// # impl TlsAcceptor {
/// #     async fn accept(&self, io: hotupdate::Connection) -> std::io::Result<TlsStream> { Ok(io) }
/// # }
/// # async fn example(app: axum::Router, tls: Arc<TlsAcceptor>) -> hotupdate::Result<()> {
/// let mut hot = hotupdate::join("/run/hello/control.sock").await?;
/// let mut https = hot.tcp("https", "0.0.0.0:443").await?;
/// let hot = hot.ready().await?;
/// while let Some(connection) = https.accept().await {
///     let (app, tls, activity) = (app.clone(), tls.clone(), connection.activity());
///     tokio::spawn(async move {
///         // Limit the time of a handshake: a drain waits for it until the deadline.
///         let Ok(stream) = tls.accept(connection).await else { return };
///         hotupdate_axum::serve_connection(stream, activity, app).await;
///     });
/// }
/// hot.drained().await; // returning earlier would cut off clients
/// # Ok(())
/// # }
/// ```
///
/// Over a connection without anything around it, [`serve()`](crate::serve()) does more. WebSockets over `io`
/// are those of `axum::extract::ws`; the extractor of the module `ws` rejects them, because they could not
/// migrate.
pub fn serve_connection<I, S>(io: I, activity: ConnectionActivity, app: S) -> ServeConnection<I, S>
where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    S: App,
{
    ServeConnection { io, activity, app, settings: Settings::default() }
}

/// One connection that is served when this is awaited, see [`serve_connection()`](crate::serve_connection()).
/// The `await` ends with the connection, or when an upgrade has given it to another owner.
///
/// ```no_run
/// # use std::time::Duration;
/// # async fn example(connection: hotupdate::Connection, app: axum::Router) {
/// let activity = connection.activity();
/// let buffered = tokio::io::BufStream::new(connection);
/// hotupdate_axum::serve_connection(buffered, activity, app)
///     .http1(|http1| http1.header_read_timeout(Duration::from_secs(5)))
///     .await;
/// # }
/// ```
#[must_use = "nothing is served until it is awaited"]
pub struct ServeConnection<I, S> {
    io: I,
    activity: ConnectionActivity,
    app: S,
    settings: Settings,
}

impl<I, S> ServeConnection<I, S> {
    /// As [`Serve::connect_info`](crate::Serve::connect_info).
    pub fn connect_info(mut self) -> Self {
        self.settings.connect_info = true;
        self
    }

    /// Settings of HTTP/1.1, as in [`Serve::http1`](crate::Serve::http1).
    pub fn http1(mut self, set: impl FnOnce(Http1) -> Http1) -> Self {
        self.settings.http1 = set(self.settings.http1);
        self
    }

    /// Settings of HTTP/2, as in [`Serve::http2`](crate::Serve::http2).
    #[cfg(feature = "http2")]
    #[cfg_attr(docsrs, doc(cfg(feature = "http2")))]
    pub fn http2(mut self, set: impl FnOnce(Http2) -> Http2) -> Self {
        self.settings.http2 = set(self.settings.http2);
        self
    }
}

impl<I, S> IntoFuture for ServeConnection<I, S>
where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    S: App,
{
    type Output = ();
    type IntoFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        let Self { io, activity, app, settings } = self;
        Box::pin(async move {
            let mut watch = Watch::new(&activity, settings.http1.header_read_timeout, None);
            let carried = Carried::wrapped();
            let names = carried.names;
            let service = ConnectionContext::new(&activity, carried, settings.connect_info).service(app);
            let io = Io::new(io, activity.clone());
            let server = Server::new(settings);
            let left =
                exchange(io, Spoken::Unknown, None, Ways::none(), service, &mut watch, &server, names).await;
            debug_assert!(left.is_none(), "it does not migrate");
        })
    }
}

impl<I, S> fmt::Debug for ServeConnection<I, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { activity, settings, .. } = self;
        let id = activity.id();
        f.debug_struct("ServeConnection")
            .field("connection", &id)
            .field("settings", settings)
            .finish_non_exhaustive()
    }
}
