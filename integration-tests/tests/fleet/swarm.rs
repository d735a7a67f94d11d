//! `examples/swarm` on three nodes: a deploy, an update, and a version that does not start, which is rolled
//! back.
//!
//! A node is a dockerd in namespaces of its own; a network in another one connects them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use integration_tests::podman::NEEDS;
use integration_tests::process::Exit;
use integration_tests::process::needs::{CURL, DOCKER, DOCKERD, IP, ROOT, cgroup2, have};
use integration_tests::readme::repository;
use integration_tests::{Podman, Readme, SOON, Sandbox, Service, eventually};

const NODES: usize = 3;

/// An update waits for each node, and for `monitor`.
const PATIENCE: Duration = Duration::from_secs(300);

const EXAMPLE: &str = "examples/swarm";

/// Process 1 of a node: its arguments are a cgroup of its own, and a folder.
const NODE: &str = r#"
echo $$ > "$1/cgroup.procs"
exec unshare --pid --mount --net --uts --cgroup --fork --kill-child --mount-proc --propagation private sh -euc '
mount -t tmpfs tmpfs /run
mount -t cgroup2 cgroup2 /sys/fs/cgroup
ip link set lo up
dockerd --data-root "$2/data" --exec-root /run/docker --host "unix://$2/docker.sock" --pidfile "$2/pid" \
  --iptables=false --bridge=none --storage-driver=vfs --default-ulimit nofile=20000:20000 &
wait
' sh "$1" "$2"
"#;

struct Node {
    /// `unshare`, whose child is process 1 of the node.
    pid: u32,
    folder: PathBuf,
}

/// Three of them. Dropped, it leaves nothing.
struct Swarm<'a> {
    sandbox: &'a Sandbox,
    nodes: Vec<Node>,
    cgroup: PathBuf,
}

impl<'a> Swarm<'a> {
    fn new(sandbox: &'a Sandbox) -> Self {
        let name = sandbox.path().file_name().unwrap();
        let cgroup = cgroup2().expect("cgroups are mounted").join(name);
        let mut swarm = Self { sandbox, nodes: Vec::new(), cgroup };
        let switch = "ip link add bridge type bridge; ip link set bridge up; exec sleep infinity";
        let switch = ["--net", "sh", "-euc", switch].map(str::to_owned);
        let switch = Service::spawn(sandbox, Path::new("unshare"), &switch).pid();
        eventually("there is a network", SOON, || {
            swarm.enter(switch, "-n", "ip link show dev bridge").ok().map(drop)
        });
        for number in 1..=NODES {
            swarm.add(number, switch);
        }
        swarm
    }

    fn add(&mut self, number: usize, switch: u32) {
        let folder = self.sandbox.path().join(format!("node{number}"));
        let cgroup = self.cgroup.join(number.to_string());
        fs::create_dir(&folder).unwrap();
        fs::create_dir_all(&cgroup).unwrap();
        let words = ["-euc", NODE, "sh"].map(str::to_owned);
        let paths = [&cgroup, &folder].map(|path| path.display().to_string());
        let words: Vec<_> = words.into_iter().chain(paths).collect();
        let pid = Service::spawn(self.sandbox, Path::new("/bin/sh"), &words).pid();
        let inner = eventually("process 1 of the node is there", SOON, || child(pid));
        let link = format!(
            "ip link add port{number} type veth peer name eth0 netns {inner}
            ip link set port{number} master bridge up"
        );
        eventually("the node has a network of its own", SOON, || {
            let [ours, its] =
                [std::process::id(), inner].map(|pid| fs::read_link(format!("/proc/{pid}/ns/net")).ok());
            (ours? != its?).then_some(())
        });
        self.enter(switch, "-n", &link).unwrap();
        let address = format!("ip address add 10.77.0.{number}/24 dev eth0; ip link set eth0 up");
        self.enter(inner, "-n", &address).unwrap();
        self.nodes.push(Node { pid: inner, folder });
        let node = self.nodes.len() - 1;
        eventually("docker answers", SOON, || self.docker(node, "info").ok().map(drop));
        self.enter(inner, "-m", &Readme::of(EXAMPLE).commands("node")).unwrap();
    }

    /// Runs a script in namespaces of a process; what it printed.
    fn enter(&self, pid: u32, namespaces: &str, script: &str) -> Result<String, String> {
        let mut nsenter = Command::new("nsenter");
        nsenter.args(["-t", &pid.to_string()]).args(namespaces.split(' ')).args(["sh", "-euc", script]);
        said(&mut nsenter)
    }

    /// A shell beside the example whose docker is that of a node.
    fn shell(&self, node: usize, script: &str) -> Command {
        let mut shell = Command::new("timeout");
        shell
            .arg(PATIENCE.as_secs().to_string())
            .args(["sh", "-euc", script])
            .current_dir(repository().join(EXAMPLE));
        let socket = self.nodes[node].folder.join("docker.sock");
        shell.env("DOCKER_HOST", format!("unix://{}", socket.display()));
        shell.env("DOCKER_CONFIG", self.sandbox.path().join("docker"));
        shell
    }

    fn docker(&self, node: usize, words: &str) -> Result<String, String> {
        said(&mut self.shell(node, &format!("docker {words}")))
    }

    fn join(&self) {
        self.docker(0, "swarm init --advertise-addr 10.77.0.1 --listen-addr 10.77.0.1:2377").unwrap();
        let token = self.docker(0, "swarm join-token --quiet worker").unwrap();
        for number in 2..=NODES {
            let token = token.trim();
            let join = format!("swarm join --token {token} --advertise-addr 10.77.0.{number} 10.77.0.1:2377");
            self.docker(number - 1, &join).unwrap();
        }
    }

    /// An image from what is in a folder, on every node.
    fn import(&self, folder: &Path, tag: &str) {
        let script =
            format!("tar -C {} -cf - . | docker import --change 'ENV PATH=/' - {tag}", folder.display());
        for node in 0..NODES {
            said(&mut self.shell(node, &script)).unwrap();
        }
    }

    /// Which version answers on each node.
    fn versions(&self) -> Vec<String> {
        let ask = "curl --silent --max-time 10 http://127.0.0.1:8080/version";
        self.nodes.iter().map(|node| self.enter(node.pid, "-n", ask).unwrap()).collect()
    }

    /// Clients on every node, whose every request has to be answered; stopped by a file.
    fn load(&self, stop: &Path) -> Vec<Service<'a>> {
        let script = format!(
            "set -eu; while [ ! -e {} ]; do curl --silent --fail --max-time 20 -o /dev/null \
             'http://127.0.0.1:8080/?sleep=0.02'; done",
            stop.display()
        );
        let start = |node: &Node| {
            let words = ["-t", &node.pid.to_string(), "-n", "sh", "-c", &script].map(str::to_owned);
            Service::spawn(self.sandbox, Path::new("nsenter"), &words)
        };
        self.nodes.iter().map(start).collect()
    }
}

impl Drop for Swarm<'_> {
    fn drop(&mut self) {
        for node in &self.nodes {
            Service::of(self.sandbox, node.pid).signal(rustix::process::Signal::KILL);
        }
        eventually("the nodes are gone, and all that they started", SOON, || {
            remove(&self.cgroup);
            (!self.cgroup.exists()).then_some(())
        });
    }
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

fn child(pid: u32) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

fn said(command: &mut Command) -> Result<String, String> {
    let output = command.output().unwrap();
    let [stdout, stderr] =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    if output.status.success() {
        Ok(stdout)
    } else {
        Err(format!("{command:?}: {}\n{stdout}{stderr}", output.status))
    }
}

#[test]
fn an_update_hands_over_on_each_node_and_a_bad_version_is_rolled_back() {
    if !have(&NEEDS) || !have(&[DOCKER, DOCKERD, ROOT, IP, CURL]) {
        return;
    }
    let sandbox = Sandbox::new();
    // It puts the programs, and what they load, into a folder.
    let image = Podman::new(&sandbox).image();
    let swarm = Swarm::new(&sandbox);
    swarm.join();
    for tag in ["shop:v1", "shop:v2"] {
        swarm.import(&image, tag);
    }
    let deploy = Readme::of(EXAMPLE).commands("deploy");
    let [first, second] = deploy.lines().collect::<Vec<_>>().try_into().unwrap();
    said(&mut swarm.shell(0, first)).unwrap();
    assert_eq!(swarm.versions(), ["v1"; NODES]);

    let stop = sandbox.path().join("stop");
    let load = swarm.load(&stop);
    said(&mut swarm.shell(0, second)).unwrap();
    assert_eq!(swarm.versions(), ["v2"; NODES]);

    let empty = sandbox.path().join("empty");
    fs::create_dir(&empty).unwrap();
    swarm.import(&empty, "shop:v3");
    // The command says whether the service has converged, which it has, in the version before.
    let _converged = said(&mut swarm.shell(0, &second.replace("v2", "v3")));
    let state = "service inspect --format '{{.UpdateStatus.State}}' shop_axum-server";
    assert_eq!(swarm.docker(0, state).unwrap().trim(), "rollback_completed");
    assert_eq!(swarm.versions(), ["v2"; NODES]);

    fs::write(stop, "").unwrap();
    for clients in load {
        assert_eq!(clients.wait_exit(), Exit::Status(0), "a request failed");
    }
}
