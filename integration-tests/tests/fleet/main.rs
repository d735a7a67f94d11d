//! Many hosts: Ansible over ssh, and a swarm of docker. `make fleet` runs it; it takes a minute or two.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]

mod ansible;
mod swarm;
