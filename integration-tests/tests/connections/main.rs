//! Connections that outlive the processes that serve them: what their clients see of it, which is nothing.

mod chat;
mod migration;
mod probation;
mod tls;
