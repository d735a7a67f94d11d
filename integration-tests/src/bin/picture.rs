//! `make picture`.

#[cfg(target_os = "linux")]
fn main() -> anyhow::Result<()> {
    integration_tests::programs::picture::main()
}

#[cfg(not(target_os = "linux"))]
fn main() -> Result<(), &'static str> {
    Err("it needs Linux")
}
