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

/// How the service is, and how that is known.
pub(crate) enum Seen {
    /// It was told, because something happened or because the stream began.
    Told(Box<Monitored>),
    /// It was asked for.
    Asked(Box<Status>),
}

impl Seen {
    pub(crate) fn into_status(self) -> Status {
        match self {
            Self::Told(monitored) => monitored.status,
            Self::Asked(status) => *status,
        }
    }
}

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
        self.look().map(Seen::into_status)
    }

    /// As [`Watch::next`], with what happened.
    pub(crate) fn look(&mut self) -> Option<Seen> {
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
                Some(Seen::Told(Box::new(monitored)))
            }
            Ok(None) => self.ask(),
            // At once: the new owner may have more to tell in this moment than in the next hour.
            Err(_) => {
                self.open();
                None
            }
        }
    }

    fn heard(&mut self, status: &Status, more: bool) {
        self.heard = Instant::now();
        self.instance.clone_from(&status.serving.process.instance);
        if !more {
            self.monitor = None;
        }
    }

    fn ask(&mut self) -> Option<Seen> {
        if self.heard.elapsed() < SILENCE {
            return None;
        }
        self.heard = Instant::now();
        let status = self.context.glance()?;
        if status.serving.process.instance != self.instance {
            self.monitor = None;
        }
        Some(Seen::Asked(Box::new(status)))
    }

    fn open(&mut self) {
        self.monitor = self.context.open("Monitor", &NOTHING, true, SILENCE).ok();
    }
}
