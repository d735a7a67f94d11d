//! A real systemd, booted as process 1 of namespaces of its own, for units that tests write.
//!
//! Its root is that of this machine under an overlay that is thrown away, with a fresh `/run` and `/tmp` and
//! a journal of its own. Whatever is in it dies with it. The sandbox lies where it lies outside, and so do
//! the programs of this workspace; for a unit that may not read there, they are at [`PROGRAMS`], too, which
//! is in the `PATH` of each unit.
//!
//! Deliberately absent: dbus. `systemctl` speaks to systemd directly, as root.

use std::fs;
use std::path::{Path, PathBuf};
use std::{env, thread};

use crate::process::needs::{CGROUPS, NAMESPACES, Need, SYSTEMD, cgroup2};
use crate::process::network::in_network_of;
use crate::process::{Outcome, SOON, Sandbox, Service, Serving, binary, eventually};

/// What a machine needs for it.
pub const NEEDS: [Need; 3] = [SYSTEMD, NAMESPACES, CGROUPS];

/// Where every user finds the programs of this workspace.
pub const PROGRAMS: &str = "/opt/hotupdate";

/// Its arguments: the sandbox, a new cgroup, the folder of the programs, whether the network is its own.
const BOOT: &str = r#"
echo $$ > "$2/cgroup.procs"
own_network=--net
[ "$4" = own ] || own_network=
exec unshare --pid --mount $own_network --uts --ipc --cgroup --fork --kill-child --propagation private sh -eu -c '
[ "$4" = shared ] || ip link set lo up
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
mkdir dev/pts dev/shm
mount -t devpts devpts dev/pts -o newinstance,ptmxmode=0666
ln -s pts/ptmx dev/ptmx
mount -t tmpfs tmpfs dev/shm
touch dev/console "$1/logs/systemd.log"
mount --bind "$1/logs/systemd.log" dev/console
mount -t tmpfs tmpfs run -o mode=0755
mount -t tmpfs tmpfs tmp -o mode=1777
mkdir -p ".$1" ".$3" opt/hotupdate run/systemd old
mount --bind "$1" ".$1"
mount --bind "$3" ".$3"
mount --bind "$3" opt/hotupdate
cp -r "$1/units" run/systemd/system
mkdir run/systemd/journald.conf.d
mkdir run/systemd/system.conf.d
printf "%s\n" "[Manager]" "DefaultEnvironment=PATH=/opt/hotupdate:$PATH HOTUPDATE_TEST_SANDBOX=$1" \
  >run/systemd/system.conf.d/test.conf
printf "%s\n" "[Journal]" Storage=volatile RateLimitIntervalSec=0 \
  >run/systemd/journald.conf.d/test.conf
pivot_root . old
cd /
umount -l old
exec env -i container=unshare HOTUPDATE_TEST_SANDBOX="$1" PATH="$PATH" \
  /lib/systemd/systemd --system --unit=test.target --log-target=journal-or-kmsg --show-status=no
' sh "$@"
"#;

/// All that a unit with the usual dependencies asks for, and nothing that this machine would start by itself.
const TARGET: &str = "[Unit]\nRequires=sysinit.target\nAfter=sysinit.target\n";

/// Where clients are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// The units listen where this test can connect, so their ports have to be free here.
    Shared,
    /// Any port is free; clients come from [`Systemd::in_its_network`].
    Own,
}

/// A systemd that runs. Dropped, it ends with everything in it, and leaves nothing.
#[derive(Debug)]
pub struct Systemd<'a> {
    sandbox: &'a Sandbox,
    unshare: Service<'a>,
    init: u32,
    cgroup: PathBuf,
}

impl<'a> Systemd<'a> {
    /// Boots it with these unit files, by name and text; drop-ins have a `/` in their names. None of them is
    /// started.
    ///
    /// # Panics
    ///
    /// If it does not boot. [`NEEDS`] says where it can.
    #[must_use]
    #[track_caller]
    pub fn boot(sandbox: &'a Sandbox, network: Network, units: &[(&str, &str)]) -> Self {
        let folder = sandbox.path().join("units");
        fs::create_dir(&folder).expect("a fresh folder takes another");
        for (name, text) in [("test.target", TARGET)].iter().chain(units) {
            write_unit(&folder, name, text);
        }
        let programs = binary("hotctl").parent().expect("a program lies in a folder").to_owned();
        let name = sandbox.path().file_name().expect("a sandbox has a name");
        let cgroup = cgroup2().expect("cgroups are mounted").join(name);
        fs::create_dir(&cgroup).expect("a cgroup can be made");
        let whose = if network == Network::Own { "own" } else { "shared" };
        let paths = [sandbox.path(), &cgroup, &programs].map(|path| path.display().to_string());
        let words = ["-eu", "-c", BOOT, "sh"].into_iter().chain(paths.iter().map(String::as_str));
        let arguments: Vec<String> = words.chain([whose]).map(str::to_owned).collect();
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
        eventually("systemd has booted", SOON, || {
            let state = systemd.run("systemctl", &["is-active", "test.target"]).stdout;
            (state.trim_end() == "active").then_some(())
        });
        systemd
    }

    /// Runs a program in it, as root, to its end.
    ///
    /// # Panics
    ///
    /// If it does not end.
    #[must_use]
    #[track_caller]
    pub fn run(&self, program: &str, arguments: &[&str]) -> Outcome {
        let path = env::var("PATH").unwrap_or_default();
        let (mut command, output) = self.sandbox.command(Path::new("nsenter"));
        command.env("PATH", format!("{PROGRAMS}:{path}"));
        command.args(["-t", &self.init.to_string(), "-a", program]).args(arguments);
        self.sandbox.outcome(command, output)
    }

    /// `systemctl …` in it; its output.
    ///
    /// # Panics
    ///
    /// If it fails.
    #[track_caller]
    pub fn systemctl(&self, arguments: &[&str]) -> String {
        self.run("systemctl", arguments).expect_success().stdout.trim_end().to_owned()
    }

    /// A property of a unit, as `systemctl show` prints it.
    #[track_caller]
    #[must_use]
    pub fn show(&self, unit: &str, property: &str) -> String {
        self.systemctl(&["show", "--value", "-p", property, unit])
    }

    /// Waits until a property of a unit has this value.
    ///
    /// # Panics
    ///
    /// If it does not get it.
    #[track_caller]
    pub fn wait_for(&self, unit: &str, property: &str, value: &str) {
        eventually(&format!("{property} of {unit} is {value}"), SOON, || {
            (self.show(unit, property) == value).then_some(())
        });
    }

    /// What a unit, and systemd about it, wrote into the journal.
    ///
    /// # Panics
    ///
    /// If the journal cannot be read.
    #[track_caller]
    #[must_use]
    pub fn journal(&self, unit: &str) -> String {
        self.run("journalctl", &["--quiet", "--no-pager", "--output=cat", "--unit", unit])
            .expect_success()
            .stdout
    }

    /// Waits until so many processes of a unit have said in the journal that they serve, and returns the
    /// last. Process ids are those of its namespace.
    ///
    /// # Panics
    ///
    /// If they do not.
    #[track_caller]
    #[must_use]
    pub fn serves(&self, unit: &str, count: usize) -> Serving {
        eventually(&format!("{count} processes of {unit} have said that they serve"), SOON, || {
            self.journal(unit).lines().filter_map(Serving::parse).nth(count - 1)
        })
    }

    /// Changes a unit file, or adds one, and lets systemd read it.
    ///
    /// # Panics
    ///
    /// If systemd does not.
    #[track_caller]
    pub fn write_unit(&self, name: &str, text: &str) {
        write_unit(&self.root().join("run/systemd/system"), name, text);
        self.systemctl(&["daemon-reload"]);
    }

    /// Its root directory, as it is seen from outside.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root", self.init))
    }

    /// Its process id, as it is seen from outside.
    #[must_use]
    pub fn init(&self) -> u32 {
        self.init
    }

    /// Runs a piece of this test in its network. The threads that the piece starts are there, too.
    ///
    /// # Panics
    ///
    /// If the piece does, or if the system does not let it in.
    #[track_caller]
    pub fn in_its_network<T: Send>(&self, piece: impl FnOnce() -> T + Send) -> T {
        in_network_of(self.init, piece)
    }
}

impl Drop for Systemd<'_> {
    #[expect(clippy::print_stderr, reason = "the journal is what a failed test has to say")]
    fn drop(&mut self) {
        if thread::panicking() {
            let journal = self.run("journalctl", &["--quiet", "--no-pager", "--output=short-precise"]);
            eprintln!("---- journal\n{}{}", journal.stdout, journal.stderr);
        }
        self.unshare.kill();
        eventually("systemd is gone, and with it all that it started", SOON, || {
            let _gone_already = fs::read_dir(&self.cgroup).map(|_| remove(&self.cgroup));
            (!self.cgroup.exists()).then_some(())
        });
    }
}

fn write_unit(folder: &Path, name: &str, text: &str) {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().expect("it lies in a folder")).expect("the folder is ours");
    fs::write(path, text).expect("the folder is ours");
}

/// Cgroups are removed from the inside out, when no process is left in them.
fn remove(cgroup: &Path) {
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path());
        }
    }
    let _later = fs::remove_dir(cgroup);
}
