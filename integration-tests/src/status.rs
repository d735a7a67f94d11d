//! Which processes serve, wait and drain: the Varlink method `io.hotupdate.Status`, asked as any client
//! would.
//!
//! Deliberately absent: the types of `hotupdate-proto`. This is an outside reader of the published interface,
//! so a changed name in it fails here, as it would at a user's.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use serde::Deserialize;

/// How long the serving process may take to answer.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);

/// How the service is; see `io.hotupdate.varlink` for the fields.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs, reason = "the interface description says what they mean")]
pub struct Status {
    pub serving: ProcessStatus,
    pub successor: Option<ProcessStatus>,
    #[serde(default)]
    pub predecessors: Vec<ProcessStatus>,
    pub listeners: Vec<ListenerStatus>,
    pub last_handoff: Option<LastHandoff>,
    pub last_failure: Option<LastFailure>,
    #[serde(default)]
    pub history: Vec<PastEvent>,
    #[serde(default)]
    pub warnings: Vec<Warning>,
}

/// One process of the service.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs, reason = "the interface description says what they mean")]
pub struct ProcessStatus {
    pub generation: u64,
    pub process: Process,
    pub state: String,
    #[serde(default)]
    pub since_ms: u64,
    #[serde(default)]
    pub connections: Summary,
    #[serde(default)]
    pub totals: Totals,
    #[serde(default)]
    pub tasks: Vec<String>,
    #[serde(default)]
    pub probation: bool,
    pub attempt: Option<String>,
}

/// The identity of a process.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs, reason = "the interface description says what they mean")]
pub struct Process {
    pub instance: String,
    pub pid: u32,
    pub version: String,
}

/// What became of connections.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[allow(missing_docs, reason = "the interface description says what they mean")]
#[serde(default)]
pub struct Totals {
    pub accepted: u64,
    pub adopted: u64,
    pub goaways: GoAways,
}

/// Connections of HTTP/2 that were told to leave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[allow(missing_docs, reason = "the interface description says what they mean")]
pub struct GoAways {
    pub not_accepted: u64,
    pub streams: u64,
    pub client: u64,
    pub settings: u64,
}

/// Open connections by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[allow(missing_docs, reason = "the interface description says what they mean")]
pub struct Summary {
    pub idle: u64,
    pub active: u64,
    pub upgraded: u64,
}

/// One listener of the serving process.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs, reason = "the interface description says what they mean")]
pub struct ListenerStatus {
    pub name: String,
    pub address: String,
    pub origin: String,
}

/// How the last handoff went.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs, reason = "the interface description says what they mean")]
pub struct LastHandoff {
    pub from: u64,
    pub gap_ns: Option<u64>,
    pub took_ms: u64,
    pub took_ns: Option<u64>,
}

/// Why the last attempt failed.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs, reason = "the interface description says what they mean")]
pub struct LastFailure {
    pub successor: Process,
    pub stage: String,
    pub reason: String,
}

/// Something that happened lately.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs, reason = "the interface description says what they mean")]
pub struct PastEvent {
    pub kind: String,
    pub generation: u64,
    pub text: String,
    pub ago_ms: u64,
}

/// What an operator should know of the serving process.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs, reason = "the interface description says what they mean")]
pub struct Warning {
    pub kind: String,
    pub text: String,
}

impl Status {
    /// Asks the process that owns the control socket.
    ///
    /// # Errors
    ///
    /// If no process listens there, or what comes back is not a status.
    pub fn ask(control: &Path) -> anyhow::Result<Self> {
        #[derive(Deserialize)]
        struct Parameters {
            status: Status,
        }
        let parameters = call(control, "io.hotupdate.Status")?;
        let Parameters { status } =
            serde_json::from_value(parameters).context("the status is not as published")?;
        Ok(status)
    }

    /// The processes that drain, as (generation, open connections).
    #[must_use]
    pub fn draining(&self) -> Vec<(u64, u64)> {
        let open = |summary: Summary| summary.idle + summary.active + summary.upgraded;
        self.predecessors.iter().map(|process| (process.generation, open(process.connections))).collect()
    }
}

/// One Varlink call without parameters: a JSON object and a NUL byte, each way (<https://varlink.org>).
///
/// # Errors
///
/// If no process answers, or the answer is a Varlink error.
pub fn call(control: &Path, method: &str) -> anyhow::Result<serde_json::Value> {
    let mut stream =
        UnixStream::connect(control).with_context(|| format!("connect to {}", control.display()))?;
    stream.set_read_timeout(Some(ANSWER_DEADLINE))?;
    stream.write_all(format!("{{\"method\":\"{method}\"}}\0").as_bytes()).context("ask")?;
    let mut reply = Vec::new();
    BufReader::new(stream).read_until(0, &mut reply).context("wait for the reply")?;
    if reply.pop() != Some(0) {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof)).context("half a reply");
    }
    let mut reply: serde_json::Value = serde_json::from_slice(&reply).context("the reply is not JSON")?;
    if let Some(error) = reply.get("error") {
        bail!("{method} was turned down: {error}");
    }
    Ok(reply["parameters"].take())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;
    use std::thread;

    fn answer_once(reply: &'static str) -> anyhow::Result<serde_json::Value> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("control.sock");
        let listener = UnixListener::bind(&path)?;
        let server = thread::spawn(move || -> io::Result<Vec<u8>> {
            let (mut stream, _) = listener.accept()?;
            let mut asked = Vec::new();
            BufReader::new(stream.try_clone()?).read_until(0, &mut asked)?;
            stream.write_all(reply.as_bytes())?;
            Ok(asked)
        });
        let answer = call(&path, "io.hotupdate.Status");
        let asked = server.join().expect("the server does not panic")?;
        assert_eq!(asked, b"{\"method\":\"io.hotupdate.Status\"}\0");
        answer
    }

    #[test]
    fn reads_a_reply_an_error_and_half_a_reply() -> anyhow::Result<()> {
        assert_eq!(answer_once("{\"parameters\":{\"a\":1}}\0")?["a"], 1);
        let turned_down = answer_once("{\"error\":\"io.hotupdate.NotServing\"}\0").expect_err("an error");
        assert!(turned_down.to_string().contains("NotServing"), "{turned_down}");
        assert!(answer_once("{\"parameters\":").is_err());
        Ok(())
    }
}
