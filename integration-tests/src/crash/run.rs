//! One handoff under load, or the rollback of one, with one fault in it, and the next handoff after it.
//!
//! Deliberately absent: opinions, see [`super::verdict`].

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, ensure};
use nix::sys::stat::Mode;

use super::case::{Case, Fault, Side};
use super::clients::{Kept, fates};
use super::trace::Trace;
use super::tracer::Order;
use super::visitor::{Visit, Visitor};
use crate::process::{
    Exit, Operator, Outcome, SOON, Sandbox, Service, binary, eventually, hotctl, spawn_hotctl,
};
use crate::status::Status;
use crate::steady::Fate;

/// Long enough that every wait of an operator has an end that is not hotctl's.
const HOTCTL_TIMEOUT: &str = "50";

/// How long slow requests take: some are in flight at any time.
pub(super) const SLOW: Duration = Duration::from_millis(600);

/// A process that makes no call that counts for so long has nothing more to do.
const CALM: Duration = Duration::from_millis(300);

/// Waits until the tracer has opened the other end, then becomes the program.
pub(crate) const WRAPPER: &str =
    r#"echo $$ > "$0.pid"; read -r _ < "$0"; export TOKIO_WORKER_THREADS=1; exec "$@""#;

/// What happened in a run.
#[derive(Debug)]
pub struct Record {
    /// The case.
    pub case: Case,
    /// What the victim did.
    pub trace: Trace,
    /// From the begin of the fault to its end; `None` if the victim never made that call.
    pub harm: Option<(SystemTime, SystemTime)>,
    /// The process that served before: the incumbent, or the new version of the handoff that is taken back.
    pub old: u32,
    /// The process that serves when all goes well.
    pub new: u32,
    /// The process that serves afterwards.
    pub owner: u32,
    /// Whether the successor said that it served.
    pub served: bool,
    /// What hotctl said about the handoff.
    pub said: Outcome,
    /// Whether the successor found no process to succeed.
    pub first_start: bool,
    /// Every visit.
    pub visits: Vec<Visit>,
    /// The connections that clients have kept, by the address of the client.
    pub kept: BTreeMap<String, Fate>,
    /// What hotctl said about the next handoff.
    pub next: Outcome,
    /// The process that serves in the end.
    pub last: u32,
    /// What is in the directory of the control socket.
    pub files: Vec<String>,
    /// Processes that are left and should not be.
    pub left: Vec<u32>,
}

/// Runs the case.
///
/// # Errors
///
/// If something is not there that has to be; so does a panic of [`eventually`].
pub fn run(sandbox: &Sandbox, case: Case) -> anyhow::Result<Record> {
    let mut stage = Stage::set(sandbox, case)?;
    let trace = Trace::at(&sandbox.log_path("trace", "log"));
    let victim = |old, new| if case.side.takes() { new } else { old };
    let (operator, tracer, new);
    if case.side.is_of_rollback() {
        new = stage.hand_over_first()?;
        tracer = stage.trace(victim(stage.old, new), &trace)?;
        stage.begin();
        operator = spawn_hotctl(sandbox, &["--timeout", HOTCTL_TIMEOUT, "rollback"]);
    } else {
        operator = stage.start_successor()?;
        new = stage.wrapper_pid();
        tracer = stage.trace(victim(stage.old, new), &trace)?;
        stage.begin();
        stage.open_gate()?;
    }
    let victim = victim(stage.old, new);

    let harm = stage.wait_for_harm(&operator, &tracer, &trace, victim);
    if !matches!(case.fault, Fault::Kill) || harm.is_none() {
        tracer.kill();
    }
    let said = operator.wait();
    stage.settle();
    let owner = stage.owner();
    let clients: Vec<_> = stage.kept.iter().map(|connection| connection.address().to_string()).collect();
    let kept = clients.into_iter().zip(fates(&mut stage.kept, SOON)).collect();
    let first_start = first_start(&stage.log);
    let served = sandbox.servings().iter().any(|serving| serving.pid == new);
    let left = left_over(sandbox, &stage.expected(harm.is_some(), owner, new));
    let next = stage.handoff("v3");
    let last = stage.who_answers()?;
    let files = files(sandbox)?;
    let visits = stage.visitors.into_iter().flat_map(Visitor::stop).collect();
    Ok(Record {
        case,
        trace,
        harm,
        old: stage.old,
        new,
        owner,
        served,
        said,
        first_start,
        visits,
        kept,
        next,
        last,
        files,
        left,
    })
}

/// A service with clients.
struct Stage<'a> {
    sandbox: &'a Sandbox,
    case: Case,
    old: u32,
    address: SocketAddr,
    kept: Vec<Box<dyn Kept>>,
    visitors: Vec<Visitor>,
    /// What the successor waits for.
    gate: PathBuf,
    /// Where the successor writes.
    log: PathBuf,
}

impl<'a> Stage<'a> {
    fn set(sandbox: &'a Sandbox, case: Case) -> anyhow::Result<Self> {
        let mut arguments = vec!["TOKIO_WORKER_THREADS=1".to_owned(), text(&binary("axum-server"))];
        arguments.extend(server_arguments(sandbox, case, "v1", SocketAddr::from((own_address(), 0))));
        let old = Service::spawn(sandbox, Path::new("/usr/bin/env"), &arguments);
        let address = old.wait_serving().http;
        let kept = case.speaks.keep(address)?;
        let slow = || Visitor::start(case.speaks, address, SLOW, Duration::from_millis(1));
        let quick = || Visitor::start(case.speaks, address, Duration::ZERO, Duration::from_millis(5));
        let visitors = vec![quick(), slow(), slow()];
        eventually("an answer to the first visitor", SOON, || {
            (!visitors[0].visits().is_empty()).then_some(())
        });
        let gate = sandbox.path().join("gate");
        let log = sandbox.log_path("axum-server", "log");
        Ok(Self { sandbox, case, old: old.pid(), address, kept, visitors, gate, log })
    }

    /// A handoff without a fault, to be taken back: everything is in the new version, and the old one is in
    /// its probation.
    fn hand_over_first(&mut self) -> anyhow::Result<u32> {
        let outcome = self.handoff("v2");
        ensure!(outcome.exit == Exit::Status(0), "the handoff before the rollback: {}", outcome.stderr);
        eventually("a predecessor without connections", SOON, || {
            let status = Status::ask(&self.sandbox.control()).ok()?;
            matches!(status.draining()[..], [(1, 0)]).then_some(())
        });
        let new = self.who_answers()?;
        Ok(std::mem::replace(&mut self.old, new))
    }

    fn start_successor(&self) -> anyhow::Result<Operator<'a>> {
        nix::unistd::mkfifo(&self.gate, Mode::S_IRUSR | Mode::S_IWUSR).context("make a pipe")?;
        let server = text(&binary("axum-server"));
        let wrapper = ["/bin/sh", "-c", WRAPPER].map(ToOwned::to_owned);
        let mut command = wrapper.to_vec();
        command.extend([text(&self.gate), server]);
        command.extend(server_arguments(self.sandbox, self.case, "v2", self.address));
        Ok(spawn_hotctl(self.sandbox, &as_strs(&handoff(&self.log, &command))))
    }

    fn wrapper_pid(&self) -> u32 {
        let path = self.gate.with_extension("pid");
        eventually("the wrapper of the successor", SOON, || {
            fs::read_to_string(&path).ok()?.strip_suffix('\n')?.parse().ok()
        })
    }

    fn open_gate(&self) -> anyhow::Result<()> {
        fs::write(&self.gate, "\n").context("let the successor go")?;
        fs::remove_file(&self.gate)?;
        Ok(fs::remove_file(self.gate.with_extension("pid"))?)
    }

    fn trace(&self, victim: u32, trace: &Trace) -> anyhow::Result<Service<'a>> {
        let Case { side, at, fault, .. } = self.case;
        let pid = i32::try_from(victim).context("a process id")?;
        follow(self.sandbox, Order { pid, at, fault, after_exec: side == Side::Successor }, trace)
    }

    /// Until the victim has met the fault, or will not any more.
    fn wait_for_harm(
        &self,
        operator: &Operator<'_>,
        tracer: &Service<'_>,
        trace: &Trace,
        victim: u32,
    ) -> Option<(SystemTime, SystemTime)> {
        let mut calm = (0, Instant::now());
        eventually("the fault, or a handoff that is over", SOON * 4, || {
            if let Some(harm) = trace.harm() {
                // The next steps ask which processes are alive.
                let dead =
                    self.case.fault != Fault::Kill || Service::of(self.sandbox, victim).try_exit().is_some();
                return dead.then_some(Some(harm));
            }
            if trace.is_gone() || tracer.try_exit().is_some() {
                return Some(trace.harm());
            }
            if trace.is_harmed() {
                return None;
            }
            let length = trace.length();
            if length != calm.0 || operator.process().try_exit().is_none() {
                calm = (length, Instant::now());
            }
            let drained = trace
                .received(self.case.side.begins_with())
                .is_some_and(|when| when.elapsed().is_ok_and(|ago| ago > SLOW * 2));
            (self.case.side.takes() && drained && calm.1.elapsed() > CALM).then_some(None)
        })
    }

    /// A fault that kills no process may leave two that serve, until deadlines are over. In the end one is
    /// left.
    fn settle(&self) {
        if matches!(self.case.fault, Fault::Freeze(_) | Fault::Error(_) | Fault::Short) {
            eventually("the end of all processes but one", SOON * 2, || {
                (self.sandbox.processes().len() == 1).then_some(())
            });
        }
    }

    /// The process that owns the control socket and answers clients, when no handoff is under way any more.
    fn owner(&self) -> u32 {
        let mut last = None;
        eventually("one owner that answers, and no handoff under way", SOON, || {
            let status = Status::ask(&self.sandbox.control()).ok()?;
            let pid = status.serving.process.pid;
            let settled = status.serving.state == "serving" && status.successor.is_none();
            let same = settled && self.who_answers().ok()? == pid;
            // Twice in a row: two owners would take turns.
            (last.replace(pid) == Some(pid) && same).then_some(pid)
        })
    }

    /// The processes that may be left, when all has come to rest.
    fn expected(&self, met: bool, owner: u32, new: u32) -> Vec<u32> {
        match (self.case.side.takes(), self.case.fault) {
            // Its probation is long, so that there is a process to fall back on at each call.
            (true, Fault::Nothing) => vec![self.old, new],
            (true, Fault::Kill) if !met => vec![self.old, new],
            _ => vec![owner],
        }
    }

    fn who_answers(&self) -> anyhow::Result<u32> {
        self.case.speaks.visit(self.address, Duration::ZERO)
    }

    /// Clients do what they do during the handoff.
    fn begin(&mut self) {
        self.kept.iter_mut().for_each(|connection| connection.begin());
    }

    fn handoff(&self, version: &str) -> Outcome {
        let mut command = vec![text(&binary("axum-server"))];
        command.extend(server_arguments(self.sandbox, self.case, version, self.address));
        let log = self.sandbox.log_path("axum-server", "log");
        hotctl(self.sandbox, &as_strs(&handoff(&log, &command)))
    }
}

/// Starts a tracer; returns when it holds the process.
pub(crate) fn follow<'a>(sandbox: &'a Sandbox, order: Order, trace: &Trace) -> anyhow::Result<Service<'a>> {
    let Order { pid, at, fault, after_exec } = order;
    let mut arguments = vec!["follow".to_owned(), "--pid".to_owned(), pid.to_string()];
    arguments.extend(["--log".to_owned(), text(trace.path())]);
    if after_exec {
        arguments.push("--after-exec".to_owned());
    }
    arguments.extend([at.call.name().to_owned(), at.nth.to_string(), fault.to_string()]);
    let tracer = Service::spawn(sandbox, &binary("crash"), &arguments);
    let attached = eventually("a tracer that holds the process", SOON, || {
        if trace.is_attached() { Some(true) } else { tracer.try_exit().map(|_| false) }
    });
    ensure!(attached, "no tracer: {}", sandbox.transcript());
    Ok(tracer)
}

fn server_arguments(sandbox: &Sandbox, case: Case, version: &str, address: SocketAddr) -> Vec<String> {
    let (control, address) = (text(&sandbox.control()), address.to_string());
    let falls_back = matches!(case.fault, Fault::Kill | Fault::Nothing);
    let probation = match (version, case.side) {
        (_, Side::Successor | Side::Restored) | ("v1", Side::Withdrawn) if falls_back => "60",
        // Until the rollback begins; if it fails, this is waited for.
        ("v1", Side::Restored | Side::Withdrawn) => "10",
        _ => "0.5",
    };
    let mut arguments = vec!["--listen", &address, "--control", &control, "--app-version", version];
    arguments.extend(["--probation", probation]);
    if matches!(case.fault, Fault::Freeze(_)) {
        // The longest that counts, the lease, is 18 s then.
        arguments.extend(["--deadline-scale", "0.3"]);
    }
    arguments.into_iter().map(ToOwned::to_owned).collect()
}

fn handoff(log: &Path, command: &[String]) -> Vec<String> {
    let mut arguments: Vec<_> =
        ["--timeout", HOTCTL_TIMEOUT, "handoff", "--log", &text(log), "--"].map(ToOwned::to_owned).to_vec();
    arguments.extend_from_slice(command);
    arguments
}

/// An address of the loopback network for each run: no other run uses its port, also while no process listens
/// there.
fn own_address() -> Ipv4Addr {
    static NEXT: AtomicU8 = AtomicU8::new(0);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 100 + high % 100, low, NEXT.fetch_add(1, Ordering::Relaxed) % 250 + 1)
}

/// Whether the successor found no process to succeed.
fn first_start(log: &Path) -> bool {
    fs::read_to_string(log).unwrap_or_default().contains("first start: ")
}

/// Processes that do not end.
fn left_over(sandbox: &Sandbox, expected: &[u32]) -> Vec<u32> {
    let until = Instant::now() + SOON;
    eventually("the processes that are left", SOON * 2, || {
        let left: Vec<_> = sandbox.processes().into_iter().filter(|pid| !expected.contains(pid)).collect();
        (left.is_empty() || Instant::now() > until).then_some(left)
    })
}

fn files(sandbox: &Sandbox) -> anyhow::Result<Vec<String>> {
    let mut files: Vec<_> = fs::read_dir(sandbox.path())?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<anyhow::Result<_>>()?;
    files.sort();
    Ok(files)
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn as_strs(all: &[String]) -> Vec<&str> {
    all.iter().map(String::as_str).collect()
}
