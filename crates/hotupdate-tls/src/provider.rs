//! The ciphers, from the crate that a feature names: both crates have the same interface.

#[cfg(feature = "aws-lc-rs")]
pub(crate) use aws_lc_rs::{aead, digest, hkdf, rand};
#[cfg(all(feature = "ring", not(feature = "aws-lc-rs")))]
pub(crate) use ring::{aead, digest, hkdf, rand};

#[cfg(not(any(feature = "aws-lc-rs", feature = "ring")))]
compile_error!("hotupdate-tls takes its ciphers from a provider: enable the feature `ring` or `aws-lc-rs`");
