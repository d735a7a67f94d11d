//! One connection to the control socket: an operator's calls, or a successor's `Join`.
//!
//! Deliberately absent: decisions. Each call becomes a request to the driver. Varlink: <https://varlink.org>.

use std::sync::Arc;
use std::time::Duration;

use hotupdate_proto::operator::{
    self, Call, Changed, Command, Connections, Monitored, OperatorError, Reply, Within,
};
use hotupdate_proto::{INTERFACE, Join, Process, Refusal, frame};
use serde::Serialize;
use serde_json::{Map, Value, json};
use tokio::net::UnixStream;
use tokio::sync::{Notify, broadcast, mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};

use crate::channel::{self, Receiver};
use crate::serving::Lifecycle;

/// What a session asks the driver.
pub(crate) enum Request {
    Status(oneshot::Sender<operator::Status>),
    Monitor(oneshot::Sender<(operator::Status, broadcast::Receiver<Monitored>)>),
    Connections(oneshot::Sender<Vec<Connections>>),
    Command(Command, oneshot::Sender<Outcome>),
    Join(Join, Box<Receiver>),
}

/// How a command ended; who serves now, if that changed.
pub(crate) type Outcome = Result<Option<Changed>, OperatorError>;

/// What a session may and has to do.
#[derive(Clone)]
pub(crate) struct Rules {
    pub(crate) hello: Duration,
    pub(crate) write: Duration,
    pub(crate) requests: mpsc::Sender<Request>,
    pub(crate) lifecycle: watch::Receiver<Lifecycle>,
    /// There are as many callers as there may be: those that are between two calls make room.
    pub(crate) crowded: Arc<Notify>,
}

struct Session {
    receiver: Receiver,
    stream: Arc<UnixStream>,
    rules: Rules,
}

/// Turns a caller away that may not be here.
pub(crate) async fn refuse(stream: UnixStream, refusal: Refusal, write: Duration) {
    if let Ok(bytes) = frame::encode(&refused(&refusal)) {
        let _ = channel::send(&stream, &bytes, &[], Instant::now() + write).await;
    }
}

/// Serves one caller until it goes, says nonsense, or this process no longer owns the control socket.
pub(crate) async fn serve(stream: UnixStream, rules: Rules) {
    let stream = Arc::new(stream);
    let receiver = Receiver::new(stream.clone(), b"");
    let mut session = Session { receiver, stream, rules };
    // A connection that says nothing must cost nothing: only the first call has to come soon.
    let Ok(mut frame) = timeout(session.rules.hello, session.receiver.frame()).await else { return };
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
        let mut lifecycle = session.rules.lifecycle.clone();
        let is_first = *lifecycle.borrow() <= Lifecycle::Serving;
        let crowded = session.rules.crowded.clone();
        frame = tokio::select! {
            frame = session.receiver.frame() => frame,
            () = crowded.notified() => return,
            // Somebody else owns the control socket now: the caller has to connect anew.
            _ = lifecycle.wait_for(|now| *now > Lifecycle::Serving), if is_first => return,
        };
    }
}

fn parse(frame: &[u8]) -> Result<Call, String> {
    frame::decode(frame).map_err(|error| error.to_string())
}

/// The caller is gone.
type Gone = Option<()>;

impl Session {
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
            "io.hotupdate.Connections" => self.connections().await,
            "io.hotupdate.Monitor" => self.monitor().await,
            method => match command(method, parameters) {
                Some(Ok(command)) => self.command(command, quiet).await,
                Some(Err(reply)) => self.say(&reply, quiet).await,
                None => self.say(&unknown(method), quiet).await,
            },
        }
    }

    async fn command(&mut self, command: Command, quiet: bool) -> Gone {
        let (reply, outcome) = oneshot::channel();
        self.rules.requests.send(Request::Command(command, reply)).await.ok()?;
        let reply = match outcome.await.unwrap_or(Err(OperatorError::NotServing)) {
            Ok(Some(changed)) => parameters(&changed),
            Ok(None) => Reply::default(),
            Err(error) => failed(error.name(), json!({ "reason": error.to_string() })),
        };
        self.say(&reply, quiet).await
    }

    async fn connections(&mut self) -> Gone {
        /// About 200 bytes a row, so that a message stays far below its limit.
        const ROWS: usize = 1000;
        let generations = self.ask(Request::Connections).await?;
        let mut replies: Vec<Connections> = Vec::new();
        for Connections { generation, rows } in generations {
            replies.extend(rows.chunks(ROWS).map(|rows| Connections { generation, rows: rows.to_vec() }));
        }
        let last = replies.pop();
        for reply in replies {
            self.say(&Reply { continues: true, ..parameters(&reply) }, false).await?;
        }
        match last {
            Some(last) => self.reply(&last, false).await,
            None => self.reply(&json!({ "generation": 0, "rows": [] }), false).await,
        }
    }

    /// Ends when this process stops serving: the next owner of the control socket has the rest of the story.
    async fn monitor(&mut self) -> Gone {
        let (status, mut events) = self.ask(Request::Monitor).await?;
        self.say(&continued(&Monitored { event: None, status }), false).await?;
        loop {
            let event = tokio::select! {
                event = events.recv() => event,
                // Operators say nothing while they watch; this is how we learn that they have gone.
                _ = self.receiver.frame() => return None,
            };
            match event {
                Ok(event) => self.say(&continued(&event), false).await?,
                // A slow watcher misses events; each carries the whole status.
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }

    async fn join(self, call: Call) {
        let join = match serde_json::from_value(Value::Object(call.parameters)) {
            Ok::<Join, _>(join) if call.upgrade => join,
            Ok(_) => return self.invalid("upgrade").await,
            Err(error) => return self.invalid(&error.to_string()).await,
        };
        if let Some(field) = overlong(&join) {
            return self.invalid(field).await;
        }
        let _ = self.rules.requests.send(Request::Join(join, Box::new(self.receiver))).await;
    }

    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.rules.requests.send(request(reply)).await.ok()?;
        answer.await.ok()
    }

    async fn reply<T: Serialize>(&self, value: &T, quiet: bool) -> Gone {
        self.say(&parameters(value), quiet).await
    }

    async fn say(&self, reply: &Reply, quiet: bool) -> Gone {
        if quiet {
            return Some(());
        }
        // Silence would say that the service is broken.
        let too_long = |error| frame::encode(&unable(&format!("the answer cannot be sent: {error}")));
        let bytes = frame::encode(reply).or_else(too_long).ok()?;
        channel::send(&self.stream, &bytes, &[], Instant::now() + self.rules.write).await.ok()
    }

    async fn invalid(&self, parameter: &str) {
        self.say(&service_error("InvalidParameter", json!({ "parameter": parameter })), false).await;
    }

    /// Says why before it hangs up, in the only form that Varlink has for it.
    async fn nonsense(&self, what: &str) {
        if !what.contains("is gone") {
            tracing::warn!(what, "a caller on the control socket is turned away");
            self.invalid(what).await;
        }
    }
}

/// The longest text about a successor, in bytes: it stands in every status, which has to fit into a message.
const MAX_TEXT: usize = 1024;

fn overlong(join: &Join) -> Option<&'static str> {
    let Join { process: Process { instance, version, pid: _ }, attempt, .. } = join;
    let attempt = attempt.as_deref().unwrap_or_default();
    let texts = [("instance", instance.as_str()), ("version", version), ("attempt", attempt)];
    texts.into_iter().find_map(|(name, text)| (text.len() > MAX_TEXT).then_some(name))
}

fn command(method: &str, parameters: Map<String, Value>) -> Option<Result<Command, Reply>> {
    let within = || {
        serde_json::from_value::<Within>(Value::Object(parameters))
            .map(|within| within.deadline_ms.map(Duration::from_millis))
            .map_err(|error| service_error("InvalidParameter", json!({ "parameter": error.to_string() })))
    };
    Some(match method {
        "io.hotupdate.Handoff" => Ok(Command::Handoff),
        "io.hotupdate.Abort" => Ok(Command::Abort),
        "io.hotupdate.Rollback" => Ok(Command::Rollback),
        "io.hotupdate.Drain" => within().map(|within| Command::Drain { within: within.unwrap_or_default() }),
        "io.hotupdate.Stop" => within().map(|within| Command::Stop { within }),
        _ => return None,
    })
}

fn info() -> Value {
    json!({
        "vendor": "hotupdate",
        "product": "hotupdate",
        "version": env!("CARGO_PKG_VERSION"),
        "url": env!("CARGO_PKG_REPOSITORY"),
        "interfaces": ["org.varlink.service", INTERFACE],
    })
}

fn description(parameters: &Map<String, Value>) -> Reply {
    let interface = parameters.get("interface").and_then(Value::as_str).unwrap_or_default();
    let description = match interface {
        INTERFACE => operator::DESCRIPTION,
        "org.varlink.service" => operator::SERVICE_DESCRIPTION,
        _ => return service_error("InterfaceNotFound", json!({ "interface": interface })),
    };
    self::parameters(&json!({ "description": description }))
}

fn unknown(method: &str) -> Reply {
    match method.rsplit_once('.') {
        Some((INTERFACE | "org.varlink.service", _)) => {
            service_error("MethodNotFound", json!({ "method": method }))
        }
        Some((interface, _)) => service_error("InterfaceNotFound", json!({ "interface": interface })),
        None => service_error("MethodNotFound", json!({ "method": method })),
    }
}

fn parameters<T: Serialize>(value: &T) -> Reply {
    let parameters = match serde_json::to_value(value) {
        Ok(Value::Object(parameters)) => parameters,
        _ => Map::new(),
    };
    Reply { parameters, ..Reply::default() }
}

fn continued<T: Serialize>(value: &T) -> Reply {
    Reply { continues: true, ..parameters(value) }
}

fn failed(name: &str, details: Value) -> Reply {
    Reply { error: Some(format!("{INTERFACE}.{name}")), ..parameters(&details) }
}

fn service_error(name: &str, details: Value) -> Reply {
    Reply { error: Some(format!("org.varlink.service.{name}")), ..parameters(&details) }
}

/// A `Join` that was turned down, for people and, in full, for the successor.
pub(crate) fn refused(refusal: &Refusal) -> Reply {
    let name = match refusal {
        Refusal::Starting => "Starting",
        Refusal::Busy { .. } => "Busy",
        Refusal::Incompatible { .. } => "Incompatible",
        Refusal::NotAllowed { .. } => "NotAllowed",
        _ => "NotServing",
    };
    failed(name, json!({ "reason": refusal.to_string(), "refusal": refusal }))
}

/// A `Join` that cannot be served for a reason of our own. The successor does not ask again.
pub(crate) fn unable(reason: &str) -> Reply {
    failed("Failed", json!({ "reason": reason }))
}

/// A `Join` that was accepted.
pub(crate) fn joined(joined: &hotupdate_proto::Joined) -> Reply {
    parameters(joined)
}
