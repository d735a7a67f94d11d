//! A service that answers HTTPS, and its handoffs.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::sys::stat::Mode;
use rustls::ClientConfig;

use super::{Client, Keys, config};
use crate::crash::run::WRAPPER;
use crate::process::{SOON, Sandbox, Service, Serving, binary, eventually};

/// `axum-server` with a certificate of its own, whose connections migrate as soon as the next version serves.
#[derive(Debug)]
pub struct Https<'a> {
    sandbox: &'a Sandbox,
    directory: PathBuf,
}

impl<'a> Https<'a> {
    /// In this sandbox.
    #[must_use]
    pub fn new(sandbox: &'a Sandbox) -> Self {
        Self { sandbox, directory: sandbox.path().join("tls") }
    }

    /// Starts a version.
    #[must_use]
    pub fn start(&self, version: &str) -> Service<'a> {
        Service::spawn(self.sandbox, &binary("axum-server"), &self.arguments(version))
    }

    /// Prepares a version that begins when something is written to the pipe at `gate`.
    pub(super) fn start_behind(&self, gate: &Path, version: &str) -> Service<'a> {
        nix::unistd::mkfifo(gate, Mode::S_IRUSR | Mode::S_IWUSR).expect("a pipe");
        let words = ["-c", WRAPPER].map(str::to_owned).into_iter();
        let paths = [gate, &binary("axum-server")].map(|path| path.display().to_string());
        let arguments: Vec<_> = words.chain(paths).chain(self.arguments(version)).collect();
        Service::spawn(self.sandbox, Path::new("/bin/sh"), &arguments)
    }

    fn arguments(&self, version: &str) -> Vec<String> {
        let directory = self.directory.to_str().expect("a sandbox has a plain path");
        Service::arguments(self.sandbox, version, &["--probation", "0", "--tls", directory])
    }

    /// Starts the next version, and waits until it serves and the one before has ended.
    ///
    /// # Panics
    ///
    /// If connections were closed at the deadline, or if it takes too long.
    pub fn hand_off(&self, from: Serving, version: &str) -> Serving {
        let to = self.start(version).wait_serving();
        assert_eq!(to.http, from.http, "the listener was not inherited");
        let before = Service::of(self.sandbox, from.pid);
        assert_eq!(before.wait_drained().forced, 0, "connections of {} were cut", from.pid);
        eventually("the version before ends", SOON, || (!before.is_alive()).then_some(()));
        to
    }

    /// Clients of this service.
    #[must_use]
    pub fn clients(&self, keys: &Arc<Keys>) -> Arc<ClientConfig> {
        config(&self.directory, keys)
    }
}

/// Many clients of one service that have asked once.
///
/// # Errors
///
/// If one gets no answer.
pub async fn connect(
    config: &Arc<ClientConfig>,
    address: SocketAddr,
    count: usize,
) -> anyhow::Result<Vec<Client>> {
    let mut clients = Vec::with_capacity(count);
    for _ in 0..count {
        let mut client = Client::connect(config, address).await?;
        client.who().await?;
        clients.push(client);
    }
    Ok(clients)
}
