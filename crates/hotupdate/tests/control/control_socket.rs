//! The control socket's path: its owner, what may be there, which users may connect.
//!
//! Deliberately absent: real processes that are killed, see `integration-tests/tests/handoff/first_start.rs`.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::common::peer::{Impostor, status};
use crate::common::{BRIEF, Folder, Log, SOON, ask, eventually, is_root, replace_by, serve};
use hotupdate::{Error, ErrorKind, Starting, Timing};
use tokio::time::timeout;

/// Joins at a path, without waiting long for a process.
async fn join_at(path: &Path) -> Result<Starting, Error> {
    let timing = Timing::default().find(BRIEF).path_check(Duration::MAX);
    timeout(SOON, hotupdate::builder(path).stop_signals(false).timing(timing).join()).await.unwrap()
}

/// The join is refused, in one line that names the path and says this.
async fn is_refused(path: &Path, why: &str) {
    let error = join_at(path).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains(why) && !text.contains('\n'), "{text:?} does not say {why:?}");
    assert!(text.contains(path.to_str().unwrap()), "{text:?} does not name the path");
}

fn names(folder: &Folder) -> Vec<String> {
    let name = |entry: Result<fs::DirEntry, _>| entry.unwrap().file_name().into_string().unwrap();
    let mut names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(name).collect();
    names.sort();
    names
}

// ---- its owner
// --------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_first_starts_one_is_first_and_the_other_joins_it() {
    for _ in 0..10 {
        let folder = Folder::new();
        let start = |name| {
            let builder = folder.builder(name);
            tokio::spawn(async move { serve(builder.join().await.unwrap(), name).await })
        };
        let (one, two) = tokio::join!(start("v1"), start("v2"));
        let ((one, at), (two, there)) = (one.unwrap(), two.unwrap());
        assert_eq!(at, there, "both serve the same socket");
        let (old, new, name) = match one.generation() < two.generation() {
            true => (one, two, "v2"),
            false => (two, one, "v1"),
        };
        assert_eq!((old.generation().0, new.generation().0), (1, 2));
        timeout(SOON, old.drained()).await.unwrap();
        assert_eq!(ask(at).await, name);
        assert_eq!(names(&folder), ["control.sock", "control.sock.lock"]);
    }
}

#[tokio::test]
async fn a_first_start_that_gives_up_leaves_the_path_to_the_next() {
    let folder = Folder::new();
    drop(folder.join("v1").await);
    eventually("the socket is removed", async || (!folder.control().exists()).then_some(())).await;
    let (first, _) = folder.serve("v1").await;
    assert_eq!(first.generation().0, 1);
    replace_by(&folder, &first, "v2").await;
}

#[tokio::test]
async fn a_removed_lock_file_makes_no_second_owner() {
    let folder = Folder::new();
    let (first, _) = folder.serve("v1").await;
    fs::remove_file(folder.file("control.sock.lock")).unwrap();
    let (second, _) = replace_by(&folder, &first, "v2").await;
    assert_eq!(second.generation().0, 2, "it joined");
    replace_by(&folder, &second, "v3").await;
}

#[tokio::test]
async fn the_path_leads_to_the_owner_through_many_handoffs() {
    let folder = Folder::new();
    let (mut serving, _) = folder.serve("v1").await;
    let inode = || fs::metadata(folder.control()).unwrap().ino();
    let socket = inode();
    for generation in 2..7 {
        (serving, _) = replace_by(&folder, &serving, "vn").await;
        assert_eq!(status(&folder.control()).await["serving"]["generation"], generation);
        assert_eq!(inode(), socket, "the socket is never made anew");
    }
}

// ---- the path
// -----------------------------------------------------------------------------------------------------

#[tokio::test]
async fn nobody_else_can_use_the_files() {
    let folder = Folder::new();
    // The worst that a caller can have set. Everything that these tests make has explicit rights.
    let before = rustix::process::umask(rustix::fs::Mode::empty());
    let starting = folder.join("v1").await;
    rustix::process::umask(before);
    let mode = |name: &str| fs::metadata(folder.file(name)).unwrap().mode() & 0o7777;
    assert_eq!((mode("control.sock"), mode("control.sock.lock")), (0o600, 0o600));
    drop(starting);
}

#[tokio::test]
async fn a_path_that_is_too_long() {
    let folder = Folder::new();
    let of_length = |length: usize| {
        let path = folder.file("x");
        folder.file(&"x".repeat(length + 1 - path.as_os_str().len()))
    };
    is_refused(&of_length(108), "too long").await;
    let longest = of_length(107);
    let (first, _) = serve(join_at(&longest).await.unwrap(), "v1").await;
    let (second, address) = serve(join_at(&longest).await.unwrap(), "v2").await;
    assert_eq!((second.generation().0, ask(address).await.as_str()), (2, "v2"));
    drop(first);
}

#[tokio::test]
async fn a_directory_that_others_can_write_to() {
    for mode in [0o777, 0o1777, 0o770, 0o702] {
        let folder = Folder::of_mode(mode);
        is_refused(&folder.control(), "can be written to by other users").await;
        assert!(names(&folder).is_empty(), "nothing was made");
    }
    let folder = Folder::of_mode(0o755);
    folder.serve("v1").await;
}

#[tokio::test]
async fn a_directory_that_is_not_there() {
    let folder = Folder::new();
    is_refused(&folder.file("none/control.sock"), "No such file or directory").await;
    fs::write(folder.file("file"), "").unwrap();
    is_refused(&folder.file("file/control.sock"), "is not a directory").await;
}

#[tokio::test]
async fn a_relative_path() {
    let folder = Folder::new();
    let here = std::env::current_dir().unwrap();
    let up: PathBuf = here.components().skip(1).map(|_| "..").collect();
    let relative = up.join(folder.control().strip_prefix("/").unwrap());
    assert!(relative.is_relative());
    let (_first, _) = serve(join_at(&relative).await.unwrap(), "v1").await;
    assert_eq!(status(&folder.control()).await["serving"]["generation"], 1);
    assert!(join_at(Path::new("")).await.is_err());
    assert!(join_at(Path::new("..")).await.is_err());
}

#[tokio::test]
async fn what_is_not_a_socket_is_left_alone() {
    let folder = Folder::new();
    let path = folder.control();
    fs::write(&path, "precious").unwrap();
    is_refused(&path, "not a socket").await;
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    fs::remove_file(&path).unwrap();

    symlink("/nowhere/at/all", &path).unwrap();
    is_refused(&path, "not a socket").await;
    fs::remove_file(&path).unwrap();
    fs::create_dir(folder.control()).unwrap();
    is_refused(&folder.control(), "not a socket").await;
    fs::remove_dir(folder.control()).unwrap();
    let (first, _) = folder.serve("v1").await;
    replace_by(&folder, &first, "v2").await;
}

#[tokio::test]
async fn what_dead_processes_left_is_replaced() {
    let folder = Folder::new();
    drop(std::os::unix::net::UnixListener::bind(folder.control()).unwrap());
    fs::write(folder.file("control.sock.lock"), "").unwrap();
    let (first, _) = folder.serve("v1").await;
    assert!(fs::metadata(folder.control()).unwrap().file_type().is_socket());
    assert_eq!(names(&folder), ["control.sock", "control.sock.lock"]);
    replace_by(&folder, &first, "v2").await;
}

#[tokio::test]
async fn the_socket_of_another_program_is_left_alone() {
    let folder = Folder::new();
    let (impostor, path) = (Impostor::at(&folder), folder.control());
    let talk = async {
        let mut peer = impostor.accept().await;
        peer.send(b"* OK IMAP4rev1 ready\0", &[]).await.unwrap();
        peer
    };
    let (joined, _peer) = tokio::join!(join_at(&path), talk);
    assert_eq!(joined.unwrap_err().kind(), ErrorKind::PeerMisbehaved);
    let again = tokio::join!(join_at(&path), async {
        impostor.accept().await.send(b"again\0", &[]).await.unwrap();
    });
    assert!(again.0.is_err());
}

// ---- which users may connect
// ----------------------------------------------------------------------------------------------

const NOBODY: u32 = 65534;

/// In a process of its own, as another user: asks for the status and prints the reply.
#[test]
fn child_that_asks() {
    let Some(path) = std::env::var_os("HOTUPDATE_TEST_ASK") else { return };
    let mut stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    // A user that may not is told so before it has said anything, and then no process listens.
    let _ = stream.write_all(b"{\"method\":\"io.hotupdate.Status\"}\0");
    let mut reply = Vec::new();
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let _ = stream.read_to_end(&mut reply);
    println!("reply: {}", String::from_utf8_lossy(&reply));
}

/// A folder that other users may enter, and a way to ask from it as another user; `None` without the right to
/// become one.
async fn ask_as_nobody(folder: &Folder) -> Option<String> {
    if !is_root() {
        return None;
    }
    fs::set_permissions(folder.control(), fs::Permissions::from_mode(0o666)).unwrap();
    let program = folder.file("program");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new(&program);
    command
        .args(["--exact", "control_socket::child_that_asks", "--nocapture"])
        .uid(NOBODY)
        .gid(NOBODY)
        .current_dir("/");
    command.env("HOTUPDATE_TEST_ASK", folder.control());
    // A child that another test is just starting has the copy open for writing until it executes (`ETXTBSY`).
    let run = move || loop {
        match command.output() {
            Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => std::thread::yield_now(),
            output => return output.unwrap(),
        }
    };
    let output = tokio::task::spawn_blocking(run).await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    Some(text)
}

#[tokio::test]
async fn another_user_is_not_allowed() {
    let (folder, (log, _guard)) = (Folder::of_mode(0o755), Log::begin());
    let (first, address) = folder.serve("v1").await;
    let Some(reply) = ask_as_nobody(&folder).await else { return };
    assert!(reply.contains("io.hotupdate.NotAllowed") && reply.contains("uid 65534"), "{reply}");
    log.says(&["a caller on the control socket is turned away", "uid 65534", "(v1) is still serving"]);
    assert_eq!(ask(address).await, "v1", "it serves on");
    replace_by(&folder, &first, "v2").await;
}

#[tokio::test]
async fn another_user_that_is_listed_is_allowed() {
    let folder = Folder::of_mode(0o755);
    let starting = folder.builder("v1").allow_uid(NOBODY).join().await.unwrap();
    let (first, _) = serve(starting, "v1").await;
    let Some(reply) = ask_as_nobody(&folder).await else { return };
    assert!(reply.contains("\"version\":\"v1\""), "{reply}");
    replace_by(&folder, &first, "v2").await;
}
