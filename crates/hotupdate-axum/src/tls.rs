//! HTTPS whose sessions and connections outlive the process.
//!
//! [`Serve::tls`](crate::Serve::tls) serves HTTPS with a [`ServerConfig`] of rustls:
//!
//! ```no_run
//! use axum::{Router, routing::get};
//! use hotupdate_axum::tls::{self, Tls, TlsInfo, rustls::ServerConfig};
//!
//! # fn config() -> ServerConfig { unimplemented!() }
//! # async fn example() -> hotupdate::Result<()> {
//! let mut hot = hotupdate::join("/run/hello/control.sock").await?;
//! let https = hot.tcp("https", "0.0.0.0:443").await?;
//! let whom = |TlsInfo(agreed): TlsInfo| async move { format!("{:?}", agreed.server_name) };
//! let app = Router::new().route("/", get(whom));
//!
//! let tickets = tls::tickets(&mut hot)?; // sessions resume in the next version, too
//! let tls = Tls::new(config()).tickets(tickets).move_connections(true);
//! let server = hotupdate_axum::serve(https, app, &mut hot).tls(tls);
//! hot.ready().await?;
//! server.await
//! # }
//! ```
//!
//! # Handshakes
//! Each has a task of its own, so a slow client keeps no other one waiting. A client has
//! [`Timing::handshake`](hotupdate::Timing::handshake) (10 s) from its connection to the end of its
//! handshake, and [`Tls::max_handshakes`] limits how many are under way. ALPN chooses HTTP/1.1 or HTTP/2; a
//! client without ALPN is understood by its first bytes. A process that drains finishes the handshakes that
//! have begun in it.
//!
//! # What migrates
//! Sessions: a client that comes back resumes its session in any version with the same [`tickets`], also
//! after a rollback. Connections migrate only [by choice](Tls::move_connections): HTTP/1.1, HTTP/2 and
//! WebSockets of [`ws`](crate::ws), each as it does without TLS. The next version goes on with the keys, and
//! the client notices nothing. Any other connection ends politely: with `Connection: close` or GOAWAY, and
//! close_notify.
//!
//! # Client certificates
//! They are checked in full handshakes, by the version that shakes hands. A connection that migrates and a
//! session that resumes keep what was found then, or that there was none, whatever the next version demands:
//! [`Tickets::bound_to`] keeps sessions of other demands away.
//!
//! # Features
//! `tls`, with the ciphers of ring (feature `ring`, the default) or aws-lc-rs (feature `aws-lc-rs`). Build
//! the `ServerConfig` with the same provider.

use std::convert::Infallible;
use std::fmt;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::SystemTime;

use axum::extract::{FromRequestParts, OptionalFromRequestParts};
use hotupdate::{Connection, Serving, Starting, StoredState};
use hotupdate_proto::timing::fixed::tls::ROTATION_LOOK;
use hotupdate_tls::{Acceptor, NotMigrated, State, TlsStream};
use http::StatusCode;
use http::request::Parts;
use rustls::{HandshakeKind, ProtocolVersion, ServerConfig};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout_at};

pub use hotupdate_tls;
pub use hotupdate_tls::{Negotiated, Tickets};
pub use rustls;

use crate::carrier::{Carrier, HttpCarrier, Layer};
use crate::detect::Protocol;
use crate::serve::Server;
use crate::service::Carried;

/// How many handshakes are under way at most: what they hold is some 40 MiB then.
const MAX_HANDSHAKES: usize = 1024;

/// TLS for [`Serve::tls`](crate::Serve::tls): a `ServerConfig`, or what returns one, and what is wanted of
/// it.
///
/// ```no_run
/// use hotupdate_axum::tls::{Tls, rustls::ServerConfig};
///
/// # fn example(config: ServerConfig, server: hotupdate_axum::Serve) -> hotupdate_axum::Serve {
/// server.tls(Tls::new(config).move_connections(true))
/// # }
/// ```
#[derive(Clone)]
#[must_use = "it is for `Serve::tls`"]
pub struct Tls {
    configs: Arc<dyn Fn() -> Arc<ServerConfig> + Send + Sync>,
    /// The last one, as handshakes need it.
    prepared: Arc<Mutex<Option<Prepared>>>,
    handshakes: Arc<Semaphore>,
    tickets: Option<Arc<Tickets>>,
    moves: bool,
}

struct Prepared {
    config: Arc<ServerConfig>,
    acceptor: Acceptor,
}

impl Tls {
    /// With one configuration for all connections. Its
    /// [`cert_resolver`](ServerConfig::cert_resolver) can choose a certificate for each name that clients ask
    /// for (SNI), and return a renewed one.
    ///
    /// If the configuration names no protocols for ALPN, those that this crate serves are offered: `h2` (with
    /// the feature `http2`) and `http/1.1`.
    pub fn new(config: impl Into<Arc<ServerConfig>>) -> Self {
        let config = config.into();
        Self::with(move || config.clone())
    }

    /// With what returns the configuration: it is called for each handshake, so a process that renews its
    /// certificates while it runs returns the new one from then on. It must not block.
    ///
    /// ```
    /// use std::sync::{Arc, Mutex};
    ///
    /// use hotupdate_axum::tls::{Tls, rustls::ServerConfig};
    ///
    /// # fn example(config: ServerConfig) -> Tls {
    /// let current = Arc::new(Mutex::new(Arc::new(config)));
    /// let of_renewal = current.clone(); // `*of_renewal.lock() = …` when the certificate is another one
    /// # drop(of_renewal);
    /// Tls::with(move || current.lock().expect("nothing panics with it").clone())
    /// # }
    /// ```
    pub fn with(configs: impl Fn() -> Arc<ServerConfig> + Send + Sync + 'static) -> Self {
        Self {
            configs: Arc::new(configs),
            prepared: Arc::default(),
            handshakes: Arc::new(Semaphore::new(MAX_HANDSHAKES)),
            tickets: None,
            moves: false,
        }
    }

    /// Makes session tickets with these keys, in place of the configuration's own
    /// [`ticketer`](ServerConfig::ticketer): [`tickets`](tickets()) has those that the next version
    /// understands. If the configuration asks clients for certificates, bind them to what it demands
    /// ([`Tickets::bound_to`]): `tls.tickets(tickets.bound_to(&roots))`.
    pub fn tickets(mut self, tickets: Arc<Tickets>) -> Self {
        self.tickets = Some(tickets);
        self
    }

    /// Whether connections migrate to the next version if that says the same; not by default. Then their keys
    /// travel, over the socket between two processes of one user, and the traffic secrets of each connection
    /// are kept in memory beside it: the threat model of [`hotupdate_tls`] says what that means. Otherwise,
    /// and if the next version does not accept them, connections end politely. A WebSocket is accepted by
    /// each version that goes on with its kind and has the feature `tls`.
    pub fn move_connections(mut self, moves: bool) -> Self {
        self.moves = moves;
        self
    }

    /// How many handshakes may be under way at the same time, 1,024 by default: a client that has sent its
    /// first byte waits for a place, within the deadline
    /// [`Timing::handshake`](hotupdate::Timing::handshake). Clones of this value count together.
    pub fn max_handshakes(mut self, handshakes: usize) -> Self {
        self.handshakes = Arc::new(Semaphore::new(handshakes.min(Semaphore::MAX_PERMITS)));
        self
    }

    pub(crate) fn moves(&self) -> bool {
        self.moves
    }

    /// Shakes hands. `None` if that fails, or takes too long: the client has been told, and the log as well.
    pub(crate) async fn handshake(
        &self,
        connection: Connection,
        until: Instant,
    ) -> Option<TlsStream<Connection>> {
        let activity = connection.activity();
        activity.set_protocol("tls");
        let handshake = async {
            // A client that says nothing takes no place from one that does.
            poll_fn(|cx| connection.poll_readable(cx)).await?;
            let _place = self.handshakes.acquire().await;
            self.acceptor().accept(connection).await
        };
        match timeout_at(until, handshake).await {
            Ok(Ok(stream)) => {
                let version = if stream.layer() == Layer::Tls12 { "1.2" } else { "1.3" };
                let resumed = stream.handshake_kind() == Some(HandshakeKind::Resumed);
                activity.tls_handshake(version, if resumed { "resumed" } else { "full" });
                let names = stream.layer().names();
                activity.set_protocol(match stream.known_protocol() {
                    Some(Protocol::Http2) => names.h2,
                    Some(Protocol::Http1) => names.http1,
                    None => names.silent,
                });
                Some(stream)
            }
            Ok(Err(error)) => {
                activity.tls_handshake("none", "failed");
                tracing::debug!(connection = activity.id(), %error, "a TLS handshake failed");
                None
            }
            Err(_) => {
                activity.tls_handshake("none", "timed_out");
                let connection = activity.id();
                tracing::debug!(connection, "a TLS handshake took too long (deadline `handshake`)");
                None
            }
        }
    }

    fn acceptor(&self) -> Acceptor {
        let config = (self.configs)();
        // Replaced as a whole.
        let mut prepared = self.prepared.lock().unwrap_or_else(PoisonError::into_inner);
        match &*prepared {
            Some(last) if Arc::ptr_eq(&last.config, &config) => last.acceptor.clone(),
            _ => {
                let acceptor = Acceptor::new(self.complete(&config)).migratable(self.moves);
                *prepared = Some(Prepared { config, acceptor: acceptor.clone() });
                acceptor
            }
        }
    }

    /// With what the configuration leaves to us.
    fn complete(&self, config: &ServerConfig) -> ServerConfig {
        let mut config = config.clone();
        if config.alpn_protocols.is_empty() {
            let served: &[&[u8]] =
                if cfg!(feature = "http2") { &[b"h2", b"http/1.1"] } else { &[b"http/1.1"] };
            config.alpn_protocols.extend(served.iter().map(|protocol| protocol.to_vec()));
        }
        if let Some(tickets) = &self.tickets {
            config.ticketer = tickets.clone();
        }
        config
    }
}

/// The name of the keys among the states of the application, and their form.
const TICKETS: &str = "tls-tickets";
const TICKETS_SCHEMA: &str = "hotupdate-tls/1";

/// Keys for session tickets that travel: this version has those of the version before and exports them to the
/// next one. So sessions resume in every version, also in one that serves again after a rollback. The process
/// that serves, and no other, changes the keys when it is time.
///
/// They are for [`Tls::tickets`], in as many servers as the process has, but see [`Tickets::bound_to`] if they
/// ask clients for different certificates; once for each process. After a start
/// without a version before, the keys are new, and clients shake hands in full: [`stored_tickets`] outlive
/// that.
///
/// # Errors
/// As [`Starting::export`] of the name `tls-tickets`, and if the system gives no random numbers.
pub fn tickets(hot: &mut Starting) -> hotupdate::Result<Arc<Tickets>> {
    keys(hot, None)
}

/// As [`tickets()`], and the keys are in systemd's descriptor store, too, as the listeners are: sessions
/// resume after a crash, and after a restart of the unit. By choice, because there they can be read by root,
/// by systemd, and by each process that systemd starts for the unit, also while no process of the service
/// runs: [`Starting::stored_state`] says more, and what the unit needs. Without a store these are
/// [`tickets()`].
///
/// Keys that have lain there for longer than they are in use are not used again: a key makes tickets for six
/// hours, and is understood for six more, whether a process has it or not.
///
/// # Errors
/// As [`tickets()`], and if the keys cannot be stored.
pub fn stored_tickets(hot: &mut Starting) -> hotupdate::Result<Arc<Tickets>> {
    let stored = hot.stored_state(TICKETS)?;
    keys(hot, Some(stored))
}

fn keys(hot: &mut Starting, stored: Option<StoredState>) -> hotupdate::Result<Arc<Tickets>> {
    let exported = hot.import(TICKETS).map(|state| state.bytes.as_slice());
    let found = stored.as_ref().and_then(StoredState::get).filter(|_| exported.is_none());
    let inherited = exported.or(found).and_then(|bytes| {
        let tickets = Tickets::from_bytes(bytes);
        tickets.inspect_err(|error| tracing::warn!(%error, "sessions of TLS do not resume here")).ok()
    });
    if let (Some(tickets), Some(_)) = (&inherited, found) {
        // They may have lain there for longer than keys are in use. No other process serves.
        tickets.rotate_if_due(SystemTime::now());
    }
    let tickets = match inherited {
        Some(tickets) => tickets,
        None => Tickets::new(SystemTime::now()).map_err(|error| {
            hotupdate::Error::misuse("making keys for session tickets", error.to_string())
        })?,
    };
    let tickets = Arc::new(tickets);
    let exported = tickets.clone();
    hot.export(TICKETS, TICKETS_SCHEMA, move || exported.to_bytes().to_vec())?;
    if let Some(stored) = &stored {
        stored.set(&tickets.to_bytes())?;
    }
    tokio::spawn(rotate(hot.when_serving(), Arc::downgrade(&tickets), stored));
    Ok(tickets)
}

async fn rotate(
    serving: impl Future<Output = Option<Serving>>,
    tickets: Weak<Tickets>,
    stored: Option<StoredState>,
) {
    let Some(hot) = serving.await else { return };
    // The first look is at once: processes that are replaced every few minutes must not keep a key forever.
    while hot.wait_until_serving().await {
        let Some(tickets) = tickets.upgrade() else { return };
        let is_news = tickets.rotate_if_due(SystemTime::now());
        if let Some(stored) = stored.as_ref().filter(|_| is_news)
            && let Err(error) = stored.set(&tickets.to_bytes())
        {
            tracing::warn!(%error, "sessions of TLS that begin now would not outlive a crash");
        }
        drop(tickets);
        tokio::select! {
            () = hot.wait_until_not_serving() => {}
            () = sleep(ROTATION_LOOK) => {}
        }
    }
}

impl From<ServerConfig> for Tls {
    fn from(config: ServerConfig) -> Self {
        Self::new(config)
    }
}

impl From<Arc<ServerConfig>> for Tls {
    fn from(config: Arc<ServerConfig>) -> Self {
        Self::new(config)
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let places = self.handshakes.available_permits();
        f.debug_struct("Tls").field("moves", &self.moves).field("places", &places).finish_non_exhaustive()
    }
}

impl Carrier for TlsStream<Connection> {
    type Around = State;

    fn connection(&self) -> &Connection {
        self.get_ref()
    }

    fn layer(&self) -> Layer {
        match self.negotiated().version {
            ProtocolVersion::TLSv1_2 => Layer::Tls12,
            _ => Layer::Tls13,
        }
    }

    fn take_apart(mut self) -> Result<(Connection, State), (Self, String)> {
        // What cannot be sent now travels.
        let _ = futures_util::FutureExt::now_or_never(tokio::io::AsyncWriteExt::flush(&mut self));
        self.into_state().map_err(|NotMigrated { stream, why }| (stream, why.to_string()))
    }

    fn put_together(connection: Connection, around: State) -> Option<Self> {
        let id = connection.id();
        let stream = Self::from_state(connection, around);
        stream.inspect_err(|error| tracing::error!(connection = id, %error, "a connection is lost")).ok()
    }

    fn state(around: &State, protocol: Vec<u8>) -> Vec<u8> {
        let around = around.to_bytes();
        let mut state = Vec::with_capacity(4 + around.len() + protocol.len());
        // Fits: a state is refused that is far shorter.
        state.extend_from_slice(&u32::try_from(around.len()).unwrap_or(u32::MAX).to_be_bytes());
        state.extend_from_slice(&around);
        state.extend_from_slice(&protocol);
        state
    }
}

impl HttpCarrier for TlsStream<Connection> {
    fn rests(&self) -> bool {
        self.can_migrate().is_ok()
    }

    fn is_waiting(around: &State) -> bool {
        around.is_waiting()
    }

    fn carried(&self, server: &Server) -> Carried {
        let layer = self.layer();
        Carried {
            kinds: server.moves_tls().then_some(layer.kinds()),
            is_whole: true,
            names: layer.names(),
            tls: Some(TlsInfo(self.negotiated().clone())),
        }
    }

    fn known_protocol(&self) -> Option<Protocol> {
        match self.negotiated().alpn.as_deref() {
            Some(b"h2") if cfg!(feature = "http2") => Some(Protocol::Http2),
            Some(_) => Some(Protocol::Http1),
            None => None,
        }
    }
}

/// The state of TLS, and that of the protocol inside. `None` if it has a form of another version. The bytes
/// are the caller's to wipe.
pub(crate) fn split_state(state: &[u8]) -> Option<(State, &[u8])> {
    let (length, state) = state.split_first_chunk()?;
    let (around, protocol) = state.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
    match State::from_bytes(around) {
        Ok(around) => Some((around, protocol)),
        Err(error) => {
            tracing::warn!(%error, "a TLS connection stays where it is");
            None
        }
    }
}

/// What client and server agreed on in the TLS handshake of the connection, and what the client has proved in
/// it: version and suite, the protocol (ALPN), the name it asked for (SNI), its certificates. It is the same
/// before and after a migration.
///
/// As an extractor it fails with status 500 for a request that did not come over TLS;
/// `Option<TlsInfo>` is `None` for such a request. It is in the extensions of a request for services without
/// extractors.
///
/// ```
/// use hotupdate_axum::tls::TlsInfo;
///
/// async fn who(TlsInfo(agreed): TlsInfo) -> String {
///     match agreed.client_certificates.first() {
///         Some(certificate) => format!("a certificate of {} bytes", certificate.len()),
///         None => "no certificate".to_owned(),
///     }
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsInfo(pub Arc<Negotiated>);

impl<S: Sync> FromRequestParts<S> for TlsInfo {
    type Rejection = (StatusCode, &'static str);

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        parts.extensions.get().cloned().ok_or((
            StatusCode::INTERNAL_SERVER_ERROR,
            "the request did not come over TLS that hotupdate_axum serves",
        ))
    }
}

impl<S: Sync> OptionalFromRequestParts<S> for TlsInfo {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Infallible> {
        Ok(parts.extensions.get().cloned())
    }
}
