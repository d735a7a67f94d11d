//! The status of a service as it changes, across the change of the process that owns the control socket.
//!
//! Deliberately absent: trust in one stream. The process that is replaced may end its `Monitor`, or go silent on it, so
//! that the owner of the socket is asked afresh whenever nothing is heard.

use std::thread;
use std::time::{Duration, Instant};

use hotupdate_proto::operator::{Monitored, Status};

use crate::client::Client;
use crate::context::{Context, NOTHING, TICK};

/// After this much silence, the status is asked for afresh.
const SILENCE: Duration = Duration::from_millis(500);

/// Follows a service.
pub(crate) struct Watch<'a> {
    context: &'a Context<'a>,
    monitor: Option<Client>,
    /// The instance that was last seen to serve: whoever follows it needs a new stream.
    instance: String,
    heard: Instant,
}

impl<'a> Watch<'a> {
    /// Opens the stream. That it cannot be opened is no error yet: it is tried again.
    pub(crate) fn new(context: &'a Context<'a>) -> Self {
        let mut watch = Self { context, monitor: None, instance: String::new(), heard: Instant::now() };
        watch.open();
        watch
    }

    /// The next status, or `None` after a moment in which nothing happened.
    pub(crate) fn next(&mut self) -> Option<Status> {
        let heard = match &mut self.monitor {
            Some(monitor) => monitor.receive::<Monitored>(Instant::now() + TICK),
            None => {
                thread::sleep(TICK);
                self.open();
                return self.ask();
            }
        };
        match heard {
            Ok(Some((Monitored { status, .. }, more))) => Some(self.heard(status, more)),
            Ok(None) => self.ask(),
            Err(_) => {
                self.monitor = None;
                None
            }
        }
    }

    fn heard(&mut self, status: Status, more: bool) -> Status {
        self.heard = Instant::now();
        self.instance.clone_from(&status.serving.process.instance);
        if !more {
            self.monitor = None;
        }
        status
    }

    fn ask(&mut self) -> Option<Status> {
        if self.heard.elapsed() < SILENCE {
            return None;
        }
        self.heard = Instant::now();
        let status = self.context.glance()?;
        if status.serving.process.instance != self.instance {
            self.monitor = None;
        }
        Some(status)
    }

    fn open(&mut self) {
        self.monitor = self.context.open("Monitor", &NOTHING, true, SILENCE).ok();
    }
}
