//! The key and the certificate of a server: `key.pem` and `cert.pem` in one directory.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use hotupdate_axum::tls::rustls::crypto::ring;
use hotupdate_axum::tls::rustls::pki_types::pem::PemObject as _;
use hotupdate_axum::tls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use hotupdate_axum::tls::rustls::server::ServerConfig;

/// With what is in this directory, which is made for `localhost` where nothing is.
pub(crate) fn config(directory: &Path) -> anyhow::Result<ServerConfig> {
    let (certificate, key) = (directory.join("cert.pem"), directory.join("key.pem"));
    match (certificate.exists(), key.exists()) {
        (true, true) => {}
        (false, false) => make(directory, &certificate, &key)?,
        (true, false) => bail!("{} has no key beside it", certificate.display()),
        (false, true) => bail!("{} has no certificate beside it", key.display()),
    }
    let reading = |path: &Path| format!("reading {}", path.display());
    let chain: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(&certificate).and_then(Iterator::collect::<Result<_, _>>);
    let chain = chain.with_context(|| reading(&certificate))?;
    let private = PrivateKeyDer::from_pem_file(&key).with_context(|| reading(&key))?;
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions()?.with_no_client_auth();
    builder.with_single_cert(chain, private).with_context(|| format!("using {}", certificate.display()))
}

/// The certificate is its own authority: clients have to be told that it is to be trusted.
fn make(directory: &Path, certificate: &Path, key: &Path) -> anyhow::Result<()> {
    let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    let made = rcgen::generate_simple_self_signed(names).context("making a certificate")?;
    fs::create_dir_all(directory).with_context(|| format!("creating {}", directory.display()))?;
    let writing = |path: &Path| format!("writing {}", path.display());
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    // Only its owner may read it.
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let pem = made.signing_key.serialize_pem();
    options.open(key).and_then(|mut file| file.write_all(pem.as_bytes())).with_context(|| writing(key))?;
    let file = File::create_new(certificate);
    let pem = made.cert.pem();
    file.and_then(|mut file| file.write_all(pem.as_bytes())).with_context(|| writing(certificate))
}
