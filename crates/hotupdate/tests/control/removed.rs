//! The control socket, its lock or their directory are removed while a process serves: it makes them again.
//!
//! Deliberately absent: what removes them in the field; that is `cleaners.rs` of the integration tests.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::common::peer::{call, status};
use crate::common::{Folder, Log, SOON, ask, eventually, patient, serve};
use hotupdate::{Builder, Serving, Starting};
use serde_json::json;
use tokio::time::timeout;

/// Looks at the path all the time.
const OFTEN: Duration = Duration::from_millis(5);

/// A control socket in a directory that can be removed.
struct Place {
    folder: Folder,
    path: PathBuf,
}

impl Place {
    fn new() -> Self {
        let folder = Folder::new();
        let path = folder.file("app/control.sock");
        let place = Self { folder, path };
        place.make_directory();
        place
    }

    fn make_directory(&self) {
        fs::create_dir(self.directory()).unwrap();
        fs::set_permissions(self.directory(), fs::Permissions::from_mode(0o750)).unwrap();
    }

    fn directory(&self) -> PathBuf {
        self.folder.file("app")
    }

    fn lock(&self) -> PathBuf {
        self.folder.file("app/control.sock.lock")
    }

    fn builder(&self, version: &str, probation: Duration) -> Builder {
        let timing = patient().path_check(OFTEN).probation(probation);
        hotupdate::builder(&self.path).version(version).stop_signals(false).timing(timing)
    }

    async fn join(&self, version: &str, probation: Duration) -> Starting {
        self.builder(version, probation).join().await.unwrap()
    }

    /// This version joins, serves, and answers on the path.
    async fn serve(&self, version: &'static str, probation: Duration) -> Serving {
        let (serving, address) = serve(self.join(version, probation).await, version).await;
        assert_eq!(ask(address).await, version);
        self.leads_to(version).await;
        serving
    }

    /// The path leads to this version, whose lock is at its place, too.
    async fn leads_to(&self, version: &str) {
        eventually(&format!("the path leads to {version}"), async || {
            let there = self.path.exists() && self.lock().exists();
            let version = json!(version);
            (there && asked(&self.path).await? == version).then_some(())
        })
        .await;
        assert_eq!(fs::metadata(self.directory()).unwrap().mode() & 0o7777, 0o750);
    }
}

/// Which version answers.
async fn asked(path: &Path) -> Option<serde_json::Value> {
    tokio::net::UnixStream::connect(path).await.ok()?;
    Some(status(path).await["serving"]["process"]["version"].take())
}

fn remove(path: &Path) -> io::Result<()> {
    if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

#[tokio::test]
async fn whatever_is_removed_in_whatever_order_the_next_version_joins() {
    let place = Place::new();
    let (socket, lock, directory) = (place.path.clone(), place.lock(), place.directory());
    let mut serving = place.serve("v1", Duration::ZERO).await;
    let orders: [&[&PathBuf]; 6] =
        [&[&socket], &[&lock], &[&socket, &lock], &[&lock, &socket], &[&directory], &[&socket, &directory]];
    for (generation, removed) in (2..).zip(orders) {
        removed.iter().for_each(|path| remove(path).unwrap());
        let version = if generation % 2 == 0 { "v1" } else { "v2" };
        place.leads_to(version).await;
        let next = if generation % 2 == 0 { "v2" } else { "v1" };
        let successor = place.serve(next, Duration::ZERO).await;
        assert_eq!(successor.generation().0, generation, "it joined after {removed:?}");
        timeout(SOON, serving.drained()).await.expect("the old one ends");
        serving = successor;
    }
    call(&socket, "io.hotupdate.Stop", json!({})).await;
    timeout(SOON, serving.drained()).await.expect("it stops");
    assert!(!socket.exists(), "it is removed as ever");
    assert_eq!(fs::read_to_string(&lock).unwrap(), "stopped\n");
}

/// A predecessor in probation and a successor that stands by have the old one; each may serve next.
#[tokio::test]
async fn every_process_that_may_serve_next_gets_the_new_one() {
    let place = Place::new();
    let first = place.serve("v1", SOON).await;
    let second = place.serve("v2", SOON).await;
    remove(&place.directory()).unwrap();
    place.leads_to("v2").await;
    call(&place.path, "io.hotupdate.Rollback", json!({})).await;
    place.leads_to("v1").await;
    assert_eq!(status(&place.path).await["predecessors"][0]["process"]["version"], "v2");
    remove(&place.directory()).unwrap();
    place.leads_to("v1").await;
    call(&place.path, "io.hotupdate.Rollback", json!({})).await;
    place.leads_to("v2").await;

    let starting = place.builder("v3", SOON).on_command(true).join().await.unwrap();
    let third = tokio::spawn(async move { serve(starting, "v3").await });
    eventually("it stands by", async || {
        (status(&place.path).await["successor"]["state"] == "standby").then_some(())
    })
    .await;
    let before = fs::metadata(&place.path).unwrap().ino();
    remove(&place.path).unwrap();
    remove(&place.lock()).unwrap();
    place.leads_to("v2").await;
    assert_ne!(fs::metadata(&place.path).unwrap().ino(), before);
    let made = fs::metadata(&place.path).unwrap().ino();
    call(&place.path, "io.hotupdate.Handoff", json!({})).await;
    let (third, _) = third.await.unwrap();
    place.leads_to("v3").await;
    assert_eq!(fs::metadata(&place.path).unwrap().ino(), made, "it got that one");
    drop((first, second, third));
}

/// A client that connects at any time of a handoff is answered: nothing is made again without need.
#[tokio::test]
async fn what_is_at_its_path_stays_as_it_is() {
    let place = Place::new();
    let mut serving = place.serve("v1", Duration::ZERO).await;
    let files = || [&place.path, &place.lock()].map(|path| fs::metadata(path).unwrap().ino());
    let before = files();
    for version in ["v2", "v3", "v4"] {
        let next = place.serve(version, Duration::ZERO).await;
        timeout(SOON, serving.drained()).await.expect("the old one ends");
        tokio::time::sleep(4 * OFTEN).await;
        assert_eq!(files(), before);
        serving = next;
    }
}

#[tokio::test]
async fn a_process_that_serves_there_meanwhile_is_never_displaced() {
    let (place, (log, _guard)) = (Place::new(), Log::begin());
    let seldom = place.builder("v1", Duration::ZERO).timing(patient().path_check(Duration::from_millis(300)));
    let (first, address) = serve(seldom.join().await.unwrap(), "v1").await;
    fs::rename(place.directory(), place.folder.file("away")).unwrap();
    place.make_directory();
    let other = place.serve("v9", Duration::ZERO).await;
    assert_eq!(other.generation().0, 1, "nothing at the path says that a process serves");
    let why = "another process holds the lock there, and is left alone";
    eventually("the first one has seen it", async || log.text().contains(why).then_some(())).await;
    assert_eq!(ask(address).await, "v1", "it serves on");
    place.leads_to("v9").await;
    // And has the path again when that one has stopped.
    call(&place.path, "io.hotupdate.Stop", json!({})).await;
    timeout(SOON, other.drained()).await.expect("it stops");
    place.leads_to("v1").await;
    drop(first);
}

/// As in a test, whose folder goes at its end while its services are still there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_never_looks_makes_nothing_again() {
    for _ in 0..20 {
        let place = Place::new();
        let builder = || place.builder("v1", SOON).timing(patient().path_check(Duration::MAX));
        let (first, _) = serve(builder().join().await.unwrap(), "v1").await;
        let (_second, address) = serve(builder().join().await.unwrap(), "v2").await;
        fs::remove_dir_all(place.directory()).unwrap();
        timeout(SOON, first.drained()).await.expect("it ends");
        assert_eq!(ask(address).await, "v2", "it serves all the same");
        assert!(!place.directory().exists());
    }
}

#[tokio::test]
async fn why_it_cannot_be_made_again_is_said_once() {
    let (place, (log, _guard)) = (Place::new(), Log::begin());
    let serving = place.serve("v1", Duration::ZERO).await;
    remove(&place.path).unwrap();
    let foreign = UnixListener::bind(&place.path).unwrap();
    let why = "another process serves there, and is left alone";
    eventually("it says why", async || log.text().contains(why).then_some(())).await;
    tokio::time::sleep(10 * OFTEN).await;
    assert_eq!(log.text().matches("another process serves there").count(), 1, "{}", log.text());
    drop(foreign);
    place.leads_to("v1").await;
    log.says(&["the control socket was removed from its path, and is made again"]);

    remove(place.folder.path()).unwrap();
    eventually("it says why", async || log.text().contains("making the directory").then_some(())).await;
    fs::create_dir(place.folder.path()).unwrap();
    place.leads_to("v1").await;
    drop(serving);
}
