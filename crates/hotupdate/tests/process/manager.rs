//! What systemd hears: that the service is ready, who the main process is, which listeners to keep (sd_notify(3)).
//!
//! Deliberately absent: what systemd makes of it.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram;

use rustix::net::sockopt::socket_cookie;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::Signal;
use serde_json::json;

use crate::common::eventually;
use crate::common::peer::call;
use crate::service::{DROPS, NAME};
use crate::stage::{Stage, is_dead, who};

/// A service manager, as far as a service knows it: a socket.
pub(crate) struct Manager {
    socket: UnixDatagram,
    path: String,
    /// What came with descriptors.
    kept: Vec<OwnedFd>,
    heard: Vec<String>,
}

impl Manager {
    pub(crate) fn at(stage: &Stage) -> Self {
        let path = stage.file("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        Self { socket, path: path.display().to_string(), kept: Vec::new(), heard: Vec::new() }
    }

    /// What a service with a descriptor store finds in its environment.
    pub(crate) fn environment(&self) -> [(&str, &str); 2] {
        [("NOTIFY_SOCKET", &self.path), ("FDSTORE", "16")]
    }

    /// Everything that was said so far.
    pub(crate) fn heard(&mut self) -> &[String] {
        let mut bytes = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        loop {
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
            let Ok(message) =
                recvmsg(&self.socket, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, flags)
            else {
                return &self.heard;
            };
            self.heard.push(String::from_utf8_lossy(&bytes[..message.bytes]).into_owned());
            for came in ancillary.drain() {
                if let RecvAncillaryMessage::ScmRights(descriptors) = came {
                    self.kept.extend(descriptors);
                }
            }
        }
    }

    pub(crate) async fn hears(&mut self, what: &str) {
        eventually(&format!("systemd hears {what:?}"), async || {
            self.heard().iter().any(|heard| heard == what).then_some(())
        })
        .await;
    }

    fn times(&mut self, what: &str) -> usize {
        self.heard().iter().filter(|heard| *heard == what).count()
    }
}

const READY: &str = "READY=1\n";
const KEEP: &str = "FDSTORE=1\nFDNAME=hotupdate/echo\nFDPOLL=0\n";
const FORGET: &str = "FDSTOREREMOVE=1\nFDNAME=hotupdate/echo\n";

#[tokio::test]
async fn a_start_an_update_and_a_stop() {
    let stage = Stage::new();
    let mut manager = Manager::at(&stage);
    let mut first = stage.start(&manager.environment());
    let serving = stage.serves(1).await;
    manager.hears(KEEP).await;
    assert_eq!(manager.heard(), [READY, KEEP], "it knows the main process, which it has started");

    let second = stage.sighup(serving).await;
    first.drains(0).await;
    let main = format!("MAINPID={}\n", second.pid);
    assert!(manager.times(&main) > 0, "before the one that it knows ends: {:?}", manager.heard());
    eventually("the new one says what the first did", async || {
        (manager.times(READY) == 2 && manager.times(KEEP) == 2).then_some(())
    })
    .await;
    assert_eq!(manager.times(&format!("MAINPID={}\n", first.pid())), 0);
    let cookies: Vec<_> = manager.kept.iter().map(|fd| socket_cookie(fd.as_fd()).unwrap()).collect();
    assert!(cookies.len() == 2 && cookies[0] == cookies[1], "it is another socket: {cookies:?}");
    let kept = std::net::TcpListener::from(manager.kept.pop().unwrap());
    assert_eq!(kept.local_addr().unwrap(), serving.address);

    assert_eq!(manager.times(FORGET), 0);
    let reply = call(&stage.control(), "io.hotupdate.Stop", json!({})).await;
    assert!(reply.get("error").is_none(), "{reply}");
    is_dead(second.pid).await;
    assert_eq!(manager.times(FORGET), 1, "{:?}", manager.heard());
}

/// What systemd keeps of it would have clients wait in its queue.
#[tokio::test]
async fn a_listener_that_the_application_drops() {
    let stage = Stage::new();
    let mut manager = Manager::at(&stage);
    let [socket, store] = manager.environment();
    let mut first = stage.start(&[socket, store, (DROPS, "extra")]);
    stage.serves(1).await;
    manager.hears("FDSTORE=1\nFDNAME=hotupdate/extra\nFDPOLL=0\n").await;
    manager.hears("FDSTOREREMOVE=1\nFDNAME=hotupdate/extra\n").await;
    assert_eq!(manager.times(FORGET), 0, "the other stays");
    first.signal(Signal::TERM);
    first.drains(0).await;
}

/// It may be a restart, and then the listeners are in use again.
#[tokio::test]
async fn sigterm_leaves_the_listeners_in_the_store() {
    let stage = Stage::new();
    let mut manager = Manager::at(&stage);
    let mut first = stage.start(&manager.environment());
    stage.serves(1).await;
    manager.hears(KEEP).await;
    first.signal(Signal::TERM);
    first.drains(0).await;
    assert_eq!(manager.heard(), [READY, KEEP]);
}

#[tokio::test]
async fn without_a_store_there_is_nothing_to_keep() {
    let stage = Stage::new();
    let mut manager = Manager::at(&stage);
    let [socket, _] = manager.environment();
    let mut first = stage.start(&[socket]);
    stage.serves(1).await;
    first.signal(Signal::TERM);
    first.drains(0).await;
    assert_eq!(manager.heard(), [READY]);
}

#[tokio::test]
async fn a_name_that_the_store_does_not_take() {
    let stage = Stage::new();
    let mut manager = Manager::at(&stage);
    let [socket, store] = manager.environment();
    let name = "ü".repeat(100);
    let mut first = stage.start(&[socket, store, (NAME, &name)]);
    let serving = stage.serves(1).await;
    stage.logs(&["a listener is not in the descriptor store: its name is too long for it"]).await;
    assert_eq!(who(serving.address).await, first.pid());
    first.signal(Signal::TERM);
    first.drains(0).await;
    assert_eq!(manager.heard(), [READY]);
}

#[tokio::test]
async fn a_manager_that_is_gone() {
    let stage = Stage::new();
    let nobody = stage.file("nobody").display().to_string();
    let mut first = stage.start(&[("NOTIFY_SOCKET", &nobody), ("FDSTORE", "16")]);
    let serving = stage.serves(1).await;
    stage.logs(&["systemd cannot be told", "No such file or directory"]).await;
    assert_eq!(who(serving.address).await, first.pid());
    let second = stage.sighup(serving).await;
    first.drains(0).await;
    assert_eq!(who(serving.address).await, second.pid);
}
