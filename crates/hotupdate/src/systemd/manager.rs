//! What systemd is told (sd_notify(3)): that we serve, how the service is, which process is the main one,
//! which listeners and states to keep.
//!
//! systemd may be busy, so a thread of its own tells it, in order. What has to be confirmed is followed by a
//! barrier: systemd closes its descriptor when it has dealt with everything before.
//!
//! Deliberately absent: whether systemd believes it. A barrier says only that it was read; who may say what
//! is `NotifyAccess=`, and the main process always may.

use std::env;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use hotupdate_proto::ShortText;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use sd_notify::NotifyState::{
    self, Custom, FdName, FdStore, FdStoreRemove, MainPid, Ready, Status, Stopping, Watchdog,
};
use tokio::io::AsyncReadExt as _;
use tokio::sync::oneshot;

use super::name::{Kind, encode};

/// One thing to tell.
enum Word {
    Ready,
    Status(String),
    Stopping,
    Watchdog,
    Main(u32),
    Keep(Kind, ShortText, OwnedFd),
    Forget(Kind, ShortText),
    /// Answered when everything before it was told.
    Told(oneshot::Sender<()>),
    /// Its descriptor is closed when systemd has dealt with everything before it; answered with whether it is
    /// on its way.
    Barrier(OwnedFd, oneshot::Sender<bool>),
}

/// A service manager that listens.
#[derive(Debug)]
pub(crate) struct Manager {
    /// Where, as `NOTIFY_SOCKET` says it.
    path: String,
    words: Sender<Word>,
    /// It keeps descriptors.
    store: bool,
}

impl Manager {
    /// The manager of this service, if it has one that listens. `store` as
    /// [`Builder::descriptor_store`](crate::Builder::descriptor_store).
    pub(crate) fn find(store: Option<bool>) -> Option<Self> {
        let path = env::var("NOTIFY_SOCKET").ok().filter(|path| !path.is_empty())?;
        Self::at(path, store.unwrap_or_else(has_store))
    }

    /// A manager that listens there. With `NotifyAccess=main` systemd tells it to the main process only.
    pub(crate) fn at(path: String, store: bool) -> Option<Self> {
        let (words, heard) = channel();
        let (thread, to) = (thread::Builder::new().name("notify".to_owned()), path.clone());
        if let Err(error) = thread.spawn(move || tell(&to, &heard)) {
            tracing::warn!(%error, "systemd is told nothing: no thread");
            return None;
        }
        Some(Self { path, words, store })
    }

    /// Where it listens.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Whether it keeps descriptors.
    pub(crate) fn has_store(&self) -> bool {
        self.store
    }

    /// This process serves.
    pub(crate) fn ready(&self) {
        self.say(Word::Ready);
    }

    /// How the service is, in one line for people.
    pub(crate) fn status(&self, line: String) {
        self.say(Word::Status(line));
    }

    /// The service ends.
    pub(crate) fn stopping(&self) {
        self.say(Word::Stopping);
    }

    /// The service is well.
    pub(crate) fn is_well(&self) {
        self.say(Word::Watchdog);
    }

    /// This one is the main process of the service from now on.
    pub(crate) fn main_is(&self, pid: u32) {
        self.say(Word::Main(pid));
    }

    /// Keep these. What systemd has already, it recognises.
    pub(crate) fn keep(&self, kind: Kind, what: impl Iterator<Item = (ShortText, io::Result<OwnedFd>)>) {
        for (name, fd) in what.filter(|_| self.store) {
            match fd {
                Ok(fd) => self.say(Word::Keep(kind, name, fd)),
                Err(error) => tracing::warn!(%name, %error, "a {kind} is not in the descriptor store"),
            }
        }
    }

    /// Keep nothing of these names.
    pub(crate) fn forget(&self, kind: Kind, names: impl Iterator<Item = ShortText>) {
        names.filter(|_| self.store).for_each(|name| self.say(Word::Forget(kind, name)));
    }

    /// Resolves when everything that was said so far is with systemd.
    pub(crate) fn told(&self) -> impl Future<Output = ()> + Send + use<> {
        let (told, wait) = oneshot::channel();
        self.say(Word::Told(told));
        async move { drop(wait.await) }
    }

    /// Resolves when systemd has dealt with everything that was said so far: `false` if it cannot be told. It
    /// may never resolve.
    pub(crate) fn confirmed(&self) -> impl Future<Output = bool> + Send + use<> {
        let (sent, is_sent) = oneshot::channel();
        let ours = UnixStream::pair().and_then(|(ours, theirs)| {
            ours.set_nonblocking(true)?;
            let ours = tokio::net::UnixStream::from_std(ours)?;
            self.say(Word::Barrier(theirs.into(), sent));
            Ok(ours)
        });
        async move {
            match ours {
                Ok(mut ours) if is_sent.await == Ok(true) => ours.read(&mut [0]).await.is_ok(),
                Ok(_) => false,
                Err(error) => {
                    tracing::warn!(%error, "systemd cannot be asked whether it has understood");
                    false
                }
            }
        }
    }

    fn say(&self, word: Word) {
        // The thread ends when we do.
        let _ = self.words.send(word);
    }
}

/// Since version 254 systemd says how many descriptors it keeps.
fn has_store() -> bool {
    env::var("FDSTORE").ok().and_then(|max| max.parse().ok()).is_some_and(|max: u32| max > 0)
}

fn tell(path: &str, words: &Receiver<Word>) {
    while let Ok(word) = words.recv() {
        let told = match word {
            Word::Ready => notify(path, &[Ready]),
            Word::Status(line) => notify(path, &[Status(&line)]),
            Word::Stopping => notify(path, &[Stopping]),
            Word::Watchdog => notify(path, &[Watchdog]),
            Word::Main(pid) => notify(path, &[MainPid(pid)]),
            Word::Keep(kind, name, fd) => keep(path, kind, &name, &fd),
            Word::Forget(kind, name) => forget(path, kind, &name),
            Word::Told(told) => {
                let _ = told.send(());
                Ok(())
            }
            Word::Barrier(fd, sent) => {
                let told = notify_with_fds(path, &[Custom("BARRIER=1")], &[fd.as_fd()]);
                let _ = sent.send(told.is_ok());
                told
            }
        };
        if let Err(error) = told {
            tracing::warn!(%error, "systemd cannot be told");
        }
    }
}

fn keep(path: &str, kind: Kind, name: &str, fd: &OwnedFd) -> io::Result<()> {
    let Some(encoded) = encode(kind, name) else {
        tracing::warn!(name, "a {kind} is not in the descriptor store: its name is too long for it");
        return Ok(());
    };
    // Without polling: an error that waits on a UDP socket would end its time in the store (sd_notify(3),
    // `FDPOLL=`).
    notify_with_fds(path, &[FdStore, FdName(&encoded), Custom("FDPOLL=0")], &[fd.as_fd()])
}

fn forget(path: &str, kind: Kind, name: &str) -> io::Result<()> {
    encode(kind, name).map_or(Ok(()), |encoded| notify(path, &[FdStoreRemove, FdName(&encoded)]))
}

fn notify(path: &str, words: &[NotifyState<'_>]) -> io::Result<()> {
    notify_with_fds(path, words, &[])
}

/// As sd_pid_notify_with_fds(3), to a manager that need not be in the environment.
fn notify_with_fds(path: &str, words: &[NotifyState<'_>], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let address = match path.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(path)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    let text: String = words.iter().map(|word| format!("{word}\n")).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(fds));
    }
    sendmsg(&socket, &[IoSlice::new(text.as_bytes())], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}
