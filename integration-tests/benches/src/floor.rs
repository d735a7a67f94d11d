//! What the kernel alone takes to pass descriptors on, and for a word and its answer: sendmsg(2) and
//! recvmsg(2) between two processes, over a socket pair.

use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use rustix::time::{ClockId, clock_gettime};

/// Descriptors in one message, as this project sends them.
pub(crate) const BATCH: usize = 250;

/// Between two round trips.
const PAUSE: Duration = Duration::from_millis(2);

const SPACE: usize = rustix::cmsg_space!(ScmRights(BATCH));

/// What passing descriptors on took.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Floor {
    pub(crate) took: Duration,
    /// Processor time of both sides.
    pub(crate) sender: Duration,
    pub(crate) receiver: Duration,
}

/// The process on the other side, whose standard input is the socket: it answers every message with a byte.
/// At the end it says how much processor time it has used.
pub(crate) fn receive() -> anyhow::Result<()> {
    let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut all = Vec::<OwnedFd>::with_capacity(20_000);
    let mut before = None;
    loop {
        let mut bytes = [0; 64];
        let mut space = [MaybeUninit::uninit(); SPACE];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let into = &mut [IoSliceMut::new(&mut bytes)];
        let received = rustix::net::recvmsg(&socket, into, &mut control, RecvFlags::CMSG_CLOEXEC)?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                all.extend(descriptors);
            }
        }
        if received.bytes == 0 {
            break;
        }
        before = before.or_else(|| Some(processor()));
        (&socket).write_all(b"!")?;
    }
    writeln!(io::stdout(), "{} {}", all.len(), before.map_or(0, |before| (processor() - before).as_nanos()))?;
    // What the end of a process costs is none of this.
    std::process::exit(0)
}

/// Passes so many descriptors on, a batch at a time, in two steps as a migration does: when they were
/// received, the copies here are closed, and a second word says so.
pub(crate) fn pass(descriptors: usize) -> anyhow::Result<Floor> {
    let (mut other, mut socket) = start()?;
    // It has begun.
    socket.write_all(b"?")?;
    answer(&socket)?;
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let mut left: Vec<_> = (0..descriptors).map(|_| listener.try_clone()).collect::<Result<_, _>>()?;
    let (begun, before) = (Instant::now(), processor());
    while !left.is_empty() {
        let batch = left.split_off(left.len().saturating_sub(BATCH));
        let borrowed: Vec<BorrowedFd<'_>> = batch.iter().map(|one| one.as_fd()).collect();
        let mut space = [MaybeUninit::uninit(); SPACE];
        let mut control = SendAncillaryBuffer::new(&mut space);
        ensure!(control.push(SendAncillaryMessage::ScmRights(&borrowed)), "a batch fits");
        rustix::net::sendmsg(&socket, &[IoSlice::new(b"!")], &mut control, SendFlags::empty())?;
        answer(&socket)?;
        drop(batch);
        (&socket).write_all(b"!")?;
        answer(&socket)?;
    }
    let (took, sender) = (begun.elapsed(), processor() - before);
    drop(socket);
    let mut said = String::new();
    other.stdout.take().context("it has an output")?.read_to_string(&mut said)?;
    other.wait()?;
    let (received, used) = said.trim().split_once(' ').context("two numbers")?;
    ensure!(received.parse() == Ok(descriptors), "{received} of {descriptors} descriptors came");
    Ok(Floor { took, sender, receiver: Duration::from_nanos(used.parse()?) })
}

/// How long a word and its answer take, each after a pause as between two handoffs: the other process sleeps
/// then.
pub(crate) fn round_trips(how_many: usize) -> anyhow::Result<Vec<Duration>> {
    let (mut other, mut socket) = start()?;
    let mut all = Vec::with_capacity(how_many);
    for _ in 0..how_many {
        std::thread::sleep(PAUSE);
        let begun = Instant::now();
        socket.write_all(b"?")?;
        answer(&socket)?;
        all.push(begun.elapsed());
    }
    drop(socket);
    other.wait()?;
    Ok(all)
}

fn start() -> anyhow::Result<(Child, UnixStream)> {
    let (here, there) = UnixStream::pair()?;
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("receive").stdin(OwnedFd::from(there)).stdout(Stdio::piped());
    Ok((command.spawn().context("starting the receiver")?, here))
}

fn answer(mut socket: &UnixStream) -> io::Result<()> {
    socket.read_exact(&mut [0])
}

/// Processor time that this process has used.
fn processor() -> Duration {
    let used = clock_gettime(ClockId::ProcessCPUTime);
    // Neither is negative.
    Duration::new(u64::try_from(used.tv_sec).unwrap_or(0), u32::try_from(used.tv_nsec).unwrap_or(0))
}
