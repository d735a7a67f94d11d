//! What tells this process from every other one.

use rustix::rand::{GetRandomFlags, getrandom};

/// 128 random bits.
pub(crate) fn random() -> [u8; 16] {
    let mut bytes = [0u8; 16];
    // Without randomness the pid and the time still tell processes apart well enough for a label.
    if getrandom(&mut bytes, GetRandomFlags::empty()).is_err() {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let label = now.as_nanos() ^ (u128::from(std::process::id()) << 96);
        bytes = label.to_be_bytes();
    }
    bytes
}

/// The name of this machine.
pub(crate) fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
