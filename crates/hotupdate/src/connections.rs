//! The open connections of this process: what each of them does, how many there are, and how they come to an
//! end in a drain or migrate to the next version.

mod activity;
pub use activity::{ConnectionActivity, RequestGuard};

mod changes;
#[doc(hidden)]
pub use changes::Changes;

mod connection;
pub(crate) use connection::MigrationRequest;
pub use connection::{Connection, MAX_STATE, NotMigrated};

pub mod drain;
pub use drain::{Drain, Phase, Plan};

mod relay;
pub(crate) use relay::Relayed;
#[doc(hidden)]
pub use relay::{Relay, RelayPair};

mod slot;
pub use slot::MigrationSlot;

mod queue;

mod table;
pub use table::Connections;
pub(crate) use table::{accepted_at, age_ms};

mod exchange;
#[doc(hidden)]
pub use exchange::{BodyDemand, PollSnapshot};

mod rest;
#[doc(hidden)]
pub use rest::AtRest;

#[cfg(test)]
mod fixture;

mod clock;
mod ledger;
#[doc(hidden)]
pub use ledger::GoAway;

mod record;

mod socket;
pub(crate) use socket::Stream;
