//! HTTPS: what clients see while one version of a server replaces another.
//!
//! Deliberately absent: cuts of the stream at each byte, and mischief, see the tests of hotupdate-tls.

mod ends;
mod handshakes;
mod moves;
mod websockets;
mod world;
