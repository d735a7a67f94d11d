//! Programs that know nothing of hot updates, run by `hotctl run`.

mod ends;
mod failures;
mod latency;
mod load;
mod supervised;
mod support;
mod taking_over;
mod updates;
