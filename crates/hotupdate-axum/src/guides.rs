//! Guides: what an application does with this crate, one subject at a time. Every program in them is compiled
//! and run by the tests. See also the guides of [`hotupdate`](hotupdate::guides).

#[doc = include_str!("guides/tonic.md")]
pub mod tonic {}
