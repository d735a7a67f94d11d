//! Sockets that systemd passes (sd_listen_fds(3)): the one that is asked for is used, and nothing else stays
//! open.
//!
//! Deliberately absent: socket units, see `integration-tests/tests/environment/systemd.rs`.

use std::net::{TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::process::Command;

use crate::manager::Manager;
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
    let no_socket = std::fs::File::open("/dev/null").unwrap();

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
