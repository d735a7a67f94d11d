//! `hotctl install-units`: unit files for systemd, one that is reloaded, and one of which each version is an
//! instance.
//!
//! Deliberately absent: talking to systemd. Which of the two is started, and when, is the operator's affair.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::cli::InstallUnits;
use crate::context::CHANGE;
use crate::exit::{Exit, Failure};
use crate::report::Report;
use crate::text;

/// Both units, before the words between `@` are filled in.
const TEMPLATE: &str = include_str!("install_units/service.ini");

/// What stands in the command line for the version.
const VERSION: &str = "{version}";

/// The longest name of a user, which is the name of the service if it has none of its own (`useradd(8)`).
const MAX_NAME: usize = 31;

/// Directories that the units do not show to the service.
const HIDDEN: [&str; 5] = ["/home", "/root", "/run/user", "/tmp", "/var/tmp"];

/// systemd waits 90 s for a reload by default; hotctl gives up first, so that it can say why.
const LESS: u64 = 10;

#[derive(Serialize)]
struct Unit {
    path: PathBuf,
    text: String,
}

pub(crate) fn run(report: &Report, options: &InstallUnits) -> Result<(), Failure> {
    let hotctl = match &options.hotctl {
        Some(path) => path.clone(),
        None => std::env::current_exe().map_err(|error| {
            Failure::refused(format!("cannot find hotctl itself: {error}; name it with --hotctl"))
        })?,
    };
    let hotctl = hotctl.to_str().ok_or_else(|| usage("the path of hotctl is no text"))?;
    can_be_run(&options.exec)?;
    can_be_run(hotctl)?;
    let units = [reloaded(options, hotctl), instances(options)];
    if options.dry_run {
        return units.iter().try_for_each(|unit| show(report, unit));
    }
    // All or none: a half-written pair would be worse than none.
    units.iter().try_for_each(|unit| may_be_written(unit, options.force))?;
    units.iter().try_for_each(|unit| write(report, unit))?;
    let name = &options.name;
    report.say(format!(
        "after `systemctl daemon-reload`: `systemctl start {name}`, and `systemctl reload {name}` for each new \
         version; or `systemctl start {name}@v1`, and `systemctl start {name}@v2` for the next"
    ));
    Ok(())
}

/// `NAME.service`, whose new versions are started by its reload.
fn reloaded(options: &InstallUnits, hotctl: &str) -> Unit {
    let (name, exec) = (&options.name, options.exec.replace(VERSION, "current"));
    let seconds = CHANGE.as_secs() - LESS;
    let reload = format!(
        "# The hot update. It fails, and says why, if the new version does not serve; the old one serves on \
         then.\n\
         ExecReload={hotctl} --timeout {seconds} handoff -- {exec}"
    );
    let how = format!("# `systemctl reload {name}` starts the new version, which takes over.");
    let path = options.directory.join(format!("{name}.service"));
    Unit { path, text: fill(options, &how, name, &exec, &reload) }
}

/// `NAME@.service`, whose instances are versions.
fn instances(options: &InstallUnits) -> Unit {
    let (name, exec) = (&options.name, options.exec.replace(VERSION, "%i"));
    let how = format!(
        "# `systemctl start {name}@v2` starts version v2, which takes over from v1; that drains and ends.\n\
         # For the next boot: `systemctl enable {name}@v2`, `systemctl disable {name}@v1`."
    );
    let path = options.directory.join(format!("{name}@.service"));
    Unit { path, text: fill(options, &how, &format!("{name}, version %i"), &exec, "") }
}

fn fill(options: &InstallUnits, how: &str, description: &str, exec: &str, reload: &str) -> String {
    let user = match &options.user {
        Some(user) => format!("User={user}"),
        // All versions are the same user, as long as one of them runs.
        None => format!("DynamicUser=yes\nUser={}", options.name),
    };
    // An option that a unit does not have takes its line along.
    let reload = if reload.is_empty() { String::new() } else { format!("{reload}\n") };
    let text = TEMPLATE.replace("@RELOAD@\n", &reload).replace("@HOW@", how).replace("@USER@", &user);
    text.replace("@DESCRIPTION@", description).replace("@NAME@", &options.name).replace("@EXEC@", exec)
}

/// systemd wants the whole path (systemd.service(5)), and the units hide some directories.
fn can_be_run(command: &str) -> Result<(), Failure> {
    let program = Path::new(command.split_whitespace().next().unwrap_or_default());
    if command.contains(char::is_control) {
        return Err(usage("a command line of a unit is one line"));
    }
    if !program.is_absolute() {
        return Err(usage(&format!("`{}` is no absolute path, which units need", program.display())));
    }
    match HIDDEN.iter().find(|hidden| program.starts_with(hidden)) {
        Some(hidden) => Err(usage(&format!(
            "the units do not see {hidden} (ProtectHome=, PrivateTmp=): install {} elsewhere",
            program.display()
        ))),
        None => Ok(()),
    }
}

fn usage(line: &str) -> Failure {
    Failure::new(Exit::Usage, line)
}

fn show(report: &Report, unit: &Unit) -> Result<(), Failure> {
    match report.json() {
        true => report.record("unit", unit),
        false => report.data(|out| write!(out, "# {}\n{}\n", unit.path.display(), unit.text)),
    }
}

/// A file that says the same may be written again.
fn may_be_written(unit: &Unit, force: bool) -> Result<(), Failure> {
    match fs::read_to_string(&unit.path) {
        Ok(text) if text != unit.text && !force => Err(Failure::refused(format!(
            "{} is there and says something else; --force replaces it",
            unit.path.display()
        ))),
        _ => Ok(()),
    }
}

fn write(report: &Report, unit: &Unit) -> Result<(), Failure> {
    fs::write(&unit.path, &unit.text).map_err(|error| {
        Failure::refused(format!("cannot write {}: {}", unit.path.display(), text::os_error(&error)))
    })?;
    report.record("unit", unit)?;
    report.say(format!("wrote {}", unit.path.display()));
    Ok(())
}

/// A name that systemd takes for a unit, a directory and a user at once.
pub(crate) fn name(text: &str) -> Result<String, String> {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-".contains(&byte);
    let begins = text.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase() || byte == b'_');
    match begins && text.bytes().all(fits) && text.len() <= MAX_NAME {
        true => Ok(text.to_owned()),
        false => Err(format!("not a name of at most {MAX_NAME} of a-z, 0-9, _ and -, from a letter on")),
    }
}
