//! The process that the tests start: this test program itself, with one of its tests. It answers with its
//! process id.
//!
//! Deliberately absent: arguments. A successor that a signal starts has the same, and inherits the
//! environment.

use std::env;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hotupdate::{AfterDrain, Connection, Error, Listener, Timing};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::signal::unix::SignalKind;

/// Where its files are. Without it there is nothing to serve.
pub(crate) const FOLDER: &str = "HOT_TEST_FOLDER";

/// The name of its listener, `echo` if there is none.
pub(crate) const NAME: &str = "HOT_TEST_NAME";

/// It waits for a command once it is ready.
pub(crate) const ON_COMMAND: &str = "HOT_TEST_ON_COMMAND";

/// It stays after its drain, until SIGTERM.
pub(crate) const STAYS: &str = "HOT_TEST_STAYS";

/// How long its probation lasts, in seconds; without it there is none.
pub(crate) const PROBATION: &str = "HOT_TEST_PROBATION";

/// How long the service manager has to confirm which process is the main one, in seconds.
pub(crate) const CONFIRM: &str = "HOT_TEST_CONFIRM";

/// How long a successor may take to be ready, and to join, in seconds.
pub(crate) const LEASE: &str = "HOT_TEST_LEASE";

/// It has joined and never becomes ready.
pub(crate) const WARMS_UP: &str = "HOT_TEST_WARMS_UP";

/// It has a task that lasts as long as there is a file of this name in its folder.
pub(crate) const TASK: &str = "task";

/// Its `main` goes on after the drain as long as there is a file of this name in its folder.
pub(crate) const WORK: &str = "work";

/// As long as there is a file of this name in its folder, it does not come so far as to serve.
pub(crate) const BROKEN: &str = "broken";

/// It does not leave the directory in which it was started.
pub(crate) const STAYS_HERE: &str = "HOT_TEST_STAYS_HERE";

/// The service claims another listener of this name, and drops it when it serves.
pub(crate) const DROPS: &str = "HOTUPDATE_TEST_DROPS";

/// It stores its process id under this name, and says what it found there.
pub(crate) const STORES: &str = "HOT_TEST_STORES";

/// It stores `again` when this file of its folder is gone.
pub(crate) const STORED: &str = "stored";

/// What it says of itself, one line for each event.
pub(crate) const SAID: &str = "said";

/// The bytes of an answer.
pub(crate) const ANSWER: usize = 8;

#[tokio::test]
#[ignore = "the process that other tests start"]
async fn service() -> Result<(), Error> {
    let Some(folder) = env::var_os(FOLDER) else { return Ok(()) };
    tracing_subscriber::fmt().with_ansi(false).with_writer(std::io::stderr).init();
    serve(Path::new(&folder)).await
}

async fn serve(folder: &Path) -> Result<(), Error> {
    let seconds = |name: &str| env::var(name).ok().map(|it| Duration::from_secs(it.parse().unwrap()));
    let mut timing = Timing::default();
    timing.confirm = seconds(CONFIRM).unwrap_or(timing.confirm);
    timing.lease = seconds(LEASE).unwrap_or(timing.lease);
    let mut builder = hotupdate::builder(folder.join("control.sock"));
    if env::var_os(STAYS).is_some() {
        builder = builder.after_drain(AfterDrain::StayUntilTerm);
    }
    let mut starting = builder
        .version(env!("CARGO_PKG_VERSION"))
        .timing(timing)
        .probation(seconds(PROBATION).unwrap_or_default())
        .on_command(env::var_os(ON_COMMAND).is_some())
        .successor_signal(SignalKind::hangup())
        .join()
        .await?;
    assert!(!folder.join(BROKEN).exists(), "this version is broken");
    if env::var_os(WARMS_UP).is_some() {
        say(folder, &format!("joined {}", std::process::id()));
        std::future::pending::<()>().await;
    }
    let listener = starting.tcp(&env::var(NAME).unwrap_or("echo".to_owned()), "127.0.0.1:0").await?;
    let address = listener.local_addr().ip().unwrap();
    let mut dropped = Vec::new();
    if let Ok(name) = env::var(DROPS) {
        dropped.push(starting.tcp(&name, "127.0.0.1:0").await?);
    }
    let pid = std::process::id();
    if let Ok(name) = env::var(STORES) {
        let stored = starting.stored_state(&name)?;
        let found = String::from_utf8_lossy(stored.get().unwrap_or(b"nothing")).into_owned();
        say(folder, &format!("found {found}"));
        stored.set(pid.to_string().as_bytes())?;
        let file = folder.join(STORED);
        tokio::spawn(async move {
            removed(file).await;
            stored.set(b"again").unwrap();
        });
    }
    let hot = starting.ready().await?;
    drop(dropped);
    // Where a program goes later is nothing to its successors.
    if env::var_os(STAYS_HERE).is_none() {
        env::set_current_dir("/").unwrap();
    }
    if folder.join(TASK).exists() {
        let (guard, file) = (hot.task_guard("report"), folder.join(TASK));
        tokio::spawn(async move {
            removed(file).await;
            drop(guard);
        });
    }
    say(folder, &format!("serving {pid} {address}"));
    answer(listener, pid).await;
    hot.drained().await;
    say(folder, &format!("drained {pid} {}", hot.connections().forced()));
    removed(folder.join(WORK)).await;
    Ok(())
}

/// Work that is done when a test says so.
async fn removed(file: PathBuf) {
    let mut looks = tokio::time::interval(Duration::from_millis(5));
    while file.exists() {
        looks.tick().await;
    }
}

fn say(folder: &Path, line: &str) {
    let mut said = OpenOptions::new().append(true).create(true).open(folder.join(SAID)).unwrap();
    said.write_all(format!("{line}\n").as_bytes()).unwrap();
}

async fn answer(mut listener: Listener, pid: u32) {
    while let Some(connection) = listener.accept().await {
        tokio::spawn(converse(connection, pid));
    }
}

async fn converse(mut connection: Connection, pid: u32) {
    let answer = format!("{pid:>ANSWER$}");
    while connection.read_exact(&mut [0]).await.is_ok() {
        if connection.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}
