//! HTTPS beside other servers: what a handshake, a request and an idle connection cost, and what a move costs
//! more than without TLS.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use integration_tests::steady::idle;
use integration_tests::tls::{Client, Keys, config};
use integration_tests::{SOON, Sandbox, Service, eventually};
use rustls::ClientConfig;
use rustls::client::Resumption;
use serde::Serialize;
use serde_json::json;
use tokio::runtime::{Builder, Runtime};

use crate::numbers::median;
use crate::process::{Clock, memory, raise_limit, server, used_until_gone};
use crate::results::Findings;
use crate::say;
use crate::systems::System;
use crate::table::{Table, number};

/// Clients at the same time.
const CLIENTS: usize = 8;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Tls {
    /// Times that each is measured; the medians are told.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Handshakes and requests of each client.
    #[arg(long, default_value_t = 100)]
    handshakes: usize,
    #[arg(long, default_value_t = 3_000)]
    requests: usize,
    /// Connections that are idle.
    #[arg(long, default_value_t = 2_000)]
    idle: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Which {
    Hotupdate,
    AxumServer,
    Nginx,
}

impl Which {
    const ALL: [Self; 3] = [Self::Hotupdate, Self::AxumServer, Self::Nginx];

    fn name(self) -> &'static str {
        match self {
            Self::Hotupdate => "hotupdate-axum",
            Self::AxumServer => "axum-server, rustls",
            Self::Nginx => "nginx, OpenSSL",
        }
    }
}

/// What one server has used.
#[derive(Clone, Copy, Debug, Serialize)]
struct Round {
    server: Which,
    handshakes_per_second: f64,
    /// Processor time of the server, in microseconds.
    handshake_us: f64,
    requests_per_second: f64,
    request_us: f64,
    idle_bytes: f64,
}

/// Processor time of both processes for each idle connection that moves, in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
struct Move {
    plain_us: f64,
    tls_us: f64,
}

impl Tls {
    pub(crate) fn all(rounds: usize, is_quick: bool) -> Self {
        let (rounds, idle) = if is_quick { (1, 1_000) } else { (rounds, 2_000) };
        Self { rounds, handshakes: 100, requests: 3_000, idle }
    }

    pub(crate) fn run(&self) -> anyhow::Result<Findings> {
        raise_limit()?;
        let (mut rounds, mut moves) = (Vec::new(), Vec::new());
        for round in 0..self.rounds {
            say(&format!("tls, round {} of {}", round + 1, self.rounds))?;
            for which in Which::ALL {
                match self.measure(which) {
                    Ok(measured) => rounds.push(measured),
                    Err(error) => say(&format!("{} is not measured: {error:#}", which.name()))?,
                }
            }
            moves.push(Move { plain_us: self.moved(false)?, tls_us: self.moved(true)? });
        }
        let mut table = Table::new(&[
            "server",
            "handshakes in a second",
            "processor time each (µs)",
            "requests in a second",
            "processor time each (µs)",
            "memory of an idle connection (B)",
        ]);
        for which in Which::ALL {
            let of = |value: fn(&Round) -> f64| {
                median(rounds.iter().filter(|round| round.server == which).map(value))
            };
            table.row([
                which.name().to_owned(),
                number(of(|round| round.handshakes_per_second), 0),
                number(of(|round| round.handshake_us), 1),
                number(of(|round| round.requests_per_second), 0),
                number(of(|round| round.request_us), 2),
                number(of(|round| round.idle_bytes), 0),
            ]);
        }
        let mut moved = Table::new(&["moving an idle connection", "processor time, both sides (µs)"]);
        moved.row(["without TLS".to_owned(), number(median(moves.iter().map(|round| round.plain_us)), 1)]);
        moved.row(["with TLS".to_owned(), number(median(moves.iter().map(|round| round.tls_us)), 1)]);
        let nginx = System::Nginx.version().unwrap_or_else(|| "no nginx".to_owned());
        Ok(Findings {
            name: "tls",
            title: "HTTPS beside others",
            text: format!(
                "{table}\n{moved}\n{} rounds, medians; TLS 1.3 with AES-128-GCM and ECDSA P-256, full handshakes, \
                 {CLIENTS} clients in one thread, which is the limit of what is counted in a second; {} idle \
                 connections; {nginx} with one process.\n",
                self.rounds, self.idle
            ),
            figures: json!({ "rounds": rounds, "moves": moves }),
            plot: None,
            disturbed: None,
        })
    }

    fn measure(&self, which: Which) -> anyhow::Result<Round> {
        let sandbox = Sandbox::new();
        certify(sandbox.path())?;
        let (service, address) = start(&sandbox, which)?;
        let clock = Clock::of(service.pid())?;
        let (runtime, config) = clients(sandbox.path())?;
        // Before anything is counted.
        runtime.block_on(all_of(CLIENTS, || handshakes(config.clone(), address, 5)))?;

        let (count, used) = (CLIENTS * self.handshakes, clock.settled()?);
        let begun = Instant::now();
        runtime.block_on(all_of(CLIENTS, || handshakes(config.clone(), address, self.handshakes)))?;
        let handshakes_per_second = count as f64 / begun.elapsed().as_secs_f64();
        let handshake_us = each(clock.settled()? - used, count);

        let kept = runtime.block_on(all_of(CLIENTS, || asked(config.clone(), address)))?;
        let (count, used) = (CLIENTS * self.requests, clock.settled()?);
        let begun = Instant::now();
        let mut kept = kept.into_iter();
        let mut next = || requests(kept.next().expect("there are as many"), self.requests);
        runtime.block_on(all_of(CLIENTS, &mut next))?;
        let requests_per_second = count as f64 / begun.elapsed().as_secs_f64();
        let request_us = each(clock.settled()? - used, count);

        let before = memory(service.pid()).context("the server is gone")?;
        let silent = runtime.block_on(all_of(self.idle, || asked(config.clone(), address)))?;
        clock.settled()?;
        let after = memory(service.pid()).context("the server is gone")?;
        drop(silent);
        let idle_bytes = after.saturating_sub(before) as f64 / self.idle as f64;
        Ok(Round {
            server: which,
            handshakes_per_second,
            handshake_us,
            requests_per_second,
            request_us,
            idle_bytes,
        })
    }

    /// What moving one idle connection costs both processes; what a handoff costs anyway is subtracted.
    fn moved(&self, tls: bool) -> anyhow::Result<f64> {
        let [none, all] = [self.handed_off(tls, 0)?, self.handed_off(tls, self.idle)?];
        Ok(each(all.saturating_sub(none), self.idle))
    }

    fn handed_off(&self, tls: bool, connections: usize) -> anyhow::Result<Duration> {
        let sandbox = Sandbox::new();
        certify(sandbox.path())?;
        let arguments: &[&str] = if tls { &["--probation", "0", "--tls"] } else { &["--probation", "0"] };
        let old = server(&sandbox, 1, arguments)?;
        let address = old.wait_serving().http;
        let (runtime, config) = clients(sandbox.path())?;
        let (secret, plain);
        if tls {
            secret = runtime.block_on(all_of(connections, || asked(config.clone(), address)))?;
            plain = Vec::new();
        } else {
            (secret, plain) = (Vec::new(), idle(address, connections)?);
        }
        let before = Clock::of(old.pid())?.settled()?;
        let new = server(&sandbox, 2, arguments)?;
        new.wait_serving();
        let used = used_until_gone(&old)?.saturating_sub(before) + Clock::of(new.pid())?.settled()?;
        drop((secret, plain));
        Ok(used)
    }
}

fn each(used: Duration, count: usize) -> f64 {
    used.as_secs_f64() * 1e6 / count as f64
}

/// At most so many at the same time as there are clients.
async fn all_of<T, F>(count: usize, mut make: impl FnMut() -> F) -> anyhow::Result<Vec<T>>
where
    T: Send + 'static,
    F: Future<Output = anyhow::Result<T>> + Send + 'static,
{
    let mut results = Vec::with_capacity(count);
    while results.len() < count {
        let some = CLIENTS.min(count - results.len());
        let some: Vec<_> = (0..some).map(|_| tokio::spawn(make())).collect();
        for task in some {
            results.push(task.await??);
        }
    }
    Ok(results)
}

async fn handshakes(config: Arc<ClientConfig>, address: SocketAddr, times: usize) -> anyhow::Result<()> {
    for _ in 0..times {
        Client::connect(&config, address).await?.get("/").await?;
    }
    Ok(())
}

/// A client that was answered once.
async fn asked(config: Arc<ClientConfig>, address: SocketAddr) -> anyhow::Result<Client> {
    let mut client = Client::connect(&config, address).await?;
    client.get("/").await?;
    Ok(client)
}

async fn requests(mut client: Client, times: usize) -> anyhow::Result<()> {
    for _ in 0..times {
        client.get("/").await?;
    }
    Ok(())
}

/// Clients in one thread, that shake hands in full each time.
fn clients(folder: &Path) -> anyhow::Result<(Runtime, Arc<ClientConfig>)> {
    let mut clients = ClientConfig::clone(&config(folder, &Arc::new(Keys::default())));
    clients.key_log = Arc::new(rustls::NoKeyLog {});
    clients.resumption = Resumption::disabled();
    Ok((Builder::new_current_thread().enable_all().build()?, Arc::new(clients)))
}

fn certify(folder: &Path) -> anyhow::Result<()> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    fs::write(folder.join("key.pem"), made.signing_key.serialize_pem())?;
    Ok(fs::write(folder.join("cert.pem"), made.cert.pem())?)
}

fn start(sandbox: &Sandbox, which: Which) -> anyhow::Result<(Service<'_>, SocketAddr)> {
    match which {
        Which::Hotupdate => {
            let service = server(sandbox, 1, &["--probation", "0", "--tls"])?;
            let address = service.wait_serving().http;
            Ok((service, address))
        }
        Which::AxumServer => {
            let here = std::env::current_exe()?;
            let program = here.with_file_name("../peers/release/axum-server-tls");
            if !program.exists() {
                bail!("{} was not built", program.display());
            }
            fs::write(sandbox.path().join("version"), "v1")?;
            let folder = sandbox.path().display().to_string();
            let arguments = ["--http", "127.0.0.1:0", "--dir", &folder].map(str::to_owned);
            let service = Service::spawn(sandbox, &program, &arguments);
            let address = service.wait_serving().http;
            Ok((service, address))
        }
        Which::Nginx => nginx(sandbox),
    }
}

fn nginx(sandbox: &Sandbox) -> anyhow::Result<(Service<'_>, SocketAddr)> {
    let program = System::Nginx.program().context("nginx is not installed")?;
    // A port that was free a moment ago.
    let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
    let folder = sandbox.path().display().to_string();
    let settings = format!(
        "daemon off; master_process off; pid {folder}/nginx.pid; error_log stderr crit;
         events {{ worker_connections 20000; }}
         http {{
             access_log off; keepalive_requests 1000000000; keepalive_timeout 1h;
             client_body_temp_path {folder}/t; proxy_temp_path {folder}/t; fastcgi_temp_path {folder}/t;
             uwsgi_temp_path {folder}/t; scgi_temp_path {folder}/t;
             server {{
                 listen {address} ssl backlog=4096;
                 ssl_certificate {folder}/cert.pem; ssl_certificate_key {folder}/key.pem;
                 ssl_protocols TLSv1.3; ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
                 location / {{ return 200 v1; }}
             }}
         }}"
    );
    fs::write(sandbox.path().join("nginx.conf"), settings)?;
    let arguments = ["-p", &folder, "-c", "nginx.conf"].map(str::to_owned);
    let service = Service::spawn(sandbox, &program, &arguments);
    eventually("nginx listens", SOON, || std::net::TcpStream::connect(address).ok());
    Ok((service, address))
}
