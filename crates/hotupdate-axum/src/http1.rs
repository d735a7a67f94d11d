//! One HTTP/1.1 connection, and taking it out of hyper alive, between two messages: to migrate it, to close
//! it gently, or to let it rest, for hyper has buffers for each connection that it has.
//!
//! Deliberately absent: `graceful_shutdown`. It closes an idle connection without reading what has already
//! arrived, and a client that was just sending its next request would lose it.

use std::pin::Pin;

use axum::body::Body;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::app::BoxError;
use crate::detect::Protocol;
use crate::io::Io;
use crate::service::Tracked;
use crate::settings::Http1;
use crate::watch::{Event, Watch};

/// Why hyper has not got the connection any more.
enum Why {
    Ended(hyper::Result<()>),
    Migrates,
    Rests,
    TimedOut,
}

/// What becomes of a connection that hyper has given back.
#[derive(Debug)]
pub(crate) enum Left<I, S> {
    /// It shall migrate.
    Migrates(I),
    /// Its client is silent. The next request is answered with this service.
    Rests(I, S),
}

/// Serves until the client closes, the connection is upgraded (then its new owner has it), or the process
/// lets go of it. Returns the connection if it shall migrate or is idle.
pub(crate) async fn serve<T, S>(
    mut io: Io<T>,
    mut service: S,
    watch: &mut Watch,
    settings: &Http1,
) -> Option<Left<Io<T>, S>>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    S: Service<Request<Incoming>, Response = Response<Tracked<Body>>, Error = BoxError> + Unpin,
{
    watch.set_protocol(Some(Protocol::Http1));
    let builder = settings.builder();
    loop {
        // Boxed, so that a connection that rests does not keep the room for it.
        let mut hyper = Box::new(builder.serve_connection(TokioIo::new(io), service).with_upgrades());
        let why = loop {
            match watch.next(Pin::new(&mut *hyper)).await {
                Event::Ended(result) => break Why::Ended(result),
                Event::Migrates => break Why::Migrates,
                Event::Rests => break Why::Rests,
                Event::TimedOut => break Why::TimedOut,
                Event::Forced => return None,
                // The service and the timeout see it by themselves.
                Event::Phase(_) => {}
            }
        };
        if let Why::Ended(Err(error)) = &why {
            tracing::debug!(%error, "an HTTP/1 connection failed");
        }
        let parts = hyper.into_parts()?;
        io = parts.io.into_inner();
        match why {
            Why::Migrates => {
                io.give_back(parts.read_buf);
                return Some(Left::Migrates(io));
            }
            Why::Rests => {
                io.give_back(parts.read_buf);
                return Some(Left::Rests(io, parts.service));
            }
            // Idle, but bytes are there that hyper has not seen: it goes on where it was.
            Why::TimedOut if watch.is_readable() => io.give_back(parts.read_buf),
            Why::TimedOut => {
                watch.closing();
                watch.close(io.into_inner()).await;
                return None;
            }
            Why::Ended(_) => {
                watch.close(io.into_inner()).await;
                return None;
            }
        }
        service = parts.service;
    }
}
