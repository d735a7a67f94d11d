//! Processor time of the thread that serves, over TCP.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use rustls::StreamOwned;
use tokio::net::TcpListener;
use tokio::runtime::Builder;

use crate::peers::{Engine, Peers};
use crate::work::{Work, median};

const ROUNDS: usize = 31;
const EXCHANGES: usize = 1_000;
const CHUNKS: usize = 400;

pub(crate) fn compare() {
    let peers = Peers::new();
    let [theirs, ours @ ..] = Engine::ALL.map(Engine::name);
    let heads = ours.map(|name| format!("{name:>12}")).concat();
    println!("{:<20} {theirs:>12}{heads}", "microseconds for a");
    for work in Work::ALL {
        let mut times = Engine::ALL.map(|_| Vec::new());
        for _ in 0..ROUNDS {
            for (engine, times) in Engine::ALL.into_iter().zip(&mut times) {
                times.push(once(&peers, engine, work));
            }
        }
        let [theirs, ours @ ..] =
            times.map(|times| median(times).as_secs_f64() * 1e6 / repetitions(work) as f64);
        let took = ours.map(|ours| format!("{ours:>12.2}")).concat();
        println!("{:<20} {theirs:>12.2}{took}", work.name());
        let ratios = ours.map(|ours| format!("{:>12.3}", ours / theirs)).concat();
        println!("{:<20} {:>12}{ratios}", "", "");
    }
}

fn repetitions(work: Work) -> usize {
    if work == Work::Exchange { EXCHANGES } else { CHUNKS }
}

fn once(peers: &Peers, engine: Engine, work: Work) -> Duration {
    let runtime = Builder::new_current_thread().enable_io().build().unwrap();
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let client = peers.client();
        let client = std::thread::spawn(move || {
            let socket = TcpStream::connect(address).unwrap();
            socket.set_nodelay(true).unwrap();
            let mut client = StreamOwned::new(client, socket);
            let (request, mut response) = (vec![7; work.requested()], vec![0; work.answered()]);
            for _ in 0..repetitions(work) {
                client.write_all(&request).unwrap();
                client.flush().unwrap();
                client.read_exact(&mut response).unwrap();
            }
            // The server has read all of it when it closes.
            while client.sock.read(&mut [0; 4096]).is_ok_and(|count| count > 0) {}
        });
        let (socket, _) = listener.accept().await.unwrap();
        socket.set_nodelay(true).unwrap();
        let mut server = peers.accept(socket, engine).await.unwrap();
        let before = processor_time();
        work.run(&mut server, repetitions(work)).await.unwrap();
        let took = processor_time() - before;
        drop(server);
        client.join().unwrap();
        took
    })
}

/// Of this thread.
fn processor_time() -> Duration {
    let schedstat = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(schedstat.split(' ').next().unwrap().parse().unwrap())
}
