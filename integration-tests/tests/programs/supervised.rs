//! `hotctl run` as the main process of a unit, by the unit and the commands of READMEs, and as
//! process 1 of a container.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use integration_tests::client::who_answers;
use integration_tests::process::needs::{GUNICORN, IP, NAMESPACES, PYTHON, have};
use integration_tests::process::{Exit, binary, children};
use integration_tests::systemd::PROGRAMS;
use integration_tests::{
    Network, Podman, Readme, SOON, Sandbox, Service, Status, Systemd, eventually, podman, systemd,
};
use rustix::process::Signal;

use super::support::{compiled, file};

const UNIT: &str = "shop.service";

/// The unit of the README.
fn unit() -> String {
    let blocks = Readme::of("crates/hotctl").blocks().into_iter();
    let mut units = blocks.filter(|block| block.text.contains("ExecStart=/usr/local/bin/hotctl run "));
    units.next().expect("the README has it").text
}

/// What the unit names: hotctl, gunicorn, and the application. `/tmp` is another one in there, so all that is
/// needed lies in the sandbox.
fn install(systemd: &Systemd<'_>, sandbox: &Sandbox) {
    let packages = sandbox.path().join("packages");
    fs::create_dir(&packages).expect("the sandbox is ours");
    let copy = "import gunicorn, shutil, sys
shutil.copytree(gunicorn.__path__[0], f'{sys.argv[1]}/gunicorn')";
    let copied = Command::new("python3").args(["-c", copy]).arg(&packages).status().expect("Python runs");
    assert!(copied.success());
    let application = sandbox.path().join("app.py");
    fs::copy(file("app.py"), &application).expect("it is in this repository");
    let script = format!(
        "install -D {PROGRAMS}/hotctl /usr/local/bin/hotctl; install -D {} /opt/shop/app.py
        printf '#!/bin/sh\\nPYTHONPATH={} exec python3 -m gunicorn \"$@\"\\n' >/usr/local/bin/gunicorn
        chmod +x /usr/local/bin/gunicorn",
        application.display(),
        packages.display()
    );
    let done = systemd.run("sh", &["-euc", &script]);
    assert_eq!(done.code(), 0, "{}", done.stderr);
}

#[test]
fn the_unit_of_the_readme() {
    if !have(&[PYTHON, GUNICORN]) || !have(&systemd::NEEDS) {
        return;
    }
    let sandbox = Sandbox::new();
    let systemd = Systemd::boot(&sandbox, Network::Own, &[(UNIT, &unit())]);
    install(&systemd, &sandbox);
    let address = "127.0.0.1:8080".parse().expect("an address");
    let answers = || systemd.in_its_network(|| who_answers(address)).expect("no client is refused");
    let main = || systemd.show(UNIT, "MainPID");
    // The keeper, the master of gunicorn and its worker, of one version.
    let group = format!("/sys/fs/cgroup/system.slice/{UNIT}/cgroup.procs");
    let one_version = || {
        eventually("one version is left", SOON, || {
            (systemd.run("cat", &[&group]).stdout.lines().count() == 3).then_some(())
        });
    };
    systemd.systemctl(&["start", UNIT]);
    let (first, keeper) = (answers(), main());

    systemd.systemctl(&["reload", UNIT]);
    eventually("the new version answers, and is the main process", SOON, || {
        (answers() != first && main() != keeper).then_some(())
    });
    one_version();
    let status = systemd.run("hotctl", &["--socket", "/run/shop/control.sock", "status"]);
    assert!(status.code() == 0 && status.stdout.contains("gunicorn app:app"), "{status:?}");

    // A version that cannot be imported.
    assert_eq!(systemd.run("mv", &["/opt/shop/app.py", "/opt/shop/app"]).code(), 0);
    let second = answers();
    assert_ne!(systemd.run("systemctl", &["reload", UNIT]).code(), 0);
    let journal = systemd.journal(UNIT);
    assert!(journal.contains("gunicorn app:app: exited (status 3)"), "{journal}");
    assert_eq!(systemd.run("mv", &["/opt/shop/app", "/opt/shop/app.py"]).code(), 0);
    assert_eq!(answers(), second);
    one_version();

    // The program crashes, and its keeper exits as it did; then the keeper is killed. The unit starts again.
    for victim in ["its program", "the keeper"] {
        let (before, keeper) = (answers(), main());
        let script = match victim {
            "its program" => format!("kill -KILL $(cat /proc/{keeper}/task/{keeper}/children)"),
            _ => format!("kill -KILL {keeper}"),
        };
        assert_eq!(systemd.run("sh", &["-euc", &script]).code(), 0, "{script}");
        eventually(&format!("another version serves when {victim} has been killed"), SOON, || {
            let now = systemd.in_its_network(|| who_answers(address)).ok()?;
            (now != before && systemd.show(UNIT, "ActiveState") == "active").then_some(())
        });
        one_version();
    }
    assert!(systemd.journal(UNIT).contains("code=exited, status=137"), "{}", systemd.journal(UNIT));

    systemd.systemctl(&["stop", UNIT]);
    assert_eq!(systemd.show(UNIT, "Result"), "success");
    assert_eq!(systemd.show(UNIT, "ActiveState"), "inactive");
}

/// Where its port is free: those of hotctl's README, and those of the whole's.
#[test]
fn the_commands_of_the_readmes() {
    if !have(&[PYTHON, GUNICORN, NAMESPACES, IP]) {
        return;
    }
    for folder in ["crates/hotctl", "."] {
        the_commands_of(&Readme::of(folder).commands("run"));
    }
}

fn the_commands_of(commands: &str) {
    let sandbox = Sandbox::new();
    let (start, update) = commands.split_once('\n').expect("two lines");
    for (name, text) in
        [("hotctl", "exec \"$HOTCTL\" \"$@\""), ("gunicorn", "exec python3 -m gunicorn \"$@\"")]
    {
        let path = sandbox.path().join(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("the sandbox is ours");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it is ours");
    }
    fs::copy(file("app.py"), sandbox.path().join("app.py")).expect("the sandbox is ours");
    let script = format!(
        "ip link set lo up
        {start} &
        until hotctl --socket ./shop.sock status 2>/dev/null | grep -q serving; do sleep 0.05; done
        {update}
        hotctl --socket ./shop.sock status
        hotctl --socket ./shop.sock stop --wait
        wait"
    );
    let (mut unshare, output) = sandbox.command(Path::new("unshare"));
    let path = format!("{}:{}", sandbox.path().display(), std::env::var("PATH").unwrap_or_default());
    unshare.env("PATH", path).env("HOTCTL", binary("hotctl"));
    unshare.args(["--net", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-euc", &script]);
    let outcome = sandbox.outcome(unshare, output).expect_success();
    assert!(outcome.stderr.contains("serves now, generation 2"), "{outcome:?}");
    assert!(outcome.stdout.contains("gunicorn app:app"), "{outcome:?}");
}

/// A program of one file in an image from scratch.
struct Shop<'a> {
    sandbox: &'a Sandbox,
    podman: Podman<'a>,
}

impl<'a> Shop<'a> {
    fn new(sandbox: &'a Sandbox) -> Self {
        fs::create_dir(sandbox.path().join("shared")).expect("the sandbox is ours");
        let _server = compiled(sandbox);
        Self { sandbox, podman: Podman::new(sandbox) }
    }

    /// Starts it; its address, and process 1 as it is seen from here.
    fn start(&self) -> (SocketAddr, Service<'a>) {
        let folder = self.sandbox.path().display();
        let (shared, server) = (format!("{folder}/shared:/run/shop"), format!("{folder}/server:/server:ro"));
        let run =
            ["run", "--detach", "--name", "shop", "--network", "host", "--read-only", "--cap-drop", "all"];
        let volumes = ["--volume", &shared, "--volume", &server, podman::IMAGE];
        let hotctl = ["hotctl", "run", "--listen", "http=127.0.0.1:0", "--settle", "0.2", "--", "/server"];
        self.podman.podman(&[&run[..], &volumes, &hotctl].concat());
        let status = self.serves(1);
        let init = self.podman.inspect("shop", "State.Pid").parse().expect("a process id");
        (status.listeners[0].address.parse().expect("an address"), Service::of(self.sandbox, init))
    }

    fn serves(&self, generation: u64) -> Status {
        eventually(&format!("generation {generation} serves"), SOON, || {
            let status = Status::ask(&self.sandbox.path().join("shared/control.sock")).ok()?;
            (status.serving.state == "serving" && status.serving.generation == generation).then_some(status)
        })
    }

    fn exits(&self, code: &str) {
        assert_eq!(self.podman.podman(&["wait", "shop"]), code, "{}", self.podman.logs("shop"));
        self.podman.podman(&["rm", "shop"]);
    }
}

#[test]
fn process_1_of_a_container() {
    if !have(&podman::NEEDS) {
        return;
    }
    let sandbox = Sandbox::new();
    let shop = Shop::new(&sandbox);

    let (address, init) = shop.start();
    let first = who_answers(address).expect("it answers");
    let update = ["exec", "shop", "hotctl", "handoff", "--log", "/proc/1/fd/1", "--", "/server"];
    shop.podman.podman(&update);
    shop.serves(2);
    assert_ne!(who_answers(address).expect("it answers"), first);
    // What the update has started is its child now; what has ended is reaped.
    eventually("process 1 has the keeper of the new version alone", SOON, || {
        matches!(children(init.pid())[..], [keeper] if children(keeper).len() == 1).then_some(())
    });
    assert!(
        shop.podman.logs("shop").contains("/server was started as process"),
        "{}",
        shop.podman.logs("shop")
    );
    shop.podman.podman(&["stop", "--time", "30", "shop"]);
    shop.exits("0");

    // It exits as the program does: after a crash, and after a signal that is passed on and ends it.
    for how in ["crash", "signal"] {
        let (_, init) = shop.start();
        let code = if how == "crash" {
            let program = children(init.pid())[0];
            Service::of(&sandbox, program).signal(Signal::KILL);
            "137"
        } else {
            shop.podman.podman(&["kill", "--signal", "USR1", "shop"]);
            "138"
        };
        shop.exits(code);
        assert!(
            !Path::new(&format!("/proc/{}", init.pid())).exists() || init.try_exit() == Some(Exit::Unknown)
        );
    }
}
