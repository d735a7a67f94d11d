//! Connections that outlive their process, with real processes: through fifty handoffs no client sees a close, a reset,
//! a `Connection: close`, or a wrong byte; and whatever kills the successor, each connection has exactly one server.
//!
//! Deliberately absent: how fast, see `src/bin/moves.rs`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use integration_tests::process::eventually;
use integration_tests::steady::{Fate, Steady, answer_until, ask_all, idle};
use integration_tests::{Sandbox, Service, Serving, Status, status};
use rustix::process::Signal;

const SOON: Duration = Duration::from_secs(20);

/// A predecessor is gone at once when nothing is left in it.
const ARGUMENTS: [&str; 2] = ["--probation", "0"];

const KEEP_ALIVE: usize = 200;
const IDLE: usize = 2_000;
const POSTING: usize = 10;
const PIPELINING: usize = 10;
const SLOW: usize = 10;

/// Clients that never leave their connection.
struct Clients {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    threads: Vec<JoinHandle<anyhow::Result<()>>>,
}

impl Clients {
    fn new() -> Self {
        Self { stop: Arc::default(), answered: Arc::default(), threads: Vec::new() }
    }

    /// Clients that do `once` again and again, a pause apart.
    fn start(
        &mut self,
        address: SocketAddr,
        how_many: usize,
        pause: Duration,
        once: fn(&mut Steady, u64) -> anyhow::Result<()>,
    ) {
        for number in 0..how_many {
            let (stop, answered) = (self.stop.clone(), self.answered.clone());
            let run = move || {
                let mut client = Steady::connect(address)?;
                let mut turn = number as u64;
                while !stop.load(Relaxed) {
                    once(&mut client, turn)?;
                    answered.fetch_add(1, Relaxed);
                    turn += 1;
                    thread::sleep(pause);
                }
                Ok(())
            };
            let thread = thread::Builder::new().stack_size(128 * 1024).spawn(run);
            self.threads.push(thread.expect("the system gives a thread"));
        }
    }

    fn answers_go_on(&self) {
        let before = self.answered.load(Relaxed);
        eventually("more answers", SOON, || {
            assert!(!self.threads.iter().any(JoinHandle::is_finished), "a client has lost its connection");
            (self.answered.load(Relaxed) > before + 100).then_some(())
        });
    }

    fn stop(self) -> u64 {
        self.stop.store(true, Relaxed);
        for thread in self.threads {
            thread.join().expect("no client panics").expect("no client notices anything");
        }
        self.answered.load(Relaxed)
    }
}

fn get(client: &mut Steady, _: u64) -> anyhow::Result<()> {
    client.who().map(drop)
}

fn slow(client: &mut Steady, _: u64) -> anyhow::Result<()> {
    client.send(b"GET /?sleep=0.4 HTTP/1.1\r\nHost: slow\r\n\r\n")?;
    client.answered_by().map(drop)
}

/// A body in pieces, with a length or in chunks.
fn post(client: &mut Steady, turn: u64) -> anyhow::Result<()> {
    let pieces: Vec<String> =
        (0..5).map(|piece| format!("{turn}:{piece};").repeat(1 + turn as usize % 50)).collect();
    let chunked = turn.is_multiple_of(2);
    if chunked {
        client.send(b"POST /echo HTTP/1.1\r\nHost: post\r\nTransfer-Encoding: chunked\r\n\r\n")?;
    } else {
        let length: usize = pieces.iter().map(String::len).sum();
        client.send(
            format!("POST /echo HTTP/1.1\r\nHost: post\r\nContent-Length: {length}\r\n\r\n").as_bytes(),
        )?;
    }
    for piece in &pieces {
        thread::sleep(Duration::from_millis(turn % 5));
        if chunked {
            client.send(format!("{:x}\r\n{piece}\r\n", piece.len()).as_bytes())?;
        } else {
            client.send(piece.as_bytes())?;
        }
    }
    if chunked {
        client.send(b"0\r\n\r\n")?;
    }
    let answer = client.answer()?;
    anyhow::ensure!(answer == pieces.concat().into_bytes(), "{turn}: a wrong byte");
    Ok(())
}

/// Five requests at once, the stream cut somewhere.
fn pipeline(client: &mut Steady, turn: u64) -> anyhow::Result<()> {
    let bodies: Vec<_> = (0..5).map(|n| format!("{turn}.{n}")).collect();
    let mut stream = String::new();
    for body in &bodies {
        stream.push_str(&format!(
            "POST /echo HTTP/1.1\r\nHost: p\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ));
    }
    let cut = turn as usize * 37 % stream.len();
    client.send(&stream.as_bytes()[..cut])?;
    thread::sleep(Duration::from_millis(turn % 4));
    client.send(&stream.as_bytes()[cut..])?;
    for body in bodies {
        let answer = client.answer()?;
        anyhow::ensure!(answer == body.as_bytes(), "{body}: {answer:?}");
    }
    Ok(())
}

#[test]
fn through_fifty_handoffs_no_client_notices_anything() {
    const HANDOFFS: usize = 50;
    let sandbox = Sandbox::new();
    let mut serving = Service::start(&sandbox, "v0", &ARGUMENTS).wait_serving();
    let mut idle = idle(serving.http, IDLE).expect("the service answers");
    let mut clients = Clients::new();
    clients.start(serving.http, KEEP_ALIVE, Duration::from_millis(50), get);
    clients.start(serving.http, POSTING, Duration::from_millis(5), post);
    clients.start(serving.http, PIPELINING, Duration::from_millis(5), pipeline);
    let mut gone = Vec::new();
    for number in 1..=HANDOFFS {
        clients.answers_go_on();
        let next = Service::start(&sandbox, &format!("v{number}"), &ARGUMENTS).wait_serving();
        let begun = Instant::now();
        let before = Service::of(&sandbox, serving.pid);
        eventually("the predecessor is gone", SOON, || before.try_exit());
        gone.push(begun.elapsed());
        serving = next;
    }
    let answered = clients.stop();
    for client in &mut idle {
        assert_eq!(client.who().expect("its connection is the same"), serving.pid);
    }
    gone.sort_unstable();
    let soon = gone.iter().filter(|gone| **gone < Duration::from_millis(100)).count();
    let (median, worst) = (gone[HANDOFFS / 2], gone[HANDOFFS - 1]);
    println!(
        "{answered} answers; {IDLE} idle and {} busy connections; from `serving` to the end of the predecessor: median \
         {median:?}, worst {worst:?}; below 100 ms: {soon} of {HANDOFFS}",
        KEEP_ALIVE + POSTING + PIPELINING
    );
    assert!(worst < Duration::from_secs(2), "a predecessor stayed for {worst:?}");
    assert!(sandbox.drained().iter().all(|drained| drained.forced == 0));
}

/// Versions follow each other faster than slow requests end, so that several drain at a time, and connections move from
/// each of them to whoever serves by then.
#[test]
fn many_generations_at_a_time() {
    let sandbox = Sandbox::new();
    let mut serving = Service::start(&sandbox, "v0", &ARGUMENTS).wait_serving();
    let mut idle = idle(serving.http, 100).expect("the service answers");
    let mut clients = Clients::new();
    clients.start(serving.http, SLOW, Duration::ZERO, slow);
    clients.start(serving.http, SLOW, Duration::from_millis(5), get);
    let mut most = 0;
    for number in 1..=20 {
        serving = Service::start(&sandbox, &format!("v{number}"), &ARGUMENTS).wait_serving();
        let status = eventually("a status", SOON, || Status::ask(&sandbox.control()).ok());
        most = most.max(status.predecessors.len());
        clients.answers_go_on();
    }
    clients.stop();
    for client in &mut idle {
        assert_eq!(client.who().expect("its connection is the same"), serving.pid);
    }
    println!("at most {most} predecessors at a time");
}

/// Waits, busily, until the process holds so many descriptors.
fn wait_for_descriptors(pid: u32, how_many: u64) {
    // Since Linux 6.2 the size of this folder is the number of open descriptors.
    let open = || std::fs::metadata(format!("/proc/{pid}/fd")).map_or(0, |folder| folder.len());
    let until = Instant::now() + SOON;
    // Before exec(2) a child has copies of ours.
    eventually("the program of the successor", SOON, || {
        std::fs::read_link(format!("/proc/{pid}/exe"))
            .is_ok_and(|exe| exe.ends_with("axum-server"))
            .then_some(())
    });
    while open() < how_many {
        assert!(Instant::now() < until, "{pid} never held {how_many} descriptors");
    }
}

fn migrated(sandbox: &Sandbox, serving: Serving) -> u64 {
    eventually("the status of the old process", SOON, || {
        let status = status::call(&sandbox.control(), "io.hotupdate.Status").ok()?;
        let serving_now = &status["status"]["serving"];
        (serving_now["process"]["pid"] == serving.pid).then(|| serving_now["totals"]["migrated"].as_u64())?
    })
}

#[test]
fn killed_in_the_middle_of_a_move() {
    const CONNECTIONS: usize = 1_000;
    let mut in_the_middle = 0;
    for descriptors in [40, 150, 300, 600, 900] {
        let sandbox = Sandbox::new();
        let serving = Service::start(&sandbox, "v1", &["--probation", "60"]).wait_serving();
        let mut clients = idle(serving.http, CONNECTIONS).expect("the service answers");
        let successor = Service::start(&sandbox, "v2", &["--probation", "60"]);
        wait_for_descriptors(successor.pid(), descriptors);
        successor.kill();
        let fates = ask_all(&mut clients, SOON);
        let count = |fate| fates.iter().filter(|f| **f == fate).count();
        let (given, answered) = (count(Fate::Ended), count(Fate::AnsweredBy(serving.pid)));
        println!(
            "killed at {descriptors} descriptors: {given} were given, {answered} are answered by the old process"
        );
        assert_eq!(given + answered, CONNECTIONS, "{fates:?}");
        assert_eq!(migrated(&sandbox, serving), given as u64, "as the old process counts");
        in_the_middle += usize::from(given > 0 && answered > 0);
    }
    assert!(in_the_middle > 0, "no kill fell into a move");
}

#[test]
fn frozen_in_the_middle_of_a_move() {
    const CONNECTIONS: usize = 1_000;
    let sandbox = Sandbox::new();
    let serving = Service::start(&sandbox, "v1", &["--probation", "60"]).wait_serving();
    let mut clients = idle(serving.http, CONNECTIONS).expect("the service answers");
    let successor = Service::start(&sandbox, "v2", &["--probation", "60"]);
    wait_for_descriptors(successor.pid(), 300);
    successor.signal(Signal::STOP);
    // The old process takes back what is on its way (deadline `moving`, 5 s), and serves it.
    let before = ask_all(&mut clients, Duration::from_secs(8));
    successor.signal(Signal::CONT);
    let until = Instant::now() + SOON;
    let mut after = Vec::new();
    for (client, fate) in clients.iter_mut().zip(&before) {
        if *fate == Fate::Waits {
            after.push(answer_until(client, until));
        }
    }
    let old = before.iter().filter(|fate| **fate == Fate::AnsweredBy(serving.pid)).count();
    let new = after.iter().filter(|fate| **fate == Fate::AnsweredBy(successor.pid())).count();
    println!("frozen: {old} are answered by the old process, {new} by the new one when it goes on");
    assert_eq!(old + new, CONNECTIONS, "{before:?} {after:?}");
}
