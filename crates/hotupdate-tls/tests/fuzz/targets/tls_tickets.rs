//! Any bytes as keys, and as a ticket.

use std::sync::OnceLock;
use std::time::SystemTime;

use hotupdate_tls::Tickets;
use rustls::server::ProducesTickets as _;

pub(crate) fn check(bytes: &[u8]) {
    static TICKETS: OnceLock<(Tickets, Vec<u8>)> = OnceLock::new();
    let (tickets, ticket) = TICKETS.get_or_init(|| {
        let tickets = Tickets::new(SystemTime::now()).unwrap();
        let ticket = tickets.encrypt(b"a session").unwrap();
        (tickets, ticket)
    });
    // A fuzzer that watches comparisons finds the ticket itself, too.
    let refused = |forged: &[u8]| {
        assert_eq!(tickets.decrypt(forged), (forged == *ticket).then(|| b"a session".to_vec()));
    };
    refused(bytes);
    // One that is cut, and goes on with other bytes.
    if let Some((cut, rest)) = bytes.split_first() {
        let cut = usize::from(*cut) % ticket.len();
        refused(&[&ticket[..cut], rest].concat());
    }
    if let Ok(tickets) = Tickets::from_bytes(bytes) {
        assert_eq!(tickets.to_bytes()[..], *bytes);
        let session = tickets.encrypt(b"a session").unwrap();
        assert_eq!(tickets.decrypt(&session).unwrap(), b"a session");
        tickets.rotate_if_due(SystemTime::now());
    }
}
