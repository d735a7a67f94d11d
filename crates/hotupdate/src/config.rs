//! What can be set before joining.

use std::path::Path;
use std::time::Duration;

use hotupdate_proto::Timing;
use hotupdate_proto::message::Release;
use hotupdate_proto::supervision::AfterDrain;

#[cfg(doc)]
use crate::error::ErrorKind;
use crate::error::Result;
use crate::platform::SignalKind;
use crate::settings::Settings;
use crate::starting::Starting;

/// Settings of a process that takes part in hot updates.
///
/// ```no_run
/// use std::time::Duration;
///
/// # async fn example() -> Result<(), hotupdate::Error> {
/// let hot = hotupdate::builder("/run/hello/control.sock")
///     .version(env!("CARGO_PKG_VERSION"))
///     .drain_deadline(Duration::from_secs(30))
///     .join()
///     .await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing happens before `join`"]
pub struct Builder {
    settings: Settings,
    /// Those that were set one by one, which come after all of [`Builder::timing`].
    deadlines: Vec<(Setter, Duration)>,
}

type Setter = fn(Timing, Duration) -> Timing;

/// Settings for a service whose control socket is at this path.
///
/// Its directory has to exist, and only its owner (this user, or root) may be able to write to it:
/// [`control_path`](crate::control_path) makes such a directory.
pub fn builder(path: impl AsRef<Path>) -> Builder {
    Builder { settings: Settings::new(path.as_ref().to_owned()), deadlines: Vec::new() }
}

/// First start, or meets the process that it replaces: [`builder`] with all defaults, and [`Builder::join`].
///
/// # Errors
/// As [`Builder::join`].
pub async fn join(path: impl AsRef<Path>) -> Result<Starting> {
    builder(path).join().await
}

impl Builder {
    /// The version string that operators see. Default: empty.
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.settings.version = version.into();
        self
    }

    /// How probes call this process: `hotctl status --ready --name web-1` succeeds only when a process of
    /// this name serves. Default: `$HOTUPDATE_NAME`, or the name of the host and the process id, as in
    /// `web-1/42`.
    ///
    /// Give one where processes of the same service share the name of the host, as pods do that use the
    /// network of their node.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.settings.name = Some(name.into());
        self
    }

    /// The command line of a program that this process runs, and for which it speaks: operators see it where
    /// they would see the version, and that the connections are not in the table of this process. Default:
    /// none. The listeners of such a process are [`Starting::tcp_socket`] and [`Starting::unix_socket`].
    pub fn program(mut self, program: impl Into<String>) -> Self {
        self.settings.program = Some(program.into());
        self
    }

    /// Whether this process, once it is ready, stands by until an operator says `hotctl handoff`. Default: it
    /// takes over as soon as it is ready.
    pub fn on_command(mut self, on_command: bool) -> Self {
        self.settings.release = if on_command { Release::OnCommand } else { Release::Now };
        self
    }

    /// How long a successor may take from joining to being ready. Default: 60 s.
    pub fn lease(self, lease: Duration) -> Self {
        self.deadline(Timing::lease, lease)
    }

    /// How long open connections may take to end after a handoff. Default: 60 s. How it is spent is up to
    /// [`Timing::drain_grace`] and [`Timing::drain_spread`].
    pub fn drain_deadline(self, deadline: Duration) -> Self {
        self.deadline(Timing::drain, deadline)
    }

    /// How long, after a handoff, this process holds its parked listeners and takes over again if the
    /// successor dies. Zero lets go at once. Default: 5 s.
    pub fn probation(self, probation: Duration) -> Self {
        self.deadline(Timing::probation, probation)
    }

    /// Every deadline at once, for those that have no method of their own. What has been set by such a method
    /// stays, whichever is called first.
    ///
    /// ```no_run
    /// use std::time::Duration;
    ///
    /// use hotupdate::Timing;
    ///
    /// let builder = hotupdate::builder("/run/hello/control.sock")
    ///     .drain_deadline(Duration::from_secs(30))
    ///     .timing(Timing::default().scaled(2.0).drain_grace(Duration::ZERO));
    /// ```
    pub fn timing(mut self, timing: Timing) -> Self {
        self.settings.timing = timing;
        self
    }

    fn deadline(mut self, set: Setter, wait: Duration) -> Self {
        self.deadlines.push((set, wait));
        self
    }

    /// Another user whose processes may operate the service: ask, and stop, hand over or roll back. They may
    /// not take it over. Default: only the own user and root may do anything.
    ///
    /// As soon as another user is named, here or by [`Builder::allow_successor_uid`], the socket file is made
    /// with mode 0666 instead of 0600, because that user could not connect otherwise. Each caller is asked
    /// for its uid by the kernel (`SO_PEERCRED`, unix(7)), and turned away if it is not named. The mode of
    /// the directory decides which users come so far.
    pub fn allow_uid(mut self, uid: u32) -> Self {
        self.settings.users.operators.push(uid);
        self
    }

    /// Another user whose processes may take the service over from this one: they get its listeners, its
    /// connections and its state, and may operate it. Default: only processes of the own user and of root.
    ///
    /// Both versions have to say so: this one, that it lets go to that user, and the new one with
    /// [`Builder::allow_predecessor_uid`], that it takes what comes from this user. That is said again by
    /// every version after it, because the control socket and its directory stay those of the user that made
    /// them. A user that cannot write to the directory can take over, and serve, but neither make the control
    /// socket nor remove it at the end.
    ///
    /// ```no_run
    /// // The service moves from the user 1001 to the user 1002. Its directory belongs to 1001, with mode
    /// // 0755, or 0750 and a group that both are in.
    /// let old = hotupdate::builder("/run/hello/control.sock").allow_successor_uid(1002);
    /// let new = hotupdate::builder("/run/hello/control.sock").allow_predecessor_uid(1001);
    /// ```
    pub fn allow_successor_uid(mut self, uid: u32) -> Self {
        self.settings.users.successors.push(uid);
        self
    }

    /// Another user from whose process this one takes over: the control socket may belong to that user, and
    /// its directory, too. It gives that user no right. Default: only from the own user and root.
    pub fn allow_predecessor_uid(mut self, uid: u32) -> Self {
        self.settings.users.predecessors.push(uid);
        self
    }

    /// The user that this process becomes after it has joined, if it starts as root and drops its privileges
    /// then, for example to bind a port below 1024 first. Default: none. Let it be a user of its own: every
    /// process of that user may operate the service and take it over.
    ///
    /// The control socket and its lock are given to that user when root makes them, so that versions which
    /// [`Builder::successor_signal`] starts as that user find them, and operators of that user. Their
    /// directory has to be root's, and stays so: at the end the socket file is left there, which the next
    /// start replaces.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), hotupdate::Error> {
    /// const NOBODY: u32 = 65534;
    /// let mut hot = hotupdate::builder("/run/hello/control.sock").runs_as_uid(NOBODY).join().await?;
    /// let http = hot.tcp("http", "0.0.0.0:80").await?;
    /// let hot = hot.ready().await?;
    /// // From here on as the user `nobody`, for example with `nix::unistd::setuid`: it is for all threads.
    /// # Ok(())
    /// # }
    /// ```
    pub fn runs_as_uid(mut self, uid: u32) -> Self {
        self.settings.users.runs_as = Some(uid);
        self
    }

    /// A signal that starts the program of this process anew, with the same arguments, detached: it joins
    /// like any other successor. Default: none. By custom it is SIGHUP.
    ///
    /// **Which program.** The one that is installed now at the path that this process was started with, and
    /// not the file that runs: the path is kept with the symbolic links in it (`/srv/shop/current/server`,
    /// `./server` or `current/server` as the shell's `$PWD` completes it, or where `$PATH` found it), and so
    /// is the working directory. A link `current` that leads to another release since then starts that
    /// release.
    ///
    /// **What it has from this process**: environment (with `$PWD`, and without `LISTEN_*`), limits, umask,
    /// priority, cgroup, standard output and error. Its standard input is `/dev/null`, its session its own.
    /// The working directory is the one in which this process joined, as long as it can be entered; else it
    /// is `/`, and the log says so. What has changed since the start of this process in a unit, in a file of
    /// environment variables or in limits does not reach it: for that, start the new version from there
    /// (`hotctl handoff -- …`, or `ExecReload=` with it).
    ///
    /// **When nothing is started**, which the log says, with the reason: this process does not serve, or not
    /// any more; a successor is on its way; a version was taken back, and what is installed has not changed
    /// since (`hotctl handoff` starts it all the same). One that ends before it joins, or does not join in
    /// the time of [`Builder::lease`], is in the log and in `hotctl status`, with how it ended.
    ///
    /// **SIGHUP of a terminal that closes** starts nothing, and this process serves on. Whether it closes is
    /// seen a moment later ([`Timing::terminal`]), so that at a terminal `kill -HUP` takes a little longer.
    ///
    /// **SIGHUP of logrotate**: `postrotate` sends it to most daemons, so that they open their log anew. Here
    /// it is a hot update, and a log that was renamed goes on to be written: the new version inherits the
    /// open file. Let the service log to the journal or a pipe, use `copytruncate`, or choose another signal
    /// here.
    ///
    /// **In a unit of systemd with `Type=notify`** the program runs once more in between, up to `join`, and
    /// ends when the new version serves: so that systemd is the parent of that one, hears of its end at once,
    /// and waits for it at a stop. Elsewhere the new process stays a child of this one as long as this one
    /// lives.
    pub fn successor_signal(mut self, signal: SignalKind) -> Self {
        self.settings.successor_signal = Some(signal);
        self
    }

    /// Whether SIGTERM and SIGINT stop the process gracefully, from the first moment of [`Builder::join`].
    /// Default: yes.
    ///
    /// * Before it serves, the process gives up, and the incumbent serves on. [`Builder::join`] or
    ///   [`Starting::ready`] fails with [`ErrorKind::Cancelled`] if the application waits for it; one that is
    ///   warming up is ended by the signal.
    /// * While it serves, another process goes on with the service if one can: a successor that is on its way
    ///   takes over first; else a predecessor in probation serves again, unless it was told to stop itself.
    ///   Without such a process the service stops: requests in flight have until the end of the drain, idle
    ///   clients do not keep it.
    /// * While it drains, the signal is remembered, and the log says what the process still waits for: its
    ///   connections, or its tasks. SIGTERM may come as often as it likes. The second SIGINT closes what is
    ///   left and waits for no task.
    pub fn stop_signals(mut self, stop_signals: bool) -> Self {
        self.settings.stop_signals = stop_signals;
        self
    }

    /// What happens when another process serves and the drain of this one is over.
    ///
    /// Default: [`AfterDrain::Exit`], but for a process that is taken for the service, because the process
    /// that serves would end with it: process 1 of a container, and the main process of a systemd unit with
    /// `Type=exec` or `simple`. It stays, idle, passes SIGTERM and SIGINT on to the process that serves, and
    /// ends when that one has ended: with its exit code if it was a child of this one, else with 0 if it
    /// stopped and with 1 if it died. Process 1 also waits for orphans, that is for every child, the
    /// application's included. If a process in another container serves, it stays until SIGTERM,
    /// so that a runtime which restarts what has ended does not have it take the service back.
    pub fn after_drain(mut self, after_drain: AfterDrain) -> Self {
        self.settings.after_drain = Some(after_drain);
        self
    }

    /// How many predecessors may drain at once; beyond it the oldest is told to be quick. Default: 8.
    pub fn max_draining(mut self, max_draining: usize) -> Self {
        self.settings.max_draining = max_draining;
        self
    }

    /// Whether live connections move from and to this process, if both sides can. Default: yes.
    pub fn migrate_connections(mut self, migrate_connections: bool) -> Self {
        self.settings.migrate_connections = migrate_connections;
        self
    }

    /// Whether this version may take over although it claims none of the listeners that the incumbent has, so
    /// that all of them close. Default: no. Then [`Starting::ready`] fails and the incumbent serves on: it is
    /// probably another service, which was started with the control socket of this one.
    pub fn abandon_listeners(mut self, abandon_listeners: bool) -> Self {
        self.settings.abandon_listeners = abandon_listeners;
        self
    }

    /// Whether the listeners are kept in systemd's descriptor store too, so that they survive the last
    /// process: if it crashes, clients wait in the queue until systemd has started the service again.
    /// Default: yes, where systemd says that the service has a store (`$FDSTORE`, since version 254). With
    /// `true` also where it does not say so: before 254, where `Environment=FDSTORE=1` in the unit does the
    /// same. Without `$NOTIFY_SOCKET` there is no systemd to talk to, and nothing happens.
    ///
    /// The unit needs
    ///
    /// ```ini
    /// [Service]
    /// NotifyAccess=all
    /// FileDescriptorStoreMax=16
    /// Restart=on-failure
    /// ```
    ///
    /// New versions have to be started in the unit, best by `ExecReload=hotctl --socket … handoff -- …`:
    /// systemd notices their crash at once, lets old versions drain and starts the service again. With
    /// [`Builder::successor_signal`] the new version is a child of the old one, so systemd warns that it
    /// supervises a process "which is not our child", calls the service active, and learns of the crash when
    /// the old one has drained. Then it starts the service again.
    ///
    /// `NotifyAccess=all` because each new version speaks for itself. `FileDescriptorStoreMax=` is at least
    /// the number of listeners and of [stored states](Starting::stored_state). The store survives a crash and
    /// `systemctl restart`, and with `FileDescriptorStorePreserve=yes` (since 254) also `systemctl stop`. In
    /// it, the listener `http` is called `hotupdate/http`; bytes that systemd does not allow in a name
    /// (anything but printable ASCII, and `:`) are written as `%3A`. A name that has more than 255 bytes then
    /// is not held, and the log says so.
    ///
    /// A listener that is found there is used if its address is the one that is asked for, and is removed if
    /// no version asks for it. The store changes when a hot update can no longer be taken back. `hotctl stop`
    /// removes the listeners, SIGTERM does not: it may come from `systemctl restart`. Descriptors of
    /// [`Starting::descriptor`] are not kept, and neither is exported state: what has to outlive a crash is
    /// stored with [`Starting::stored_state`].
    ///
    /// See systemd.service(5), `FileDescriptorStoreMax=`, and sd_notify(3), `FDSTORE=1`.
    pub fn descriptor_store(mut self, descriptor_store: bool) -> Self {
        self.settings.descriptor_store = Some(descriptor_store);
        self
    }

    /// Makes the control socket, or joins the process that owns it and receives what it has.
    ///
    /// Raises the soft limit of open files (`RLIMIT_NOFILE`, getrlimit(2)) to the hard one: each connection
    /// is a descriptor, and a version that was started by hand has the low limit of a shell. Programs that
    /// this process starts inherit that; one that uses select(2), which knows no descriptor above 1,023,
    /// needs the low one (`prlimit --nofile=1024: PROGRAM`), and a program that uses it itself can set it
    /// after this.
    ///
    /// As long as this process owns the control socket, it looks every two seconds
    /// ([`Timing::path_check`](hotupdate_proto::Timing#structfield.path_check)) whether the socket and its
    /// lock are at their path, and makes them, and their directory, again if they are gone.
    ///
    /// # Errors
    /// Of the kind [`ErrorKind::UnusablePath`] if a control socket cannot be there; [`ErrorKind::Refused`] if
    /// another successor is there already, or the incumbent gives up; [`ErrorKind::TimedOut`] if it does not
    /// answer in time; [`ErrorKind::PeerIncompatible`] if no common protocol version exists;
    /// [`ErrorKind::PeerMisbehaved`] if what arrives is not what was announced; [`ErrorKind::Local`] if the
    /// kernel refuses something, or the incumbent has more descriptors open than this process may have. The
    /// incumbent, if there is one, serves on in all of these cases.
    pub async fn join(self) -> Result<Starting> {
        crate::joining::join(self.settings()).await
    }

    fn settings(self) -> Settings {
        let Self { mut settings, deadlines } = self;
        for (set, wait) in deadlines {
            settings.timing = set(settings.timing, wait);
        }
        settings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_calls_does_not_matter() {
        let second = Duration::from_secs(1);
        let timing = Timing::default().stop(7 * second).drain(8 * second);
        let before = builder("/x/y").timing(timing.clone()).lease(2 * second).drain_deadline(9 * second);
        let after = builder("/x/y").drain_deadline(9 * second).lease(2 * second).timing(timing.clone());
        for builder in [before, after] {
            assert_eq!(builder.settings().timing, timing.clone().lease(2 * second).drain(9 * second));
        }
        let twice = builder("/x/y").probation(second).probation(3 * second);
        assert_eq!(twice.settings().timing.probation, 3 * second, "the last word counts");
    }
}
