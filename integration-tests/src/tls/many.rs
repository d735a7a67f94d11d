//! Many clients, while one version follows the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use rustls::ClientConfig;
use tokio::runtime::Builder;
use tokio::task::JoinHandle;

use super::{Client, Https, Keys, connect};
use crate::process::Sandbox;

/// How many of the clients that came back have resumed a session.
const MOST_RESUME: f64 = 0.99;

/// So many clients ask all the time, so many are silent, and one comes back over and over, while this many
/// versions follow each other.
///
/// # Panics
///
/// If a client loses its connection, has to shake hands again, or gets another answer than its own; if a
/// silent one is not with the last version; or if fewer than 99 % of visits resume a session.
pub fn outlive(busy: usize, idle: usize, handoffs: usize) {
    let sandbox = Sandbox::new();
    let https = Https::new(&sandbox);
    let mut serving = https.start("v0").wait_serving();
    let config = https.clients(&Arc::new(Keys::default()));
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let mut silent = runtime.block_on(connect(&config, serving.http, idle)).expect("silent clients");
    let talkers = runtime.block_on(connect(&config, serving.http, busy)).expect("busy clients");
    let stop = Arc::new(AtomicBool::new(false));
    let talks: Vec<JoinHandle<anyhow::Result<u64>>> =
        talkers.into_iter().map(|client| runtime.spawn(talk(client, stop.clone()))).collect();
    let address = serving.http;
    let visitor = runtime.spawn(visit(config, address, stop.clone()));
    for number in 1..=handoffs {
        serving = https.hand_off(serving, &format!("v{number}"));
    }
    stop.store(true, Ordering::Relaxed);
    runtime.block_on(async {
        for (number, talk) in talks.into_iter().enumerate() {
            let said = talk.await.expect("it does not panic");
            let said = said.unwrap_or_else(|error| panic!("busy client {number}: {error:#}"));
            assert!(said > 0, "busy client {number} has said nothing");
        }
        for (number, client) in silent.iter_mut().enumerate() {
            let pid = client.who().await.unwrap_or_else(|error| panic!("silent client {number}: {error:#}"));
            assert_eq!(pid, serving.pid, "silent client {number} is with another version");
        }
        let (visits, resumed) = visitor.await.expect("it does not panic").expect("a visit");
        assert!(visits >= handoffs, "{visits} visits during {handoffs} handoffs");
        let share = resumed as f64 / visits as f64;
        assert!(share >= MOST_RESUME, "{resumed} of {visits} visits have resumed a session");
    });
}

/// Until it is told to stop; says how often.
async fn talk(mut client: Client, stop: Arc<AtomicBool>) -> anyhow::Result<u64> {
    let mut said = 0;
    while !stop.load(Ordering::Relaxed) {
        client.echo().await.with_context(|| format!("after {said} answers"))?;
        said += 1;
    }
    Ok(said)
}

/// One visit after the other; says how many there were, and how many have resumed a session.
async fn visit(
    config: Arc<ClientConfig>,
    address: std::net::SocketAddr,
    stop: Arc<AtomicBool>,
) -> anyhow::Result<(usize, usize)> {
    let (mut visits, mut resumed) = (0, 0);
    while !stop.load(Ordering::Relaxed) {
        let mut client =
            Client::connect(&config, address).await.with_context(|| format!("visit {visits}"))?;
        client.who().await.with_context(|| format!("visit {visits}"))?;
        visits += 1;
        resumed += usize::from(client.resumed());
    }
    Ok((visits, resumed))
}
