//! A test in the network of another process.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::panic::resume_unwind;
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Runs a piece of this test in the network of a process. The threads that the piece starts are there, too.
///
/// # Panics
///
/// If the piece does, if there is no such process, or if the system does not let it in.
#[track_caller]
pub fn in_network_of<T: Send>(pid: u32, piece: impl FnOnce() -> T + Send) -> T {
    let network = File::open(format!("/proc/{pid}/ns/net")).expect("the process runs");
    let enter = || {
        move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))
            .expect("root may enter a network");
        piece()
    };
    thread::scope(|scope| scope.spawn(enter).join()).unwrap_or_else(|panic| resume_unwind(panic))
}
