//! What is left of a connection's secrets in the memory of the processes that have served it: nothing, but
//! for what lies on stacks, where the compiler puts what it likes.

use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use integration_tests::tls::{Client, Https, Keys};
use integration_tests::{SOON, Sandbox, Service, Status, eventually};

/// Secrets are looked for in pieces of memory of this length, which overlap by that of a secret.
const PIECE: usize = 1 << 20;

/// The first process is none of these: rustls frees the box in which it keeps the secrets of a handshake as it
/// is. The tests of `hotupdate-tls` show that nothing else is left there.
#[test]
fn no_secret_stays_with_a_process_that_a_connection_has_left() {
    let sandbox = Sandbox::new();
    let https = Https::new(&sandbox);
    let first = https.start("v1").wait_serving();
    let address = first.http;
    let (watched, other) = (Arc::new(Keys::default()), Arc::new(Keys::default()));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let connect = |keys: &Arc<Keys>| {
        let config = https.clients(keys);
        runtime.block_on(async move { Client::connect(&config, address).await.unwrap() })
    };
    let mut client = connect(&watched);
    assert_eq!(runtime.block_on(client.who()).unwrap(), first.pid);
    let secrets = watched.traffic_secrets();
    assert_eq!(secrets.len(), 2, "one for each direction");
    let old = Service::of(&sandbox, https.hand_off(first, "v2").pid);
    assert_eq!(runtime.block_on(client.who()).unwrap(), old.pid());
    assert!(holds(&old, &secrets), "the search finds what is there");

    // It keeps the old process from ending.
    let mut slow = connect(&other);
    runtime.block_on(slow.begin()).unwrap();
    eventually("a request that goes on", SOON, || {
        let status = Status::ask(&sandbox.control()).ok()?;
        (status.serving.connections.active > 0).then_some(())
    });
    let new = https.start("v3");
    new.wait_serving();
    eventually("the connection has migrated", SOON, || {
        (runtime.block_on(client.who()).unwrap() == new.pid()).then_some(())
    });
    assert!(holds(&new, &secrets), "it goes on with them");
    eventually("the secrets are wiped where the connection was", SOON, || {
        (!holds(&old, &secrets)).then_some(())
    });
    assert!(old.is_alive(), "a request is in flight");

    drop(client);
    eventually("the secrets are wiped where it has ended", SOON, || (!holds(&new, &secrets)).then_some(()));
    runtime.block_on(slow.finish()).unwrap();
}

/// Whether one of the secrets is in the memory of the process, its stacks excepted.
fn holds(service: &Service<'_>, secrets: &[Vec<u8>]) -> bool {
    let memory = File::open(format!("/proc/{}/mem", service.pid())).expect("a process that is ours");
    let stacks = stacks(service.pid());
    let mut piece = vec![0; PIECE];
    let mut mappings = mappings(service.pid());
    mappings.retain(|mapping| !stacks.iter().any(|stack| mapping.contains(stack)));
    mappings.into_iter().any(|mapping| {
        (mapping.start..mapping.end).step_by(PIECE - 64).any(|start| {
            let length = PIECE.min(mapping.end - start);
            // Some mappings cannot be read, and one may be gone.
            let length = memory.read_at(&mut piece[..length], start as u64).unwrap_or_default();
            secrets.iter().any(|secret| contains(&piece[..length], secret))
        })
    })
}

fn contains(memory: &[u8], secret: &[u8]) -> bool {
    let (&first, rest) = secret.split_first().expect("a secret is not empty");
    let mut at = 0;
    while let Some(next) = memory[at..].iter().position(|&byte| byte == first) {
        at += next + 1;
        if memory[at..].starts_with(rest) {
            return true;
        }
    }
    false
}

/// What the process can write.
fn mappings(pid: u32) -> Vec<Range<usize>> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("it runs");
    let writable = maps.lines().filter(|line| line.contains(" rw-p ") && !line.contains("[stack]"));
    let ranges = writable.map(|line| {
        let (start, end) = line.split_once(' ')?.0.split_once('-')?;
        Some(usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?)
    });
    ranges.map(|range| range.expect("two numbers")).collect()
}

/// An address on the stack of each thread: the kernel tells it while the thread waits, as it does soon.
fn stacks(pid: u32) -> Vec<usize> {
    eventually("threads that wait", SOON, || {
        let threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
        let stack = |thread: fs::DirEntry| {
            let line = fs::read_to_string(thread.path().join("syscall")).ok()?;
            let address = line.split_whitespace().rev().nth(1)?;
            usize::from_str_radix(address.strip_prefix("0x")?, 16).ok()
        };
        threads.map(|thread| stack(thread.ok()?)).collect()
    })
}
