//! The terminal: what is drawn, which keys are pressed, and when it is gone.
//!
//! Deliberately absent: the events of crossterm. Its `poll` turns in a circle when the terminal is gone,
//! because a read that returns nothing is no event to it. Three keys need no decoder.

use std::io;
use std::mem::ManuallyDrop;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use hotupdate_proto::timing::fixed::operator::LAST_DRAWING;
use ratatui::DefaultTerminal;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, read};
use signal_hook::consts::{SIGHUP, SIGTERM};
use signal_hook::iterator::Signals;

use super::cannot;
use crate::exit::{Exit, Failure};

/// What Ctrl-C is in raw mode: a key like any other.
const CONTROL_C: u8 = 3;

/// What Escape sends; the first byte of what other keys send, too.
const ESCAPE: u8 = 27;

/// The terminal, given back when dropped; also when hotctl panics, which is ratatui's hook.
pub(super) struct Screen {
    /// Not dropped: it would complain on stderr that a terminal which is gone has no cursor to show, and
    /// panic since that cannot be written either.
    terminal: ManuallyDrop<DefaultTerminal>,
    terminated: Arc<AtomicBool>,
}

impl Screen {
    pub(super) fn open() -> Result<Self, Failure> {
        let terminated = Arc::new(AtomicBool::new(false));
        end_on_signals(Arc::clone(&terminated)).map_err(|error| cannot(&error))?;
        let terminal = ManuallyDrop::new(ratatui::try_init().map_err(|error| cannot(&error))?);
        Ok(Self { terminal, terminated })
    }

    pub(super) fn show(&mut self, draw: impl FnOnce(&mut ratatui::Frame<'_>)) -> Result<(), Failure> {
        self.terminal.draw(draw).map(drop).map_err(|error| cannot(&error))
    }

    /// Whether a key or a signal asks to quit, or the terminal is gone.
    pub(super) fn wants_to_quit(&self) -> bool {
        let mut quit = self.terminated.load(Ordering::Relaxed);
        // Everything that was typed, so that a key that means nothing hides no other one.
        while let Some(typed) = typed() {
            quit |= typed.is_none_or(|keys| is_quit(&keys));
            if quit {
                break;
            }
        }
        quit
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that is gone needs no restoring.
        let _ = self.terminal.show_cursor();
        let _ = ratatui::try_restore();
    }
}

/// The keys that wait to be read; `Some(None)` if the terminal is gone, `None` if nothing was typed.
fn typed() -> Option<Option<Vec<u8>>> {
    let stdin = io::stdin();
    let mut keyboard = [PollFd::new(&stdin, PollFlags::IN)];
    match poll(&mut keyboard, Some(&Timespec::default())) {
        Ok(0) | Err(Errno::INTR) => return None,
        Ok(_) => {}
        Err(_) => return Some(None),
    }
    let mut keys = [0; 256];
    match read(&stdin, &mut keys) {
        Ok(0) => Some(None),
        Ok(count) => Some(Some(keys[..count].to_vec())),
        Err(Errno::INTR | Errno::AGAIN) => None,
        // A terminal that hung up (termios(3)), or one whose job is in the background.
        Err(_) => Some(None),
    }
}

/// `q`, Ctrl-C, or Escape alone: arrows and other keys send more bytes behind it.
fn is_quit(keys: &[u8]) -> bool {
    match keys {
        [ESCAPE] => true,
        [ESCAPE, ..] => false,
        keys => keys.iter().any(|key| matches!(*key, b'q' | CONTROL_C)),
    }
}

/// A terminal that is left in raw mode cannot be used.
fn end_on_signals(terminated: Arc<AtomicBool>) -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGHUP])?;
    thread::Builder::new().spawn(move || {
        if signals.forever().next().is_some() {
            terminated.store(true, Ordering::Relaxed);
            thread::sleep(LAST_DRAWING);
            // It hangs in a write. The modes of a terminal can be set without one.
            let _ = ratatui::crossterm::terminal::disable_raw_mode();
            process::exit(Exit::Done.code().into());
        }
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arrow_is_no_escape() {
        assert!(is_quit(b"q") && is_quit(b"xq") && is_quit(b"\x1b") && is_quit(b"\x03"));
        assert!(!is_quit(b"\x1b[A") && !is_quit(b"\x1bOq") && !is_quit(b"x"));
    }
}
