//! Serves one connection with one hyper after the other.

use std::convert::Infallible;
use std::future::{Future, pending, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use hotupdate_h2::{Handle, Layer, Limits, State, Stays};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

/// What the service was asked: paths, and headers in the order of their names.
pub(crate) type Seen = Arc<Mutex<Vec<Asked>>>;

pub(crate) type Asked = (String, Vec<(String, Vec<u8>)>);

fn sorted(headers: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    let mut headers: Vec<_> =
        headers.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect();
    headers.sort();
    headers
}

/// Answers with what it has heard: the body, trailers, and each header that begins with `x-`. On `/stream` it
/// answers while it hears.
pub(crate) async fn echo(
    generation: u64,
    seen: Seen,
    request: Request<Incoming>,
) -> Result<Response<BoxBody<Bytes, hyper::Error>>, Infallible> {
    let (head, body) = request.into_parts();
    seen.lock().unwrap().push((head.uri.path().to_owned(), sorted(&head.headers)));
    let mut response = Response::builder().header("x-generation", generation);
    for (name, value) in &head.headers {
        if name.as_str().starts_with("x-") {
            response = response.header(format!("x-seen-{name}"), value);
        }
    }
    if head.uri.path() == "/stream" {
        let body = body.map_frame(move |frame| {
            if let Some(trailers) = frame.trailers_ref() {
                seen.lock().unwrap().push(("trailers".to_owned(), sorted(trailers)));
            }
            frame
        });
        return Ok(response.body(body.boxed()).unwrap());
    }
    let full = |body| Full::new(body).map_err(|never: Infallible| match never {});
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    if head.uri.path() == "/slow" {
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    if head.uri.path() == "/head" {
        response = response.header("x-long", "a".repeat(100_000));
    }
    if head.uri.path() == "/big" {
        return Ok(response.body(full(vec![7; 300_000].into()).boxed()).unwrap());
    }
    Ok(response.body(full(body).boxed()).unwrap())
}

/// How a connection ended, and how often it moved before.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) moves: u64,
    /// Why it did not, when it was asked to.
    pub(crate) stays: Vec<Stays>,
    pub(crate) result: hyper::Result<()>,
}

pub(crate) fn builder() -> hyper::server::conn::http2::Builder<TokioExecutor> {
    let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    builder.timer(TokioTimer::new());
    builder
}

/// How the server of a generation is built.
pub(crate) type Versions = fn(u64) -> hyper::server::conn::http2::Builder<TokioExecutor>;

/// What becomes of streams that are open when the connection shall move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Open {
    /// The connection moves when they have ended.
    End,
    /// They stay where they are, and are relayed.
    Stay,
    /// No other server takes the connection without them: it comes back.
    Return,
    /// It is decided several times that they stay, and then that the connection stays, too.
    Hesitate,
    /// As `Stay`, but the server that keeps them ends when the next move is asked for.
    Die,
    /// As `Stay`, but the server that keeps them does not run any more.
    Freeze,
    /// As `Stay`, but the server that keeps them is not heard of any more.
    Vanish,
}

/// Serves until the client has left. Moves the connection, through its bytes, whenever `next` is notified.
pub(crate) async fn serve<T: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    io: T,
    next: &Notify,
    seen: Seen,
    versions: Versions,
    open: Open,
) -> Ended {
    let (mut moves, mut stays) = (0, Vec::new());
    let mut before = Vec::new();
    let (mut layer, mut handle) = Layer::new(io, Limits::default());
    loop {
        let (generation, seen) = (moves, seen.clone());
        let service = service_fn(move |request| echo(generation, seen.clone(), request));
        let mut hyper = Box::pin(versions(generation).serve_connection(TokioIo::new(layer), service));
        let drain = |hyper: Pin<&mut Hyper<_, _>>| hyper.graceful_shutdown();
        let dies = before.last().filter(|_| open == Open::Die);
        match until_rest(hyper.as_mut(), drain, &handle, next, &mut stays, open, dies).await {
            Left::Ended(result) => return Ended { moves, stays, result },
            Left::Rests => {
                let (io, state) = handle.take().map_err(|(_, stays)| stays).unwrap();
                let state = State::from_bytes(&state.to_bytes()).unwrap();
                (layer, handle) = Layer::resume(io, state, Limits::default());
            }
            Left::Splits => {
                let (io, state) = handle.take_split().unwrap();
                let state = State::from_bytes(&state.to_bytes()).unwrap();
                let (near, far) = tokio::io::duplex(1 << 16);
                handle.relay(near);
                let old = async move { (hyper.await.is_ok(), handle) };
                let runs = open != Open::Freeze;
                let old =
                    tokio::spawn(async move { if runs { old.await } else { (old, pending()).1.await } });
                before.push(old.abort_handle());
                (layer, handle) = if open == Open::Vanish {
                    Layer::resume(io, state, Limits::default())
                } else {
                    Layer::join(io, state, far, Limits::default())
                };
            }
        }
        moves += 1;
    }
}

type Hyper<T, S> = hyper::server::conn::http2::Connection<TokioIo<Layer<T>>, S, TokioExecutor>;

enum Left {
    Ended(hyper::Result<()>),
    Rests,
    Splits,
}

/// Drives hyper until it has ended, or the connection can go after `next`. One that never can drains.
async fn until_rest<T: AsyncWrite + Unpin, F: Future<Output = hyper::Result<()>>>(
    mut hyper: Pin<&mut F>,
    drain: impl Fn(Pin<&mut F>),
    handle: &Handle<T>,
    next: &Notify,
    stays: &mut Vec<Stays>,
    open: Open,
    mut dies: Option<&AbortHandle>,
) -> Left {
    loop {
        tokio::select! {
            biased;
            result = hyper.as_mut() => return Left::Ended(result),
            () = next.notified() => {}
        }
        if let Some(old) = dies.take() {
            old.abort();
            continue;
        }
        if open == Open::Hesitate {
            if let Some(result) = hesitate(hyper.as_mut(), handle).await {
                return Left::Ended(result);
            }
            continue;
        }
        handle.hold();
        let splits = open != Open::End && handle.rest().is_err() && handle.can_split().is_ok();
        if splits {
            handle.split();
        }
        let rest = poll_fn(|cx| {
            if let Poll::Ready(result) = hyper.as_mut().poll(cx) {
                return Poll::Ready(Err(result));
            }
            if splits { handle.poll_split(cx).map(Ok) } else { handle.poll_rest(cx).map(Ok) }
        });
        match rest.await {
            Ok(Ok(())) if splits && open == Open::Return => {
                let (io, state) = handle.take_split().unwrap();
                // It goes on for a while, and its client hears nothing.
                let while_away = tokio::time::timeout(Duration::from_millis(1), hyper.as_mut());
                assert!(while_away.await.is_err());
                handle.give_back(io, state);
            }
            Ok(Ok(())) if splits => return Left::Splits,
            Ok(Ok(())) => return Left::Rests,
            Ok(Err(why)) => {
                stays.push(why);
                handle.unsplit();
                handle.release();
                drain(hyper.as_mut());
            }
            Err(result) => return Left::Ended(result),
        }
    }
}

/// Begins to leave and stays, so often that each step is the last one once, and that each comes before the
/// last one is done.
async fn hesitate<T: AsyncWrite + Unpin, F: Future<Output = hyper::Result<()>>>(
    mut hyper: Pin<&mut F>,
    handle: &Handle<T>,
) -> Option<hyper::Result<()>> {
    let mut polls = async |n: usize| {
        for _ in 0..n {
            let polled = poll_fn(|cx| Poll::Ready(hyper.as_mut().poll(cx))).await;
            if let Poll::Ready(result) = polled {
                return Some(result);
            }
        }
        None
    };
    for n in 0..16 {
        handle.split();
        if let Some(result) = polls(n % 4).await {
            return Some(result);
        }
        if n % 3 == 0
            && let Ok((io, state)) = handle.take_split()
        {
            let result = polls(n % 2).await;
            handle.give_back(io, state);
            if result.is_some() {
                return result;
            }
        }
        handle.unsplit();
        if let Some(result) = polls(n / 4).await {
            return Some(result);
        }
    }
    None
}
