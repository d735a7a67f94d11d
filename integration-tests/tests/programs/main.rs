//! Programs that know nothing of hot updates, run by `hotctl run`.

#![cfg(target_os = "linux")]

mod ends;
mod failures;
mod latency;
mod load;
mod supervised;
mod support;
mod taking_over;
mod updates;
