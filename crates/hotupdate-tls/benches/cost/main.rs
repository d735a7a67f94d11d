//! What a connection costs before and after a migration, beside tokio-rustls; and what a migration costs.
//!
//! * `cargo bench -p hotupdate-tls` measures processor time of the thread that serves, over TCP.
//! * `cargo bench -p hotupdate-tls -- count` counts instructions by callgrind, which are the same in each
//!   run, and fails if there are more than there may be.
//!
//! Deliberately absent: wall time, which depends on what the machine does beside.

#![allow(clippy::unwrap_used, reason = "a measurement that cannot go on says so")]
#![allow(clippy::print_stdout, reason = "it prints figures")]

mod count;
mod migrations;
mod peers;
mod time;
mod wire;
mod work;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match arguments.first().map(String::as_str) {
        Some("count") => count::compare(),
        Some(count::COUNTED) => {
            count::counted(&arguments[1..]);
            ExitCode::SUCCESS
        }
        Some(_) => {
            println!("cost: `count` or nothing");
            ExitCode::FAILURE
        }
        None => {
            time::compare();
            migrations::measure();
            ExitCode::SUCCESS
        }
    }
}
