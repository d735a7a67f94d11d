//! One HTTP/1.1 connection, and taking it out of hyper alive, between two messages: to migrate it, or to
//! close it gently.
//!
//! Deliberately absent: `graceful_shutdown`. It closes an idle connection without reading what has already
//! arrived, and a client that was just sending its next request would lose it.

use std::pin::Pin;

use axum::body::Body;
use hotupdate::Connection;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::rt::TokioIo;

use crate::app::BoxError;
use crate::detect::Protocol;
use crate::io::Io;
use crate::migration;
use crate::service::Tracked;
use crate::settings::Http1;
use crate::watch::{Event, Watch};

/// Why hyper has not got the connection any more.
enum Why {
    Ended(hyper::Result<()>),
    Migrates,
    TimedOut,
}

/// Serves until the client closes, the connection is upgraded (then its new owner has it), the next version
/// has it, or the process lets go of it.
pub(crate) async fn serve<S>(mut io: Io<Connection>, mut service: S, watch: &mut Watch, settings: &Http1)
where
    S: Service<Request<Incoming>, Response = Response<Tracked<Body>>, Error = BoxError> + Unpin,
{
    let builder = settings.builder();
    loop {
        let mut hyper = builder.serve_connection(TokioIo::new(io), service).with_upgrades();
        let why = loop {
            match watch.next(Pin::new(&mut hyper)).await {
                Event::Ended(result) => break Why::Ended(result),
                Event::Migrates => break Why::Migrates,
                Event::TimedOut => break Why::TimedOut,
                Event::Forced => return,
                // The service and the timeout see it by themselves.
                Event::Phase(_) => {}
            }
        };
        if let Why::Ended(Err(error)) = &why {
            tracing::debug!(%error, "an HTTP/1 connection failed");
        }
        let Some(parts) = hyper.into_parts() else { return };
        io = parts.io.into_inner();
        match why {
            Why::Migrates => {
                io.give_back(parts.read_buf);
                match migration::migrate(io, Some(Protocol::Http1), watch).await {
                    Some(stays) => io = stays,
                    None => return,
                }
            }
            // Idle, but bytes are there that hyper has not seen: it goes on where it was.
            Why::TimedOut if watch.is_readable(io.get()) => io.give_back(parts.read_buf),
            Why::TimedOut => {
                watch.closing();
                return watch.close(io.into_inner()).await;
            }
            Why::Ended(_) => return watch.close(io.into_inner()).await,
        }
        service = parts.service;
    }
}
