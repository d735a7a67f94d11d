//! The connection of a WebSocket with its codec: reading, writing, and closing.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::FutureExt as _;
use hotupdate_proto::timing::fixed::http::CLOSE_TIMEOUT;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};

use super::carrier::AnyCarrier;
use super::codec::Codec;
use super::message::{CloseCode, Error, Message, Utf8Bytes};

/// The most that is read at once.
const CHUNK: usize = 16 * 1024;

/// While more bytes than this wait to be sent, nothing is read: backpressure for a client that sends and does
/// not read.
const MAX_UNSENT: usize = 64 * 1024;

/// What is spoken over, and the codec for its bytes.
pub(super) struct Transport {
    pub(super) carrier: AnyCarrier,
    pub(super) codec: Box<Codec>,
    pub(super) hung_up: bool,
}

impl Transport {
    /// How many bytes have to migrate besides the application's state.
    pub(super) fn pending_bytes(&self) -> usize {
        self.codec.pending_bytes() + self.carrier.unsent()
    }

    pub(super) async fn recv(&mut self) -> Option<Result<Message, Error>> {
        loop {
            if self.codec.is_closed() {
                self.hang_up().await;
                return None;
            }
            if self.codec.unsent().len() <= MAX_UNSENT {
                match self.codec.next() {
                    Some(Ok(message)) => {
                        // A pong or a close frame goes out even if the application receives no further
                        // message.
                        let _ = self.write_all().now_or_never();
                        return Some(Ok(message));
                    }
                    Some(Err(Error::Closed)) => continue,
                    Some(Err(error)) => {
                        self.hang_up().await;
                        return Some(Err(error));
                    }
                    None => {}
                }
            }
            if let Err(error) = poll_fn(|cx| self.poll_exchange(cx)).await {
                self.codec.give_up();
                return Some(Err(error.into()));
            }
        }
    }

    /// Writes what is to be sent and reads what there is; ready when either has made progress.
    fn poll_exchange(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut changed = false;
        while !self.codec.unsent().is_empty() {
            match self.poll_write(cx) {
                Poll::Ready(written) => written?,
                Poll::Pending => break,
            }
            changed = true;
        }
        // What cannot be sent now is sent while the client is read from.
        let _: Poll<()> = Pin::new(&mut self.carrier).poll_flush(cx)?;
        if self.codec.unsent().len() <= MAX_UNSENT {
            let mut chunk = [MaybeUninit::uninit(); CHUNK];
            let mut chunk = ReadBuf::uninit(&mut chunk);
            if let Poll::Ready(read) = Pin::new(&mut self.carrier).poll_read(cx, &mut chunk) {
                read?;
                match chunk.filled() {
                    [] => self.codec.end_of_stream(),
                    bytes => self.codec.received(bytes),
                }
                changed = true;
            }
        }
        if changed { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let written = Pin::new(&mut self.carrier).poll_write(cx, self.codec.unsent());
        written.map_ok(|n| self.codec.sent(n))
    }

    pub(super) async fn write_all(&mut self) -> Result<(), Error> {
        while !self.codec.unsent().is_empty() {
            poll_fn(|cx| self.poll_write(cx)).await?;
        }
        poll_fn(|cx| Pin::new(&mut self.carrier).poll_flush(cx)).await?;
        Ok(())
    }

    pub(super) async fn close(&mut self, code: CloseCode, reason: Utf8Bytes) {
        let handshake = async {
            if self.codec.write(Message::close(code, reason)).is_ok() {
                while let Some(Ok(_)) = self.recv().await {}
            }
        };
        // A client that does not answer the close frame is not waited for any longer.
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, handshake).await;
        self.codec.give_up();
    }

    /// Closes without destroying the last bytes on their way to the client: FIN, then reads on for a moment,
    /// because unread bytes at close(2) would make the kernel send a reset.
    async fn hang_up(&mut self) {
        if std::mem::replace(&mut self.hung_up, true) {
            return;
        }
        let closing = async {
            self.write_all().await?;
            self.carrier.shutdown().await?;
            let mut waste = [0; 1024];
            while self.carrier.read(&mut waste).await? > 0 {}
            Ok::<_, Error>(())
        };
        // Neither an error nor the timeout leaves anything to do.
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, closing).await;
    }
}
