//! What a client sends, made of the bytes of an input: proper records, forged and damaged ones, in pieces.

use arbitrary::{Result, Unstructured};
use hotupdate_tls::MigrationBlock;

use super::common::forger::{ALERT, DATA, HANDSHAKE, Record, Side, key_update};
use super::common::pair::End;
use super::common::reference::Serve;

/// Which records there are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Any.
    Wild,
    /// Only such that rustls and the record layer deal with in the same way.
    Alike,
}

/// Pieces that arrive one after the other, and whether the server migrates after each.
pub(super) struct Script {
    pub(super) pieces: Vec<(Vec<u8>, bool)>,
    pub(super) ended: bool,
}

/// The choices behind a script, which another connection can follow, too.
pub(super) fn script(input: &[u8], client: &mut Side, kind: Kind) -> Script {
    let mut u = Unstructured::new(input);
    let bytes = records(&mut u, client, kind).unwrap_or_default();
    let mut pieces = Vec::new();
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        // When nothing is left to choose by, all of it comes at once.
        let count = u.int_in_range(1..=60).unwrap_or(1);
        let count = if u.is_empty() { rest.len() } else { count.min(rest.len()) };
        let (piece, later) = rest.split_at(count);
        pieces.push((piece.to_vec(), u.arbitrary().unwrap_or(true)));
        rest = later;
    }
    Script { pieces, ended: u.arbitrary().unwrap_or(false) }
}

fn records(u: &mut Unstructured<'_>, client: &mut Side, kind: Kind) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // The beginning of a handshake message.
    let mut message = Vec::new();
    for _ in 0..u.int_in_range(0..=12)? {
        let record = match u.int_in_range(0..=14)? {
            0..=4 => {
                let length = u.int_in_range(0..=20)?;
                client.seal_padded(DATA, &vec![u.arbitrary()?; length], u.int_in_range(0..=3)?)
            }
            5 | 6 if client.is_tls13() => {
                // rustls waits for the rest of what cannot become a KeyUpdate.
                let begun = if kind == Kind::Alike { message.len() } else { 0 };
                let whole = key_update(u.arbitrary()?);
                handshake(client, &mut message, &whole[begun..])
            }
            7 | 8 if client.is_tls13() => {
                // The rest of a message that has begun, or some of a new one.
                let whole = key_update(u.arbitrary()?);
                let count = u.int_in_range(1..=4)?;
                let part: Vec<u8> = whole.iter().copied().skip(message.len()).take(count).collect();
                handshake(client, &mut message, &part)
            }
            9 => client.seal(ALERT, &[u.int_in_range(0..=3)?, *u.choose(&[0, 10, 80, 90, 100])?]),
            10 => client.seal(ALERT, &vec![1; u.int_in_range(1..=4)?]),
            11 => {
                let mut record = client.seal(DATA, b"damaged");
                let at = u.int_in_range(5..=record.len() - 1)?;
                record[at] ^= 1 << u.int_in_range(0..=7)?;
                record
            }
            12 if kind == Kind::Wild => {
                let length = u.int_in_range(0..=7)?;
                let part = u.bytes(length.min(u.len()))?.to_vec();
                handshake(client, &mut message, &part)
            }
            13 if kind == Kind::Wild => client.seal_bare(u.arbitrary()?, &[u.arbitrary()?; 5]),
            14 if kind == Kind::Wild => {
                let length = u.int_in_range(0..=20)?;
                u.bytes(length.min(u.len()))?.to_vec()
            }
            _ => {
                // It comes again.
                let record = client.seal(DATA, b"again");
                let times = u.int_in_range(1..=2)?;
                record.repeat(times)
            }
        };
        bytes.extend(record);
    }
    Ok(bytes)
}

/// A handshake record. When it ends a KeyUpdate the client goes on with its next key.
fn handshake(client: &mut Side, message: &mut Vec<u8>, part: &[u8]) -> Vec<u8> {
    let record = client.seal(HANDSHAKE, part);
    message.extend_from_slice(part);
    if client.is_tls13() && matches!(message[..], [24, 0, 0, 1, 0 | 1]) {
        client.update();
        message.clear();
    }
    record
}

/// What a client sees of a server, and what the server's application hears.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) heard: Vec<u8>,
    pub(super) said: Vec<Record>,
    pub(super) end: End,
}

/// The server says back what it hears.
pub(super) fn run(mut server: impl Serve, mut client: Side, script: &Script, migrates: bool) -> Outcome {
    let mut outcome = Outcome { heard: Vec::new(), said: Vec::new(), end: End::Open };
    let pipe = server.pipe().clone();
    let mut hear = |server: &mut dyn Serve| {
        let (heard, end) = server.hears();
        outcome.heard.extend_from_slice(&heard);
        outcome.end = end;
        if end != End::Failed {
            server.says(&heard);
        }
        end
    };
    for (piece, here) in &script.pieces {
        pipe.lock().to_server.extend(piece);
        let end = hear(&mut server);
        if migrates && *here {
            match (server.try_migrate(), end) {
                (Ok(_), End::Open) => {}
                (Err(MigrationBlock::Closing), End::Closed | End::Failed) => {}
                (migrated, end) => panic!("{end:?}, and {migrated:?}"),
            }
        }
    }
    pipe.lock().ended = script.ended;
    hear(&mut server);
    let said = std::mem::take(&mut pipe.lock().to_client);
    outcome.said = client.open_all(&said);
    outcome
}
