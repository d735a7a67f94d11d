//! Many connections in one frame: the compact form of `prepare`.
//!
//! A process that accepts connections in this form says so with each kind
//! ([`ConnectionKind::bulk`](super::ConnectionKind)); to any other the same is said in JSON. Numbers are
//! little-endian.
//!
//! ```text
//! u8   1                   the frame is binary: no JSON text begins with this byte
//! u32                      bytes that follow, at most 2^20
//! u8   form                1
//! u32  batch               its number
//! u16  count               connections, at most 250; each has a descriptor
//! count × (u64 id, u64 SO_COOKIE)
//!
//! u16  texts               how many; then each of them:
//!      u16 length, UTF-8
//! count × (
//!      u16 kind, u16 listener, u16 protocol      numbers of texts, from 0
//!      endpoint peer, endpoint local
//!      u64 age in milliseconds, u64 requests
//!      u32 length, state
//! )
//!
//! endpoint:   u8 4, four bytes of address, u16 port
//!          |  u8 6, sixteen bytes of address, u16 port, u32 scope
//!          |  u8 0, u16 number of the text of a path, which is empty for an unnamed socket
//! ```
//!
//! Up to the cookies every form is the same. A process that does not know the form of a batch knows by that
//! which connections it is about, and refuses them: they stay where they are.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use zeroize::Zeroizing;

use super::{Endpoint, MAX_BATCH_STATE, MigrationItem};
use crate::frame::{BINARY, FrameError, MAX_MESSAGE};
use crate::message::{MAX_DESCRIPTORS, Message};
use crate::text::ShortText;

/// The newest form that this crate reads and writes.
pub const FORM: u8 = 1;

/// The head of a binary frame: the byte that says so, and the length.
pub(crate) const HEAD: usize = 5;

/// As many bytes as a connection takes without its state, at most: what is written is never moved while it
/// grows, for a copy of keys would stay behind.
const KNOWN: usize = 3 * 2 + 2 * (1 + 16 + 2 + 4) + 8 + 8 + 4;

/// A batch of connections as a frame on the wire. It may hold keys, and is the caller's to wipe.
///
/// # Errors
/// [`FrameError`] if there are too many, or the frame would be longer than [`MAX_MESSAGE`].
///
/// ```
/// use hotupdate_proto::frame::{Decoder, decode_message};
/// use hotupdate_proto::migration::bulk;
/// use hotupdate_proto::{Message, MigrationItem};
///
/// let items = vec![MigrationItem { id: 7, kind: "echo".into(), ..MigrationItem::default() }];
/// let mut decoder = Decoder::default();
/// decoder.push(&bulk::encode(1, &items)?);
/// let frame = decoder.next_frame().expect("it is whole")?;
/// assert_eq!(decode_message(&frame)?, Message::Prepare { batch: 1, items });
/// # Ok::<(), hotupdate_proto::frame::FrameError>(())
/// ```
pub fn encode(batch: u32, items: &[MigrationItem]) -> Result<Vec<u8>, FrameError> {
    let count = match u16::try_from(items.len()) {
        Ok(count) if items.len() <= MAX_DESCRIPTORS => count,
        _ => return Err(FrameError::TooManyDescriptors(items.len())),
    };
    let states: usize = items.iter().map(|item| item.state.len()).sum();
    let (mut texts, mut known) = (Texts::default(), Writer::new(states + items.len() * KNOWN));
    for item in items {
        known.item(item, &mut texts)?;
    }
    let length = texts.0.iter().map(|text| 2 + text.len()).sum::<usize>() + known.0.len();
    let mut frame = Writer::new(HEAD + 1 + 4 + 2 + items.len() * 16 + 2 + length);
    frame.put(&[BINARY, 0, 0, 0, 0, FORM]);
    frame.put(&batch.to_le_bytes());
    frame.put(&count.to_le_bytes());
    for MigrationItem { id, cookie, .. } in items {
        frame.put(&id.to_le_bytes());
        frame.put(&cookie.to_le_bytes());
    }
    frame.put(&short(texts.0.len())?.to_le_bytes());
    for text in texts.0 {
        frame.put(&short(text.len())?.to_le_bytes());
        frame.put(text.as_bytes());
    }
    frame.put(&known.0);
    let Writer(mut frame) = frame;
    let frame = &mut *frame;
    let length = frame.len() - HEAD;
    if length > MAX_MESSAGE {
        return Err(FrameError::TooLong);
    }
    frame[1..HEAD].copy_from_slice(&u32::try_from(length).map_err(|_| FrameError::TooLong)?.to_le_bytes());
    // The caller's to wipe.
    Ok(std::mem::take(frame))
}

/// A binary frame, without its head, as a message.
pub(crate) fn decode(body: &[u8]) -> Result<Message, FrameError> {
    let mut read = Reader(body);
    let (form, batch, count) = (read.u8()?, read.u32()?, usize::from(read.u16()?));
    if count > MAX_DESCRIPTORS {
        return Err(FrameError::TooManyDescriptors(count));
    }
    let mut items = Vec::with_capacity(count);
    for _ in 0..count {
        let (id, cookie) = (read.u64()?, read.u64()?);
        items.push(MigrationItem { id, cookie, ..MigrationItem::default() });
    }
    if form == FORM {
        read.known(&mut items)?;
    }
    Ok(Message::Prepare { batch, items })
}

/// The texts of a batch, each of them once: there are few, and many connections.
#[derive(Default)]
struct Texts<'a>(Vec<&'a ShortText>);

impl<'a> Texts<'a> {
    fn number(&mut self, text: &'a ShortText) -> Result<[u8; 2], FrameError> {
        let known = self.0.iter().position(|known| *known == text);
        let number = known.unwrap_or(self.0.len());
        if known.is_none() {
            self.0.push(text);
        }
        Ok(short(number)?.to_le_bytes())
    }
}

struct Writer(Zeroizing<Vec<u8>>);

impl Writer {
    fn new(capacity: usize) -> Self {
        Self(Zeroizing::new(Vec::with_capacity(capacity)))
    }

    fn put(&mut self, bytes: &[u8]) {
        debug_assert!(self.0.len() + bytes.len() <= self.0.capacity(), "what it held would stay behind");
        self.0.extend_from_slice(bytes);
    }

    fn item<'a>(&mut self, item: &'a MigrationItem, texts: &mut Texts<'a>) -> Result<(), FrameError> {
        let MigrationItem {
            id: _,
            cookie: _,
            kind,
            listener,
            protocol,
            peer,
            local,
            age_ms,
            requests,
            state,
        } = item;
        for text in [kind, listener, protocol] {
            self.put(&texts.number(text)?);
        }
        for end in [peer, local] {
            self.endpoint(end, texts)?;
        }
        self.put(&age_ms.to_le_bytes());
        self.put(&requests.to_le_bytes());
        self.put(&u32::try_from(state.len()).map_err(|_| FrameError::TooLong)?.to_le_bytes());
        self.put(state);
        Ok(())
    }

    fn endpoint<'a>(&mut self, end: &'a Endpoint, texts: &mut Texts<'a>) -> Result<(), FrameError> {
        match end {
            Endpoint::Ip(address) => {
                match address.ip() {
                    IpAddr::V4(ip) => self.put(&[&[4], &ip.octets()[..]].concat()),
                    IpAddr::V6(ip) => self.put(&[&[6], &ip.octets()[..]].concat()),
                }
                self.put(&address.port().to_le_bytes());
                if let SocketAddr::V6(address) = address {
                    self.put(&address.scope_id().to_le_bytes());
                }
            }
            Endpoint::Unix(path) => {
                self.put(&[0]);
                self.put(&texts.number(path)?);
            }
        }
        Ok(())
    }
}

fn short(number: usize) -> Result<u16, FrameError> {
    u16::try_from(number).map_err(|_| FrameError::TooLong)
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], FrameError> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or_else(ends_early)?;
        self.0 = rest;
        Ok(*bytes)
    }

    fn bytes(&mut self, length: usize) -> Result<&'a [u8], FrameError> {
        let (bytes, rest) = self.0.split_at_checked(length).ok_or_else(ends_early)?;
        self.0 = rest;
        Ok(bytes)
    }

    fn u8(&mut self) -> Result<u8, FrameError> {
        self.array().map(u8::from_le_bytes)
    }

    fn u16(&mut self) -> Result<u16, FrameError> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, FrameError> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, FrameError> {
        self.array().map(u64::from_le_bytes)
    }

    /// What follows the cookies.
    fn known(&mut self, items: &mut [MigrationItem]) -> Result<(), FrameError> {
        let mut texts = Vec::new();
        for _ in 0..self.u16()? {
            let length = usize::from(self.u16()?);
            let text = str::from_utf8(self.bytes(length)?).map_err(|_| wrong("a text that is no UTF-8"))?;
            texts.push(ShortText::from(text));
        }
        let mut states = 0_usize;
        for item in items {
            item.kind = self.text(&texts)?;
            item.listener = self.text(&texts)?;
            item.protocol = self.text(&texts)?;
            item.peer = self.endpoint(&texts)?;
            item.local = self.endpoint(&texts)?;
            item.age_ms = self.u64()?;
            item.requests = self.u64()?;
            let length = usize::try_from(self.u32()?).map_err(|_| FrameError::TooLong)?;
            states = states.saturating_add(length);
            item.state = self.bytes(length)?.to_vec().into();
        }
        match self.0.len() {
            _ if states > MAX_BATCH_STATE => Err(wrong("more state than a batch may have")),
            0 => Ok(()),
            _ => Err(wrong("more than its connections")),
        }
    }

    fn text(&mut self, texts: &[ShortText]) -> Result<ShortText, FrameError> {
        let number = usize::from(self.u16()?);
        texts.get(number).cloned().ok_or_else(|| wrong("a text that is not there"))
    }

    fn endpoint(&mut self, texts: &[ShortText]) -> Result<Endpoint, FrameError> {
        Ok(match self.u8()? {
            0 => Endpoint::Unix(self.text(texts)?),
            4 => Endpoint::Ip((Ipv4Addr::from(self.array::<4>()?), self.u16()?).into()),
            6 => {
                let (ip, port) = (Ipv6Addr::from(self.array::<16>()?), self.u16()?);
                Endpoint::Ip(SocketAddrV6::new(ip, port, 0, self.u32()?).into())
            }
            _ => return Err(wrong("an address of no known family")),
        })
    }
}

fn ends_early() -> FrameError {
    wrong("less than it says")
}

fn wrong(what: &str) -> FrameError {
    FrameError::Invalid(format!("a batch of connections with {what}"))
}
