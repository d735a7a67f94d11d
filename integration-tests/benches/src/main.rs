//! `make bench`.

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    benches::main()
}

#[cfg(not(target_os = "linux"))]
fn main() -> Result<(), &'static str> {
    Err("it needs Linux")
}
