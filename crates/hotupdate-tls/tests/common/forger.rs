//! A client that can say in a record whatever it likes.

use std::sync::{Arc, Mutex};

use rustls::{ClientConnection, ConnectionTrafficSecrets, KeyLog};

#[cfg(feature = "aws-lc-rs")]
use aws_lc_rs::{aead, hkdf};
#[cfg(not(feature = "aws-lc-rs"))]
use ring::{aead, hkdf};

use super::pair::{End, Handshaking, Options, Pair, Server, client_receives, client_sends, server_name};
use super::reference::{Reference, Serve as _};

pub(crate) const CHANGE_CIPHER_SPEC: u8 = 20;
pub(crate) const ALERT: u8 = 21;
pub(crate) const HANDSHAKE: u8 = 22;
pub(crate) const DATA: u8 = 23;

/// What a side says in a record.
pub(crate) type Record = (u8, Vec<u8>);

#[derive(Clone)]
pub(crate) struct Forger {
    pub(crate) to_server: Side,
    pub(crate) to_client: Side,
}

/// One direction. TLS 1.3 has a secret.
#[derive(Clone)]
pub(crate) struct Side {
    algorithm: &'static aead::Algorithm,
    secret: Option<Vec<u8>>,
    key: Vec<u8>,
    iv: [u8; 12],
    pub(crate) sequence: u64,
}

#[derive(Debug, Default)]
struct Log(Mutex<[Vec<u8>; 2]>);

impl KeyLog for Log {
    fn log(&self, label: &str, _: &[u8], secret: &[u8]) {
        match label {
            "CLIENT_TRAFFIC_SECRET_0" => self.0.lock().unwrap()[0] = secret.to_vec(),
            "SERVER_TRAFFIC_SECRET_0" => self.0.lock().unwrap()[1] = secret.to_vec(),
            _ => {}
        }
    }
}

impl Forger {
    /// Shakes hands, and takes the place of the client.
    pub(crate) fn connect(options: &Options) -> (Server, Self) {
        let (server, mut client) = options.configs();
        let log = Arc::new(Log::default());
        client.key_log = log.clone();
        client.enable_secret_extraction = true;
        let Pair { client, server } = Pair::accepted(&options.acceptor(server), client);
        (server, Self::new(client, &log))
    }

    /// Beside a server of rustls alone.
    pub(crate) fn connect_reference(options: &Options) -> (Reference, Self) {
        let (server, mut client) = options.configs();
        let log = Arc::new(Log::default());
        client.key_log = log.clone();
        client.enable_secret_extraction = true;
        let mut server = Reference::new(server);
        let mut client = ClientConnection::new(Arc::new(client), server_name()).unwrap();
        for _ in 0..3 {
            client_sends(&mut client, &server.pipe);
            assert_eq!(server.hears(), (Vec::new(), End::Open));
            client_receives(&mut client, &server.pipe).unwrap();
        }
        (server, Self::new(client, &log))
    }

    /// The client says more in the segment of its Finished. Returns what comes after the first `cut` bytes of
    /// that.
    pub(crate) fn connect_speaking(
        options: &Options,
        cut: usize,
        speak: impl FnOnce(&mut Side) -> Vec<u8>,
    ) -> (Server, Self, Vec<u8>) {
        let (server, mut client) = options.configs();
        let log = Arc::new(Log::default());
        client.key_log = log.clone();
        client.enable_secret_extraction = true;
        let (client, handshaking) = Handshaking::begin(&options.acceptor(server), client);
        let mut forger = Self::new(client, &log);
        let mut bytes = speak(&mut forger.to_server);
        let rest = bytes.split_off(cut);
        (handshaking.finish(&bytes), forger, rest)
    }

    fn new(client: ClientConnection, log: &Log) -> Self {
        let extracted = client.dangerous_extract_secrets().unwrap();
        let [to_server, to_client] = std::mem::take(&mut *log.0.lock().unwrap());
        Self { to_server: Side::new(extracted.tx, to_server), to_client: Side::new(extracted.rx, to_client) }
    }
}

impl Side {
    fn new((sequence, secrets): (u64, ConnectionTrafficSecrets), secret: Vec<u8>) -> Self {
        let (algorithm, key, iv) = match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&aead::AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&aead::AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&aead::CHACHA20_POLY1305, key, iv),
            _ => panic!("another suite"),
        };
        let secret = (!secret.is_empty()).then_some(secret);
        let iv = iv.as_ref().try_into().unwrap();
        Self { algorithm, secret, key: key.as_ref().to_vec(), iv, sequence }
    }

    pub(crate) fn is_tls13(&self) -> bool {
        self.secret.is_some()
    }

    fn nonce(&self) -> [u8; 12] {
        let mut nonce = self.iv;
        for (nonce, sequence) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *nonce ^= sequence;
        }
        nonce
    }

    fn key(&self) -> aead::LessSafeKey {
        aead::LessSafeKey::new(aead::UnboundKey::new(self.algorithm, &self.key).unwrap())
    }

    fn explicit(&self) -> usize {
        if self.secret.is_none() && self.algorithm != &aead::CHACHA20_POLY1305 { 8 } else { 0 }
    }

    fn aad(&self, typ: u8, length: usize) -> Vec<u8> {
        if self.secret.is_some() {
            return [&[23, 3, 3][..], &(length as u16 + 16).to_be_bytes()].concat();
        }
        [&self.sequence.to_be_bytes()[..], &[typ, 3, 3], &(length as u16).to_be_bytes()].concat()
    }

    pub(crate) fn seal(&mut self, typ: u8, bytes: &[u8]) -> Vec<u8> {
        self.seal_padded(typ, bytes, 0)
    }

    /// With zeros behind the type, if there is a type to be put behind.
    pub(crate) fn seal_padded(&mut self, typ: u8, bytes: &[u8], padding: usize) -> Vec<u8> {
        let mut body = bytes.to_vec();
        if self.secret.is_some() {
            body.push(typ);
            body.resize(body.len() + padding, 0);
        }
        self.seal_bare(typ, &body)
    }

    /// Without a type, in TLS 1.3.
    pub(crate) fn seal_bare(&mut self, typ: u8, body: &[u8]) -> Vec<u8> {
        let (nonce, explicit) = (self.nonce(), self.explicit());
        let aad = self.aad(typ, body.len());
        let mut sealed = body.to_vec();
        self.key()
            .seal_in_place_append_tag(
                aead::Nonce::assume_unique_for_key(nonce),
                aead::Aad::from(aad),
                &mut sealed,
            )
            .unwrap();
        self.sequence += 1;
        let outer = if self.secret.is_some() { DATA } else { typ };
        let length = (explicit + sealed.len()) as u16;
        [&[outer, 3, 3][..], &length.to_be_bytes(), &nonce[12 - explicit..], &sealed].concat()
    }

    pub(crate) fn key_update(&mut self, requested: bool) -> Vec<u8> {
        let record = self.seal(HANDSHAKE, &key_update(requested));
        self.update();
        record
    }

    /// Goes on with the next key.
    pub(crate) fn update(&mut self) {
        let secret = self.secret.take().unwrap();
        let secret = expand(&secret, "traffic upd", secret.len());
        self.key = expand(&secret, "key", self.key.len());
        self.iv = expand(&secret, "iv", 12).try_into().unwrap();
        (self.secret, self.sequence) = (Some(secret), 0);
    }

    /// All records in `bytes`, of which the last must be whole; follows the other side's KeyUpdates.
    pub(crate) fn open_all(&mut self, mut bytes: &[u8]) -> Vec<Record> {
        let mut records = Vec::new();
        while !bytes.is_empty() {
            let length = 5 + usize::from(u16::from_be_bytes([bytes[3], bytes[4]]));
            let (record, rest) = bytes.split_at(length);
            bytes = rest;
            records.push(self.open(record));
        }
        records
    }

    fn open(&mut self, record: &[u8]) -> Record {
        let explicit = self.explicit();
        let mut nonce = self.nonce();
        nonce[12 - explicit..].copy_from_slice(&record[5..5 + explicit]);
        let mut body = record[5 + explicit..].to_vec();
        let aad = self.aad(record[0], body.len() - 16);
        let nonce = aead::Nonce::assume_unique_for_key(nonce);
        let opened = self.key().open_in_place(nonce, aead::Aad::from(aad), &mut body);
        let mut plaintext = opened.expect("each record has the next number").to_vec();
        self.sequence += 1;
        let mut typ = record[0];
        if self.secret.is_some() {
            typ = plaintext.pop().unwrap();
        }
        if typ == HANDSHAKE && plaintext.len() == 5 {
            self.update();
        }
        (typ, plaintext)
    }
}

pub(crate) fn key_update(requested: bool) -> [u8; 5] {
    [24, 0, 0, 1, requested.into()]
}

/// HKDF-Expand-Label without a context.
fn expand(secret: &[u8], label: &str, length: usize) -> Vec<u8> {
    struct Length(usize);
    impl hkdf::KeyType for Length {
        fn len(&self) -> usize {
            self.0
        }
    }
    let algorithm = if secret.len() == 48 { hkdf::HKDF_SHA384 } else { hkdf::HKDF_SHA256 };
    let label = format!("tls13 {label}");
    let info = [&(length as u16).to_be_bytes()[..], &[label.len() as u8], label.as_bytes(), &[0]];
    let mut output = vec![0; length];
    hkdf::Prk::new_less_safe(algorithm, secret)
        .expand(&info, Length(length))
        .unwrap()
        .fill(&mut output)
        .unwrap();
    output
}
