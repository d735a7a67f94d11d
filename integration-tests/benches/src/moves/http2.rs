//! Clients of HTTP/2 that are as small as ten thousand of them in one process have to be.
//!
//! Deliberately absent: flow control, for their answers are short; and tables of header fields, which they
//! say that they have not.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use anyhow::{Context as _, bail};
use integration_tests::SOON;

/// The preface, SETTINGS without a header table, and the acknowledgement of those of the server
/// (RFC 9113, section 3.4).
const BEGIN: &[u8] =
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x06\x04\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x04\x01\0\0\0\0";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// The client has no use for it any more (RFC 9113, section 7).
const CANCEL: u32 = 8;

/// One connection.
#[derive(Debug)]
pub(super) struct Client {
    stream: TcpStream,
    /// The next one.
    id: u32,
}

impl Client {
    /// Connects, and asks for this path. What comes first of the answer has come when this returns.
    pub(super) fn connect(address: SocketAddr, path: &str) -> anyhow::Result<Self> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(SOON))?;
        stream.set_nodelay(true)?;
        stream.write_all(BEGIN)?;
        let mut client = Self { stream, id: 1 };
        client.get(path)?;
        Ok(client)
    }

    /// Asks for this path. The first DATA of the answer, which is all of it but in a stream that stays open.
    pub(super) fn get(&mut self, path: &str) -> anyhow::Result<Vec<u8>> {
        let id = self.id;
        self.id += 2;
        // `:method: GET` and `:scheme: http` of the static table; `:path` and `:authority`, each a literal
        // that is not indexed (RFC 7541, section 6.2.2).
        let mut block = vec![0x82, 0x86];
        for (name, value) in [(4, path), (1, "bench")] {
            block.extend([name, u8::try_from(value.len())?]);
            block.extend(value.as_bytes());
        }
        self.write(HEADERS, END_HEADERS | END_STREAM, id, &block)?;
        loop {
            let (kind, of, payload) = self.read()?;
            match kind {
                DATA if of == id => return Ok(payload),
                RST_STREAM | GOAWAY => bail!("a frame of the kind {kind} instead of an answer: {payload:?}"),
                _ => {}
            }
        }
    }

    /// Puts an end to the first stream.
    pub(super) fn reset(&mut self) -> anyhow::Result<()> {
        self.write(RST_STREAM, 0, 1, &CANCEL.to_be_bytes())
    }

    fn write(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> anyhow::Result<()> {
        let length = u32::try_from(payload.len())?.to_be_bytes();
        let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
        self.stream.write_all(&[&head, payload].concat()).context("send")
    }

    /// The kind, the stream and the payload of a frame.
    fn read(&mut self) -> anyhow::Result<(u8, u32, Vec<u8>)> {
        let mut head = [0; 9];
        self.stream.read_exact(&mut head).context("receive")?;
        let [a, b, c, kind, _, stream @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        self.stream.read_exact(&mut payload).context("receive")?;
        Ok((kind, u32::from_be_bytes(stream), payload))
    }
}
