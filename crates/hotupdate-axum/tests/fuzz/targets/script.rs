//! A stream of requests, and what happens while it is sent.
//!
//! Deliberately absent: doing it, see [`super::stage`].

use arbitrary::{Result, Unstructured};

/// The most steps: in a real drain there would be a second for all of them.
const STEPS: usize = 100;

/// What is sent, and what happens meanwhile.
#[derive(Debug, Default)]
pub(super) struct Script {
    pub(crate) stream: Vec<u8>,
    pub(super) steps: Vec<Step>,
    /// It may be that a body is not read.
    pub(super) ignores_bodies: bool,
    /// Not all of it is requests.
    pub(super) has_garbage: bool,
}

/// One thing that happens.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    /// So many bytes more are sent.
    Send(usize),
    /// Everything comes to rest.
    Settle,
    /// A connection that is idle gives back what it holds.
    Rest,
    /// Every task gets so many turns.
    Turns(u8),
    /// The client reads what is there.
    Read,
    /// A request that is held is answered.
    Release,
    /// Bodies that are kept unread are let go.
    LetGo,
    /// Another process serves.
    Drain,
    /// It says that it takes HTTP/1.1.
    Takes,
    /// What wants to leave arrives there.
    Arrive,
    /// It is dead: the connection stays.
    ServeAgain,
}

impl Step {
    /// What it is for a connection that stays where it is, in hyper.
    pub(super) fn of_one_that_stays(self) -> Option<Self> {
        match self {
            Self::Drain | Self::Takes | Self::Arrive | Self::ServeAgain => None,
            Self::Rest => Some(Self::Settle),
            other => Some(other),
        }
    }
}

impl Script {
    pub(super) fn read(u: &mut Unstructured<'_>) -> Result<Self> {
        let mut script = Self::default();
        for _ in 0..u.int_in_range(1..=6)? {
            script.request(u)?;
        }
        while !u.is_empty() && script.steps.len() < STEPS {
            let step = match u.int_in_range(0..=17)? {
                0..=3 => Step::Send(u.int_in_range(0..=200)?),
                4 => Step::Send(1),
                5..=6 => Step::Settle,
                7 => Step::Rest,
                8 => Step::Turns(u.int_in_range(0..=5)?),
                9 => Step::Read,
                10 => Step::Release,
                11 => Step::LetGo,
                12 => Step::Drain,
                13 => Step::Takes,
                14 => Step::Arrive,
                15 => Step::ServeAgain,
                // A whole migration, if the connection is between two messages.
                _ => {
                    script.steps.extend([Step::Drain, Step::Takes, Step::Settle]);
                    Step::Arrive
                }
            };
            script.steps.push(step);
        }
        Ok(script)
    }

    fn request(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        if u.ratio(1, 16)? {
            // No request, or a bit of one.
            let length = u.int_in_range(0..=40)?.min(u.len());
            self.stream.extend_from_slice(u.bytes(length)?);
            // The rest may mean anything after it.
            (self.ignores_bodies, self.has_garbage) = (true, true);
            return Ok(());
        }
        let method = *u.choose(&["GET", "POST", "POST", "HEAD", "CONNECT", "OPTIONS"])?;
        let path =
            *u.choose(&["/same", "/echo", "/echo", "/pipe", "/held", "/big", "/ignore", "/shelve", "/gone"])?;
        let version = *u.choose(&["HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0"])?;
        let header = *u.choose(&[
            "",
            "",
            "Connection: keep-alive\r\n",
            "Connection: close\r\n",
            "Expect: 100-continue\r\n",
            "Upgrade: x\r\nConnection: upgrade\r\n",
            "Long: 0123456789012345678901234567890123456789012345678901234567890123456789\r\n",
        ])?;
        let before = *u.choose(&["", "", "\r\n"])?;
        self.stream.extend_from_slice(
            format!("{before}{method} {path} {version}\r\nHost: a\r\n{header}").as_bytes(),
        );
        self.body(u)
    }

    /// The end of the head, and the body.
    fn body(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let form = u.int_in_range(0..=5)?;
        if form < 3 {
            self.stream.extend_from_slice(b"\r\n");
            return Ok(());
        }
        self.ignores_bodies |= ignores(&self.stream);
        let mut pieces: Vec<Vec<u8>> = Vec::new();
        for _ in 0..u.int_in_range(0..=3)? {
            // A body that is a request, if it is taken for one.
            let bait = b"GET /trap HTTP/1.1\r\nHost: a\r\n\r\n".as_slice();
            let length = u.int_in_range(1..=40)?;
            pieces.push(if u.arbitrary()? { bait.to_vec() } else { vec![b'x'; length] });
        }
        if form < 5 {
            let body = pieces.concat();
            self.stream.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
            self.stream.extend_from_slice(&body);
        } else {
            self.stream.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
            for piece in pieces {
                self.stream.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
                self.stream.extend_from_slice(&piece);
                self.stream.extend_from_slice(b"\r\n");
            }
            let trailer = *u.choose(&["", "", "Trailer: x\r\n"])?;
            self.stream.extend_from_slice(format!("0\r\n{trailer}\r\n").as_bytes());
        }
        Ok(())
    }
}

/// Whether the handler of the last request does not read its body.
fn ignores(stream: &[u8]) -> bool {
    let head = String::from_utf8_lossy(stream);
    let line = head.rsplit(" HTTP/1.").nth(1).unwrap_or_default();
    // What is piped into the answer is read with it, and these have none.
    let unsent = ["HEAD /pipe", "CONNECT /pipe"].iter().any(|ignores| line.ends_with(ignores));
    unsent || !["/echo", "/pipe"].iter().any(|reads| line.ends_with(reads))
}
