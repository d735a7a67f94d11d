//! Session tickets that any version of a service understands.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, SystemTime};

use rustls::server::ProducesTickets;
use zeroize::Zeroizing;

use crate::key::Key;
use crate::provider::aead::{AES_256_GCM, Aad, Nonce};
use crate::provider::digest::{SHA256, digest};
use crate::provider::rand::{SecureRandom as _, SystemRandom};
use crate::secret::Secret;
use crate::suite::{NONCE, TAG};

/// How long one key makes tickets. With tickets of 96-bit random nonces that is enough for 100,000 a second
/// (2^31 under one key).
const KEY_LIFETIME: Duration = Duration::from_secs(6 * 60 * 60);

/// What is inside a ticket is rustls's own form, which its next version may change: a ticket of another
/// version is not ours, and its client shakes hands in full.
const RUSTLS: [u8; 4] = *b"0.23";

/// The first byte of the keys' form.
const FORM: u8 = 1;

const ID: usize = 12;
const NAME: usize = RUSTLS.len() + ID;
const SECRET: usize = 32;

/// What tickets are [bound to](Tickets::bound_to), by its hash.
type Bound = [u8; 32];

/// Keys for session tickets (RFC 8446, section 4.6.1, and RFC 5077) that pass from process to process, so
/// that clients that come back resume their sessions at the next version: rustls's own ticketers keep their
/// keys to themselves, and after an update each client shakes hands in full.
///
/// Give the same keys to every `ServerConfig` of a process that asks the same of its clients, and their bytes
/// to the next process as state of the application:
///
/// ```
/// use std::sync::Arc;
/// use std::time::SystemTime;
///
/// use hotupdate_tls::Tickets;
/// # #[cfg(feature = "ring")]
/// # use rustls::crypto::ring as provider;
/// # #[cfg(not(feature = "ring"))]
/// # use rustls::crypto::aws_lc_rs as provider;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let inherited: Option<Vec<u8>> = None;
/// let tickets = match inherited {
///     Some(bytes) => Tickets::from_bytes(&bytes)?,
///     None => Tickets::new(SystemTime::now())?,
/// };
/// let tickets = Arc::new(tickets);
/// # let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
/// # let chain = vec![certificate.cert.der().clone()];
/// # let key = rustls::pki_types::PrivateKeyDer::try_from(certificate.signing_key.serialize_der())?;
/// # let builder = rustls::ServerConfig::builder_with_provider(provider::default_provider().into());
/// # let builder = builder.with_safe_default_protocol_versions()?.with_no_client_auth();
/// let mut config = builder.with_single_cert(chain, key)?;
/// config.ticketer = tickets.clone();
///
/// // While the process serves, and only then:
/// tickets.rotate_if_due(SystemTime::now());
/// // For the next process:
/// let state = tickets.to_bytes();
/// # Ok(())
/// # }
/// ```
///
/// Three keys travel: the one before, the present one, and the one to come. Each process understands tickets
/// of all three. So a process that is replaced, and serves again because its successor fails, understands the
/// tickets of that successor, too, even if it has rotated in the meantime.
///
/// **A session that resumes is not checked again.** What the client has shown in its full handshake counts: its
/// certificate, or that it had none, whatever the server asks for now. So where clients are asked for
/// certificates, bind the tickets to what they have to show, with [`bound_to`](Self::bound_to).
///
/// **A process that holds the keys** can open all tickets that were made with them. That makes it the server
/// for clients that come back, and it can read what is said over TLS 1.2 in the sessions of these tickets,
/// and early data of TLS 1.3. A key makes tickets for six hours, and is understood for six more. That holds
/// for keys that lie where a process finds them after a crash, too, if it calls
/// [`rotate_if_due`](Self::rotate_if_due) before it uses them.
pub struct Tickets {
    keys: Arc<RwLock<Keys>>,
    /// Zeros, which are no hash, if it is nothing.
    bound: Bound,
}

struct Keys {
    previous: TicketKey,
    current: TicketKey,
    next: TicketKey,
    /// Since when `current` makes tickets.
    since: SystemTime,
}

struct TicketKey {
    id: [u8; ID],
    secret: Secret,
    key: Key,
}

/// Why there are no keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TicketsError {
    /// The system has no random numbers.
    #[error("the system gives no random numbers for keys of session tickets")]
    Random,
    /// The bytes are not those of [`Tickets::to_bytes`], or those of a newer version.
    #[error("what was inherited as keys of session tickets is none")]
    Form,
}

impl Tickets {
    /// With new keys.
    ///
    /// # Errors
    ///
    /// If the system gives no random numbers.
    pub fn new(now: SystemTime) -> Result<Self, TicketsError> {
        let keys = Keys {
            previous: TicketKey::random()?,
            current: TicketKey::random()?,
            next: TicketKey::random()?,
            since: now,
        };
        Ok(Self::unbound(keys))
    }

    /// With the keys of another process.
    ///
    /// # Errors
    ///
    /// If the bytes are none; begin with [`new`](Self::new) keys then.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, TicketsError> {
        let (&form, bytes) = bytes.split_first().ok_or(TicketsError::Form)?;
        let (since, keys) = bytes.split_first_chunk().ok_or(TicketsError::Form)?;
        if form != FORM || keys.len() != 3 * (ID + SECRET) {
            return Err(TicketsError::Form);
        }
        // No further than the clock can count: a lifetime is added to it.
        let since = Duration::from_secs(u64::from_be_bytes(*since));
        let since = SystemTime::UNIX_EPOCH
            .checked_add(since)
            .filter(|since| since.checked_add(KEY_LIFETIME).is_some());
        let mut keys = keys.chunks_exact(ID + SECRET).map(TicketKey::from_bytes);
        let mut key = || keys.next().flatten().ok_or(TicketsError::Form);
        let keys =
            Keys { previous: key()?, current: key()?, next: key()?, since: since.ok_or(TicketsError::Form)? };
        Ok(Self::unbound(keys))
    }

    fn unbound(keys: Keys) -> Self {
        Self { keys: Arc::new(RwLock::new(keys)), bound: Bound::default() }
    }

    /// The same keys, which also change together, for tickets that only a server understands which is bound to
    /// the same, in this process or another one. Bytes that say what clients have to prove are right: those of
    /// the roots that their certificates are checked with, and of whether they must show one.
    ///
    /// Otherwise a client that has shaken hands with a server that asks for no certificate resumes its session
    /// at another server, or at the next version, that demands one, and is let in without.
    ///
    /// ```
    /// # use std::{sync::Arc, time::SystemTime};
    /// # use hotupdate_tls::Tickets;
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let roots = b"-----BEGIN CERTIFICATE-----";
    /// let tickets = Arc::new(Tickets::new(SystemTime::now())?);
    /// // One server for all clients, and one for those that show a certificate of these roots.
    /// let (public, internal) = (tickets.clone(), tickets.bound_to(roots));
    /// # drop((public, internal));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn bound_to(&self, what: &[u8]) -> Arc<Self> {
        let mut bound = Bound::default();
        bound.copy_from_slice(digest(&SHA256, what).as_ref());
        Arc::new(Self { keys: self.keys.clone(), bound })
    }

    /// The keys for another process. They are as secret as the sessions: see [`Tickets`].
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let keys = self.read();
        let Keys { previous, current, next, since } = &*keys;
        let since = since.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut bytes = Zeroizing::new(Vec::with_capacity(1 + 8 + 3 * (ID + SECRET)));
        bytes.push(FORM);
        bytes.extend_from_slice(&since.to_be_bytes());
        for TicketKey { id, secret, key: _ } in [previous, current, next] {
            bytes.extend_from_slice(id);
            bytes.extend_from_slice(secret.as_bytes());
        }
        bytes
    }

    /// When the key that makes tickets should be replaced.
    pub fn rotates_at(&self) -> SystemTime {
        self.read().since + KEY_LIFETIME
    }

    /// Goes on with the next key if it is time, and says whether it was. The process that serves calls this,
    /// and no other: after a rotation in each of two processes they would not understand each other's
    /// tickets.
    ///
    /// Rotations that were missed, while no process had the keys, are made up for, so that no ticket is
    /// understood for longer than it should be. Without random numbers it stays with its keys.
    pub fn rotate_if_due(&self, now: SystemTime) -> bool {
        let mut keys = self.write();
        let due = keys.due(now);
        (0..due).take_while(|_| keys.rotate(now).is_ok()).count() > 0
    }

    /// Goes on with the next key, as after a leak: three times, and no ticket is understood of the keys that
    /// were there.
    ///
    /// # Errors
    ///
    /// If the system gives no random numbers; the keys stay as they are.
    pub fn rotate(&self, now: SystemTime) -> Result<(), TicketsError> {
        self.write().rotate(now)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Keys> {
        self.keys.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self) -> RwLockReadGuard<'_, Keys> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    /// A ticket is understood for so long at least.
    fn lifetime(&self) -> u32 {
        KEY_LIFETIME.as_secs() as u32
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.read().current.seal(&self.bound, plain)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        let Keys { previous, current, next, since: _ } = &*self.read();
        let name = cipher.get(..NAME)?;
        // The names are no secret.
        let key = [current, previous, next].into_iter().find(|key| key.name() == name)?;
        key.open(&self.bound, cipher)
    }
}

impl Keys {
    fn rotate(&mut self, now: SystemTime) -> Result<(), TicketsError> {
        let next = std::mem::replace(&mut self.next, TicketKey::random()?);
        self.previous = std::mem::replace(&mut self.current, next);
        self.since = now;
        Ok(())
    }

    /// How many rotations are due. After three of them no key is left of those that were there.
    fn due(&self, now: SystemTime) -> u64 {
        match now.duration_since(self.since) {
            Ok(age) => (age.as_secs() / KEY_LIFETIME.as_secs()).min(3),
            // A clock that was set back must not keep a key forever.
            Err(_) => u64::from(now + KEY_LIFETIME < self.since),
        }
    }
}

/// Without the keys.
impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tickets").field("rotates_at", &self.rotates_at()).finish_non_exhaustive()
    }
}

impl TicketKey {
    fn random() -> Result<Self, TicketsError> {
        let mut bytes = Zeroizing::new([0; ID + SECRET]);
        SystemRandom::new().fill(&mut *bytes).map_err(|_| TicketsError::Random)?;
        Self::from_bytes(&*bytes).ok_or(TicketsError::Random)
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (&id, secret) = bytes.split_first_chunk()?;
        let secret = Secret::new(secret);
        (secret.as_bytes().len() == SECRET).then(|| Self { id, key: Key::new(&AES_256_GCM, &secret), secret })
    }

    fn name(&self) -> [u8; NAME] {
        let mut name = [0; NAME];
        name[..RUSTLS.len()].copy_from_slice(&RUSTLS);
        name[RUSTLS.len()..].copy_from_slice(&self.id);
        name
    }

    /// What a ticket's ciphertext cannot be used without.
    fn aad(&self, bound: &Bound) -> Aad<[u8; NAME + size_of::<Bound>()]> {
        let mut aad = [0; NAME + size_of::<Bound>()];
        aad[..NAME].copy_from_slice(&self.name());
        aad[NAME..].copy_from_slice(bound);
        Aad::from(aad)
    }

    /// The key's name, a nonce, and the ciphertext.
    fn seal(&self, bound: &Bound, plain: &[u8]) -> Option<Vec<u8>> {
        let mut nonce = [0; NONCE];
        // Not a number that counts: it would tell how many clients there are.
        SystemRandom::new().fill(&mut nonce).ok()?;
        let mut ticket = Vec::with_capacity(NAME + NONCE + plain.len() + TAG);
        ticket.extend_from_slice(&self.name());
        ticket.extend_from_slice(&nonce);
        ticket.extend_from_slice(plain);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let body = &mut ticket[NAME + NONCE..];
        let tag = self.key.seal_in_place_separate_tag(nonce, self.aad(bound), body).ok()?;
        ticket.extend_from_slice(tag.as_ref());
        Some(ticket)
    }

    fn open(&self, bound: &Bound, ticket: &[u8]) -> Option<Vec<u8>> {
        let (nonce, body) = ticket[NAME..].split_first_chunk::<NONCE>()?;
        let mut body = body.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let length = self.key.open_in_place(nonce, self.aad(bound), &mut body).ok()?.len();
        body.truncate(length);
        Some(body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(60 * 60);

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + 1_000 * HOUR
    }

    fn copy(tickets: &Tickets) -> Tickets {
        Tickets::from_bytes(&tickets.to_bytes()).unwrap()
    }

    #[test]
    fn the_next_process_understands_and_goes_on() {
        let old = Tickets::new(now()).unwrap();
        let ticket = old.encrypt(b"session").unwrap();
        let new = copy(&old);
        assert_eq!(new.decrypt(&ticket).unwrap(), b"session");
        assert_eq!(old.decrypt(&new.encrypt(b"other").unwrap()).unwrap(), b"other");
        assert_eq!(new.rotates_at(), old.rotates_at());
    }

    #[test]
    fn a_process_that_serves_again_understands_one_that_has_rotated() {
        let old = Tickets::new(now()).unwrap();
        let new = copy(&old);
        assert!(new.rotate_if_due(now() + 6 * HOUR));
        let ticket = new.encrypt(b"session").unwrap();
        assert_eq!(old.decrypt(&ticket).unwrap(), b"session");
        // And the other way round, when it has caught up.
        assert!(old.rotate_if_due(now() + 6 * HOUR));
        assert_eq!(new.decrypt(&old.encrypt(b"session").unwrap()).unwrap(), b"session");
    }

    #[test]
    fn a_key_makes_tickets_for_six_hours_and_is_understood_for_six_more() {
        let tickets = Tickets::new(now()).unwrap();
        let ticket = tickets.encrypt(b"session").unwrap();
        assert!(!tickets.rotate_if_due(now() + 6 * HOUR - Duration::from_secs(1)));
        assert!(tickets.rotate_if_due(now() + 6 * HOUR));
        assert!(!tickets.rotate_if_due(now() + 7 * HOUR));
        assert!(tickets.decrypt(&ticket).is_some());
        assert!(tickets.rotate_if_due(now() + 12 * HOUR));
        assert!(tickets.decrypt(&ticket).is_none());
    }

    #[test]
    fn keys_that_lay_about_are_as_old_as_if_they_had_been_in_use() {
        for (hours, rotations) in [(5, 0), (6, 1), (11, 1), (12, 2), (17, 2), (18, 3), (1_000, 3)] {
            let tickets = Tickets::new(now()).unwrap();
            let ticket = tickets.encrypt(b"session").unwrap();
            let next = tickets.read().next.seal(&tickets.bound, b"session").unwrap();
            assert_eq!(tickets.rotate_if_due(now() + hours * HOUR), rotations > 0);
            assert_eq!(tickets.decrypt(&ticket).is_some(), rotations < 2, "after {hours} hours");
            assert_eq!(tickets.decrypt(&next).is_some(), rotations < 3, "after {hours} hours");
            assert!(!tickets.rotate_if_due(now() + hours * HOUR));
        }
    }

    #[test]
    fn a_clock_that_was_set_back_keeps_no_key_forever() {
        let tickets = Tickets::new(now()).unwrap();
        assert!(!tickets.rotate_if_due(now() - 5 * HOUR));
        assert!(tickets.rotate_if_due(now() - 100 * HOUR));
        assert!(!tickets.rotate_if_due(now() - 100 * HOUR));
    }

    #[test]
    fn what_is_no_ticket_is_refused() {
        let tickets = Tickets::new(now()).unwrap();
        let ticket = tickets.encrypt(b"session").unwrap();
        for length in 0..ticket.len() {
            assert!(tickets.decrypt(&ticket[..length]).is_none());
        }
        for byte in 0..ticket.len() {
            let mut ticket = ticket.clone();
            ticket[byte] ^= 1;
            assert!(tickets.decrypt(&ticket).is_none());
        }
        assert!(Tickets::new(now()).unwrap().decrypt(&ticket).is_none());
    }

    #[test]
    fn a_ticket_is_understood_where_tickets_are_bound_to_the_same() {
        let free = Arc::new(Tickets::new(now()).unwrap());
        let all = |keys: &Tickets| [keys.bound_to(b"roots"), keys.bound_to(b"roots 2"), keys.bound_to(b"")];
        let (here, there) = (all(&free), all(&copy(&free)));
        for (n, tickets) in here.iter().chain([&free]).enumerate() {
            let ticket = tickets.encrypt(b"session").unwrap();
            for (m, other) in there.iter().chain([&copy(&free).into()]).enumerate() {
                assert_eq!(other.decrypt(&ticket).is_some(), n == m);
            }
        }
        free.rotate(now() + HOUR).unwrap();
        assert_eq!(here[0].rotates_at(), now() + 7 * HOUR, "the keys are the same ones");
    }

    #[test]
    fn tickets_of_another_rustls_are_not_ours() {
        let tickets = Tickets::new(now()).unwrap();
        assert!(tickets.encrypt(b"session").unwrap().starts_with(&RUSTLS));
        // The workspace, which is not there where the crate was downloaded.
        let workspace = concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.toml");
        let Ok(dependencies) = std::fs::read_to_string(workspace) else { return };
        let version = format!("\nrustls = {{ version = \"{}.", str::from_utf8(&RUSTLS).unwrap());
        assert!(dependencies.contains(&version), "{version}");
    }

    #[test]
    fn what_are_no_keys_is_refused() {
        let bytes = Tickets::new(now()).unwrap().to_bytes();
        for length in 0..bytes.len() {
            assert_eq!(Tickets::from_bytes(&bytes[..length]).unwrap_err(), TicketsError::Form);
        }
        let mut other = bytes.clone();
        other[0] = 2;
        assert_eq!(Tickets::from_bytes(&other).unwrap_err(), TicketsError::Form);
        for seconds in [u64::MAX, i64::MAX as u64, i64::MAX as u64 - 1] {
            let mut other = bytes.clone();
            other[1..9].copy_from_slice(&seconds.to_be_bytes());
            assert_eq!(Tickets::from_bytes(&other).unwrap_err(), TicketsError::Form);
        }
    }

    #[test]
    fn no_key_is_shown() {
        let shown = format!("{:?}", Tickets::new(now()).unwrap());
        assert!(shown.starts_with("Tickets { rotates_at: ") && shown.ends_with(", .. }"), "{shown}");
    }
}
