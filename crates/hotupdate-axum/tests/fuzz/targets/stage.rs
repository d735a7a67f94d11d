//! One client, and the processes that its connection comes through, in one thread and on a clock that stands
//! still whenever a task has something to do: the same script always plays in the same way.
//!
//! Deliberately absent: what should come of it.

use std::io::ErrorKind;
use std::time::Duration;

use hotupdate::testing::Table;
use socket2::SockRef;
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;

use super::app::App;
use super::script::Step;

/// What the kernel keeps for a client that does not read: as little as it can.
const SEND_BUFFER: usize = 4096;

/// Returns the bytes of the answers, without those that depend on the time, how often the connection
/// migrated, and whether it is still there although its client is gone.
pub(super) fn perform(stream: &[u8], steps: impl Iterator<Item = Step>) -> (Vec<u8>, u64, usize) {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().start_paused(true).build().expect("a runtime");
    runtime.block_on(async {
        let mut stage = Stage::new(stream);
        for step in steps {
            stage.step(step).await;
        }
        stage.end().await
    })
}

struct Stage<'a> {
    unsent: &'a [u8],
    client: UnixStream,
    answers: Vec<u8>,
    app: App,
    /// The newest last.
    processes: Vec<Table>,
    draining: bool,
}

impl<'a> Stage<'a> {
    fn new(stream: &'a [u8]) -> Self {
        let (client, server) = UnixStream::pair().expect("a pair of sockets");
        SockRef::from(&server).set_send_buffer_size(SEND_BUFFER).expect("a size");
        let (process, app) = (Table::new(), App::new());
        serve(process.accept("http", server), None, &app);
        let (answers, processes) = (Vec::new(), vec![process]);
        Self { unsent: stream, client, answers, app, processes, draining: false }
    }

    fn serving(&mut self) -> &mut Table {
        self.processes.last_mut().expect("there is always one")
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Send(length) => {
                let (piece, rest) = self.unsent.split_at(length.min(self.unsent.len()));
                self.unsent = rest;
                // It may have been closed, and nothing in here fills a buffer.
                let _ = self.client.write_all(piece).await;
            }
            Step::Settle => settle().await,
            Step::Rest => {
                self.serving().rest();
                settle().await;
            }
            Step::Turns(turns) => {
                for _ in 0..turns {
                    tokio::task::yield_now().await;
                }
            }
            Step::Read => self.read(),
            Step::Release => self.app.release.add_permits(1),
            Step::LetGo => self.app.let_go(),
            Step::Drain if !self.draining => {
                self.draining = true;
                self.serving().drain();
            }
            Step::Takes if self.draining => self.serving().takes(&["http/1.1"]),
            Step::Arrive if self.serving().has_leaving() => self.arrive(),
            Step::ServeAgain if self.draining => {
                self.draining = false;
                self.serving().serve_again();
            }
            Step::Drain | Step::Takes | Step::Arrive | Step::ServeAgain => {}
        }
    }

    fn arrive(&mut self) {
        let next = Table::new();
        for (connection, state) in self.serving().migrate_to(&next).expect("it can be handed over") {
            serve(connection, Some(state), &self.app);
        }
        self.processes.push(next);
        self.draining = false;
    }

    /// What is there.
    fn read(&mut self) {
        let mut bytes = [0; 4096];
        loop {
            match self.client.try_read(&mut bytes) {
                Ok(0) => return,
                Ok(n) => self.answers.extend_from_slice(&bytes[..n]),
                // Reset: what is sent after an upgrade that its handler did not want is not read.
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::ConnectionReset) => {
                    return;
                }
                Err(error) => panic!("{error} after {:?}", String::from_utf8_lossy(&self.answers)),
            }
        }
    }

    /// Everything is sent, and the client says that it was all; then everything is answered.
    async fn end(mut self) -> (Vec<u8>, u64, usize) {
        self.step(Step::Send(usize::MAX)).await;
        for last in [false, true] {
            self.step(Step::Takes).await;
            self.app.release.add_permits(100);
            let mut quiet = 0;
            while quiet < 3 {
                let before = self.answers.len();
                self.app.let_go();
                settle().await;
                self.read();
                quiet =
                    if self.serving().has_leaving() || self.answers.len() > before { 0 } else { quiet + 1 };
                self.step(Step::Arrive).await;
            }
            if !last {
                // The server may have been first.
                let _ = self.client.shutdown().await;
            }
        }
        let left = self.processes.iter().map(|process| process.connections().rows().len()).sum();
        let migrated = self.processes.iter().map(|process| process.connections().migrated()).sum();
        (comparable(&self.answers), migrated, left)
    }
}

fn serve(connection: hotupdate::Connection, state: Option<Vec<u8>>, app: &App) {
    let app = app.clone();
    let service = tower::service_fn(move |request| app.clone().answer(request));
    tokio::spawn(hotupdate_axum::serve_one(connection, state, service));
}

/// Until no task has anything to do. The clock advances only then, but what has just become readable is not
/// yet read.
async fn settle() {
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Without dates. And hyper refuses what is no request in the version of the request before it, of which it
/// knows nothing after a migration: both ways of saying it end the connection, and are one here. Either may
/// follow a body, on its line.
fn comparable(bytes: &[u8]) -> Vec<u8> {
    let lines = bytes.split_inclusive(|byte| *byte == b'\n').filter(|line| !line.starts_with(b"date: "));
    let lines = lines.flat_map(|line| match line.strip_suffix(b"HTTP/1.0 400 Bad Request\r\n") {
        Some(body) => [body, b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n"],
        None => [line, b""],
    });
    lines.collect::<Vec<_>>().concat()
}
