//! What is measured: this project and its peers, each started, upgraded in its own way, and stopped.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

/// How often something that will happen is looked for.
const LOOK: Duration = Duration::from_millis(1);

/// A process that has not started or stopped by then never does.
const PATIENCE: Duration = Duration::from_secs(20);

/// How a system is upgraded.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    clap::ValueEnum,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub(crate) enum System {
    /// This project, not upgraded.
    Control,
    Hotupdate,
    /// `USR2`, then `QUIT` to the old master.
    Nginx,
    /// `USR2` to the master.
    Haproxy,
    /// A second process with the next `--restart-epoch`.
    Envoy,
    /// axum, with the listeners that ecdysis passes on.
    Ecdysis,
    /// axum over `SO_REUSEPORT`, with shellflip's restart.
    Shellflip,
    /// A second process with `--upgrade`, then `QUIT` to the first.
    Pingora,
    /// Two axum processes over `SO_REUSEPORT`, the second started before the first is stopped.
    Reuseport,
    /// An axum process that is stopped and started.
    Restart,
}

impl System {
    pub(crate) const ALL: [Self; 10] = [
        Self::Control,
        Self::Hotupdate,
        Self::Nginx,
        Self::Haproxy,
        Self::Envoy,
        Self::Ecdysis,
        Self::Shellflip,
        Self::Pingora,
        Self::Reuseport,
        Self::Restart,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Control => "control, no upgrade",
            Self::Hotupdate => "hotupdate",
            Self::Nginx => "nginx USR2",
            Self::Haproxy => "haproxy reload",
            Self::Envoy => "Envoy hot restart",
            Self::Ecdysis => "ecdysis + axum",
            Self::Shellflip => "shellflip + axum",
            Self::Pingora => "pingora",
            Self::Reuseport => "axum, SO_REUSEPORT",
            Self::Restart => "axum, stop and start",
        }
    }

    /// Its program, if it is installed.
    pub(crate) fn program(self) -> Option<PathBuf> {
        let beside = |folder: &str, name: &str| {
            let here = std::env::current_exe().ok()?;
            let path = here.parent()?.join(folder).join(name);
            path.exists().then_some(path)
        };
        match self {
            Self::Control | Self::Hotupdate => beside("", "bench-server"),
            Self::Nginx => installed("nginx"),
            Self::Haproxy => installed("haproxy"),
            Self::Envoy => installed("envoy"),
            Self::Ecdysis => beside("../peers/release", "ecdysis-server"),
            Self::Shellflip => beside("../peers/release", "shellflip-server"),
            Self::Pingora => beside("../peers/release", "pingora-server"),
            Self::Reuseport | Self::Restart => beside("../peers/release", "reuseport-server"),
        }
    }

    /// Its name and version, where it is no part of this project.
    pub(crate) fn version(self) -> Option<String> {
        match self {
            Self::Nginx | Self::Haproxy => self.says("-v"),
            Self::Envoy => self.says("--version"),
            Self::Ecdysis => locked("ecdysis"),
            Self::Shellflip => locked("shellflip"),
            Self::Pingora => locked("pingora-core"),
            Self::Reuseport => locked("axum"),
            Self::Control | Self::Hotupdate | Self::Restart => None,
        }
    }

    fn says(self, argument: &str) -> Option<String> {
        let program = self.program()?;
        let output = Command::new(&program).arg(argument).output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        let line = text.lines().map(str::trim).find(|line| !line.is_empty())?;
        // Envoy begins with its path, which is no news.
        Some(line.replace(&format!("{} ", program.display()), "envoy"))
    }
}

/// The version of a crate that peers are built with.
fn locked(name: &str) -> Option<String> {
    let lock = include_str!("../peers/Cargo.lock");
    let (_, rest) = lock.split_once(&format!("name = \"{name}\"\nversion = \""))?;
    Some(format!("{name} {}", rest.split_once('"')?.0))
}

fn installed(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/usr/local/sbin".into()])
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}

/// Where a system listens, and what it gets.
pub(crate) struct Place {
    pub(crate) folder: PathBuf,
    pub(crate) http: SocketAddr,
    pub(crate) raw: SocketAddr,
    /// Echoes; for proxies, which cannot do it themselves.
    pub(crate) echo: SocketAddr,
    /// As many open files as the system allows; for those that want to be told.
    pub(crate) files: u64,
}

impl Place {
    fn file(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    fn write(&self, name: &str, text: &str) -> anyhow::Result<()> {
        let path = self.folder.join(name);
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
    }
}

/// A system that runs. Dropped, all of its processes end.
pub(crate) struct Running<'a> {
    system: System,
    program: PathBuf,
    place: &'a Place,
    children: Vec<Child>,
    /// The process that the upgrade replaces.
    old: Vec<i32>,
}

impl<'a> Running<'a> {
    pub(crate) fn start(system: System, place: &'a Place) -> anyhow::Result<Self> {
        let program = system.program().context("it is not installed")?;
        let mut running = Self { system, program, place, children: Vec::new(), old: Vec::new() };
        running.configure(1)?;
        running.spawn(0)?;
        Ok(running)
    }

    /// Starts a process of it, the first or the next.
    fn spawn(&mut self, epoch: u32) -> anyhow::Result<()> {
        let Place { folder, http, raw, .. } = self.place;
        let mut command = Command::new(&self.program);
        let place = self.place;
        match self.system {
            System::Nginx => command.args(["-p", &place.file(""), "-c", &place.file("nginx.conf")]),
            System::Haproxy => command.args(["-W", "-db", "-f", &place.file("haproxy.cfg")]),
            System::Envoy => command
                .args(["--config-path", &place.file("envoy.yaml"), "--concurrency", "2"])
                .args(["--drain-time-s", "5", "--parent-shutdown-time-s", "7", "--log-level", "error"])
                .args(["--base-id", &(http.port() % 10_000).to_string()])
                .args(["--restart-epoch", &epoch.to_string()]),
            _ => command
                .args(["--http", &http.to_string(), "--raw", &raw.to_string()])
                .args(["--dir", &folder.display().to_string()])
                .args((self.system == System::Pingora && epoch > 0).then_some("--upgrade")),
        };
        let log = fs::OpenOptions::new().append(true).create(true).open(folder.join("log"))?;
        command.current_dir(folder).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().with_context(|| format!("starting {}", self.program.display()))?;
        self.children.push(child);
        Ok(())
    }

    /// The process that was started first.
    pub(crate) fn first(&self) -> anyhow::Result<u32> {
        self.children.first().map(Child::id).context("it was started")
    }

    /// The process to which an operator sends signals.
    fn master(&self) -> anyhow::Result<i32> {
        if self.system != System::Nginx {
            return Ok(self.children[0].id().cast_signed());
        }
        // nginx ignores USR2 in a master that is no daemon.
        let pid = fs::read_to_string(self.place.folder.join("nginx.pid"))?;
        pid.trim().parse().context("nginx.pid has a number")
    }

    /// Writes what the next process of it reads.
    fn configure(&self, version: u32) -> anyhow::Result<()> {
        let Place { http, raw, echo, .. } = self.place;
        let place = self.place;
        match self.system {
            System::Nginx => place.write(
                "nginx.conf",
                &format!(
                    "load_module /usr/lib/nginx/modules/ngx_stream_module.so;
worker_processes 2; worker_rlimit_nofile {files}; error_log {error}; pid {pid};
events {{ worker_connections 16384; }}
http {{
  access_log off; keepalive_requests 100000000; keepalive_timeout 600;
  server {{ listen {http} backlog=4096; location / {{ return 200 v{version}; }} }}
}}
stream {{ server {{ listen {raw}; proxy_pass {echo}; }} }}
",
                    files = place.files,
                    error = place.file("error.log"),
                    pid = place.file("nginx.pid"),
                ),
            ),
            System::Haproxy => place.write(
                "haproxy.cfg",
                &format!(
                    "global
  nbthread 2
  maxconn 12000
  ulimit-n {files}
  no strict-limits
  stats socket {socket} mode 600 level admin expose-fd listeners
defaults
  mode http
  timeout connect 5s
  timeout client 600s
  timeout server 600s
frontend web
  option idle-close-on-response
  bind {http}
  http-request return status 200 content-type text/plain string v{version}
listen raw
  mode tcp
  bind {raw}
  server echo {echo}
",
                    files = place.files,
                    socket = place.file("haproxy.sock"),
                ),
            ),
            System::Envoy => place.write("envoy.yaml", &envoy(place, version)),
            _ => place.write("version", &format!("v{version}")),
        }
    }

    /// Begins the upgrade to version 2, with all that its operator would do.
    pub(crate) fn upgrade(&mut self) -> anyhow::Result<()> {
        let first = self.master()?;
        self.old = match self.system {
            System::Nginx | System::Haproxy => children(first),
            _ => vec![first],
        };
        self.configure(2)?;
        match self.system {
            System::Control => {
                self.configure(1)?;
                self.old.clear();
            }
            System::Nginx => {
                signal(first, Signal::USR2)?;
                eventually("the new master has its workers", || {
                    let now = self.master().ok().filter(|now| *now != first)?;
                    (children(now).len() >= 2).then_some(())
                })?;
                self.old.push(first);
                signal(first, Signal::QUIT)?;
            }
            System::Haproxy => signal(first, Signal::USR2)?,
            System::Hotupdate | System::Envoy => self.spawn(1)?,
            System::Pingora => {
                self.spawn(1)?;
                signal(first, Signal::QUIT)?;
            }
            System::Ecdysis => signal(first, Signal::HUP)?,
            System::Shellflip => signal(first, Signal::USR1)?,
            System::Reuseport => {
                self.spawn(1)?;
                eventually("the second process listens", || {
                    self.place.folder.join("listens-v2").exists().then_some(())
                })?;
                signal(first, Signal::TERM)?;
            }
            System::Restart => {
                signal(first, Signal::TERM)?;
                // An idle client may keep its connection for ever, and no process serves meanwhile.
                if eventually_in(Duration::from_secs(2), || (!self.is_old_there()).then_some(())).is_none() {
                    signal(first, Signal::KILL)?;
                }
                self.spawn(1)?;
            }
        }
        Ok(())
    }

    /// Whether a process of the version before is still there.
    pub(crate) fn is_old_there(&mut self) -> bool {
        self.children.iter_mut().for_each(|child| drop(child.try_wait()));
        let is_there = |pid: i32| Pid::from_raw(pid).is_some_and(|pid| test_kill_process(pid).is_ok());
        self.old.retain(|pid| is_there(*pid) && !is_zombie(*pid));
        !self.old.is_empty()
    }

    /// What it has written; for an error.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.place.folder.join("log")).unwrap_or_default()
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        // Successors need not be children of this program, but they have its folder as their working
        // directory.
        let all = || processes_in(&self.place.folder);
        all().into_iter().for_each(|pid| drop(signal(pid, Signal::KILL)));
        self.children.iter_mut().for_each(|child| drop(child.wait()));
        let _gone = eventually_in(PATIENCE, || processes_in(&self.place.folder).is_empty().then_some(()));
    }
}

fn envoy(place: &Place, version: u32) -> String {
    let Place { http, raw, echo, .. } = place;
    let address =
        |at: &SocketAddr| format!("socket_address: {{ address: {}, port_value: {} }}", at.ip(), at.port());
    format!(
        r#"static_resources:
  listeners:
  - name: web
    address: {{ {http} }}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: web
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{ "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }}
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match: {{ prefix: "/" }}
                direct_response: {{ status: 200, body: {{ inline_string: "v{version}" }} }}
  - name: raw
    address: {{ {raw} }}
    filter_chains:
    - filters:
      - name: envoy.filters.network.tcp_proxy
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: raw
          cluster: echo
  clusters:
  - name: echo
    type: STATIC
    load_assignment:
      cluster_name: echo
      endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ {echo} }} }} }}] }}]
"#,
        http = address(http),
        raw = address(raw),
        echo = address(echo),
    )
}

pub(crate) fn signal(pid: i32, signal: Signal) -> anyhow::Result<()> {
    ensure!(pid > 1, "{pid} is no process of ours");
    let process = Pid::from_raw(pid).context("a process has a number")?;
    kill_process(process, signal).with_context(|| format!("sending {signal:?} to {pid}"))
}

/// Looks until it happens.
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> anyhow::Result<T> {
    match eventually_in(PATIENCE, &mut look) {
        Some(value) => Ok(value),
        None => bail!("it did not happen in {PATIENCE:?}: {what}"),
    }
}

pub(crate) fn eventually_in<T>(within: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let until = Instant::now() + within;
    loop {
        if let Some(value) = look() {
            return Some(value);
        }
        if until < Instant::now() {
            return None;
        }
        sleep(LOOK);
    }
}

fn children(pid: i32) -> Vec<i32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

fn is_zombie(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, state)| state.starts_with('Z'))
}

/// The processes whose working directory is this folder.
fn processes_in(folder: &Path) -> Vec<i32> {
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == folder)).collect()
}
