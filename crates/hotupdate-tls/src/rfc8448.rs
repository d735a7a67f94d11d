//! The vectors of RFC 8448, section 3: a server that takes over after that handshake and its ticket.

use std::sync::Arc;

use rustls::{CipherSuite, ProtocolVersion};
use zeroize::Zeroizing;

use crate::exporter::Exporter;
use crate::handshake::Handshake;
use crate::negotiated::Negotiated;
use crate::patience::Patience;
use crate::protection::{Direction, MAX_PLAINTEXT};
use crate::secret::Secret;
use crate::suite::Suite;
use crate::{Read, Records, State};

const CLIENT_SECRET: &str = "9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5";
const SERVER_SECRET: &str = "a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643";
const EXPORTER_SECRET: &str = "fe22f881176eda18eb8f44529e6792c50c9a3f89452f68d8ae311b4309d3cf50";

const CLIENT_DATA: &str = "1703030043a23f7054b62c94d0affafe8228ba55cbefacea42f914aa66bcab3f2b9819a8a5b46b395bd54a9a20441e\
    2b62974e1f5a6292a2977014bd1e3deae63aeebb21694915e4";
const SERVER_DATA: &str = "17030300432e937e11ef4ac740e538ad36005fc4a46932fc3225d05f82aa1b36e30efaf97d90e6dffc602dcb501a59\
    a8fcc49c4bf2e5f0a21c0047c2abf332540dd032e167c2955d";
const CLIENT_CLOSES: &str = "1703030013c9872760655666b74d7ff1153efd6db6d0b0e3";
const SERVER_CLOSES: &str = "1703030013b58fd67166ebf599d24720cfbe7efa7a8864a9";

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

fn suite() -> Suite {
    Suite::new(ProtocolVersion::TLSv1_3, CipherSuite::TLS13_AES_128_GCM_SHA256).unwrap()
}

fn server() -> Records {
    let direction = |secret, sequence| Direction {
        secret: Secret::new(&hex(secret)),
        iv: Zeroizing::default(),
        sequence,
    };
    let state = State {
        suite: suite(),
        negotiated: Arc::new(Negotiated {
            version: ProtocolVersion::TLSv1_3,
            cipher_suite: CipherSuite::TLS13_AES_128_GCM_SHA256,
            alpn: None,
            server_name: Some("server".to_owned()),
            client_certificates: Vec::new(),
        }),
        opener: direction(CLIENT_SECRET, 0),
        // The ticket had the first number.
        sealer: direction(SERVER_SECRET, 1),
        exporter: Secret::default(),
        max_plaintext: MAX_PLAINTEXT,
        handshake: Handshake::default(),
        owes_key_update: false,
        patience: Patience::default(),
        plaintext: Vec::new(),
        ciphertext: Vec::new(),
        output: Vec::new(),
    };
    Records::new(State::from_bytes(&state.to_bytes()).unwrap()).unwrap()
}

#[test]
fn keys_and_ivs() {
    let keys = |secret| {
        let (key, iv) = Secret::new(&hex(secret)).key_and_iv(suite());
        (key.as_bytes().to_vec(), iv.to_vec())
    };
    assert_eq!(
        keys(SERVER_SECRET),
        (hex("9f02283b6c9c07efc26bb9f2ac92e356"), hex("cf782b88dd83549aadf1e984"))
    );
    assert_eq!(
        keys(CLIENT_SECRET),
        (hex("17422dda596ed5d9acd890e3c63f5051"), hex("5b78923dee08579033e523d9"))
    );
}

#[test]
fn data_and_the_end() {
    let mut server = server();
    let data: Vec<u8> = (0..50).collect();
    for record in [CLIENT_DATA, CLIENT_CLOSES] {
        let record = hex(record);
        server.receive(&record);
    }
    let mut heard = [0; 100];
    assert_eq!(server.read(&mut heard), Ok(Read::Plaintext(50)));
    assert_eq!(heard[..50], data);
    assert_eq!(server.read(&mut heard), Ok(Read::Closed));

    assert_eq!(server.write(&data), Ok(50));
    assert_eq!(server.output(), hex(SERVER_DATA));
    server.sent(hex(SERVER_DATA).len());
    server.close();
    assert_eq!(server.output(), hex(SERVER_CLOSES));
}

#[test]
fn the_exporter_has_limits() {
    let secret = Secret::new(&hex(EXPORTER_SECRET));
    let exporter = Exporter { suite: suite(), secret: &secret };
    assert!(exporter.export(&mut [0; 255 * 32], "label", None).is_some());
    assert!(exporter.export(&mut [0; 255 * 32 + 1], "label", None).is_none());
}
