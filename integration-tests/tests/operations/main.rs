//! What operators have around a service: monitoring, orchestrators, packages. The files of the examples are
//! used as they stand.

#![cfg(target_os = "linux")]

mod kubernetes;
mod observability;
mod opentelemetry;
mod python_join;
