//! The connection of a WebSocket, and what is said over it: reading, writing, and the end.
//!
//! Deliberately absent: the drain and moves, see [`super::socket`].

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt as _;
use hotupdate::Connection;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};

use super::wire::Wire;
use super::{CloseCode, CloseFrame, Error, Message, Utf8Bytes};

/// The most that is read at once.
const CHUNK: usize = 16 * 1024;

/// While more than this waits to be sent, nothing is read: a client that asks and does not listen has to wait.
const MAX_UNSENT: usize = 64 * 1024;

/// How long a client may take to answer a close frame (RFC 6455, section 7.1.1: the server closes after that).
const FAREWELL: Duration = Duration::from_secs(1);

/// The connection, and what is said over it.
pub(super) struct Line {
    pub(super) connection: Connection,
    pub(super) wire: Box<Wire>,
    pub(super) hung_up: bool,
}

impl Line {
    pub(super) async fn recv(&mut self) -> Option<Result<Message, Error>> {
        loop {
            if self.wire.is_closed() {
                self.hang_up().await;
                return None;
            }
            if self.wire.unsent().len() <= MAX_UNSENT {
                match self.wire.next() {
                    Some(Ok(message)) => {
                        // A pong or a close frame goes out even if nobody receives any more.
                        let _ = self.write_all().now_or_never();
                        return Some(Ok(message));
                    }
                    Some(Err(Error::ConnectionClosed)) => continue,
                    Some(Err(error)) => {
                        self.hang_up().await;
                        return Some(Err(error));
                    }
                    None => {}
                }
            }
            if let Err(error) = poll_fn(|cx| self.poll_exchange(cx)).await {
                self.wire.give_up();
                return Some(Err(error.into()));
            }
        }
    }

    /// Sends what is to be sent and reads what there is, until something has changed.
    fn poll_exchange(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut changed = false;
        while !self.wire.unsent().is_empty() {
            match self.poll_write(cx) {
                Poll::Ready(written) => written?,
                Poll::Pending => break,
            }
            changed = true;
        }
        if self.wire.unsent().len() <= MAX_UNSENT {
            let mut chunk = [MaybeUninit::uninit(); CHUNK];
            let mut chunk = ReadBuf::uninit(&mut chunk);
            if let Poll::Ready(read) = Pin::new(&mut self.connection).poll_read(cx, &mut chunk) {
                read?;
                match chunk.filled() {
                    [] => self.wire.end_of_stream(),
                    bytes => self.wire.received(bytes),
                }
                changed = true;
            }
        }
        if changed { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let written = Pin::new(&mut self.connection).poll_write(cx, self.wire.unsent());
        written.map_ok(|n| self.wire.sent(n))
    }

    pub(super) async fn write_all(&mut self) -> Result<(), Error> {
        while !self.wire.unsent().is_empty() {
            poll_fn(|cx| self.poll_write(cx)).await?;
        }
        Ok(())
    }

    pub(super) async fn say_goodbye(&mut self, code: CloseCode, reason: Utf8Bytes) {
        let goodbye = async {
            if self.wire.write(Message::Close(Some(CloseFrame { code, reason }))).is_ok() {
                while let Some(Ok(_)) = self.recv().await {}
            }
        };
        // A client that does not answer is left alone.
        let _ = tokio::time::timeout(FAREWELL, goodbye).await;
        self.wire.give_up();
    }

    /// Closes in a way that cannot destroy the last words on their way to the client: FIN, then reading on for a moment.
    async fn hang_up(&mut self) {
        if std::mem::replace(&mut self.hung_up, true) {
            return;
        }
        let farewell = async {
            self.write_all().await?;
            self.connection.shutdown().await?;
            let mut waste = [0; 1024];
            while self.connection.read(&mut waste).await? > 0 {}
            Ok::<_, Error>(())
        };
        // Neither an error nor the timeout leaves anything to do.
        let _ = tokio::time::timeout(FAREWELL, farewell).await;
    }
}
