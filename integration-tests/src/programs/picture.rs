//! `make picture`: the moving picture of the README, from a real run. `hotctl watch` looks on in a terminal
//! while an operator replaces a service that has clients, and then takes the update back.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::load::{Load, LoadPlan};
use crate::process::{eventually, hotctl};
use crate::{Outcome, Sandbox, Service};
use anyhow::{Context, ensure};
use clap::Parser;

mod svg;
use svg::{Film, Shot};

mod terminal;
use terminal::Terminal;

/// Wide enough for every line of `hotctl watch` in this run, and narrow enough to be read in a README.
const COLUMNS: u16 = 100;
const ROWS: u16 = 20;

/// The rhythm of the pictures.
const EVERY: Duration = Duration::from_millis(100);

/// Long enough that the rates stand still before something happens.
const WARM_UP: Duration = Duration::from_secs(6);

/// How long each scene is shown: before the update, after it, and after it was taken back.
const SCENES: [Duration; 3] = [Duration::from_millis(2500), Duration::from_secs(5), Duration::from_secs(4)];

/// Old versions stay this long, so that there is something to take back.
const ARGUMENTS: [&str; 2] = ["--probation", "30"];

/// Most connections are open and say little, as in life.
fn clients() -> LoadPlan {
    let pace = Duration::from_millis(25);
    LoadPlan { keep_alive: 40, per_request: 4, post: 4, slow: 2, websocket: 30, pace, ..LoadPlan::none() }
}

/// Draws the moving picture of the README from a real run.
#[derive(Debug, Parser)]
struct Options {
    /// Where the SVG goes
    #[arg(value_name = "PATH")]
    path: PathBuf,
}

/// The whole program.
///
/// # Errors
///
/// If the run is not as the picture wants it, or the file cannot be written.
pub fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let sandbox = Sandbox::new();
    let serving = Service::start(&sandbox, "v1", &ARGUMENTS).wait_serving();
    let load = Load::start(serving.http, clients());
    let terminal = Terminal::watch(&sandbox, COLUMNS, ROWS)?;
    wait(WARM_UP);

    let mut film = Film::new(COLUMNS, ROWS);
    let mut operator = Vec::new();
    let mut shoot = |operator: &[String], length: Duration| {
        let begun = Instant::now();
        while begun.elapsed() < length {
            let clients = format!(
                "{} requests answered, {} failed",
                load.progress().all_answered(),
                load.progress().all_failed()
            );
            film.add(Shot { screen: terminal.screen(), operator: operator.to_vec(), clients });
            wait(EVERY);
        }
    };
    shoot(&operator, SCENES[0]);
    operator.push("$ hotctl handoff -- axum-server --app-version v2".to_owned());
    shoot(&operator, EVERY * 6);
    operator.extend(answer(&sandbox.handoff("v2", &ARGUMENTS)));
    shoot(&operator, SCENES[1]);
    operator.push("$ hotctl rollback".to_owned());
    shoot(&operator, EVERY * 6);
    operator.extend(answer(&hotctl(&sandbox, &["rollback"])));
    shoot(&operator, SCENES[2]);

    drop(terminal);
    let report = load.stop();
    ensure!(report.failed() == 0, "a request failed, which is no picture of this project:\n{report}");
    fs::write(&options.path, film.svg()).with_context(|| format!("writing {}", options.path.display()))
}

/// What the operator reads: data and talk.
fn answer(outcome: &Outcome) -> Vec<String> {
    assert_eq!(outcome.code(), 0, "{}", outcome.stderr);
    outcome.stdout.lines().chain(outcome.stderr.lines()).map(ToOwned::to_owned).collect()
}

fn wait(span: Duration) {
    let begun = Instant::now();
    eventually("time to pass", span * 2 + Duration::from_secs(1), || (begun.elapsed() >= span).then_some(()));
}
