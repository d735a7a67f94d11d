//! Symbolic links in the path of a control socket, and files that are replaced while a process serves.
//!
//! Deliberately absent: everything else about the path, see `control_socket.rs`.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use crate::common::peer::{call, status};
use crate::common::{BRIEF, Folder, SOON, answer, ask, ask_on, eventually, patient, replace_by, serve};
use hotupdate::{Error, ErrorKind, Starting, Timing};
use serde_json::json;
use tokio::time::timeout;

/// How often a process looks after its path, where it does.
const OFTEN: Duration = Duration::from_millis(50);

async fn join_at(path: &Path) -> Result<Starting, Error> {
    let timing = Timing::default().find(BRIEF).probation(Duration::ZERO).path_check(Duration::MAX);
    timeout(SOON, hotupdate::builder(path).stop_signals(false).timing(timing).join()).await.unwrap()
}

async fn is_refused(path: &Path, why: &str) {
    let error = join_at(path).await.unwrap_err();
    let text = error.to_string();
    let is_held = why.starts_with("its lock is held");
    assert_eq!(error.kind(), if is_held { ErrorKind::TimedOut } else { ErrorKind::UnusablePath }, "{text}");
    assert!(text.contains(why) && !text.contains('\n'), "{text:?} does not say {why:?}");
}

/// One line each, and nothing is left.
#[tokio::test]
async fn paths_that_cannot_be_used() {
    let is_unusable = async |folder: &Folder, path: &Path, why: &str| {
        let before = names(folder);
        is_refused(path, why).await;
        assert_eq!(names(folder), before, "after {}", path.display());
    };
    let folder = Folder::new();
    fs::create_dir(folder.file("directory")).unwrap();
    fs::write(folder.file("file"), "precious").unwrap();
    fs::create_dir(folder.file("held.lock")).unwrap();
    let other = "something that is not a socket is there; it is left alone";
    is_unusable(&folder, &folder.file("directory"), other).await;
    is_unusable(&folder, &folder.file("file"), other).await;
    is_unusable(&folder, &folder.file("held"), "held.lock is not a lock file").await;
    is_unusable(&folder, &folder.file("none/control.sock"), "its directory does not exist").await;
    is_unusable(&folder, &folder.file("file/control.sock"), "file is not a directory").await;
    is_unusable(&folder, &folder.file(&"x".repeat(100)), "the path is too long").await;
    is_unusable(&folder, &folder.file("directory/.."), "the path does not name a file").await;
    is_unusable(&folder, Path::new(""), "the path does not name a file").await;
    assert_eq!(fs::read_to_string(folder.file("file")).unwrap(), "precious");

    let open = Folder::of_mode(0o777);
    is_unusable(&open, &open.control(), "can be written to by other users").await;
}

fn names(folder: &Folder) -> BTreeSet<OsString> {
    fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect()
}

/// A path is bytes. Where it has to be text, in a log or a status, what is none is replaced.
#[tokio::test]
async fn a_path_that_is_no_text() {
    let folder = Folder::new();
    let name = OsStr::from_bytes(b"\xff.sock");
    let app = folder.path().join(OsStr::from_bytes(b"app-\xff.sock"));
    let path = folder.path().join(name);
    let mut first = join_at(&path).await.unwrap();
    answer(first.unix("app", &app).await.unwrap(), "v1");
    let first = first.ready().await.unwrap();
    assert_eq!(status(&path).await["listeners"][0]["address"], app.to_string_lossy().as_ref());
    let mut second = join_at(&path).await.unwrap();
    answer(second.unix("app", &app).await.unwrap(), "v2");
    let second = second.ready().await.unwrap();
    assert_eq!(second.generation().0, 2);
    let mut client = tokio::net::UnixStream::connect(&app).await.unwrap();
    assert_eq!(ask_on(&mut client).await.unwrap(), "v2");
    drop((first, client));
}

/// With a second name there would be a second lock, and so a second owner one day.
#[tokio::test]
async fn a_link_to_the_socket_is_refused() {
    let (folder, other) = (Folder::new(), Folder::new());
    let (first, address) = folder.serve("v1").await;
    symlink(folder.control(), other.control()).unwrap();
    is_refused(&other.control(), "is a symbolic link (to ").await;
    is_refused(&other.control(), "use the path that it leads to").await;
    assert_eq!(ask(address).await, "v1", "it serves on");
    assert_eq!(fs::read_dir(other.path()).unwrap().count(), 1, "no lock was made");
    replace_by(&folder, &first, "v2").await;
}

#[tokio::test]
async fn a_link_to_a_lock_is_refused() {
    let folder = Folder::new();
    let precious = folder.file("precious");
    fs::write(&precious, "precious").unwrap();
    symlink(&precious, folder.file("control.sock.lock")).unwrap();
    is_refused(&folder.control(), "is a symbolic link (to ").await;
    assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
    fs::remove_file(folder.file("control.sock.lock")).unwrap();
    symlink(folder.file("nowhere"), folder.file("control.sock.lock")).unwrap();
    is_refused(&folder.control(), "is a symbolic link (to ").await;
    assert!(!folder.file("nowhere").exists());
}

/// `/var/run` is a link. What counts is the directory that it leads to.
#[tokio::test]
async fn a_link_to_the_directory_is_followed() {
    let (folder, other) = (Folder::new(), Folder::new());
    let there = other.file("run");
    symlink(folder.path(), &there).unwrap();
    let (first, _) = serve(join_at(&there.join("control.sock")).await.unwrap(), "v1").await;
    let (second, address) = replace_by(&folder, &first, "v2").await;
    let (third, same) = serve(join_at(&there.join("control.sock")).await.unwrap(), "v3").await;
    assert_eq!((same, third.generation().0), (address, 3));
    drop(second);
}

#[tokio::test]
async fn a_link_to_a_directory_that_others_can_write_to_is_refused() {
    let (folder, other) = (Folder::of_mode(0o777), Folder::new());
    let there = other.file("run");
    symlink(folder.path(), &there).unwrap();
    is_refused(&there.join("control.sock"), "can be written to by other users").await;
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing was made");
}

#[tokio::test]
async fn another_lock_file_makes_no_second_owner() {
    let folder = Folder::new();
    let (first, _) = folder.serve("v1").await;
    fs::rename(folder.file("control.sock.lock"), folder.file("away")).unwrap();
    fs::write(folder.file("control.sock.lock"), "").unwrap();
    let (second, _) = replace_by(&folder, &first, "v2").await;
    assert_eq!(second.generation().0, 2, "it joined");
}

/// A process that comes now meets another service, and is told so; the one that serves goes on.
#[tokio::test]
async fn another_socket_in_the_place_of_ours_takes_nothing() {
    let folder = Folder::new();
    let looks = folder.builder("v1").timing(patient().path_check(OFTEN));
    let (first, address) = serve(looks.join().await.unwrap(), "v1").await;
    fs::rename(folder.control(), folder.file("away")).unwrap();
    let other = tokio::net::UnixListener::bind(folder.control()).unwrap();
    let talk = async {
        let (stream, _) = other.accept().await.unwrap();
        stream.writable().await.unwrap();
        stream.try_write(b"* OK IMAP4rev1 ready\0").unwrap();
        stream
    };
    let path = folder.control();
    let (joined, _stream) = tokio::join!(join_at(&path), talk);
    assert_eq!(joined.unwrap_err().kind(), ErrorKind::PeerMisbehaved);
    assert_eq!(ask(address).await, "v1", "it serves on");
    // What is left of the other one is in the way of a process that holds the lock.
    drop(other);
    replace_by(&folder, &first, "v2").await;
}

#[tokio::test]
async fn a_file_in_the_place_of_our_socket_is_left_alone() {
    let folder = Folder::new();
    let (first, address) = folder.serve("v1").await;
    fs::rename(folder.control(), folder.file("away")).unwrap();
    fs::write(folder.control(), "precious").unwrap();
    is_refused(&folder.control(), "its lock is held, and no process answers").await;
    assert_eq!(ask(address).await, "v1", "it serves on");
    assert_eq!(status(&folder.file("away")).await["serving"]["state"], "serving");
    call(&folder.file("away"), "io.hotupdate.Stop", json!({})).await;
    timeout(SOON, first.drained()).await.expect("it stops");
    assert_eq!(fs::read_to_string(folder.control()).unwrap(), "precious");
    fs::remove_file(folder.control()).unwrap();
    fs::remove_file(folder.file("away")).unwrap();
    eventually("the lock is free", async || join_at(&folder.control()).await.ok()).await;
}

/// An operator moved lock and socket away, and another service took the path: it is that one's now.
#[tokio::test]
async fn the_socket_of_another_owner_is_not_removed() {
    let folder = Folder::new();
    let (first, _) = folder.serve("v1").await;
    for name in ["control.sock", "control.sock.lock"] {
        fs::rename(folder.file(name), folder.file(&format!("{name}.away"))).unwrap();
    }
    let (other, address) = folder.serve("v2").await;
    assert_eq!(other.generation().0, 1, "nothing at the path says that a process serves");
    call(&folder.file("control.sock.away"), "io.hotupdate.Stop", json!({})).await;
    timeout(SOON, first.drained()).await.expect("it stops");
    assert_eq!(status(&folder.control()).await["serving"]["process"]["version"], "v2");
    assert_eq!(ask(address).await, "v2");
    replace_by(&folder, &other, "v3").await;
}
