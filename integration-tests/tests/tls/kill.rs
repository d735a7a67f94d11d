//! `kill -9` on either side of a handoff: no number of a record is used again under its key, and one process
//! serves. All moments are in the campaigns.

use std::sync::Arc;
use std::time::Duration;

use integration_tests::Sandbox;
use integration_tests::tls::{Flow, Https, Keys, Killed, Moment, Proxy, Victim, connect, kill};

/// From before the successor has opened a file until after the incumbent has ended, on a machine with little
/// else to do.
fn moments() -> impl Iterator<Item = Duration> {
    (0..120).step_by(15).map(Duration::from_millis)
}

fn killed(victim: Victim, moment: Duration) -> Killed {
    kill(victim, Moment::After(moment)).expect("nothing is traced")
}

#[test]
fn the_successor() {
    let answered: usize = moments().map(|moment| killed(Victim::Successor, moment).answered).sum();
    assert!(answered > 0, "it was killed before it had a connection, and none has outlived it");
}

#[test]
fn the_incumbent() {
    for moment in moments() {
        // They outlive it if they have left it.
        let _killed = killed(Victim::Incumbent, moment);
    }
}

/// What the tests above look for is seen if it is there.
#[test]
fn a_number_that_is_used_again_is_seen() {
    let sandbox = Sandbox::new();
    let https = Https::new(&sandbox);
    let serving = https.start("v1").wait_serving();
    let keys: Arc<Keys> = Arc::default();
    let config = https.clients(&keys);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let flows = runtime.block_on(async {
        let proxy = Proxy::start(serving.http).await.unwrap();
        let mut clients = connect(&config, proxy.address(), 1).await.unwrap();
        clients[0].echo().await.unwrap();
        proxy.flows()
    });
    let [flow] = &flows[..] else { panic!("{} connections", flows.len()) };
    let [from_client, from_server] = flow.check(&keys).unwrap();
    assert!(from_client >= 2 && from_server >= 2, "{from_client} and {from_server} records");
    let directions: [fn(&mut Flow) -> &mut Vec<u8>; 2] =
        [|flow| &mut flow.to_server, |flow| &mut flow.to_client];
    for direction in directions {
        let mut again = flow.clone();
        let bytes = direction(&mut again);
        let last = last_record(bytes);
        bytes.extend_from_within(last..);
        let error = format!("{:#}", again.check(&keys).unwrap_err());
        assert!(error.contains("was used again"), "{error}");
        let mut missing = flow.clone();
        let bytes = direction(&mut missing);
        let last = last_record(bytes);
        bytes[last + 7] ^= 1;
        let error = format!("{:#}", missing.check(&keys).unwrap_err());
        assert!(error.contains("does not open"), "{error}");
    }
}

/// Where it begins.
fn last_record(bytes: &[u8]) -> usize {
    let (mut last, mut next) = (0, 0);
    while next < bytes.len() {
        last = next;
        next += 5 + usize::from(u16::from_be_bytes([bytes[next + 3], bytes[next + 4]]));
    }
    last
}
