//! How this process was started, and starting its program anew in the same way, detached.
//!
//! A successor that is to be adopted by a service manager is started by a process in between, which is the
//! program itself once more: a second fork without an exec(2) is unsafe code in Rust, and the program is all
//! that is there for sure.
//!
//! Deliberately absent: waiting until it serves. It joins over the control socket like any other successor.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use hotupdate_proto::environment::{AGAIN, ATTEMPT, DETACH, NOT_INHERITED};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Access, access};
use rustix::io::{Errno, retry_on_intr};
use rustix::param::linux_execfn;
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, getppid, pidfd_open, setsid, waitid};
use tokio::signal::unix::{SignalKind, signal};

use super::heir;

/// The program that the kernel runs. It leads to the file even if that has no name any more.
const RUNS: &str = "/proc/self/exe";

/// How this process was started. Paths are kept as they were said, with the symbolic links in them: a new
/// version is often installed by changing where a link leads to.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    path: PathBuf,
    /// The first of the arguments, which need not be the path.
    name: OsString,
    arguments: Vec<OsString>,
    directory: PathBuf,
}

/// A successor that was started.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) child: Child,
    /// Why it does not run in the working directory of this process but in the root directory.
    pub(crate) moved: Option<io::Error>,
}

/// What tells one file from another, and from what it was before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fingerprint {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

/// What a process can learn about its start. `getcwd(3)` does not know which links led to the directory, and
/// `$PWD` may speak of another one, which a parent was in.
struct Surroundings<'a> {
    /// The path that execve(2) was given.
    executed: PathBuf,
    /// The first argument.
    name: &'a OsStr,
    /// `$PWD`
    said: Option<PathBuf>,
    /// What getcwd(3) says.
    found: Option<PathBuf>,
    /// `$PATH`
    search: OsString,
}

impl Program {
    /// The path is the one that the process was started from, not `/proc/self/exe`: after a new binary was
    /// renamed to that path, the latter still leads to the old one, and ends in ` (deleted)`.
    pub(crate) fn of_this_process() -> Option<Self> {
        let mut arguments = env::args_os();
        let name = arguments.next().unwrap_or_default();
        let surroundings = Surroundings {
            executed: Path::new(OsStr::from_bytes(linux_execfn().to_bytes())).to_owned(),
            name: &name,
            said: env::var_os("PWD").map(PathBuf::from).filter(|said| said.is_absolute()),
            found: env::current_dir().ok(),
            search: env::var_os("PATH").unwrap_or_default(),
        };
        let path = surroundings.path().or_else(|| env::current_exe().ok())?;
        let directory = surroundings.directory(&path);
        Some(Self { path, name, arguments: arguments.collect(), directory })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// What is installed at the path now; `None` if nothing is.
    pub(crate) fn fingerprint(&self) -> Option<Fingerprint> {
        let file = fs::metadata(&self.path).ok()?;
        let modified = (file.mtime(), file.mtime_nsec());
        Some(Fingerprint { device: file.dev(), inode: file.ino(), size: file.size(), modified })
    }

    /// Whether the path still leads to the program that this process runs.
    pub(crate) fn is_ours(&self) -> bool {
        is_same(&self.path, Path::new(RUNS))
    }

    /// Starts what is installed at the path now, in the directory to which the path of the working directory
    /// leads now. `again`: it is to be adopted when it has joined, see [`AGAIN`].
    ///
    /// # Errors
    /// As execve(2).
    pub(crate) fn start(&self, attempt: &str, again: bool) -> io::Result<Started> {
        let (mut command, moved) = self.command();
        command.env(ATTEMPT, attempt).env(DETACH, std::process::id().to_string());
        if again {
            command.env(AGAIN, "1");
        }
        Ok(Started { child: command.spawn()?, moved })
    }

    fn command(&self) -> (Command, Option<io::Error>) {
        let moved = access(self.directory.join("."), Access::EXEC_OK).err().map(io::Error::from);
        let directory = if moved.is_some() { Path::new("/") } else { &self.directory };
        let mut command = Command::new(&self.path);
        command.arg0(&self.name).args(&self.arguments).current_dir(directory).stdin(Stdio::null());
        command.env("PWD", directory);
        for name in NOT_INHERITED.into_iter().chain([DETACH, AGAIN]) {
            command.env_remove(name);
        }
        (command, moved)
    }
}

impl Surroundings<'_> {
    /// The first path that leads to the program which runs, or else, if it was replaced already, the first
    /// that leads to a file.
    fn path(&self) -> Option<PathBuf> {
        let candidates: Vec<_> = self.candidates().collect();
        let runs = candidates.iter().find(|path| is_same(path, Path::new(RUNS)));
        runs.or_else(|| candidates.iter().find(|path| path.is_file())).cloned()
    }

    fn candidates(&self) -> impl Iterator<Item = PathBuf> {
        // A program that was executed through a descriptor is said to be /dev/fd/N (execveat(2)).
        let executed = Some(&*self.executed).filter(|path| !path.starts_with("/dev/fd"));
        let named = Path::new(self.name);
        let is_path = named.components().count() > 1;
        let names = executed.into_iter().chain(is_path.then_some(named));
        // Without any base an absolute path is still one.
        let bases = self.here().into_iter().chain(self.found.as_deref()).chain(self.said.as_deref());
        let bases: Vec<_> = bases.chain([Path::new("/")]).collect();
        let searched = env::split_paths(&self.search).filter(move |_| !is_path);
        let all = names.map(Path::to_owned).chain(searched.map(move |directory| directory.join(named)));
        all.flat_map(move |name| bases.clone().into_iter().map(move |base| plain(&base.join(&name))))
    }

    /// The working directory, if `$PWD` says how it was entered.
    fn here(&self) -> Option<&Path> {
        self.said.as_deref().filter(|said| is_same(said, Path::new(".")))
    }

    /// As it was entered. A supervisor that does not set `$PWD` often names the program by a path in the
    /// working directory.
    fn directory(&self, program: &Path) -> PathBuf {
        let above = || program.ancestors().skip(1).find(|above| is_same(above, Path::new(".")));
        let known = self.here().or_else(above).or(self.found.as_deref()).or(self.said.as_deref());
        known.unwrap_or(Path::new("/")).to_owned()
    }
}

fn is_same(one: &Path, other: &Path) -> bool {
    let file = |path| fs::metadata(path).map(|file| (file.dev(), file.ino()));
    matches!((file(one), file(other)), (Ok(one), Ok(other)) if one == other)
}

/// Without `.`; `..` stays, because it leads elsewhere after a link.
fn plain(path: &Path) -> PathBuf {
    path.components().collect()
}

/// Waits until the child has ended, and leaves it to be waited for once more (waitid(2), `WNOWAIT`): by this
/// process, or by the one that inherits it. tokio's children leave nothing.
pub(crate) async fn ended(child: &Child) -> io::Result<ExitStatus> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(Errno::CHILD)?;
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    // First, or else it could end between a look and the wait for the next.
    let mut ends = signal(SignalKind::child())?;
    loop {
        if let Some(ended) = waitid(WaitId::Pid(pid), options)? {
            let code = ended.exit_status().map(|code| code << 8);
            return Ok(ExitStatus::from_raw(code.or(ended.terminating_signal()).unwrap_or_default()));
        }
        ends.recv().await;
    }
}

/// Leaves the session in which this process was started, if that is what it was started for. Does not return
/// in a process that only stands between its parent and the successor.
pub(crate) fn detach_if_asked() {
    // A process that this one starts inherits the variable, and another parent.
    let asked = env::var(DETACH).ok().and_then(|pid| Pid::from_raw(pid.parse().ok()?));
    let Some(parent) = getppid().filter(|parent| asked == Some(*parent)) else { return };
    // Fails for the leader of a process group (setsid(2)), which has a life of its own already.
    let _ = setsid();
    if env::var_os(AGAIN).is_some()
        && let Some(program) = Program::of_this_process()
        && let Ok(child) = program.command().0.spawn()
    {
        stand_between(parent, child);
    }
}

/// Ends as the child, or when the parent wants no more of it, or has ended.
fn stand_between(parent: Pid, mut child: Child) -> ! {
    let ours = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let watch = |pid: Option<Pid>| pidfd_open(pid?, PidfdFlags::empty()).ok();
    // A parent that has ended already is not this one any more.
    if let (Some(theirs), Some(ours)) =
        (watch(Some(parent).filter(|_| getppid() == Some(parent))), watch(ours))
    {
        let mut either = [&theirs, &ours].map(|process| PollFd::new(process, PollFlags::IN));
        let _ = retry_on_intr(|| poll(&mut either, None));
    }
    let ended = child.try_wait().ok().flatten();
    let code = ended.and_then(|ended| heir::code(ended.code(), ended.signal()));
    std::process::exit(code.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// This test program, in the working directory of the test.
    fn surroundings(executed: impl AsRef<Path>, name: &OsStr) -> Surroundings<'_> {
        let executed = executed.as_ref().to_owned();
        Surroundings { executed, name, said: None, found: env::current_dir().ok(), search: OsString::new() }
    }

    /// `current/server` in a folder, a link to the program that runs.
    fn installed() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("release")).unwrap();
        std::os::unix::fs::symlink("release", folder.path().join("current")).unwrap();
        let server = folder.path().join("current/server");
        std::os::unix::fs::symlink(RUNS.replace("self", &std::process::id().to_string()), &server).unwrap();
        (folder, server)
    }

    #[test]
    fn the_path_is_kept_as_it_was_said() {
        let (folder, server) = installed();
        assert_eq!(surroundings(&server, OsStr::new("other")).path(), Some(server.clone()));
        let through_a_descriptor = surroundings("/dev/fd/3", server.as_os_str());
        assert_eq!(through_a_descriptor.path(), Some(server.clone()), "the first argument says it");

        let mut relative = surroundings("./current/server", OsStr::new("other"));
        assert_eq!(relative.path(), None, "it is not there");
        relative.found = Some(folder.path().to_owned());
        assert_eq!(relative.path(), Some(server.clone()));
        relative.found = None;
        relative.said = Some(folder.path().to_owned());
        assert_eq!(relative.path(), Some(server.clone()), "before the process went elsewhere");

        let mut searched = surroundings("/dev/fd/3", OsStr::new("server"));
        searched.search = env::join_paths([Path::new("/nowhere"), &folder.path().join("current")]).unwrap();
        assert_eq!(searched.path(), Some(server));
    }

    #[test]
    fn what_runs_comes_before_what_only_is_there() {
        let (folder, server) = installed();
        let other = folder.path().join("other");
        fs::write(&other, "").unwrap();
        assert_eq!(surroundings(&other, server.as_os_str()).path(), Some(server.clone()));
        fs::remove_file(&server).unwrap();
        assert_eq!(surroundings(&other, server.as_os_str()).path(), Some(other), "it was replaced already");
    }

    #[test]
    fn the_directory_is_the_one_that_was_entered() {
        let (folder, server) = installed();
        let mut process = surroundings(&server, OsStr::new("server"));
        process.said = Some(folder.path().to_owned());
        assert_eq!(process.directory(&server), env::current_dir().unwrap(), "$PWD is of another process");

        let link = folder.path().join("here");
        std::os::unix::fs::symlink(env::current_dir().unwrap(), &link).unwrap();
        assert_eq!(process.directory(&link.join("bin/server")), link, "the program is in it");
        process.said = Some(link.clone());
        assert_eq!(process.directory(&server), link, "$PWD says so");
        process.said = Some(folder.path().join("gone"));
        process.found = None;
        assert_eq!(process.directory(&server), folder.path().join("gone"), "to name it");
    }

    #[test]
    fn a_file_that_was_replaced_has_another_fingerprint() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("server");
        let program =
            Program { path: path.clone(), name: "".into(), arguments: Vec::new(), directory: "/".into() };
        assert_eq!(program.fingerprint(), None);
        fs::write(&path, "one").unwrap();
        let first = program.fingerprint();
        assert!(first.is_some() && first == program.fingerprint());
        fs::write(folder.path().join("new"), "two").unwrap();
        fs::rename(folder.path().join("new"), &path).unwrap();
        assert_ne!(program.fingerprint(), first);
        assert!(!program.is_ours());
        let ours = Program { path: env::current_exe().unwrap(), ..program };
        assert!(ours.is_ours());
    }
}
