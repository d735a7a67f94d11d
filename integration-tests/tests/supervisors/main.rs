//! Services under supervisors that are real: systemd in namespaces of its own, and containers.

#![cfg(target_os = "linux")]

mod containers;
mod crash_loop;
mod descriptor_store;
mod heirs;
mod keeper;
mod main_process;
mod output;
mod runtime_directory;
mod sandboxed;
mod stopping;
mod units;
