//! The cipher suites whose connections can migrate, and what differs between them.

use rustls::{CipherSuite, ProtocolVersion};

use crate::provider::{aead, digest, hkdf};

/// Keys of AES-GCM protect so many records (RFC 8446, section 5.5, and rustls).
const GCM_RECORDS: u64 = 1 << 24;

/// Keys without a limit of their own end before a sequence number could come twice.
const SEQUENCE_LIMIT: u64 = u64::MAX - 0xffff;

/// The length of a nonce, in bytes.
pub(crate) const NONCE: usize = 12;

/// The length of the tag behind each record's ciphertext.
pub(crate) const TAG: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    Tls12,
    Tls13,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cipher {
    Aes128Gcm,
    Aes256Gcm,
    Chacha20Poly1305,
}

/// A version of TLS with a suite of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Suite {
    pub(crate) version: Version,
    cipher: Cipher,
    /// SHA-384 for the key schedule of TLS 1.3 instead of SHA-256.
    sha384: bool,
}

impl Suite {
    /// `None` for a suite that is not protected by one of the three ciphers.
    pub(crate) fn new(version: ProtocolVersion, suite: CipherSuite) -> Option<Self> {
        use Cipher::*;
        let code = u16::from(suite);
        let (of, cipher) = match code {
            0x1301 => (Version::Tls13, Aes128Gcm),
            0x1302 => (Version::Tls13, Aes256Gcm),
            0x1303 => (Version::Tls13, Chacha20Poly1305),
            // ECDHE with ECDSA, and with RSA.
            0xc02b | 0xc02f => (Version::Tls12, Aes128Gcm),
            0xc02c | 0xc030 => (Version::Tls12, Aes256Gcm),
            0xcca9 | 0xcca8 => (Version::Tls12, Chacha20Poly1305),
            _ => return None,
        };
        let suite = Self { version: of, cipher, sha384: code == 0x1302 };
        (suite.protocol_version() == version).then_some(suite)
    }

    pub(crate) fn protocol_version(self) -> ProtocolVersion {
        match self.version {
            Version::Tls12 => ProtocolVersion::TLSv1_2,
            Version::Tls13 => ProtocolVersion::TLSv1_3,
        }
    }

    pub(crate) fn aead(self) -> &'static aead::Algorithm {
        match self.cipher {
            Cipher::Aes128Gcm => &aead::AES_128_GCM,
            Cipher::Aes256Gcm => &aead::AES_256_GCM,
            Cipher::Chacha20Poly1305 => &aead::CHACHA20_POLY1305,
        }
    }

    pub(crate) fn hkdf(self) -> hkdf::Algorithm {
        if self.sha384 { hkdf::HKDF_SHA384 } else { hkdf::HKDF_SHA256 }
    }

    pub(crate) fn digest(self) -> &'static digest::Algorithm {
        if self.sha384 { &digest::SHA384 } else { &digest::SHA256 }
    }

    /// How long the secret of a direction is: a traffic secret in TLS 1.3, a key in TLS 1.2.
    pub(crate) fn secret_len(self) -> usize {
        match self.version {
            Version::Tls12 => self.aead().key_len(),
            Version::Tls13 => self.digest().output_len(),
        }
    }

    /// Bytes of the nonce that stand before each record's ciphertext: TLS 1.2 with AES-GCM (RFC 5288).
    pub(crate) fn explicit_nonce(self) -> usize {
        match (self.version, self.cipher) {
            (Version::Tls12, Cipher::Aes128Gcm | Cipher::Aes256Gcm) => 8,
            _ => 0,
        }
    }

    /// How many records one key may protect.
    pub(crate) fn records_per_key(self) -> u64 {
        match self.cipher {
            Cipher::Aes128Gcm | Cipher::Aes256Gcm => GCM_RECORDS,
            Cipher::Chacha20Poly1305 => SEQUENCE_LIMIT,
        }
    }
}
