//! Versions of different users, users that only operate, and services that drop their privileges: each user
//! has the rights that were said, and no more.
//!
//! Deliberately absent: users of other namespaces, see `namespaces.rs`. It has to be root that runs this.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use integration_tests::client::{InFlight, who_answers};
use integration_tests::process::needs::{ROOT, SETPRIV, have};
use integration_tests::process::{Exit, binary};
use integration_tests::{SOON, Sandbox, Service, Serving, Status, eventually};
use rustix::process::Signal;

/// A user that owns nothing here.
const NOBODY: u32 = 65534;

/// Two users of whom the machine need not know.
const ONE: u32 = 20_001;
const OTHER: u32 = 20_002;

/// A folder that every user may enter, with the programs in it.
struct Place {
    sandbox: Sandbox,
}

impl Place {
    /// The folder belongs to this user.
    fn of(owner: u32) -> Self {
        let sandbox = Sandbox::new();
        for program in ["axum-server", "hotctl"] {
            // Not by this process: a child that another test starts meanwhile would hold it open for writing.
            let copied = Command::new("cp").arg(binary(program)).arg(sandbox.path()).status().unwrap();
            assert!(copied.success());
        }
        chown(sandbox.path(), Some(owner), None).unwrap();
        fs::set_permissions(sandbox.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Self { sandbox }
    }

    fn program(&self, name: &str) -> PathBuf {
        self.sandbox.path().join(name)
    }

    /// Starts a program as this user.
    fn run(&self, uid: u32, program: &str, arguments: &[String]) -> Service<'_> {
        let mut words = vec![format!("--reuid={uid}"), format!("--regid={uid}"), "--clear-groups".to_owned()];
        words.push(self.program(program).to_string_lossy().into_owned());
        words.extend_from_slice(arguments);
        Service::spawn(&self.sandbox, Path::new("setpriv"), &words)
    }

    fn server(&self, uid: u32, version: &str, more: &[&str]) -> Service<'_> {
        let more = [&["--probation", "1"], more].concat();
        self.run(uid, "axum-server", &Service::arguments(&self.sandbox, version, &more))
    }

    /// Runs hotctl as this user; everything that was written so far comes with how it ended.
    fn hotctl(&self, uid: u32, words: &[&str]) -> (Exit, String) {
        let socket = self.sandbox.control().to_string_lossy().into_owned();
        let words = [["--socket", &socket].as_slice(), words].concat().into_iter().map(str::to_owned);
        let exit = self.run(uid, "hotctl", &words.collect::<Vec<_>>()).wait_exit();
        (exit, self.sandbox.transcript())
    }

    #[track_caller]
    fn hotctl_succeeds(&self, uid: u32, words: &[&str]) {
        let (exit, text) = self.hotctl(uid, words);
        assert!(matches!(exit, Exit::Status(0)), "{words:?} as {uid}: {exit:?}\n{text}");
    }

    /// This version does not come so far as to serve; the log says why, on one line.
    #[track_caller]
    fn is_refused(&self, version: &Service<'_>, words: &[&str]) {
        let exit = version.wait_exit();
        let text = self.sandbox.transcript();
        assert!(matches!(exit, Exit::Status(code) if code != 0), "{exit:?}\n{text}");
        let said = text.lines().any(|line| words.iter().all(|word| line.contains(word)));
        assert!(said, "no line says {words:?}\n{text}");
    }

    #[track_caller]
    fn serving(&self, generation: u64) -> Serving {
        eventually(&format!("generation {generation} serves"), SOON, || {
            self.sandbox.servings().into_iter().find(|serving| serving.generation == generation)
        })
    }

    /// Owner and mode of the socket, and of its lock.
    fn files(&self) -> [(u32, u32); 2] {
        let lock = self.program("control.sock.lock");
        [self.sandbox.control(), lock].map(|path| {
            let there = fs::metadata(path).unwrap();
            (there.uid(), there.mode() & 0o777)
        })
    }
}

/// Which user a process is, as the kernel has it: real, effective, saved, and for files.
fn users_of(pid: u32) -> Vec<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap();
    line.split_whitespace().map(|uid| uid.parse().unwrap()).collect()
}

fn uid(number: u32) -> String {
    number.to_string()
}

#[test]
fn another_user_takes_over_where_both_versions_say_so() {
    if !have(&[ROOT, SETPRIV]) {
        return;
    }
    let place = Place::of(ONE);
    let (one, other) = (uid(ONE), uid(OTHER));
    let allows = ["--allow-successor-uid", &other];
    let first = place.server(ONE, "v1", &allows);
    let at = first.wait_serving().http;
    assert_eq!(place.files(), [(ONE, 0o666), (ONE, 0o600)], "the lock stays its owner's");

    let second = place.server(OTHER, "v2", &[]);
    let directory =
        "its directory belongs to uid 20001, and has to belong to uid 20002 or to root; to take over";
    place.is_refused(&second, &[directory, "`allow_predecessor_uid`"]);
    assert_eq!(who_answers(at).expect("it serves on"), first.pid());

    let request = InFlight::start(at, std::time::Duration::from_millis(300));
    let takes = ["--allow-predecessor-uid", &one];
    let second = place.server(OTHER, "v2", &takes);
    assert_eq!(place.serving(2).http, at, "the same listener");
    assert_eq!(request.answer().expect("it is answered").0, first.pid());
    assert_eq!(who_answers(at).expect("it serves"), second.pid());
    first.wait_drained();
    place.hotctl_succeeds(OTHER, &["status"]);

    // Its own user, and with it everything that follows.
    let third = place.server(OTHER, "v3", &takes);
    assert_eq!(place.serving(3).http, at);
    second.wait_drained();
    let (exit, text) = place.hotctl(ONE, &["status"]);
    assert!(matches!(exit, Exit::Status(1)), "{exit:?}\n{text}");
    assert!(
        text.contains("uid 20001 is neither the owner of the service, nor root, nor in its `allow_uid`"),
        "{text}"
    );
    place.hotctl_succeeds(OTHER, &["stop"]);
    third.wait_drained();

    // The folder is the first user's, and so is what can be made in it.
    let fourth = place.server(OTHER, "v4", &takes);
    place.is_refused(
        &fourth,
        &["its directory belongs to uid 20001: nothing is made there", "uid 20002 or to root"],
    );
    let fifth = place.server(ONE, "v5", &[]);
    fifth.wait_serving();
    assert_eq!(place.files(), [(ONE, 0o600), (ONE, 0o600)]);
}

/// What the operator was not given, the service does not give, whatever the files would let that user do.
#[test]
fn a_user_that_may_operate_may_not_succeed() {
    if !have(&[ROOT, SETPRIV]) {
        return;
    }
    let place = Place::of(0);
    let first = place.server(0, "v1", &["--allow-uid", &uid(ONE)]);
    let at = first.wait_serving().http;
    place.hotctl_succeeds(ONE, &["status"]);
    let second = place.server(ONE, "v2", &[]);
    let refusal = "uid 20001 may operate the service, and not take it over (`allow_successor_uid`)";
    place.is_refused(&second, &["axum-server:", refusal]);
    let text = place.sandbox.transcript();
    let logged = text.lines().find(|line| line.contains("is turned away") && line.contains(refusal));
    assert!(logged.is_some_and(|line| line.contains("(v1) is still serving")), "{text}");
    assert_eq!(who_answers(at).expect("it serves on"), first.pid());
    place.hotctl_succeeds(ONE, &["stop"]);
    first.wait_drained();
}

/// The files are the first thing that keeps it away, and the error says which, and whose they are.
#[test]
fn a_user_that_was_not_named_is_told_what_it_lacks() {
    if !have(&[ROOT, SETPRIV]) {
        return;
    }
    let place = Place::of(0);
    let first = place.server(0, "v1", &[]);
    let at = first.wait_serving().http;
    assert_eq!(place.files(), [(0, 0o600); 2]);
    let second = place.server(ONE, "v2", &[]);
    let socket = format!("{} belongs to uid 0 (mode 0600)", place.sandbox.control().display());
    let words = ["Permission denied", &socket, "this process runs as uid 20001", "`allow_successor_uid`"];
    place.is_refused(&second, &words);
    assert_eq!(who_answers(at).expect("it serves on"), first.pid());
    assert_eq!(Status::ask(&place.sandbox.control()).unwrap().serving.generation, 1);
}

/// A directory lets no other user in: it is named, and whose it is, by a new version and by hotctl.
#[test]
fn a_user_that_may_not_even_enter_is_told_whose_directory_it_is() {
    if !have(&[ROOT, SETPRIV]) {
        return;
    }
    let place = Place::of(0);
    let closed = place.sandbox.path().join("closed");
    fs::create_dir(&closed).unwrap();
    chown(&closed, Some(OTHER), None).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
    let control = closed.join("control.sock").to_string_lossy().into_owned();
    let arguments = ["--listen", "127.0.0.1:0", "--control", &control, "--probation", "1"];
    let server = |user: u32, more: &[&str]| {
        place.run(
            user,
            "axum-server",
            &[&arguments, more].concat().into_iter().map(str::to_owned).collect::<Vec<_>>(),
        )
    };
    let allowing = ["--allow-successor-uid", &uid(ONE), "--allow-uid", &uid(ONE)];
    let first = server(OTHER, &allowing);
    let at = first.wait_serving().http;
    let whose = format!("{} belongs to uid {OTHER}", closed.display());
    let second = server(ONE, &["--allow-predecessor-uid", &uid(OTHER)]);
    place
        .is_refused(&second, &["Permission denied", &whose, "(mode 0700)", "this process runs as uid 20001"]);
    let words = ["--socket", &control, "status"].map(str::to_owned);
    let exit = place.run(ONE, "hotctl", &words).wait_exit();
    assert_eq!(exit, Exit::Status(1));
    let text = place.sandbox.transcript();
    let said = format!("(Permission denied: {whose}, mode 0700); be the user that owns the service, or root");
    assert!(text.contains(&said), "no {said:?} in\n{text}");
    assert_eq!(who_answers(at).expect("it serves on"), first.pid());
}

/// Started as root, it has another user as soon as it serves, and so have the versions that it starts.
#[test]
fn a_service_that_drops_its_privileges_is_updated_and_stopped() {
    if !have(&[ROOT, SETPRIV]) {
        return;
    }
    let place = Place::of(0);
    let drops = ["--run-as-uid", &uid(NOBODY)];
    let first = place.server(0, "v1", &drops);
    let at = first.wait_serving().http;
    assert_eq!(users_of(first.pid()), [NOBODY; 4]);
    assert_eq!(place.files(), [(NOBODY, 0o600); 2]);
    place.hotctl_succeeds(NOBODY, &["status"]);
    let (exit, text) = place.hotctl(ONE, &["status"]);
    assert!(matches!(exit, Exit::Status(1)) && text.contains("Permission denied"), "{exit:?}\n{text}");

    first.signal(Signal::HUP);
    let second = place.serving(2);
    assert_eq!((second.http, who_answers(at).expect("it serves")), (at, second.pid));
    assert_eq!(users_of(second.pid), [NOBODY; 4]);
    first.wait_drained();

    // By hand, as root.
    let third = place.server(0, "v3", &drops);
    assert_eq!(place.serving(3).http, at);
    assert_eq!(users_of(third.pid()), [NOBODY; 4]);
    Service::of(&place.sandbox, second.pid).wait_exit();
    place.hotctl_succeeds(NOBODY, &["stop"]);
    third.wait_drained();
    third.wait_exit();

    // It cannot remove a file of this folder. The next start replaces it.
    assert_eq!(place.files(), [(NOBODY, 0o600); 2]);
    let (exit, text) = place.hotctl(0, &["status"]);
    assert!(matches!(exit, Exit::Status(3)), "no service is there: {exit:?}\n{text}");
    let fourth = place.server(0, "v4", &drops);
    fourth.wait_serving();
    assert_eq!(place.files(), [(NOBODY, 0o600); 2]);
    place.hotctl_succeeds(0, &["stop"]);
    fourth.wait_drained();
}

/// In a folder of that user, root makes nothing that the user could redirect by a link.
#[test]
fn root_makes_no_control_socket_in_the_folder_of_another_user() {
    if !have(&[ROOT, SETPRIV]) {
        return;
    }
    let place = Place::of(ONE);
    let first = place.server(0, "v1", &["--run-as-uid", &uid(ONE)]);
    place.is_refused(
        &first,
        &[
            "its directory belongs to uid 20001",
            "nothing is made there unless it belongs to uid 0 or to root",
        ],
    );
    let second = place.server(ONE, "v2", &[]);
    second.wait_serving();
    // Met there, it is another matter.
    let third = place.server(0, "v3", &["--allow-predecessor-uid", &uid(ONE)]);
    third.wait_serving();
    second.wait_drained();
}
