//! A link: one task reads it, one task writes what the driver could not write at once, and the driver hears
//! what was said.
//!
//! Deliberately absent: the protocol. Reading can be paused, because a link to an older generation travels to
//! the next version, which goes on exactly where this process stopped.

pub(crate) mod channel;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};
use std::time::Duration;

use hotupdate_proto::frame::{self, FrameError};
use hotupdate_proto::text::OneLine;
use hotupdate_proto::{Fault, Message};
use socket2::SockRef;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{Instrument, Span};
use zeroize::Zeroizing;

use self::channel::{Receiver, Sent};

/// Which link it is, for the driver. Never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct LinkId(pub(crate) u64);

/// What came over a link.
pub(crate) enum Heard {
    Message(Message, Vec<OwnedFd>),
    Closed(Fault),
}

/// Messages that wait to be written. The peer that does not read is given up after the deadline `write`;
/// until then this bounds what it costs.
const QUEUE: usize = 256;

enum Outgoing {
    /// The bytes from here on, and their descriptors.
    Bytes(Zeroizing<Vec<u8>>, usize, Vec<Sent>),
    Flush(oneshot::Sender<()>),
}

/// One end of a link, owned by the driver.
pub(crate) struct Link {
    pub(crate) id: LinkId,
    /// Carries the name of the handoff that it belongs to; see [`span`].
    pub(crate) span: Span,
    stream: Arc<UnixStream>,
    outgoing: mpsc::Sender<Outgoing>,
    /// How many messages were given to the task that writes, and are not in the kernel.
    unwritten: Arc<AtomicUsize>,
    reading: Option<(oneshot::Sender<()>, JoinHandle<Vec<u8>>)>,
    /// What was read of a message that is not whole, while the link is paused.
    rest: Vec<u8>,
    heard: mpsc::Sender<(LinkId, Heard)>,
}

/// What every line of a log is written in that belongs to this handoff, on both sides. Its level is that of
/// errors, so that no filter that lets the line through keeps the name back.
pub(crate) fn span(handoff: &str) -> Span {
    // The other side chose it.
    tracing::error_span!("handoff", handoff = %OneLine(handoff))
}

impl Link {
    /// A link that is not read yet.
    pub(crate) fn paused(
        id: LinkId,
        span: Span,
        stream: Arc<UnixStream>,
        rest: Vec<u8>,
        heard: mpsc::Sender<(LinkId, Heard)>,
        write: Duration,
    ) -> Self {
        let (outgoing, queue) = mpsc::channel(QUEUE);
        let unwritten = Arc::new(AtomicUsize::new(0));
        let writer = write_link(stream.clone(), queue, unwritten.clone(), write);
        tokio::spawn(writer.instrument(span.clone()));
        Self { id, span, stream, outgoing, unwritten, reading: None, rest, heard }
    }

    /// A link whose descriptor arrived.
    pub(crate) fn inherited(
        id: LinkId,
        span: Span,
        fd: OwnedFd,
        heard: mpsc::Sender<(LinkId, Heard)>,
        write: Duration,
    ) -> io::Result<Self> {
        // The runtime panics on a blocking socket, and what arrives is never to be trusted that far.
        if !SockRef::from(&fd).nonblocking()? {
            return Err(io::Error::other("the descriptor is in blocking mode"));
        }
        let stream = UnixStream::from_std(fd.into())?;
        Ok(Self::paused(id, span, Arc::new(stream), Vec::new(), heard, write))
    }

    /// Reads from here on, after these bytes.
    pub(crate) fn resume(&mut self, rest: Option<Vec<u8>>) {
        if self.reading.is_some() {
            return;
        }
        let rest = rest.unwrap_or_else(|| std::mem::take(&mut self.rest));
        let receiver = Receiver::new(self.stream.clone(), &rest);
        let (stop, stopped) = oneshot::channel();
        let reader = tokio::spawn(read_link(self.id, receiver, self.heard.clone(), stopped));
        self.reading = Some((stop, reader));
    }

    /// Stops reading; returns what was read of a message that is not whole.
    pub(crate) async fn pause(&mut self) -> Vec<u8> {
        if let Some((stop, reader)) = self.reading.take() {
            drop(stop);
            self.rest = reader.await.unwrap_or_default();
        }
        self.rest.clone()
    }

    /// Says something. A peer that does not read, or is dead, is noticed by the reader.
    pub(crate) fn send(&self, message: &Message, descriptors: Vec<Sent>) {
        self.send_encoded(message.name(), frame::encode_message(message), descriptors);
    }

    /// As [`Link::send`], in a form of its own.
    pub(crate) fn send_encoded(
        &self,
        message: &'static str,
        encoded: Result<Vec<u8>, FrameError>,
        descriptors: Vec<Sent>,
    ) {
        let bytes = match encoded {
            // Connections may travel with keys.
            Ok(bytes) => Zeroizing::new(bytes),
            Err(error) => return tracing::error!(message, %error, "a message that cannot be sent"),
        };
        let (bytes, sent, descriptors) = match self.send_at_once(&bytes, &descriptors) {
            sent if sent == bytes.len() => return,
            0 => (bytes, 0, descriptors),
            sent => (bytes, sent, Vec::new()),
        };
        self.unwritten.fetch_add(1, Relaxed);
        match self.outgoing.try_send(Outgoing::Bytes(bytes, sent, descriptors)) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Closed(_)) => {
                tracing::debug!(message, "not said: the other side is gone");
            }
            // The writer gives up after the deadline `write`; the link itself stays open, for the reason
            // given there.
            Err(mpsc::error::TrySendError::Full(_)) => {
                tracing::warn!(message, "not said: the other side does not read");
            }
        }
    }

    /// How many bytes the kernel takes now: none if something else goes before. What it does not take, for
    /// whatever reason, is for the task that writes, which may have to wait.
    ///
    /// Most of the time it takes everything, and what the other side waits for is on its way before this task
    /// does anything else.
    fn send_at_once(&self, bytes: &[u8], descriptors: &[Sent]) -> usize {
        match self.unwritten.load(Acquire) {
            0 => channel::try_send(&self.stream, bytes, descriptors).unwrap_or_default(),
            _ => 0,
        }
    }

    /// Bytes in a form of their own: the reply to `Join`.
    pub(crate) fn send_bytes(&self, bytes: Vec<u8>) {
        self.send_encoded("joined", Ok(bytes), Vec::new());
    }

    /// Resolves when everything said so far is in the kernel, or will never be.
    pub(crate) fn flushed(&self) -> impl Future<Output = ()> + Send + use<> {
        let (done, flushed) = oneshot::channel();
        let queued = self.outgoing.try_send(Outgoing::Flush(done)).is_ok();
        async move {
            if queued {
                let _ = flushed.await;
            }
        }
    }

    pub(crate) fn duplicate(&self) -> io::Result<OwnedFd> {
        self.stream.as_fd().try_clone_to_owned()
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // The reader holds the stream; the writer ends by itself when all is written.
        if let Some((_, reader)) = self.reading.take() {
            reader.abort();
        }
    }
}

async fn read_link(
    id: LinkId,
    mut receiver: Receiver,
    heard: mpsc::Sender<(LinkId, Heard)>,
    mut stopped: oneshot::Receiver<()>,
) -> Vec<u8> {
    loop {
        // The place in the queue comes first: a driver that waits for this task to stop must not have to
        // empty its queue.
        let place = tokio::select! {
            biased;
            _ = &mut stopped => break,
            place = heard.reserve() => match place {
                Ok(place) => place,
                Err(_) => break,
            },
        };
        let message = tokio::select! {
            biased;
            _ = &mut stopped => break,
            message = receiver.message() => message,
        };
        let fault = match message {
            Ok((message, descriptors)) => {
                place.send((id, Heard::Message(message, descriptors)));
                continue;
            }
            Err(fault) => fault,
        };
        let lives = fault != Fault::PeerGone;
        place.send((id, Heard::Closed(fault)));
        if lives {
            // A peer that sent invalid data is still alive; keep reading to detect end-of-file.
            tokio::select! {
                biased;
                _ = &mut stopped => {}
                () = receiver.end() => drop(heard.try_send((id, Heard::Closed(Fault::PeerGone)))),
            }
        }
        break;
    }
    receiver.into_rest().1
}

async fn write_link(
    stream: Arc<UnixStream>,
    mut queue: mpsc::Receiver<Outgoing>,
    unwritten: Arc<AtomicUsize>,
    write: Duration,
) {
    while let Some(outgoing) = queue.recv().await {
        match outgoing {
            Outgoing::Bytes(bytes, from, descriptors) => {
                let until = Instant::now() + write;
                if let Err(error) = channel::send(&stream, &bytes[from..], &descriptors, until).await {
                    // The reader hears of a dead peer by itself. One that lives and does not read is told
                    // nothing more, and the link stays open: its end would mean a death, and each side would
                    // serve alone.
                    if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) {
                        // A generation that has just drained and gone; the reader says so, or that it died.
                        tracing::debug!(%error, "not said: the other side is gone");
                    } else {
                        tracing::warn!(%error, "a link cannot be written");
                    }
                    return;
                }
                unwritten.fetch_sub(1, Release);
            }
            Outgoing::Flush(done) => drop(done.send(())),
        }
    }
}
