//! What client and server have agreed on is the same after a migration, and so is what can be derived from
//! it.

use std::io;

use rustls::CipherSuite::{
    self, TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384,
    TLS13_CHACHA20_POLY1305_SHA256,
};

use crate::pair::{Options, Pair};
use crate::provider::PROVIDERS;

const TLS13: [CipherSuite; 3] =
    [TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256];

#[test]
fn protocol_name_and_certificates() {
    for rsa in [false, true] {
        for suite in [TLS13_AES_128_GCM_SHA256, TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384] {
            if suite == TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 && !rsa {
                continue;
            }
            let mut pair = Options { client_certificate: true, rsa, ..Options::new(suite) }.connect();
            let before = pair.server.stream().negotiated().clone();
            assert_eq!(before.cipher_suite, suite);
            assert_eq!(before.alpn.as_deref(), Some(&b"http/1.1"[..]));
            assert_eq!(before.server_name.as_deref(), Some("localhost"));
            assert_eq!(before.client_certificates.len(), 1);
            for _ in 0..3 {
                pair.server.migrate();
                assert_eq!(*pair.server.stream().negotiated(), before);
                pair.talk();
            }
        }
    }
}

fn server_exports(pair: &mut Pair, label: &str, context: Option<&[u8]>) -> io::Result<Vec<u8>> {
    let mut output = vec![0; 77];
    pair.server.stream().export_keying_material(&mut output, label, context)?;
    Ok(output)
}

#[test]
fn keying_material_if_it_was_asked_for() {
    for &provider in PROVIDERS {
        for suite in TLS13 {
            let mut pair = Options { provider, keep_exporter: true, ..Options::new(suite) }.connect();
            for migrations in 0..3 {
                for context in [None, Some(&b""[..]), Some(b"context")] {
                    for label in ["EXPORTER-Channel-Binding", ""] {
                        let client = pair.client.export_keying_material([0; 77], label.as_bytes(), context);
                        assert_eq!(
                            server_exports(&mut pair, label, context).unwrap(),
                            client.unwrap(),
                            "{suite:?} {migrations}"
                        );
                    }
                }
                pair.server.migrate();
            }
        }
    }
}

#[test]
fn no_keying_material_otherwise() {
    let mut pair = Options::new(TLS13_AES_128_GCM_SHA256).connect();
    for _ in 0..2 {
        let error = server_exports(&mut pair, "label", None).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Unsupported);
        pair.server.migrate();
    }
    let mut pair = Options::in_rustls(TLS13_AES_128_GCM_SHA256).connect();
    let client = pair.client.export_keying_material([0; 77], b"label", None).unwrap();
    assert_eq!(server_exports(&mut pair, "label", None).unwrap(), client);

    let mut pair = Options::new(TLS13_AES_128_GCM_SHA256);
    pair.keep_exporter = true;
    let mut pair = pair.connect();
    pair.server.migrate();
    for (length, label) in [(0, "label".to_owned()), (255 * 32 + 1, "label".to_owned()), (1, "l".repeat(250))]
    {
        let mut output = vec![0; length];
        pair.server.stream().export_keying_material(&mut output, &label, None).unwrap_err();
    }
}
