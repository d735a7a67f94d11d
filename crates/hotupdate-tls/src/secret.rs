//! Secrets, and the key schedule of TLS 1.3 as far as a connection needs it after its handshake (RFC 8446,
//! section 7).

use std::fmt;

use zeroize::Zeroizing;

use crate::provider::hkdf;
use crate::suite::{NONCE, Suite};

/// Bytes that are wiped when they are dropped, and that no `Debug` shows.
///
/// They stay where they were allocated: a secret in an array would leave a copy behind wherever it was moved
/// from.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    pub(crate) fn new(bytes: &[u8]) -> Self {
        Self(Zeroizing::new(bytes.to_vec()))
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// HKDF-Expand-Label.
    pub(crate) fn expand(&self, suite: Suite, label: &str, context: &[u8], len: usize) -> Self {
        let mut expanded = Zeroizing::new(vec![0; len]);
        self.expand_into(suite, label, context, &mut expanded);
        Self(expanded)
    }

    /// HKDF-Expand-Label. The output is at most 255 hashes long, label and context at most 249 and 255 bytes.
    pub(crate) fn expand_into(&self, suite: Suite, label: &str, context: &[u8], output: &mut [u8]) {
        let length = (output.len() as u16).to_be_bytes();
        let label_length = [(PREFIX.len() + label.len()) as u8];
        let context_length = [context.len() as u8];
        let info: [&[u8]; 6] =
            [&length, &label_length, PREFIX.as_bytes(), label.as_bytes(), &context_length, context];
        hkdf::Prk::new_less_safe(suite.hkdf(), self.as_bytes())
            .expand(&info, Length(output.len()))
            .and_then(|okm| okm.fill(output))
            .expect("it is short enough");
    }

    /// The traffic secret after a KeyUpdate.
    pub(crate) fn next(&self, suite: Suite) -> Self {
        self.expand(suite, "traffic upd", &[], suite.secret_len())
    }

    /// The key and the IV that a traffic secret stands for.
    pub(crate) fn key_and_iv(&self, suite: Suite) -> (Self, Zeroizing<[u8; NONCE]>) {
        (self.expand(suite, "key", &[], suite.aead().key_len()), self.iv(suite))
    }

    pub(crate) fn iv(&self, suite: Suite) -> Zeroizing<[u8; NONCE]> {
        let mut iv = Zeroizing::new([0; NONCE]);
        self.expand_into(suite, "iv", &[], &mut *iv);
        iv
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

const PREFIX: &str = "tls13 ";

struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}
