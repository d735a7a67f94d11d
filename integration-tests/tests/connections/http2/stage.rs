//! A service that is replaced fifty times under a client.

use std::path::PathBuf;

use anyhow::ensure;
use integration_tests::process::{binary, eventually};
use integration_tests::status::GoAways;
use integration_tests::{SOON, Sandbox, Service, Status};

const HANDOFFS: usize = 50;

/// What HTTP/2 is spoken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Over {
    Tcp,
    Tls,
}

/// Where a client finds the service.
pub(crate) struct Place<'a> {
    pub(crate) sandbox: &'a Sandbox,
    pub(crate) address: String,
    /// Of the service, if it is TLS. It is its own authority.
    pub(crate) certificate: Option<PathBuf>,
}

impl Place<'_> {
    pub(crate) fn url(&self, path: &str) -> String {
        let scheme = if self.certificate.is_some() { "https" } else { "http" };
        format!("{scheme}://{}{path}", self.address)
    }
}

/// Asks all the time.
pub(crate) trait Asks {
    /// Whether it has come to an end by itself.
    fn has_ended(&mut self) -> bool;

    /// What it says when it comes to its end.
    fn end(self) -> anyhow::Result<String>;
}

/// Replaces the service 50 times under the client. Returns what the client says at its end. It has so many
/// connections.
pub(crate) fn through_handoffs<C: Asks>(
    program: &str,
    over: Over,
    connections: usize,
    client: impl FnOnce(&Place<'_>) -> anyhow::Result<C>,
) -> anyhow::Result<String> {
    let (handoffs, said) = replace(program, over, connections, HANDOFFS, client)?;
    ensure!(handoffs == HANDOFFS, "it has ended after {handoffs} handoffs: {said}");
    Ok(said)
}

/// The same with a client that ends by itself, and is started again until there were 50 handoffs.
pub(crate) fn again_and_again<C: Asks>(
    program: &str,
    over: Over,
    connections: usize,
    client: impl Fn(&Place<'_>) -> anyhow::Result<C>,
    check: impl Fn(&str) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut left = HANDOFFS;
    while left > 0 {
        let (handoffs, said) = replace(program, over, connections, left, &client)?;
        check(&said)?;
        // How many fit into its time is up to the machine.
        ensure!(handoffs > 0, "it has ended before the first handoff: {said}");
        left -= handoffs;
    }
    Ok(())
}

/// Replaces the service so often, or until the client ends by itself: how often, and what the client says.
fn replace<C: Asks>(
    program: &str,
    over: Over,
    connections: usize,
    handoffs: usize,
    client: impl FnOnce(&Place<'_>) -> anyhow::Result<C>,
) -> anyhow::Result<(usize, String)> {
    let sandbox = Sandbox::new();
    let tls = sandbox.path().join("tls");
    let start = |version: usize| {
        let mut arguments = vec!["--probation".to_owned(), "0".to_owned()];
        if over == Over::Tls {
            arguments.extend(["--tls".to_owned(), tls.display().to_string()]);
        }
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        let arguments = Service::arguments(&sandbox, &format!("v{version}"), &arguments);
        Service::spawn(&sandbox, &binary(program), &arguments)
    };
    let mut service = start(0);
    let address = service.wait_serving().http.to_string();
    let certificate = (over == Over::Tls).then(|| tls.join("cert.pem"));
    let mut client = client(&Place { sandbox: &sandbox, address, certificate })?;
    let status = || Status::ask(&sandbox.control());
    let connections = connections as u64;
    let open = |status: &Status| status.serving.connections.idle + status.serving.connections.active;
    eventually("its connections are open", SOON, || {
        status().ok().filter(|status| open(status) == connections)
    });
    for handoff in 1..=handoffs {
        let next = start(handoff);
        next.wait_serving();
        let drained = service.wait_drained();
        ensure!(drained.forced == 0, "{drained:?}");
        // What has left the old process arrives in the new one.
        let totals = eventually("its connections have moved", SOON, || {
            let totals = status().ok()?.serving.totals;
            (client.has_ended() || totals.adopted + totals.accepted == connections).then_some(totals)
        });
        ensure!(totals.accepted == 0, "handoff {handoff}: a client has come again: {totals:?}");
        ensure!(totals.goaways == GoAways::default(), "{totals:?}");
        if client.has_ended() {
            return Ok((handoff - 1, client.end()?));
        }
        service = next;
    }
    Ok((handoffs, client.end()?))
}
