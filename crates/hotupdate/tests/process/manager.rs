//! What systemd hears: that the service is ready and how it is, who the main process is, which listeners to
//! keep (sd_notify(3)).
//!
//! Deliberately absent: what systemd makes of it.

use std::fs::File;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::sync::{Arc, Mutex, Weak};
use std::thread;
use std::time::Duration;

use rustix::net::sockopt::socket_cookie;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::Signal;
use serde_json::json;

use crate::common::eventually;
use crate::common::peer::call;
use crate::service::{CONFIRM, DROPS, NAME, PROBATION, SAID, STORED, STORES};
use crate::stage::{Stage, is_dead, stat, who};

/// A service manager, as far as a service knows it: a socket.
pub(crate) struct Manager {
    path: String,
    heard: Arc<Mutex<Heard>>,
}

#[derive(Default)]
struct Heard {
    /// What was said, without the lines about how the service is.
    words: Vec<String>,
    /// Those lines.
    statuses: Vec<String>,
    /// What came with descriptors.
    kept: Vec<OwnedFd>,
    /// It does not answer (`BARRIER=1`), and this is what it should answer with.
    is_busy: bool,
    barriers: Vec<OwnedFd>,
}

impl Manager {
    pub(crate) fn at(stage: &Stage) -> Self {
        let path = stage.file("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let heard = Arc::new(Mutex::new(Heard::default()));
        let weak = Arc::downgrade(&heard);
        thread::spawn(move || listen(&socket, &weak));
        Self { path: path.display().to_string(), heard }
    }

    /// What a service with a descriptor store finds in its environment.
    pub(crate) fn environment(&self) -> [(&str, &str); 2] {
        [("NOTIFY_SOCKET", &self.path), ("FDSTORE", "16")]
    }

    /// Everything that was said so far, but how the service is.
    pub(crate) fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap().words.clone()
    }

    pub(crate) async fn hears(&self, what: &str) {
        eventually(&format!("systemd hears {what:?}"), async || {
            self.heard().iter().any(|heard| heard == what).then_some(())
        })
        .await;
    }

    async fn is_told(&self, status: &str) {
        eventually(&format!("systemd is told {status:?}"), async || {
            let heard = self.heard.lock().unwrap();
            heard.statuses.last().is_some_and(|last| last.contains(status)).then_some(())
        })
        .await;
    }

    pub(crate) fn times(&self, what: &str) -> usize {
        self.heard().iter().filter(|heard| *heard == what).count()
    }

    fn is_busy(&self, is_busy: bool) {
        let mut heard = self.heard.lock().unwrap();
        heard.is_busy = is_busy;
        heard.barriers.clear();
    }
}

/// Until the manager is dropped.
fn listen(socket: &UnixDatagram, heard: &Weak<Mutex<Heard>>) {
    let mut bytes = [0; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    while let Some(heard) = heard.upgrade() {
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut slices = [IoSliceMut::new(&mut bytes)];
        let Ok(message) = recvmsg(socket, &mut slices, &mut ancillary, RecvFlags::CMSG_CLOEXEC) else {
            continue;
        };
        let said = String::from_utf8_lossy(&bytes[..message.bytes]).into_owned();
        let mut descriptors = ancillary.drain().flat_map(|came| match came {
            RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect::<Vec<_>>(),
            _ => Vec::new(),
        });
        let heard = &mut *heard.lock().unwrap();
        if let Some(status) = said.strip_prefix("STATUS=") {
            heard.statuses.push(status.trim_end().to_owned());
        } else if said == "BARRIER=1\n" {
            heard.barriers.extend(descriptors.next().filter(|_| heard.is_busy));
        } else {
            heard.words.push(said);
            heard.kept.extend(descriptors);
        }
    }
}

const READY: &str = "READY=1\n";
const STOPPING: &str = "STOPPING=1\n";
const WELL: &str = "WATCHDOG=1\n";
pub(crate) const KEEP: &str = "FDSTORE=1\nFDNAME=hotupdate/echo\nFDPOLL=0\n";
const FORGET: &str = "FDSTOREREMOVE=1\nFDNAME=hotupdate/echo\n";

#[tokio::test]
async fn a_start_an_update_and_a_stop() {
    let stage = Stage::new();
    let manager = Manager::at(&stage);
    let mut first = stage.start(&manager.environment());
    let serving = stage.serves(1).await;
    manager.hears(KEEP).await;
    assert_eq!(manager.heard(), [READY, KEEP], "it knows the main process, which it has started");
    manager.is_told(&format!("generation 1 ({} (", first.pid())).await;

    let second = stage.sighup(serving).await;
    first.drains(0).await;
    let main = format!("MAINPID={}\n", second.pid);
    assert!(manager.times(&main) > 0, "before the one that it knows ends: {:?}", manager.heard());
    eventually("the new one says what the first did", async || {
        (manager.times(READY) == 2 && manager.times(KEEP) == 2).then_some(())
    })
    .await;
    assert_eq!(manager.times(&format!("MAINPID={}\n", first.pid())), 0);
    let mut kept = std::mem::take(&mut manager.heard.lock().unwrap().kept);
    let cookies: Vec<_> = kept.iter().map(|fd| socket_cookie(fd.as_fd()).unwrap()).collect();
    assert!(cookies.len() == 2 && cookies[0] == cookies[1], "it is another socket: {cookies:?}");
    let kept = std::net::TcpListener::from(kept.pop().unwrap());
    assert_eq!(kept.local_addr().unwrap(), serving.address);

    assert_eq!(manager.times(FORGET), 0);
    let reply = call(&stage.control(), "io.hotupdate.Stop", json!({})).await;
    assert!(reply.get("error").is_none(), "{reply}");
    is_dead(second.pid).await;
    // What it has said may not have been read yet.
    manager.hears(FORGET).await;
    manager.hears(STOPPING).await;
    assert_eq!((manager.times(FORGET), manager.times(STOPPING)), (1, 1), "{:?}", manager.heard());
}

/// What systemd keeps of it would have clients wait in its queue.
#[tokio::test]
async fn a_listener_that_the_application_drops() {
    let stage = Stage::new();
    let manager = Manager::at(&stage);
    let [socket, store] = manager.environment();
    let mut first = stage.start(&[socket, store, (DROPS, "extra")]);
    stage.serves(1).await;
    manager.hears("FDSTORE=1\nFDNAME=hotupdate/extra\nFDPOLL=0\n").await;
    manager.hears("FDSTOREREMOVE=1\nFDNAME=hotupdate/extra\n").await;
    assert_eq!(manager.times(FORGET), 0, "the other stays");
    first.signal(Signal::TERM);
    first.drains(0).await;
}

impl Manager {
    /// What lies in the memfds that came, in this order.
    fn kept_states(&self) -> Vec<String> {
        let heard = self.heard.lock().unwrap();
        let files = heard.kept.iter().map(|fd| File::from(fd.try_clone().unwrap()));
        let states = files.filter(|file| file.metadata().unwrap().is_file());
        let read = |file: File| {
            let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
            file.read_exact_at(&mut bytes, 0).unwrap();
            assert!(file.write_at(b"x", 0).is_err(), "it is sealed");
            String::from_utf8(bytes).unwrap()
        };
        states.map(read).collect()
    }
}

#[tokio::test]
async fn a_state_beside_the_listeners() {
    const KEEP: &str = "FDSTORE=1\nFDNAME=hotupdate-state/keys\nFDPOLL=0\n";
    const FORGET: &str = "FDSTOREREMOVE=1\nFDNAME=hotupdate-state/keys\n";
    let stage = Stage::new();
    let manager = Manager::at(&stage);
    let [socket, store] = manager.environment();
    File::create(stage.file(STORED)).unwrap();
    let mut first = stage.start(&[socket, store, (STORES, "keys"), (PROBATION, "2")]);
    let serving = stage.serves(1).await;
    manager.hears(KEEP).await;
    assert_eq!(manager.heard(), [READY, self::KEEP, FORGET, KEEP], "the new one replaces what may be there");
    assert_eq!(manager.kept_states(), [first.pid().to_string()]);

    // As long as the first one can take over again, its state is the one to begin with.
    let second = stage.sighup(serving).await;
    let reply = call(&stage.control(), "io.hotupdate.Rollback", json!({})).await;
    assert!(reply.get("error").is_none(), "{reply}");
    eventually("the first one serves", async || (who(serving.address).await == first.pid()).then_some(()))
        .await;
    is_dead(second.pid).await;
    assert_eq!(manager.kept_states(), [first.pid().to_string()]);
    std::fs::remove_file(stage.file(STORED)).unwrap();
    eventually("what it stores again is kept", async || (manager.kept_states().len() == 2).then_some(()))
        .await;
    assert_eq!(manager.kept_states()[1], "again");

    let reply = call(&stage.control(), "io.hotupdate.Stop", json!({})).await;
    assert!(reply.get("error").is_none(), "{reply}");
    first.drains(0).await;
    eventually("all that it has kept is forgotten", async || (manager.times(FORGET) == 3).then_some(()))
        .await;
    assert_eq!(manager.times(KEEP), 2, "{:?}", manager.heard());
}

#[tokio::test]
async fn a_new_version_stores_its_own_state() {
    let stage = Stage::new();
    let manager = Manager::at(&stage);
    let [socket, store] = manager.environment();
    let mut first = stage.start(&[socket, store, (STORES, "keys")]);
    File::create(stage.file(STORED)).unwrap();
    let serving = stage.serves(1).await;
    eventually("it is kept", async || (!manager.kept_states().is_empty()).then_some(())).await;
    let second = stage.sighup(serving).await;
    first.drains(0).await;
    let states = eventually("that of the second one, too", async || {
        let states = manager.kept_states();
        (states.last() == Some(&second.pid.to_string())).then_some(states)
    })
    .await;
    assert_eq!(states.iter().filter(|state| **state == second.pid.to_string()).count(), 1, "{states:?}");
    let found = std::fs::read_to_string(stage.file(SAID)).unwrap();
    assert_eq!(found.matches("found nothing").count(), 2, "{found}");
}

/// It may be a restart, and then the listeners are in use again.
#[tokio::test]
async fn sigterm_leaves_the_listeners_in_the_store() {
    let stage = Stage::new();
    let manager = Manager::at(&stage);
    let mut first = stage.start(&manager.environment());
    stage.serves(1).await;
    manager.hears(KEEP).await;
    first.signal(Signal::TERM);
    first.drains(0).await;
    manager.hears(STOPPING).await;
    assert_eq!(manager.heard(), [READY, KEEP, STOPPING]);
}

#[tokio::test]
async fn without_a_store_there_is_nothing_to_keep() {
    let stage = Stage::new();
    let manager = Manager::at(&stage);
    let [socket, _] = manager.environment();
    let mut first = stage.start(&[socket]);
    stage.serves(1).await;
    first.signal(Signal::TERM);
    first.drains(0).await;
    manager.hears(STOPPING).await;
    assert_eq!(manager.heard(), [READY, STOPPING]);
}

#[tokio::test]
async fn a_name_that_the_store_does_not_take() {
    let stage = Stage::new();
    let manager = Manager::at(&stage);
    let [socket, store] = manager.environment();
    let name = "ü".repeat(100);
    let mut first = stage.start(&[socket, store, (NAME, &name)]);
    let serving = stage.serves(1).await;
    stage.logs(&["a listener is not in the descriptor store: its name is too long for it"]).await;
    assert_eq!(who(serving.address).await, first.pid());
    first.signal(Signal::TERM);
    first.drains(0).await;
    assert_eq!(manager.heard(), [READY, STOPPING]);
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

/// Until then the end of this process might be taken for the end of the service.
#[tokio::test]
async fn the_old_process_stays_until_the_main_process_is_confirmed() {
    let stage = Stage::new();
    let manager = Manager::at(&stage);
    manager.is_busy(true);
    let mut first = stage.start(&manager.environment());
    let second = stage.sighup(stage.serves(1).await).await;
    manager.hears(&format!("MAINPID={}\n", second.pid)).await;
    eventually("it waits", async || {
        let heard = manager.heard.lock().unwrap();
        (!heard.barriers.is_empty()).then_some(())
    })
    .await;
    stage.logs(&["drained"]).await;
    let state = stat(first.pid()).expect("it is a child of this process")[0].clone();
    assert_ne!(state, "Z", "its end is the end of the service");
    manager.is_busy(false);
    first.drains(0).await;
    assert!(!stage.log().contains("has not confirmed"), "{}", stage.log());
}

/// It may be no systemd at all.
#[tokio::test]
async fn a_manager_that_never_answers() {
    let stage = Stage::new();
    let manager = Manager::at(&stage);
    manager.is_busy(true);
    let [socket, store] = manager.environment();
    let mut first = stage.start(&[socket, store, (CONFIRM, "1")]);
    let second = stage.sighup(stage.serves(1).await).await;
    first.drains(0).await;
    stage.logs(&["systemd has not confirmed which process is the main one (deadline `confirm`)"]).await;
    assert_eq!(who(second.address).await, second.pid);
}

/// It asks for a sign of life, of a process that it has not started as well.
#[tokio::test]
async fn the_watchdog() {
    let stage = Stage::new();
    let manager = Manager::at(&stage);
    let mut command = Command::new("sh");
    command.args(["-c", r#"WATCHDOG_PID=$$ exec "$0" "$@""#]).arg(stage.program());
    stage.prepare(&mut command).envs(manager.environment()).env("WATCHDOG_USEC", "200000");
    let mut first = stage.run(&mut command);
    let serving = stage.serves(1).await;
    manager.hears(WELL).await;
    let _second = stage.sighup(serving).await;
    first.drains(0).await;
    let before = manager.times(WELL);
    eventually("the new one goes on", async || (manager.times(WELL) > before + 2).then_some(())).await;
}

/// What people look at with `systemctl status`.
#[tokio::test]
async fn how_the_service_is() {
    let stage = Stage::new();
    let manager = Manager::at(&stage);
    let [socket, store] = manager.environment();
    let mut first = stage.start(&[socket, store, (PROBATION, "600")]);
    let serving = stage.serves(1).await;
    manager.is_told(" serves").await;
    let second = stage.sighup(serving).await;
    manager.is_told(&format!("generation 2 ({} (", second.pid)).await;
    manager.is_told("serves; generation 1 can take over again").await;
    let reply = call(&stage.control(), "io.hotupdate.Stop", json!({})).await;
    assert!(reply.get("error").is_none(), "{reply}");
    is_dead(second.pid).await;
    first.drains(0).await;
    manager.is_told("stops: no connections").await;
}
