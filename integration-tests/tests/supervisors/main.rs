//! Services under supervisors that are real: systemd in namespaces of its own, and containers.

mod containers;
mod descriptor_store;
mod keeper;
mod runtime_directory;
mod sandboxed;
mod units;
