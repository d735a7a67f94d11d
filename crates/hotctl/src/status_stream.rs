//! The status of a service as it changes, also when another process takes over the control socket.
//!
//! A process that is replaced may end its `Monitor` stream or stop sending on it, so the owner of the socket
//! is asked again whenever the stream is silent.

use std::thread;
use std::time::Instant;

use hotupdate_proto::operator::{Monitored, Status};
use hotupdate_proto::timing::fixed::operator::SILENCE;

use crate::client::Client;
use crate::context::{Context, NOTHING, TICK};

/// A status, and how hotctl learned of it.
pub(crate) enum Update {
    /// From the `Monitor` stream: something happened, or the stream began.
    Event(Box<Monitored>),
    /// From a call of `Status`.
    Status(Box<Status>),
}

impl Update {
    pub(crate) fn into_status(self) -> Status {
        match self {
            Self::Event(monitored) => monitored.status,
            Self::Status(status) => *status,
        }
    }
}

/// Follows a service.
pub(crate) struct StatusStream<'a> {
    context: &'a Context<'a>,
    monitor: Option<Client>,
    /// The instance that served last: when another one serves, a new stream is needed.
    instance: String,
    heard: Instant,
    /// The stream that is open has brought a reply.
    has_spoken: bool,
}

impl<'a> StatusStream<'a> {
    /// Opens the stream. If it cannot be opened, it is tried again later.
    pub(crate) fn new(context: &'a Context<'a>) -> Self {
        let (instance, heard) = (String::new(), Instant::now());
        let mut stream = Self { context, monitor: None, instance, heard, has_spoken: false };
        stream.open();
        stream
    }

    /// The next status, or `None` after a moment in which nothing happened.
    pub(crate) fn next(&mut self) -> Option<Status> {
        self.next_update().map(Update::into_status)
    }

    /// As [`StatusStream::next`], with what happened.
    pub(crate) fn next_update(&mut self) -> Option<Update> {
        let heard = match &mut self.monitor {
            Some(monitor) => monitor.receive::<Monitored>(Instant::now() + TICK),
            None => {
                thread::sleep(TICK);
                self.open();
                return self.ask();
            }
        };
        match heard {
            Ok(Some((monitored, more))) => {
                self.heard(&monitored.status, more);
                Some(Update::Event(Box::new(monitored)))
            }
            Ok(None) => self.ask(),
            Err(_) => {
                self.reopen();
                None
            }
        }
    }

    fn heard(&mut self, status: &Status, more: bool) {
        self.heard = Instant::now();
        self.has_spoken = true;
        self.instance.clone_from(&status.serving.process.instance);
        if !more {
            self.monitor = None;
        }
    }

    fn ask(&mut self) -> Option<Update> {
        if self.heard.elapsed() < SILENCE {
            return None;
        }
        self.heard = Instant::now();
        let status = self.context.try_status()?;
        if status.serving.process.instance != self.instance {
            self.monitor = None;
        }
        Some(Update::Status(Box::new(status)))
    }

    /// At once, because the first events of the new owner are the important ones; unless this stream ended
    /// before it said anything, as one does that is refused.
    fn reopen(&mut self) {
        match std::mem::take(&mut self.has_spoken) {
            true => self.open(),
            false => self.monitor = None,
        }
    }

    fn open(&mut self) {
        self.monitor = self.context.open("Monitor", &NOTHING, true, SILENCE).ok();
    }
}
