//! What the tests share: a folder with a control socket, a service that answers with its name, clients, a
//! look at the log.
//!
//! Deliberately absent: sleeping, except in [`eventually`], and fixed ports and paths.

#![allow(dead_code, reason = "every test program uses another part")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]

pub(crate) mod lies;
pub(crate) mod peer;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Once};
use std::time::{Duration, Instant};

use hotupdate::{Builder, Listener, Serving, Starting, Timing};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tracing_subscriber::filter::LevelFilter;

/// Longer than anything here takes on a machine under load.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// Only in tests of a deadline: long beside the work of the other side, short beside a test.
pub(crate) const BRIEF: Duration = Duration::from_millis(600);

/// A folder for a control socket.
pub(crate) struct Folder(tempfile::TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Self::of_mode(0o700)
    }

    pub(crate) fn of_mode(mode: u32) -> Self {
        let folder = tempfile::Builder::new().prefix("hot-").tempdir().unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(folder.path(), mode).unwrap();
        Self(folder)
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn control(&self) -> PathBuf {
        self.file("control.sock")
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// A process that lets go as soon as it has handed over, and leaves signals alone.
    pub(crate) fn builder(&self, version: &str) -> Builder {
        hotupdate::builder(self.control()).version(version).stop_signals(false).timing(patient())
    }

    pub(crate) async fn join(&self, version: &str) -> Starting {
        self.builder(version).join().await.unwrap()
    }

    /// Joins, serves the listener `echo`, and returns when it serves.
    pub(crate) async fn serve(&self, name: &'static str) -> (Serving, SocketAddr) {
        serve(self.join(name).await, name).await
    }
}

/// The deadlines of tests that are about something else: a machine that has much else to do misses none of a
/// handoff.
pub(crate) fn patient() -> Timing {
    let [reply, batch, stop, serving, resume] = [SOON; 5];
    let (released, probation) = (2 * SOON, Duration::ZERO);
    Timing::default()
        .reply(reply)
        .batch(batch)
        .stop(stop)
        .serving(serving)
        .released(released)
        .resume(resume)
        .probation(probation)
        .crash_backoff(Duration::ZERO)
        // The folder goes at the end of a test, a moment before its services: they must not make it again.
        .path_check(Duration::MAX)
}

/// Serves the listener `echo` with this name for an answer.
pub(crate) async fn serve(mut starting: Starting, name: &'static str) -> (Serving, SocketAddr) {
    let listener = starting.tcp("echo", "127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().ip().unwrap();
    let hot = starting.ready().await.unwrap();
    answer(listener, name);
    (hot, address)
}

/// Answers each byte on each connection with this name, until the listener closes.
pub(crate) fn answer(mut listener: Listener, name: &'static str) {
    tokio::spawn(async move {
        while let Some(mut connection) = listener.accept().await {
            tokio::spawn(async move {
                let mut byte = [0];
                while connection.read_exact(&mut byte).await.is_ok() {
                    if connection.write_all(name.as_bytes()).await.is_err() {
                        break;
                    }
                }
            });
        }
    });
}

/// Asks on a connection that is open: one byte, and as many back as names have here.
pub(crate) async fn ask_on<S>(stream: &mut S) -> io::Result<String>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let mut answer = [0; 2];
    timeout(SOON, async {
        stream.write_all(b"?").await?;
        stream.read_exact(&mut answer).await
    })
    .await
    .unwrap_or_else(|_| panic!("no answer within {SOON:?}"))?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Connects and asks.
pub(crate) async fn ask(address: SocketAddr) -> String {
    let mut stream = timeout(SOON, TcpStream::connect(address)).await.expect("it connects in time").unwrap();
    ask_on(&mut stream).await.unwrap()
}

/// No process listens there any more; may take a moment.
pub(crate) async fn refused(address: SocketAddr) {
    eventually(&format!("{address} is closed"), async || {
        TcpStream::connect(address).await.err().filter(|e| e.kind() == io::ErrorKind::ConnectionRefused)
    })
    .await;
}

/// The whole of a handoff and its proof: a successor serves, the old one is gone.
pub(crate) async fn replace_by(folder: &Folder, old: &Serving, name: &'static str) -> (Serving, SocketAddr) {
    let (new, address) = timeout(SOON, folder.serve(name)).await.expect("a handoff ends");
    assert_eq!(ask(address).await, name, "who serves after the handoff");
    timeout(SOON, old.drained()).await.expect("the old one ends");
    (new, address)
}

/// Asks until there is an answer.
#[track_caller]
pub(crate) fn eventually<T>(
    what: &str,
    mut condition: impl AsyncFnMut() -> Option<T>,
) -> impl Future<Output = T> {
    let (what, begun) = (what.to_owned(), Instant::now());
    async move {
        loop {
            if let Some(value) = condition().await {
                return value;
            }
            assert!(begun.elapsed() < SOON, "waited {SOON:?} in vain for this: {what}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

/// How many descriptors this process has.
pub(crate) fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// What every descriptor of this process is, for a test that fails.
pub(crate) fn describe_descriptors() -> Vec<String> {
    let entries = std::fs::read_dir("/proc/self/fd").unwrap();
    let name = |path: PathBuf| std::fs::read_link(path).map(|to| to.display().to_string()).ok();
    let mut names: Vec<_> = entries.filter_map(|entry| name(entry.ok()?.path())).collect();
    names.sort();
    names
}

/// Waits until this process has no more descriptors than it had.
pub(crate) async fn nothing_leaked(before: usize) {
    let begun = Instant::now();
    while descriptors() > before {
        let (now, what) = (descriptors(), describe_descriptors());
        assert!(begun.elapsed() < SOON, "{before} descriptors before, {now} now: {what:#?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Whether this is root. If not, the calling test is skipped: it has to return, and the list has it that
/// `make test` shows.
#[allow(clippy::print_stdout, reason = "a test that is skipped says so, with and without a list")]
pub(crate) fn is_root() -> bool {
    if rustix::process::geteuid().is_root() {
        return true;
    }
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    println!("skipped, since it takes root: {test}");
    if let Some(list) = std::env::var_os("HOTUPDATE_SKIPPED") {
        let mut list = std::fs::File::options().append(true).open(list).unwrap();
        list.write_all(format!("{test}\troot\tas root\n").as_bytes()).unwrap();
    }
    false
}

/// Runs a test that counts what the process has: alone, down to the descriptors of the runtime.
pub(crate) fn alone<T>(test: impl Future<Output = T>) -> T {
    static ALONE: Mutex<()> = Mutex::new(());
    // A test that failed before this one leaves nothing of its own behind that this lock protects.
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    // Threads for blocking work count, too: otherwise they stay for ten seconds.
    runtime.enable_all().thread_keep_alive(Duration::from_millis(100)).build().unwrap().block_on(test)
}

/// What this thread logs, as lines.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Collects as long as the guard lives. The test has to run on one thread, as `#[tokio::test]` does.
    ///
    /// As long as a process has one subscriber, tracing asks the thread that says a line first whether
    /// anything wants it, and remembers the answer for all threads. A second one, which wants everything and
    /// writes nothing, prevents that.
    pub(crate) fn begin() -> (Self, tracing::subscriber::DefaultGuard) {
        static WANTED: Once = Once::new();
        WANTED.call_once(|| {
            let everything =
                tracing_subscriber::fmt().with_max_level(LevelFilter::TRACE).with_writer(io::sink);
            everything.try_init().expect("nothing else is the subscriber of all threads");
        });
        let log = Self::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_max_level(LevelFilter::INFO)
            .with_writer(move || writer.clone())
            .finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }

    /// A line with all of these words was written.
    #[track_caller]
    pub(crate) fn says(&self, words: &[&str]) {
        let text = self.text();
        let found = text.lines().any(|line| words.iter().all(|word| line.contains(word)));
        assert!(found, "no line with {words:?} in this log:\n{text}");
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
