//! What systemd is told (sd_notify(3)): that we serve, which process is the main one, which listeners to
//! keep.
//!
//! Deliberately absent: waiting for systemd. It may be busy, so a thread of its own tells it, in order.

use std::env;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use hotupdate_proto::ShortText;
use sd_notify::NotifyState::{Custom, FdName, FdStore, FdStoreRemove, MainPid, Ready};
use tokio::sync::oneshot;

use super::name::encode;

/// One thing to tell.
enum Word {
    Ready,
    Main(u32),
    Keep(ShortText, OwnedFd),
    Forget(String),
    /// Answered when everything before it was told.
    Told(oneshot::Sender<()>),
}

/// A service manager that listens.
#[derive(Debug)]
pub(crate) struct Manager {
    words: Sender<Word>,
    /// It keeps descriptors.
    store: bool,
}

impl Manager {
    /// The manager of this service, if it has one that listens. `store` as
    /// [`Builder::descriptor_store`](crate::Builder::descriptor_store).
    pub(crate) fn find(store: Option<bool>) -> Option<Self> {
        env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty())?;
        let (words, heard) = channel();
        let thread = thread::Builder::new().name("notify".to_owned());
        if let Err(error) = thread.spawn(move || tell(&heard)) {
            tracing::warn!(%error, "systemd is told nothing: no thread");
            return None;
        }
        Some(Self { words, store: store.unwrap_or_else(has_store) })
    }

    /// This process serves.
    pub(crate) fn ready(&self) {
        self.say(Word::Ready);
    }

    /// This one is the main process of the service from now on. A successor that was started elsewhere cannot
    /// be, so nothing is said about it.
    pub(crate) fn main_is(&self, pid: u32) {
        let group = |pid: &str| std::fs::read(format!("/proc/{pid}/cgroup")).ok();
        if group("self") == group(&pid.to_string()) {
            self.say(Word::Main(pid));
        }
    }

    /// Keep these. What systemd has already, it recognises.
    pub(crate) fn keep(&self, listeners: impl Iterator<Item = (ShortText, io::Result<OwnedFd>)>) {
        for (name, fd) in listeners.filter(|_| self.store) {
            match fd {
                Ok(fd) => self.say(Word::Keep(name, fd)),
                Err(error) => tracing::warn!(%name, %error, "a listener is not in the descriptor store"),
            }
        }
    }

    /// Keep nothing of these names.
    pub(crate) fn forget(&self, names: impl Iterator<Item = String>) {
        names.filter(|_| self.store).for_each(|name| self.say(Word::Forget(name)));
    }

    /// Resolves when everything that was said so far is with systemd.
    pub(crate) fn told(&self) -> impl Future<Output = ()> + Send + use<> {
        let (told, wait) = oneshot::channel();
        self.say(Word::Told(told));
        async move { drop(wait.await) }
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

fn tell(words: &Receiver<Word>) {
    while let Ok(word) = words.recv() {
        let told = match word {
            Word::Ready => sd_notify::notify(&[Ready]),
            Word::Main(pid) => sd_notify::notify(&[MainPid(pid)]),
            Word::Keep(name, fd) => keep(&name, &fd),
            Word::Forget(name) => forget(&name),
            Word::Told(told) => {
                let _ = told.send(());
                Ok(())
            }
        };
        if let Err(error) = told {
            tracing::warn!(%error, "systemd cannot be told");
        }
    }
}

fn keep(name: &str, fd: &OwnedFd) -> io::Result<()> {
    let Some(encoded) = encode(name) else {
        tracing::warn!(name, "a listener is not in the descriptor store: its name is too long for it");
        return Ok(());
    };
    // Without polling: an error that waits on a UDP socket would end its time in the store (sd_notify(3),
    // `FDPOLL=`).
    sd_notify::notify_with_fds(&[FdStore, FdName(&encoded), Custom("FDPOLL=0")], &[fd.as_fd()])
}

fn forget(name: &str) -> io::Result<()> {
    encode(name).map_or(Ok(()), |encoded| sd_notify::notify(&[FdStoreRemove, FdName(&encoded)]))
}
