//! What is left of the secrets of a connection in the memory of the process that has shaken hands, when the
//! connection has ended: one box, which rustls leaves with or without this crate.
//!
//! rustls keeps the secrets of a handshake in a box, moves them out of it at the client's Finished, and frees
//! the box as it is. It lies there until the allocator gives the place to something else.
//!
//! Deliberately absent: stacks, where the compiler puts what it likes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]
#![allow(clippy::print_stdout, reason = "the server's process speaks to the test")]

#[path = "../common/mod.rs"]
#[allow(dead_code, reason = "what other tests need")]
mod common;

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};

use common::pair::{Options, server_name};
use rustls::{CipherSuite, ClientConnection, KeyLog, ServerConnection};

/// In the environment of a server's process.
const MODE: &str = "HOTUPDATE_TLS_TEST_SERVER";

/// rustls without a line of this crate.
const RUSTLS: &str = "rustls";
const OURS: &str = "ours";

/// The box is not longer.
const BOX: usize = 512;

/// Both processes make the same certificate of the same key.
fn options() -> Options {
    Options { rsa: true, ..Options::new(CipherSuite::TLS13_AES_128_GCM_SHA256) }
}

#[test]
fn rustls_leaves_one_box_of_secrets_and_we_leave_nothing_more() {
    if std::env::var_os(MODE).is_some() {
        return;
    }
    // If there are none, rustls wipes the box now: SECURITY.md need not speak of it any more.
    assert!(!left_by(RUSTLS, false).is_empty(), "rustls leaves nothing");
    // A copy that something holds would be found.
    assert_eq!(left_by(OURS, true), [], "it is left where it was freed");
    let ours = left_by(OURS, false);
    let addresses = || ours.iter().map(|(_, at)| *at);
    let mut labels: Vec<&str> = ours.iter().map(|(label, _)| label.as_str()).collect();
    labels.sort_unstable();
    let count = labels.len();
    labels.dedup();
    assert_eq!(labels.len(), count, "one copy of each at most: {ours:x?}");
    let spread = addresses().max().unwrap_or_default() - addresses().min().unwrap_or_default();
    assert!(spread < BOX, "they are not in one box: {ours:x?}");
}

/// The process of a server, when this is one: it serves one client until that has shaken hands.
#[test]
fn serve() {
    let Ok(mode) = std::env::var(MODE) else { return };
    let (mut config, _) = options().configs();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    println!("\nport {}", listener.local_addr().unwrap().port());
    let (mut socket, _) = listener.accept().unwrap();
    if mode == RUSTLS {
        config.enable_secret_extraction = true;
        let mut connection = ServerConnection::new(Arc::new(config)).unwrap();
        while connection.is_handshaking() || connection.wants_write() {
            connection.complete_io(&mut socket).unwrap();
        }
        drop(connection.dangerous_extract_secrets().unwrap());
    } else {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            socket.set_nonblocking(true).unwrap();
            let socket = tokio::net::TcpStream::from_std(socket).unwrap();
            let stream = options().acceptor(config).accept(socket).await.unwrap();
            stream.can_migrate().unwrap();
        });
    }
    println!("\ndone");
    // Until the test has looked.
    std::io::stdin().read_line(&mut String::new()).unwrap();
}

/// The secrets on the heap of a server that has served a connection, and where they are.
fn left_by(mode: &str, wiped: bool) -> Vec<(String, usize)> {
    let mut server = Server::start(mode, wiped);
    let port = server.says("port ").parse().unwrap();
    let secrets = shake_hands(port);
    server.says("done");
    let left = server.search(&secrets);
    server.end();
    left
}

#[derive(Debug, Default)]
struct Log(Mutex<Vec<(String, Vec<u8>)>>);

impl KeyLog for Log {
    fn log(&self, label: &str, _: &[u8], secret: &[u8]) {
        self.0.lock().unwrap().push((label.to_owned(), secret.to_vec()));
    }
}

fn shake_hands(port: u16) -> Vec<(String, Vec<u8>)> {
    let log = Arc::new(Log::default());
    let (_, mut config) = options().configs();
    config.key_log = log.clone();
    let mut client = ClientConnection::new(Arc::new(config), server_name()).unwrap();
    let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
    while client.is_handshaking() || client.wants_write() {
        client.complete_io(&mut socket).unwrap();
    }
    let secrets = std::mem::take(&mut *log.0.lock().unwrap());
    assert!(secrets.iter().any(|(label, _)| label == "CLIENT_TRAFFIC_SECRET_0"));
    secrets
}

struct Server {
    process: Child,
    output: BufReader<ChildStdout>,
}

impl Server {
    /// Perhaps with an allocator that wipes what is freed: glibc's does, when it is told to.
    fn start(mode: &str, wiped: bool) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "serve", "--nocapture"])
            .env(MODE, mode)
            .env(
                "GLIBC_TUNABLES",
                if wiped { "glibc.malloc.tcache_count=0:glibc.malloc.perturb=165" } else { "" },
            )
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        Self { process, output }
    }

    /// Waits for a line that begins like this, and returns the rest of it.
    fn says(&mut self, beginning: &str) -> String {
        for line in self.output.by_ref().lines() {
            if let Some(rest) = line.unwrap().strip_prefix(beginning) {
                return rest.to_owned();
            }
        }
        panic!("the server has ended before it said {beginning:?}");
    }

    fn search(&self, secrets: &[(String, Vec<u8>)]) -> Vec<(String, usize)> {
        let memory = File::open(format!("/proc/{}/mem", self.process.id())).unwrap();
        let stacks = self.stacks();
        let mut found = Vec::new();
        for mapping in self.mappings() {
            if stacks.iter().any(|stack| mapping.contains(stack)) {
                continue;
            }
            let mut bytes = vec![0; mapping.len()];
            // Some mappings cannot be read.
            let length = memory.read_at(&mut bytes, mapping.start as u64).unwrap_or_default();
            for (label, secret) in secrets {
                let places = bytes[..length].windows(secret.len()).enumerate();
                let places = places.filter(|(_, bytes)| bytes == secret);
                found.extend(places.map(|(at, _)| (label.clone(), mapping.start + at)));
            }
        }
        found
    }

    /// What the process can write.
    fn mappings(&self) -> Vec<Range<usize>> {
        let maps = fs::read_to_string(format!("/proc/{}/maps", self.process.id())).unwrap();
        let writable = maps.lines().filter(|line| line.contains(" rw-p ") && !line.contains("[stack]"));
        let ranges = writable.map(|line| {
            let (start, end) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
            usize::from_str_radix(start, 16).unwrap()..usize::from_str_radix(end, 16).unwrap()
        });
        ranges.collect()
    }

    /// An address on the stack of each thread. The kernel tells it while the thread waits, as all do soon.
    fn stacks(&self) -> Vec<usize> {
        let stack = |thread: fs::DirEntry| {
            let line = fs::read_to_string(thread.path().join("syscall")).unwrap();
            let address = line.split_whitespace().rev().nth(1)?;
            usize::from_str_radix(address.strip_prefix("0x")?, 16).ok()
        };
        loop {
            let threads = fs::read_dir(format!("/proc/{}/task", self.process.id())).unwrap();
            let stacks: Option<Vec<usize>> = threads.map(|thread| stack(thread.unwrap())).collect();
            match stacks {
                Some(stacks) => return stacks,
                None => std::thread::yield_now(),
            }
        }
    }

    fn end(mut self) {
        self.process.stdin.take().unwrap().write_all(b"\n").unwrap();
        assert!(self.process.wait().unwrap().success());
    }
}
