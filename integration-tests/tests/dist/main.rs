//! What `make dist` has made: installed into a root of its own, and run there.
//!
//! Deliberately absent: making it, which takes minutes; `make dist` does, and then runs this.

#![cfg(target_os = "linux")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use integration_tests::process::binary;
use integration_tests::process::needs::{DPKG, ROOT, SYSTEMD_ANALYZE, have};
use integration_tests::readme::repository;
use integration_tests::{Readme, Sandbox};
use serde_json::Value;

/// The one file in the folder with this ending.
fn file(ending: &str) -> PathBuf {
    let folder = std::env::var_os("HOTUPDATE_DIST").expect("`make dist` says where it is");
    let entries = fs::read_dir(folder).expect("`make dist` has made it");
    let paths = entries.map(|entry| entry.expect("it can be read").path());
    let found: Vec<_> = paths.filter(|path| path.to_string_lossy().ends_with(ending)).collect();
    assert_eq!(found.len(), 1, "{ending}: {found:?}");
    found[0].clone()
}

#[track_caller]
fn succeeds(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().expect("it can be run");
    let said = String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr);
    assert!(status.success(), "{command:?}: {status}\n{said}");
    said
}

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Nothing else is in that root, not even a C library.
#[test]
fn the_package_is_installed_and_runs() {
    if !have(&[DPKG, ROOT]) {
        return;
    }
    let sandbox = Sandbox::new();
    let root = sandbox.path().join("root");
    fs::create_dir_all(root.join("var/lib/dpkg/info")).expect("the sandbox is ours");
    fs::create_dir_all(root.join("var/lib/dpkg/updates")).expect("the sandbox is ours");
    fs::write(root.join("var/lib/dpkg/status"), "").expect("the sandbox is ours");
    let at_root = format!("--root={}", root.display());
    succeeds(Command::new("dpkg").args([&at_root, "--install"]).arg(file(".deb")));
    assert!(succeeds(Command::new("dpkg").args([&at_root, "--status", "hotctl"])).contains("ok installed"));

    let run = |words: &[&str]| succeeds(Command::new("chroot").arg(&root).arg("/usr/bin/hotctl").args(words));
    assert_eq!(run(&["--version"]).trim(), format!("hotctl {VERSION}"));
    assert!(run(&["--help"]).contains("Replace the running version"));

    let share = root.join("usr/share");
    for (path, word) in [
        ("bash-completion/completions/hotctl", "_hotctl"),
        ("fish/vendor_completions.d/hotctl.fish", "complete -c hotctl"),
        ("zsh/vendor-completions/_hotctl", "#compdef hotctl"),
        ("doc/hotctl/copyright", "MIT"),
    ] {
        let text = fs::read_to_string(share.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
        assert!(text.contains(word), "{path}: {text}");
    }
    // One page for each command, compressed as Debian wants it.
    let pages = fs::read_dir(share.join("man/man1")).expect("there are man pages");
    let mut pages: Vec<_> =
        pages.map(|page| page.expect("a page").file_name().to_string_lossy().into_owned()).collect();
    pages.sort();
    for page in ["hotctl-handoff.1.gz", "hotctl-status.1.gz", "hotctl.1.gz"] {
        assert!(pages.iter().any(|name| name == page), "{page}: {pages:?}");
    }
    let commands = run(&["--help"]);
    let (_, commands) = commands.split_once("Commands:\n").expect("there are commands");
    let (commands, _) = commands.split_once("\n\n").expect("they end");
    let commands = commands.lines().filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    let commands = commands.filter(|name| !name.is_empty() && *name != "help").count();
    assert_eq!(pages.len(), commands + 1, "{pages:?}");

    succeeds(Command::new("dpkg").args([&at_root, "--purge", "hotctl"]));
    assert!(!root.join("usr/bin/hotctl").exists());
}

#[test]
fn the_unit_is_understood() {
    if !have(&[DPKG, SYSTEMD_ANALYZE]) {
        return;
    }
    let sandbox = Sandbox::new();
    succeeds(Command::new("dpkg-deb").arg("--extract").arg(file(".deb")).arg(sandbox.path()));
    let unit = fs::read_to_string(sandbox.path().join("usr/lib/systemd/system/hotupdate@.service"));
    // It is to be at that path, where this machine may have another one, or none.
    let hotctl = sandbox.path().join("usr/bin/hotctl");
    let unit = unit.expect("it is there").replace("/usr/bin/hotctl", &hotctl.display().to_string());
    let path = sandbox.path().join("hotupdate@shop.service");
    fs::write(&path, unit.replace("man:hotctl(1)", "https://example.org")).expect("the sandbox is ours");
    let said = succeeds(Command::new("systemd-analyze").arg("verify").arg(&path));
    assert!(!said.contains("hotupdate@shop"), "{said}");
}

/// Static: it asks for no interpreter (`PT_INTERP`), and so for no library.
fn is_static(program: &Path) -> bool {
    !has(program, b"/lib64/ld-") && !has(program, b"/lib/ld-")
}

fn has(program: &Path, bytes: &[u8]) -> bool {
    fs::read(program).expect("it is there").windows(bytes.len()).any(|at| at == bytes)
}

/// What goes into the image of `examples/containers`, by the commands of its README, where this repository
/// seems to be.
#[test]
fn the_programs_of_the_image_need_nothing_else() {
    if !have(&[ROOT]) {
        return;
    }
    let sandbox = Sandbox::new();
    for entry in ["Cargo.toml", "Cargo.lock", "crates", "examples", "integration-tests"] {
        symlink(repository().join(entry), sandbox.path().join(entry)).expect("the sandbox is ours");
    }
    let profile = binary("hotctl").parent().expect("a folder").to_owned();
    let target = profile.parent().expect("that of cargo");
    symlink(target, sandbox.path().join("target")).expect("the sandbox is ours");
    let commands = Readme::of("examples/containers").commands("programs");
    let mut bash = Command::new("bash");
    bash.args(["-euo", "pipefail", "-c", &commands]).current_dir(sandbox.path());
    succeeds(bash.env_remove("CARGO_TARGET_DIR").env_remove("CARGO_BUILD_TARGET"));
    let image = sandbox.path().join("image");
    for program in ["hotctl", "axum-server"] {
        assert!(is_static(&image.join(program)), "{program} is linked dynamically");
        let version =
            succeeds(Command::new("chroot").arg(&image).arg(format!("/{program}")).arg("--version"));
        assert_eq!(version.trim(), format!("{program} {VERSION}"));
    }
}

#[test]
fn the_archive_has_the_same_program() {
    let sandbox = Sandbox::new();
    let archive = file(".tar.gz");
    succeeds(Command::new("tar").arg("-xzf").arg(&archive).arg("-C").arg(sandbox.path()));
    let name = archive.file_name().expect("a file").to_string_lossy().replace(".tar.gz", "");
    let program = sandbox.path().join(name).join("hotctl");
    assert_eq!(succeeds(Command::new(&program).arg("--version")).trim(), format!("hotctl {VERSION}"));
    assert!(is_static(&program), "it is linked dynamically");
    assert!(!has(&program, b".symtab"), "it is not stripped");
}

#[test]
fn what_it_is_made_of_is_said() {
    let text = fs::read_to_string(file(".cdx.json")).expect("it is there");
    let bom: Value = serde_json::from_str(&text).expect("it is JSON");
    assert_eq!(
        (&bom["bomFormat"], &bom["metadata"]["component"]["name"]),
        (&"CycloneDX".into(), &"hotctl".into())
    );
    let components = bom["components"].as_array().expect("a list");
    let names: Vec<_> = components.iter().filter_map(|component| component["name"].as_str()).collect();
    for name in ["hotupdate-proto", "clap", "serde_json", "rustix"] {
        assert!(names.contains(&name), "{name}: {names:?}");
    }
    assert!(components.iter().all(|component| component["version"].is_string()));
}

#[test]
fn the_sums_are_right() {
    let sums = file("SHA256SUMS");
    let folder: &Path = sums.parent().expect("a file lies in a folder");
    succeeds(Command::new("sha256sum").args(["--check", "--strict", "SHA256SUMS"]).current_dir(folder));
}
