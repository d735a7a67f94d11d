//! `make demo`.

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    integration_tests::programs::demo::main()
}

#[cfg(not(target_os = "linux"))]
fn main() -> Result<(), &'static str> {
    Err("it needs Linux")
}
