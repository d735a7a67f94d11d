//! `hotctl watch` on a terminal of its own, and without one.
//!
//! Deliberately absent: how it looks, which the tests beside the drawing say.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::support::eventually;
use crate::support::fake::{join, take_over};
use crate::support::run::{Place, start};
use hotupdate_proto::operator::ProcessState;
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

/// What leaves the second screen of a terminal (xterm's control sequences, private mode 1049).
const LEAVE: &str = "\u{1b}[?1049l";

/// A terminal with hotctl on it.
struct Terminal {
    keyboard: File,
    /// Its other side, for a look at its modes.
    line: OwnedFd,
    shown: Arc<Mutex<Vec<u8>>>,
    child: Child,
}

impl Terminal {
    fn watch(place: &Place) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let line = rustix::fs::open(&*name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
        tcsetwinsize(&line, Winsize { ws_row: 30, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
        let end = || line.try_clone().unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_hotctl"))
            .args(["--socket".as_ref(), place.fake.path.as_os_str(), "watch".as_ref()])
            .env("TERM", "xterm-256color")
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .unwrap();
        let (keyboard, shown) = (File::from(master), Arc::new(Mutex::new(Vec::new())));
        let (mut screen, all) = (keyboard.try_clone().unwrap(), shown.clone());
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(read @ 1..) = screen.read(&mut bytes) {
                all.lock().unwrap().extend_from_slice(&bytes[..read]);
            }
        });
        Self { keyboard, line, shown, child }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().unwrap()).into_owned()
    }

    /// Only cells that change are written, so that a word that stands somewhere new is in the output and a
    /// sentence is not.
    fn shows(&self, word: &str) {
        eventually(word, || self.text().contains(word).then_some(()));
    }

    fn is_raw(&self) -> bool {
        !tcgetattr(&self.line).unwrap().local_modes.contains(LocalModes::ICANON)
    }

    /// It ended with 0 and left the terminal as it was.
    fn ends_well(mut self) {
        let status = self.child.wait().unwrap();
        self.shows(LEAVE);
        assert_eq!(status.code(), Some(0), "{}", self.text());
        assert!(!self.is_raw(), "the terminal is usable again");
    }
}

#[test]
fn it_follows_a_handoff_to_the_new_owner_and_q_leaves() {
    let place = Place::new();
    let mut terminal = Terminal::watch(&place);
    terminal.shows("v1.2.9");
    assert!(terminal.is_raw());
    place.fake.change(|status| join(status, 4242, "a", ProcessState::Starting));
    terminal.shows("starting");
    place.fake.change(take_over);
    place.fake.end_monitors();
    terminal.shows("draining");
    place.fake.change(|status| status.serving.totals.adopted = 1234);
    terminal.shows("1234");
    terminal.keyboard.write_all(b"q").unwrap();
    terminal.ends_well();
}

#[test]
fn control_c_and_signals_leave_too() {
    let place = Place::new();
    let mut terminal = Terminal::watch(&place);
    terminal.shows("v1.2.9");
    terminal.keyboard.write_all(b"\x03").unwrap();
    terminal.ends_well();
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let terminal = Terminal::watch(&place);
        terminal.shows("v1.2.9");
        kill_process(Pid::from_child(&terminal.child), signal).unwrap();
        terminal.ends_well();
    }
}

#[test]
fn a_service_that_has_crashed_is_shown() {
    let mut place = Place::new();
    let mut terminal = Terminal::watch(&place);
    terminal.shows("v1.2.9");
    place.fake.stop();
    terminal.shows("answer");
    terminal.keyboard.write_all(b"q").unwrap();
    terminal.ends_well();
}

#[test]
fn without_a_terminal_it_says_what_to_do() {
    let place = Place::new();
    let line = "hotctl: watch: this is no terminal; with --json it prints what happens as JSON lines";
    place.hotctl(&["watch"]).code(2).says(line);
    let nowhere = place.file("nowhere.sock");
    start(place.folder.path(), Some(&nowhere), &["--json", "watch"]).end().code(3);
}

#[test]
fn json_lines_until_interrupted() {
    let place = Place::new();
    let running = place.start(&["--json", "watch"]);
    let out = || running.stdout();
    eventually("the first reply", || out().contains("v1.2.9").then_some(()));
    place.fake.change(|status| join(status, 4242, "a", ProcessState::Starting));
    eventually("the second", || out().contains("4242").then_some(()));
    place.fake.end_monitors();
    eventually("a reply of the next stream", || (out().lines().count() == 3).then_some(()));
    let pid = i32::try_from(running.pid()).ok().and_then(Pid::from_raw).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    let ran = running.end().code(130);
    assert!(ran.json().iter().filter(|record| record["type"] == "monitor").count() == 3, "{ran:#?}");
}
