//! Handoffs between real processes: how they go well, how they fail, and what dies on the way.

#![cfg(target_os = "linux")]

mod afterwards;
mod attempts;
mod crash_loop;
mod failures;
mod first_start;
mod generations;
mod hold;
mod kill;
mod metrics;
mod signals;
mod tcp_echo;
mod walk;
