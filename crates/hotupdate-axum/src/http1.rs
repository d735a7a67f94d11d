//! One HTTP/1.1 connection, and taking it out of hyper while it is idle.
//!
//! Deliberately absent: `graceful_shutdown`. It closes an idle connection without reading what has already arrived, and
//! a client that was just sending its next request would lose it.

use std::pin::Pin;

use axum::body::Body;
use hotupdate::Connection;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::TokioIo;

use crate::io::Io;
use crate::service::{BoxError, Tracked};
use crate::watch::{Event, Watch};

/// Serves until the client leaves, the connection is upgraded (then its new owner has it), or the process lets go of it.
pub(crate) async fn serve<S>(mut io: Io<Connection>, mut service: S, watch: &mut Watch)
where
    S: Service<Request<Incoming>, Response = Response<Tracked<Body>>, Error = BoxError> + Unpin,
{
    // hyper's own timeout for heads would also close idle connections, which races with their next request; `Silence`
    // knows the difference. Without a timer hyper has none.
    let builder = http1::Builder::new();
    loop {
        let mut hyper = builder.serve_connection(TokioIo::new(io), service).with_upgrades();
        let ended = loop {
            match watch.next(Pin::new(&mut hyper)).await {
                Event::Ended(result) => break Some(result),
                Event::Silent => break None,
                Event::Forced => return,
                // The service and the silence see it by themselves.
                Event::Phase(_) => {}
            }
        };
        if let Some(Err(error)) = &ended {
            tracing::debug!(%error, "an HTTP/1 connection failed");
        }
        let Some(parts) = hyper.into_parts() else { return };
        io = parts.io.into_inner();
        if ended.is_some() || !watch.speaks(io.get()) {
            return watch.close(io.into_inner()).await;
        }
        // Idle, but bytes are there that hyper has not seen: it goes on where it was.
        io.give_back(parts.read_buf);
        service = parts.service;
    }
}
