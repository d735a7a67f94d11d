//! The chat as it is on a system where no version takes over from another one: it serves, it stops politely,
//! and a handoff is an error that says so. `make portable` runs this.
#![cfg(hotupdate_portable)]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(60);

const NO_HANDOFF: &str = "a handoff needs Linux: on this system no version takes over from another one";

/// A chat that serves.
struct Chat {
    process: Child,
    output: BufReader<ChildStdout>,
    log: Receiver<String>,
    address: String,
}

impl Chat {
    fn start() -> Self {
        let mut process = chat("127.0.0.1:0").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        let (lines, log) = channel();
        let stderr = BufReader::new(process.stderr.take().unwrap());
        std::thread::spawn(move || {
            stderr.lines().map_while(Result::ok).try_for_each(|line| lines.send(line))
        });
        let line = next_line(&mut output);
        let (start, address) = line.split_once("http=").expect("it serves");
        assert!(start.starts_with("serving generation=1 "), "{line}");
        let address = address.to_owned();
        Self { process, output, log, address }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream
    }

    /// A WebSocket.
    fn member(&self) -> TcpStream {
        let mut member = self.connect();
        let upgrade = "GET /chat?name=a HTTP/1.1\r\nhost: chat\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                       sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        member.write_all(upgrade.as_bytes()).unwrap();
        assert!(head(&mut member).starts_with("HTTP/1.1 101 "));
        member
    }

    fn signal(&self, name: &str) {
        let pid = self.process.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    fn logs(&self, what: &str) {
        while !self.log.recv_timeout(SOON).expect(what).contains(what) {}
    }
}

impl Drop for Chat {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// In a folder that is not there: nothing is made in it.
fn control() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("never/control.sock")
}

fn chat(listen: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_websocket-chat"));
    command.args(["--listen", listen, "--control"]).arg(control()).env_remove("HOTUPDATE_ATTEMPT");
    command
}

fn next_line(output: &mut BufReader<ChildStdout>) -> String {
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}

/// Reads the head of an answer.
fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    String::from_utf8(head).unwrap()
}

#[test]
fn it_serves_and_stops_politely() {
    let mut chat = Chat::start();
    let mut client = chat.connect();
    client.write_all(b"GET / HTTP/1.1\r\nhost: chat\r\nconnection: close\r\n\r\n").unwrap();
    let mut page = String::new();
    client.read_to_string(&mut page).unwrap();
    assert!(page.starts_with("HTTP/1.1 200 OK") && page.contains("</script>"), "{page}");

    let mut member = chat.member();
    chat.signal("TERM");
    let mut rest = Vec::new();
    member.read_to_end(&mut rest).unwrap();
    // A close frame, and the code 1001 or 1012 (RFC 6455, section 5.5.1).
    let close = rest.windows(4).any(|frame| frame[0] == 0x88 && frame[2] == 0x03);
    assert!(close, "it goes with a word: {rest:?}");
    assert!(next_line(&mut chat.output).starts_with("drained generation=1 "));
    assert!(chat.process.wait().unwrap().success());
    assert!(!control().parent().unwrap().exists(), "nothing is made where a control socket would be");
}

#[test]
fn a_handoff_is_an_error_that_says_so() {
    let chat = Chat::start();
    chat.signal("HUP");
    chat.logs(&format!("no successor is started: {NO_HANDOFF}"));

    let second = self::chat(&chat.address).output().unwrap();
    let said = String::from_utf8(second.stderr).unwrap();
    let why = format!("{NO_HANDOFF}: end the one that has this address first");
    assert!(!second.status.success() && said.contains(&why), "{said}");

    let started = self::chat("127.0.0.1:0").env("HOTUPDATE_ATTEMPT", "a").output().unwrap();
    let said = String::from_utf8(started.stderr).unwrap();
    assert!(!started.status.success() && said.contains(NO_HANDOFF), "{said}");

    let mut client = chat.connect();
    client.write_all(b"GET / HTTP/1.1\r\nhost: chat\r\n\r\n").unwrap();
    assert!(head(&mut client).starts_with("HTTP/1.1 200 OK"), "it serves on");
}

#[test]
fn a_second_interrupt_waits_for_nothing() {
    let mut chat = Chat::start();
    // It never answers that it is told to go.
    let _member = chat.member();
    chat.signal("INT");
    chat.logs("told to stop");
    let begun = Instant::now();
    chat.signal("INT");
    assert!(chat.process.wait().unwrap().success());
    assert!(begun.elapsed() < SOON / 2, "the drain may take {SOON:?}");
}
