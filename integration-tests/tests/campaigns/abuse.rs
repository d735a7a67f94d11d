//! Callers that abuse the control socket while clients are served: the service does not slow down for them,
//! holds a bounded number of them in bounded memory, complains in few lines, and an operator gets an answer
//! at once.
//!
//! Deliberately absent: which users may call, see `namespaces.rs`; every single lie, see the tests of the
//! library.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use integration_tests::process::Facts;
use integration_tests::process::needs::{ROOT, have};
use integration_tests::steady::{Steady, idle};
use integration_tests::{Handover, SOON, Sandbox, Service, Way, eventually, hotctl};

/// How long the rate of a client is measured, at least.
const WINDOW: Duration = Duration::from_millis(700);

/// How many answers make a rate.
const ENOUGH: usize = 50;

/// Callers that the service takes at the same time, and some descriptors that come and go.
const MOST_DESCRIPTORS: usize = 256 + 40;

/// Milliseconds; the rest is for a machine under load.
const AT_ONCE: Duration = Duration::from_secs(3);

/// What a client sees of the service.
#[derive(Debug)]
struct Pace {
    per_second: f64,
    median: Duration,
    slowest: Duration,
}

impl Pace {
    /// Asks one question after the other on one connection.
    fn measure(address: SocketAddr) -> Self {
        let mut client = Steady::connect(address).expect("it connects");
        let (begun, mut took) = (Instant::now(), Vec::new());
        while begun.elapsed() < WINDOW || took.len() < ENOUGH {
            let asked = Instant::now();
            client.who().expect("an answer");
            took.push(asked.elapsed());
        }
        took.sort_unstable();
        let per_second = took.len() as f64 / begun.elapsed().as_secs_f64();
        Self { per_second, median: took[took.len() / 2], slowest: took[took.len() - 1] }
    }
}

/// Tells the abusers when to stop, and learns from them that they have begun.
#[derive(Default)]
struct Abuse {
    over: AtomicBool,
    calls: AtomicUsize,
}

impl Abuse {
    fn goes_on(&self) -> bool {
        !self.over.load(Ordering::Relaxed)
    }

    fn called(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
    }
}

/// A service under abuse by some threads, each of which runs this until the abuse is over. `enough` calls
/// come before anything is measured.
#[expect(clippy::print_stdout, reason = "the numbers are what one wants to see")]
fn withstands(
    name: &str,
    threads: usize,
    enough: usize,
    prepare: impl FnOnce(SocketAddr) -> Vec<Steady>,
    abuse: impl Fn(&Path, &Abuse) + Sync,
) {
    let _alone = super::alone();
    let (begun, sandbox) = (Instant::now(), Sandbox::new());
    let service = Service::start(&sandbox, "v1", &["--probation", "1"]);
    let serving = service.wait_serving();
    let clients = prepare(serving.http);
    let (socket, signal) = (sandbox.control(), Abuse::default());
    let _ = hotctl(&sandbox, &["status"]).expect_success();
    let (calm, before) = (Pace::measure(serving.http), service.facts());
    let (storm, during, asked) = thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| abuse(&socket, &signal));
        }
        let over = Over(&signal);
        eventually("the abuse is under way", SOON, || {
            (signal.calls.load(Ordering::Relaxed) >= enough).then_some(())
        });
        let storm = Pace::measure(serving.http);
        let during = service.facts();
        // At three in the morning an operator wants to know which process serves.
        let asked = hotctl(&sandbox, &["status"]).expect_success();
        drop(over);
        (storm, during, asked)
    });
    drop(clients);
    let ratio = storm.per_second / calm.per_second;
    println!(
        "{name}: {:.0} requests a second before, {:.0} during ({ratio:.2}); median {:?} and {:?}, slowest {:?} and {:?}; \
         descriptors {} and {}, memory {} and {} KiB; `hotctl status` took {:?}; {} calls",
        calm.per_second,
        storm.per_second,
        calm.median,
        storm.median,
        calm.slowest,
        storm.slowest,
        before.fds,
        during.fds,
        before.rss_kib,
        during.rss_kib,
        asked.took,
        signal.calls.load(Ordering::Relaxed),
    );
    // Two cores have to do for the service, its clients and the abusers.
    assert!(ratio > 0.03, "the service is slowed down");
    assert!(during.fds < before.fds + MOST_DESCRIPTORS, "{before:?} {during:?}");
    assert!(during.rss_kib < before.rss_kib + 100 * 1024, "{before:?} {during:?}");
    assert!(asked.stdout.contains("serving"), "{}", asked.stdout);
    assert!(asked.took < AT_ONCE, "{:?}", asked.took);
    let complaints = sandbox.transcript().matches("a caller on the control socket is turned away").count();
    assert!(complaints as f64 <= begun.elapsed().as_secs_f64() + 1.0, "{complaints} complaints");
    nothing_is_left(&service, before);
    let _ = Handover::run(&sandbox, Way::Hotctl, serving, "v2", &["--probation", "1"]);
}

/// Ends the abuse, also where an assertion fails.
struct Over<'a>(&'a Abuse);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::Relaxed);
    }
}

fn nothing_is_left(service: &Service<'_>, before: Facts) {
    eventually("no descriptor is left", SOON, || (service.facts().fds <= before.fds).then_some(()));
}

fn connect(socket: &Path) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_millis(200)))?;
    Ok(stream)
}

/// Keeps so many connections on which `begin` was said; those that are hung up on are made again.
fn keep(how_many: usize, socket: &Path, abuse: &Abuse, begin: &[u8]) {
    let mut kept: Vec<UnixStream> = Vec::new();
    let mut next = 0;
    while abuse.goes_on() {
        let Ok(mut stream) = connect(socket) else { continue };
        if stream.write_all(begin).is_err() {
            continue;
        }
        abuse.called();
        if kept.len() < how_many {
            kept.push(stream);
        } else {
            kept[next % how_many] = stream;
            next += 1;
        }
    }
}

fn nothing(_: SocketAddr) -> Vec<Steady> {
    Vec::new()
}

#[test]
fn a_thousand_callers_that_say_nothing() {
    withstands("silence", 1, 2000, nothing, |socket, abuse| keep(1000, socket, abuse, b""));
}

/// Those that are there and do nothing cost clients nothing; the best of some rounds, because a machine has
/// other work too.
#[test]
fn a_thousand_callers_that_stay() {
    const ROUNDS: usize = 4;
    const WATCH: &[u8] = b"{\"method\":\"io.hotupdate.Monitor\",\"more\":true}\0";
    let (_alone, sandbox) = (super::alone(), Sandbox::new());
    let serving = Service::start(&sandbox, "v1", &[]).wait_serving();
    let (mut without, mut with) = (Duration::MAX, Duration::MAX);
    for _ in 0..ROUNDS {
        without = without.min(Pace::measure(serving.http).median);
        let mut callers: Vec<_> =
            (0..1000).map(|_| connect(&sandbox.control()).expect("it connects")).collect();
        for watcher in &mut callers[900..] {
            let _ = watcher.write_all(WATCH);
        }
        let _ = hotctl(&sandbox, &["status"]).expect_success();
        with = with.min(Pace::measure(serving.http).median);
    }
    println!("an answer takes {without:?}, and {with:?} with a thousand callers");
    assert!(with < without * 2, "the service is slowed down: {without:?} without, {with:?} with them");
}

#[test]
fn callers_that_say_half_a_message() {
    withstands("half a message", 1, 1000, nothing, |socket, abuse| {
        keep(500, socket, abuse, b"{\"method\":\"io.hotupdate.Sta");
    });
}

#[test]
fn callers_that_asked_once_and_stay() {
    withstands("asked once", 1, 1000, nothing, |socket, abuse| {
        keep(500, socket, abuse, b"{\"method\":\"io.hotupdate.Status\"}\0");
    });
}

#[test]
fn callers_that_talk_nonsense() {
    withstands("nonsense", 2, 500, nothing, |socket, abuse| {
        while abuse.goes_on() {
            let Ok(mut stream) = connect(socket) else { continue };
            let _ = stream.write_all(b"GET / HTTP/1.1\r\n\r\n\0");
            let _ = stream.read_to_end(&mut Vec::new());
            abuse.called();
        }
    });
}

/// Each successor that fails is an event with the whole status for each watcher.
#[test]
fn watchers_that_read_nothing() {
    withstands("watchers", 1, 600, nothing, |socket, abuse| {
        let mut watchers = Vec::new();
        for _ in 0..400 {
            let mut stream = connect(socket).expect("it connects");
            let _ = stream.write_all(b"{\"method\":\"io.hotupdate.Monitor\",\"more\":true}\0");
            watchers.push(stream);
            abuse.called();
        }
        while abuse.goes_on() {
            join_and_leave(socket);
            abuse.called();
        }
    });
}

fn join_and_leave(socket: &Path) {
    let Ok(mut stream) = connect(socket) else { return };
    let join = concat!(
        r#"{"method":"io.hotupdate.Join","upgrade":true,"parameters":{"versions":{"min":1,"max":1},"#,
        r#""process":{"instance":"00","pid":1,"version":"abuse"}}}"#,
        "\0"
    );
    let _ = stream.write_all(join.as_bytes());
    let _ = stream.read(&mut [0; 4096]);
}

#[test]
fn successors_that_join_and_leave() {
    withstands("successors", 2, 100, nothing, |socket, abuse| {
        while abuse.goes_on() {
            join_and_leave(socket);
            abuse.called();
        }
    });
}

/// A list of 3,000 connections is some 600 KiB, for each of the callers.
#[test]
fn callers_that_do_not_read_their_list_of_connections() {
    let connections = |address| idle(address, 3000).expect("they connect");
    withstands("lists", 1, 300, connections, |socket, abuse| {
        keep(500, socket, abuse, b"{\"method\":\"io.hotupdate.Connections\",\"more\":true}\0");
    });
}

/// In a process of its own, as another user: calls again and again.
#[test]
fn child_that_calls() {
    let Some(path) = std::env::var_os("HOTUPDATE_TEST_CALL").map(PathBuf::from) else { return };
    while let Ok(mut stream) = connect(&path) {
        let _ = stream.write_all(b"{\"method\":\"io.hotupdate.Stop\"}\0");
        let _ = stream.read_to_end(&mut Vec::new());
        println!("called");
    }
}

#[test]
fn another_user_that_does_not_give_up() {
    if !have(&[ROOT]) {
        return;
    }
    withstands("another user", 1, 500, nothing, |socket, abuse| {
        let folder = socket.parent().expect("a socket is in a folder");
        let set =
            |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("ours");
        let program = folder.join("program");
        fs::copy(std::env::current_exe().expect("Linux"), &program).expect("room for a copy");
        [(folder, 0o755), (socket, 0o666), (&program, 0o755)]
            .iter()
            .for_each(|(path, mode)| set(path, *mode));
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program);
        command
            .args(["--exact", "abuse::child_that_calls", "--nocapture"])
            .env("HOTUPDATE_TEST_CALL", socket);
        let mut child = command.current_dir("/").stdout(Stdio::piped()).spawn().expect("setpriv is there");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        for _ in lines.take_while(|line| abuse.goes_on() && line.is_ok()) {
            abuse.called();
        }
        child.kill().and_then(|()| child.wait()).expect("it is ours");
        set(folder, 0o700);
    });
}
