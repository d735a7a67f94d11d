//! One connection to the control socket: an operator's calls, or a successor's `Join`.
//!
//! Deliberately absent: decisions. Each call becomes a request to the driver. The form of the answers is in
//! [`super::replies`]. Varlink: <https://varlink.org>.

use std::sync::Arc;
use std::time::Duration;

use hotupdate_proto::operator::{
    self, AbortParams, AttemptParams, Call, Command, Connections, DeadlineParams, HandoffResult, Monitored,
    OperatorError, Reply,
};
use hotupdate_proto::timing::fixed::control::LISTING_TIME;
use hotupdate_proto::{Fault, INTERFACE, Join, Process, Refusal, Timing, frame};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use tokio::net::UnixStream;
use tokio::sync::{Notify, Semaphore, broadcast, mpsc, oneshot, watch};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until, timeout};

use super::acceptor::MAX_SESSIONS;
use super::replies::{
    busy, crowded, description, encoded, failed, info, monitored, parameters, refused, service_error, unknown,
};
use super::user::Right;
use crate::lifecycle::Lifecycle;
use crate::link::channel::{self, Receiver};
use crate::rate_limited_log::RateLimitedLog;

/// What a session asks the driver.
pub(crate) enum Request {
    Status(oneshot::Sender<operator::Status>),
    Monitor(oneshot::Sender<(operator::Status, broadcast::Receiver<Event>)>),
    Connections(oneshot::Sender<Vec<Connections>>),
    Command(Command, oneshot::Sender<Outcome>),
    Join(Join, Box<Receiver>),
}

/// Something happened, as it is sent to all callers that monitor: written once, however many they are.
pub(crate) type Event = Arc<[u8]>;

/// How a command ended; which process serves now, if that changed.
pub(crate) type Outcome = Result<Option<HandoffResult>, OperatorError>;

/// Callers that watch (`Monitor`) at the same time. They may stay as long as they like, so there are fewer of
/// them than callers: a caller that only asks finds a place.
const MAX_WATCHERS: usize = 192;

/// Lists of connections (`Connections`) that are sent at the same time: each holds a copy of all rows until
/// its caller has read them.
const MAX_LISTINGS: usize = 2;

/// What a session may and has to do.
#[derive(Clone)]
pub(crate) struct SessionConfig {
    /// This process, for logs.
    pub(crate) us: Arc<str>,
    pub(crate) hello: Duration,
    pub(crate) write: Duration,
    pub(crate) requests: mpsc::Sender<Request>,
    pub(crate) lifecycle: watch::Receiver<Lifecycle>,
    /// One for each caller.
    pub(super) places: Arc<Semaphore>,
    /// Callers that are idle wait here, in the order in which they fell idle.
    pub(super) idle: Arc<Notify>,
    watchers: Arc<Semaphore>,
    listings: Arc<Semaphore>,
    /// Each command whose answer has not been written yet is a receiver of it.
    unanswered: Arc<watch::Sender<()>>,
    log: Arc<RateLimitedLog>,
    /// About successors, which complaints about other callers must not hide.
    refusals: Arc<RateLimitedLog>,
}

impl SessionConfig {
    pub(crate) fn new(
        us: Arc<str>,
        timing: &Timing,
        requests: mpsc::Sender<Request>,
        lifecycle: watch::Receiver<Lifecycle>,
    ) -> Self {
        Self {
            us,
            hello: timing.hello,
            write: timing.write,
            requests,
            lifecycle,
            places: Arc::new(Semaphore::new(MAX_SESSIONS)),
            idle: Arc::default(),
            watchers: Arc::new(Semaphore::new(MAX_WATCHERS)),
            listings: Arc::new(Semaphore::new(MAX_LISTINGS)),
            unanswered: Arc::default(),
            log: Arc::default(),
            refusals: Arc::default(),
        }
    }

    /// Says in the log that a caller is turned away, why, and which process serves now; not more often than
    /// is of use.
    pub(crate) fn complain(&self, why: impl std::fmt::Display) {
        if let Some(end) = self.end(&self.log) {
            tracing::warn!("a caller on the control socket is turned away: {why}{end}");
        }
    }

    /// How the line in the log ends that says that a successor is turned away, if it is of use.
    pub(crate) fn end_of_refusal(&self) -> Option<String> {
        self.end(&self.refusals)
    }

    /// Resolves when this caller has to leave for another one. As long as it waits here, it counts as idle.
    pub(super) async fn place_is_needed(&self) {
        loop {
            self.idle.notified().await;
            // A caller that was notified and hung up at the same moment passes that on, perhaps to one that
            // comes much later.
            if self.places.available_permits() == 0 {
                return;
            }
        }
    }

    /// Resolves when the answer to every command is in the kernel, or its caller has gone.
    pub(crate) fn answered(&self) -> impl Future<Output = ()> + Send + use<> {
        let unanswered = self.unanswered.clone();
        async move { unanswered.closed().await }
    }

    fn end(&self, log: &RateLimitedLog) -> Option<String> {
        let suppressed = log.due()?;
        let how = match *self.lifecycle.borrow() {
            Lifecycle::Starting => "is still starting",
            Lifecycle::Serving => "is still serving",
            _ => "does not serve any more",
        };
        Some(format!("{suppressed}; {} {how}", self.us))
    }
}

/// The process at the other end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Caller {
    pub(super) uid: u32,
    pub(super) right: Right,
}

struct Session {
    caller: Caller,
    receiver: Receiver,
    stream: Arc<UnixStream>,
    config: SessionConfig,
}

/// Turns a caller away that may not be here.
pub(crate) async fn refuse(stream: UnixStream, reply: Reply, write: Duration) {
    if let Ok(bytes) = frame::encode(&reply) {
        let _ = channel::send(&stream, &bytes, &[], Instant::now() + write).await;
    }
}

/// Serves one caller until it goes, says nonsense, or this process no longer owns the control socket.
pub(super) async fn serve(stream: UnixStream, caller: Caller, config: SessionConfig) {
    let stream = Arc::new(stream);
    let receiver = Receiver::new(stream.clone(), b"");
    let mut session = Session { caller, receiver, stream, config };
    // A connection that says nothing must cost nothing: only the first call has to come soon.
    let Ok(first) = timeout(session.config.hello, session.next()).await else { return };
    let Some(mut frame) = first else { return session.leave().await };
    loop {
        let call = match frame.map_err(|fault| fault.to_string()).and_then(|frame| parse(&frame)) {
            Ok(_) if session.receiver.has_descriptors() => {
                return session.nonsense("a call with descriptors").await;
            }
            Ok(call) => call,
            Err(what) => return session.nonsense(&what).await,
        };
        if call.method == format!("{INTERFACE}.Join") {
            return session.join(call).await;
        }
        if session.answer(call).await.is_none() {
            return;
        }
        let mut lifecycle = session.config.lifecycle.clone();
        let is_first = *lifecycle.borrow() <= Lifecycle::Serving;
        let next = tokio::select! {
            next = session.next() => next,
            // Another process owns the control socket now: the caller has to connect anew.
            _ = lifecycle.wait_for(|now| *now > Lifecycle::Serving), if is_first => return,
        };
        let Some(called) = next else { return session.leave().await };
        frame = called;
    }
}

fn parse(frame: &[u8]) -> Result<Call, String> {
    frame::decode(frame).map_err(|error| error.to_string())
}

/// The caller is gone.
type Gone = Option<()>;

impl Session {
    /// The next frame; `None` if this caller has to make room. One that has said something is heard first.
    async fn next(&mut self) -> Option<Result<Vec<u8>, Fault>> {
        tokio::select! {
            biased;
            frame = self.receiver.frame() => Some(frame),
            () = self.config.place_is_needed() => None,
        }
    }

    /// Says why, if there is room for it.
    async fn leave(&self) {
        if let Ok(bytes) = frame::encode(&crowded()) {
            let _ = channel::send(&self.stream, &bytes, &[], Instant::now()).await;
        }
    }

    async fn answer(&mut self, call: Call) -> Gone {
        let Call { method, parameters, oneway, more, .. } = call;
        let quiet = oneway;
        match method.as_str() {
            "org.varlink.service.GetInfo" => self.reply(&info(), quiet).await,
            "org.varlink.service.GetInterfaceDescription" => self.say(&description(&parameters), quiet).await,
            "io.hotupdate.Status" => {
                let status = self.ask(Request::Status).await?;
                self.reply(&json!({ "status": status }), quiet).await
            }
            "io.hotupdate.Connections" if !more => {
                self.say(&service_error("ExpectedMore", json!({})), quiet).await
            }
            "io.hotupdate.Monitor" if !more => {
                self.say(&service_error("ExpectedMore", json!({})), quiet).await
            }
            "io.hotupdate.Attempt" if !more => {
                self.say(&service_error("ExpectedMore", json!({})), quiet).await
            }
            "io.hotupdate.Attempt" => self.attempt(parameters).await,
            "io.hotupdate.Stop" if more => self.stop(parameters).await,
            "io.hotupdate.Connections" => self.connections().await,
            "io.hotupdate.Monitor" => self.monitor().await,
            method => match command(method, parameters) {
                Some(Ok(command)) => self.command(command, quiet).await,
                Some(Err(reply)) => self.say(&reply, quiet).await,
                None => self.say(&unknown(method), quiet).await,
            },
        }
    }

    /// Stops the service, and keeps the caller until this process ends: the end of the connection tells it.
    async fn stop(&mut self, parameters: Map<String, Value>) -> Gone {
        let watchers = self.config.watchers.clone();
        let Ok(_place) = watchers.try_acquire() else {
            return self.say(&busy(&format!("{MAX_WATCHERS} callers watch already")), false).await;
        };
        match command("io.hotupdate.Stop", parameters)? {
            Ok(command) => {
                // A process that is told to stop must not end before its answer is out.
                let _unanswered = self.config.unanswered.subscribe();
                let (reply, outcome) = oneshot::channel();
                self.config.requests.send(Request::Command(command, reply)).await.ok()?;
                if let Err(error) = outcome.await.unwrap_or(Err(OperatorError::NotServing)) {
                    let reply = failed(error.name(), json!({ "reason": error.to_string() }));
                    return self.say(&reply, false).await;
                }
                self.send(&encoded(&Reply { continues: true, ..Reply::default() })?).await?;
            }
            Err(reply) => return self.say(&reply, false).await,
        }
        // Operators say nothing while they wait; this is how we learn that they have gone.
        let _gone = self.receiver.frame().await;
        None
    }

    async fn command(&mut self, command: Command, quiet: bool) -> Gone {
        // A process that is told to stop may have drained before this task runs again, and must not end
        // first.
        let _unanswered = self.config.unanswered.subscribe();
        let (reply, outcome) = oneshot::channel();
        self.config.requests.send(Request::Command(command, reply)).await.ok()?;
        let reply = match outcome.await.unwrap_or(Err(OperatorError::NotServing)) {
            Ok(Some(changed)) => parameters(&changed),
            Ok(None) => Reply::default(),
            Err(error) => failed(error.name(), json!({ "reason": error.to_string() })),
        };
        self.say(&reply, quiet).await
    }

    async fn connections(&self) -> Gone {
        let place = tokio::select! {
            place = timeout(self.config.write, self.config.listings.clone().acquire_owned()) => place.ok(),
            // A caller that waits here must not keep out one that only asks which process serves.
            () = self.config.place_is_needed() => None,
        };
        let Some(Ok(place)) = place else {
            let why = format!("{MAX_LISTINGS} callers read lists of connections and do not come to an end");
            self.say(&busy(&why), false).await?;
            return None;
        };
        let begun = Instant::now();
        let listed = self.list_connections().await;
        // Not here: the caller is not kept for it.
        tokio::spawn(async move {
            sleep_until(begun + LISTING_TIME).await;
            drop(place);
        });
        listed
    }

    async fn list_connections(&self) -> Gone {
        /// Written in one go: about 200 bytes a row, far below the limit of a message and a fraction of a
        /// millisecond.
        const ROWS: usize = 100;
        let generations = self.ask(Request::Connections).await?;
        let Some(last) = generations.iter().rposition(|generation| !generation.rows.is_empty()) else {
            return self.reply(&json!({ "generation": 0, "rows": [] }), false).await;
        };
        for (at, Connections { generation, rows, .. }) in generations.into_iter().enumerate() {
            let mut rest = &rows[..];
            while !rest.is_empty() {
                let (rows, later) = rest.split_at(rest.len().min(ROWS));
                rest = later;
                let continues = at != last || !later.is_empty();
                let reply = parameters(&Connections::new(generation, rows.to_vec()));
                self.say(&Reply { continues, ..reply }, false).await?;
                // Clients of the service may wait for this thread.
                yield_now().await;
            }
        }
        Some(())
    }

    /// Ends when this process stops serving: the next owner of the control socket has the rest of the story.
    async fn monitor(&mut self) -> Gone {
        let watchers = self.config.watchers.clone();
        let Ok(_place) = watchers.try_acquire() else {
            return self.say(&busy(&format!("{MAX_WATCHERS} callers watch already")), false).await;
        };
        let (status, mut events) = self.ask(Request::Monitor).await?;
        self.send(&monitored(&Monitored::new(None, status))?).await?;
        loop {
            let event = tokio::select! {
                event = events.recv() => event,
                // Operators say nothing while they watch; this is how we learn that they have gone.
                _ = self.receiver.frame() => return None,
            };
            match event {
                Ok(event) => self.send(&event).await?,
                // A slow watcher misses events; each carries the whole status.
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }

    /// Holds an attempt for as long as its operator is there, or until another process serves.
    async fn attempt(&mut self, parameters: Map<String, Value>) -> Gone {
        let attempt = match attempt_of(parameters) {
            Ok(attempt) => attempt,
            Err(what) => {
                self.invalid(&what).await;
                return None;
            }
        };
        let watchers = self.config.watchers.clone();
        let Ok(_place) = watchers.try_acquire() else {
            return self.say(&busy(&format!("{MAX_WATCHERS} callers watch already")), false).await;
        };
        let mut lifecycle = self.config.lifecycle.clone();
        let told = self.send(&encoded(&Reply { continues: true, ..Reply::default() })?).await;
        if told.is_some() {
            tokio::select! {
                // Operators say nothing while they wait; this is how we learn that they have gone.
                _ = self.receiver.frame() => {}
                _ = lifecycle.wait_for(|now| *now > Lifecycle::Serving) => return None,
            }
        }
        let (reply, outcome) = oneshot::channel();
        let command = Command::Abandon { attempt };
        self.config.requests.send(Request::Command(command, reply)).await.ok()?;
        let _taken_or_not_serving = outcome.await;
        None
    }

    async fn join(self, call: Call) {
        let Caller { uid, right } = self.caller;
        if right < Right::Succeed {
            let refusal = Refusal::MayNotSucceed { uid };
            self.config.complain(&refusal);
            let _ = self.say(&refused(&refusal), false).await;
            return;
        }
        let join = match serde_json::from_value(Value::Object(call.parameters)) {
            Ok::<Join, _>(join) if call.upgrade => join,
            Ok(_) => return self.invalid("upgrade").await,
            Err(error) => return self.invalid(&error.to_string()).await,
        };
        if let Some(field) = overlong(&join) {
            return self.invalid(field).await;
        }
        let _ = self.config.requests.send(Request::Join(join, Box::new(self.receiver))).await;
    }

    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.config.requests.send(request(reply)).await.ok()?;
        answer.await.ok()
    }

    async fn reply<T: Serialize>(&self, value: &T, quiet: bool) -> Gone {
        self.say(&parameters(value), quiet).await
    }

    async fn say(&self, reply: &Reply, quiet: bool) -> Gone {
        if quiet {
            return Some(());
        }
        self.send(&encoded(reply)?).await
    }

    async fn send(&self, bytes: &[u8]) -> Gone {
        channel::send(&self.stream, bytes, &[], Instant::now() + self.config.write).await.ok()
    }

    async fn invalid(&self, parameter: &str) {
        self.say(&service_error("InvalidParameter", json!({ "parameter": parameter })), false).await;
    }

    /// Says why before it hangs up, in the only form that Varlink has for it.
    async fn nonsense(&self, what: &str) {
        if !what.contains("is gone") {
            self.config.complain(what);
            self.invalid(what).await;
        }
    }
}

/// The longest text about a successor, in bytes: it stands in every status, which has to fit into a message.
const MAX_TEXT: usize = 1024;

/// The longest reason for the end of an attempt, in characters: it stands in a line of the log and of a
/// status.
const MAX_WHY: usize = 200;

fn attempt_of(parameters: Map<String, Value>) -> Result<String, String> {
    let AttemptParams { attempt } =
        serde_json::from_value(Value::Object(parameters)).map_err(|error| error.to_string())?;
    if attempt.len() > MAX_TEXT { Err("attempt".to_owned()) } else { Ok(attempt) }
}

fn overlong(join: &Join) -> Option<&'static str> {
    let Join { process: Process { instance, version, name, program, .. }, attempt, .. } = join;
    let attempt = attempt.as_deref().unwrap_or_default();
    let (instance, program) = (("instance", instance.as_str()), program.as_deref().unwrap_or_default());
    let texts = [instance, ("version", version), ("name", name), ("program", program), ("attempt", attempt)];
    texts.into_iter().find_map(|(name, text)| (text.len() > MAX_TEXT).then_some(name))
}

/// Why an attempt is aborted.
fn why_of(parameters: Map<String, Value>) -> Result<Option<String>, Reply> {
    let AbortParams { why, .. } = parsed(parameters)?;
    // Whatever it says, the attempt is to end.
    Ok(why.map(|why| why.chars().take(MAX_WHY).collect()))
}

fn parsed<T: DeserializeOwned>(parameters: Map<String, Value>) -> Result<T, Reply> {
    serde_json::from_value(Value::Object(parameters))
        .map_err(|error| service_error("InvalidParameter", json!({ "parameter": error.to_string() })))
}

fn command(method: &str, parameters: Map<String, Value>) -> Option<Result<Command, Reply>> {
    let within = |DeadlineParams { deadline_ms, .. }| deadline_ms.map(Duration::from_millis);
    Some(match method {
        "io.hotupdate.Handoff" => Ok(Command::Handoff),
        "io.hotupdate.Abort" => why_of(parameters).map(|why| Command::Abort { why }),
        "io.hotupdate.Rollback" => Ok(Command::Rollback),
        "io.hotupdate.Drain" => {
            parsed(parameters).map(|params| Command::Drain { within: within(params).unwrap_or_default() })
        }
        "io.hotupdate.Stop" => parsed(parameters).map(|params| Command::Stop { within: within(params) }),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use tokio::io::AsyncWriteExt;

    #[tokio::test]
    async fn a_command_is_answered_when_its_answer_has_been_written() {
        let (requests, mut asked) = mpsc::channel(1);
        let lifecycle = watch::Sender::new(Lifecycle::Serving);
        let config =
            SessionConfig::new("process 1".into(), &Timing::default(), requests, lifecycle.subscribe());
        config.answered().await;
        let (mut operator, stream) = UnixStream::pair().unwrap();
        let caller = Caller { uid: 0, right: Right::Operate };
        tokio::spawn(serve(stream, caller, config.clone()));
        operator.write_all(b"{\"method\":\"io.hotupdate.Stop\"}\0").await.unwrap();
        let Some(Request::Command(Command::Stop { .. }, reply)) = asked.recv().await else { unreachable!() };
        let answered = tokio::spawn(config.answered());
        yield_now().await;
        assert!(!answered.is_finished(), "its outcome is not known");
        reply.send(Ok(None)).unwrap();
        answered.await.unwrap();
        // This reads what is there now.
        let read = operator.into_std().unwrap().read(&mut [0; 64]).unwrap();
        assert_ne!(read, 0, "it is in the kernel");
    }
}
