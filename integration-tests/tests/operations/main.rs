//! What operators have around a service: monitoring, orchestrators, packages. The files of the examples are
//! used as they stand.

mod kubernetes;
mod observability;
mod opentelemetry;
mod python_join;
