//! `hotctl`, where no version of a service takes over from another one, too: the workspace of a service is built
//! where its developers work, and hotctl with it.

use std::process::ExitCode;

#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    hotctl::main()
}

#[cfg(not(target_os = "linux"))]
#[expect(clippy::print_stderr, reason = "it is all that this program does")]
fn main() -> ExitCode {
    eprintln!("hotctl: it needs Linux: on this system no version of a service takes over from another one");
    ExitCode::from(2)
}
