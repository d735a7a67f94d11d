//! A server of rustls alone, beside which the record layer is put.

use std::io::{self, Read as _, Write as _};
use std::sync::Arc;

use hotupdate_tls::MigrationBlock;
use rustls::{ServerConfig, ServerConnection};

use super::pair::{End, Pipe, Server};

/// What serves a client in a test.
pub(crate) trait Serve {
    fn pipe(&self) -> &Pipe;

    /// All that can be read now.
    fn hears(&mut self) -> (Vec<u8>, End);

    /// Also the answers that the client is owed, if there is nothing else to say.
    fn says(&mut self, bytes: &[u8]);

    fn try_migrate(&mut self) -> Result<Vec<u8>, MigrationBlock>;
}

impl Serve for Server {
    fn pipe(&self) -> &Pipe {
        &self.pipe
    }

    fn hears(&mut self) -> (Vec<u8>, End) {
        self.hears()
    }

    fn says(&mut self, bytes: &[u8]) {
        self.says(bytes);
    }

    fn try_migrate(&mut self) -> Result<Vec<u8>, MigrationBlock> {
        self.try_migrate()
    }
}

pub(crate) struct Reference {
    pub(crate) pipe: Pipe,
    connection: ServerConnection,
    failed: bool,
}

impl Reference {
    pub(crate) fn new(config: ServerConfig) -> Self {
        let connection = ServerConnection::new(Arc::new(config)).unwrap();
        Self { pipe: Pipe::default(), connection, failed: false }
    }

    fn reads(&mut self) {
        let (bytes, ended) = {
            let mut ends = self.pipe.lock();
            (ends.to_server.drain(..).collect::<Vec<u8>>(), ends.ended)
        };
        let mut bytes = &bytes[..];
        while !bytes.is_empty() && !self.failed && self.connection.read_tls(&mut bytes).unwrap() > 0 {
            self.failed = self.connection.process_new_packets().is_err();
        }
        if ended {
            self.connection.read_tls(&mut io::empty()).unwrap();
        }
        self.sends();
    }

    fn sends(&mut self) {
        while self.connection.wants_write() {
            let mut bytes = Vec::new();
            self.connection.write_tls(&mut bytes).unwrap();
            self.pipe.lock().to_client.extend(bytes);
        }
    }
}

impl Serve for Reference {
    fn pipe(&self) -> &Pipe {
        &self.pipe
    }

    fn hears(&mut self) -> (Vec<u8>, End) {
        self.reads();
        let mut heard = Vec::new();
        let end = match self.connection.reader().read_to_end(&mut heard) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && !self.failed => End::Truncated,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && !self.failed => End::Open,
            Ok(_) if !self.failed => End::Closed,
            _ => End::Failed,
        };
        (heard, end)
    }

    fn says(&mut self, bytes: &[u8]) {
        self.connection.writer().write_all(bytes).unwrap();
        // With that it answers a KeyUpdate, if there was nothing to say.
        let _ = self.connection.writer().write(&[]).unwrap();
        self.sends();
    }

    fn try_migrate(&mut self) -> Result<Vec<u8>, MigrationBlock> {
        Err(MigrationBlock::Disabled)
    }
}
