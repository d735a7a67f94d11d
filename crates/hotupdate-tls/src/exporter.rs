//! Keying material for the application (RFC 8446, section 7.5).

use crate::provider::digest;
use crate::secret::Secret;
use crate::suite::Suite;

/// The exporter of a connection that has migrated.
#[derive(Debug)]
pub(crate) struct Exporter<'a> {
    pub(crate) suite: Suite,
    pub(crate) secret: &'a Secret,
}

impl Exporter<'_> {
    /// As rustls's `export_keying_material`. `None` if label or output are longer than the key schedule can
    /// say.
    pub(crate) fn export(&self, output: &mut [u8], label: &str, context: Option<&[u8]>) -> Option<()> {
        const MAX_LABEL: usize = 249;
        let hash = self.suite.digest();
        if output.is_empty() || output.len() > 255 * hash.output_len() || label.len() > MAX_LABEL {
            return None;
        }
        let nothing = digest::digest(hash, &[]);
        let derived = self.secret.expand(self.suite, label, nothing.as_ref(), hash.output_len());
        let context = digest::digest(hash, context.unwrap_or_default());
        derived.expand_into(self.suite, "exporter", context.as_ref(), output);
        Some(())
    }
}
