//! Where the output of COMMAND goes.
//!
//! A file or a terminal of hotctl's is COMMAND's, too. A pipe is not: its reader (`$(…)`, ssh, a deployment
//! tool) waits until the last process has closed it, and would wait for the service. So COMMAND gets another
//! pipe, from which hotctl reads until it serves or fails. The library of the service leaves that pipe when
//! it serves; a process that does not is read from by the attendant for as long as it lives.

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use hotupdate_proto::environment::{JOURNAL, OUTPUT, journal_header};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, fstat};

use crate::context::TICK;

/// The variable in which systemd names the stream to the journal that it has given (systemd.exec(5)).
const JOURNAL_STREAM: &str = "JOURNAL_STREAM";

/// hotctl's side of the pipe of COMMAND.
pub(super) struct Relay {
    reader: OwnedFd,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    /// Gives the command a pipe in place of each output that it must not have; none if it may have both.
    pub(super) fn for_command(command: &mut Command) -> io::Result<Option<Self>> {
        let (stdout, stderr) = (must_not_keep(&io::stdout()), must_not_keep(&io::stderr()));
        if !stdout && !stderr {
            return Ok(None);
        }
        let (reader, writer) = io::pipe()?;
        let found = fstat(&writer)?;
        command.env(OUTPUT, format!("{}:{}", found.st_dev, found.st_ino));
        give(command, writer, stdout, stderr)?;
        let (reader, is_over) = (OwnedFd::from(reader), Arc::new(AtomicBool::new(false)));
        let (source, ends) = (PipeReader::from(reader.try_clone()?), Arc::clone(&is_over));
        let thread = thread::Builder::new().spawn(move || pass_on(source, &ends))?;
        Ok(Some(Self { reader, is_over, thread: Some(thread) }))
    }

    /// For the attendant.
    pub(super) fn reader(&self) -> &OwnedFd {
        &self.reader
    }
}

impl Drop for Relay {
    /// What COMMAND has written until now comes before hotctl's own last line.
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        let _ended = self.thread.take().map(JoinHandle::join);
    }
}

fn give(command: &mut Command, writer: PipeWriter, stdout: bool, stderr: bool) -> io::Result<()> {
    if stdout {
        command.stdout(writer.try_clone()?);
    }
    if stderr {
        command.stderr(writer);
    }
    Ok(())
}

/// A pipe or a socket, but for the journal's.
fn must_not_keep(output: &impl AsFd) -> bool {
    let Ok(found) = fstat(output) else { return false };
    let journal = std::env::var(JOURNAL_STREAM).unwrap_or_default();
    match FileType::from_raw_mode(found.st_mode) {
        FileType::Fifo => true,
        FileType::Socket => journal != format!("{}:{}", found.st_dev, found.st_ino),
        _ => false,
    }
}

/// Until COMMAND has closed the pipe, or what is in it has been read at the end. Output is talk: it goes to
/// stderr, so that it does not stand among the data.
fn pass_on(mut source: PipeReader, is_over: &AtomicBool) {
    let mut bytes = [0; 8192];
    let tick = Timespec { tv_sec: 0, tv_nsec: TICK.subsec_nanos().into() };
    loop {
        // Asked before the pipe is looked at, which then has everything that was written before.
        let ends = is_over.load(Ordering::Relaxed);
        let polled = poll(&mut [PollFd::new(&source, PollFlags::IN)], Some(&tick));
        match polled {
            Ok(0) if ends => return,
            Ok(0) | Err(rustix::io::Errno::INTR) => continue,
            Ok(_) => {}
            Err(_) => return,
        }
        match source.read(&mut bytes) {
            Ok(0) | Err(_) => return,
            // A reader that is gone is no reason to let COMMAND wait.
            Ok(read) => drop(io::stderr().write_all(&bytes[..read])),
        }
    }
}

/// Where the output goes once COMMAND serves, for a person.
pub(super) fn elsewhere() -> &'static str {
    if Path::new(JOURNAL).exists() { "the journal" } else { "/dev/null" }
}

/// The attendant's part: reads what processes still write that have not left the pipe, until the last of them
/// has closed it.
pub(super) fn swallow(mut pipe: File) -> io::Result<()> {
    if FileType::from_raw_mode(fstat(&pipe)?.st_mode) != FileType::Fifo {
        return Ok(());
    }
    let mut first = [0; 8192];
    let read = pipe.read(&mut first)?;
    if read == 0 {
        return Ok(());
    }
    if let Ok(mut journal) = journal()
        && journal.write_all(&first[..read]).is_ok()
        && io::copy(&mut pipe, &mut journal).is_ok()
    {
        return Ok(());
    }
    io::copy(&mut pipe, &mut io::sink()).map(drop)
}

fn journal() -> io::Result<UnixStream> {
    let mut journal = UnixStream::connect(JOURNAL)?;
    journal.write_all(journal_header("hotctl").as_bytes())?;
    Ok(journal)
}
