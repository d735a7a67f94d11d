//! `hotctl watch` on a terminal of its own, and without one.
//!
//! Deliberately absent: how it looks, which the tests beside the drawing say.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::support::eventually;
use crate::support::fake::{Answer, join, take_over};
use crate::support::run::{Place, start};
use hotupdate_proto::operator::ProcessState;
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Action, LocalModes, Winsize, tcflow, tcgetattr, tcsetwinsize};
use serde_json::json;

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
        let mut terminal = Self::unread(place);
        terminal.read();
        terminal
    }

    /// Without anything that reads what is shown.
    fn unread(place: &Place) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let line =
            rustix::fs::open(&*name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).unwrap();
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
        Self { keyboard, line, shown, child }
    }

    fn read(&mut self) {
        let (mut screen, all) = (self.keyboard.try_clone().unwrap(), self.shown.clone());
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(read @ 1..) = screen.read(&mut bytes) {
                all.lock().unwrap().extend_from_slice(&bytes[..read]);
            }
        });
    }

    /// The terminal goes, as with a connection that is lost: end-of-file, and no signal, since hotctl does
    /// not lead its session here.
    fn hang_up(self) -> Child {
        let Self { keyboard, line, shown: _, child } = self;
        drop((keyboard, line));
        child
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
fn it_ends_when_its_terminal_is_gone() {
    let place = Place::new();
    for drawn in [false, true, false, true] {
        let mut terminal = Terminal::unread(&place);
        eventually("the screen", || terminal.is_raw().then_some(()));
        let mut shown = Vec::new();
        while drawn && !String::from_utf8_lossy(&shown).contains("v1.2.9") {
            let mut bytes = [0; 4096];
            let read = terminal.keyboard.read(&mut bytes).unwrap();
            shown.extend_from_slice(&bytes[..read]);
        }
        let mut child = terminal.hang_up();
        let status = eventually("hotctl ends", || child.try_wait().unwrap());
        // The end of the keyboard, or a drawing that cannot be written.
        assert!(matches!(status.code(), Some(0 | 1)), "{status}");
    }
}

/// A terminal that takes nothing, as one that is stopped with Ctrl-S: hotctl waits in a write.
#[test]
fn a_signal_ends_it_although_the_terminal_takes_nothing() {
    let place = Place::new();
    for signal in [Signal::TERM, Signal::HUP] {
        let mut terminal = Terminal::unread(&place);
        eventually("the screen", || terminal.is_raw().then_some(()));
        tcflow(&terminal.line, Action::OOff).unwrap();
        let drawings = AtomicU64::new(0);
        eventually("hotctl waits in a write", || {
            place.fake.change(|status| {
                status.serving.totals.adopted = drawings.fetch_add(1234, Relaxed);
            });
            waits_in_a_write(terminal.child.id()).then_some(())
        });
        kill_process(Pid::from_child(&terminal.child), signal).unwrap();
        let status = eventually("hotctl ends", || terminal.child.try_wait().unwrap());
        assert_eq!(status.code(), Some(0));
        assert!(!terminal.is_raw(), "the terminal is usable again");
    }
}

fn waits_in_a_write(pid: u32) -> bool {
    // proc_pid_syscall(5): the number of the call that the first thread is in.
    let call = fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
    call.split(' ').next() == Some("1")
}

/// As many watch as may: hotctl asks for the status now and then, instead of opening streams without a pause.
#[test]
fn a_stream_that_is_refused_is_asked_for_now_and_then() {
    let place = Place::new();
    place.fake.on("Monitor", |_| {
        Answer::Error("io.hotupdate.Busy", json!({ "reason": "192 callers watch already" }))
    });
    let mut terminal = Terminal::watch(&place);
    terminal.shows("v1.2.9");
    place.fake.change(|status| join(status, 4242, "a", ProcessState::Starting));
    terminal.shows("starting");
    let asked = place.fake.called("Monitor");
    eventually("three more", || (place.fake.called("Status") >= 4).then_some(()));
    let used = processor_time(terminal.child.id());
    assert!(place.fake.called("Monitor") < asked + 100, "{} after {asked}", place.fake.called("Monitor"));
    assert!(used < 100, "{used} ticks of processor time");
    terminal.keyboard.write_all(b"q").unwrap();
    terminal.ends_well();
}

/// In ticks of 10 ms (proc_pid_stat(5), `utime` and `stime`).
fn processor_time(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<_> = text.rsplit(") ").next().unwrap().split(' ').collect();
    fields[11..=12].iter().map(|ticks| ticks.parse::<u64>().unwrap()).sum()
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
fn json_lines_end_when_no_process_reads_them() {
    let place = Place::new();
    let mut child = Command::new(env!("CARGO_BIN_EXE_hotctl"))
        .args(["--json".as_ref(), "--socket".as_ref(), place.fake.path.as_os_str(), "watch".as_ref()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    out.read_line(&mut String::new()).unwrap();
    drop(out);
    let status = eventually("hotctl ends, although nothing happens", || child.try_wait().unwrap());
    assert_eq!(status.code(), Some(0));
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
