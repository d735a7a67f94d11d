//! Listeners and datagram sockets that go from one version of the program to the next.

pub(crate) mod bind;
pub(crate) mod gate;
pub(crate) mod inherited;

pub(crate) mod stream;
pub use stream::Listener;

pub(crate) mod socket;
pub use socket::ListeningSocket;

pub(crate) mod datagram;
pub use datagram::{UdpSocket, UnixDatagramSocket};
