//! Real processes, real sockets, real load: what the tests, the benches and the demo share.
//!
//! Deliberately absent: hotupdate itself. Everything here sees the service as its users do, from outside: by
//! programs, signals, sockets and `/proc`.
//!
//! # Reading order
//!
//! 1. [`process`]: a sandbox, the service in it, `hotctl`, and [`eventually`], the only place that sleeps to
//!    wait for something
//! 2. [`status`]: which processes serve and drain, asked over the control socket
//! 3. [`way`]: the three ways to start a successor
//! 4. [`client`]: one request at a time, for tests
//! 5. [`steady`]: clients whose connections outlive the process that serves them
//! 6. [`tls`]: the same over HTTPS, and what is on the wire
//! 7. [`load`]: the mixed load, and what became of every request
//! 8. [`endurance`]: one handoff after the other, and what is left behind
//! 9. [`crash`]: a fault at each system call of a handoff
//! 10. [`systemd`]: a real systemd in namespaces of its own, for tests of units
//! 11. [`podman`]: containers with an image from scratch
//! 12. [`programs`]: what a person runs

// Elsewhere it is empty, so that the workspace builds where developers work.
#![cfg(target_os = "linux")]

pub mod process;
pub use process::{Outcome, SOON, Sandbox, Service, Serving, eventually, hotctl};

pub mod status;
pub use status::Status;

pub mod way;
pub use way::{Handover, Way};

pub mod client;

pub mod steady;

pub mod tls;

pub mod endurance;

pub mod load;
pub use load::{Kind, Load, LoadPlan, Report};

pub mod crash;

pub mod systemd;
pub use systemd::{Network, Systemd};

pub mod podman;
pub use podman::Podman;

pub mod programs;
