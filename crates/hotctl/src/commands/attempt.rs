//! The name of an attempt, and what a status says of it. The successor is recognised by the name with which
//! it joins, and not by its pid: the child that was started may be a wrapper that has exited by then.

use std::io;
use std::time::Instant;

use hotupdate_proto::operator::{AttemptParams, LastFailure, ProcessState, ProcessStatus, Status};
use hotupdate_proto::timing::fixed::operator::LOOK;
use rustix::rand::{GetRandomFlags, getrandom};
use serde_json::{Map, Value};

use crate::client::{CallError, Client};
use crate::context::Context;

/// 128 random bits in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AttemptName(pub(crate) String);

impl AttemptName {
    pub(super) fn new() -> io::Result<Self> {
        let mut bytes = [0_u8; 16];
        getrandom(&mut bytes, GetRandomFlags::empty())?;
        Ok(Self(bytes.iter().map(|byte| format!("{byte:02x}")).collect()))
    }

    /// It owns the control socket, and serves in a moment if it does not yet.
    pub(super) fn took_over(&self, status: &Status) -> bool {
        self.is(status.serving.attempt.as_ref())
    }

    /// It serves. That it owns the control socket is not enough: it does so a little earlier.
    pub(super) fn serves(&self, status: &Status) -> bool {
        self.took_over(status) && status.serving.state == ProcessState::Serving
    }

    /// It has joined, and the handoff is not over.
    pub(super) fn under_way<'s>(&self, status: &'s Status) -> Option<&'s ProcessStatus> {
        status.successor.as_ref().filter(|successor| self.is(successor.attempt.as_ref()))
    }

    /// The service gave it up.
    pub(super) fn given_up<'s>(&self, status: &'s Status) -> Option<&'s LastFailure> {
        status.last_failure.as_ref().filter(|failure| self.is(failure.attempt.as_ref()))
    }

    fn is(&self, attempt: Option<&String>) -> bool {
        attempt == Some(&self.0)
    }
}

/// A connection whose end tells the service that the operator has gone, however hotctl ends.
pub(super) struct Claim<'a> {
    context: &'a Context<'a>,
    name: AttemptName,
    client: Option<Client>,
    /// The service does not know how to hold an attempt.
    is_refused: bool,
}

impl<'a> Claim<'a> {
    /// Returns when the service knows of the attempt, or cannot.
    pub(super) fn new(context: &'a Context<'a>, name: AttemptName) -> Self {
        let mut claim = Self { context, name, client: None, is_refused: false };
        claim.renew();
        claim
    }

    /// Claims the attempt again when another process owns the control socket.
    pub(super) fn keep(&mut self) {
        if let Some(client) = &mut self.client
            && client.receive::<Map<String, Value>>(Instant::now() + LOOK).is_err()
        {
            self.client = None;
        }
        if self.client.is_none() && !self.is_refused {
            self.renew();
        }
    }

    fn renew(&mut self) {
        let limit = self.context.answer_timeout();
        let parameters = AttemptParams { attempt: self.name.0.clone() };
        let Ok(mut client) = self.context.open("Attempt", &parameters, true, limit) else { return };
        match self.context.reply::<Map<String, Value>>(&mut client, Instant::now() + limit, limit) {
            Ok(_) => self.client = Some(client),
            Err(error) => self.is_refused = matches!(error, CallError::Refused { .. }),
        }
    }
}
