//! `make cost`.

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    cost::main()
}

#[cfg(not(target_os = "linux"))]
fn main() -> Result<(), &'static str> {
    Err("it needs Linux")
}
