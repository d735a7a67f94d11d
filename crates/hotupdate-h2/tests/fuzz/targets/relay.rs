//! Any bytes of the version before: nothing panics, no task is busy for ever, and the client hears whole
//! frames.

use std::convert::Infallible;
use std::future::{Future as _, poll_fn};
use std::sync::OnceLock;
use std::time::Duration;

use hotupdate_h2::{Layer, Limits, State};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// A client's preface and settings, and two streams that stay open.
const BEGINS: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\0\x04\x01\0\0\0\0\
    \0\0\x03\x01\x04\0\0\0\x01\x83\x86\x84\0\0\x03\x01\x04\0\0\0\x03\x83\x86\x84";

/// What the client says then: a new stream, DATA for an old one and for the new one, and SETTINGS.
const GOES_ON: &[u8] = b"\0\0\x03\x01\x04\0\0\0\x05\x83\x86\x84\0\0\x03\0\0\0\0\0\x01abc\
    \0\0\x03\0\x01\0\0\0\x05abc\0\0\0\x04\0\0\0\0\0";

async fn answer(request: Request<Incoming>) -> Result<Response<Incoming>, Infallible> {
    Ok(Response::new(request.into_body()))
}

/// The state of a connection whose two streams stay behind.
async fn left_behind() -> Vec<u8> {
    let (mut client, server) = tokio::io::duplex(1 << 16);
    let (layer, handle) = Layer::new(server, Limits::default());
    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    let mut hyper = Box::pin(server.serve_connection(TokioIo::new(layer), service_fn(answer)));
    client.write_all(BEGINS).await.expect("it fits");
    poll_fn(|cx| {
        assert!(hyper.as_mut().poll(cx).is_pending(), "its client is there");
        handle.split();
        handle.poll_split(cx)
    })
    .await
    .expect("it can go");
    let (_, state) = handle.take_split().expect("it was ready");
    assert!(state.has_streams());
    state.to_bytes()
}

async fn run(bytes: &[u8]) {
    static STATE: OnceLock<Vec<u8>> = OnceLock::new();
    let state = match STATE.get() {
        Some(state) => state,
        None => {
            let state = left_behind().await;
            STATE.get_or_init(|| state)
        }
    };
    let state = State::from_bytes(state).expect("it is what was written");
    let (mut client, server) = tokio::io::duplex(1 << 20);
    let (mut before, relay) = tokio::io::duplex(1 << 20);
    let (layer, handle) = Layer::join(server, state, relay, Limits::default());
    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    let hyper = tokio::spawn(server.serve_connection(TokioIo::new(layer), service_fn(answer)));
    let (first, second) = bytes.split_at(bytes.len() / 2);
    before.write_all(first).await.expect("it fits");
    tokio::time::sleep(Duration::from_millis(1)).await;
    client.write_all(GOES_ON).await.expect("it fits");
    tokio::time::sleep(Duration::from_millis(1)).await;
    // It may have been given up meanwhile.
    let _ = before.write_all(second).await;
    tokio::time::sleep(Duration::from_millis(1)).await;
    drop(before);
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(handle.relayed(), 0, "what has ended serves nothing");
    client.shutdown().await.expect("it is there");
    let mut said = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(60), client.read_to_end(&mut said)).await;
    drop(client);
    let _ = hyper.await.expect("it neither fails nor hangs");
    let mut rest = &said[..];
    while let [a, b, c, ..] = *rest {
        let length = 9 + u32::from_be_bytes([0, a, b, c]) as usize;
        rest = rest.split_at_checked(length).expect("the client hears whole frames").1;
    }
    assert!(rest.is_empty(), "the client hears whole frames");
}

pub(crate) fn check(bytes: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    runtime.expect("it has no threads").block_on(run(bytes));
}
