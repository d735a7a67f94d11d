//! A process whose end would be that of the service stays with the process that serves, whatever version
//! that is, and ends after it and as it did.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use integration_tests::client::{InFlight, who_answers};
use integration_tests::process::needs::{NAMESPACES, have};
use integration_tests::process::{Exit, binary};
use integration_tests::systemd::{self, PROGRAMS};
use integration_tests::{Network, SOON, Sandbox, Service, Status, Systemd, eventually};
use rustix::process::{Pid, Signal, kill_process};

const DEPLOYS: u64 = 10;

/// Waits until a request is in flight.
fn in_flight(control: &Path, http: SocketAddr) -> InFlight {
    let request = InFlight::start(http, Duration::from_secs(5));
    eventually("the request is in flight", SOON, || {
        (Status::ask(control).ok()?.serving.connections.active == 1).then_some(())
    });
    request
}

/// A container, as far as the kernel knows of one: a service that is process 1 of a pid namespace.
struct Container<'a> {
    sandbox: &'a Sandbox,
    unshare: Service<'a>,
    /// Process 1, as it is seen from outside.
    first: u32,
}

impl<'a> Container<'a> {
    fn start(sandbox: &'a Sandbox, version: &str) -> Self {
        let server = Service::arguments(sandbox, version, &["--probation", "0.2"]);
        let unshare = ["--pid", "--fork", "--kill-child", "--mount-proc"].map(str::to_owned);
        let program = binary("axum-server").to_string_lossy().into_owned();
        let words: Vec<_> = unshare.into_iter().chain([program]).chain(server).collect();
        let unshare = Service::spawn(sandbox, Path::new("unshare"), &words);
        let first = eventually("process 1 is there", SOON, || {
            let pid = unshare.pid();
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
            children.split_whitespace().next()?.parse().ok()
        });
        Self { sandbox, unshare, first }
    }

    /// `hotctl …` in it.
    #[track_caller]
    fn hotctl(&self, words: &[&str]) -> Exit {
        let socket = self.sandbox.control().to_string_lossy().into_owned();
        let (first, hotctl) = (self.first.to_string(), binary("hotctl").to_string_lossy().into_owned());
        let before = ["-t", &first, "-a", &hotctl, "--socket", &socket];
        let words: Vec<_> = before.iter().chain(words).map(|word| (*word).to_owned()).collect();
        Service::spawn(self.sandbox, Path::new("nsenter"), &words).wait_exit()
    }

    /// A new version in it.
    #[track_caller]
    fn deploy(&self, version: &str) {
        let program = binary("axum-server").to_string_lossy().into_owned();
        let log = self.sandbox.log_path(version, "out").to_string_lossy().into_owned();
        let server = Service::arguments(self.sandbox, version, &["--probation", "0.2"]);
        let words = ["handoff", "--until", "drained", "--log", &log, "--", &program];
        let words: Vec<_> = words.into_iter().chain(server.iter().map(String::as_str)).collect();
        assert_eq!(self.hotctl(&words), Exit::Status(0));
    }

    fn signal(&self, which: Signal) {
        let first = Pid::from_raw(self.first.cast_signed()).expect("a process id");
        kill_process(first, which).expect("process 1 is there");
    }
}

/// The processes that have ended and were not waited for, with a pid namespace of this process 1.
fn zombies(first: u32) -> Vec<String> {
    let children = fs::read_to_string(format!("/proc/{first}/task/{first}/children")).unwrap_or_default();
    let is_zombie = |pid: &&str| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('Z'))
    };
    children.split_whitespace().filter(is_zombie).map(str::to_owned).collect()
}

#[test]
fn ten_deploys_in_one_container_and_a_stop() {
    if !have(&[NAMESPACES]) {
        return;
    }
    let sandbox = Sandbox::new();
    let container = Container::start(&sandbox, "v1");
    let first = sandbox.wait_generation(1);
    assert_eq!(first.pid, 1);
    for deploy in 1..=DEPLOYS {
        container.deploy(&format!("v{}", deploy + 1));
    }
    let last = sandbox.wait_generation(DEPLOYS + 1);
    assert_eq!(who_answers(first.http).expect("it serves"), last.pid);
    eventually("orphans are waited for", SOON, || zombies(container.first).is_empty().then_some(()));
    let status = Status::ask(&sandbox.control()).expect("a status");
    let left: Vec<_> = status.predecessors.iter().map(|it| (it.generation, it.state.as_str())).collect();
    assert_eq!(left, [(1, "drained")], "only process 1 is left");

    let request = in_flight(&sandbox.control(), first.http);
    container.signal(Signal::TERM);
    assert_eq!(request.answer().expect("what is in flight is answered").0, last.pid);
    assert_eq!(container.unshare.wait_exit(), Exit::Status(0));
    assert!(!sandbox.control().exists());
}

/// The runtime tells process 1 only, whatever it is doing.
#[test]
fn a_stop_while_process_1_drains_is_one_of_the_process_that_serves() {
    if !have(&[NAMESPACES]) {
        return;
    }
    let sandbox = Sandbox::new();
    let container = Container::start(&sandbox, "v1");
    let first = sandbox.wait_generation(1);
    let old = in_flight(&sandbox.control(), first.http);
    let program = binary("axum-server").to_string_lossy().into_owned();
    let server = Service::arguments(&sandbox, "v2", &["--probation", "0.2"]);
    let log = sandbox.log_path("v2", "out").to_string_lossy().into_owned();
    let words = ["handoff", "--log", &log, "--", &program].into_iter();
    let words: Vec<_> = words.chain(server.iter().map(String::as_str)).collect();
    assert_eq!(container.hotctl(&words), Exit::Status(0));
    let second = sandbox.wait_generation(2);
    eventually("the probation is over", SOON, || {
        let status = Status::ask(&sandbox.control()).ok()?;
        status.predecessors.iter().all(|predecessor| !predecessor.probation).then_some(())
    });
    let new = in_flight(&sandbox.control(), first.http);
    container.signal(Signal::TERM);
    assert_eq!(old.answer().expect("the old version answers").0, 1);
    assert_eq!(new.answer().expect("the new version answers").0, second.pid);
    assert_eq!(container.unshare.wait_exit(), Exit::Status(0));
}

#[test]
fn a_container_ends_as_the_process_that_served() {
    if !have(&[NAMESPACES]) {
        return;
    }
    let sandbox = Sandbox::new();
    let container = Container::start(&sandbox, "v1");
    assert_eq!(sandbox.wait_generation(1).pid, 1);
    container.deploy("v2");
    let second = sandbox.wait_generation(2);
    let pid = second.pid.to_string();
    let words = ["-t", &container.first.to_string(), "-a", "kill", "-KILL", &pid].map(str::to_owned);
    // With process 1 the kernel ends everything in its namespace, kill(1) too if it is still there.
    let killed = Service::spawn(&sandbox, Path::new("nsenter"), &words).wait_exit();
    assert!(matches!(killed, Exit::Status(0) | Exit::Signal(9)), "{killed:?}");
    assert_eq!(container.unshare.wait_exit(), Exit::Status(137), "as a shell says it of SIGKILL");
}

/// What ends is started again, as `restart: always` does.
fn start_always<'a>(sandbox: &'a Sandbox, version: &str) -> Service<'a> {
    const ALWAYS: &str = r#"trap 'kill $child; wait $child; code=$?; exit $code' TERM
while :; do unshare --pid --fork --kill-child --mount-proc "$@" & child=$!; wait $child; done"#;
    let server = Service::arguments(sandbox, version, &["--probation", "0.2"]);
    let program = binary("axum-server").to_string_lossy().into_owned();
    let before = ["-c", ALWAYS, "sh"].map(str::to_owned);
    let words: Vec<_> = before.into_iter().chain([program]).chain(server).collect();
    Service::spawn(sandbox, Path::new("sh"), &words)
}

/// Process 1 in what a shell has started.
fn process_1(shell: &Service<'_>) -> Pid {
    let child = |pid: &str| {
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
        Some(children.split_whitespace().next()?.to_owned())
    };
    eventually("process 1 is there", SOON, || {
        let unshare = child(&shell.pid().to_string())?;
        Pid::from_raw(child(&unshare)?.parse().ok()?)
    })
}

#[test]
fn containers_that_are_always_started_again_take_nothing_back() {
    const CONTAINERS: u64 = 3;
    if !have(&[NAMESPACES]) {
        return;
    }
    let sandbox = Sandbox::new();
    let mut containers = Vec::new();
    for generation in 1..=CONTAINERS {
        containers.push(start_always(&sandbox, &format!("v{generation}")));
        let _serves = sandbox.wait_generation(generation);
    }
    eventually("the others have drained", SOON, || {
        let status = Status::ask(&sandbox.control()).ok()?;
        let drained = |it: &&integration_tests::status::ProcessStatus| it.state == "drained" && !it.probation;
        (status.predecessors.iter().filter(drained).count() as u64 == CONTAINERS - 1).then_some(())
    });
    // A process that took the service back would have done it by now: it takes a tenth of a second.
    let since = std::time::Instant::now();
    eventually("two seconds", SOON, || (since.elapsed() > Duration::from_secs(2)).then_some(()));
    let status = Status::ask(&sandbox.control()).expect("a status");
    assert_eq!((status.serving.generation, sandbox.servings().len() as u64), (CONTAINERS, CONTAINERS));
    // The old ones go when they are told to, and nothing of the service goes with them.
    let last = containers.pop().expect("it was started");
    for container in containers {
        let first = process_1(&container);
        container.freeze();
        kill_process(first, Signal::TERM).expect("it is there");
        eventually("process 1 has ended", SOON, || {
            let stat = fs::read_to_string(format!("/proc/{}/stat", first.as_raw_nonzero())).ok();
            stat.is_none_or(|stat| stat.contains(") Z ")).then_some(())
        });
        container.kill();
    }
    let status = Status::ask(&sandbox.control()).expect("a status");
    assert_eq!((status.serving.generation, status.predecessors.len()), (CONTAINERS, 0));
    last.kill();
}

fn exec_unit(options: &str) -> String {
    let command =
        format!("{PROGRAMS}/axum-server --listen 127.0.0.1:0 --control /run/%N/control.sock --probation 0.2");
    let hotctl = format!("{PROGRAMS}/hotctl --socket /run/%N/control.sock");
    format!(
        "[Service]
Type=exec
RuntimeDirectory=%N
ExecStart={command}
ExecReload={hotctl} handoff -- {command}
{options}
"
    )
}

#[test]
fn ten_deploys_in_one_unit_and_a_stop() {
    if !have(&systemd::NEEDS) {
        return;
    }
    let sandbox = Sandbox::new();
    let systemd = Systemd::boot(&sandbox, Network::Own, &[("hot.service", &exec_unit(""))]);
    systemd.systemctl(&["start", "hot.service"]);
    let first = systemd.serves("hot.service", 1);
    let mut last = first;
    for deploy in 1..=DEPLOYS {
        systemd.systemctl(&["reload", "hot.service"]);
        last = systemd.serves("hot.service", usize::try_from(deploy).expect("it is small") + 1);
    }
    let control = systemd.root().join("run/hot/control.sock");
    eventually("only the first is left", SOON, || {
        let predecessors = Status::ask(&control).ok()?.predecessors;
        (predecessors.len() == 1 && predecessors[0].state == "drained").then_some(())
    });
    let facts = ["ActiveState", "MainPID"].map(|name| systemd.show("hot.service", name));
    assert_eq!(facts, ["active", &first.pid.to_string()]);

    let request = systemd.in_its_network(|| in_flight(&control, first.http));
    systemd.systemctl(&["stop", "hot.service"]);
    assert_eq!(request.answer().expect("what is in flight is answered").0, last.pid);
    let facts = ["ActiveState", "Result", "ExecMainStatus"].map(|name| systemd.show("hot.service", name));
    assert_eq!(facts, ["inactive", "success", "0"]);
}

/// The main process alone is told; systemd does not know of the versions after it.
#[test]
fn a_stop_of_which_only_the_main_process_is_told() {
    if !have(&systemd::NEEDS) {
        return;
    }
    let sandbox = Sandbox::new();
    let unit = exec_unit("KillMode=mixed");
    let systemd = Systemd::boot(&sandbox, Network::Own, &[("hot.service", &unit)]);
    systemd.systemctl(&["start", "hot.service"]);
    let first = systemd.serves("hot.service", 1);
    systemd.systemctl(&["reload", "hot.service"]);
    let second = systemd.serves("hot.service", 2);
    let control = systemd.root().join("run/hot/control.sock");
    eventually("the first has drained", SOON, || {
        let predecessors = Status::ask(&control).ok()?.predecessors;
        (predecessors.len() == 1 && predecessors[0].state == "drained").then_some(())
    });
    let request = systemd.in_its_network(|| in_flight(&control, first.http));
    systemd.systemctl(&["stop", "hot.service"]);
    assert_eq!(request.answer().expect("what is in flight is answered").0, second.pid);
    let facts = ["ActiveState", "Result", "ExecMainStatus"].map(|name| systemd.show("hot.service", name));
    assert_eq!(facts, ["inactive", "success", "0"]);
}

/// Each of these has a main process of its own, so the old one leaves as it always did.
#[test]
fn units_of_which_each_has_its_own_process() {
    if !have(&systemd::NEEDS) {
        return;
    }
    let sandbox = Sandbox::new();
    let unit =
        exec_unit("").replace("/run/%N/", "/run/app/").replace("=%N", "=app\nRuntimeDirectoryPreserve=yes");
    let systemd = Systemd::boot(&sandbox, Network::Own, &[("app@.service", &unit)]);
    systemd.systemctl(&["start", "app@v1.service"]);
    let first = systemd.serves("app@v1.service", 1);
    systemd.systemctl(&["start", "app@v2.service"]);
    let second = systemd.serves("app@v2.service", 1);
    systemd.wait_for("app@v1.service", "ActiveState", "inactive");
    let facts = ["ActiveState", "MainPID"].map(|name| systemd.show("app@v2.service", name));
    assert_eq!(facts, ["active", &second.pid.to_string()]);
    let answered = systemd.in_its_network(|| who_answers(first.http));
    assert_eq!(answered.expect("the service answers"), second.pid);
}
