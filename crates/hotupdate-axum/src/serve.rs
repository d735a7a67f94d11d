//! Accepts connections and gives each of them a task.
//!
//! Deliberately absent: making a service for each connection (`MakeService`). What it is used for, the
//! client's address, is always there.

use std::convert::Infallible;
use std::fmt;
use std::future::IntoFuture;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::BytesMut;
use hotupdate::connections::{ConnectionActivity, Connections};
use hotupdate::{Connection, Listener, Serving, Starting};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::Service;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::app::{App, BoxError};
use crate::arrivals::Arrivals;
use crate::detect::{Protocol, detect, wait_for_more};
use crate::http1::{self, Left};
use crate::io::Io;
use crate::migration::{self, Http1State, KIND};
use crate::service::{ConnectionContext, Tracked};
use crate::settings::{Http1, Settings};
use crate::watch::{Event, Watch};
#[cfg(feature = "http2")]
use crate::{http2, settings::Http2};

/// How long a server may be awaited while its process is not ready before the log says so: `ready` that is
/// called after the server was awaited, and not before, never comes.
const READY_OVERDUE: Duration = Duration::from_secs(10);

/// Serves `app` on `listener` until another process has taken over for good, and everything that was open
/// here is done.
///
/// It is called **before** [`ready`](Starting::ready), so that the version before learns together with
/// `ready` that this one accepts its connections, and awaited after it:
///
/// ```no_run
/// use axum::{Router, routing::get};
///
/// # async fn example() -> hotupdate::Result<()> {
/// let mut hot = hotupdate::join("/run/hello/control.sock").await?;
/// let http = hot.tcp("http", "0.0.0.0:3000").await?;
/// let app = Router::new().route("/", get(|| async { "hello" }));
///
/// let server = hotupdate_axum::serve(http, app, &mut hot); // its connections migrate here, too
/// hot.ready().await?; // the old version stops accepting, this one starts
/// server.await        // until the next version takes over, and all is drained
/// # }
/// ```
///
/// `app` is a [`Router`](axum::Router), a [`MethodRouter`](axum::routing::MethodRouter), or any other
/// [`tower::Service`] of HTTP requests, see [`App`]. HTTP/1.1, HTTP/2 (with prior knowledge) and upgrades are
/// served.
///
/// The extractor [`Peer`](crate::Peer) has the client's address, and with
/// [`connect_info`](Serve::connect_info) so does axum's `ConnectInfo`. So `app` is the router itself, and not
/// what [`into_make_service_with_connect_info`](axum::Router::into_make_service_with_connect_info) returns.
/// The extractor [`Draining`](crate::Draining) tells long-running handlers to come to an end.
///
/// # When the process drains
/// A request in flight is finished, and so is any that still arrives on an open connection. Then an HTTP/1.1
/// connection **migrates** to the version that serves now, if that version calls `serve` for a listener of
/// the same name: between two requests, before the first one, or with half a head, which goes along. Its
/// client notices nothing. What the application keeps for a connection does not migrate; the client's address
/// and the row in the live table do.
///
/// Connections that cannot migrate (the other version does not accept them, or the half head is longer than
/// [`MAX_STATE`](hotupdate::connections::MAX_STATE)) get `Connection: close` with their next response, and
/// those that stay silent are closed after a grace, one after the other. HTTP/2 does not migrate, its
/// connections get GOAWAY. What is left at the deadline is closed and counted as forced. If the drain ends
/// early, because the next version failed, everything goes on as before.
pub fn serve<S: App>(listener: Listener, app: S, hot: &mut Starting) -> Serve {
    let (arrivals, entrance) = Arrivals::new();
    let registered = hot.on_migrated_bytes(KIND, Some(listener.name()), move |state| {
        let state = Http1State::from_bytes(state)?;
        let entrance = entrance.clone();
        // Without a server they stay where they are.
        (!entrance.is_closed()).then(|| -> hotupdate::migration::Resume {
            Box::new(move |connection| entrance.arrive(connection, state))
        })
    });
    let arriving = app.clone();
    let receive = move |connection, state: Http1State, server: &Arc<Server>| {
        state.rest(connection, go_on(arriving.clone(), server.clone()));
    };
    let begin = move |connection, server: &Arc<Server>| {
        tokio::spawn(converse(connection, Http1State::default(), app.clone(), server.clone()));
    };
    Serve {
        listener,
        begin: Box::new(begin),
        receive: Box::new(receive),
        arrivals,
        registered,
        serving: Box::pin(hot.when_serving()),
        settings: Settings::default(),
    }
}

/// A server, see [`serve`](crate::serve()). It accepts nothing until it is awaited; connections that arrive
/// before wait: new ones in the backlog of the socket, those of the version before in a queue. So an
/// application may import its state between [`ready`](Starting::ready) and the `await`.
///
/// Dropping it closes the listener, and what waits in the queue. A connection that is already being served
/// goes on by itself.
///
/// Several servers are awaited together:
///
/// ```no_run
/// # use std::future::IntoFuture;
/// # async fn example(public: axum::Router, admin: axum::Router) -> hotupdate::Result<()> {
/// let mut hot = hotupdate::join("/run/hello/control.sock").await?;
/// let http = hot.tcp("http", "0.0.0.0:3000").await?;
/// let local = hot.unix("admin", "/run/hello/admin.sock").await?;
/// let public = hotupdate_axum::serve(http, public, &mut hot);
/// let admin = hotupdate_axum::serve(local, admin, &mut hot);
/// hot.ready().await?;
/// tokio::try_join!(public.into_future(), admin.into_future())?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// What the `await` returns: [`ErrorKind::ApiMisuse`](hotupdate::ErrorKind::ApiMisuse) if the process will
/// never serve, because `ready` has failed or was never called, or if its connections already have another
/// handler. Errors of accept(2) are waited out by the listener.
#[must_use = "nothing is served until it is awaited"]
pub struct Serve {
    listener: Listener,
    begin: Begin,
    receive: Receive,
    arrivals: Arrivals,
    registered: hotupdate::Result<()>,
    serving: WhenServing,
    settings: Settings,
}

/// Serves a new connection in a task of its own.
type Begin = Box<dyn FnMut(Connection, &Arc<Server>) + Send>;

/// Serves one that came from another process, once its client says more.
type Receive = Box<dyn FnMut(Connection, Http1State, &Arc<Server>) + Send>;

/// Resolves when `ready` has returned, with `None` if it never will.
type WhenServing = Pin<Box<dyn Future<Output = Option<Serving>> + Send>>;

impl Serve {
    /// Gives the client's address also to what asks for axum's `ConnectInfo`: as `ConnectInfo<SocketAddr>`
    /// over TCP, and as `ConnectInfo<hotupdate::Address>`. A handler of your own has [`Peer`](crate::Peer),
    /// which costs nothing for requests that do not ask.
    ///
    /// ```no_run
    /// use std::net::SocketAddr;
    ///
    /// use axum::extract::ConnectInfo;
    /// use axum::{Router, routing::get};
    ///
    /// # async fn example(http: hotupdate::Listener, mut hot: hotupdate::Starting) -> hotupdate::Result<()> {
    /// let who = |ConnectInfo(peer): ConnectInfo<SocketAddr>| async move { peer.to_string() };
    /// let app = Router::new().route("/", get(who));
    /// let server = hotupdate_axum::serve(http, app, &mut hot).connect_info();
    /// # hot.ready().await?;
    /// # server.await
    /// # }
    /// ```
    pub fn connect_info(mut self) -> Self {
        self.settings.connect_info = true;
        self
    }

    /// Settings of HTTP/1.1.
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # async fn example(http: hotupdate::Listener, mut hot: hotupdate::Starting) -> hotupdate::Result<()> {
    /// # let app = axum::Router::new();
    /// let server = hotupdate_axum::serve(http, app, &mut hot)
    ///     .http1(|http1| http1.header_read_timeout(Duration::from_secs(5)).max_headers(50));
    /// # hot.ready().await?;
    /// # server.await
    /// # }
    /// ```
    pub fn http1(mut self, set: impl FnOnce(Http1) -> Http1) -> Self {
        self.settings.http1 = set(self.settings.http1);
        self
    }

    /// Settings of HTTP/2.
    ///
    /// ```no_run
    /// # async fn example(http: hotupdate::Listener, mut hot: hotupdate::Starting) -> hotupdate::Result<()> {
    /// # let app = axum::Router::new();
    /// let server = hotupdate_axum::serve(http, app, &mut hot)
    ///     .http2(|http2| http2.max_concurrent_streams(500));
    /// # hot.ready().await?;
    /// # server.await
    /// # }
    /// ```
    #[cfg(feature = "http2")]
    #[cfg_attr(docsrs, doc(cfg(feature = "http2")))]
    pub fn http2(mut self, set: impl FnOnce(Http2) -> Http2) -> Self {
        self.settings.http2 = set(self.settings.http2);
        self
    }

    async fn run(self) -> hotupdate::Result<()> {
        let Self { mut listener, mut begin, mut receive, arrivals, registered, serving, settings } = self;
        registered?;
        let hot = wait_until_ready(&listener, serving).await?;
        let server = Arc::new(Server::new(settings));
        let shared = server.clone();
        arrivals.receive(move |connection, state| receive(connection, state, &shared));
        let (connections, name) = (hot.connections(), listener.name().to_owned());
        let mut rest = pin!(server.let_rest(connections, &name));
        // Returning from here often means returning from `main`, which would kill what is still open.
        let mut drained = pin!(hot.drained());
        let mut accepts = true;
        loop {
            tokio::select! {
                connection = listener.accept(), if accepts => match connection {
                    Some(connection) => begin(connection, &server),
                    None => accepts = false,
                },
                never = &mut rest => match never {},
                () = &mut drained => return Ok(()),
            }
        }
    }
}

/// What the tasks of all connections of a server share.
#[derive(Debug, Default)]
pub(crate) struct Server {
    settings: Settings,
    /// A connection is in hyper again.
    equipped: Notify,
}

impl Server {
    pub(crate) fn new(settings: Settings) -> Self {
        Self { settings, equipped: Notify::new() }
    }

    /// As long as all connections rest, this rests too.
    async fn let_rest(&self, connections: &Connections, listener: &str) -> Infallible {
        loop {
            self.equipped.notified().await;
            connections.let_rest(listener).await;
        }
    }
}

/// Waits for `ready`, and says so if it takes long.
async fn wait_until_ready(listener: &Listener, mut serving: WhenServing) -> hotupdate::Result<Serving> {
    let serving = match timeout(READY_OVERDUE, &mut serving).await {
        Ok(serving) => serving,
        Err(_) => {
            let listener = listener.name();
            tracing::warn!(
                listener,
                "a server waits for `Starting::ready`, which has to be called before the server is awaited"
            );
            serving.await
        }
    };
    serving.ok_or_else(|| {
        let doing = format!("serving HTTP on the listener {:?}", listener.name());
        hotupdate::Error::misuse(
            doing,
            "this process will never serve: `ready` has failed, or was not called",
        )
    })
}

impl IntoFuture for Serve {
    type Output = hotupdate::Result<()>;
    type IntoFuture = Pin<Box<dyn Future<Output = hotupdate::Result<()>> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

impl fmt::Debug for Serve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { listener, registered, settings, .. } = self;
        f.debug_struct("Serve")
            .field("listener", listener)
            .field("registered", registered)
            .field("settings", settings)
            .finish_non_exhaustive()
    }
}

/// One connection as [`serve`] serves it: from its first byte, or with the state that came along. For tests.
///
/// # Panics
/// If the state is none that `serve` has given.
#[cfg(feature = "test-util")]
pub async fn serve_one<S: App>(connection: Connection, state: Option<Vec<u8>>, app: S) {
    let Some(state) = state else {
        return converse(connection, Http1State::default(), app, Arc::default()).await;
    };
    let state = Http1State::from_bytes(state).expect("the state comes from `serve`");
    state.rest(connection, go_on(app, Arc::default()));
}

/// One connection, from its first byte, or from where another process has come to, to its last or to the next
/// process.
async fn converse<S: App>(connection: Connection, state: Http1State, app: S, server: Arc<Server>) {
    let settings = &server.settings;
    let activity = connection.activity();
    let mut watch = Watch::new(&activity, settings.http1.header_read_timeout, true);
    let service = ConnectionContext::new(&activity, true, settings.connect_info).service(app.clone());
    let mut io = Io::new(connection, activity.clone());
    io.give_back(state.unread);
    let left = exchange(io, state.protocol, service, &activity, &mut watch, &server).await;
    // In another task, if there is more to be said: this one has nothing to wait for and ends.
    let go_on = go_on(app, server);
    match left {
        Some((Left::Migrates(io), protocol)) => migration::migrate(io, protocol, go_on),
        Some((Left::Rests(io), protocol)) => migration::rest(io, protocol, go_on),
        None => {}
    }
}

/// Serves a connection in a task of its own, from wherever that is called.
fn go_on<S: App>(app: S, server: Arc<Server>) -> impl FnOnce(Connection, Http1State) + Send + 'static {
    let runtime = Handle::current();
    move |connection, state| drop(runtime.spawn(converse(connection, state, app, server)))
}

/// Speaks HTTP until the connection has ended. Returns it, and what it speaks if that is known, if it shall
/// migrate or rest.
pub(crate) async fn exchange<T, S>(
    io: Io<T>,
    mut known: Option<Protocol>,
    service: S,
    activity: &ConnectionActivity,
    watch: &mut Watch,
    server: &Server,
) -> Option<(Left<Io<T>>, Option<Protocol>)>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    S: Service<Request<Incoming>, Response = Response<Tracked<Body>>, Error = BoxError> + Unpin,
    S::Future: Send + 'static,
{
    let (protocol, io) = match listen(io, known, watch).await? {
        Listened::Speaks(protocol, io) => (protocol, io),
        Listened::Migrates(io) => return Some((Left::Migrates(io), known)),
    };
    #[cfg(feature = "http2")]
    if protocol == Protocol::Http2 {
        activity.set_protocol("h2");
        http2::serve(io, service, watch, &server.settings.http2).await;
        return None;
    }
    if known.is_none() {
        activity.set_protocol("http/1.1");
    }
    known = Some(protocol);
    server.equipped.notify_one();
    Some((http1::serve(io, service, watch, &server.settings.http1).await?, known))
}

/// What [`listen`] has come to.
enum Listened<T> {
    /// The client has said something, and this is what it speaks.
    Speaks(Protocol, Io<T>),
    /// The connection shall migrate before the client has said more.
    Migrates(Io<T>),
}

/// Waits until the client has said what it speaks, or says something at all if that is known; `None` when the
/// connection is over before.
async fn listen<T>(mut io: Io<T>, known: Option<Protocol>, watch: &mut Watch) -> Option<Listened<T>>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    watch.set_protocol(None);
    let mut seen = BytesMut::new();
    loop {
        let event = {
            let listening = async {
                match known {
                    // hyper would take a buffer for it, and many of those that migrate stay idle for long.
                    Some(protocol) => wait_for_more(&mut io, &mut seen, protocol).await,
                    None => detect(&mut io, &mut seen).await,
                }
            };
            watch.next(pin!(listening)).await
        };
        match event {
            Event::Ended(Ok(Some(protocol))) => {
                io.give_back(seen.freeze());
                return Some(Listened::Speaks(protocol, io));
            }
            Event::Ended(_) | Event::Forced => return None,
            Event::Migrates => {
                io.give_back(seen.freeze());
                return Some(Listened::Migrates(io));
            }
            Event::TimedOut if !watch.is_readable() => {
                watch.closing();
                watch.close(io.into_inner()).await;
                return None;
            }
            Event::TimedOut | Event::Phase(_) | Event::Rests => {}
        }
    }
}
