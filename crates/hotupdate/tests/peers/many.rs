//! As many listeners as fit into a batch, one more, and more than a process may have.
//!
//! Deliberately absent: three thousand of them (`listeners.rs`).

use crate::common::{self, Folder, SOON, alone, answer, ask, nothing_leaked};
use hotupdate::{ErrorKind, Starting};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::time::timeout;

/// A batch holds at most 250 descriptors, and a message of the kernel 253.
const COUNTS: [usize; 8] = [1, 249, 250, 251, 253, 254, 500, 501];

async fn claim(starting: &mut Starting, count: usize, says: &'static str) -> Vec<std::net::SocketAddr> {
    let mut addresses = Vec::new();
    for n in 0..count {
        let listener = starting.tcp(&format!("l{n}"), "127.0.0.1:0").await.unwrap();
        addresses.push(listener.local_addr().ip().unwrap());
        answer(listener, says);
    }
    addresses
}

fn allow_many_descriptors() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
}

#[test]
fn at_the_edges_of_a_batch() {
    allow_many_descriptors();
    for count in COUNTS {
        alone(async {
            let folder = Folder::new();
            let mut first = folder.join("v1").await;
            let addresses = claim(&mut first, count, "v1").await;
            let first = first.ready().await.unwrap();
            let before = common::descriptors();
            let mut second = folder.join("v2").await;
            assert_eq!(claim(&mut second, count, "v2").await, addresses, "{count}: inherited, in any order");
            let _second = second.ready().await.unwrap();
            timeout(SOON, first.drained()).await.expect("the old one ends");
            for address in addresses.iter().step_by(100).chain(addresses.last()) {
                assert_eq!(ask(*address).await, "v2", "{count}");
            }
            nothing_leaked(before).await;
        });
    }
}

/// Found when the process starts, and not when its successor does.
#[test]
fn more_than_a_successor_could_be_told_of() {
    allow_many_descriptors();
    alone(async {
        let folder = Folder::new();
        let file = tempfile::tempfile().unwrap();
        let mut starting = folder.join("v1").await;
        for n in 0..1800 {
            let name = format!("{n:0>255}");
            starting.descriptor(&name, || Ok(file.try_clone()?.into())).unwrap();
        }
        let error = starting.ready().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ApiMisuse, "{error}");
        assert!(error.to_string().contains("1800 listeners cannot be described in 524288 bytes"), "{error}");
        // Nothing is left of it.
        folder.serve("v2").await;
    });
}
