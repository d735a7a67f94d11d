//! Sockets that systemd passes (sd_listen_fds(3)): the one that is asked for is used, and nothing else stays
//! open.
//!
//! Deliberately absent: socket units, see `integration-tests/tests/environment/systemd.rs`.

use std::fs::File;
use std::io::Write as _;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::process::Command;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

use crate::manager::Manager;
use crate::service::{SAID, STORED, STORES};
use crate::stage::{Stage, who};

/// Passes its standard streams on as the descriptors that systemd passes: the first one twice, under another
/// name.
const PASS: &str = r#"log=$1; shift
export LISTEN_FDS=4 LISTEN_PID=$$ LISTEN_FDNAMES=echo:hotupdate/old:junk:hotupdate/echo
exec "$@" 3<&0 4<&1 5<&2 6<&0 </dev/null >>"$log" 2>&1"#;

#[tokio::test]
async fn what_is_asked_for_is_used_and_nothing_else() {
    let stage = Stage::new();
    let manager = Manager::at(&stage);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let stored = UdpSocket::bind("127.0.0.1:0").unwrap();
    let unused = stored.local_addr().unwrap();
    let no_socket = File::open("/dev/null").unwrap();

    let mut command = Command::new("/bin/sh");
    command.args(["-euc", PASS, "sh"]).args([stage.file("log"), stage.program()]);
    stage.prepare(&mut command).envs(manager.environment());
    command.stdin(OwnedFd::from(listener)).stdout(OwnedFd::from(stored)).stderr(no_socket);
    let mut first = stage.run(&mut command);
    drop(command);
    let serving = stage.serves(1).await;
    assert_eq!((serving.pid, serving.address), (first.pid(), address));
    assert_eq!(who(address).await, first.pid());
    stage.logs(&["a descriptor from systemd is not used", "junk"]).await;
    stage.logs(&["listener", "name=\"echo\"", "origin=systemd"]).await;
    manager.hears("FDSTOREREMOVE=1\nFDNAME=hotupdate/old\n").await;
    UdpSocket::bind(unused).expect("no process holds what was not asked for");

    // They are not for the successor, which has other descriptors by these numbers.
    let second = stage.sighup(serving).await;
    stage.logs(&["listener", "name=\"echo\"", "origin=inherited"]).await;
    first.drains(0).await;
    assert_eq!(who(address).await, second.pid);
    assert_eq!(stage.log().matches("a descriptor from systemd is not used").count(), 1, "{}", stage.log());
}

/// Its standard streams are what the store had: the state of an earlier process, and one of an earlier version.
const PASS_STATES: &str = r#"log=$1; shift
export LISTEN_FDS=3 LISTEN_PID=$$ LISTEN_FDNAMES=hotupdate-state/keys:hotupdate-state/old:hotupdate-state/junk
exec "$@" 3<&0 4<&1 5<&2 </dev/null >>"$log" 2>&1"#;

fn sealed(bytes: &[u8]) -> OwnedFd {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = File::from(memfd_create("of-the-store", flags).unwrap());
    file.write_all(bytes).unwrap();
    fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE).unwrap();
    file.into()
}

/// What the descriptors of a process lead to.
fn descriptors(pid: u32) -> Vec<String> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let links = entries.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    links.map(|link| link.display().to_string()).collect()
}

#[tokio::test]
async fn a_state_is_found_by_the_process_that_asks_for_it_and_by_none_of_its_children() {
    let stage = Stage::new();
    let manager = Manager::at(&stage);
    let mut command = Command::new("/bin/sh");
    command.args(["-euc", PASS_STATES, "sh"]).args([stage.file("log"), stage.program()]);
    stage.prepare(&mut command).envs(manager.environment()).env(STORES, "keys");
    File::create(stage.file(STORED)).unwrap();
    let junk = File::open("/dev/null").unwrap();
    command.stdin(sealed(b"of an earlier one")).stdout(sealed(b"of another")).stderr(junk);
    let mut first = stage.run(&mut command);
    drop(command);
    let serving = stage.serves(1).await;
    let said = || std::fs::read_to_string(stage.file(SAID)).unwrap();
    assert!(said().starts_with("found of an earlier one\n"), "{}", said());
    stage.logs(&["a state from systemd is not used", "junk"]).await;
    manager.hears("FDSTOREREMOVE=1\nFDNAME=hotupdate-state/old\n").await;
    manager.hears("FDSTORE=1\nFDNAME=hotupdate-state/keys\nFDPOLL=0\n").await;
    assert_eq!(manager.times("FDSTORE=1\nFDNAME=hotupdate-state/old\nFDPOLL=0\n"), 0);

    let second = stage.sighup(serving).await;
    assert!(said().contains("found nothing\n"), "what counts is what the first one exports: {}", said());
    let theirs = descriptors(second.pid);
    assert!(!theirs.iter().any(|link| link.contains("of-the-store")), "{theirs:?}");
    first.drains(0).await;
}
