//! Which system calls count, and what is said in those that carry messages.
//!
//! Every call counts but these: calls that only wait, tell the time or arrange memory ([`SILENT`]); what is
//! said to a sleeping thread through an eventfd(2); and calls on connections that were accepted while the
//! trace ran, whose number depends on the load. (A process that dies in one of those is killed between two
//! that count.)
//!
//! Deliberately absent: meaning. The protocol's messages are told apart by their `type`.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use hotupdate_proto::Message;
use hotupdate_proto::frame::{BINARY, Decoder, decode_message};
use serde_json::Value;
use syscalls::Sysno;

use super::registers::Registers;

/// Calls that change nothing outside of the memory of the process, or nothing at all.
pub const SILENT: [Sysno; 36] = [
    Sysno::arch_prctl,
    Sysno::brk,
    Sysno::clock_gettime,
    Sysno::clock_nanosleep,
    Sysno::epoll_pwait,
    Sysno::epoll_pwait2,
    Sysno::epoll_wait,
    Sysno::futex,
    Sysno::get_robust_list,
    Sysno::getegid,
    Sysno::geteuid,
    Sysno::getgid,
    Sysno::getpid,
    Sysno::getrandom,
    Sysno::gettid,
    Sysno::gettimeofday,
    Sysno::getuid,
    Sysno::madvise,
    Sysno::membarrier,
    Sysno::mmap,
    Sysno::mprotect,
    Sysno::mremap,
    Sysno::munmap,
    Sysno::nanosleep,
    Sysno::prlimit64,
    Sysno::restart_syscall,
    Sysno::rseq,
    Sysno::rt_sigaction,
    Sysno::rt_sigprocmask,
    Sysno::rt_sigreturn,
    Sysno::sched_getaffinity,
    Sysno::sched_yield,
    Sysno::set_robust_list,
    Sysno::set_tid_address,
    Sysno::sigaltstack,
    Sysno::uname,
];

/// `AF_INET` and `AF_INET6` (socket(2)).
const INTERNET: [u16; 2] = [2, 10];

/// The most bytes of one call that are read: more than any message has.
const LOOK: usize = 1 << 22;

/// What is known of the descriptors of a process.
#[derive(Debug)]
pub(super) struct Descriptors {
    pid: i32,
    memory: File,
    /// Accepted while the trace ran.
    clients: HashSet<u64>,
    /// Where they were accepted.
    listeners: HashSet<u64>,
    /// By descriptor and call: the part of a message that has come so far.
    parts: HashMap<(u64, Sysno), Decoder>,
}

impl Descriptors {
    pub(super) fn of(pid: i32) -> std::io::Result<Self> {
        let memory = File::options().read(true).write(true).open(format!("/proc/{pid}/mem"))?;
        Ok(Self { pid, memory, clients: HashSet::new(), listeners: HashSet::new(), parts: HashMap::new() })
    }

    /// Whether the call that begins is one of those that count.
    pub(super) fn counts(&self, call: Sysno, registers: &Registers) -> bool {
        if SILENT.contains(&call) {
            return false;
        }
        let [first, _, third, _] = registers.arguments();
        match call {
            Sysno::epoll_ctl => !self.clients.contains(&third),
            Sysno::accept4 => !self.listeners.contains(&first),
            Sysno::write if third == 8 && self.is_eventfd(first) => false,
            call if takes_descriptor(call) => !self.clients.contains(&first),
            _ => true,
        }
    }

    /// Learns from a call that has ended.
    pub(super) fn learn(&mut self, call: Sysno, registers: &Registers) {
        let [first, second, _, _] = registers.arguments();
        match (call, u64::try_from(registers.result())) {
            (Sysno::accept4, Ok(accepted)) if self.is_internet(second) => {
                self.clients.insert(accepted);
                self.listeners.insert(first);
            }
            (Sysno::close, _) => {
                self.clients.remove(&first);
                self.listeners.remove(&first);
                self.parts.retain(|(fd, _), _| *fd != first);
            }
            _ => {}
        }
    }

    /// The messages that a sendmsg(2) or recvmsg(2) has completed.
    pub(super) fn completed(&mut self, call: Sysno, registers: &Registers) -> Vec<String> {
        let Ok(length @ 1..) = usize::try_from(registers.result()) else { return Vec::new() };
        let [fd, message, ..] = registers.arguments();
        let bytes = self.bytes(message, Some(length));
        let part = self.parts.entry((fd, call)).or_default();
        part.push(&bytes);
        whole(part)
    }

    fn is_internet(&self, address: u64) -> bool {
        let mut family = [0; 2];
        self.memory.read_exact_at(&mut family, address).is_ok()
            && INTERNET.contains(&u16::from_ne_bytes(family))
    }

    fn is_eventfd(&self, fd: u64) -> bool {
        let link = fs::read_link(format!("/proc/{}/fd/{fd}", self.pid));
        link.is_ok_and(|link| link.as_os_str() == "anon_inode:[eventfd]")
    }

    /// The bytes of a sendmsg(2) that begins, or of a recvmsg(2) that has ended with so many.
    pub(super) fn bytes(&self, message: u64, length: Option<usize>) -> Vec<u8> {
        let Some((base, whole)) = self.first_part(message) else { return Vec::new() };
        let length = length.unwrap_or(usize::try_from(whole).unwrap_or(LOOK)).min(LOOK);
        let mut bytes = vec![0; length];
        match self.memory.read_exact_at(&mut bytes, base) {
            Ok(()) => bytes,
            Err(_) => Vec::new(),
        }
    }

    /// Address and length of the first buffer of a `msghdr`, in which both calls use one.
    fn first_part(&self, message: u64) -> Option<(u64, u64)> {
        let vector = self.word(message + 16)?;
        Some((self.word(vector)?, self.word(vector + 8)?))
    }

    /// Changes the length of the first buffer; returns what it was.
    pub(super) fn set_length(&self, message: u64, length: impl Fn(u64) -> u64) -> Option<u64> {
        let vector = self.word(message + 16)?;
        let before = self.word(vector + 8)?;
        self.memory.write_all_at(&length(before).to_ne_bytes(), vector + 8).ok()?;
        Some(before)
    }

    fn word(&self, address: u64) -> Option<u64> {
        let mut word = [0; 8];
        self.memory.read_exact_at(&mut word, address).ok()?;
        Some(u64::from_ne_bytes(word))
    }
}

/// `EPOLL_CTL_ADD` (epoll_ctl(2)).
const ADD: u64 = 1;

/// `F_DUPFD_CLOEXEC` (fcntl(2)).
const DUPLICATE: u64 = 1030;

/// Whether the call that begins makes something, and so can fail for want of something. What takes something
/// away, or only asks, cannot.
pub(super) fn can_fail(call: Sysno, registers: &Registers) -> bool {
    let [_, second, _, _] = registers.arguments();
    match call {
        Sysno::epoll_ctl => second == ADD,
        Sysno::fcntl => second == DUPLICATE,
        _ => true,
    }
}

/// Calls whose first argument is a descriptor, of those that servers make for their clients.
fn takes_descriptor(call: Sysno) -> bool {
    use Sysno as S;
    matches!(
        call,
        S::read
            | S::write
            | S::readv
            | S::recvfrom
            | S::recvmsg
            | S::writev
            | S::sendto
            | S::sendmsg
            | S::shutdown
            | S::close
            | S::fcntl
            | S::ioctl
            | S::getsockopt
            | S::setsockopt
            | S::getsockname
            | S::getpeername
    )
}

/// The messages in these bytes, in a few words: `listeners`, `Join`, `reply`; and for those of a migration,
/// which connections they are about: `prepare 7 12=127.0.0.1:5000` (batch, connection, client), `prepared 7
/// 12` (batch, what is refused), `commit 7`, `abort 7`.
#[must_use]
pub fn messages(bytes: &[u8]) -> Vec<String> {
    let mut decoder = Decoder::default();
    decoder.push(bytes);
    whole(&mut decoder)
}

fn whole(decoder: &mut Decoder) -> Vec<String> {
    let frames = std::iter::from_fn(|| decoder.next_frame()?.ok());
    frames.filter_map(|frame| binary(&frame).or_else(|| json(&frame))).collect()
}

/// Connections in the compact form.
fn binary(frame: &[u8]) -> Option<String> {
    let Some(&BINARY) = frame.first() else { return None };
    let Message::Prepare { batch, items } = decode_message(frame).ok()? else { return None };
    let clients = items.iter().map(|item| format!(" {}={}", item.id, item.peer));
    Some(format!("prepare {batch}{}", String::from_iter(clients)))
}

fn json(frame: &[u8]) -> Option<String> {
    let frame: Value = serde_json::from_slice(frame).ok()?;
    let name = frame["type"].as_str().or_else(|| frame["method"].as_str()?.rsplit('.').next());
    let mut words = vec![name.unwrap_or("reply").to_owned()];
    let of = |value: &Value| value.as_array().cloned().unwrap_or_default();
    if matches!(words[0].as_str(), "prepare" | "prepared" | "commit" | "abort") {
        words.push(frame["batch"].to_string());
        let client = |row: &Value| format!("{}={}", row["id"], row["peer"].as_str().unwrap_or_default());
        words.extend(of(&frame["items"]).iter().map(|item| client(&item["row"])));
        words.extend(of(&frame["refused"]).iter().map(Value::to_string));
    }
    Some(words.join(" "))
}

#[cfg(test)]
mod tests {
    use hotupdate_proto::MigrationItem;
    use hotupdate_proto::migration::bulk;
    use serde_json::json;

    use super::*;

    #[test]
    fn messages_have_names() {
        let bytes =
            b"{\"type\":\"ready\",\"x\":1}\0{\"method\":\"io.hotupdate.Join\"}\0{\"parameters\":{}}\0";
        assert_eq!(messages(bytes), ["ready", "Join", "reply"]);
        assert_eq!(messages(b"half\"type\":\"x\""), [""; 0]);
    }

    #[test]
    fn messages_of_a_migration_say_which_connections() {
        let item = |id, peer| json!({ "row": { "id": id, "peer": peer } });
        let items = [item(12, "127.0.0.1:5000"), item(13, "127.0.0.1:5001")];
        let prepare = json!({ "type": "prepare", "batch": 7, "items": items });
        let prepared = json!({ "type": "prepared", "batch": 7, "refused": [13] });
        let said = messages(format!("{prepare}\0{prepared}\0").as_bytes());
        assert_eq!(said, ["prepare 7 12=127.0.0.1:5000 13=127.0.0.1:5001", "prepared 7 13"]);
        assert_eq!(messages(b"{\"type\":\"commit\",\"batch\":7}\0"), ["commit 7"]);
        let peer = "127.0.0.1:5000".parse().unwrap();
        let item = MigrationItem { id: 12, peer, ..MigrationItem::default() };
        let compact = bulk::encode(7, &[item]).unwrap();
        let said = messages(&[&compact[..], b"{\"type\":\"quiesced\"}\0"].concat());
        assert_eq!(said, ["prepare 7 12=127.0.0.1:5000", "quiesced"]);
    }
}
