//! Names and numbers that processes agree on outside of the conversation: environment variables, the length
//! of a queue.

/// The path of the control socket, for operators and for services that ask for their default path.
pub const SOCKET: &str = "HOTUPDATE_SOCKET";

/// How probes call the process (see [`Process::name`](crate::Process::name)), if the program does not say it
/// itself.
pub const NAME: &str = "HOTUPDATE_NAME";

/// Carries the name of an attempt from the process that starts a program to its [`Join`](crate::Join).
pub const ATTEMPT: &str = "HOTUPDATE_ATTEMPT";

/// Tells a program that it was started to run on its own: it makes a session for itself when it joins. The value
/// is the process id of its parent, so that processes that inherit the variable from the program do not.
pub const DETACH: &str = "HOTUPDATE_DETACH";

/// What a program that is started must not inherit: systemd's protocol speaks of descriptors of one process
/// (sd_listen_fds(3)).
pub const NOT_INHERITED: [&str; 3] = ["LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID"];

/// How many connections wait to be accepted. The kernel lowers it to `net.core.somaxconn` (listen(2)). It is
/// said once: the queue belongs to the socket.
pub const BACKLOG: i32 = 4096;
