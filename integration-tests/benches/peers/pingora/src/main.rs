//! pingora's own server; `--upgrade` takes the listeners of the process that gets SIGQUIT.

use std::sync::Arc;

use async_trait::async_trait;
use clap::Parser as _;
use http::Response;
use peers::Cli;
use pingora_core::apps::ServerApp;
use pingora_core::apps::http_app::ServeHttp;
use pingora_core::protocols::Stream;
use pingora_core::protocols::http::ServerSession;
use pingora_core::server::configuration::{Opt, ServerConf};
use pingora_core::server::{Server, ShutdownWatch};
use pingora_core::services::listening::Service;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

struct Hello(String);

#[async_trait]
impl ServeHttp for Hello {
    async fn response(&self, _: &mut ServerSession) -> Response<Vec<u8>> {
        let body = self.0.clone().into_bytes();
        let response = Response::builder().header("content-length", body.len());
        response.body(body).expect("its parts are fine")
    }
}

struct Echo;

#[async_trait]
impl ServerApp for Echo {
    async fn process_new(self: &Arc<Self>, mut stream: Stream, _: &ShutdownWatch) -> Option<Stream> {
        let mut bytes = [0; 1024];
        while let Ok(n @ 1..) = stream.read(&mut bytes).await {
            if stream.write_all(&bytes[..n]).await.is_err() || stream.flush().await.is_err() {
                break;
            }
        }
        None
    }
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let at = |name: &str| cli.dir.join(name).display().to_string();
    let conf = ServerConf {
        threads: 2,
        upgrade_sock: at("upgrade.sock"),
        pid_file: at("pingora.pid"),
        // As short as its drain can be without cutting requests of this load.
        grace_period_seconds: Some(2),
        graceful_shutdown_timeout_seconds: Some(2),
        ..ServerConf::default()
    };
    let opt = Opt { upgrade: cli.upgrade, ..Opt::default() };
    let mut server = Server::new_with_opt_and_conf(opt, conf);
    server.bootstrap();
    let mut web = Service::new("web".to_owned(), Hello(cli.version()?));
    web.add_tcp(&cli.http.to_string());
    let mut raw = Service::new("raw".to_owned(), Echo);
    raw.add_tcp(&cli.raw.to_string());
    server.add_service(web);
    server.add_service(raw);
    server.run_forever()
}
