//! A pseudo terminal (pty(7)) with `hotctl watch` in it, and what its screen shows.

use std::fs::File;
use std::io::Read;
use std::num::NonZero;
use std::os::fd::OwnedFd;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::Sandbox;
use crate::process::binary;
use anyhow::Context;
use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

/// One screen: rows of characters with their looks.
pub(crate) type Screen = vt100::Screen;

/// `hotctl watch` in a terminal; it ends when this is dropped.
pub(crate) struct Terminal {
    parser: Arc<Mutex<vt100::Parser>>,
    watch: Child,
    /// The terminal hangs up when its controlling side is closed.
    _controlling: OwnedFd,
}

impl Terminal {
    pub(crate) fn watch(sandbox: &Sandbox, columns: u16, rows: u16) -> anyhow::Result<Self> {
        let controlling = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&controlling)?;
        unlockpt(&controlling)?;
        tcsetwinsize(&controlling, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 })?;
        let name = ptsname(&controlling, Vec::new())?;
        let terminal =
            rustix::fs::open(&*name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())
                .context("opening the terminal")?;
        let mut read = File::from(controlling.try_clone()?);
        let parser = Arc::new(Mutex::new(vt100::Parser::new(size(rows)?, size(columns)?, 0)));
        let screen = Arc::clone(&parser);
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            // An error is the end: nothing has the terminal open any more (EIO, pty(7)).
            while let Ok(count @ 1..) = read.read(&mut bytes) {
                lock(&screen).process(&bytes[..count]);
            }
        });
        let (mut command, _) = sandbox.command(&binary("hotctl"));
        command.arg("--socket").arg(sandbox.control()).args(["--color", "always", "watch"]);
        command.env("TERM", "xterm-256color");
        command.stdin(Stdio::from(terminal.try_clone()?)).stdout(Stdio::from(terminal));
        let watch = command.spawn().context("starting hotctl watch")?;
        Ok(Self { parser, watch, _controlling: controlling })
    }

    pub(crate) fn screen(&self) -> Screen {
        lock(&self.parser).screen().clone()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // What is left of it, the sandbox ends.
        let _ = self.watch.kill();
        let _ = self.watch.wait();
    }
}

fn size(cells: u16) -> anyhow::Result<NonZero<u16>> {
    NonZero::new(cells).context("a terminal has rows and columns")
}

fn lock(parser: &Mutex<vt100::Parser>) -> MutexGuard<'_, vt100::Parser> {
    parser.lock().unwrap_or_else(PoisonError::into_inner)
}
