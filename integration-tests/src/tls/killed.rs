//! A process that is killed at some moment of a handoff, while clients talk through a recording proxy.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use tokio::runtime::Builder;
use tokio::time::timeout;

use super::{Client, Https, Keys, Proxy, connect};
use crate::process::{SOON, Sandbox, Service, eventually};
use crate::status::Status;

const BUSY: usize = 4;
const SILENT: usize = 8;

/// How long a client may wait for an answer or an end.
const PATIENCE: Duration = Duration::from_secs(20);

/// Which process is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    /// The version that serves.
    Incumbent,
    /// The next one.
    Successor,
}

/// Kills the victim so long after the next version was started. Returns how many of the silent clients were
/// answered afterwards; the other ones were closed.
///
/// # Panics
///
/// If a record was made with a key and a number that were used before, a client gets a wrong answer or
/// neither an answer nor an end, or not exactly one process serves afterwards, and can be replaced.
pub fn kill(victim: Victim, moment: Duration) -> usize {
    let sandbox = Sandbox::new();
    let https = Https::new(&sandbox);
    let old = https.start("v1");
    let serving = old.wait_serving();
    let keys: Arc<Keys> = Arc::default();
    let config = https.clients(&keys);
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let proxy = runtime.block_on(Proxy::start(serving.http)).expect("a proxy");
    let mut silent = runtime.block_on(connect(&config, proxy.address(), SILENT)).expect("silent clients");
    let busy = runtime.block_on(connect(&config, proxy.address(), BUSY)).expect("busy clients");
    let stop = Arc::new(AtomicBool::new(false));
    let talks: Vec<_> = busy.into_iter().map(|client| runtime.spawn(talk(client, stop.clone()))).collect();

    let begun = Instant::now();
    let new = https.start("v2");
    eventually("the moment", SOON, || (begun.elapsed() >= moment).then_some(()));
    let (killed, left) = match victim {
        Victim::Incumbent => (&old, &new),
        Victim::Successor => (&new, &old),
    };
    killed.kill();

    // An old version that had nothing left to do may be gone by itself.
    let survives = left.is_alive() && settles(&sandbox, left);
    let mut answered = 0;
    let address =
        if survives && victim == Victim::Incumbent { new.wait_serving().http } else { serving.http };
    runtime.block_on(async {
        if survives {
            assert_eq!(who(&config, address).await, left.pid(), "{victim:?} after {moment:?}");
        }
        for client in &mut silent {
            match timeout(PATIENCE, client.who()).await.expect("an answer or an end") {
                Ok(pid) => {
                    assert!(survives && pid == left.pid(), "{pid} answers, {victim:?} after {moment:?}");
                    answered += 1;
                }
                Err(error) => assert!(is_end(&error), "{error:#}"),
            }
        }
        stop.store(true, Ordering::Relaxed);
        for talk in talks {
            timeout(PATIENCE, talk).await.expect("an answer or an end").expect("it does not panic");
        }
    });
    if survives {
        let next = https.start("v3").wait_serving();
        assert_eq!(runtime.block_on(who(&config, next.http)), next.pid);
    }
    for flow in proxy.flows() {
        let records = flow.check(&keys).unwrap_or_else(|error| {
            panic!("{victim:?} killed after {moment:?}: {error:#}");
        });
        assert!(records.iter().all(|&count| count > 0), "{records:?} records");
    }
    answered
}

/// Until it is told to stop, or closed; another answer than its own is a failure.
async fn talk(mut client: Client, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        if let Err(error) = client.echo().await {
            assert!(is_end(&error), "{error:#}");
            return;
        }
    }
}

/// A client was closed, or told to close. An alert or a record that does not open is no end.
fn is_end(error: &anyhow::Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    match error.downcast_ref::<std::io::Error>() {
        Some(error) => {
            matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
        }
        None => error.to_string().starts_with("closed after 0 bytes") || error.to_string() == "told to close",
    }
}

/// Whether it comes to serve, alone; it may also have nothing left to do, and end.
fn settles(sandbox: &Sandbox, process: &Service<'_>) -> bool {
    eventually("one process serves", SOON, || {
        if !process.is_alive() {
            return Some(false);
        }
        let status = Status::ask(&sandbox.control()).ok()?;
        (status.serving.process.pid == process.pid() && status.successor.is_none()).then_some(true)
    })
}

async fn who(config: &Arc<ClientConfig>, address: SocketAddr) -> u32 {
    let mut client = Client::connect(config, address).await.expect("the service accepts");
    client.who().await.expect("the service answers")
}
