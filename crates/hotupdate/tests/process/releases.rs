//! Releases in folders of their own, and a link `current` to one of them, as deployment tools make them:
//! SIGHUP starts what the link leads to now.
//!
//! Deliberately absent: shells. What they know is in `$PWD` and in the path that they execute.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::service::STAYS_HERE;
use crate::stage::{Serving, Stage};

/// `releases/1` to `releases/3`, each with a program of its own.
struct Releases<'a> {
    stage: &'a Stage,
    folder: PathBuf,
    /// How the program is called.
    program: String,
}

impl<'a> Releases<'a> {
    /// `program` is how it is going to be called, in the folder `APP`.
    fn new(stage: &'a Stage, program: &str) -> Self {
        let folder = stage.file("app");
        fs::create_dir_all(folder.join("releases")).unwrap();
        stage.copy_program("built");
        let program = program.replace("APP", folder.to_str().unwrap());
        let releases = Self { stage, folder, program };
        for number in 1..=3 {
            fs::create_dir(releases.release(number)).unwrap();
            // The kernel knows a program by the name under which it was executed.
            fs::hard_link(stage.file("built"), releases.release(number).join("server")).unwrap();
        }
        releases.point_to(1);
        releases
    }

    fn release(&self, number: u32) -> PathBuf {
        self.folder.join(format!("releases/{number}"))
    }

    fn current(&self) -> PathBuf {
        self.folder.join("current")
    }

    fn point_to(&self, number: u32) {
        let new = self.folder.join("new");
        symlink(format!("releases/{number}"), &new).unwrap();
        fs::rename(new, self.current()).unwrap();
    }

    /// The process runs the program of this release, in this working directory.
    fn runs(&self, process: Serving, number: u32, directory: &Path) {
        let at = |name| fs::read_link(format!("/proc/{}/{name}", process.pid)).unwrap();
        assert_eq!(at("exe"), self.release(number).join("server"), "{}", self.stage.log());
        assert_eq!(at("cwd"), directory, "{}", self.stage.log());
        let words = fs::read(format!("/proc/{}/cmdline", process.pid)).unwrap();
        let name = words.split(|byte| *byte == 0).next().unwrap();
        assert_eq!(name, self.program.as_bytes(), "it is called as it was at first");
    }
}

/// `directory` is how the working directory was entered, of which `$PWD` tells, if it does.
async fn starts_what_is_current(program: &str, directory: &str, pwd: bool, path: Option<&str>) {
    let stage = Stage::new();
    let releases = Releases::new(&stage, program);
    let app = releases.folder.clone();
    let directory = app.join(directory);
    let mut command = Command::new(&releases.program);
    command.current_dir(&directory).env(STAYS_HERE, "");
    match pwd {
        true => command.env("PWD", &directory),
        false => command.env_remove("PWD"),
    };
    if let Some(path) = path {
        command.env("PATH", path.replace("APP", app.to_str().unwrap()));
    }
    let first = stage.run(stage.prepare(&mut command));
    let mut serving = stage.serves(1).await;
    assert_eq!(serving.pid, first.pid());
    releases.runs(serving, 1, &fs::canonicalize(&directory).unwrap());

    releases.point_to(2);
    serving = stage.sighup(serving).await;
    releases.runs(serving, 2, &fs::canonicalize(&directory).unwrap());

    // As those do that keep some releases only.
    fs::remove_dir_all(releases.release(1)).unwrap();
    releases.point_to(3);
    serving = stage.sighup(serving).await;
    releases.runs(serving, 3, &fs::canonicalize(&directory).unwrap());
    assert!(!stage.log().contains("cannot be entered"), "{}", stage.log());
}

#[tokio::test]
async fn an_absolute_path_from_elsewhere() {
    starts_what_is_current("APP/current/server", "..", true, None).await;
}

#[tokio::test]
async fn an_absolute_path_from_inside() {
    starts_what_is_current("APP/current/server", "current", true, None).await;
}

/// As systemd does with `WorkingDirectory=` and `ExecStart=`.
#[tokio::test]
async fn an_absolute_path_from_inside_without_pwd() {
    starts_what_is_current("APP/current/server", "current", false, None).await;
}

#[tokio::test]
async fn a_relative_path_from_inside() {
    starts_what_is_current("./server", "current", true, None).await;
}

#[tokio::test]
async fn a_relative_path_through_the_link() {
    starts_what_is_current("current/server", ".", true, None).await;
}

#[tokio::test]
async fn a_relative_path_through_the_link_without_pwd() {
    starts_what_is_current("current/server", ".", false, None).await;
}

#[tokio::test]
async fn by_path() {
    starts_what_is_current("server", "current", true, Some("APP/current:/usr/bin")).await;
}

/// The name alone says nothing of the link, and so does not `.` in `$PATH`; `$PWD` does.
#[tokio::test]
async fn by_path_in_the_working_directory() {
    starts_what_is_current("server", "current", true, Some(".:/usr/bin")).await;
}

/// A working directory that is gone is no obstacle, and is named.
#[tokio::test]
async fn a_working_directory_that_is_gone() {
    let stage = Stage::new();
    let releases = Releases::new(&stage, "APP/current/server");
    let directory = releases.release(1);
    let mut command = Command::new(&releases.program);
    command.current_dir(&directory).env("PWD", &directory).env(STAYS_HERE, "");
    let _first = stage.run(stage.prepare(&mut command));
    let serving = stage.serves(1).await;
    releases.point_to(2);
    fs::remove_dir_all(&directory).unwrap();
    let second = stage.sighup(serving).await;
    releases.runs(second, 2, Path::new("/"));
    let named = directory.display().to_string();
    let words =
        ["cannot be entered any more; the successor starts in /", &named, "No such file or directory"];
    stage.logs(&words).await;
    let third = stage.sighup(second).await;
    releases.runs(third, 2, Path::new("/"));
}
