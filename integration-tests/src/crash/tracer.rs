//! The process that follows another one from call to call, and does it harm at one of them (ptrace(2)).
//!
//! Deliberately absent: threads. Only the thread that attached may go on, and its waits would take the
//! children of other threads; so the tracer is a process of its own, and says what it sees in a log, see
//! [`super::trace`].

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use syscalls::Sysno;

use super::calls::{Descriptors, can_fail, messages};
use super::case::{Fault, Point};
use super::registers::Registers;

/// What a tracer is to do.
#[derive(Clone, Copy, Debug)]
pub struct Order {
    /// The process.
    pub pid: i32,
    /// At which call.
    pub at: Point,
    /// What.
    pub fault: Fault,
    /// Calls count when the process executes another program: until then it is a wrapper.
    pub after_exec: bool,
}

/// Follows the process to its end.
///
/// # Errors
///
/// If the system does not permit it.
pub fn follow(order: Order, log: &Path) -> anyhow::Result<()> {
    let mut tracer = Tracer {
        order,
        log: File::options().create(true).append(true).open(log).context("open the log")?,
        descriptors: Descriptors::of(order.pid).context("open the memory of the process")?,
        begun: !order.after_exec,
        over: false,
        counts: BTreeMap::new(),
        threads: HashMap::new(),
    };
    tracer.attach()?;
    tracer.say("attached");
    tracer.run()
}

/// A call that a thread is in.
#[derive(Clone, Copy, Debug)]
struct Current {
    call: Sysno,
    /// What the thread will be told instead of the truth.
    lie: Option<Lie>,
}

#[derive(Clone, Copy, Debug)]
enum Lie {
    Error(Errno),
    /// The length of the message was this.
    Length(u64),
}

struct Tracer {
    order: Order,
    log: File,
    descriptors: Descriptors,
    begun: bool,
    /// The harm is done, and the process is left alone.
    over: bool,
    counts: BTreeMap<Sysno, u32>,
    threads: HashMap<Pid, Option<Current>>,
}

impl Tracer {
    fn attach(&mut self) -> anyhow::Result<()> {
        let options =
            Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACECLONE | Options::PTRACE_O_TRACEEXEC;
        // Threads that begin meanwhile are found in the next round, or come with the one that made them.
        loop {
            let new: Vec<_> =
                self.tasks()?.into_iter().filter(|task| !self.threads.contains_key(task)).collect();
            if new.is_empty() {
                return Ok(());
            }
            for thread in new {
                match ptrace::seize(thread, options) {
                    Ok(()) => ptrace::interrupt(thread).context("stop a thread")?,
                    Err(Errno::ESRCH) => {}
                    // The thread was made by one that is traced already.
                    Err(Errno::EPERM) if !self.threads.is_empty() => {}
                    Err(error) => bail!(
                        "process {} cannot be traced: {error}; ptrace(2) needs root, or CAP_SYS_PTRACE in a \
                         container",
                        self.order.pid
                    ),
                }
                self.threads.insert(thread, None);
            }
        }
    }

    fn tasks(&self) -> anyhow::Result<Vec<Pid>> {
        let tasks =
            std::fs::read_dir(format!("/proc/{}/task", self.order.pid)).context("the process is gone")?;
        let number =
            |entry: std::io::Result<std::fs::DirEntry>| entry.ok()?.file_name().to_str()?.parse().ok();
        Ok(tasks.filter_map(number).map(Pid::from_raw).collect())
    }

    fn run(&mut self) -> anyhow::Result<()> {
        loop {
            let status = match waitpid(None, Some(WaitPidFlag::__WALL)) {
                Ok(status) => status,
                Err(Errno::EINTR) => continue,
                Err(Errno::ECHILD) => break,
                Err(error) => return Err(error).context("wait for the process"),
            };
            match self.stopped(status) {
                // It was killed meanwhile, which is told by another status.
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(error) => return Err(error).with_context(|| format!("go on after {status:?}")),
            }
        }
        self.say("gone");
        Ok(())
    }

    fn stopped(&mut self, status: WaitStatus) -> nix::Result<()> {
        match status {
            WaitStatus::PtraceSyscall(thread) => {
                self.at_call(thread)?;
                self.go_on(thread, None)
            }
            WaitStatus::PtraceEvent(thread, _, event) => {
                if event == nix::libc::PTRACE_EVENT_EXEC {
                    self.executes();
                }
                self.go_on(thread, None)
            }
            WaitStatus::Stopped(thread, signal) => self.go_on(thread, signal),
            WaitStatus::Exited(thread, _) | WaitStatus::Signaled(thread, _, _) => {
                self.threads.remove(&thread);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn go_on(&self, thread: Pid, signal: impl Into<Option<Signal>>) -> nix::Result<()> {
        let in_call = matches!(self.threads.get(&thread), Some(Some(_)));
        if self.over && !in_call { ptrace::cont(thread, signal) } else { ptrace::syscall(thread, signal) }
    }

    /// Another program, in another memory.
    fn executes(&mut self) {
        if let Ok(descriptors) = Descriptors::of(self.order.pid) {
            self.descriptors = descriptors;
        }
        self.begun = true;
    }

    fn at_call(&mut self, thread: Pid) -> nix::Result<()> {
        let registers = Registers::of(thread)?;
        match (self.threads.get(&thread).copied().flatten(), registers.call()) {
            // A call that was skipped has no number any more.
            (Some(current), _) if current.lie.is_some() || !registers.is_entry() => {
                self.threads.insert(thread, None);
                self.ends(current, registers)
            }
            (_, Some(call)) if registers.is_entry() => {
                self.threads.insert(thread, Some(Current { call, lie: None }));
                self.begins(thread, call, registers)
            }
            _ => Ok(()),
        }
    }

    fn begins(&mut self, thread: Pid, call: Sysno, registers: Registers) -> nix::Result<()> {
        if self.over || !self.begun || !self.descriptors.counts(call, &registers) {
            return Ok(());
        }
        let count = self.counts.entry(call).or_default();
        *count += 1;
        let point = Point { call, nth: *count };
        let what = match call {
            Sysno::sendmsg => messages(&self.descriptors.bytes(registers.arguments()[1], None)).join(" "),
            _ => String::new(),
        };
        self.say(format_args!("call {point} {what}"));
        if point == self.order.at {
            self.harm(thread, point, registers)?;
        }
        Ok(())
    }

    fn harm(&mut self, thread: Pid, point: Point, registers: Registers) -> nix::Result<()> {
        match self.order.fault {
            // Both are as of a moment at which all that other threads have said by then is in the log.
            Fault::Kill => {
                self.freeze(thread)?;
                self.say(format_args!("harm {point}"));
                kill(Pid::from_raw(self.order.pid), Signal::SIGKILL)?;
                self.say(format_args!("done {point}"));
            }
            Fault::Freeze(time) => {
                self.freeze(thread)?;
                self.say(format_args!("harm {point}"));
                thread::sleep(time);
                self.say(format_args!("done {point}"));
                self.over = true;
                for other in self.others(thread) {
                    match self.go_on(other, None) {
                        Ok(()) | Err(Errno::ESRCH) => {}
                        Err(error) => return Err(error),
                    }
                }
            }
            Fault::Error(_) if !can_fail(point.call, &registers) => {}
            Fault::Error(errno) => {
                self.say(format_args!("harm {point}"));
                registers.skip()?;
                self.lie(thread, Lie::Error(errno));
            }
            Fault::Short => {
                let [_, message, length, _] = registers.arguments();
                let half = |length: u64| length.div_ceil(2).max(1);
                let before = match point.call {
                    Sysno::sendmsg => self.descriptors.set_length(message, half),
                    Sysno::write | Sysno::sendto => registers.set_length(half(length)).ok().map(|()| length),
                    _ => None,
                };
                let Some(before) = before else { return Err(Errno::EINVAL) };
                self.say(format_args!("harm {point}"));
                self.lie(thread, Lie::Length(before));
            }
            Fault::Nothing => {}
        }
        Ok(())
    }

    fn lie(&mut self, thread: Pid, lie: Lie) {
        if let Some(Some(current)) = self.threads.get_mut(&thread) {
            current.lie = Some(lie);
        }
    }

    /// Stops all other threads too, and waits until they stand.
    fn freeze(&mut self, thread: Pid) -> nix::Result<()> {
        for other in self.others(thread) {
            match ptrace::interrupt(other) {
                Ok(()) => {}
                Err(Errno::ESRCH) => continue,
                Err(error) => return Err(error),
            }
            // A stop at a call that comes first is as good: the thread stands. What begins there is counted
            // no more.
            match waitpid(other, Some(WaitPidFlag::__WALL))? {
                WaitStatus::PtraceSyscall(stopped) => {
                    let registers = Registers::of(stopped)?;
                    let entered = registers.is_entry().then(|| registers.call()).flatten();
                    let current = entered.map(|call| Current { call, lie: None });
                    if let (Some(Some(before)), None) = (self.threads.insert(stopped, current), current) {
                        self.ends(before, registers)?;
                    }
                }
                WaitStatus::Exited(gone, _) | WaitStatus::Signaled(gone, _, _) => {
                    self.threads.remove(&gone);
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn others(&self, thread: Pid) -> Vec<Pid> {
        self.threads.keys().copied().filter(|other| *other != thread).collect()
    }

    fn ends(&mut self, current: Current, registers: Registers) -> nix::Result<()> {
        let Current { call, lie } = current;
        if !self.over && self.begun {
            self.descriptors.learn(call, &registers);
            self.say_message(call, &registers);
        }
        let Some(lie) = lie else { return Ok(()) };
        match lie {
            Lie::Error(errno) => registers.return_error(errno)?,
            Lie::Length(before) if call == Sysno::sendmsg => {
                self.descriptors.set_length(registers.arguments()[1], |_| before);
            }
            Lie::Length(before) => registers.set_length(before)?,
        }
        let at = self.order.at;
        self.say(format_args!("done {at}"));
        self.over = true;
        Ok(())
    }

    fn say_message(&mut self, call: Sysno, registers: &Registers) {
        let verb = match call {
            Sysno::sendmsg => "sent",
            Sysno::recvmsg => "received",
            _ => return,
        };
        for message in self.descriptors.completed(call, registers) {
            self.say(format_args!("{verb} {message}"));
        }
    }

    /// One line with the time. The log belongs to the test, so that it cannot be written is not the program's
    /// fault.
    fn say(&mut self, what: impl fmt::Display) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let _ = self.log.write_all(format!("{} {what}\n", now.as_micros()).as_bytes());
    }
}
