//! The key and the certificate of a server: `key.pem` and `cert.pem` in one directory.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use hotupdate_axum::tls::rustls::crypto::ring;
use hotupdate_axum::tls::rustls::pki_types::pem::PemObject as _;
use hotupdate_axum::tls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use hotupdate_axum::tls::rustls::server::ServerConfig;

/// With what is in this directory, which is made for `localhost` where nothing is.
pub(crate) fn config(directory: &Path) -> anyhow::Result<ServerConfig> {
    let (certificate, key) = (directory.join("cert.pem"), directory.join("key.pem"));
    if key.exists() && !certificate.exists() && unnamed(&certificate).exists() {
        // A process that made both has ended between two names.
        name(&certificate)?;
    }
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
    // Both are whole before one of them has its name: a key without a certificate could not be told from one
    // that was put there.
    let written = write(&unnamed(key), 0o600, &made.signing_key.serialize_pem())
        .and_then(|()| write(&unnamed(certificate), 0o644, &made.cert.pem()));
    if written.is_err() {
        // Nothing is lost if one stays: the next start replaces it.
        let _ = [key, certificate].map(|path| fs::remove_file(unnamed(path)));
    }
    written?;
    name(key)?;
    name(certificate)
}

/// Where a file is until it is whole.
fn unnamed(path: &Path) -> PathBuf {
    path.with_extension("pem.new")
}

fn name(path: &Path) -> anyhow::Result<()> {
    fs::rename(unnamed(path), path).with_context(|| format!("naming {}", path.display()))
}

/// In place of what an earlier try has left. Where there are rights of files, it has these.
fn write(path: &Path, mode: u32, pem: &str) -> anyhow::Result<()> {
    let write = || {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
        #[cfg(not(unix))]
        let _ = mode;
        let mut file = options.open(path)?;
        file.write_all(pem.as_bytes())?;
        file.sync_all()
    };
    write().with_context(|| format!("writing {}", path.display()))
}
