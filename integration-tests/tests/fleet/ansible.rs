//! `examples/ansible` on four hosts: a deploy, a bad version that stops at the first host, one that serves
//! and answers the wrong thing.
//!
//! A host is a set of namespaces with an own `/opt`, `/run` and `/var/log`, and an own network; or a systemd
//! in such. ssh reaches it without one: its `ProxyCommand` runs sshd(8) in the namespaces.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use integration_tests::process::binary;
use integration_tests::process::needs::{ANSIBLE, CURL, IP, NAMESPACES, ROOT, SSHD, have};
use integration_tests::readme::repository;
use integration_tests::systemd::{self, PROGRAMS};
use integration_tests::{Network, Readme, SOON, Sandbox, Service, Systemd, eventually};

/// A task takes ansible a second or two for each batch of hosts.
const PATIENCE: Duration = Duration::from_secs(600);

const HOSTS: [&str; 4] = ["web1", "web2", "web3", "web4"];

const EXAMPLE: &str = "examples/ansible";

fn example(file: &str) -> PathBuf {
    repository().join(EXAMPLE).join(file)
}

/// Four hosts, and a controller with the files of the example.
struct Fleet<'a> {
    sandbox: &'a Sandbox,
    folder: PathBuf,
    hosts: Vec<Host>,
    /// What the inventory says of all hosts.
    variables: String,
}

struct Host {
    /// The process that holds its namespaces, and which they are, for nsenter(1).
    holder: u32,
    namespaces: &'static [&'static str],
    /// A folder that it sees.
    folder: PathBuf,
}

impl Host {
    /// `nsenter …` into it.
    fn enter(&self, words: &[&str]) -> Vec<String> {
        let holder = self.holder.to_string();
        [&["-t", &holder], self.namespaces, words].concat().iter().map(ToString::to_string).collect()
    }
}

impl<'a> Fleet<'a> {
    fn new(sandbox: &'a Sandbox, hosts: Vec<Host>, variables: String) -> Self {
        let folder = sandbox.path().join("controller");
        fs::create_dir(&folder).unwrap();
        for file in ["deploy.yml", "roles"] {
            symlink(example(file), folder.join(file)).unwrap();
        }
        let fleet = Self { sandbox, folder, hosts, variables };
        fleet.keys();
        fleet.inventory();
        for version in ["v1", "v2", "v3"] {
            fleet.release(version, "exec \"$0-real\" \"$@\"");
        }
        fleet
    }

    /// A release is a script beside the program, so that it can be a bad one.
    fn release(&self, version: &str, body: &str) {
        let folder = self.folder.join("releases").join(version);
        fs::create_dir_all(&folder).unwrap();
        let server = binary("axum-server").display().to_string();
        let body = body.replace("\"$0-real\"", &server);
        let path = folder.join("axum-server");
        fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    }

    fn keys(&self) {
        for name in ["client", "server"] {
            let file = self.folder.join(name);
            let mut keygen = Command::new("ssh-keygen");
            let made = keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(file).status().unwrap();
            assert!(made.success());
        }
        for host in &self.hosts {
            for file in ["client.pub", "server"] {
                fs::copy(self.folder.join(file), host.folder.join(file)).unwrap();
            }
            // The home is that of the host, too: what shells read in the one of this user may wait for one
            // another.
            let at = host.folder.display();
            let config = format!(
                "HostKey {at}/server\nAuthorizedKeysFile {at}/client.pub\nStrictModes no\nUsePAM no\n\
                 PidFile none\nPermitRootLogin yes\nPasswordAuthentication no\nSubsystem sftp internal-sftp\n\
                 SetEnv HOME={at} PATH={}:/usr/bin:/bin:/usr/sbin:/sbin HOTUPDATE_TEST_SANDBOX={}\n",
                binary("hotctl").parent().unwrap().display(),
                self.sandbox.path().display(),
            );
            fs::write(host.folder.join("sshd_config"), config).unwrap();
        }
    }

    fn inventory(&self) {
        let at = self.folder.display();
        let mut inventory = "[servers]\n".to_owned();
        for (name, host) in HOSTS.iter().zip(&self.hosts) {
            let config = host.folder.join("sshd_config").display().to_string();
            let sshd = host.enter(&["/usr/sbin/sshd", "-i", "-e", "-f", &config]).join(" ");
            inventory.push_str(&format!(
                "{name} ansible_host={name} ansible_user=root ansible_ssh_private_key_file={at}/client \
                 ansible_ssh_common_args='-F none -o UserKnownHostsFile=/dev/null -o StrictHostKeyChecking=no \
                 -o ProxyCommand=\"nsenter {sshd}\"'\n"
            ));
        }
        inventory.push_str("[servers:vars]\nansible_python_interpreter=/usr/bin/python3\n");
        inventory.push_str(&self.variables);
        fs::write(self.folder.join("inventory.ini"), inventory).unwrap();
    }

    /// Runs it to its end: whether it succeeds, and what it printed.
    #[track_caller]
    fn run(&self, command: &str) -> (bool, String) {
        let (mut bash, output) = self.sandbox.command(Path::new("bash"));
        bash.args(["-euc", command]).current_dir(&self.folder).env("ANSIBLE_HOME", self.folder.join("home"));
        bash.env("ANSIBLE_NOCOLOR", "1").env("ANSIBLE_RETRY_FILES_ENABLED", "0").env("LC_ALL", "C.UTF-8");
        bash.env("ANSIBLE_LOCAL_TEMP", self.folder.join("tmp")).env("ANSIBLE_PIPELINING", "1");
        // A connection for each task. By default ansible keeps them for a minute, by the names of hosts:
        // another fleet of this user has the same names, and tasks would run on its hosts.
        bash.env("ANSIBLE_SSH_ARGS", "-C");
        let mut bash = bash.spawn().unwrap();
        let status = eventually("the play ends", PATIENCE, || bash.try_wait().unwrap());
        let said = [output.stdout, output.stderr].map(|path| fs::read_to_string(path).unwrap());
        (status.success(), said.concat())
    }

    fn on(&self, host: usize, command: &str) -> String {
        let (mut nsenter, output) = self.sandbox.command(Path::new("nsenter"));
        nsenter.args(self.hosts[host].enter(&["sh", "-euc", command]));
        self.sandbox.outcome(nsenter, output).stdout.trim().to_owned()
    }

    /// Which version answers on each host.
    fn versions(&self) -> Vec<String> {
        let ask = "curl --silent --max-time 10 http://127.0.0.1:8080/version";
        (0..HOSTS.len()).map(|host| self.on(host, ask)).collect()
    }

    /// Clients on every host, whose every request has to be answered; stopped by a file.
    fn load(&self) -> Vec<Service<'a>> {
        let start = |host: &Host| {
            let script = format!(
                "set -eu; while [ ! -e {}/stop ]; do curl --silent --fail --max-time 20 -o /dev/null \
                 http://127.0.0.1:8080/?sleep=0.02; done",
                host.folder.display()
            );
            Service::spawn(self.sandbox, Path::new("nsenter"), &host.enter(&["sh", "-c", &script]))
        };
        self.hosts.iter().map(start).collect()
    }
}

/// A process in namespaces of its own.
fn host(sandbox: &Sandbox, name: &str) -> Host {
    let script = format!(
        "hostname {name}; ip link set lo up; for folder in /opt /run /var/log; do mount -t tmpfs tmpfs $folder; done; \
         mkdir -p /run/sshd /run/axum-server; chmod 700 /run/axum-server; touch /run/is-up; exec sleep infinity"
    );
    let words = ["--mount", "--net", "--uts", "--propagation", "private", "sh", "-euc", &script];
    let holder = Service::spawn(sandbox, Path::new("unshare"), &words.map(str::to_owned));
    let mark = format!("/proc/{}/root/run/is-up", holder.pid());
    eventually("the host is up", SOON, || Path::new(&mark).exists().then_some(()));
    let folder = sandbox.path().join(name);
    fs::create_dir(&folder).unwrap();
    Host { holder: holder.pid(), namespaces: &["-m", "-n", "-u"], folder }
}

/// What starts the first version, where there is no systemd.
const WITHOUT_SYSTEMD: &str = "hotupdate_start=[\"sh\", \"-c\", \"HOTUPDATE_SOCKET=/run/axum-server/control.sock \
     setsid --fork /opt/axum-server/current/run >/var/log/axum-server.log 2>&1 </dev/null\"]\n";

#[test]
fn a_bad_version_stops_at_the_first_host_and_every_host_serves() {
    if !have(&[ANSIBLE, SSHD, ROOT, NAMESPACES, IP, CURL]) {
        return;
    }
    let sandbox = Sandbox::new();
    let hosts = HOSTS.map(|name| host(&sandbox, name)).into();
    deploys(&Fleet::new(&sandbox, hosts, WITHOUT_SYSTEMD.to_owned()));
}

/// The unit of the example, and the line of its README with which the role reloads it.
#[test]
fn the_same_with_a_unit_of_systemd_on_every_host() {
    if !have(&[ANSIBLE, SSHD, ROOT, CURL]) || !have(&systemd::NEEDS) {
        return;
    }
    let variables = Readme::of(EXAMPLE)
        .text()
        .lines()
        .find(|line| line.starts_with("hotupdate_handoff="))
        .unwrap()
        .to_owned()
        + "\n";
    let unit = fs::read_to_string(example("axum-server.service")).unwrap();
    let sandboxes = HOSTS.map(|_| Sandbox::new());
    let boot = |sandbox| Systemd::boot(sandbox, Network::Own, &[("axum-server.service", &unit)]);
    let hosts = sandboxes.each_ref().map(boot);
    for systemd in &hosts {
        let script = format!("mkdir -p /run/sshd; install -D {PROGRAMS}/hotctl /usr/local/bin/hotctl");
        assert_eq!(systemd.run("sh", &["-euc", &script]).code(), 0);
    }
    let controller = Sandbox::new();
    let seen = hosts.iter().zip(&sandboxes).map(|(systemd, sandbox)| Host {
        holder: systemd.init(),
        namespaces: &["-a"],
        folder: sandbox.path().to_owned(),
    });
    deploys(&Fleet::new(&controller, seen.collect(), variables));
    for systemd in &hosts {
        assert_eq!(systemd.show("axum-server", "ActiveState"), "active");
        assert_eq!(systemd.show("axum-server", "NRestarts"), "0");
    }
}

fn deploys(fleet: &Fleet<'_>) {
    let deploy = Readme::of(EXAMPLE).commands("deploy");
    let [first, second] = deploy.lines().collect::<Vec<_>>().try_into().unwrap();

    let (succeeds, said) = fleet.run(first);
    assert!(succeeds, "{said}");
    assert_eq!(fleet.versions(), ["v1"; 4]);

    let load = fleet.load();
    let (succeeds, said) = fleet.run(second);
    assert!(succeeds, "{said}");
    assert_eq!(fleet.versions(), ["v2"; 4]);
    assert_eq!(fleet.on(0, "readlink /opt/axum-server/current"), "v2");

    // One that does not start, and one that serves and is not what it should be, which gives the service back.
    for (bad, serves) in
        [("echo broken >&2; exit 1", false), ("exec \"$0-real\" \"$1\" \"$2\" --app-version wrong", true)]
    {
        fleet.release("v3", bad);
        let (succeeds, said) = fleet.run(&second.replace("v2", "v3"));
        assert!(!succeeds && said.contains("v3 is not well; web1 serves as before"), "{said}");
        assert!(!said.contains("[web2]"), "only the first host is touched: {said}");
        let handoffs = said.matches("TASK [hotupdate : The current release takes over]").count();
        assert_eq!(handoffs, if serves { 2 } else { 1 }, "{said}");
        assert_eq!(fleet.versions(), ["v2"; 4]);
        assert_eq!(fleet.on(0, "readlink /opt/axum-server/current"), "v2");
    }

    for host in &fleet.hosts {
        fs::write(host.folder.join("stop"), "").unwrap();
    }
    for clients in load {
        assert_eq!(clients.wait_exit(), integration_tests::process::Exit::Status(0), "a request failed");
    }
}
