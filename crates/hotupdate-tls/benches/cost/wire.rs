//! A transport in memory, of which both ends are here: nothing but the server does any work.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use rustls::ClientConnection;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::peers::{Engine, Peers, Server};

#[derive(Clone, Debug, Default)]
pub(crate) struct Wire(Rc<RefCell<Ends>>);

#[derive(Debug, Default)]
struct Ends {
    /// One after the other is to be read, as segments arrive.
    to_server: VecDeque<Vec<u8>>,
    /// How much of the first was read.
    at: usize,
    to_client: Vec<u8>,
    /// What the server sends is not kept.
    deaf: bool,
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let ends = &mut *self.0.borrow_mut();
        let Some(segment) = ends.to_server.front() else { return Poll::Pending };
        let rest = &segment[ends.at..];
        if rest.is_empty() {
            // Once nothing, and the next one then.
            ends.to_server.pop_front();
            ends.at = 0;
            return Poll::Pending;
        }
        let count = rest.len().min(buf.remaining());
        buf.put_slice(&rest[..count]);
        ends.at += count;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let ends = &mut *self.0.borrow_mut();
        if !ends.deaf {
            ends.to_client.extend_from_slice(bytes);
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        for piece in pieces {
            let _ = self.as_mut().poll_write(cx, piece);
        }
        Poll::Ready(Ok(pieces.iter().map(|piece| piece.len()).sum()))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Polls until it is ready: nothing of this waits for anything else.
pub(crate) fn now<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    loop {
        if let Some(output) = once(future.as_mut()) {
            return output;
        }
    }
}

/// Polls once.
pub(crate) fn once<F: Future>(future: Pin<&mut F>) -> Option<F::Output> {
    match future.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

pub(crate) struct Pair<S> {
    client: ClientConnection,
    wire: Wire,
    pub(crate) server: S,
}

impl Pair<Server> {
    pub(crate) fn of(peers: &Peers, engine: Engine) -> Self {
        let accepting = peers.clone();
        Self::accepted(peers.client(), async move |wire| accepting.accept(wire, engine).await)
    }
}

impl<S> Pair<S> {
    pub(crate) fn accepted(
        mut client: ClientConnection,
        accept: impl AsyncFnOnce(Wire) -> io::Result<S>,
    ) -> Self {
        let wire = Wire::default();
        let mut accept = Box::pin(accept(wire.clone()));
        let server = loop {
            client_sends(&mut client, &wire);
            if let Some(server) = once(accept.as_mut()) {
                break server.unwrap();
            }
            let bytes = std::mem::take(&mut wire.0.borrow_mut().to_client);
            let mut bytes = &bytes[..];
            while !bytes.is_empty() {
                client.read_tls(&mut bytes).unwrap();
                client.process_new_packets().unwrap();
            }
        };
        drop(accept);
        wire.0.borrow_mut().deaf = true;
        Self { client, wire, server }
    }

    /// As one segment.
    pub(crate) fn client_says(&mut self, bytes: &[u8]) {
        std::io::Write::write_all(&mut self.client.writer(), bytes).unwrap();
        client_sends(&mut self.client, &self.wire);
    }
}

fn client_sends(client: &mut ClientConnection, wire: &Wire) {
    let mut segment = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut segment).unwrap();
    }
    if !segment.is_empty() {
        wire.0.borrow_mut().to_server.push_back(segment);
    }
}
