//! The server: a thread that accepts, and one for each connection.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use hotupdate_proto::frame::{self, Decoder};
use hotupdate_proto::operator::{
    Call, LastFailure, LastHandoff, ListenerStatus, Monitored, ProcessState, ProcessStatus, Reply, Status,
};
use hotupdate_proto::{Generation, ListenerKind, Process, Summary};
use serde_json::{Map, Value, json};

/// How often a thread that waits looks whether the test is over.
const LOOK: Duration = Duration::from_millis(20);

/// What a method answers.
pub(crate) enum Answer {
    /// Parameters of a reply.
    Reply(Value),
    /// Several replies, the last one without `continues`.
    Replies(Box<dyn Iterator<Item = Value> + Send>),
    /// A Varlink error with its parameters.
    Error(&'static str, Value),
    /// These bytes.
    Bytes(Vec<u8>),
    /// Nothing, until the client goes.
    Silence,
    /// The end of the connection.
    Close,
}

type Method = Arc<dyn Fn(&mut Status) -> Answer + Send + Sync>;

struct State {
    status: Status,
    /// Counts changes of the status, so that `Monitor` misses none.
    version: u64,
    /// Monitor streams opened under an earlier number are at their end.
    epoch: u64,
    calls: Vec<Call>,
    methods: HashMap<String, Method>,
    over: bool,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics while it holds the state")
    }
}

/// A service whose answers a test decides.
pub(crate) struct Fake {
    pub(crate) path: PathBuf,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

impl Fake {
    /// `4100 (v1.2.9)` serves in generation 2.
    pub(crate) fn serve(path: PathBuf) -> Self {
        let listener = UnixListener::bind(&path).expect("the folder is the test's own");
        std::fs::write(lock(&path), "").expect("the folder is the test's own");
        let status = first_status();
        let methods = HashMap::new();
        let state = State { status, version: 0, epoch: 0, calls: Vec::new(), methods, over: false };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let accepting = thread::spawn({
            let shared = Arc::clone(&shared);
            move || accept(&listener, &shared)
        });
        Self { path, shared, accepting: Some(accepting) }
    }

    /// Decides what a method does and answers.
    pub(crate) fn on(&self, method: &str, answer: impl Fn(&mut Status) -> Answer + Send + Sync + 'static) {
        self.shared.state().methods.insert(full(method), Arc::new(answer));
    }

    /// Changes the status; every `Monitor` stream reports it.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Status)) {
        let mut state = self.shared.state();
        change(&mut state.status);
        state.version += 1;
        self.shared.changed.notify_all();
    }

    /// Ends the `Monitor` streams, as a process does that is replaced.
    pub(crate) fn end_monitors(&self) {
        self.shared.state().epoch += 1;
        self.shared.changed.notify_all();
    }

    /// How often a method was called.
    pub(crate) fn called(&self, method: &str) -> usize {
        self.shared.state().calls.iter().filter(|call| call.method == full(method)).count()
    }

    /// The parameters of the last call of a method.
    pub(crate) fn parameters(&self, method: &str) -> Option<Map<String, Value>> {
        let state = self.shared.state();
        state.calls.iter().rev().find(|call| call.method == full(method)).map(|call| call.parameters.clone())
    }

    /// The process crashes: the file of the socket stays.
    pub(crate) fn stop(&mut self) {
        self.shared.state().over = true;
        self.shared.changed.notify_all();
        let _ = UnixStream::connect(&self.path);
        if let Some(accepting) = self.accepting.take() {
            accepting.join().expect("no connection's thread panics");
        }
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.stop();
    }
}

pub(crate) fn lock(path: &Path) -> PathBuf {
    PathBuf::from(format!("{}.lock", path.display()))
}

fn full(method: &str) -> String {
    format!("io.hotupdate.{method}")
}

fn accept(listener: &UnixListener, shared: &Arc<Shared>) {
    let mut connections = Vec::new();
    for stream in listener.incoming() {
        if shared.state().over {
            break;
        }
        let (shared, stream) = (Arc::clone(shared), stream.expect("accepting works"));
        connections.push(thread::spawn(move || converse(stream, &shared)));
    }
    for connection in connections {
        let _: Option<()> = connection.join().expect("no connection's thread panics");
    }
}

/// `None` when either side has ended the conversation.
fn converse(mut stream: UnixStream, shared: &Shared) -> Option<()> {
    stream.set_read_timeout(Some(LOOK)).ok()?;
    let mut decoder = Decoder::default();
    loop {
        let call: Call = frame::decode(&next(&mut stream, &mut decoder, shared)?).ok()?;
        shared.state().calls.push(call.clone());
        match call.method.as_str() {
            "org.varlink.service.GetInfo" => reply(&mut stream, info(), false)?,
            "io.hotupdate.Monitor" if !shared.state().methods.contains_key(&call.method) => {
                monitor(&mut stream, shared)?
            }
            _ => answer(&mut stream, shared, &call)?,
        }
    }
}

fn next(stream: &mut UnixStream, decoder: &mut Decoder, shared: &Shared) -> Option<Vec<u8>> {
    let mut bytes = [0; 4096];
    while !shared.state().over {
        if let Some(frame) = decoder.next_frame() {
            return frame.ok();
        }
        match stream.read(&mut bytes) {
            Ok(0) => return None,
            Ok(read) => decoder.push(&bytes[..read]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return None,
        }
    }
    None
}

fn answer(stream: &mut UnixStream, shared: &Shared, call: &Call) -> Option<()> {
    let answer = {
        let mut state = shared.state();
        match state.methods.get(&call.method).cloned() {
            Some(method) => {
                state.version += 1;
                shared.changed.notify_all();
                method(&mut state.status)
            }
            None if call.method == full("Status") => Answer::Reply(json!({ "status": state.status })),
            None => Answer::Reply(json!({})),
        }
    };
    match answer {
        Answer::Reply(value) => reply(stream, value, false),
        Answer::Replies(values) => replies(stream, values),
        Answer::Error(name, parameters) => error(stream, name, parameters),
        Answer::Bytes(bytes) => stream.write_all(&bytes).ok(),
        Answer::Silence => next(stream, &mut Decoder::default(), shared).map(|_| ()),
        Answer::Close => None,
    }
}

fn replies(stream: &mut UnixStream, values: impl Iterator<Item = Value>) -> Option<()> {
    let mut values = values.peekable();
    while let Some(value) = values.next() {
        reply(stream, value, values.peek().is_some())?;
    }
    Some(())
}

fn monitor(stream: &mut UnixStream, shared: &Shared) -> Option<()> {
    let mut state = shared.state();
    let epoch = state.epoch;
    loop {
        let (version, status) = (state.version, state.status.clone());
        drop(state);
        let monitored = Monitored::new(None, status);
        reply(stream, serde_json::to_value(monitored).ok()?, true)?;
        state = shared.state();
        while state.version == version {
            if state.over || state.epoch != epoch {
                return None;
            }
            state = shared.changed.wait(state).ok()?;
        }
    }
}

fn reply(stream: &mut UnixStream, value: Value, continues: bool) -> Option<()> {
    let Value::Object(parameters) = value else { panic!("parameters are an object") };
    send(stream, &Reply { parameters, continues, error: None })
}

fn error(stream: &mut UnixStream, name: &str, parameters: Value) -> Option<()> {
    let Value::Object(parameters) = parameters else { panic!("parameters are an object") };
    send(stream, &Reply { parameters, continues: false, error: Some(name.to_owned()) })
}

fn send(stream: &mut UnixStream, reply: &Reply) -> Option<()> {
    stream.write_all(&frame::encode(reply).ok()?).ok()
}

fn info() -> Value {
    json!({ "vendor": "", "product": "", "version": "", "url": "", "interfaces": ["io.hotupdate"] })
}

/// A process of the service with nothing open.
pub(crate) fn process(generation: u64, pid: u32, version: &str, state: ProcessState) -> ProcessStatus {
    let process = Process::new(format!("instance-of-{pid}"), pid, version.to_owned());
    let process = process.named(format!("web-{pid}"));
    let mut status = ProcessStatus::new(Generation(generation), process, state);
    status.since_ms = 12_000;
    status
}

pub(crate) fn first_status() -> Status {
    let mut status = Status::new(process(2, 4100, "v1.2.9", ProcessState::Serving));
    let mut http = ListenerStatus::new("http".to_owned(), ListenerKind::Tcp, "inherited".to_owned());
    http.address = "0.0.0.0:3000".to_owned();
    status.listeners = vec![http];
    status
}

/// `pid (v1.3.0)` has joined under this attempt id.
pub(crate) fn join(status: &mut Status, pid: u32, attempt: &str, state: ProcessState) {
    let mut successor = process(3, pid, "v1.3.0", state);
    successor.attempt = Some(attempt.to_owned());
    status.successor = Some(successor);
}

/// The successor serves, the incumbent drains 17 connections.
pub(crate) fn take_over(status: &mut Status) {
    let successor = status.successor.take().expect("a successor has joined");
    let mut old = std::mem::replace(&mut status.serving, successor);
    status.serving.state = ProcessState::Serving;
    let mut handoff = LastHandoff::new("h".to_owned(), old.generation);
    (handoff.gap_ns, handoff.took_ms) = (Some(180_000), 1200);
    status.last_handoff = Some(handoff);
    (old.state, old.probation) = (ProcessState::Draining, true);
    old.connections = Summary::new(10, 5, 2);
    status.predecessors = vec![old];
}

/// The service gives the attempt up.
pub(crate) fn fail(status: &mut Status, reason: &str) {
    let successor = status.successor.take().expect("a successor has joined");
    let mut failure = LastFailure::new(successor.process, "warming up".to_owned(), reason.to_owned());
    (failure.generation, failure.attempt) = (successor.generation, successor.attempt);
    status.last_failure = Some(failure);
}
