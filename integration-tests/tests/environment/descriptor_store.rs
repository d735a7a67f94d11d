//! Listeners in systemd's descriptor store: a real systemd, in namespaces of its own, restarts a service that was killed,
//! and nobody notices.
//!
//! Deliberately absent: the network namespace of its own that a container has, so that clients are ordinary ones.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use integration_tests::client::{InFlight, who_answers};
use integration_tests::process::needs::{CGROUPS, NAMESPACES, SYSTEMD, cgroup2, have};
use integration_tests::process::{binary, eventually};
use integration_tests::{SOON, Sandbox, Service, Serving, Status, hotctl};

/// Boots systemd as process 1 of new namespaces, with the root file system under an overlay that nobody keeps. Its
/// arguments: the sandbox, a new cgroup, the folder of the programs.
const BOOT: &str = r#"
echo $$ > "$2/cgroup.procs"
exec unshare --pid --mount --uts --ipc --cgroup --fork --kill-child --propagation private sh -eu -c '
mkdir "$1/system"
mount -t tmpfs tmpfs "$1/system"
cd "$1/system"
mkdir upper work root
mount -t overlay overlay -o lowerdir=/,upperdir=upper,workdir=work root
cd root
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs tmpfs dev
for node in null zero full random urandom tty; do touch dev/$node; mount --bind /dev/$node dev/$node; done
touch dev/console "$1/logs/systemd.err"
mount --bind "$1/logs/systemd.err" dev/console
mount -t tmpfs tmpfs run
mkdir -p ".$1" ".$3" run/systemd/system old
mount --bind "$1" ".$1"
mount --bind "$3" ".$3"
cp "$1"/units/* run/systemd/system/
pivot_root . old
cd /
umount -l old
exec env -i container=unshare HOTUPDATE_TEST_SANDBOX="$1" PATH="$PATH" \
  /lib/systemd/systemd --system --unit=hot.service --log-target=console --show-status=no
' sh "$@"
"#;

/// A systemd with the unit `hot.service`. Dropped, it ends with everything in it.
struct Systemd<'a> {
    sandbox: &'a Sandbox,
    unshare: Service<'a>,
    init: u32,
    cgroup: PathBuf,
}

impl<'a> Systemd<'a> {
    #[track_caller]
    fn boot(sandbox: &'a Sandbox, probation: &str) -> Self {
        let folder = sandbox.path().display().to_string();
        let programs =
            binary("axum-server").parent().expect("a program lies in a folder").display().to_string();
        fs::create_dir(sandbox.path().join("units")).expect("a fresh folder takes another");
        write_unit(&sandbox.path().join("units"), sandbox, "127.0.0.1:0", probation);
        let name = sandbox.path().file_name().expect("a sandbox has a name");
        let cgroup = cgroup2().expect("cgroups are mounted").join(name);
        fs::create_dir(&cgroup).expect("a cgroup can be made");
        let cgroup_path = cgroup.display().to_string();
        let arguments = ["-eu", "-c", BOOT, "sh", &folder, &cgroup_path, &programs].map(str::to_owned);
        let unshare = Service::spawn(sandbox, Path::new("/bin/sh"), &arguments);
        let init = eventually("systemd is process 1 of new namespaces", SOON, || {
            assert_eq!(unshare.try_exit(), None, "systemd does not boot here");
            let pid = unshare.pid();
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
            let init = children.split_whitespace().next()?.parse().ok()?;
            let name = fs::read_to_string(format!("/proc/{init}/comm")).ok()?;
            (name.trim() == "systemd").then_some(init)
        });
        let systemd = Self { sandbox, unshare, init, cgroup };
        eventually("the unit is active", SOON, || (systemd.show("ActiveState") == "active").then_some(()));
        systemd
    }

    /// A program in there.
    fn enter(&self, program: &str, arguments: &[&str]) -> (bool, String, String) {
        let init = self.init.to_string();
        let (mut command, output) = self.sandbox.command(Path::new("/usr/bin/nsenter"));
        command.args(["-t", &init, "-a", program]).args(arguments);
        let ended = command.status().expect("nsenter starts");
        let read = |path: &Path| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        (ended.success(), read(&output.stdout), read(&output.stderr))
    }

    /// `systemctl …` in there; its output.
    #[track_caller]
    fn systemctl(&self, arguments: &[&str]) -> String {
        let (success, stdout, stderr) = self.enter("systemctl", arguments);
        // While it boots, nobody listens.
        assert!(success || arguments.first() == Some(&"show"), "systemctl {arguments:?}: {stderr}");
        stdout
    }

    fn show(&self, property: &str) -> String {
        self.systemctl(&["show", "--value", "-p", property, "hot.service"])
    }

    /// The newest of so many processes that said that they serve.
    #[track_caller]
    fn serves(&self, count: usize) -> Serving {
        let lines = || fs::read_to_string(self.sandbox.path().join("logs/server.out")).unwrap_or_default();
        eventually(&format!("{count} processes have said that they serve"), SOON, || {
            lines().lines().filter_map(Serving::parse).nth(count - 1)
        })
    }

    /// The same when it is the main process.
    #[track_caller]
    fn main_serves(&self, count: usize) -> Serving {
        let newest = self.serves(count);
        eventually(&format!("{} is the main process", newest.pid), SOON, || {
            (self.show("MainPID") == newest.pid.to_string()).then_some(newest)
        })
    }

    #[track_caller]
    fn holds(&self, count: &str) {
        eventually(&format!("the store holds {count}"), SOON, || {
            (self.show("NFileDescriptorStore") == count).then_some(())
        });
    }

    /// Kills the main process; returns when systemd has noticed and nobody serves.
    #[track_caller]
    fn kill(&self) {
        self.systemctl(&["kill", "--kill-who=main", "--signal=KILL", "hot.service"]);
        eventually("nobody serves", SOON, || (self.show("SubState") == "auto-restart").then_some(()));
    }
}

impl Drop for Systemd<'_> {
    fn drop(&mut self) {
        self.unshare.kill();
        eventually("systemd is gone, and with it all that it started", SOON, || {
            let _gone_already = fs::read_dir(&self.cgroup).map(|_| remove(&self.cgroup));
            (!self.cgroup.exists()).then_some(())
        });
    }
}

/// Cgroups are removed from the inside out, when nobody is left in them.
fn remove(cgroup: &Path) {
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path());
        }
    }
    let _later = fs::remove_dir(cgroup);
}

/// The restart takes long enough to see that nobody serves meanwhile.
fn write_unit(folder: &Path, sandbox: &Sandbox, address: &str, probation: &str) {
    let (server, hotctl, dir) = (binary("axum-server"), binary("hotctl"), sandbox.path().display());
    let (server, hotctl) = (server.display(), hotctl.display());
    let command = format!("{server} --listen {address} --control {dir}/control.sock --probation {probation}");
    let unit = format!(
        "[Unit]
DefaultDependencies=no
StartLimitIntervalSec=0
[Service]
Type=notify
NotifyAccess=all
ExecStart={command}
ExecReload={hotctl} --socket {dir}/control.sock handoff -- {command}
Restart=on-failure
RestartSec=2
FileDescriptorStoreMax=16
# systemd says so itself from version 254 on.
Environment=FDSTORE=16
StandardOutput=append:{dir}/logs/server.out
StandardError=append:{dir}/logs/server.err
"
    );
    fs::write(folder.join("hot.service"), unit).expect("the folder is ours");
}

/// The inode of the socket that listens there: the socket is the same as long as this is.
#[track_caller]
fn inode(address: SocketAddr) -> u64 {
    const LISTEN: &str = "0A";
    let table = fs::read_to_string("/proc/net/tcp").expect("there is /proc");
    let port = format!(":{:04X}", address.port());
    let fields = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let found =
        fields.filter(|fields| fields[1].ends_with(&port) && fields[3] == LISTEN).map(|fields| fields[9]);
    let inodes: Vec<u64> = found.filter_map(|inode| inode.parse().ok()).collect();
    assert_eq!(inodes.len(), 1, "who listens at {address}: {inodes:?}");
    inodes[0]
}

/// A client that connects while nobody serves is answered by the next process.
#[track_caller]
fn survives_a_kill(systemd: &Systemd<'_>, before: Serving, count: usize) -> Serving {
    let socket = inode(before.http);
    systemd.kill();
    let client = InFlight::start(before.http, Duration::ZERO);
    let after = systemd.main_serves(count);
    assert_eq!(client.answer().expect("a client in the queue is answered").0, after.pid);
    assert_ne!(after.pid, before.pid);
    assert_eq!((after.http, inode(after.http)), (before.http, socket), "it is another socket");
    systemd.holds("1");
    after
}

#[test]
fn a_crash_after_the_first_start_and_after_a_hot_update() {
    if !have(&[SYSTEMD, NAMESPACES, CGROUPS]) {
        return;
    }
    let sandbox = Sandbox::new();
    let systemd = Systemd::boot(&sandbox, "0");
    let first = systemd.main_serves(1);
    systemd.holds("1");
    let second = survives_a_kill(&systemd, first, 2);

    systemd.systemctl(&["reload", "hot.service"]);
    let third = systemd.main_serves(3);
    assert_eq!((third.generation, third.http), (2, first.http));
    assert_eq!(who_answers(third.http).expect("the service answers"), third.pid);
    eventually("the predecessor is gone, and the service is not", SOON, || {
        let gone = sandbox.drained().iter().any(|drained| drained.pid == second.pid);
        gone.then(|| assert_eq!(systemd.show("ActiveState"), "active"))
    });
    systemd.holds("1");
    let _fourth = survives_a_kill(&systemd, third, 4);
}

#[test]
fn a_restart_keeps_them_and_a_stop_does_not() {
    if !have(&[SYSTEMD, NAMESPACES, CGROUPS]) {
        return;
    }
    let sandbox = Sandbox::new();
    let systemd = Systemd::boot(&sandbox, "0");
    let first = systemd.main_serves(1);
    systemd.holds("1");
    let socket = inode(first.http);
    systemd.systemctl(&["restart", "hot.service"]);
    let second = systemd.main_serves(2);
    assert_eq!((second.http, inode(second.http)), (first.http, socket), "it is another socket");
    assert_eq!(who_answers(second.http).expect("the service answers"), second.pid);
    systemd.systemctl(&["stop", "hot.service"]);
    eventually("clients are refused", SOON, || TcpStream::connect(first.http).err());
}

#[test]
fn another_address_is_bound_afresh_and_the_old_one_is_let_go() {
    if !have(&[SYSTEMD, NAMESPACES, CGROUPS]) {
        return;
    }
    let sandbox = Sandbox::new();
    let systemd = Systemd::boot(&sandbox, "0");
    let first = systemd.main_serves(1);
    systemd.holds("1");
    let units = PathBuf::from(format!("/proc/{}/root/run/systemd/system", systemd.init));
    write_unit(&units, &sandbox, "127.0.0.2:0", "0");
    systemd.systemctl(&["daemon-reload"]);
    systemd.systemctl(&["restart", "hot.service"]);
    let second = systemd.main_serves(2);
    assert_eq!(second.http.ip().to_string(), "127.0.0.2");
    eventually("the old socket is in nobody's hands", SOON, || TcpStream::connect(first.http).err());
    systemd.holds("1");
    let _third = survives_a_kill(&systemd, second, 3);
}

#[test]
fn a_new_version_that_crashes_in_probation_is_no_business_of_systemd() {
    if !have(&[SYSTEMD, NAMESPACES, CGROUPS]) {
        return;
    }
    let sandbox = Sandbox::new();
    let systemd = Systemd::boot(&sandbox, "30");
    let first = systemd.main_serves(1);
    systemd.systemctl(&["reload", "hot.service"]);
    let second = systemd.serves(2);
    assert_eq!(who_answers(first.http).expect("the service answers"), second.pid);
    assert_eq!(systemd.show("MainPID"), first.pid.to_string(), "it can still take over again");
    let (killed, _, why) = systemd.enter("/bin/kill", &["-KILL", &second.pid.to_string()]);
    assert!(killed, "{why}");
    eventually("the predecessor has taken over", SOON, || {
        (who_answers(first.http).expect("clients wait at most") == first.pid).then_some(())
    });
    let facts =
        ["ActiveState", "MainPID", "NRestarts", "NFileDescriptorStore"].map(|name| systemd.show(name));
    assert_eq!(facts, ["active", &first.pid.to_string(), "0", "1"]);
}

#[test]
fn an_operator_who_stops_the_service_lets_the_listeners_go_while_it_drains() {
    if !have(&[SYSTEMD, NAMESPACES, CGROUPS]) {
        return;
    }
    let sandbox = Sandbox::new();
    let systemd = Systemd::boot(&sandbox, "0");
    let first = systemd.main_serves(1);
    systemd.holds("1");
    let slow = InFlight::start(first.http, Duration::from_secs(4));
    eventually("the request is in flight", SOON, || {
        (Status::ask(&sandbox.control()).ok()?.serving.connections.active == 1).then_some(())
    });
    let _done = hotctl(&sandbox, &["stop"]).expect_success();
    eventually("clients are refused", SOON, || TcpStream::connect(first.http).err());
    assert_eq!(systemd.show("ActiveState"), "active");
    assert!(slow.is_waiting(), "the service has ended meanwhile");
    assert_eq!(slow.answer().expect("a drain goes on").0, first.pid);
}

/// The new version dies as the main process while the old one still drains.
fn a_crash_while_the_old_version_still_drains(hot_update: impl FnOnce(&Systemd<'_>)) {
    let sandbox = Sandbox::new();
    let systemd = Systemd::boot(&sandbox, "0");
    let first = systemd.main_serves(1);
    systemd.holds("1");
    let slow = InFlight::start(first.http, Duration::from_secs(4));
    eventually("the request is in flight", SOON, || {
        (Status::ask(&sandbox.control()).ok()?.serving.connections.active == 1).then_some(())
    });
    hot_update(&systemd);
    let second = systemd.main_serves(2);
    systemd.systemctl(&["kill", "--kill-who=main", "--signal=KILL", "hot.service"]);
    eventually("nobody serves", SOON, || Status::ask(&sandbox.control()).err());
    let client = InFlight::start(second.http, Duration::ZERO);
    // systemd lets the old version finish first.
    assert_eq!(slow.answer().expect("a drain goes on").0, first.pid);
    let third = systemd.main_serves(3);
    assert_eq!(client.answer().expect("a client in the queue is answered").0, third.pid);
}

#[test]
fn a_crash_while_the_old_version_still_drains_after_a_reload() {
    if !have(&[SYSTEMD, NAMESPACES, CGROUPS]) {
        return;
    }
    a_crash_while_the_old_version_still_drains(|systemd| {
        systemd.systemctl(&["reload", "hot.service"]);
    });
}

/// The new version is a child of the old one then, and systemd hears of its end from nobody else.
#[test]
fn a_crash_while_the_old_version_still_drains_after_sighup() {
    if !have(&[SYSTEMD, NAMESPACES, CGROUPS]) {
        return;
    }
    a_crash_while_the_old_version_still_drains(|systemd| {
        systemd.systemctl(&["kill", "--kill-who=main", "--signal=HUP", "hot.service"]);
    });
}
