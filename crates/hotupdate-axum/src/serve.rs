//! Accepts connections and gives each of them a task.
//!
//! Deliberately absent: making a service for each connection (`MakeService`). What it is used for, the client's address,
//! is always there.

use std::future::IntoFuture;
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::{Body, Bytes};
use bytes::BytesMut;
use hotupdate::{Connection, Listener, Serving};
use http::{Request, Response};

use crate::detect::{Protocol, detect, wait_for_more};
use crate::io::Io;
use crate::moving::{self, Http1State, KIND};
use crate::pulse::Pulse;
use crate::service::{BoxError, ConnectionContext};
use crate::watch::{Event, Watch};
use crate::{http1, http2};

/// How long a client may take for the head of a request once it has begun. Generous, for phones in tunnels; finite,
/// because half a head costs memory (RFC 9112 leaves it to the server; hyper's own default is the same).
const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(30);

/// Serves `app` on `listener` until another process has taken over for good, and everything that was open here is done.
///
/// `app` is a [`Router`](axum::Router), a [`MethodRouter`](axum::routing::MethodRouter), or any `tower` service that
/// takes axum's [`Request`](axum::extract::Request). HTTP/1.1, HTTP/2 (prior knowledge) and upgrades are served. The
/// client's address is always there as `ConnectInfo<SocketAddr>` (TCP) and as `ConnectInfo<hotupdate::Address>`; the
/// extractor [`Draining`](crate::Draining) tells long-running handlers to come to an end.
///
/// When the process drains, a request in flight is finished, and so is any that still arrives on an open connection.
/// Then HTTP/1.1 connections **move** to the version that serves now, if it calls `serve` for a listener of the same name:
/// between requests, before the first one, or with half a head, which goes along. Their clients notice nothing. What the
/// application keeps per connection does not move; the client's address and the row in the live table do.
///
/// Connections that cannot move (the other version knows nothing of it, or the half head is longer than
/// [`MAX_STATE`](hotupdate::connections::MAX_STATE)) are told with `Connection: close`, and who is silent for a grace is
/// disconnected, one after the other. HTTP/2 does not move, it gets GOAWAY. What is left at the deadline is closed and
/// counted as forced. If the drain ends early, because the next version failed, everything goes on as before.
///
/// ```no_run
/// use axum::{Router, routing::get};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let mut hot = hotupdate::join("/run/hello/control.sock").await?;
/// let http = hot.tcp("http", "0.0.0.0:3000").await?;
/// let app = Router::new().route("/", get(|| async { "hello" }));
///
/// let hot = hot.ready().await?;
/// hotupdate_axum::serve(http, app, &hot).await?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// None at present, as with [`axum::serve()`]: errors of accept(2) are waited out by the listener.
pub fn serve<S>(listener: Listener, app: S, hot: &Serving) -> Serve<S> {
    Serve { listener, app, hot: hot.clone(), header_read_timeout: HEADER_READ_TIMEOUT }
}

/// A server that begins when it is awaited, see [`serve`](crate::serve()).
///
/// ```no_run
/// # async fn example(listener: hotupdate::Listener, hot: hotupdate::Serving) -> std::io::Result<()> {
/// let app = axum::Router::new();
/// tokio::spawn(hotupdate_axum::serve(listener, app, &hot).into_future()).await?
/// # }
/// # use std::future::IntoFuture;
/// ```
#[must_use = "nothing is served until it is awaited"]
#[derive(Debug)]
pub struct Serve<S> {
    listener: Listener,
    app: S,
    hot: Serving,
    header_read_timeout: Duration,
}

impl<S> Serve<S> {
    /// Closes an HTTP/1 connection whose client has begun a request and has not sent its whole head within this time.
    /// 30 s by default. A client that is silent between requests may stay.
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # async fn example(listener: hotupdate::Listener, hot: hotupdate::Serving) -> std::io::Result<()> {
    /// let app = axum::Router::new();
    /// hotupdate_axum::serve(listener, app, &hot).header_read_timeout(Duration::from_secs(5)).await
    /// # }
    /// ```
    pub fn header_read_timeout(mut self, timeout: Duration) -> Self {
        self.header_read_timeout = timeout;
        self
    }
}

impl<S, B> Serve<S>
where
    S: tower::Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    async fn run(self) -> io::Result<()> {
        let Self { mut listener, app, hot, header_read_timeout } = self;
        // First of all: clients of the version before may be waiting.
        adopt(&hot, listener.name(), app.clone(), header_read_timeout);
        while let Some(connection) = listener.accept().await {
            tokio::spawn(converse(connection, Http1State::default(), app.clone(), header_read_timeout));
        }
        // Returning from here often means returning from `main`, which would kill what is still open.
        hot.drained().await;
        Ok(())
    }
}

impl<S, B> IntoFuture for Serve<S>
where
    S: tower::Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Output = io::Result<()>;
    type IntoFuture = Pin<Box<dyn Future<Output = io::Result<()>> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

/// Goes on with the connections of this listener that other versions hand over.
fn adopt<S, B>(hot: &Serving, listener: &str, app: S, header_read_timeout: Duration)
where
    S: tower::Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    // An application need not be `Sync`.
    let app = Mutex::new(app);
    hot.adopt_bytes(KIND, Some(listener), move |state| {
        let begun = Http1State::from_bytes(state)?;
        let app = app.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Some(Box::new(move |connection| {
            tokio::spawn(converse(connection, begun, app, header_read_timeout));
        }))
    });
}

/// One connection as [`serve`] serves it: from its first byte, or with the state that came along. For tests.
///
/// # Panics
/// If the state is none that `serve` has given.
#[cfg(feature = "test-util")]
pub async fn serve_one<S, B>(connection: Connection, state: Option<Vec<u8>>, app: S)
where
    S: tower::Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let begun = state.map(|state| Http1State::from_bytes(state).expect("it was said here"));
    converse(connection, begun.unwrap_or_default(), app, HEADER_READ_TIMEOUT).await;
}

/// One connection, from its first byte, or from where another process has come to, to its last or to the next process.
async fn converse<S, B>(connection: Connection, begun: Http1State, app: S, header_read_timeout: Duration)
where
    S: tower::Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let pulse = Arc::new(Pulse::default());
    let mut watch = Watch::new(&connection, pulse.clone(), header_read_timeout);
    let activity = connection.activity();
    let link = ConnectionContext::new(&connection, pulse.clone());
    let mut io = Io::new(connection, pulse);
    io.give_back(begun.unread);
    let Some((protocol, io)) = listen(io, begun.protocol, &mut watch).await else { return };
    match protocol {
        Protocol::Http1 => {
            watch.speaks_http1();
            activity.set_protocol("http/1.1");
            http1::serve(io, link.service(app), &mut watch).await;
        }
        Protocol::Http2 => {
            activity.set_protocol("h2");
            http2::serve(io, link.service(app), &mut watch).await;
        }
    }
}

/// Waits until the client has said what it speaks, or says something at all if that is known; `None` when the connection
/// is over before, or moves (on).
async fn listen(
    mut io: Io<Connection>,
    known: Option<Protocol>,
    watch: &mut Watch,
) -> Option<(Protocol, Io<Connection>)> {
    let mut seen = BytesMut::new();
    loop {
        let event = {
            let listening = async {
                match known {
                    // hyper would take a buffer for it, and many of those that move stay idle for long.
                    Some(protocol) => wait_for_more(&mut io, &mut seen, protocol).await,
                    None => detect(&mut io, &mut seen).await,
                }
            };
            watch.next(pin!(listening)).await
        };
        match event {
            Event::Ended(Ok(Some(protocol))) => {
                io.give_back(seen.freeze());
                return Some((protocol, io));
            }
            Event::Ended(_) | Event::Forced => return None,
            Event::Leaves => {
                io.give_back(seen.split().freeze());
                io = moving::hand_over(io, known, watch).await?;
            }
            Event::Silent if !watch.speaks(io.get()) => {
                watch.closing();
                watch.close(io.into_inner()).await;
                return None;
            }
            Event::Silent | Event::Phase(_) => {}
        }
    }
}
