//! The layer around a transport: hyper is served on it, and its handle moves the connection.

use std::fmt;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::core::{Core, Limits};
use crate::reader::Reader;
use crate::rest::Stays;
use crate::state::State;
use crate::transport::{Relay, Transport};

/// How much is read at once when it cannot be read to where hyper wants it.
const READ: usize = 16 * 1024;

/// What hyper is served on, in place of the transport.
#[derive(Debug)]
pub struct Layer<T> {
    shared: Arc<Mutex<Shared<T>>>,
    /// Once something was read.
    reader: Option<Reader>,
    /// Asked for before each write, and always the same.
    is_write_vectored: bool,
    /// Nothing was written since the last flush, neither by hyper nor here. hyper flushes more often than it
    /// writes.
    is_flushed: bool,
}

/// The other end of a [`Layer`]: it says whether the connection can move, and takes it.
#[derive(Debug)]
pub struct Handle<T> {
    shared: Arc<Mutex<Shared<T>>>,
}

struct Shared<T> {
    io: Transport<T>,
    core: Core,
    /// To the version before, for the streams that stayed there.
    relay: Option<Box<dyn Relay>>,
    /// hyper has read all there is, and waits for more.
    waits: bool,
    /// hyper has written, and has not flushed since.
    unflushed: bool,
    reader: Option<Waker>,
    mover: Option<(Waker, Move)>,
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Move {
    /// No stream is open.
    AtRest,
    /// The streams can stay.
    Split,
}

impl<T> fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { io, core, waits, unflushed, .. } = self;
        f.debug_struct("Shared")
            .field("io", io)
            .field("core", core)
            .field("waits", waits)
            .field("unflushed", unflushed)
            .finish_non_exhaustive()
    }
}

fn lock<T>(shared: &Mutex<Shared<T>>) -> MutexGuard<'_, Shared<T>> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T: AsyncWrite> Layer<T> {
    /// Of a new connection, of which nothing has been read.
    pub fn new(io: T, limits: Limits) -> (Self, Handle<T>) {
        Self::with(io, Core::new(limits))
    }

    /// Of a connection that another server has served. The new one has to be a new hyper, with the same
    /// settings as the one before: see [`State::server_settings`]. Streams that are open are reset.
    pub fn resume(io: T, state: State, limits: Limits) -> (Self, Handle<T>) {
        let mut core = Core::resume(state, limits);
        core.end_relay();
        Self::with(io, core)
    }

    /// Of a connection whose open streams another server serves to their end, at the other end of `relay`. New
    /// ones come here. If `relay` ends before they do, they are reset, and the connection goes on.
    pub fn join(io: T, state: State, relay: impl Relay, limits: Limits) -> (Self, Handle<T>) {
        let (layer, handle) = Self::with(io, Core::resume(state, limits));
        lock(&layer.shared).relay = Some(Box::new(relay));
        (layer, handle)
    }

    fn with(io: T, core: Core) -> (Self, Handle<T>) {
        let is_write_vectored = io.is_write_vectored();
        let shared = Shared {
            io: Transport::Client(io),
            core,
            relay: None,
            waits: false,
            unflushed: false,
            reader: None,
            mover: None,
        };
        let shared = Arc::new(Mutex::new(shared));
        let layer = Self { shared: shared.clone(), reader: None, is_write_vectored, is_flushed: false };
        (layer, Handle { shared })
    }
}

impl<T> Handle<T> {
    /// From here on new streams wait, while those that are open finish. They wait for the next server, or for
    /// [`release`](Self::release): how long is the caller's decision.
    pub fn hold(&self) {
        lock(&self.shared).core.hold();
    }

    /// The connection stays: its server gets what was held.
    pub fn release(&self) {
        let mut shared = lock(&self.shared);
        if shared.core.is_holding() {
            shared.core.release();
            shared.wake_reader();
        }
    }

    /// Whether new streams wait.
    pub fn is_holding(&self) -> bool {
        lock(&self.shared).core.is_holding()
    }

    /// The number of the last stream that its client has opened here, 0 if it has opened none.
    pub fn last_stream(&self) -> u32 {
        lock(&self.shared).core.streams().last()
    }

    /// Whether a stream is open whose number is not greater than this one.
    pub fn is_open_up_to(&self, stream: u32) -> bool {
        lock(&self.shared).core.streams().first_open().is_some_and(|first| first <= stream)
    }

    /// Whether the connection can move at this moment, and else why not.
    pub fn rest(&self) -> Result<(), Stays> {
        lock(&self.shared).rest()
    }

    /// Ready when the connection can move, or never will. Poll it after hyper, and call [`hold`](Self::hold)
    /// before: otherwise the client goes on.
    pub fn poll_rest(&self, cx: &mut Context<'_>) -> Poll<Result<(), Stays>> {
        lock(&self.shared).poll_move(Move::AtRest, cx)
    }

    /// Whether the connection can move while its streams stay here, and else why not.
    pub fn can_split(&self) -> Result<(), Stays> {
        lock(&self.shared).core.can_split()
    }

    /// From here on the client waits, until the connection has moved without its open streams
    /// ([`poll_split`](Self::poll_split)), or [`unsplit`](Self::unsplit).
    pub fn split(&self) {
        let mut shared = lock(&self.shared);
        shared.core.split();
        shared.wake_reader();
    }

    /// Ready when the connection can move without its streams, or never will. Poll it after hyper, and call
    /// [`split`](Self::split) before.
    pub fn poll_split(&self, cx: &mut Context<'_>) -> Poll<Result<(), Stays>>
    where
        T: AsyncWrite + Unpin,
    {
        let mut shared = lock(&self.shared);
        if shared.core.is_ready_to_part() {
            // hyper knows of nothing that it has to flush. It hears, too, if that fails.
            let _ = shared.poll_send(cx);
            if Pin::new(&mut shared.io).poll_flush(cx).is_pending() {
                shared.mover = Some((cx.waker().clone(), Move::Split));
                return Poll::Pending;
            }
        }
        shared.poll_move(Move::Split, cx)
    }

    /// The connection stays whole, unless it was taken.
    pub fn unsplit(&self) {
        let mut shared = lock(&self.shared);
        if shared.io.is_client() {
            shared.core.unsplit();
            shared.wake_reader();
        }
    }

    /// Takes the connection. hyper keeps its open streams, and waits: for [`relay`](Self::relay), or for
    /// [`give_back`](Self::give_back). The state goes to [`Layer::join`], or to [`Layer::resume`] if no stream
    /// is open any more.
    ///
    /// # Errors
    ///
    /// If it cannot move now. Everything is as it was.
    pub fn take_split(&self) -> Result<(T, State), Stays> {
        let mut shared = lock(&self.shared);
        shared.can(Move::Split)?;
        let io = shared.io.replace(Transport::Away).ok_or(Stays::Closed)?;
        Ok((io, shared.core.take_split()))
    }

    /// The connection has moved: its streams are served over this until they end.
    pub fn relay(&self, relay: impl Relay) {
        let mut shared = lock(&self.shared);
        shared.io = Transport::Relay(Box::new(relay));
        shared.core.part();
        shared.wake_reader();
    }

    /// The connection has not moved: it is whole again, and its server gets what was held.
    pub fn give_back(&self, io: T, state: State) {
        let mut shared = lock(&self.shared);
        shared.io = Transport::Client(io);
        shared.core.give_back(state);
        shared.wake_reader();
    }

    /// How many streams the version before still serves.
    pub fn relayed(&self) -> usize {
        lock(&self.shared).core.relay().map_or(0, |relay| relay.len())
    }

    /// Takes the connection out of hyper's hands, which hears nothing of it: drop it. For [`Layer::resume`],
    /// in this process or in another one.
    ///
    /// # Errors
    ///
    /// If it cannot move now. Everything is as it was.
    pub fn take(self) -> Result<(T, State), (Self, Stays)> {
        let mut shared = lock(&self.shared);
        if let Err(stays) = shared.rest() {
            drop(shared);
            return Err((self, stays));
        }
        let core = std::mem::replace(&mut shared.core, Core::new(Limits::default()));
        let Some(io) = shared.io.replace(Transport::Taken) else {
            drop(shared);
            return Err((self, Stays::Closed));
        };
        Ok((io, core.into_state()))
    }

    /// The transport alone, to close it.
    pub fn into_io(self) -> Option<T> {
        lock(&self.shared).io.replace(Transport::Taken)
    }
}

impl<T> Shared<T> {
    /// Whether the connection can move now like this.
    fn can(&self, how: Move) -> Result<(), Stays> {
        match how {
            Move::AtRest => self.rest(),
            Move::Split if !self.io.is_client() => Err(Stays::Closed),
            Move::Split => self.core.is_split(),
        }
    }

    fn poll_move(&mut self, how: Move, cx: &Context<'_>) -> Poll<Result<(), Stays>> {
        match self.can(how) {
            Err(stays) if !stays.is_final() => {
                self.mover = Some((cx.waker().clone(), how));
                Poll::Pending
            }
            decided => Poll::Ready(decided),
        }
    }

    fn rest(&self) -> Result<(), Stays> {
        self.core.rest()?;
        if !self.io.is_client() {
            return Err(Stays::Closed);
        }
        if self.waits && !self.unflushed { Ok(()) } else { Err(Stays::Busy) }
    }

    fn wake_reader(&mut self) {
        if let Some(waker) = self.reader.take() {
            waker.wake();
        }
    }

    #[inline]
    fn register_reader(&mut self, cx: &Context<'_>) {
        if !self.reader.as_ref().is_some_and(|reader| reader.will_wake(cx.waker())) {
            self.reader = Some(cx.waker().clone());
        }
    }

    /// The connection may just have come to rest.
    #[inline]
    fn notice(&mut self) {
        if self.mover.is_some() {
            self.tell_mover();
        }
    }

    #[cold]
    fn tell_mover(&mut self) {
        let Some((_, how)) = &self.mover else { return };
        if self.can(*how).map_or_else(Stays::is_final, |()| true)
            && let Some((waker, _)) = self.mover.take()
        {
            waker.wake();
        }
    }
}

impl<T: AsyncWrite + Unpin> Shared<T> {
    /// Sends what the layer has for the client.
    #[inline]
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.core.is_plain() { Poll::Ready(Ok(())) } else { self.poll_send_all(cx) }
    }

    #[cold]
    fn poll_send_all(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let bytes = self.core.for_client();
            if bytes.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let n = ready!(Pin::new(&mut self.io).poll_write(cx, bytes))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.core.given_to_client(n);
        }
    }

    #[inline]
    fn poll_write_vectored(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.unflushed = true;
        if self.core.is_plain() { self.poll_write_through(cx, bufs) } else { self.poll_write_apart(cx, bufs) }
    }

    /// The client hears what hyper writes as it is, and that is followed.
    #[inline]
    fn poll_write_through(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let n = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, bufs))?;
        let mut left = n;
        for buf in bufs {
            let part = left.min(buf.len());
            self.core.written(&buf[..part]);
            left -= part;
        }
        Poll::Ready(Ok(n))
    }

    #[cold]
    fn poll_write_apart(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.exchange(cx);
        // It may fail when it is written only.
        let sent = self.poll_send(cx)?;
        if self.core.writes_directly() {
            ready!(sent.map(Ok::<_, io::Error>))?;
            return self.poll_write_through(cx, bufs);
        }
        let mut room = self.core.room();
        if room == 0 {
            // The transport may be away, and wakes no task then.
            self.register_reader(cx);
            return Poll::Pending;
        }
        let mut n = 0;
        for buf in bufs {
            let part = room.min(buf.len());
            self.core.write(&buf[..part]);
            (n, room) = (n + part, room - part);
        }
        if self.core.queues_too_much() {
            return Poll::Ready(Err(io::Error::other("an HTTP/2 client gives no room for what it asks for")));
        }
        self.exchange(cx);
        let _ = self.poll_send(cx)?;
        // hyper may have said what frames of the client have waited for.
        self.wake_reader();
        Poll::Ready(Ok(n))
    }
}

impl<T: AsyncWrite + Unpin> Shared<T> {
    /// What the version before and the client have for each other goes on, as far as it can.
    #[inline]
    fn exchange(&mut self, cx: &mut Context<'_>) {
        if self.relay.is_some() {
            self.exchange_over_relay(cx);
        }
    }

    fn exchange_over_relay(&mut self, cx: &mut Context<'_>) {
        let Some(relay) = &mut self.relay else { return };
        let mut bytes = [MaybeUninit::uninit(); READ];
        loop {
            self.core.pass_of_relay();
            while !self.core.for_relay().is_empty() {
                match Pin::new(&mut *relay).poll_write(cx, self.core.for_relay()) {
                    Poll::Pending => break,
                    Poll::Ready(Ok(n @ 1..)) => self.core.given_to_relay(n),
                    Poll::Ready(_) => self.core.deafen_relay(),
                }
            }
            if self.core.relay().is_none() || self.core.relay_is_over() {
                self.core.end_relay();
                self.relay = None;
                return self.wake_reader();
            }
            if !self.core.reads_relay() {
                break;
            }
            let mut read = ReadBuf::uninit(&mut bytes);
            match Pin::new(&mut *relay).poll_read(cx, &mut read) {
                Poll::Pending => break,
                Poll::Ready(Ok(())) if !read.filled().is_empty() => self.core.keep_of_relay(read.filled()),
                Poll::Ready(_) => self.core.close_relay(),
            }
        }
        // What was written may wait for that.
        let _ = Pin::new(relay).poll_flush(cx);
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Shared<T> {
    // Into the code of the caller.
    #[inline(always)]
    fn poll_read_plainly(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Option<Poll<io::Result<()>>> {
        if self.core.is_plain() { self.poll_read_through(cx, buf) } else { None }
    }

    /// hyper hears what the client sends as it is, and that is followed. `None` if the client has closed, or
    /// if nothing of what has come passes: it was kept.
    #[inline(always)]
    fn poll_read_through(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Option<Poll<io::Result<()>>> {
        let before = buf.filled().len();
        match Pin::new(&mut self.io).poll_read(cx, buf) {
            Poll::Ready(Ok(())) => {}
            Poll::Pending => {
                self.register_reader(cx);
                return Some(Poll::Pending);
            }
            failed => return Some(failed),
        }
        let read = &buf.filled()[before..];
        let n = self.core.pass(read);
        if n == 0 || n < read.len() {
            match read {
                [] => self.core.end(),
                read => self.core.keep(&read[n..]),
            }
            buf.set_filled(before + n);
        }
        (n > 0).then_some(Poll::Ready(Ok(())))
    }

    #[cold]
    fn poll_read_apart(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.register_reader(cx);
        loop {
            self.exchange(cx);
            if !self.core.is_plain() {
                let bytes = self.core.for_server();
                if !bytes.is_empty() {
                    let n = bytes.len().min(buf.remaining());
                    buf.put_slice(&bytes[..n]);
                    self.core.given_to_server(n);
                    return Poll::Ready(Ok(()));
                }
                // The client may have said something for the version before.
                self.exchange(cx);
                // That it fails is said when hyper writes: the client may have said something before it left.
                if self.poll_send(cx).is_ready() && self.relay.is_some() {
                    // hyper has not written it, and does not flush it.
                    let _ = Pin::new(&mut self.io).poll_flush(cx);
                }
                if !self.core.reads() {
                    return if self.core.has_ended() { Poll::Ready(Ok(())) } else { Poll::Pending };
                }
            }
            if self.core.reads_directly() {
                if let Some(read) = self.poll_read_through(cx, buf) {
                    return read;
                }
            } else {
                let mut bytes = [MaybeUninit::uninit(); READ];
                let mut read = ReadBuf::uninit(&mut bytes);
                ready!(Pin::new(&mut self.io).poll_read(cx, &mut read))?;
                if read.filled().is_empty() { self.core.end() } else { self.core.keep(read.filled()) }
            }
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Shared<T> {
    /// Ready when the client has all that hyper has written, or leaves. It may have to give room for it, and
    /// hyper, which has said its last, does not read any more.
    fn poll_last_words(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut waste = [MaybeUninit::uninit(); READ];
        loop {
            ready!(self.poll_send(cx))?;
            let waits = self.core.waits_for_room() || self.relay.is_some();
            if !waits || matches!(self.io, Transport::Taken) {
                return Poll::Ready(Ok(()));
            }
            let mut read = ReadBuf::uninit(&mut waste);
            let plainly = self.poll_read_plainly(cx, &mut read);
            match plainly.unwrap_or_else(|| self.poll_read_apart(cx, &mut read))? {
                Poll::Ready(()) if read.filled().is_empty() => return Poll::Ready(Ok(())),
                Poll::Pending if self.core.waits_for_room() || self.relay.is_some() => return Poll::Pending,
                // What has come may have been the room.
                Poll::Ready(()) | Poll::Pending => {}
            }
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Layer<T> {
    #[inline]
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { shared, reader, is_flushed, .. } = self.get_mut();
        match reader {
            Some(reader) if reader.is(cx) => {
                if reader.sleeps() {
                    Poll::Pending
                } else {
                    read(shared, reader, is_flushed, buf)
                }
            }
            reader => read(shared, reader.insert(Reader::new(cx)), is_flushed, buf),
        }
    }
}

/// When there may be something. Most of the reads that hyper begins end before it.
#[inline(never)]
fn read<T: AsyncRead + AsyncWrite + Unpin>(
    shared: &Mutex<Shared<T>>,
    reader: &mut Reader,
    is_flushed: &mut bool,
    buf: &mut ReadBuf<'_>,
) -> Poll<io::Result<()>> {
    let cx = &mut reader.begin();
    let shared = &mut *lock(shared);
    let plainly = shared.poll_read_plainly(cx, buf);
    let is_plain = plainly.is_some();
    let read = plainly.unwrap_or_else(|| {
        *is_flushed = false;
        shared.poll_read_apart(cx, buf)
    });
    shared.waits = read.is_pending();
    shared.notice();
    reader.waits = is_plain && read.is_pending();
    read
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Layer<T> {
    #[inline]
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    #[inline]
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Self { shared, is_flushed, .. } = self.get_mut();
        *is_flushed = false;
        let mut shared = lock(shared);
        let written = shared.poll_write_vectored(cx, bufs);
        shared.notice();
        written
    }

    #[inline]
    fn is_write_vectored(&self) -> bool {
        self.is_write_vectored
    }

    #[inline]
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { shared, is_flushed, .. } = self.get_mut();
        if *is_flushed { Poll::Ready(Ok(())) } else { flush(shared, is_flushed, cx) }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { shared, reader, .. } = self.get_mut();
        // What is read from here on wakes the task itself.
        *reader = None;
        let mut shared = lock(shared);
        ready!(shared.poll_last_words(cx))?;
        Pin::new(&mut shared.io).poll_shutdown(cx)
    }
}

#[inline(never)]
fn flush<T: AsyncWrite + Unpin>(
    shared: &Mutex<Shared<T>>,
    is_flushed: &mut bool,
    cx: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    let shared = &mut *lock(shared);
    shared.exchange(cx);
    ready!(shared.poll_send(cx))?;
    ready!(Pin::new(&mut shared.io).poll_flush(cx))?;
    shared.unflushed = false;
    shared.notice();
    *is_flushed = shared.core.is_plain();
    Poll::Ready(Ok(()))
}
