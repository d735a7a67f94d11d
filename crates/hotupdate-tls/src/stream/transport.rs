//! A transport and what protects it: reads for the one, sends for the other.

use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

use super::engine::Engine;
use crate::MigrationBlock;
use crate::negotiated::Negotiated;
use crate::records::Records;
use crate::state::State;

#[derive(Debug)]
pub(super) struct Transport<IO> {
    pub(super) io: IO,
    pub(super) engine: Engine,
}

impl<IO> Transport<IO> {
    pub(super) fn new(io: IO, engine: Engine) -> Self {
        Self { io, engine }
    }

    pub(super) fn into_state(self, negotiated: &Negotiated) -> Result<(IO, State), (Self, MigrationBlock)> {
        let Self { io, engine } = self;
        match engine.into_state(negotiated) {
            Ok(state) => Ok((io, state)),
            Err((engine, why)) => Err((Self { io, engine }, why)),
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Transport<IO> {
    /// Sends what waits, as far as that goes, and reads more.
    pub(super) fn poll_exchange(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // An answer that cannot be sent now must not keep us from reading.
        let _: Poll<()> = self.poll_send(cx)?;
        self.poll_fill(cx)
    }

    /// Reads something, or sees the end.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.engine {
            Engine::Rustls(before) => before.poll_fill(&mut self.io, cx),
            Engine::Records(records) => poll_fill(records, &mut self.io, cx),
            Engine::Lost => Poll::Ready(Ok(())),
        }
    }

    /// Hands what waits to the transport.
    pub(super) fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { io, engine } = self;
        while engine.wants_send() {
            let sent = match engine.send(&mut Blocking { io: &mut *io, cx: &mut *cx }) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                sent => sent?,
            };
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
        }
        Poll::Ready(Ok(()))
    }

    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.engine.answer();
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    /// The client gets the alert, if the transport takes it.
    pub(super) fn fail<T>(&mut self, cx: &mut Context<'_>, error: io::Error) -> Poll<io::Result<T>> {
        let _ = self.poll_send(cx);
        Poll::Ready(Err(error))
    }
}

/// A connection that waits for a request needs no buffer of its own.
const READ: usize = 4096;

// Its space on the stack is not to be that of every read.
#[inline(never)]
fn poll_fill<IO: AsyncRead + Unpin>(
    records: &mut Records,
    io: &mut IO,
    cx: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    let mut bytes = [const { MaybeUninit::uninit() }; READ];
    let mut bytes = ReadBuf::uninit(&mut bytes);
    let read = match records.begun() {
        Some(begun) => pin!(io.read_buf(begun)).poll(cx).map_ok(|count| count > 0),
        None => Pin::new(io).poll_read(cx, &mut bytes).map_ok(|()| {
            records.receive(bytes.filled());
            !bytes.filled().is_empty()
        }),
    };
    if read.is_pending() {
        records.release();
    }
    if !ready!(read)? {
        records.end();
    }
    Poll::Ready(Ok(()))
}

/// The transport as rustls writes to it.
struct Blocking<'a, 'b, IO> {
    io: &'a mut IO,
    cx: &'a mut Context<'b>,
}

impl<IO: AsyncWrite + Unpin> Blocking<'_, '_, IO> {
    fn now<T>(poll: Poll<io::Result<T>>) -> io::Result<T> {
        match poll {
            Poll::Ready(done) => done,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

impl<IO: AsyncWrite + Unpin> io::Write for Blocking<'_, '_, IO> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Self::now(Pin::new(&mut *self.io).poll_write(self.cx, bytes))
    }

    fn write_vectored(&mut self, pieces: &[io::IoSlice<'_>]) -> io::Result<usize> {
        Self::now(Pin::new(&mut *self.io).poll_write_vectored(self.cx, pieces))
    }

    fn flush(&mut self) -> io::Result<()> {
        Self::now(Pin::new(&mut *self.io).poll_flush(self.cx))
    }
}
