//! What protects a connection: rustls, or this crate's record layer.

use std::io::{self, IoSlice, Write};

use super::before::Before;
use crate::MigrationBlock;
use crate::negotiated::Negotiated;
use crate::records::{Peek, Records};
use crate::state::State;

#[derive(Debug)]
pub(super) enum Engine {
    /// Before the first migration.
    Rustls(Box<Before>),
    Records(Box<Records>),
    /// See [`MigrationBlock::Lost`].
    Lost,
}

impl Engine {
    #[inline]
    pub(super) fn peek(&mut self) -> io::Result<Peek<'_>> {
        match self {
            Self::Rustls(before) => before.peek(),
            Self::Records(records) => Ok(records.peek()?),
            Self::Lost => Err(lost()),
        }
    }

    #[inline]
    pub(super) fn consume(&mut self, count: usize) {
        match self {
            Self::Rustls(before) => before.consume(count),
            Self::Records(records) => records.consume(count),
            Self::Lost => {}
        }
    }

    pub(super) fn give_back(&mut self, plaintext: &[u8]) {
        match self {
            Self::Rustls(before) => before.give_back(plaintext),
            Self::Records(records) => records.give_back(plaintext),
            Self::Lost => {}
        }
    }

    #[inline]
    pub(super) fn write(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Rustls(before) => before.connection.writer().write_vectored(pieces),
            Self::Records(records) => Ok(records.write_vectored(pieces)?),
            Self::Lost => Err(lost()),
        }
    }

    /// What we owe the client is to be sent now, not only before the next data.
    #[inline]
    pub(super) fn answer(&mut self) {
        match self {
            Self::Rustls(before) => before.answer(),
            Self::Records(records) => records.answer(),
            Self::Lost => {}
        }
    }

    pub(super) fn close(&mut self) {
        match self {
            Self::Rustls(before) => before.close(),
            Self::Records(records) => records.close(),
            Self::Lost => {}
        }
    }

    pub(super) fn refresh_traffic_keys(&mut self) -> io::Result<()> {
        match self {
            Self::Rustls(before) => before.refresh_traffic_keys(),
            Self::Records(records) => {
                records.update_keys().then_some(()).ok_or_else(|| io::ErrorKind::Unsupported.into())
            }
            Self::Lost => Err(lost()),
        }
    }

    #[inline]
    pub(super) fn wants_send(&self) -> bool {
        match self {
            Self::Rustls(before) => before.connection.wants_write(),
            Self::Records(records) => !records.output().is_empty(),
            Self::Lost => false,
        }
    }

    pub(super) fn send(&mut self, transport: &mut dyn Write) -> io::Result<usize> {
        match self {
            Self::Rustls(before) => before.connection.write_tls(transport),
            Self::Records(records) => {
                let count = transport.write(records.output())?;
                records.sent(count);
                Ok(count)
            }
            Self::Lost => Err(lost()),
        }
    }

    pub(super) fn export(&self, output: &mut [u8], label: &str, context: Option<&[u8]>) -> io::Result<()> {
        match self {
            Self::Rustls(before) => before
                .connection
                .export_keying_material(output, label.as_bytes(), context)
                .map(drop)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error)),
            Self::Records(records) => records.export(output, label, context).ok_or_else(|| {
                io::Error::new(
                    io::ErrorKind::Unsupported,
                    "the exporter has not migrated with the connection",
                )
            }),
            Self::Lost => Err(lost()),
        }
    }

    pub(super) fn into_state(self, negotiated: &Negotiated) -> Result<State, (Self, MigrationBlock)> {
        match self {
            Self::Rustls(mut before) => match before.can_migrate(negotiated) {
                Ok(()) => (*before).into_state().ok_or((Self::Lost, MigrationBlock::Lost)),
                Err(why) => Err((Self::Rustls(before), why)),
            },
            Self::Records(records) => {
                records.into_state().map_err(|(records, why)| (Self::Records(records), why))
            }
            Self::Lost => Err((Self::Lost, MigrationBlock::Lost)),
        }
    }
}

fn lost() -> io::Error {
    io::Error::other(MigrationBlock::Lost)
}
