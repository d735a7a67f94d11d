//! What a person runs. The programs in `src/bin` call these, where there is Linux.

pub mod crash;
pub mod demo;
pub mod picture;
pub mod soak;
