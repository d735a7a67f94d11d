//! The arguments and the result of a system call in the registers of a stopped thread.
//!
//! Deliberately absent: architectures other than x86-64 (syscall(2) has the tables).

use nix::errno::Errno;
use nix::sys::ptrace;
use nix::unistd::Pid;
use syscalls::Sysno;

/// A call that begins, or has ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Registers {
    thread: Pid,
    all: nix::libc::user_regs_struct,
}

impl Registers {
    /// Reads them.
    pub(super) fn of(thread: Pid) -> nix::Result<Self> {
        Ok(Self { thread, all: ptrace::getregs(thread)? })
    }

    /// Whether the kernel has not begun with the call: it says `ENOSYS` until it has.
    pub(super) fn is_entry(&self) -> bool {
        self.result() == -i64::from(Errno::ENOSYS as i32)
    }

    /// Which call.
    pub(super) fn call(&self) -> Option<Sysno> {
        Sysno::new(usize::try_from(self.all.orig_rax).ok()?)
    }

    /// The first arguments.
    pub(super) fn arguments(&self) -> [u64; 4] {
        [self.all.rdi, self.all.rsi, self.all.rdx, self.all.r10]
    }

    /// What the call returned; an error is a small negative number.
    pub(super) fn result(&self) -> i64 {
        self.all.rax.cast_signed()
    }

    /// The kernel will find a call that does not exist, and do nothing.
    pub(super) fn skip(mut self) -> nix::Result<()> {
        self.all.orig_rax = u64::MAX;
        ptrace::setregs(self.thread, self.all)
    }

    /// The thread will see this result.
    pub(super) fn return_error(mut self, errno: Errno) -> nix::Result<()> {
        self.all.rax = i64::from(-(errno as i32)).cast_unsigned();
        ptrace::setregs(self.thread, self.all)
    }

    /// Changes the third argument: the length of write(2) and sendto(2).
    pub(super) fn set_length(mut self, length: u64) -> nix::Result<()> {
        self.all.rdx = length;
        ptrace::setregs(self.thread, self.all)
    }
}
