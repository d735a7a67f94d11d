//! The control socket and its lock stay at their path: what is removed while this process owns them is made
//! again.
//!
//! Cleaners remove what looks unused, scripts remove `*.sock`, and a service manager removes the directory of
//! one unit that is the directory of another one as well. Then no operator and no successor would find the
//! process that serves. The owner therefore looks at an interval (deadline `path_check`): two calls of
//! lstat(2). Deliberately absent: inotify(7). It would tell at once, but of its instances a user has 128, it
//! wakes a process for every file in a directory that many programs use, and it has to be set up anew, at
//! the parent, exactly when the directory goes.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use hotupdate_proto::{SocketFile, lock};
use socket2::{Domain, SockAddr, Socket, Type};

use super::ownership::{Ownership, bind, is_at, open_lock, say_running, socket_file, try_lock};
use super::path::{check_own_directory, check_path, check_replaceable, directory};
use super::user::{Users, give};
use crate::error::{Doing, Error, Result};

/// Looks after one path.
#[derive(Debug)]
pub(crate) struct Upkeep {
    path: PathBuf,
    users: Users,
    /// As it was when this process found it.
    directory: Option<Directory>,
    /// Why the path is not as it should be, as it was said last.
    said: Option<String>,
}

/// What a directory is like.
#[derive(Debug)]
struct Directory {
    mode: u32,
    uid: u32,
    gid: u32,
}

impl Upkeep {
    /// The path is as it should be now.
    pub(crate) fn new(path: &Path, users: Users) -> Self {
        let found = fs::metadata(directory(path)).ok();
        let directory =
            found.map(|found| Directory { mode: found.mode() & 0o7777, uid: found.uid(), gid: found.gid() });
        Self { path: path.to_owned(), users, directory, said: None }
    }

    /// Looks whether what this process owns, this lock and this file of its listener, is at its path. If it
    /// is not, it is made again, and returned; where that cannot be done, why is said once.
    pub(crate) fn look(
        &mut self,
        lock: BorrowedFd<'_>,
        file: SocketFile,
        owned: impl FnOnce() -> io::Result<Ownership>,
    ) -> Option<Ownership> {
        let path = self.path.display();
        let lock_is_there = is_at(lock, &lock::path(&self.path));
        let socket_is_there = socket_file(&self.path) == Some(file);
        let missing = match (socket_is_there, lock_is_there) {
            (true, true) => {
                if self.said.take().is_some() {
                    tracing::info!(%path, "the control socket is at its path again");
                }
                return None;
            }
            (true, false) => "its lock",
            (false, true) => "its file",
            (false, false) => "its file and its lock",
        };
        let owned = owned().doing(|| doing(&self.path));
        match owned.and_then(|owned| self.make_again(owned)) {
            Ok(made) => {
                tracing::warn!(
                    %path, missing,
                    "the control socket was removed from its path, and is made again"
                );
                self.said = None;
                Some(made)
            }
            Err(error) => {
                let why = error.to_string();
                if self.said.as_ref() != Some(&why) {
                    tracing::error!(
                        %path, missing, %error,
                        "the control socket was removed from its path, and cannot be made again yet; no \
                         operator and no new version finds this process, which serves on"
                    );
                    self.said = Some(why);
                }
                None
            }
        }
    }

    fn make_again(&self, owned: Ownership) -> Result<Ownership> {
        let path = &self.path;
        let Ownership { listener, lock, file } = owned;
        self.make_directory_again()?;
        check_path(path, &self.users)?;
        check_own_directory(path)?;
        let lock = self.lock(lock)?;
        if socket_file(path) == Some(file) {
            return Ok(Ownership { listener, lock, file });
        }
        if is_served(path)? {
            let why = "another process serves there, and is left alone; stop it, or remove its socket";
            return Err(Error::unusable_path(doing(path), why));
        }
        check_replaceable(path)?;
        let (listener, file) = bind(path, &self.users)?;
        Ok(Ownership { listener, lock, file })
    }

    /// Our lock, or the one that takes its place. The file that ours is may be locked by this process alone,
    /// and no other process would ever look at it again.
    fn lock(&self, ours: OwnedFd) -> Result<OwnedFd> {
        let path = lock::path(&self.path);
        if is_at(&ours, &path) {
            return Ok(ours);
        }
        let lock = open_lock(&self.path)?;
        if !try_lock(&lock, &self.path)? {
            let why = "another process holds the lock there, and is left alone; stop it, or remove its files";
            return Err(Error::unusable_path(doing(&self.path), why));
        }
        if !is_at(&lock, &path) {
            return Err(Error::unusable_path(doing(&self.path), "its lock was removed in this moment"));
        }
        let lock = lock.into();
        give(&lock, &self.path, &self.users)?;
        say_running(&lock);
        Ok(lock)
    }

    /// With its mode and owner. Only the last part of the path: what is above it was never made by a service.
    fn make_directory_again(&self) -> Result<()> {
        let there = directory(&self.path);
        if fs::symlink_metadata(there).is_ok() {
            return Ok(());
        }
        let Directory { mode, uid, gid } =
            self.directory.as_ref().ok_or_else(|| Error::unusable_path(doing(&self.path), "it is gone"))?;
        let doing = || format!("making the directory {} again", there.display());
        DirBuilder::new().mode(0o700).create(there).doing(doing)?;
        let made = fs::metadata(there).doing(doing)?;
        if (made.uid(), made.gid()) != (*uid, *gid) {
            chown(there, Some(*uid), Some(*gid)).doing(doing)?;
        }
        fs::set_permissions(there, Permissions::from_mode(*mode)).doing(doing)?;
        tracing::warn!(
            directory = %there.display(),
            "the directory of the control socket was removed; made again"
        );
        Ok(())
    }
}

fn doing(path: &Path) -> String {
    format!("making the control socket {} again", path.display())
}

/// Whether a process listens there.
fn is_served(path: &Path) -> Result<bool> {
    let connect = || {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.connect(&SockAddr::unix(path)?)
    };
    match connect() {
        // Its queue is full.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
        Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) => {
            Ok(false)
        }
        Ok(()) => Ok(true),
        // It is no socket: that is said in other words.
        Err(_) if check_replaceable(path).is_err() => Ok(false),
        Err(error) => Err(error).doing(|| format!("looking for a process at {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::super::ownership::tests::{SOON, directory};
    use super::super::ownership::{Found, find};
    use super::*;
    use std::io::Read;
    use std::os::fd::AsFd;
    use std::os::unix::net::{UnixListener, UnixStream};

    struct Owner {
        folder: tempfile::TempDir,
        path: PathBuf,
        owned: Ownership,
        upkeep: Upkeep,
    }

    impl Owner {
        /// In a directory that can be removed.
        async fn new() -> Self {
            let folder = directory(0o700);
            let path = folder.path().join("app/control.sock");
            DirBuilder::new().mode(0o750).create(path.parent().unwrap()).unwrap();
            let Found::First(owned) = find(&path, &Users::default(), SOON).await.unwrap() else {
                panic!("another process")
            };
            Self { folder, upkeep: Upkeep::new(&path, Users::default()), path, owned }
        }

        /// Whether something was made again.
        fn look(&mut self) -> bool {
            let Self { owned: Ownership { listener, lock, file }, upkeep, .. } = self;
            let owned =
                || Ok(Ownership { listener: listener.try_clone()?, lock: lock.try_clone()?, file: *file });
            let Some(made) = upkeep.look(lock.as_fd(), *file, owned) else { return false };
            self.owned = made;
            true
        }

        /// A process that comes now meets this one.
        async fn is_found(&self) {
            let found = find(&self.path, &Users::default(), SOON).await.unwrap();
            let Found::Incumbent(stream, file) = found else { panic!("it would be the first") };
            assert_eq!(file, self.owned.file);
            let address = stream.peer_addr().unwrap();
            assert_eq!(address.as_pathname(), Some(&*self.path), "the kernel knows it by its name");
            let listener = UnixListener::from(self.owned.listener.try_clone().unwrap());
            drop(listener.accept().unwrap());
            assert!(!try_lock(&open_lock(&self.path).unwrap(), &self.path).unwrap(), "the lock is free");
            assert_eq!(fs::read(lock::path(&self.path)).unwrap(), lock::RUNNING);
        }

        fn why(&self) -> &str {
            self.upkeep.said.as_deref().unwrap_or_default()
        }
    }

    #[tokio::test]
    async fn what_is_removed_is_made_again() {
        let mut owner = Owner::new().await;
        assert!(!owner.look());
        owner.is_found().await;
        let (socket, lock) = (owner.path.clone(), lock::path(&owner.path));
        for removed in [vec![&socket], vec![&lock], vec![&socket, &lock], vec![&lock, &socket]] {
            removed.iter().for_each(|path| fs::remove_file(path).unwrap());
            assert!(owner.look(), "{removed:?}");
            owner.is_found().await;
            assert!(!owner.look());
        }
        fs::remove_dir_all(socket.parent().unwrap()).unwrap();
        assert!(owner.look());
        owner.is_found().await;
        assert_eq!(fs::metadata(socket.parent().unwrap()).unwrap().mode() & 0o7777, 0o750, "as before");
    }

    #[tokio::test]
    async fn a_file_that_no_process_listens_on_is_replaced() {
        let mut owner = Owner::new().await;
        fs::remove_file(&owner.path).unwrap();
        drop(UnixListener::bind(&owner.path).unwrap());
        assert!(owner.look());
        owner.is_found().await;
        fs::write(lock::path(&owner.path).with_extension("new"), "").unwrap();
        fs::rename(lock::path(&owner.path).with_extension("new"), lock::path(&owner.path)).unwrap();
        assert!(owner.look(), "another lock file");
        owner.is_found().await;
    }

    #[tokio::test]
    async fn a_process_that_serves_there_is_left_alone() {
        let mut owner = Owner::new().await;
        fs::remove_file(&owner.path).unwrap();
        let foreign = UnixListener::bind(&owner.path).unwrap();
        for _ in 0..2 {
            assert!(!owner.look());
            assert!(owner.why().contains("another process serves there"), "{}", owner.why());
        }
        let mut client = UnixStream::connect(&owner.path).unwrap();
        drop(foreign);
        client.read(&mut [0]).expect_err("it was in the queue of the other process");
        assert!(owner.look(), "that one is gone");
        owner.is_found().await;

        fs::remove_file(lock::path(&owner.path)).unwrap();
        let foreign = open_lock(&owner.path).unwrap();
        assert!(try_lock(&foreign, &owner.path).unwrap());
        assert!(!owner.look());
        assert!(owner.why().contains("another process holds the lock"), "{}", owner.why());
        drop(foreign);
        assert!(owner.look());
        owner.is_found().await;
        assert_eq!(owner.why(), "");
    }

    #[tokio::test]
    async fn what_is_no_socket_is_left_alone() {
        let mut owner = Owner::new().await;
        fs::remove_file(&owner.path).unwrap();
        fs::write(&owner.path, "precious").unwrap();
        assert!(!owner.look());
        assert!(owner.why().contains("something that is not a socket"), "{}", owner.why());
        assert_eq!(fs::read_to_string(&owner.path).unwrap(), "precious");
        fs::remove_file(&owner.path).unwrap();
        assert!(owner.look());
    }

    #[tokio::test]
    async fn a_directory_that_cannot_be_made_again_is_named() {
        let mut owner = Owner::new().await;
        fs::remove_dir_all(owner.folder.path()).unwrap();
        assert!(!owner.look());
        assert!(owner.why().starts_with("making the directory "), "{}", owner.why());
        fs::create_dir(owner.folder.path()).unwrap();
        assert!(owner.look(), "its parent is there again");
        owner.is_found().await;
    }
}
