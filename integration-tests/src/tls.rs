//! Clients of HTTPS whose connections outlive the process that serves them, and what was on the wire.
//!
//! # Reading order
//!
//! 1. [`Client`]: one connection, which is never made again
//! 2. [`Proxy`]: records what both sides of a connection send
//! 3. [`Https`]: a service and its handoffs; [`outlive`] them with many clients
//! 4. [`Keys`], a key log; with it [`Flow::check`] opens every record at the number that it must have

mod client;
pub use client::{Client, config};

mod proxy;
pub use proxy::{Flow, Proxy};

mod keys;
pub use keys::Keys;

mod service;
pub use service::{Https, connect};

mod many;
pub use many::outlive;

mod killed;
pub use killed::{Killed, Moment, Victim, calls, kill};

mod everywhere;
pub use everywhere::{Moments, Tally, kill_everywhere};

mod wire;
