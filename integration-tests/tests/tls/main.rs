//! HTTPS whose connections outlive the processes that serve them: what clients see of it, which is nothing,
//! and what is on the wire.

#![cfg(target_os = "linux")]

mod kill;
mod many;
mod memory;
