//! What a client may do that costs us work and brings it nothing, as often as rustls allows it.

use rustls::AlertDescription;

use crate::error::Misbehaved;

const KEY_UPDATES: u8 = 32;
const EMPTY_RECORDS: u8 = 32;
const WARNINGS: u8 = 4;
const RENEGOTIATIONS: u8 = 1;

/// How often it has happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Patience {
    /// Since the last data.
    pub(crate) key_updates: u8,
    /// One after the other.
    pub(crate) empty_records: u8,
    pub(crate) warnings: u8,
    pub(crate) renegotiations: u8,
}

impl Patience {
    pub(crate) fn data(&mut self) {
        self.key_updates = 0;
    }

    pub(crate) fn record(&mut self, empty: bool) -> Result<(), Misbehaved> {
        if empty {
            return count(&mut self.empty_records, EMPTY_RECORDS, "too many empty records");
        }
        self.empty_records = 0;
        Ok(())
    }

    pub(crate) fn key_update(&mut self) -> Result<(), Misbehaved> {
        count(&mut self.key_updates, KEY_UPDATES, "too many KeyUpdates without data")
    }

    pub(crate) fn warning(&mut self) -> Result<(), Misbehaved> {
        count(&mut self.warnings, WARNINGS, "too many warnings")
    }

    pub(crate) fn renegotiation(&mut self) -> Result<(), Misbehaved> {
        count(&mut self.renegotiations, RENEGOTIATIONS, "it asks for a renegotiation again")
    }
}

fn count(so_far: &mut u8, limit: u8, why: &'static str) -> Result<(), Misbehaved> {
    if *so_far >= limit {
        return Err((AlertDescription::UnexpectedMessage, why));
    }
    *so_far += 1;
    Ok(())
}
