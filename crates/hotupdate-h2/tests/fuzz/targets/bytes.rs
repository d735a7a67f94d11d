//! Any bytes of a client, with a move wherever it is asked for: nothing panics, and no task is busy for ever.
//! A connection that only waits is ended after a minute of virtual time, and what its server answers is not
//! looked at: `tests/moves/cuts.rs` does that for requests that are valid.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::task::Poll;
use std::time::Duration;

use hotupdate_h2::{Layer, Limits, State};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

const BEGINS: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\0\x04\x01\0\0\0\0";

/// Where the connection is asked to move: when no stream is open, or without those that are.
const MOVE: u8 = 0xf0;
const SPLIT: u8 = 0xf1;

/// Where the server that was left ends.
const DIE: u8 = 0xf2;

async fn answer(request: Request<Incoming>) -> Result<Response<Incoming>, Infallible> {
    Ok(Response::new(request.into_body()))
}

/// Returns how often it moved.
async fn serve(io: DuplexStream, mut next: mpsc::UnboundedReceiver<u8>) -> u64 {
    let mut moves = 0;
    let mut before = JoinSet::new();
    let (mut layer, mut handle) = Layer::new(io, Limits::default());
    loop {
        let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let mut hyper = Box::pin(server.serve_connection(TokioIo::new(layer), service_fn(answer)));
        let mut splits = false;
        let decided = poll_fn(|cx| {
            if hyper.as_mut().poll(cx).is_ready() {
                return Poll::Ready(false);
            }
            match next.poll_recv(cx) {
                Poll::Ready(Some(MOVE)) => handle.hold(),
                Poll::Ready(Some(SPLIT)) => {
                    // Each second one changes its mind first.
                    if splits {
                        handle.unsplit();
                    }
                    handle.split();
                    splits = true;
                }
                Poll::Ready(Some(_)) => before.abort_all(),
                Poll::Ready(None) | Poll::Pending => {}
            }
            if splits {
                match handle.poll_split(cx) {
                    Poll::Ready(Ok(())) => return Poll::Ready(true),
                    Poll::Ready(Err(_)) => {
                        handle.unsplit();
                        splits = false;
                    }
                    Poll::Pending => return Poll::Pending,
                }
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
        match tokio::time::timeout(Duration::from_secs(60), decided).await {
            Ok(true) => {}
            Ok(false) => return moves,
            Err(_) => {
                handle.unsplit();
                handle.release();
                let _ = tokio::time::timeout(Duration::from_secs(60), hyper).await;
                return moves;
            }
        }
        let (io, state) = match handle.take_split() {
            Ok(taken) => taken,
            Err(_) => match handle.take() {
                Ok(taken) => {
                    (layer, handle) = Layer::resume(taken.0, travels(&taken.1), Limits::default());
                    moves += 1;
                    continue;
                }
                Err((_, stays)) => panic!("it was at rest: {stays}"),
            },
        };
        let (near, far) = tokio::io::duplex(1 << 10);
        handle.relay(near);
        before.spawn(async move { (hyper.await.is_ok(), handle).0 });
        (layer, handle) = Layer::join(io, travels(&state), far, Limits::default());
        moves += 1;
    }
}

fn travels(state: &State) -> State {
    State::from_bytes(&state.to_bytes()).expect("it is what was written")
}

async fn run(bytes: &[u8]) -> u64 {
    let (mut client, server) = tokio::io::duplex(1 << 20);
    let (ask, next) = mpsc::unbounded_channel();
    let server = tokio::spawn(serve(server, next));
    client.write_all(BEGINS).await.expect("it fits");
    for piece in bytes.split_inclusive(|byte| matches!(*byte, MOVE | SPLIT | DIE)) {
        let (said, asked) = match piece {
            [said @ .., asked @ (MOVE | SPLIT | DIE)] => (said, Some(*asked)),
            said => (said, None),
        };
        tokio::time::sleep(Duration::from_millis(1)).await;
        if client.write_all(said).await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        let _ = asked.map(|asked| ask.send(asked));
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
