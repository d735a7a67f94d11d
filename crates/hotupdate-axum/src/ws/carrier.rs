//! What a WebSocket is spoken over: one type for all carriers, because a [`WebSocket`](super::WebSocket) is
//! one.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use hotupdate::Connection;
#[cfg(feature = "tls")]
use hotupdate_tls::{State, TlsStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::carrier::{Carrier, Layer};

/// A carrier of any kind.
#[derive(Debug)]
pub(super) enum AnyCarrier {
    Bare(Connection),
    #[cfg(feature = "tls")]
    Tls(TlsStream<Connection>),
}

/// What is around the connection.
pub(super) enum Around {
    Nothing,
    #[cfg(feature = "tls")]
    Tls(Box<State>),
}

impl AnyCarrier {
    /// How many bytes are on their way to the client and would migrate along.
    pub(super) fn unsent(&self) -> usize {
        match self {
            Self::Bare(_) => 0,
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.unsent(),
        }
    }
}

impl Carrier for AnyCarrier {
    type Around = Around;

    fn connection(&self) -> &Connection {
        match self {
            Self::Bare(connection) => connection,
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.connection(),
        }
    }

    fn layer(&self) -> Layer {
        match self {
            Self::Bare(connection) => connection.layer(),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.layer(),
        }
    }

    fn take_apart(self) -> Result<(Connection, Around), (Self, String)> {
        match self {
            Self::Bare(connection) => Ok((connection, Around::Nothing)),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => match stream.take_apart() {
                Ok((connection, state)) => Ok((connection, Around::Tls(Box::new(state)))),
                Err((stream, why)) => Err((Self::Tls(stream), why)),
            },
        }
    }

    fn put_together(connection: Connection, around: Around) -> Option<Self> {
        match around {
            Around::Nothing => Some(Self::Bare(connection)),
            #[cfg(feature = "tls")]
            Around::Tls(state) => TlsStream::put_together(connection, *state).map(Self::Tls),
        }
    }

    fn state(around: &Around, protocol: Vec<u8>) -> Vec<u8> {
        match around {
            Around::Nothing => protocol,
            #[cfg(feature = "tls")]
            Around::Tls(state) => TlsStream::state(state, protocol),
        }
    }
}

impl AsyncRead for AnyCarrier {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Bare(connection) => Pin::new(connection).poll_read(cx, buf),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for AnyCarrier {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Bare(connection) => Pin::new(connection).poll_write(cx, buf),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Bare(connection) => Pin::new(connection).poll_flush(cx),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Bare(connection) => Pin::new(connection).poll_shutdown(cx),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
