//! Opens every record of a connection at the number that it must have.
//!
//! A record of TLS 1.3 does not say its number: it opens with the next number of its direction's key, and no
//! other. So if each one does, no two of them have been made with one key and one number.

use anyhow::{Context as _, bail, ensure};
use ring::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, KeyType, Prk};

use super::{Flow, Keys};

const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;

const FINISHED: u8 = 20;
const KEY_UPDATE: u8 = 24;

impl Flow {
    /// Opens all records, and says how many of each direction were protected by its application keys. Half a
    /// record at the end is none: there a process has died, or the proxy has not read on.
    ///
    /// # Errors
    ///
    /// If one does not open at its number. If it opens at one that was used before, the error says so.
    pub fn check(&self, keys: &Keys) -> anyhow::Result<[u64; 2]> {
        // Header, type and length of the ClientHello, its version, and then 32 random bytes.
        let random = self.to_server.get(11..43).context("a ClientHello is cut off")?;
        let direction = |bytes: &[u8], side: &str| {
            let secret = |label: &str| keys.secret(random, &format!("{side}_{label}"));
            let handshake = secret("HANDSHAKE_TRAFFIC_SECRET");
            let application = secret("TRAFFIC_SECRET_0");
            check(bytes, handshake, application).with_context(|| format!("from the {}", side.to_lowercase()))
        };
        Ok([direction(&self.to_server, "CLIENT")?, direction(&self.to_client, "SERVER")?])
    }
}

/// The keys of a direction, one after the other, and the number of the next record.
struct Direction {
    secret: Vec<u8>,
    sequence: u64,
}

/// A client that was cut off in its handshake has no secrets to say.
fn check(bytes: &[u8], handshake: Option<Vec<u8>>, application: Option<Vec<u8>>) -> anyhow::Result<u64> {
    let (mut rest, mut count) = (bytes, 0);
    let Some(secret) = handshake else { return Ok(0) };
    let mut direction = Direction { secret, sequence: 0 };
    let mut application = application;
    // Of the handshake: a message may go on in the next record.
    let mut messages = Vec::new();
    while let Some((record, behind)) = split(rest) {
        rest = behind;
        if matches!(record[0], HANDSHAKE | CHANGE_CIPHER_SPEC) {
            // ClientHello, ServerHello, and what stands between them for old boxes on the way.
            continue;
        }
        ensure!(record[0] == DATA, "a record of the type {}", record[0]);
        let (typ, said) = direction.open_next(record)?;
        ensure!(matches!(typ, ALERT | HANDSHAKE | DATA), "a record of the inner type {typ}");
        if application.is_none() {
            count += 1;
        }
        if typ != HANDSHAKE {
            continue;
        }
        messages.extend_from_slice(&said);
        while let Some(message) = take_message(&mut messages) {
            match (message, application.take()) {
                (FINISHED, Some(secret)) => direction = Direction { secret, sequence: 0 },
                (KEY_UPDATE, None) => direction.update(),
                (_, untouched) => application = untouched,
            }
        }
    }
    Ok(count)
}

/// The first record, if it is whole.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let &[_, _, _, high, low] = bytes.first_chunk::<5>()?;
    bytes.split_at_checked(5 + usize::from(u16::from_be_bytes([high, low])))
}

/// Takes a whole message from the front, and says its type.
fn take_message(messages: &mut Vec<u8>) -> Option<u8> {
    let &[typ, a, b, c] = messages.first_chunk::<4>()?;
    let length = 4 + u32::from_be_bytes([0, a, b, c]) as usize;
    (messages.len() >= length).then(|| {
        messages.drain(..length);
        typ
    })
}

impl Direction {
    fn open_next(&mut self, record: &[u8]) -> anyhow::Result<(u8, Vec<u8>)> {
        let Some(opened) = self.open(record, self.sequence) else {
            if let Some(again) = (0..self.sequence).rev().find(|&number| self.open(record, number).is_some())
            {
                bail!("the number {again} was used again, after {} records", self.sequence);
            }
            bail!("the record {} does not open at any number up to it", self.sequence);
        };
        self.sequence += 1;
        Ok(opened)
    }

    /// Type and content, if it was made with this number.
    fn open(&self, record: &[u8], number: u64) -> Option<(u8, Vec<u8>)> {
        let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &expand(&self.secret, "key", 16)).ok()?);
        let mut nonce: [u8; 12] = expand(&self.secret, "iv", 12).try_into().ok()?;
        for (nonce, number) in nonce[4..].iter_mut().zip(number.to_be_bytes()) {
            *nonce ^= number;
        }
        let (header, body) = record.split_at(5);
        let mut body = body.to_vec();
        let nonce = Nonce::assume_unique_for_key(nonce);
        let plaintext = key.open_in_place(nonce, Aad::from(header), &mut body).ok()?;
        let end = plaintext.iter().rposition(|byte| *byte != 0)?;
        Some((plaintext[end], plaintext[..end].to_vec()))
    }

    fn update(&mut self) {
        (self.secret, self.sequence) = (expand(&self.secret, "traffic upd", 32), 0);
    }
}

struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

/// HKDF-Expand-Label (RFC 8446, section 7.1), without a context.
fn expand(secret: &[u8], label: &str, length: usize) -> Vec<u8> {
    let label = format!("tls13 {label}");
    let info = [&(length as u16).to_be_bytes()[..], &[label.len() as u8], label.as_bytes(), &[0]];
    let mut output = vec![0; length];
    Prk::new_less_safe(HKDF_SHA256, secret)
        .expand(&info, Length(length))
        .and_then(|okm| okm.fill(&mut output))
        .expect("it is short enough");
    output
}
