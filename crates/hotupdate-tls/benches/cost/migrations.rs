//! What a migration costs, both processes together, without the socket's way.

use std::time::{Duration, Instant};

use hotupdate_tls::TlsStream;

use crate::peers::{Peers, migrated};
use crate::wire::{Pair, Wire};
use crate::work::median;

const ROUNDS: usize = 7;
const FIRST: usize = 200;
const LATER: usize = 5_000;
const HANDSHAKES: usize = 50;

pub(crate) fn measure() {
    let peers = Peers::new();
    let mut size = 0;
    let first = rounds(FIRST, || {
        let servers: Vec<_> = (0..FIRST).map(|_| accepted(&peers, true)).collect();
        let begin = Instant::now();
        for server in servers {
            size = migrated(server).1;
        }
        begin.elapsed()
    });
    let later = rounds(LATER, || {
        let mut server = migrated(accepted(&peers, true)).0;
        let begin = Instant::now();
        for _ in 0..LATER {
            server = migrated(server).0;
        }
        begin.elapsed()
    });
    println!("migration, first {first:6.2} us, later {later:6.2} us, state {size} bytes");
    for (name, migratable) in [("by rustls alone", false), ("migratable", true)] {
        let took = rounds(HANDSHAKES, || {
            let begin = Instant::now();
            (0..HANDSHAKES).for_each(|_| drop(accepted(&peers, migratable)));
            begin.elapsed()
        });
        println!("handshake, both sides, {name:15} {took:9.1} us");
    }
}

fn accepted(peers: &Peers, migratable: bool) -> TlsStream<Wire> {
    let acceptor = peers.acceptor(migratable);
    Pair::accepted(peers.client(), async move |wire| acceptor.accept(wire).await).server
}

/// Microseconds for one of `count`.
fn rounds(count: usize, mut measure: impl FnMut() -> Duration) -> f64 {
    median((0..ROUNDS).map(|_| measure()).collect()).as_secs_f64() * 1e6 / count as f64
}
