//! Between a successor and an incumbent: passes on what they say, and writes it down.
//!
//! Deliberately absent: the recordings that are there. They say what was spoken when the version was new, and
//! are never made again; a new version of the protocol gets recordings of its own.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rustix::fs::{FileType, fstat};
use rustix::net::sockopt;
use serde_json::{Value, json};
use tokio::net::{UnixListener, UnixStream};

use super::wire::{Wire, say};
use crate::common::Folder;

/// Lines of a recording.
type Lines = Arc<Mutex<Vec<String>>>;

/// Takes the place of the control socket of `folder`.
pub(crate) struct Recorder {
    lines: Lines,
}

impl Recorder {
    pub(crate) fn at(folder: &Folder) -> Self {
        let real = folder.file("real.sock");
        fs::rename(folder.control(), &real).unwrap();
        // The name that the real one was bound to: a successor compares what it reached with what it
        // inherits.
        let bound = folder.file("control.sock.new");
        let listener = UnixListener::bind(&bound).unwrap();
        fs::rename(&bound, folder.control()).unwrap();
        let lines = Lines::default();
        tokio::spawn(stand_between(listener, real, lines.clone()));
        Self { lines }
    }

    pub(crate) fn has(&self, word: &str) -> bool {
        let word = format!("\"type\":\"{word}\"");
        self.lines.lock().unwrap().iter().any(|line| line.contains(&word))
    }

    pub(crate) fn write(&self, name: &str) {
        write(name, &self.lines.lock().unwrap().concat());
    }
}

/// Never over a recording that is there.
pub(crate) fn write(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/handoff/skew").join(name);
    File::create_new(path).unwrap().write_all(text.as_bytes()).unwrap();
}

/// Only the first that calls to join is written down.
async fn stand_between(listener: UnixListener, real: PathBuf, lines: Lines) {
    let mut recorded = false;
    loop {
        let (caller, _) = listener.accept().await.unwrap();
        let (caller, owner) = (Arc::new(caller), Arc::new(UnixStream::connect(&real).await.unwrap()));
        let mut wire = Wire::new(caller.clone());
        let Some((call, _)) = wire.next().await else { continue };
        let lines = (call.contains("io.hotupdate.Join") && !recorded).then(|| lines.clone());
        recorded |= lines.is_some();
        note(lines.as_ref(), "successor", &call, &[]);
        say(&owner, &call, &[]).await;
        tokio::spawn(pass_on(Wire::new(owner.clone()), caller, "incumbent", lines.clone()));
        tokio::spawn(pass_on(wire, owner, "successor", lines));
    }
}

async fn pass_on(mut from: Wire, to: Arc<UnixStream>, who: &'static str, lines: Option<Lines>) {
    while let Some((text, descriptors)) = from.next().await {
        note(lines.as_ref(), who, &text, &descriptors);
        say(&to, &text, &descriptors).await;
    }
    rustix::net::shutdown(&*to, rustix::net::Shutdown::Write).ok();
}

/// One line: who says it, what the descriptors are that it owns, and its exact text.
fn note(lines: Option<&Lines>, from: &str, says: &str, descriptors: &[OwnedFd]) {
    let Some(lines) = lines else { return };
    let owns: Vec<Value> = descriptors.iter().map(describe).collect();
    lines
        .lock()
        .unwrap()
        .push(format!("{{\"from\":\"{from}\",\"owns\":{},\"says\":{says}}}\n", Value::from(owns)));
}

fn describe(descriptor: &OwnedFd) -> Value {
    let is_socket = FileType::from_raw_mode(fstat(descriptor).unwrap().st_mode) == FileType::Socket;
    if !is_socket {
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&descriptor.as_fd()));
        return match fs::read_link(&path).unwrap().to_string_lossy().starts_with("/memfd:") {
            true => json!({ "memfd": fs::read_to_string(path).unwrap() }),
            false => json!("file"),
        };
    }
    let family = if sockopt::socket_domain(descriptor).unwrap() == rustix::net::AddressFamily::UNIX {
        "unix"
    } else {
        "tcp"
    };
    let role = if sockopt::socket_acceptconn(descriptor).unwrap() { "listener" } else { "connection" };
    json!(format!("{family} {role}"))
}
