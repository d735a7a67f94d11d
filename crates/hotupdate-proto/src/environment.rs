//! Names and numbers that processes agree on outside of the conversation: environment variables, the length
//! of a queue.

/// The path of the control socket, for operators and for services that ask for their default path.
pub const SOCKET: &str = "HOTUPDATE_SOCKET";

/// How probes call the process (see [`Process::name`](crate::Process::name)), if the program does not say it
/// itself.
pub const NAME: &str = "HOTUPDATE_NAME";

/// Carries the name of an attempt from the process that starts a program to its [`Join`](crate::Join).
pub const ATTEMPT: &str = "HOTUPDATE_ATTEMPT";

/// Tells a program that it was started to run on its own: it makes a session for itself when it joins. The
/// value is the process id of its parent, so that processes that inherit the variable from the program do
/// not.
pub const DETACH: &str = "HOTUPDATE_DETACH";

/// Tells a program that was started with [`DETACH`] to start itself once more when it joins, and only to wait
/// for the end of that one: when the first of the two ends, the second has the parent that adopts orphans,
/// which in a unit is the service manager.
pub const AGAIN: &str = "HOTUPDATE_AGAIN";

/// Tells a program that its output is the pipe of an operator, which is read until the program serves:
/// standard output and standard error that are this file, `DEVICE:INODE` in decimal, go elsewhere then.
pub const OUTPUT: &str = "HOTUPDATE_OUTPUT";

/// What a program that is started must not inherit, since it speaks of descriptors of one process: systemd's
/// protocol (sd_listen_fds(3)), and the pipe of an operator.
pub const NOT_INHERITED: [&str; 4] = ["LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID", OUTPUT];

/// The journal, for programs whose lines are read from a stream (sd_journal_stream_fd(3)).
pub const JOURNAL: &str = "/run/systemd/journal/stdout";

/// What a stream to the journal begins with: the identifier, the unit (which the journal knows), the priority
/// (informational), whether lines have a priority of their own in front, and three ways to pass them on.
#[must_use]
pub fn journal_header(identifier: &str) -> String {
    format!("{}\n\n6\n1\n0\n0\n0\n", crate::text::OneLine(identifier))
}

/// How many connections wait to be accepted. The kernel lowers it to `net.core.somaxconn` (listen(2)). It is
/// said once: the queue belongs to the socket.
pub const BACKLOG: i32 = 4096;
