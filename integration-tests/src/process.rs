//! Real processes in a sandbox: started, watched, signalled, and ended whatever happens.
//!
//! Deliberately absent: sleeping. Every wait goes through [`eventually`].

mod eventually;
pub use eventually::{SOON, eventually};

mod sandbox;
pub use sandbox::{Sandbox, binary};

mod service;
pub use service::{Exit, Service};

mod shortage;

mod announced;

mod announcement;
pub use announcement::{Drained, Serving};

mod operator;
pub use operator::{Operator, Outcome, hotctl, spawn_hotctl};

mod facts;
pub use facts::{Facts, children};

mod sockets;
pub use sockets::{free_address, listening_inode};

pub mod needs;

pub mod network;
