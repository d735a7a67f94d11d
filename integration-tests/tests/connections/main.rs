//! Connections that outlive the processes that serve them: what their clients see of it, which is nothing.

#![cfg(target_os = "linux")]

mod browser;
mod chat;
mod http2;
mod migration;
mod probation;
mod tls;
