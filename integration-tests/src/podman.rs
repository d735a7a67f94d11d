//! podman with storage of its own, and an image from scratch of the programs of this workspace.
//!
//! The image is built from the `Containerfile` of `examples/containers`, as a user builds it, but for one
//! thing: the programs under test are linked dynamically, so what they load lies in the image, too.
//!
//! Deliberately absent: a registry, and podman's own networks. Containers use the network in which podman
//! runs (`--network host`).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::process::needs::{CGROUPS, NAMESPACES, Need, PODMAN, RUNC};
use crate::process::{Outcome, Sandbox, binary};

/// What a machine needs for it.
pub const NEEDS: [Need; 4] = [PODMAN, RUNC, NAMESPACES, CGROUPS];

/// The name of the image, which has `/axum-server` and `/hotctl`.
pub const IMAGE: &str = "shop";

/// A podman whose images and containers lie in the sandbox. Dropped, it removes all of them.
#[derive(Debug)]
pub struct Podman<'a> {
    sandbox: &'a Sandbox,
    folder: PathBuf,
}

impl<'a> Podman<'a> {
    /// Configures it, and builds [`IMAGE`].
    ///
    /// # Panics
    ///
    /// If that fails. [`NEEDS`] says where it can work.
    #[must_use]
    #[track_caller]
    pub fn new(sandbox: &'a Sandbox) -> Self {
        let podman = Self { sandbox, folder: sandbox.path().join("podman") };
        let image = podman.image();
        fs::create_dir_all(&image).expect("a fresh folder takes another");
        configure(&podman.folder, sandbox);
        for name in ["axum-server", "hotctl"] {
            put_into(&image, &binary(name));
        }
        let containerfile =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/containers/Containerfile");
        let context = podman.folder.join("context").display().to_string();
        let containerfile = containerfile.display().to_string();
        podman.podman(&["build", "--quiet", "--tag", IMAGE, "--file", &containerfile, &context]);
        podman
    }

    /// The folder with all that is in the image.
    #[must_use]
    pub fn image(&self) -> PathBuf {
        self.folder.join("context/image")
    }

    /// The variables with which any `podman` is this one.
    #[must_use]
    pub fn environment(&self) -> [(&'static str, PathBuf); 2] {
        [
            ("CONTAINERS_CONF", self.folder.join("containers.conf")),
            ("CONTAINERS_STORAGE_CONF", self.folder.join("storage.conf")),
        ]
    }

    /// `podman …`, whatever it exits with.
    ///
    /// # Panics
    ///
    /// If it does not end.
    #[must_use]
    #[track_caller]
    pub fn run(&self, arguments: &[&str]) -> Outcome {
        let (mut command, output) = self.sandbox.command(Path::new("podman"));
        command.envs(self.environment()).args(arguments);
        self.sandbox.outcome(command, output)
    }

    /// `podman …`; its output.
    ///
    /// # Panics
    ///
    /// If it fails.
    #[track_caller]
    pub fn podman(&self, arguments: &[&str]) -> String {
        self.run(arguments).expect_success().stdout.trim_end().to_owned()
    }

    /// What podman knows of a container: a field of `podman inspect`, such as `State.ExitCode`.
    ///
    /// # Panics
    ///
    /// If there is no such container.
    #[must_use]
    #[track_caller]
    pub fn inspect(&self, container: &str, field: &str) -> String {
        self.podman(&["inspect", "--format", &format!("{{{{.{field}}}}}"), container])
    }

    /// What was written into the log of a container: standard output and standard error of its process 1.
    ///
    /// # Panics
    ///
    /// If there is no such container.
    #[must_use]
    #[track_caller]
    pub fn logs(&self, container: &str) -> String {
        let outcome = self.run(&["logs", container]).expect_success();
        outcome.stdout + &outcome.stderr
    }
}

impl Drop for Podman<'_> {
    #[expect(clippy::print_stderr, reason = "what the containers wrote is what a failed test has to say")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            for container in self.run(&["ps", "--all", "--format", "{{.Names}}"]).stdout.lines() {
                let log = self.run(&["logs", container]);
                eprintln!("---- container {container}\n{}{}", log.stdout, log.stderr);
            }
        }
        // Also when they are said to be there no more, or another podman starts them again in this moment.
        let removed = self.run(&["rm", "--all", "--force", "--time", "0"]);
        if !removed.stderr.is_empty() {
            eprintln!("{}", removed.stderr);
        }
    }
}

/// Nothing of the machine's own podman is read, changed or waited for.
fn configure(folder: &Path, sandbox: &Sandbox) {
    let at = folder.display();
    let mark = sandbox.path().display();
    let containers = format!(
        r#"[containers]
default_ulimits = ["nofile=20000:20000", "nproc=20000:20000"]
env = ["HOTUPDATE_TEST_SANDBOX={mark}"]
log_driver = "k8s-file"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
lock_type = "file"
runtime = "runc"
tmp_dir = "{at}/tmp"
[network]
network_config_dir = "{at}/networks"
"#
    );
    let storage = format!("[storage]\ndriver = \"vfs\"\ngraphroot = \"{at}/root\"\nrunroot = \"{at}/run\"\n");
    fs::write(folder.join("containers.conf"), containers).expect("the folder is ours");
    fs::write(folder.join("storage.conf"), storage).expect("the folder is ours");
}

/// A program, without what only debuggers read, and the libraries that it loads.
fn put_into(image: &Path, program: &Path) {
    let stripped = image.join(program.file_name().expect("a program has a name"));
    let status = Command::new("strip").arg("-o").arg(&stripped).arg(program).status();
    assert!(status.is_ok_and(|status| status.success()), "strip(1) comes with the linker");
    let ldd =
        Command::new("ldd").arg(program).stderr(Stdio::null()).output().expect("ldd(1) comes with libc");
    let said = String::from_utf8_lossy(&ldd.stdout);
    for library in said.split_whitespace().filter(|word| word.starts_with('/')) {
        let place = image.join(&library[1..]);
        fs::create_dir_all(place.parent().expect("it lies in a folder")).expect("the folder is ours");
        fs::copy(library, place).expect("ldd(1) names what is there");
    }
}
