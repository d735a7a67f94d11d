//! Guides: what an application does with this library, one subject at a time. Every program in them is
//! compiled and run by the tests.
//!
//! gRPC with tonic is in the guides of the crate `hotupdate-axum`.

#[doc = include_str!("guides/life.md")]
pub mod life {}

#[doc = include_str!("guides/state.md")]
pub mod state {}

#[doc = include_str!("guides/one_worker.md")]
pub mod one_worker {}

#[doc = include_str!("guides/hyper.md")]
pub mod hyper {}

#[doc = include_str!("guides/std_listener.md")]
pub mod std_listener {}

#[doc = include_str!("guides/proxy.md")]
pub mod proxy {}

#[doc = include_str!("guides/tls.md")]
pub mod tls {}

#[doc = include_str!("guides/testing.md")]
pub mod testing {}
