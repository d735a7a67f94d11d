//! A process that is killed at some moment of a handoff, or at one of its system calls, while clients talk
//! through a recording proxy.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use syscalls::Sysno;
use tokio::runtime::Builder;
use tokio::time::timeout;

use super::{Client, Https, Keys, Proxy, connect};
use crate::crash::run::follow;
use crate::crash::tracer::Order;
use crate::crash::{Fault, Point, Trace};
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

/// When it is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// So long after the next version was started.
    After(Duration),
    /// Before it makes this call, of those that [`crate::crash::calls`] counts.
    Before(Point),
}

/// What was seen, besides what would have been a panic.
#[derive(Clone, Copy, Debug)]
pub struct Killed {
    /// The victim came so far. If it did not, it was not killed.
    pub met: bool,
    /// How many of the silent clients were answered afterwards; the other ones were closed.
    pub answered: usize,
    /// How many records were opened.
    pub records: u64,
}

/// How often the victim makes each call in a handoff in which nothing is killed.
///
/// # Errors
///
/// If it cannot be traced.
///
/// # Panics
///
/// As [`kill`].
pub fn calls(victim: Victim) -> anyhow::Result<BTreeMap<Sysno, u32>> {
    let never = Point { call: Sysno::exit_group, nth: u32::MAX };
    let (sandbox, trace) = traced();
    run(&sandbox, victim, Moment::Before(never), &trace)?;
    Ok(trace.counts())
}

/// Kills the victim, and looks at all that was on the wire.
///
/// # Errors
///
/// If it cannot be traced.
///
/// # Panics
///
/// If a record was made with a key and a number that were used before, a client gets a wrong answer or
/// neither an answer nor an end, or not exactly one process serves afterwards, and can be replaced.
pub fn kill(victim: Victim, moment: Moment) -> anyhow::Result<Killed> {
    let (sandbox, trace) = traced();
    run(&sandbox, victim, moment, &trace)
}

fn traced() -> (Sandbox, Trace) {
    let sandbox = Sandbox::new();
    let trace = Trace::at(&sandbox.log_path("trace", "log"));
    (sandbox, trace)
}

fn run(sandbox: &Sandbox, victim: Victim, moment: Moment, trace: &Trace) -> anyhow::Result<Killed> {
    let https = Https::new(sandbox);
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

    let (new, met) = match moment {
        Moment::After(time) => {
            let (begun, new) = (Instant::now(), https.start("v2"));
            eventually("the moment", SOON, || (begun.elapsed() >= time).then_some(()));
            if victim == Victim::Incumbent {
                old.kill()
            } else {
                new.kill()
            }
            (new, true)
        }
        Moment::Before(point) => hand_over_traced(sandbox, &https, &old, victim, point, trace)?,
    };
    let left = if victim == Victim::Successor && met { &old } else { &new };

    // An old version that had nothing left to do may be gone by itself.
    let survives = left.is_alive() && settles(sandbox, left);
    let mut answered = 0;
    let is_new = left.pid() == new.pid();
    let address = if survives && is_new { new.wait_serving().http } else { serving.http };
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
    let mut records = 0;
    for flow in proxy.flows() {
        let opened = flow.check(&keys).unwrap_or_else(|error| {
            panic!("{victim:?} killed {moment:?}: {error:#}");
        });
        assert!(opened.iter().all(|&count| count > 0), "{opened:?} records");
        records += opened.iter().sum::<u64>();
    }
    Ok(Killed { met, answered, records })
}

/// Starts the next version, and returns it when the victim is dead, or the version before it gone without
/// that, and whether it is dead.
fn hand_over_traced<'a>(
    sandbox: &'a Sandbox,
    https: &Https<'a>,
    old: &Service<'a>,
    victim: Victim,
    at: Point,
    trace: &Trace,
) -> anyhow::Result<(Service<'a>, bool)> {
    let gate = sandbox.path().join("gate");
    let new = https.start_behind(&gate, "v2");
    let after_exec = victim == Victim::Successor;
    let killed = if after_exec { &new } else { old };
    let order = Order { pid: i32::try_from(killed.pid())?, at, fault: Fault::Kill, after_exec };
    let tracer = follow(sandbox, order, trace)?;
    std::fs::write(&gate, "\n")?;
    eventually("a process that is killed, or a handoff that is over", SOON * 2, || {
        (trace.harm().is_some() || old.try_exit().is_some()).then_some(())
    });
    tracer.kill();
    let met = trace.harm().is_some();
    if met {
        killed.wait_exit();
    }
    Ok((new, met))
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
