//! The HTTP/1.1 clients that ask and get an answer: keep-alive, one connection per request, post, slow.
//!
//! Deliberately absent: trying again. A connection that the server announced to close, or that was found
//! closed before anything was written, is opened anew; whatever happens after the first written byte counts.

use std::time::{Duration, Instant};

use super::client::{Client, within};
use super::http1::{Connection, Idle};
use super::tally::{Failure, FailureClass};

/// The largest body that is posted; some larger than a socket buffer's first size, most smaller.
const MAX_POSTED: u64 = 64 * 1024;

/// `GET /` and `GET /version` by turns on one connection.
pub(super) async fn keep_alive(client: &mut Client) {
    let mut connection = None;
    while !client.is_stopped() {
        for question in [Question::pid(Duration::ZERO), Question::version()] {
            client.exchange(&mut connection, &question).await;
            tokio::time::sleep(client.pause()).await;
        }
    }
}

/// `GET /`, each on a connection of its own.
pub(super) async fn per_request(client: &mut Client) {
    while !client.is_stopped() {
        client.exchange(&mut None, &Question::pid(Duration::ZERO).and_close()).await;
        tokio::time::sleep(client.pause()).await;
    }
}

/// `POST /echo` with a body of another size each time.
pub(super) async fn post(client: &mut Client) {
    let mut connection = None;
    while !client.is_stopped() {
        let size = client.dice.below(MAX_POSTED);
        let body = (0..size).map(|_| client.dice.roll().to_le_bytes()[0]).collect();
        client.exchange(&mut connection, &Question::echo(body)).await;
        tokio::time::sleep(client.pause()).await;
    }
}

/// `GET /?sleep=…`, one after the other without a pause, so that one is always in flight.
pub(super) async fn slow(client: &mut Client) {
    let mut connection = None;
    while !client.is_stopped() {
        let takes = client.plan.slow_takes;
        client.exchange(&mut connection, &Question::pid(takes)).await;
        if client.tally.failed() > 0 {
            // A server that refuses at once must not turn this into a busy loop.
            tokio::time::sleep(client.pause()).await;
        }
    }
}

/// A request, and the answer to expect.
#[derive(Debug)]
struct Question {
    line: String,
    body: Option<Vec<u8>>,
    close: bool,
    sleep: Duration,
    expected: Expected,
}

#[derive(Debug)]
enum Expected {
    Pid,
    Version,
    Echo,
}

impl Question {
    fn pid(sleep: Duration) -> Self {
        let line = format!("GET /?sleep={} HTTP/1.1", sleep.as_secs_f64());
        Self { line, body: None, close: false, sleep, expected: Expected::Pid }
    }

    fn version() -> Self {
        let line = "GET /version HTTP/1.1".into();
        Self { line, body: None, close: false, sleep: Duration::ZERO, expected: Expected::Version }
    }

    fn echo(body: Vec<u8>) -> Self {
        let line = "POST /echo HTTP/1.1".into();
        Self { line, body: Some(body), close: false, sleep: Duration::ZERO, expected: Expected::Echo }
    }

    fn and_close(mut self) -> Self {
        self.close = true;
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let mut head = format!("{}\r\nHost: load\r\n", self.line);
        if let Some(body) = &self.body {
            head.push_str(&format!(
                "Content-Type: application/octet-stream\r\nContent-Length: {}\r\n",
                body.len()
            ));
        }
        head.push_str(if self.close { "Connection: close\r\n\r\n" } else { "\r\n" });
        [head.as_bytes(), self.body.as_deref().unwrap_or_default()].concat()
    }
}

/// What an answer says about the process that gave it.
enum Answer {
    Pid(u32),
    Version(String),
    Echo,
}

impl Client {
    /// One request and its answer, all of it counted.
    async fn exchange(&mut self, slot: &mut Option<Connection>, question: &Question) {
        if slot.as_ref().is_some_and(|connection| connection.idle() == Idle::Closed) {
            self.tally.closed_idle += 1;
            *slot = None;
        }
        let begun = Instant::now();
        self.sent();
        self.tally.connections += u64::from(slot.is_none());
        let patience = self.plan.patience + question.sleep;
        let outcome = within(patience, "the answer", ask(slot.take(), self.address, question)).await;
        let took = begun.elapsed().saturating_sub(question.sleep);
        match outcome.and_then(|(connection, closes, body)| Ok((connection, closes, question.check(&body)?)))
        {
            Ok((connection, closes, answer)) => {
                self.answered(begun, took);
                self.count(answer);
                self.tally.asked += u64::from(closes && !question.close);
                *slot = (!closes).then_some(connection);
            }
            Err(Failure { class, text }) => {
                self.failed(Failure::new(class, format!("{}: {text}", question.line)))
            }
        }
    }

    fn count(&mut self, answer: Answer) {
        match answer {
            Answer::Pid(pid) => self.served_by_pid(pid),
            Answer::Version(version) => self.served_by_version(&version),
            Answer::Echo => {}
        }
    }
}

async fn ask(
    connection: Option<Connection>,
    address: std::net::SocketAddr,
    question: &Question,
) -> Result<(Connection, bool, Vec<u8>), Failure> {
    let mut connection = match connection {
        Some(connection) if connection.idle() == Idle::Spoke => {
            return Err(Failure::new(FailureClass::Other, "the server spoke without being asked"));
        }
        Some(connection) => connection,
        None => Connection::open(address).await?,
    };
    connection.send(&question.bytes()).await?;
    let head = connection.head().await?;
    let body = connection.body(head.length).await?;
    if head.status != 200 {
        return Err(Failure::new(FailureClass::BadStatus, format!("status {}", head.status)));
    }
    Ok((connection, head.close, body))
}

impl Question {
    fn check(&self, body: &[u8]) -> Result<Answer, Failure> {
        let bad = |why: String| Failure::new(FailureClass::BadBody, why);
        let text = || std::str::from_utf8(body).map_err(|_| bad("not text".into()));
        match self.expected {
            Expected::Pid => {
                crate::client::parse_pid(text()?).map(Answer::Pid).map_err(|error| bad(error.to_string()))
            }
            Expected::Version => Ok(Answer::Version(text()?.trim().to_owned())),
            Expected::Echo => match first_difference(body, self.body.as_deref().unwrap_or_default()) {
                None => Ok(Answer::Echo),
                Some(at) => Err(bad(format!("the echo differs from byte {at} on"))),
            },
        }
    }
}

fn first_difference(left: &[u8], right: &[u8]) -> Option<usize> {
    let differs = left.iter().zip(right).position(|(left, right)| left != right);
    differs.or_else(|| (left.len() != right.len()).then_some(left.len().min(right.len())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_first_difference() {
        assert_eq!(first_difference(b"abc", b"abc"), None);
        assert_eq!(first_difference(b"abc", b"axc"), Some(1));
        assert_eq!(first_difference(b"abc", b"ab"), Some(2));
    }

    #[test]
    fn a_pid_and_nothing_else_answers_the_question_for_it() {
        let question = Question::pid(Duration::ZERO);
        assert!(matches!(question.check(b"ospid:42\n"), Ok(Answer::Pid(42))));
        assert!(question.check(b"ospid:").is_err());
        assert_eq!(question.bytes(), b"GET /?sleep=0 HTTP/1.1\r\nHost: load\r\n\r\n");
    }
}
