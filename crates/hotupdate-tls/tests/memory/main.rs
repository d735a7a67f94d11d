//! What is left of secrets in the memory of the process when nothing needs them any more: nothing, except
//! what lies on stacks, where the compiler puts what it likes.
//!
//! This program has one test, for whatever another one does would be in this memory, too.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

#[cfg(feature = "aws-lc-rs")]
use aws_lc_rs::hkdf;
use hotupdate_tls::{Read, Records, State};
#[cfg(not(feature = "aws-lc-rs"))]
use ring::hkdf;
use zeroize::Zeroizing;

/// Nothing that is looked for stands in the memory of the test itself.
const MASK: u8 = 0x5a;

/// A secret that the test knows, masked.
struct Masked {
    name: String,
    bytes: Vec<u8>,
}

impl Masked {
    fn new(name: &str, bytes: Zeroizing<Vec<u8>>) -> Self {
        Self { name: name.to_owned(), bytes: bytes.iter().map(|byte| byte ^ MASK).collect() }
    }

    fn is_at(&self, memory: &[u8]) -> bool {
        memory.len() >= self.bytes.len()
            && memory.iter().zip(&self.bytes).all(|(memory, masked)| *memory == masked ^ MASK)
    }

    fn reveal(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(self.bytes.iter().map(|byte| byte ^ MASK).collect())
    }
}

fn secret(name: &str, seed: u8) -> Masked {
    Masked::new(name, Zeroizing::new((0..32_u8).map(|at| at.wrapping_mul(91).wrapping_add(seed)).collect()))
}

fn expand(secret: &Masked, label: &str, length: usize) -> Masked {
    struct Length(usize);
    impl hkdf::KeyType for Length {
        fn len(&self) -> usize {
            self.0
        }
    }
    let whole = format!("tls13 {label}");
    let info = [&[0, length as u8][..], &[whole.len() as u8], whole.as_bytes(), &[0]];
    let mut output = Zeroizing::new(vec![0; length]);
    let prk = hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, &secret.reveal());
    prk.expand(&info, Length(length)).unwrap().fill(&mut output).unwrap();
    Masked::new(&format!("{}, {label}", secret.name), output)
}

/// The form of a state, of TLS 1.3 with AES-128-GCM.
fn state(client: &Masked, server: &Masked, exporter: &Masked) -> Zeroizing<Vec<u8>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(1000));
    bytes.extend_from_slice(&[1, 3, 4, 0x13, 0x01, 0x40, 0]);
    // No handshake message has begun, and nothing is owed or counted.
    bytes.extend_from_slice(&[0; 9 + 5]);
    for secret in [client, server] {
        bytes.extend_from_slice(&[0, 0, 0, 32]);
        bytes.extend_from_slice(&secret.reveal());
        bytes.extend_from_slice(&[0; 8]);
    }
    bytes.extend_from_slice(&[0, 0, 0, 32]);
    bytes.extend_from_slice(&exporter.reveal());
    bytes.extend_from_slice(&[0; 2 + 4 + 4 + 4 + 1]);
    bytes
}

/// Where the heap and what was mapped lie; without the stacks of these addresses, and that of the first
/// thread.
fn mappings(stacks: [usize; 2]) -> Vec<Range<usize>> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let writable = maps.lines().filter(|line| line.contains(" rw-p ") && !line.contains("[stack]"));
    let ranges = writable.map(|line| {
        let (start, end) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
        usize::from_str_radix(start, 16).unwrap()..usize::from_str_radix(end, 16).unwrap()
    });
    ranges.filter(|range| !stacks.iter().any(|stack| range.contains(stack))).collect()
}

/// The names of the secrets that are in memory.
fn found(secrets: &[Masked], stacks: [usize; 2]) -> Vec<&str> {
    const CHUNK: usize = 1 << 20;
    const OVERLAP: usize = 32;
    let memory = File::open("/proc/self/mem").unwrap();
    // What is copied here is not looked at again.
    let mut copy = vec![0; CHUNK];
    let own = copy.as_ptr() as usize..copy.as_ptr() as usize + CHUNK;
    let mut names = Vec::new();
    for mapping in mappings(stacks) {
        let mut start = mapping.start;
        while start < mapping.end {
            let length = CHUNK.min(mapping.end - start);
            // Some mappings cannot be read.
            let Ok(length) = memory.read_at(&mut copy[..length], start as u64) else { break };
            for at in 0..length {
                if own.contains(&(start + at)) {
                    continue;
                }
                let here = secrets.iter().filter(|secret| secret.is_at(&copy[at..length]));
                names.extend(here.map(|secret| secret.name.as_str()));
            }
            if start + length >= mapping.end || length <= OVERLAP {
                break;
            }
            start += length - OVERLAP;
        }
    }
    copy.fill(0);
    names.sort_unstable();
    names.dedup();
    names
}

#[test]
fn nothing_is_left() {
    let (client, server, exporter) = (secret("client", 3), secret("server", 101), secret("exporter", 57));
    let next = expand(&server, "traffic upd", 32);
    let keys = [expand(&client, "key", 16), expand(&server, "key", 16), expand(&next, "key", 16)];
    let secrets: Vec<Masked> = [client, server, exporter, next].into_iter().chain(keys).collect();

    // The keys were made on this stack, and are used on another one.
    let here = 0_u8;
    let here = &raw const here as usize;
    let worker = std::thread::scope(|scope| scope.spawn(|| use_them(&secrets, here)).join().unwrap());
    let left = found(&secrets, [here, worker]);
    assert!(left.is_empty(), "{left:?} still in memory");
}

/// Returns where its stack is.
fn use_them(secrets: &[Masked], other_stack: usize) -> usize {
    let [client, server, exporter, ..] = secrets else { unreachable!("there are more") };
    let here = 0_u8;
    let stack = &raw const here as usize;
    let bytes = state(client, server, exporter);
    let mut records = Records::new(State::from_bytes(&bytes).unwrap()).unwrap();
    drop(bytes);
    records.write(b"some words").unwrap();
    records.update_keys();
    records.write(b"more words").unwrap();
    // The first keys are gone while the connection goes on.
    let alive = found(secrets, [stack, other_stack]);
    assert!(
        alive.contains(&"client") && alive.contains(&"exporter"),
        "the search finds what is there: {alive:?}"
    );
    assert!(alive.contains(&"server, traffic upd"), "{alive:?}");
    assert!(!alive.contains(&"server") && !alive.contains(&"server, key"), "{alive:?}");
    let sent = records.output().len();
    records.sent(sent);
    assert_eq!(records.read(&mut [0; 10]), Ok(Read::Wanting));
    let state = records.into_state().unwrap();
    let bytes = state.to_bytes();
    let again = Records::new(State::from_bytes(&bytes).unwrap()).unwrap();
    drop((state, bytes, again));
    stack
}
