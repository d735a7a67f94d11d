//! Programs that know nothing of hot updates, run by `hotctl run`.

mod latency;
mod load;
mod support;
mod updates;
