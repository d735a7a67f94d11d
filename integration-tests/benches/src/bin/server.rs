//! The application that is measured.

#[cfg(target_os = "linux")]
fn main() -> anyhow::Result<()> {
    benches::server::main()
}

#[cfg(not(target_os = "linux"))]
fn main() -> Result<(), &'static str> {
    Err("it needs Linux")
}
