//! What the fuzz targets check: one function for each, which takes any bytes and panics if something does not
//! hold.
//!
//! Deliberately absent: where the bytes come from. libFuzzer looks for them in `fuzz/`; the tests take those
//! that it has found, and random ones.

pub(crate) mod frame;
pub(crate) mod incumbent;
pub(crate) mod message;
pub(crate) mod migration;
pub(crate) mod successor;

mod said;
