//! Work that only one process may do, through handoffs that succeed and that fail, and tasks that outlive a
//! drain.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use crate::common::peer::{call, status};
use crate::common::{BRIEF, Folder, Log, SOON, ask, eventually, patient, serve};
use hotupdate::{Builder, Serving, Starting, Timing};
use serde_json::json;
use tokio::sync::Mutex;
use tokio::task::yield_now;
use tokio::time::timeout;

/// What all processes of a service share: a queue, say.
#[derive(Clone, Default)]
struct Shared(Arc<Counts>);

#[derive(Default)]
struct Counts {
    working: AtomicU64,
    overlaps: AtomicU64,
    jobs: AtomicU64,
}

impl Shared {
    /// A worker of one process. Its hook waits for the job that is under way.
    fn hook(&self, starting: &mut Starting) -> Arc<Mutex<()>> {
        let busy = Arc::<Mutex<()>>::default();
        let awaited = busy.clone();
        let hook = move || {
            let busy = awaited.clone();
            async move { drop(busy.lock().await) }
        };
        starting.before_release("worker", hook).unwrap();
        busy
    }

    async fn work(self, hot: Serving, busy: Arc<Mutex<()>>) {
        while hot.wait_until_serving().await {
            let job = busy.lock().await;
            if hot.is_serving() {
                self.job().await;
            }
            drop(job);
            yield_now().await;
        }
    }

    async fn job(&self) {
        let Counts { working, overlaps, jobs } = &*self.0;
        if working.fetch_add(1, SeqCst) > 0 {
            overlaps.fetch_add(1, SeqCst);
        }
        for _ in 0..20 {
            yield_now().await;
        }
        working.fetch_sub(1, SeqCst);
        jobs.fetch_add(1, SeqCst);
    }

    async fn goes_on(&self) {
        let done = self.0.jobs.load(SeqCst);
        eventually("a job is done", async || (self.0.jobs.load(SeqCst) > done + 2).then_some(())).await;
    }

    async fn start(&self, builder: Builder, name: &'static str) -> Serving {
        let mut starting = builder.join().await.unwrap();
        let busy = self.hook(&mut starting);
        let (hot, _) = serve(starting, name).await;
        tokio::spawn(self.clone().work(hot.clone(), busy));
        hot
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn never_two_at_once_through_twenty_handoffs_and_a_rollback() {
    let (folder, shared) = (Folder::new(), Shared::default());
    let mut serves = shared.start(folder.builder("v0"), "v0").await;
    for _ in 0..20 {
        shared.goes_on().await;
        let next = shared.start(folder.builder("vn"), "vn").await;
        timeout(SOON, serves.drained()).await.unwrap();
        serves = next;
    }
    let first = shared.start(folder.builder("va").probation(SOON), "va").await;
    let second = shared.start(folder.builder("vb").probation(SOON), "vb").await;
    shared.goes_on().await;
    assert!(second.is_serving() && !first.is_serving());
    let reply = call(&folder.control(), "io.hotupdate.Rollback", json!({})).await;
    assert!(reply["error"].is_null(), "{reply}");
    shared.goes_on().await;
    assert!(first.is_serving() && !second.is_serving());
    assert_eq!(shared.0.overlaps.load(SeqCst), 0, "of {} jobs", shared.0.jobs.load(SeqCst));
}

/// A service whose hook hangs as long as the flag is set.
async fn with_a_hook(folder: &Folder, hangs: &Arc<AtomicBool>, timing: Timing) -> Serving {
    let mut starting = folder.builder("v1").timing(timing).join().await.unwrap();
    let hangs = hangs.clone();
    let hook = move || {
        let hangs = hangs.load(SeqCst);
        async move { if hangs { pending().await } else { yield_now().await } }
    };
    starting.before_release("queue", hook).unwrap();
    serve(starting, "v1").await.0
}

#[tokio::test]
async fn a_hook_that_hangs_is_the_end_of_the_attempt() {
    let (folder, hangs) = (Folder::new(), Arc::new(AtomicBool::new(true)));
    let (log, _guard) = Log::begin();
    let old = with_a_hook(&folder, &hangs, patient().before_release(BRIEF)).await;
    let mut starting = folder.join("v2").await;
    let listener = starting.tcp("echo", "127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().ip().unwrap();
    let stopped = tokio::spawn(old.wait_until_not_serving());
    let error = timeout(SOON, starting.ready()).await.unwrap().unwrap_err().to_string();
    assert!(error.contains("`before_release`"), "{error}");
    timeout(SOON, stopped).await.unwrap().unwrap();
    log.says(&["the handoff failed", "about to be released", "`before_release`", "is still serving"]);
    let there = status(&folder.control()).await;
    assert!(there["last_failure"]["reason"].as_str().unwrap().contains("`before_release`"), "{there}");
    assert_eq!(ask(address).await, "v1");
    eventually("it serves on", async || old.is_serving().then_some(())).await;
    // The next attempt asks anew.
    hangs.store(false, SeqCst);
    let (new, address) = folder.serve("v3").await;
    assert_eq!(ask(address).await, "v3");
    assert!(new.is_serving() && !old.is_serving());
    timeout(SOON, old.drained()).await.unwrap();
}

#[tokio::test]
async fn a_hook_that_panics_is_the_end_of_the_attempt() {
    let folder = Folder::new();
    let mut starting = folder.join("v1").await;
    starting.before_release("queue", || async { panic!("no connection to the queue") }).unwrap();
    let (old, address) = serve(starting, "v1").await;
    let mut starting = folder.join("v2").await;
    let _listener = starting.tcp("echo", "127.0.0.1:0").await.unwrap();
    let error = timeout(SOON, starting.ready()).await.unwrap().unwrap_err().to_string();
    assert!(error.contains("the hook \"queue\" panicked: no connection to the queue"), "{error}");
    assert_eq!(ask(address).await, "v1");
    assert!(old.is_serving());
}

/// Clients are served by the old version as long as its hook runs.
#[tokio::test]
async fn clients_are_served_while_a_hook_runs() {
    let (folder, hangs) = (Folder::new(), Arc::new(AtomicBool::new(true)));
    let old = with_a_hook(&folder, &hangs, patient().before_release(SOON)).await;
    let mut starting = folder.join("v2").await;
    let listener = starting.tcp("echo", "127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().ip().unwrap();
    let ready = tokio::spawn(starting.ready());
    timeout(SOON, old.wait_until_not_serving()).await.unwrap();
    assert_eq!(ask(address).await, "v1");
    let there = status(&folder.control()).await;
    assert_eq!(
        (&there["serving"]["state"], &there["successor"]["state"]),
        (&json!("serving"), &json!("standby"))
    );
    let reply = call(&folder.control(), "io.hotupdate.Abort", json!({})).await;
    assert!(reply["error"].is_null(), "{reply}");
    let error = timeout(SOON, ready).await.unwrap().unwrap().unwrap_err().to_string();
    assert!(error.contains("aborted"), "{error}");
    eventually("it serves on", async || old.is_serving().then_some(())).await;
}

#[tokio::test]
async fn a_task_outlives_the_drain_and_is_seen() {
    let folder = Folder::new();
    let (log, _guard) = Log::begin();
    let timing = patient().drain(BRIEF).force(Duration::ZERO);
    let (old, _) = serve(folder.builder("v1").timing(timing).join().await.unwrap(), "v1").await;
    let guards = ["report", "mail"].map(|name| old.task_guard(name));
    assert_eq!(status(&folder.control()).await["serving"]["tasks"], json!(["report", "mail"]));
    let (_new, _) = folder.serve("v2").await;
    eventually("its deadlines have passed", async || {
        log.text().contains("tasks are still running at the deadline of the drain").then_some(())
    })
    .await;
    let [report, mail] = guards;
    drop(report);
    let left = || async {
        let there = status(&folder.control()).await;
        there["predecessors"].as_array().unwrap().iter().map(|old| old["tasks"].clone()).collect::<Vec<_>>()
    };
    eventually("one task is left", async || (left().await == [json!(["mail"])]).then_some(())).await;
    assert!(timeout(Duration::ZERO, old.drained()).await.is_err());
    drop(mail);
    timeout(SOON, old.drained()).await.unwrap();
    eventually("it is gone", async || left().await.is_empty().then_some(())).await;
    log.says(&["no connection is left, and tasks are still running", "report", "mail"]);
}
