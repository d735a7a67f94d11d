//! Any bytes of a client, with a move wherever it is asked for: nothing panics, and no task is busy for ever.
//! A connection that only waits is ended after a minute of virtual time, and what its server answers is not
//! looked at: `tests/moves/cuts.rs` does that for requests that are valid.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use hotupdate_h2::{Layer, Limits, State};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::sync::mpsc;

const BEGINS: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\0\x04\x01\0\0\0\0";

/// Where the connection is asked to move.
const MOVE: u8 = 0xf0;

async fn answer(_: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(Response::new(Full::from("answer")))
}

/// Returns how often it moved.
async fn serve(io: DuplexStream, mut next: mpsc::UnboundedReceiver<()>) -> u64 {
    let mut moves = 0;
    let (mut layer, mut handle) = Layer::new(io, Limits::default());
    loop {
        let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let mut hyper = pin!(server.serve_connection(TokioIo::new(layer), service_fn(answer)));
        let at_rest = poll_fn(|cx| {
            if hyper.as_mut().poll(cx).is_ready() {
                return Poll::Ready(false);
            }
            if let Poll::Ready(Some(())) = next.poll_recv(cx) {
                handle.hold();
            }
            match handle.poll_rest(cx) {
                // Nothing was asked for.
                Poll::Ready(Ok(())) if !handle.is_holding() => Poll::Pending,
                Poll::Ready(Ok(())) => Poll::Ready(true),
                Poll::Ready(Err(_)) => {
                    handle.release();
                    Poll::Pending
                }
                Poll::Pending => Poll::Pending,
            }
        });
        // A client that keeps a stream open holds what follows: its server gets it in the end.
        match tokio::time::timeout(Duration::from_secs(60), at_rest).await {
            Ok(true) => {}
            Ok(false) => return moves,
            Err(_) => {
                handle.release();
                let _ = tokio::time::timeout(Duration::from_secs(60), hyper).await;
                return moves;
            }
        }
        let (io, state) = handle.take().map_err(|(_, stays)| stays).expect("it was at rest");
        let state = State::from_bytes(&state.to_bytes()).expect("it is what was written");
        (layer, handle) = Layer::resume(io, state, Limits::default());
        moves += 1;
    }
}

async fn run(bytes: &[u8]) -> u64 {
    let (mut client, server) = tokio::io::duplex(1 << 20);
    let (ask, next) = mpsc::unbounded_channel();
    let server = tokio::spawn(serve(server, next));
    client.write_all(BEGINS).await.expect("it fits");
    for piece in bytes.split(|byte| *byte == MOVE) {
        tokio::time::sleep(Duration::from_millis(1)).await;
        if client.write_all(piece).await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        let _ = ask.send(());
    }
    let _ = client.shutdown().await;
    let mut said = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(200), client.read_to_end(&mut said)).await;
    drop(client);
    server.await.expect("it neither fails nor hangs")
}

pub(crate) fn how_often_it_moves(bytes: &[u8]) -> u64 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    runtime.expect("it has no threads").block_on(run(bytes))
}

pub(crate) fn check(bytes: &[u8]) {
    how_often_it_moves(bytes);
}
