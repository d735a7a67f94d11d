//! The service, in a process that can be replaced.

use std::pin::Pin;
use std::process::id;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::{Stream, StreamExt as _, stream};
use hotupdate::{SignalKind, Starting};
use hotupdate_axum::Draining;
use hotupdate_axum::tls::{self, Tls};
use tonic::service::Routes;
use tonic::{Request, Response, Status};

use crate::certificate;
use crate::cli::Serve;
use crate::greeter::greeter_server::{Greeter, GreeterServer};
use crate::messages::{Greeting, Name, Series};
use crate::say;

pub(crate) async fn run(cli: Serve) -> anyhow::Result<()> {
    let mut hot = join(&cli).await?;
    let grpc = hot.tcp("grpc", cli.listen.as_str()).await?;
    let address = grpc.local_addr().ip().context("a TCP listener has an IP address")?;
    let app = Routes::new(GreeterServer::new(Greets { version: cli.app_version })).into_axum_router();

    let mut server = hotupdate_axum::serve(grpc, app, &mut hot);
    if let Some(directory) = &cli.tls {
        let (config, tickets) = (certificate::config(directory)?, tls::tickets(&mut hot)?);
        server = server.tls(Tls::new(config).tickets(tickets).move_connections(true));
    }
    let hot = hot.ready().await?;
    let (generation, pid) = (hot.generation(), id());
    say(format_args!("serving generation={generation} pid={pid} http={address}"));
    server.await?;
    let forced = hot.connections().forced();
    say(format_args!("drained generation={generation} pid={pid} forced={forced}"));
    Ok(())
}

async fn join(cli: &Serve) -> anyhow::Result<Starting> {
    let control = cli.control_path()?;
    let mut builder =
        hotupdate::builder(control).version(&cli.app_version).successor_signal(SignalKind::hangup());
    if let Some(deadline) = cli.drain_deadline {
        builder = builder.drain_deadline(deadline);
    }
    if let Some(probation) = cli.probation {
        builder = builder.probation(probation);
    }
    Ok(builder.join().await?)
}

struct Greets {
    version: String,
}

impl Greets {
    fn greeting(&self, name: &str) -> Greeting {
        Greeting { text: format!("hello {name}"), number: 0, version: self.version.clone() }
    }
}

#[tonic::async_trait]
impl Greeter for Greets {
    type GreetingsStream = Pin<Box<dyn Stream<Item = Result<Greeting, Status>> + Send>>;

    async fn greet(&self, name: Request<Name>) -> Result<Response<Greeting>, Status> {
        Ok(Response::new(self.greeting(&name.into_inner().name)))
    }

    async fn greetings(&self, request: Request<Series>) -> Result<Response<Self::GreetingsStream>, Status> {
        let draining = Draining::current();
        let Series { name, after, count, every_ms } = request.into_inner();
        let every = Duration::from_millis(every_ms);
        let greeting = self.greeting(&name);
        let numbered = stream::unfold(after + 1, move |number| {
            let greeting = Greeting { number, ..greeting.clone() };
            async move {
                tokio::time::sleep(every).await;
                Some((Ok(greeting), number + 1))
            }
        });
        let greetings: Self::GreetingsStream = match count {
            // A stream stays in the version where it began, which ends with it. This one would never end: it
            // does between two greetings, and its client asks the next version to go on.
            0 => Box::pin(draining.take_until_draining(numbered)),
            count => Box::pin(numbered.take(usize::try_from(count).unwrap_or(usize::MAX))),
        };
        Ok(Response::new(greetings))
    }
}
