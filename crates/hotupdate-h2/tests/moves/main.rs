//! A stock client of hyper, and stock servers between which its connection moves.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]

mod world;

mod clients;
mod cuts;
mod limits;
mod raw;
mod splits;
mod traps;
