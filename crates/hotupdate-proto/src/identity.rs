//! The identity of a process, which number it has in the succession, and which protocol versions it speaks.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::text::{OneLine, ShortText};

/// The identity of a process, shown on one line whatever its version string holds. `instance` is the
/// identity; the process id is for people, since it means nothing across containers.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Process {
    /// 128 random bits in hexadecimal, new at every start.
    pub instance: String,
    /// The process id in the namespace of the process itself.
    pub pid: u32,
    /// The version string that the application gave, possibly empty.
    pub version: String,
    /// How probes call it: the name of a pod, a unit or a machine. A process that serves a while and its
    /// successor may have the same. Empty in a process that does not say it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The program that this process runs and speaks for, as its command line, as `hotctl run` does: its
    /// connections are its own, and in no table. Absent in a process that serves by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<Box<str>>,
}

impl Process {
    /// A process without a name.
    #[must_use]
    pub fn new(instance: String, pid: u32, version: String) -> Self {
        Self { instance, pid, version, name: String::new(), program: None }
    }

    /// As probes call it.
    #[must_use]
    pub fn named(self, name: String) -> Self {
        Self { name, ..self }
    }

    /// It runs and speaks for this program, if any.
    #[must_use]
    pub fn running(self, program: Option<&str>) -> Self {
        Self { program: program.map(Box::from), ..self }
    }

    /// What tells people one version from another: the version string, or else the program.
    #[must_use]
    pub fn label(&self) -> &str {
        let program = self.program.as_deref().filter(|_| self.version.is_empty());
        program.unwrap_or(&self.version)
    }

    /// Whether a probe that asks for `name` means this process. A process that was given no name is called
    /// `HOST/PID`, and answers to `HOST`, too.
    ///
    /// ```
    /// # use hotupdate_proto::Process;
    /// let process = Process::new("0".repeat(32), 42, "v1".to_owned()).named("web-1/42".to_owned());
    /// assert!(process.is_called("web-1/42") && process.is_called("web-1"));
    /// assert!(!process.is_called("web") && !process.is_called(""));
    /// ```
    #[must_use]
    pub fn is_called(&self, name: &str) -> bool {
        !name.is_empty() && (self.name == name || self.name == default_name(name, self.pid))
    }
}

/// How a process on this host is called that was given no name.
#[must_use]
pub fn default_name(host: &str, pid: u32) -> String {
    format!("{host}/{pid}")
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.label() {
            "" => write!(f, "{}", self.pid),
            label => write!(f, "{} ({})", self.pid, OneLine(label)),
        }
    }
}

/// Where a process runs, as far as supervisors are concerned.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Place {
    /// The number of its pid namespace (the inode of `/proc/self/ns/pid`): a process id means the same to two
    /// processes of one namespace only. Absent where there is no `/proc`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid_namespace: Option<u64>,
    /// What tells one run of a service from every other run under its manager: systemd's `INVOCATION_ID`,
    /// which every process of a unit has, or else the `NOTIFY_SOCKET`. Absent without a manager.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<ShortText>,
    /// A supervisor waits for the end of this very process, or hears what it says of itself.
    #[serde(default)]
    pub is_supervised: bool,
}

impl Place {
    /// Whether both are one service to one service manager.
    ///
    /// ```
    /// # use hotupdate_proto::identity::Place;
    /// let place = |unit: Option<&str>| Place { unit: unit.map(Into::into), ..Place::default() };
    /// assert!(place(Some("a")).is_same_unit(&place(Some("a"))));
    /// assert!(!place(Some("a")).is_same_unit(&place(Some("b"))));
    /// assert!(!place(None).is_same_unit(&place(None)));
    /// ```
    #[must_use]
    pub fn is_same_unit(&self, other: &Self) -> bool {
        self.unit.is_some() && self.unit == other.unit
    }

    /// Whether a process id of the other means the same process here.
    #[must_use]
    pub fn sees(&self, other: &Self) -> bool {
        self.pid_namespace.is_some() && self.pid_namespace == other.pid_namespace
    }

    /// Whether the other process has a supervisor that is not ours.
    #[must_use]
    pub fn leaves_alone(&self, other: &Self) -> bool {
        other.is_supervised && !self.is_same_unit(other)
    }
}

/// An inclusive range of protocol versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Versions {
    /// The oldest version spoken.
    pub min: u16,
    /// The newest version spoken.
    pub max: u16,
}

impl Versions {
    /// The newest version that both sides speak.
    #[must_use]
    pub fn overlap(self, other: Self) -> Option<u16> {
        let newest = self.max.min(other.max);
        (newest >= self.min.max(other.min)).then_some(newest)
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.min == self.max {
            write!(f, "{}", self.max)
        } else {
            write!(f, "{} to {}", self.min, self.max)
        }
    }
}

/// The number of a process in the succession: every process that joins gets the next one, it never goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(pub u64);

impl Generation {
    /// The first process of a service.
    pub const FIRST: Self = Self(1);

    /// No service comes this far, and JSON carries larger numbers exactly to some readers only (RFC 8259,
    /// section 6).
    pub const LAST: Self = Self((1 << 53) - 1);

    /// By how much another process may have counted further than this one knows. Each number that is given
    /// away is announced; only a process that dies as it announces some takes them with it, and those are
    /// few.
    pub const MAX_UNTOLD: u64 = 1 << 16;

    /// The generation after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The counter after another process said that it stands at `told`; it never goes back.
    ///
    /// # Errors
    /// If the number leaves too few for the processes that come later: one line that says so.
    pub(crate) fn counted_on(self, told: Self) -> Result<Self, String> {
        if told.0 > self.0.saturating_add(Self::MAX_UNTOLD) {
            return Err(format!(
                "said that it gave away the generation {told}, and the last we know is {self}"
            ));
        }
        Ok(self.max(told))
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
