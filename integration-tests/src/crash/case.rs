//! Which process meets which fault, at which of its calls: `successor sendmsg 3 kill`.
//!
//! Deliberately absent: numbers of system calls; names are what people read.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, bail};
use nix::errno::Errno;
use syscalls::Sysno;

use super::clients::Speaks;

/// Which process, of a handoff or of a rollback.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// The process that arrives: from its first instruction until its predecessor has nothing left to do.
    Successor,
    /// The process that serves when the successor is started: until its end as a predecessor.
    Incumbent,
    /// The predecessor that an operator asks to serve again, in its probation.
    Restored,
    /// The process that serves when an operator takes the handoff back: until its end as a predecessor.
    Withdrawn,
}

impl Side {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Successor, Self::Incumbent, Self::Restored, Self::Withdrawn];

    /// Whether it serves when all goes well, and the other one does not any more.
    #[must_use]
    pub fn takes(self) -> bool {
        matches!(self, Self::Successor | Self::Restored)
    }

    /// Whether a handoff is taken back.
    #[must_use]
    pub fn is_of_rollback(self) -> bool {
        matches!(self, Self::Restored | Self::Withdrawn)
    }

    /// The message to the one that takes with which the other one has stopped to accept.
    #[must_use]
    pub fn begins_with(self) -> &'static str {
        if self.is_of_rollback() { "resume" } else { "released" }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Successor => "successor",
            Self::Incumbent => "incumbent",
            Self::Restored => "restored",
            Self::Withdrawn => "withdrawn",
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Side {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let names = Self::ALL.map(Self::name);
        let side = Self::ALL.into_iter().find(|side| side.name() == text);
        side.with_context(|| format!("{text:?} is none of {}", names.join(", ")))
    }
}

/// The n-th call of this name, of those that count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Point {
    /// The system call.
    pub call: Sysno,
    /// The first is 1.
    pub nth: u32,
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.call.name(), self.nth)
    }
}

/// What happens at the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The process is killed (SIGKILL), and the call not executed.
    Kill,
    /// Every thread stands still for so long, then the call is executed.
    Freeze(Duration),
    /// The call is not executed and fails.
    Error(Errno),
    /// A call that writes takes half of the bytes.
    Short,
    /// Nothing: a dry run, which lists the calls.
    Nothing,
}

impl Fault {
    /// Its kind, for tables.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Freeze(_) => "freeze",
            Self::Error(_) => "error",
            Self::Short => "short",
            Self::Nothing => "nothing",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Freeze(time) => write!(f, "freeze={}", time.as_secs_f64()),
            // The name of the constant, as in errno(3).
            Self::Error(errno) => write!(f, "error={errno:?}"),
            other => f.write_str(other.kind()),
        }
    }
}

/// The errors that are injected.
pub const ERRORS: [Errno; 11] = [
    Errno::EMFILE,
    Errno::ENFILE,
    Errno::ENOBUFS,
    Errno::ENOMEM,
    Errno::ETOOMANYREFS,
    Errno::EINTR,
    Errno::ECONNABORTED,
    Errno::EADDRINUSE,
    Errno::ENOSPC,
    Errno::EIO,
    Errno::EACCES,
];

impl FromStr for Fault {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        match (text, text.split_once('=')) {
            ("kill", _) => Ok(Self::Kill),
            ("short", _) => Ok(Self::Short),
            ("nothing", _) => Ok(Self::Nothing),
            (_, Some(("freeze", seconds))) => {
                let seconds = seconds.parse().context("freeze=SECONDS")?;
                Ok(Self::Freeze(Duration::try_from_secs_f64(seconds).context("freeze=SECONDS")?))
            }
            (_, Some(("error", name))) => {
                let errno = ERRORS.into_iter().find(|errno| format!("{errno:?}") == name);
                Ok(Self::Error(errno.with_context(|| format!("{name:?} is not one of {ERRORS:?}"))?))
            }
            _ => bail!("{text:?} is none of kill, short, nothing, freeze=SECONDS, error=NAME"),
        }
    }
}

/// One run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    /// What its clients speak.
    pub speaks: Speaks,
    /// The process that meets the fault.
    pub side: Side,
    /// At which of its calls.
    pub at: Point,
    /// The fault.
    pub fault: Fault,
}

impl Case {
    /// A dry run.
    #[must_use]
    pub fn dry(speaks: Speaks, side: Side) -> Self {
        Self { speaks, side, at: Point { call: Sysno::exit_group, nth: u32::MAX }, fault: Fault::Nothing }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.side, self.at, self.fault)?;
        if self.speaks == Speaks::default() { Ok(()) } else { write!(f, " {}", self.speaks) }
    }
}

impl FromStr for Case {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let words: Vec<_> = text.split_whitespace().collect();
        let [side, call, nth, fault, speaks @ ..] = &words[..] else {
            bail!("a case is `SIDE CALL NTH FAULT [PROTOCOL]`")
        };
        let speaks = match speaks {
            [] => Speaks::default(),
            [speaks] => speaks.parse()?,
            _ => bail!("a case has five words at most"),
        };
        let call = Sysno::from_str(call).map_err(|_| anyhow::anyhow!("{call:?} is not a system call"))?;
        let at = Point { call, nth: nth.parse().context("NTH is a number from 1 on")? };
        Ok(Self { speaks, side: side.parse()?, at, fault: fault.parse()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_can_be_typed() -> anyhow::Result<()> {
        for text in [
            "successor sendmsg 3 kill",
            "incumbent accept4 1 error=EMFILE",
            "incumbent recvmsg 12 freeze=2.5",
            "successor sendmsg 2 short",
            "restored sendmsg 1 kill",
            "withdrawn recvmsg 2 kill",
            "successor sendmsg 3 kill http2",
        ] {
            assert_eq!(text.parse::<Case>()?.to_string(), text);
        }
        assert!("successor sendmsg kill".parse::<Case>().is_err());
        assert!("successor sendmsg 3 kill http3".parse::<Case>().is_err());
        assert!("nobody sendmsg 1 kill".parse::<Case>().is_err());
        assert!("successor sendmsg 1 error=ENOENT".parse::<Case>().is_err());
        Ok(())
    }
}
