//! A key of a cipher.

use std::ops::Deref;

use crate::provider::aead::{Algorithm, LessSafeKey, UnboundKey};
use crate::secret::Secret;

/// A key, which is overwritten when it is dropped, for ring does not do that.
///
/// It stays where it was made, for the same reason as a [`Secret`].
pub(crate) struct Key(Box<LessSafeKey>);

impl Key {
    pub(crate) fn new(algorithm: &'static Algorithm, key: &Secret) -> Self {
        Self(Box::new(bare(algorithm, key.as_bytes())))
    }
}

impl Deref for Key {
    type Target = LessSafeKey;

    fn deref(&self) -> &LessSafeKey {
        &self.0
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        let algorithm = self.0.algorithm();
        *self.0 = bare(algorithm, &[0; 32][..algorithm.key_len()]);
        // Otherwise the compiler sees that what was written is never read, and does not write it.
        std::hint::black_box(&*self.0);
    }
}

fn bare(algorithm: &'static Algorithm, key: &[u8]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(algorithm, key).expect("it has the length of a key"))
}
