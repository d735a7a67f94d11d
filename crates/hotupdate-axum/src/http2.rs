//! One HTTP/2 connection.
//!
//! Deliberately absent: taking it out of hyper; its state cannot migrate. It ends with GOAWAY, and its client
//! opens a new one without losing a request (RFC 9113, section 6.8).

use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use axum::body::Body;
use hotupdate::drain::Phase;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;

use crate::app::BoxError;
use crate::detect::Protocol;
use crate::io::Io;
use crate::service::Tracked;
use crate::settings::Http2;
use crate::watch::{Event, Watch};

/// Serves until the client closes or the process lets go of it.
pub(crate) async fn serve<T, S>(io: Io<T>, service: S, watch: &mut Watch, settings: &Http2)
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    S: Service<Request<Incoming>, Response = Response<Tracked<Body>>, Error = BoxError>,
    S::Future: Send + 'static,
{
    watch.set_protocol(Some(Protocol::Http2));
    let (home, mut returned) = oneshot::channel();
    let builder = settings.builder();
    {
        let io = io.map(|connection| ReturnOnDrop { connection: Some(connection), home: Some(home) });
        let mut hyper = pin!(builder.serve_connection(TokioIo::new(io), service));
        let mut phase = watch.phase();
        loop {
            // Streams in flight finish. It cannot be taken back; if the drain is, the client just comes
            // again.
            if matches!(phase, Phase::Draining(_)) {
                watch.closing();
                hyper.as_mut().graceful_shutdown();
            }
            match watch.next(hyper.as_mut()).await {
                Event::Ended(Ok(())) => break,
                Event::Ended(Err(error)) => {
                    tracing::debug!(%error, "an HTTP/2 connection failed");
                    break;
                }
                // It has no stream and does not answer GOAWAY.
                Event::TimedOut | Event::Migrates => break,
                Event::Forced => return,
                Event::Phase(now) => phase = now,
                Event::Rests => unreachable!("only what is equipped rests"),
            }
        }
    }
    if let Ok(connection) = returned.try_recv() {
        watch.close(connection).await;
    }
}

/// A connection that comes home when it is dropped: hyper does not give it back, and it has to be closed
/// gently.
#[derive(Debug)]
struct ReturnOnDrop<T> {
    connection: Option<T>,
    home: Option<oneshot::Sender<T>>,
}

impl<T: Unpin> ReturnOnDrop<T> {
    fn get(self: Pin<&mut Self>) -> Pin<&mut T> {
        let connection = self.get_mut().connection.as_mut();
        Pin::new(connection.expect("it is taken in `drop` only"))
    }
}

impl<T> Drop for ReturnOnDrop<T> {
    fn drop(&mut self) {
        if let (Some(connection), Some(home)) = (self.connection.take(), self.home.take()) {
            // It was forced if the receiver is gone, and closes here.
            let _ = home.send(connection);
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for ReturnOnDrop<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.get().poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for ReturnOnDrop<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.get().poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get().poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.connection.as_ref().is_some_and(T::is_write_vectored)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get().poll_shutdown(cx)
    }
}
