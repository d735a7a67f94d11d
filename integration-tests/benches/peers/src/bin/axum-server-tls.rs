//! axum-server with rustls: HTTPS without hot updates.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use axum::{Router, routing::get};
use axum_server::tls_rustls::RustlsConfig;
use clap::Parser;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

#[derive(Parser)]
struct Cli {
    #[arg(long)]
    http: SocketAddr,
    #[arg(long)]
    dir: PathBuf,
}

#[tokio::main(worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let Cli { http, dir } = Cli::parse();
    let version = std::fs::read_to_string(dir.join("version"))?;
    let app = Router::new().route("/", get(move || std::future::ready(version.clone())));
    let certificate = CertificateDer::from_pem_file(dir.join("cert.pem"))?;
    let key = PrivateKeyDer::from_pem_file(dir.join("key.pem"))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let listener = std::net::TcpListener::bind(http)?;
    listener.set_nonblocking(true)?;
    let (address, pid) = (listener.local_addr()?, std::process::id());
    println!("serving generation=0 pid={pid} http={address}");
    let server = axum_server::from_tcp_rustls(listener, RustlsConfig::from_config(Arc::new(config)))?;
    Ok(server.serve(app.into_make_service()).await?)
}
