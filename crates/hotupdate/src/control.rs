//! The control socket: which process owns its path, which users may connect, and what is said on it.
//!
//! Deliberately absent: decisions. Each call becomes a request to the driver.

mod path;
pub use path::control_path;

mod reserve;
mod user;
pub(crate) use user::Users;

mod ownership;
pub(crate) use ownership::{
    Found, Ownership, check_inherited, check_kinds, find, remove, say_running, say_stopped,
};

mod upkeep;
pub(crate) use upkeep::Upkeep;

mod acceptor;
pub(crate) use acceptor::Control;

pub(crate) mod replies;
pub(crate) mod session;
pub(crate) use reserve::Reserve;
