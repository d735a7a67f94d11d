//! Where this process writes: an operator's `hotctl handoff` reads its output until it serves, and then it
//! goes to the journal, or nowhere.
//!
//! The operator's shell waits for the end of that pipe, and a process that wrote into it when its reader has
//! gone would be killed by SIGPIPE. A terminal that has closed, and any other pipe without a reader, fail
//! every write from then on, so that `println!` and most loggers panic: they are left when that happens.
//! Deliberately absent: files, which stay.

use std::fs::OpenOptions;
use std::io::{self, IsTerminal, Write as _, stderr, stdout};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use hotupdate_proto::environment::{JOURNAL, OUTPUT, journal_header};
use hotupdate_proto::timing::fixed::process::JOURNAL_ANSWERS;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, fstat};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, Shutdown, SocketAddrUnix, SocketFlags, SocketType};
use rustix::net::{connect, shutdown, socket_with};
use rustix::stdio::{dup2_stderr, dup2_stdout};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// What is left to do with standard output and standard error.
#[derive(Debug, Default)]
pub(crate) struct Output {
    /// The operator's pipe, and what takes its place.
    pipe: Option<(FileId, OwnedFd)>,
}

/// What tells one open file from another: the device and the inode.
type FileId = (u64, u64);

impl Output {
    /// Opens what takes the place of the operator's pipe, while no client waits.
    pub(crate) fn of_this_process() -> Self {
        let pipe = std::env::var(OUTPUT).ok().and_then(|text| parse(&text));
        let is_ours = |pipe: &FileId| is(stdout(), *pipe) || is(stderr(), *pipe);
        let pipe = pipe.filter(is_ours).and_then(|pipe| Some((pipe, elsewhere().ok()?)));
        Self { pipe }
    }

    /// This process serves: the pipe is not used any more.
    pub(crate) fn leave_the_pipe(&mut self) {
        let Some((pipe, elsewhere)) = self.pipe.take() else { return };
        if is(stdout(), pipe) {
            let _ = stdout().flush();
            let _ = dup2_stdout(&elsewhere);
        }
        if is(stderr(), pipe) {
            let _ = dup2_stderr(&elsewhere);
        }
    }
}

/// From here on, for as long as the runtime lives: standard output and standard error go elsewhere as soon as
/// what they lead to is gone.
pub(crate) fn leave_what_is_gone() {
    tokio::spawn(leave_when_gone(stdout(), "standard output", |to| dup2_stdout(to)));
    tokio::spawn(leave_when_gone(stderr(), "standard error", |to| dup2_stderr(to)));
}

async fn leave_when_gone<S: AsFd + AsRawFd + IsTerminal>(
    stream: S,
    name: &str,
    replace: impl FnOnce(&OwnedFd) -> rustix::io::Result<()>,
) {
    let is_pipe = fstat(&stream).is_ok_and(|it| FileType::from_raw_mode(it.st_mode) == FileType::Fifo);
    if !is_pipe && !stream.is_terminal() {
        return;
    }
    // Not what is typed, and not that there is room: hangups and errors come in any case (epoll_ctl(2)).
    let news = Interest::PRIORITY | Interest::ERROR;
    // Another process in this one, as tests have them, or the application itself watches it already.
    let Some(watched) = watch(stream, news) else { return };
    while !is_gone(watched.get_ref()) {
        let Ok(mut ready) = watched.ready(news).await else { return };
        ready.clear_ready();
    }
    drop(watched);
    if let Ok(Ok(elsewhere)) = tokio::task::spawn_blocking(elsewhere).await
        && replace(&elsewhere).is_ok()
    {
        tracing::warn!(
            "{name} is gone, with its terminal or the reader of its pipe; it goes to the journal, or nowhere"
        );
    }
}

#[expect(
    deprecated,
    reason = "what it wants in its place is unsafe, and these two are open until the process ends"
)]
fn watch<S: AsRawFd>(stream: S, news: Interest) -> Option<AsyncFd<S>> {
    AsyncFd::with_interest(stream, news).ok()
}

fn is_gone(stream: impl AsFd) -> bool {
    let mut polled = [PollFd::new(&stream, PollFlags::OUT)];
    let asked = poll(&mut polled, Some(&Timespec::default()));
    asked.is_ok() && polled[0].revents().intersects(PollFlags::HUP | PollFlags::ERR)
}

fn parse(text: &str) -> Option<FileId> {
    let (device, inode) = text.split_once(':')?;
    Some((device.parse().ok()?, inode.parse().ok()?))
}

fn is(stream: impl AsFd, file: FileId) -> bool {
    fstat(stream).is_ok_and(|found| (found.st_dev, found.st_ino) == file)
}

fn elsewhere() -> io::Result<OwnedFd> {
    journal().or_else(|_| OpenOptions::new().write(true).open("/dev/null").map(OwnedFd::from))
}

fn journal() -> io::Result<OwnedFd> {
    let name = std::env::args_os().next().unwrap_or_default();
    let name = Path::new(&name).file_name().unwrap_or_default().to_string_lossy().into_owned();
    let stream = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // It bounds connect(2), too (socket(7)).
    set_socket_timeout(&stream, Timeout::Send, Some(JOURNAL_ANSWERS))?;
    rustix::io::retry_on_intr(|| connect(&stream, &SocketAddrUnix::new(JOURNAL)?))?;
    shutdown(&stream, Shutdown::Read)?;
    let mut stream = std::os::unix::net::UnixStream::from(stream);
    stream.write_all(journal_header(&name).as_bytes())?;
    // From here on as any other output: a line waits until it is taken.
    stream.set_write_timeout(None)?;
    Ok(stream.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_named_by_two_numbers() {
        assert_eq!(parse("14:4242"), Some((14, 4242)));
        for wrong in ["", "14", "14:", ":1", "a:b", "14:4242:1"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
