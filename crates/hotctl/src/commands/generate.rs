//! `hotctl completions` and `hotctl man`, from the same definition that parses the command line.
//!
//! Deliberately absent: writing files. Where they belong depends on the distribution.

use std::io::Write;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::cli::Cli;
use crate::exit::{Exit, Failure};
use crate::report::Report;

pub(crate) fn completions(report: &Report, shell: Shell) -> Result<(), Failure> {
    // clap_complete panics where it cannot write, and `| head` is no reason to.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "hotctl", &mut script);
    report.data(|out| out.write_all(&script))
}

pub(crate) fn man(report: &Report, command: Option<&str>) -> Result<(), Failure> {
    let mut all = Cli::command();
    // Building gives commands their full names, `hotctl handoff`, and the global options.
    all.build();
    let page = match command {
        None => all,
        Some(name) => page_of(&all, name)?,
    };
    report.data(|out| clap_mangen::Man::new(page).render(out))
}

fn page_of(all: &clap::Command, name: &str) -> Result<clap::Command, Failure> {
    let page = all.find_subcommand(name).cloned();
    let page = page.ok_or_else(|| Failure::new(Exit::Usage, format!("there is no command `{name}`")))?;
    Ok(page.display_name(format!("hotctl-{name}")).version(env!("CARGO_PKG_VERSION")))
}
