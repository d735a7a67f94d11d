//! Where this process runs, and whether a supervisor takes it for the service.
//!
//! Deliberately absent: `/proc/PID/cgroup` of another process. It may be hidden (`ProtectProc=`), and a unit
//! with `Delegate=` has several cgroups.

use std::env;
use std::fs;
use std::os::linux::fs::MetadataExt;

use hotupdate_proto::message::Place;
use rustix::process::getppid;

use super::watched::Watched;

/// Where this process runs, as it tells the processes that it is linked with.
pub(crate) fn of_this_process() -> Place {
    let variable = |name| env::var(name).ok().filter(|value| !value.is_empty());
    let notified = variable("NOTIFY_SOCKET");
    Place {
        pid_namespace: fs::metadata("/proc/self/ns/pid").ok().map(|namespace| namespace.st_ino()),
        is_supervised: is_first() || is_executed_by_systemd() || notified.is_some(),
        unit: variable("INVOCATION_ID").or(notified).map(Into::into),
    }
}

/// Whether the end of this process is the end of the service, whichever process serves: the kernel ends
/// everything in a pid namespace with its process 1, and systemd a unit with its main process, which it knows
/// for sure unless it listens to what the unit says of that (`Type=notify`).
pub(crate) fn is_taken_for_the_service() -> bool {
    is_first()
        || (is_executed_by_systemd() && env::var_os("NOTIFY_SOCKET").is_none_or(|path| path.is_empty()))
}

/// Process 1 of its pid namespace, which is also the parent of every orphan there.
pub(crate) fn is_first() -> bool {
    std::process::id() == 1
}

/// The process that has started this one, until it ends. Process 1 never does, and adopts what other
/// processes leave.
pub(crate) fn parent() -> Option<Watched> {
    let parent = getppid().filter(|parent| !parent.is_init())?;
    let watched = Watched::open(parent);
    // It may have ended before, and then the number may be that of another process.
    watched.filter(|_| getppid() == Some(parent))
}

/// systemd says so to the process that it executes, and to no other (systemd.exec(5), `SYSTEMD_EXEC_PID`).
pub(crate) fn is_executed_by_systemd() -> bool {
    env::var("SYSTEMD_EXEC_PID").is_ok_and(|pid| pid.parse() == Ok(std::process::id()))
}
