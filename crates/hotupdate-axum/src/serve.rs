//! Accepts connections and gives each of them a task.
//!
//! Deliberately absent: making a service for each connection (`MakeService`). What it is used for, the
//! client's address, is always there.

use std::convert::Infallible;
use std::fmt;
use std::future::IntoFuture;
use std::pin::{Pin, pin};
use std::sync::Arc;
#[cfg(feature = "tls")]
use std::sync::{Mutex, MutexGuard, PoisonError};
#[cfg(feature = "tls")]
use std::time::Duration;

use axum::body::Body;
use bytes::BytesMut;
use hotupdate::connections::{Connections, Relay};
use hotupdate::{Connection, Listener, Serving, Starting};
use hotupdate_proto::timing::fixed::http::READY_OVERDUE;
#[cfg(feature = "tls")]
use hotupdate_tls::TlsStream;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::Service;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Handle;
use tokio::sync::Notify;
#[cfg(feature = "tls")]
use tokio::time::Instant;
use tokio::time::timeout;
#[cfg(feature = "tls")]
use zeroize::Zeroizing;

use crate::app::{App, BoxError};
use crate::arrivals::{Arrivals, Entrance};
use crate::carrier::{HttpCarrier, Kinds, Layer, Names, Ways};
use crate::detect::{Protocol, detect, wait_for_more};
use crate::http1::{self, Left};
use crate::io::Io;
use crate::migration::{self, HttpState, Spoken};
use crate::service::{ConnectionContext, Tracked};
use crate::settings::{Http1, Settings};
#[cfg(feature = "tls")]
use crate::tls::{self, Tls};
use crate::watch::{Event, Watch};
#[cfg(feature = "http2")]
use crate::{http2, settings::Http2};

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
/// served, also the extended CONNECT of HTTP/2 (RFC 8441): WebSockets of `axum::extract::ws` need a route for
/// it, such as [`any`](axum::routing::any), as with `axum::serve`.
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
/// those that stay silent are closed after a grace, one after the other.
///
/// An HTTP/2 connection migrates at once when no stream is open. New requests wait for those in flight, but
/// not longer than [`Timing::drain_hold`](hotupdate::Timing::drain_hold). Then it migrates without the streams
/// that are still open: gRPC streaming, server-sent events, uploads, WebSockets over HTTP/2. The next version
/// answers new requests, and relays the open streams to this one, which serves them to their end or to its
/// deadline. Until then the connection does not migrate once more, and
/// [`Totals::relayed`](hotupdate::Totals::relayed) counts it.
/// If this process dies, its streams are reset; if the next one does, all of the connection is lost.
///
/// An HTTP/2 connection gets GOAWAY and finishes its streams if the other version does not accept it, if
/// streams are still relayed a grace before its deadline, or if what its client has done does not fit into
/// another server, such as a GOAWAY of its own.
///
/// What is left at the deadline is closed and counted as forced. If the drain ends early, because the next
/// version failed, everything goes on as before.
pub fn serve<S: App>(listener: Listener, app: S, hot: &mut Starting) -> Serve {
    let (arrivals, entrance) = Arrivals::new();
    #[cfg(feature = "tls")]
    let tls = Arc::<Mutex<Option<Tls>>>::default();
    let is_bare = {
        #[cfg(feature = "tls")]
        let tls = tls.clone();
        move || {
            #[cfg(feature = "tls")]
            return read(&tls).is_none();
            #[cfg(not(feature = "tls"))]
            true
        }
    };
    let mut accept = Accept { hot, listener: &listener, entrance };
    let registered = accept
        .kinds(Layer::Bare.kinds(), is_bare, |state, relay, read| Some(History::Bare(read(state, relay)?)));
    #[cfg(feature = "tls")]
    let registered = {
        let tls = tls.clone();
        let is_wanted = move || read(&tls).as_ref().is_some_and(Tls::moves);
        registered.and(accept.kinds(Layer::Tls13.kinds(), is_wanted, |state, relay, read| {
            let state = Zeroizing::new(state);
            let (around, state) = tls::split_state(&state)?;
            Some(History::Tls(Box::new(around), read(state.to_vec(), relay)?))
        }))
    };
    let begin = move |server: Arc<Server>| -> Begin {
        Box::new(move |arrival| begin(arrival, app.clone(), server.clone()))
    };
    Serve {
        listener,
        begin: Box::new(move |server| (begin.clone()(server.clone()), begin(server))),
        arrivals,
        registered,
        serving: Box::pin(hot.when_serving()),
        settings: Settings::default(),
        #[cfg(feature = "tls")]
        tls,
        #[cfg(feature = "tls")]
        handshake: hot.timing().handshake,
    }
}

/// Accepts connections that another version has accepted on the same listener.
struct Accept<'a> {
    hot: &'a mut Starting,
    listener: &'a Listener,
    entrance: Entrance,
}

/// Reads the state of a protocol, which comes with a relay if streams are open.
type ReadHttp = fn(Vec<u8>, Option<Relay>) -> Option<HttpState>;

impl Accept<'_> {
    /// Of these kinds, if they are wanted when the process is ready.
    fn kinds(
        &mut self,
        kinds: &Kinds,
        is_wanted: impl Fn() -> bool + Clone + Send + Sync + 'static,
        read: fn(Vec<u8>, Option<Relay>, ReadHttp) -> Option<History>,
    ) -> hotupdate::Result<()> {
        self.kind(kinds.http1, is_wanted.clone(), move |state, relay| {
            read(state, relay, HttpState::of_http1)
        })?;
        #[cfg(feature = "http2")]
        for kind in [kinds.http2, kinds.http2_relayed] {
            self.kind(kind, is_wanted.clone(), move |state, relay| read(state, relay, HttpState::of_http2))?;
        }
        Ok(())
    }

    fn kind(
        &mut self,
        kind: &str,
        is_wanted: impl Fn() -> bool + Clone + Send + Sync + 'static,
        read: impl Fn(Vec<u8>, Option<Relay>) -> Option<History> + Send + Sync + 'static,
    ) -> hotupdate::Result<()> {
        let Self { hot, listener, entrance } = self;
        let entrance = entrance.clone();
        hot.on_migrated_if(kind, Some(listener.name()), is_wanted.clone(), move |state, relay| {
            let (history, entrance) = (read(state, relay)?, entrance.clone());
            // Without a server they stay where they are.
            let accepts = is_wanted() && !entrance.is_closed();
            accepts.then(|| -> hotupdate::migration::Resume {
                Box::new(move |connection| entrance.arrive(Arrival { connection, history }))
            })
        })
    }
}

#[cfg(feature = "tls")]
fn read(tls: &Mutex<Option<Tls>>) -> MutexGuard<'_, Option<Tls>> {
    // Replaced as a whole.
    tls.lock().unwrap_or_else(PoisonError::into_inner)
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
    /// For those that are accepted, and for those that arrive.
    begin: Box<dyn FnOnce(Arc<Server>) -> (Begin, Begin) + Send>,
    arrivals: Arrivals,
    registered: hotupdate::Result<()>,
    serving: WhenServing,
    settings: Settings,
    /// What is asked when the process is ready.
    #[cfg(feature = "tls")]
    tls: Arc<Mutex<Option<Tls>>>,
    #[cfg(feature = "tls")]
    handshake: Duration,
}

/// Serves a connection by itself.
pub(crate) type Begin = Box<dyn FnMut(Arrival) + Send>;

/// Resolves when `ready` has returned, with `None` if it never will.
type WhenServing = Pin<Box<dyn Future<Output = Option<Serving>> + Send>>;

/// A connection to be served.
pub(crate) struct Arrival {
    pub(crate) connection: Connection,
    pub(crate) history: History,
}

/// Where a connection stands.
pub(crate) enum History {
    /// Its client has just connected.
    None,
    /// It was served by another process, without TLS.
    Bare(HttpState),
    #[cfg(feature = "tls")]
    Tls(Box<hotupdate_tls::State>, HttpState),
}

impl Serve {
    /// Puts what is known of the connection into the extensions of each request, where it is found by
    /// whatever has the request: [`Draining`](crate::Draining), and axum's `ConnectInfo`, as
    /// `ConnectInfo<SocketAddr>` over TCP, and as `ConnectInfo<hotupdate::Address>`. A handler of your own
    /// has [`Peer`](crate::Peer), which costs nothing for requests that do not ask.
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

    /// Serves HTTPS, see the module [`tls`](crate::tls): with a `ServerConfig` of rustls, or with [`Tls`].
    ///
    /// It is called before [`ready`](Starting::ready), as [`serve()`](crate::serve()) is, for the version
    /// before learns together with `ready` which connections this one accepts. A connection without TLS is
    /// none of them.
    ///
    /// ```no_run
    /// # async fn example(https: hotupdate::Listener, mut hot: hotupdate::Starting) -> hotupdate::Result<()> {
    /// # let app = axum::Router::new();
    /// # fn config() -> rustls::ServerConfig { unimplemented!() }
    /// let server = hotupdate_axum::serve(https, app, &mut hot).tls(config());
    /// # hot.ready().await?;
    /// # server.await
    /// # }
    /// ```
    #[cfg(feature = "tls")]
    #[cfg_attr(docsrs, doc(cfg(feature = "tls")))]
    pub fn tls(self, tls: impl Into<Tls>) -> Self {
        *read(&self.tls) = Some(tls.into());
        self
    }

    async fn run(self) -> hotupdate::Result<()> {
        let Self { mut listener, begin, arrivals, registered, serving, settings, .. } = self;
        registered?;
        let hot = wait_until_ready(&listener, serving).await?;
        let server = Server::new(settings);
        #[cfg(feature = "tls")]
        let server = Server { tls: read(&self.tls).clone(), handshake: self.handshake, ..server };
        let server = Arc::new(server);
        let (mut accepted, arrived) = begin(server.clone());
        arrivals.serve(arrived);
        let (connections, name) = (hot.connections(), listener.name().to_owned());
        let mut rest = pin!(server.let_rest(connections, &name));
        // Returning from here often means returning from `main`, which would kill what is still open.
        let mut drained = pin!(hot.drained());
        let mut accepts = true;
        loop {
            tokio::select! {
                connection = listener.accept(), if accepts => match connection {
                    Some(connection) => accepted(Arrival { connection, history: History::None }),
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
    /// A connection is in hyper again, or for the first time.
    equipped: Notify,
    #[cfg(feature = "tls")]
    tls: Option<Tls>,
    /// How long a handshake may take.
    #[cfg(feature = "tls")]
    handshake: Duration,
}

impl Server {
    pub(crate) fn new(settings: Settings) -> Self {
        Self { settings, ..Self::default() }
    }

    #[cfg(feature = "tls")]
    async fn shake_hands(&self, connection: Connection) -> Option<TlsStream<Connection>> {
        let until = Instant::now() + self.handshake;
        self.tls.as_ref()?.handshake(connection, until).await
    }

    /// As what connections over TLS may migrate.
    #[cfg(feature = "tls")]
    pub(crate) fn moves_tls(&self) -> bool {
        self.tls.as_ref().is_some_and(Tls::moves)
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
        return converse(connection, HttpState::default(), app, Arc::default()).await;
    };
    let state = HttpState::of_http1(state, None).expect("the state comes from `serve`");
    migration::rest(connection, state, false, go_on(app, Arc::default()));
}

/// One connection, from its first byte, or from where another process has come to, to its last or to the next
/// process.
async fn converse<C: HttpCarrier, S: App>(carrier: C, state: HttpState, app: S, server: Arc<Server>) {
    let settings = &server.settings;
    let activity = carrier.connection().activity();
    let carried = carrier.carried(&server);
    let names = carried.names;
    let mut watch = Watch::new(&activity, settings.http1.header_read_timeout, carried.kinds);
    let service = ConnectionContext::new(&activity, carried, settings.connect_info).service(app.clone());
    let (chosen, ways) = (carrier.known_protocol(), Ways::of(&carrier));
    let mut io = Io::new(carrier, activity.clone());
    io.give_back(state.unread);
    let left = exchange(io, state.spoken, chosen, ways, service, &mut watch, &server, names).await;
    // In another task, if there is more to be said: this one has nothing to wait for and ends.
    match left {
        Some((Left::Migrates(io), spoken)) => migration::migrate(io, spoken, go_on(app, server)),
        Some((Left::Rests(io, _), spoken)) => {
            let (carrier, unread, _) = io.into_parts();
            let state = HttpState { spoken, unread };
            migration::rest(carrier, state, server.settings.pings(), go_on(app, server));
        }
        None => {}
    }
}

/// Serves a connection in a task of its own, from wherever that is called.
fn go_on<C: HttpCarrier, S: App>(app: S, server: Arc<Server>) -> impl FnOnce(C, HttpState) + Send + 'static {
    let runtime = Handle::current();
    move |carrier, state| drop(runtime.spawn(converse(carrier, state, app, server)))
}

/// Serves a connection that arrives.
fn begin<S: App>(arrival: Arrival, app: S, server: Arc<Server>) {
    let Arrival { connection, history } = arrival;
    match history {
        #[cfg(feature = "tls")]
        History::None if server.tls.is_some() => {
            tokio::spawn(async move {
                // Boxed, so that a connection does not keep the room for its handshake.
                if let Some(stream) = Box::pin(server.shake_hands(connection)).await {
                    converse(stream, HttpState::default(), app, server).await;
                }
            });
        }
        #[cfg(feature = "tls")]
        History::Tls(around, state) => {
            let pings = server.settings.pings();
            let go_on = go_on::<TlsStream<Connection>, S>(app, server);
            migration::rest_apart(connection, *around, state, Layer::Tls13.kinds(), pings, go_on);
        }
        // Its client has just connected to say something.
        History::None => go_on(app, server)(connection, HttpState::default()),
        History::Bare(state) => {
            migration::rest(connection, state, server.settings.pings(), go_on(app, server));
        }
    }
}

/// Speaks HTTP until the connection has ended; `chosen` is what the client has chosen before it spoke.
/// Returns it, and what it speaks if that is known, if it shall migrate, or if it rests when it is idle.
#[expect(clippy::too_many_arguments, reason = "they come together here and nowhere else")]
pub(crate) async fn exchange<T, S>(
    mut io: Io<T>,
    spoken: Spoken,
    chosen: Option<Protocol>,
    ways: Ways<T>,
    mut service: S,
    watch: &mut Watch,
    server: &Server,
    names: &Names,
) -> Option<(Left<Io<T>, S>, Spoken)>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    S: Service<Request<Incoming>, Response = Response<Tracked<Body>>, Error = BoxError> + Unpin,
    S::Future: Send + 'static,
{
    let activity = watch.activity().clone();
    let mut known = match spoken {
        Spoken::Unknown => chosen,
        Spoken::Http1 => Some(Protocol::Http1),
        #[cfg(feature = "http2")]
        spoken @ (Spoken::Http2(_) | Spoken::Relayed(..)) => {
            server.equipped.notify_one();
            let served =
                http2::serve(io, spoken, service, watch, &server.settings.http2, ways.migrate_relayed);
            return served.await.map(|(io, state)| (Left::Migrates(io), Spoken::Http2(state)));
        }
    };
    // What is chosen and not spoken yet is known in the next process, too.
    let spoken = |known| if known == Some(Protocol::Http1) { Spoken::Http1 } else { Spoken::Unknown };
    loop {
        let protocol = match listen(io, known, watch).await? {
            Listened::Speaks(protocol, listened) => {
                io = listened;
                protocol
            }
            Listened::Migrates(io) => return Some((Left::Migrates(io), spoken(known))),
        };
        #[cfg(feature = "http2")]
        if protocol == Protocol::Http2 {
            activity.set_protocol(names.h2);
            server.equipped.notify_one();
            let spoken = Spoken::Unknown;
            let served =
                http2::serve(io, spoken, service, watch, &server.settings.http2, ways.migrate_relayed);
            return served.await.map(|(io, state)| (Left::Migrates(io), Spoken::Http2(state)));
        }
        if known.is_none() {
            activity.set_protocol(names.http1);
        }
        known = Some(protocol);
        activity.set_equipped(true);
        server.equipped.notify_one();
        let left = http1::serve(io, service, watch, &server.settings.http1).await;
        activity.set_equipped(false);
        match left? {
            Left::Rests(resting, same) if !ways.rests => (io, service) = (resting, same),
            left => return Some((left, spoken(known))),
        }
    }
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
                watch.close(io).await;
                return None;
            }
            Event::TimedOut | Event::Phase(_) | Event::Rests => {}
        }
    }
}
