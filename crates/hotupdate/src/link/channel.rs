//! Frames with their descriptors over a Unix stream socket.
//!
//! Deliberately absent: what the messages mean.
//!
//! Descriptors ride on the first byte of their message (unix(7): ancillary data is a barrier, so one
//! recvmsg(2) returns at most one set of descriptors). A set waits in a queue until the message that owns it
//! is whole. At the limit of open files the kernel drops what does not fit (`MSG_CTRUNC`): that is found out
//! when the message is taken.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use hotupdate_proto::frame::{self, Decoder, FrameError};
use hotupdate_proto::message::MAX_DESCRIPTORS;
use hotupdate_proto::timing::fixed::sockets::SHORTAGE_PAUSE;
use hotupdate_proto::{Fault, Message};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout_at};
use zeroize::{Zeroize as _, Zeroizing};

/// `SCM_MAX_FD` (`include/net/scm.h`): with room for it the kernel never has to truncate.
const KERNEL_MAX_DESCRIPTORS: usize = 253;

/// One read. Batches of connection rows are the only messages that need several.
const READ_SIZE: usize = 1 << 16;

/// A descriptor to send: a copy that ends with the message, or a socket that its owner still holds, so that
/// sending it costs no further descriptor.
pub(crate) type Sent = Arc<dyn AsFd + Send + Sync>;

/// The receiving half: cuts messages out of the stream, and the descriptors that they own. Safe to cancel.
pub(crate) struct Receiver {
    stream: Arc<UnixStream>,
    decoder: Decoder,
    sets: VecDeque<Set>,
    buffer: Box<[u8]>,
}

/// The descriptors that arrived with one message.
struct Set {
    descriptors: Vec<OwnedFd>,
    /// Some were lost.
    truncated: bool,
}

impl Receiver {
    /// Continues a stream of which `read` was already read.
    pub(crate) fn new(stream: Arc<UnixStream>, read: &[u8]) -> Self {
        let mut decoder = Decoder::default();
        decoder.push(read);
        Self { stream, decoder, sets: VecDeque::new(), buffer: vec![0; READ_SIZE].into() }
    }

    /// The next frame, with no descriptors taken out yet.
    pub(crate) async fn frame(&mut self) -> Result<Vec<u8>, Fault> {
        loop {
            if let Some(frame) = self.decoder.next_frame() {
                return frame.map_err(misbehaved);
            }
            self.check_stray()?;
            // In the middle of a message too: that is how a process ends that is killed while it writes.
            if self.read().await? == 0 {
                return Err(Fault::PeerGone);
            }
        }
    }

    /// The next message of the link with the descriptors that it owns: all of them, or, of moved connections,
    /// the first of them if this process has no room for more. Those stay where they are; everything else is
    /// needed as a whole.
    pub(crate) async fn message(&mut self) -> Result<(Message, Vec<OwnedFd>), Fault> {
        let frame = Zeroizing::new(self.frame().await?);
        let message = frame::decode_message(&frame).map_err(misbehaved)?;
        let owned = message.descriptors();
        let set = if owned == 0 { None } else { self.sets.pop_front() };
        let Set { descriptors, truncated } = set.unwrap_or(Set { descriptors: Vec::new(), truncated: false });
        match descriptors.len().cmp(&owned) {
            Ordering::Equal => {}
            Ordering::Less if truncated && matches!(message, Message::Prepare { .. }) => {}
            _ => return Err(wrong_number(&message, owned, descriptors.len(), truncated)),
        }
        self.check_stray()?;
        Ok((message, descriptors))
    }

    /// Reads on for the end of the stream only, after something that could not be understood.
    pub(crate) async fn end(&mut self) {
        loop {
            self.decoder = Decoder::default();
            self.sets.clear();
            match self.read().await {
                Ok(0) | Err(Fault::PeerGone | Fault::Local(_)) => return,
                Ok(_) | Err(_) => {}
            }
        }
    }

    /// Whether descriptors arrived that no message has claimed.
    pub(crate) fn has_descriptors(&self) -> bool {
        !self.sets.is_empty()
    }

    /// Takes the receiver apart: the stream, and what was read of a message that is not whole.
    pub(crate) fn into_rest(self) -> (Arc<UnixStream>, Vec<u8>) {
        (self.stream, self.decoder.unread().to_vec())
    }

    pub(crate) fn stream(&self) -> &Arc<UnixStream> {
        &self.stream
    }

    fn check_stray(&self) -> Result<(), Fault> {
        if self.decoder.unread().is_empty() && !self.sets.is_empty() { Err(self.stray()) } else { Ok(()) }
    }

    fn stray(&self) -> Fault {
        Fault::PeerMisbehaved(format!("{} descriptors came that no message owns", self.waiting()))
    }

    fn waiting(&self) -> usize {
        self.sets.iter().map(|set| set.descriptors.len()).sum()
    }

    async fn read(&mut self) -> Result<usize, Fault> {
        let Self { stream, decoder: _, sets, buffer } = self;
        let read = loop {
            stream.readable().await.map_err(|error| Fault::Local(format!("reading the link: {error}")))?;
            match stream.try_io(Interest::READABLE, || {
                receive(stream, buffer, &mut [MaybeUninit::uninit(); SPACE], sets)
            }) {
                Ok(bytes) => break bytes,
                Err(error) => match retry(&error) {
                    Some(Retry::WhenReady) => {}
                    // Whatever waits for what cannot be read has a deadline.
                    Some(Retry::Later) => sleep(SHORTAGE_PAUSE).await,
                    None => return Err(unreadable(&error)),
                },
            }
        };
        if self.waiting() > KERNEL_MAX_DESCRIPTORS + MAX_DESCRIPTORS {
            return Err(self.stray());
        }
        let arrived = &mut self.buffer[..read];
        self.decoder.push(arrived);
        // Connections may travel with keys.
        arrived.zeroize();
        Ok(read)
    }
}

fn wrong_number(message: &Message, owned: usize, came: usize, truncated: bool) -> Fault {
    let name = message.name();
    if truncated {
        let lost = owned.saturating_sub(came);
        return Fault::Local(format!(
            "{lost} of the {owned} descriptors of a `{name}` message were lost on arrival: this process is \
             at its limit of open files (MSG_CTRUNC)"
        ));
    }
    Fault::PeerMisbehaved(format!("a `{name}` message of {owned} descriptors came with {came}"))
}

/// Room for the descriptors that one message can bring.
const SPACE: usize = rustix::cmsg_space!(ScmRights(KERNEL_MAX_DESCRIPTORS));

fn receive(
    stream: &UnixStream,
    buffer: &mut [u8],
    space: &mut [MaybeUninit<u8>],
    sets: &mut VecDeque<Set>,
) -> io::Result<usize> {
    let mut control = RecvAncillaryBuffer::new(space);
    let received = recvmsg(
        stream,
        &mut [IoSliceMut::new(buffer)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC.union(RecvFlags::DONTWAIT),
    )?;
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    let truncated = received.flags.contains(ReturnFlags::CTRUNC);
    if truncated || !descriptors.is_empty() {
        sets.push_back(Set { descriptors, truncated });
    }
    Ok(received.bytes)
}

/// Sends bytes, with descriptors on the first of them, before the deadline.
pub(crate) async fn send(
    stream: &UnixStream,
    bytes: &[u8],
    descriptors: &[Sent],
    deadline: Instant,
) -> io::Result<()> {
    let late = || io::Error::new(io::ErrorKind::TimedOut, "the other side does not read (deadline `write`)");
    timeout_at(deadline, send_all(stream, bytes, descriptors)).await.map_err(|_| late())?
}

async fn send_all(stream: &UnixStream, mut bytes: &[u8], mut descriptors: &[Sent]) -> io::Result<()> {
    while !bytes.is_empty() {
        match try_send(stream, bytes, descriptors) {
            Ok(sent) => {
                bytes = &bytes[sent..];
                descriptors = &[];
            }
            Err(error) => match retry(&error) {
                Some(Retry::WhenReady) => stream.writable().await?,
                Some(Retry::Later) => sleep(SHORTAGE_PAUSE).await,
                None => return Err(error),
            },
        }
    }
    Ok(())
}

/// One try: how many bytes went, the descriptors with the first of them.
pub(crate) fn try_send(stream: &UnixStream, bytes: &[u8], descriptors: &[Sent]) -> io::Result<usize> {
    let descriptors: Vec<_> = descriptors.iter().map(|fd| fd.as_fd()).collect();
    let mut space = [MaybeUninit::uninit(); SPACE];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::Error::other(format!("{} descriptors are too many", descriptors.len())));
    }
    // Whether the socket blocks is a matter of the open file description, which the other links to this
    // process share.
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    stream.try_io(Interest::WRITABLE, || Ok(sendmsg(stream, &[IoSlice::new(bytes)], &mut control, flags)?))
}

/// When to read or write again after an error that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Retry {
    WhenReady,
    Later,
}

/// Not ready; or a signal came; too many descriptors are in flight (unix(7)), and the receiver only has to
/// read; or there is no memory at the moment (sendmsg(2), recvmsg(2)). A link that was given up for that
/// could not even say so.
fn retry(error: &io::Error) -> Option<Retry> {
    // tokio's own "not ready" has no number.
    match (error.kind(), Errno::from_io_error(error)) {
        (io::ErrorKind::WouldBlock, _) => Some(Retry::WhenReady),
        (_, Some(Errno::INTR | Errno::TOOMANYREFS | Errno::NOBUFS | Errno::NOMEM)) => Some(Retry::Later),
        _ => None,
    }
}

/// The other side closed with something of ours unread, which is a way of being gone; or else the fault is
/// here.
fn unreadable(error: &io::Error) -> Fault {
    match error.kind() {
        io::ErrorKind::ConnectionReset => Fault::PeerGone,
        _ => Fault::Local(format!("reading the link: {error}")),
    }
}

fn misbehaved(error: FrameError) -> Fault {
    Fault::PeerMisbehaved(error.to_string())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use hotupdate_proto::{ListenerItem, ListenerKind};

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    fn pair() -> (UnixStream, Receiver) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (ours, Receiver::new(Arc::new(theirs), b""))
    }

    fn listeners(count: usize) -> (Message, Vec<Sent>) {
        let item = |n: usize| ListenerItem {
            name: n.to_string(),
            kind: ListenerKind::Other,
            address: String::new(),
            cookie: 0,
        };
        let file = tempfile::tempfile().unwrap();
        let file: Sent = Arc::new(file);
        let fds = vec![file; count];
        (Message::Listeners { batch: 1, items: (0..count).map(item).collect() }, fds)
    }

    async fn say(stream: &UnixStream, message: &Message, fds: &[Sent]) {
        send(stream, &frame::encode_message(message).unwrap(), fds, soon()).await.unwrap();
    }

    #[tokio::test]
    async fn every_message_gets_its_own_descriptors() {
        let (sender, mut receiver) = pair();
        for count in [0, 1, 250, 3, 0] {
            let (message, fds) = listeners(count);
            say(&sender, &message, &fds).await;
        }
        for count in [0, 1, 250, 3, 0] {
            let (message, fds) = receiver.message().await.unwrap();
            assert_eq!((message.descriptors(), fds.len()), (count, count));
        }
        drop(sender);
        assert_eq!(receiver.message().await.unwrap_err(), Fault::PeerGone);
    }

    #[tokio::test]
    async fn descriptors_are_closed_on_exec() {
        let (sender, mut receiver) = pair();
        let (message, fds) = listeners(1);
        say(&sender, &message, &fds).await;
        let (_, fds) = receiver.message().await.unwrap();
        assert!(rustix::io::fcntl_getfd(&fds[0]).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
    }

    #[tokio::test]
    async fn too_few_and_too_many_descriptors_are_misbehaviour() {
        for (count, sent) in [(2, 1), (2, 3), (0, 1)] {
            let (sender, mut receiver) = pair();
            let (message, _) = listeners(count);
            let (_, fds) = listeners(sent);
            say(&sender, &message, &fds).await;
            let fault = receiver.message().await.unwrap_err();
            assert!(matches!(fault, Fault::PeerMisbehaved(_)), "{count} {sent}: {fault}");
        }
    }

    #[tokio::test]
    async fn a_message_larger_than_every_buffer_arrives() {
        let (sender, mut receiver) = pair();
        let long = Message::Failed { reason: "x".repeat(900_000) };
        let sending = tokio::spawn({
            let long = long.clone();
            async move { say(&sender, &long, &[]).await }
        });
        assert_eq!(receiver.message().await.unwrap().0, long);
        sending.await.unwrap();
    }

    #[tokio::test]
    async fn half_a_message_is_how_the_dead_end() {
        let (sender, mut receiver) = pair();
        send(&sender, b"{\"type\":\"comp", &[], soon()).await.unwrap();
        drop(sender);
        assert_eq!(receiver.message().await.unwrap_err(), Fault::PeerGone);
    }

    #[tokio::test]
    async fn garbage_and_too_long_a_message_are_misbehaviour() {
        for bytes in [b"garbage\0".to_vec(), vec![b'x'; 1 << 21]] {
            let (sender, mut receiver) = pair();
            // The receiver hangs up in the middle of the long one.
            let sending = tokio::spawn(async move { drop(send(&sender, &bytes, &[], soon()).await) });
            let fault = receiver.message().await.unwrap_err();
            assert!(matches!(fault, Fault::PeerMisbehaved(_)), "{fault}");
            drop(receiver);
            sending.await.unwrap();
        }
    }

    /// What the kernel does at the limit of open files: it drops what does not fit, and says `MSG_CTRUNC`.
    async fn truncated(message: &Message, sent: usize) -> Receiver {
        let (sender, mut receiver) = pair();
        let (_, fds) = listeners(sent);
        say(&sender, message, &fds).await;
        let Receiver { stream, decoder, sets, buffer } = &mut receiver;
        stream.readable().await.unwrap();
        let mut room_for_one = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let read =
            stream.try_io(Interest::READABLE, || receive(stream, buffer, &mut room_for_one, sets)).unwrap();
        decoder.push(&buffer[..read]);
        receiver
    }

    fn prepare(count: usize) -> Message {
        let row = serde_json::json!({
            "id": 1, "listener": "http", "peer": "", "local": "", "protocol": "raw", "age_ms": 0,
            "requests": 0, "state": "idle"
        });
        let item = serde_json::json!({ "row": row, "kind": "raw", "cookie": 1, "state": "" });
        let message = serde_json::json!({ "type": "prepare", "batch": 1, "items": vec![item; count] });
        serde_json::from_value(message).unwrap()
    }

    #[tokio::test]
    async fn descriptors_that_the_kernel_dropped_are_our_own_fault() {
        let fault = truncated(&listeners(20).0, 20).await.message().await.unwrap_err();
        let Fault::Local(what) = fault else { panic!("{fault}") };
        let lost: usize = what.split(' ').next().unwrap().parse().unwrap();
        assert!((1..20).contains(&lost), "{what}");
        assert!(
            what.contains("of the 20 descriptors of a `listeners` message were lost on arrival"),
            "{what}"
        );
    }

    #[tokio::test]
    async fn of_connections_the_first_are_enough_when_the_kernel_dropped_the_others() {
        let (_, descriptors) = truncated(&prepare(20), 20).await.message().await.unwrap();
        assert!((1..20).contains(&descriptors.len()), "{descriptors:?}");
        let (sender, mut receiver) = pair();
        say(&sender, &prepare(3), &listeners(2).1).await;
        let fault = receiver.message().await.unwrap_err();
        assert!(matches!(fault, Fault::PeerMisbehaved(_)), "the kernel dropped nothing: {fault}");
        truncated(&prepare(1), 20).await.message().await.expect_err("more than the message owns");
    }

    #[tokio::test]
    async fn descriptors_before_their_message_is_whole_are_limited() {
        let most = KERNEL_MAX_DESCRIPTORS + MAX_DESCRIPTORS;
        for (one_more, faulty) in [(0, false), (1, true)] {
            let (sender, mut receiver) = pair();
            let mut left = most + one_more;
            while left > 0 {
                let some = left.min(250);
                left -= some;
                send(&sender, b"x", &listeners(some).1, soon()).await.unwrap();
            }
            drop(sender);
            let fault = receiver.frame().await.unwrap_err();
            match fault {
                Fault::PeerMisbehaved(what) if faulty => {
                    assert!(what.starts_with(&format!("{} descriptors", most + 1)), "{what}");
                }
                Fault::PeerGone if !faulty => assert!(receiver.has_descriptors()),
                fault => panic!("{one_more} more: {fault}"),
            }
        }
    }

    /// After nonsense only the end counts, and nothing of what comes before it is kept.
    #[tokio::test]
    async fn reading_on_for_the_end() {
        let (sender, mut receiver) = pair();
        send(&sender, b"garbage\0", &[], soon()).await.unwrap();
        receiver.message().await.unwrap_err();
        let (ours, theirs) = UnixStream::pair().unwrap();
        send(&sender, b"more", &[Arc::new(theirs) as Sent], soon()).await.unwrap();
        let mut end = std::pin::pin!(receiver.end());
        tokio::select! {
            () = &mut end => panic!("it has not ended"),
            read = ours.readable() => read.unwrap(),
        }
        assert_eq!(ours.try_read(&mut [0]).unwrap(), 0, "the descriptor that came is closed");
        drop(sender);
        tokio::time::timeout_at(soon(), end).await.expect("that is the end");
    }

    #[tokio::test]
    async fn what_was_read_of_half_a_message_is_passed_on() {
        let (sender, mut receiver) = pair();
        assert!(!receiver.has_descriptors());
        let (message, fds) = listeners(1);
        let bytes = frame::encode_message(&message).unwrap();
        send(&sender, &bytes[..9], &[], soon()).await.unwrap();
        receiver.stream().readable().await.unwrap();
        assert!(
            std::future::poll_fn(|cx| {
                let frame = std::pin::pin!(receiver.frame());
                std::task::Poll::Ready(frame.poll(cx).is_pending())
            })
            .await
        );
        let (stream, rest) = receiver.into_rest();
        assert_eq!(rest, bytes[..9]);
        // Descriptors ride on the first byte that is sent, which is not the first of the message here.
        send(&sender, &bytes[9..], &fds, soon()).await.unwrap();
        assert_eq!(Receiver::new(stream, &rest).message().await.unwrap().0, message);
    }

    #[test]
    fn a_shortage_passes_and_an_error_does_not() {
        for (errno, expected) in [
            (Errno::AGAIN, Some(Retry::WhenReady)),
            (Errno::INTR, Some(Retry::Later)),
            (Errno::TOOMANYREFS, Some(Retry::Later)),
            (Errno::NOBUFS, Some(Retry::Later)),
            (Errno::NOMEM, Some(Retry::Later)),
            (Errno::PIPE, None),
            (Errno::CONNRESET, None),
        ] {
            assert_eq!(retry(&io::Error::from(errno)), expected, "{errno:?}");
        }
        assert_eq!(retry(&io::ErrorKind::WouldBlock.into()), Some(Retry::WhenReady));
        assert_eq!(retry(&io::Error::other("no number")), None);
        assert_eq!(unreadable(&Errno::CONNRESET.into()), Fault::PeerGone);
        assert!(matches!(unreadable(&Errno::BADF.into()), Fault::Local(_)));
    }

    /// A process that hangs up with something unread resets the connection (unix(7)).
    #[tokio::test]
    async fn a_reset_is_a_way_of_being_gone() {
        let (sender, mut receiver) = pair();
        let (message, _) = listeners(0);
        // Ours, which the other side never reads.
        send(receiver.stream(), &frame::encode_message(&message).unwrap(), &[], soon()).await.unwrap();
        drop(sender);
        assert_eq!(receiver.message().await.unwrap_err(), Fault::PeerGone);
    }

    #[tokio::test]
    async fn a_receiver_that_does_not_read_runs_into_the_deadline() {
        let (sender, _receiver) = pair();
        let deadline = Instant::now() + Duration::from_millis(50);
        let error = send(&sender, &vec![b'x'; 1 << 22], &[], deadline).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
