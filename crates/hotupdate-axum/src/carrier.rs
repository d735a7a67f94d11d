//! What HTTP is spoken over: a connection, bare or with TLS around it; and how that leaves the process and
//! goes on in the next one.
//!
//! What migrates is a protocol over a carrier. So is its kind (`http/1.1`, `tls+http/1.1`), and so is its
//! state: what the carrier needs, then what the protocol needs.

#[cfg(not(feature = "http2"))]
use std::marker::PhantomData;
#[cfg(feature = "http2")]
use std::pin::Pin;

use hotupdate::Connection;
use hotupdate::connections::NotMigrated;
#[cfg(feature = "http2")]
use hotupdate::connections::RelayPair;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::detect::Protocol;
use crate::serve::Server;
use crate::service::Carried;

/// A connection, with what is around it.
pub(crate) trait Carrier: AsyncRead + AsyncWrite + Send + Sized + Unpin + 'static {
    /// What another process needs to put the same around its connection.
    type Around: Send + 'static;

    fn connection(&self) -> &Connection;

    fn layer(&self) -> Layer;

    /// Takes it apart, or returns it as it was, and says in one line why it stays.
    fn take_apart(self) -> Result<(Connection, Self::Around), (Self, String)>;

    /// `None` if that is not what [`take_apart`](Self::take_apart) has returned.
    fn put_together(connection: Connection, around: Self::Around) -> Option<Self>;

    /// The state that migrates: the carrier's, and behind it the protocol's.
    fn state(around: &Self::Around, protocol: Vec<u8>) -> Vec<u8>;
}

impl Carrier for Connection {
    type Around = ();

    fn connection(&self) -> &Connection {
        self
    }

    fn layer(&self) -> Layer {
        Layer::Bare
    }

    fn take_apart(self) -> Result<(Connection, ()), (Self, String)> {
        Ok((self, ()))
    }

    fn put_together(connection: Connection, (): ()) -> Option<Self> {
        Some(connection)
    }

    fn state((): &(), protocol: Vec<u8>) -> Vec<u8> {
        protocol
    }
}

/// What a server speaks HTTP over.
pub(crate) trait HttpCarrier: Carrier {
    /// Whether the connection rests while its client is silent, taken apart.
    fn rests(&self) -> bool;

    /// Whether the client has to speak before there is anything to do.
    fn is_waiting(around: &Self::Around) -> bool;

    /// What requests and their answers need to know of it.
    fn carried(&self, server: &Server) -> Carried;

    /// What the client speaks, if that is known before its first byte.
    fn known_protocol(&self) -> Option<Protocol>;
}

impl HttpCarrier for Connection {
    fn rests(&self) -> bool {
        true
    }

    fn is_waiting((): &()) -> bool {
        true
    }

    fn carried(&self, _: &Server) -> Carried {
        Carried { kinds: Some(Layer::Bare.kinds()), is_whole: true, ..Carried::wrapped() }
    }

    fn known_protocol(&self) -> Option<Protocol> {
        None
    }
}

/// Migrates a connection of this kind, with the state of its protocol. If it stays, `stays` gets it back, and
/// the reason.
pub(crate) fn migrate<C: Carrier>(
    carrier: C,
    kind: &str,
    protocol: Vec<u8>,
    stays: impl FnOnce(C, String) + Send + 'static,
) {
    match carrier.take_apart() {
        Ok((connection, around)) => {
            let state = C::state(&around, protocol);
            connection.migrate_bytes_or(kind, state, move |NotMigrated { connection, why, .. }| {
                if let Some(carrier) = C::put_together(connection, around) {
                    stays(carrier, why);
                }
            });
        }
        Err((carrier, why)) => {
            carrier.connection().activity().set_refused();
            stays(carrier, why);
        }
    }
}

/// What an HTTP carrier does beside carrying.
pub(crate) struct Ways<T> {
    /// The connection rests while its client is silent.
    pub(crate) rests: bool,
    #[cfg(feature = "http2")]
    pub(crate) migrate_relayed: MigrateRelayed<T>,
    #[cfg(not(feature = "http2"))]
    carrier: PhantomData<fn(T)>,
}

impl<C: HttpCarrier> Ways<C> {
    pub(crate) fn of(carrier: &C) -> Self {
        Self {
            rests: carrier.rests(),
            #[cfg(feature = "http2")]
            migrate_relayed: |carrier, state, pair| Box::pin(migrate_relayed(carrier, state, pair)),
            #[cfg(not(feature = "http2"))]
            carrier: PhantomData,
        }
    }
}

impl<T: Send + 'static> Ways<T> {
    /// Of what belongs to the application.
    pub(crate) fn none() -> Self {
        Self {
            rests: false,
            #[cfg(feature = "http2")]
            migrate_relayed: |carrier, _, _| Box::pin(async { Relayed::Stays(carrier) }),
            #[cfg(not(feature = "http2"))]
            carrier: PhantomData,
        }
    }
}

/// Migrates an HTTP/2 connection on which streams are open, with the state of the protocol.
#[cfg(feature = "http2")]
pub(crate) type MigrateRelayed<T> =
    fn(T, Vec<u8>, RelayPair) -> Pin<Box<dyn Future<Output = Relayed<T>> + Send>>;

/// What has become of such a connection.
#[cfg(feature = "http2")]
pub(crate) enum Relayed<T> {
    /// It has migrated, and its streams go on over this.
    Migrated(Connection),
    Stays(T),
    Lost,
}

#[cfg(feature = "http2")]
async fn migrate_relayed<C: Carrier>(carrier: C, protocol: Vec<u8>, pair: RelayPair) -> Relayed<C> {
    let kind = carrier.layer().kinds().http2_relayed;
    let (connection, around) = match carrier.take_apart() {
        Ok(parts) => parts,
        Err((carrier, why)) => {
            tracing::debug!(why, kind, "a connection stays");
            carrier.connection().activity().set_refused();
            return Relayed::Stays(carrier);
        }
    };
    let state = C::state(&around, protocol);
    match connection.migrate_relayed(kind, state, pair).await {
        Ok(near) => near.map_or(Relayed::Lost, Relayed::Migrated),
        Err(NotMigrated { connection, why, .. }) => {
            tracing::debug!(why, kind, "a connection stays");
            C::put_together(connection, around).map_or(Relayed::Lost, Relayed::Stays)
        }
    }
}

/// What is around a connection, as far as names tell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layer {
    Bare,
    #[cfg(feature = "tls")]
    Tls12,
    #[cfg(feature = "tls")]
    Tls13,
}

/// What operators see of a connection.
#[derive(Debug)]
pub(crate) struct Names {
    /// A client that has not said what it speaks.
    #[cfg_attr(not(feature = "tls"), expect(dead_code, reason = "a bare connection has this name already"))]
    pub(crate) silent: &'static str,
    pub(crate) http1: &'static str,
    pub(crate) h2: &'static str,
    pub(crate) websocket: &'static str,
    /// An upgrade to something else.
    pub(crate) raw: &'static str,
}

/// The kinds as which connections migrate.
#[derive(Debug)]
pub(crate) struct Kinds {
    /// They speak HTTP/1.1, or their clients have not said yet what they speak.
    pub(crate) http1: &'static str,
    /// They speak HTTP/2.
    #[cfg(feature = "http2")]
    pub(crate) http2: &'static str,
    /// They speak HTTP/2, and the version before serves the streams that are open.
    #[cfg(feature = "http2")]
    pub(crate) http2_relayed: &'static str,
    /// WebSockets: with what their kinds begin, so that they never collide with kinds that an application
    /// migrates itself.
    #[cfg(feature = "ws")]
    pub(crate) websocket: &'static str,
}

impl Layer {
    pub(crate) fn names(self) -> &'static Names {
        const BARE: Names =
            Names { silent: "raw", http1: "http/1.1", h2: "h2", websocket: "websocket", raw: "raw" };
        #[cfg(feature = "tls")]
        const TLS12: Names = Names {
            silent: "tls1.2",
            http1: "tls1.2+http/1.1",
            h2: "tls1.2+h2",
            websocket: "tls1.2+websocket",
            raw: "tls1.2+raw",
        };
        #[cfg(feature = "tls")]
        const TLS13: Names = Names {
            silent: "tls1.3",
            http1: "tls1.3+http/1.1",
            h2: "tls1.3+h2",
            websocket: "tls1.3+websocket",
            raw: "tls1.3+raw",
        };
        match self {
            Self::Bare => &BARE,
            #[cfg(feature = "tls")]
            Self::Tls12 => &TLS12,
            #[cfg(feature = "tls")]
            Self::Tls13 => &TLS13,
        }
    }

    pub(crate) fn kinds(self) -> &'static Kinds {
        const BARE: Kinds = Kinds {
            http1: "http/1.1",
            #[cfg(feature = "http2")]
            http2: "h2",
            #[cfg(feature = "http2")]
            http2_relayed: "h2/relayed",
            #[cfg(feature = "ws")]
            websocket: "websocket/",
        };
        #[cfg(feature = "tls")]
        const TLS: Kinds = Kinds {
            http1: "tls+http/1.1",
            #[cfg(feature = "http2")]
            http2: "tls+h2",
            #[cfg(feature = "http2")]
            http2_relayed: "tls+h2/relayed",
            #[cfg(feature = "ws")]
            websocket: "tls+websocket/",
        };
        match self {
            Self::Bare => &BARE,
            #[cfg(feature = "tls")]
            Self::Tls12 | Self::Tls13 => &TLS,
        }
    }
}
