//! A connection that may migrate: the record layer, and the transport that it is for.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use rustls::HandshakeKind;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

use crate::MigrationBlock;
use crate::records::{Peek, Records};
use crate::state::State;

#[derive(Debug)]
pub(super) struct Migratable<IO> {
    pub(super) io: IO,
    pub(super) records: Box<Records>,
    /// Of the handshake in this process.
    pub(super) handshake_kind: Option<HandshakeKind>,
}

impl<IO> Migratable<IO> {
    pub(super) fn new(io: IO, records: Records, handshake_kind: Option<HandshakeKind>) -> Self {
        Self { io, records: Box::new(records), handshake_kind }
    }

    pub(super) fn into_state(self) -> Result<(IO, State), (Self, MigrationBlock)> {
        let Self { io, records, handshake_kind } = self;
        match records.into_state() {
            Ok(state) => Ok((io, state)),
            Err((records, why)) => Err((Self { io, records, handshake_kind }, why)),
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Migratable<IO> {
    /// Not empty, unless the client has closed its side.
    pub(super) fn poll_plaintext(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        // The plaintext is borrowed anew at the end, for it must not be borrowed while more is read.
        loop {
            match self.records.peek() {
                Ok(Peek::Plaintext(_) | Peek::Closed) => break,
                Ok(Peek::Wanting) => ready!(self.poll_exchange(cx))?,
                Err(error) => return self.fail(cx, error.into()),
            }
        }
        Poll::Ready(Ok(self.records.plaintext()))
    }

    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let plaintext = ready!(self.poll_plaintext(cx))?;
        let count = plaintext.len().min(buf.remaining());
        buf.put_slice(&plaintext[..count]);
        self.records.consume(count);
        Poll::Ready(Ok(()))
    }

    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let empty = pieces.iter().all(|piece| piece.is_empty());
        loop {
            match self.records.write_vectored(pieces) {
                Ok(0) if !empty => ready!(self.poll_send(cx))?,
                Ok(count) => {
                    // What cannot be sent now is sent by the next write or flush.
                    let _: Poll<()> = self.poll_send(cx)?;
                    return Poll::Ready(Ok(count));
                }
                Err(error) => return self.fail(cx, error.into()),
            }
        }
    }

    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.records.answer();
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.records.close();
        ready!(self.poll_flush(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    /// Sends what waits, as far as that goes, and reads more.
    fn poll_exchange(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // An answer that cannot be sent now must not keep us from reading.
        let _: Poll<()> = self.poll_send(cx)?;
        poll_fill(&mut self.records, &mut self.io, cx)
    }

    /// Hands what waits to the transport.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.records.output().is_empty() {
            let sent = ready!(Pin::new(&mut self.io).poll_write(cx, self.records.output()))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.records.sent(sent);
        }
        Poll::Ready(Ok(()))
    }

    /// The client gets the alert, if the transport takes it.
    fn fail<T>(&mut self, cx: &mut Context<'_>, error: io::Error) -> Poll<io::Result<T>> {
        let _ = self.poll_send(cx);
        Poll::Ready(Err(error))
    }
}

/// A connection that waits for a request needs no buffer of its own.
const READ: usize = 4096;

/// Reads something, or sees the end.
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
