//! The successor's machine, whatever it is told: it waits with a deadline or can serve alone, ends once and
//! in one way, and a process that serves after it is one as any other.

use std::time::{Duration, Instant};

use arbitrary::{Result, Unstructured};
use hotupdate_proto::incumbent::Local;
use hotupdate_proto::message::{Joined, Message, Versions};
use hotupdate_proto::successor::{Effect, Event, Served};
use hotupdate_proto::{Incumbent, Refusal, Successor};

use super::incumbent::Life;
use super::said;

#[expect(clippy::disallowed_methods, reason = "a virtual clock has to begin somewhere")]
pub(super) fn origin() -> Instant {
    Instant::now()
}

pub(crate) fn check(bytes: &[u8]) {
    let mut u = Unstructured::new(bytes);
    let _ = attempt(&mut u);
}

fn attempt(u: &mut Unstructured<'_>) -> Result<()> {
    let (now, local) = (origin(), said::local(u)?);
    let (machine, _) = Successor::join(now, local.clone(), None);
    let mut attempt = Attempt { machine, now, linked: true, received: 0, said: Said::default(), end: None };
    while !u.is_empty() && attempt.end.is_none() {
        attempt.something_happens(u)?;
    }
    attempt.comes_to_an_end();
    match attempt.end {
        Some(End::Serves(served)) => serve(u, attempt.now, local, *served),
        _ => Ok(()),
    }
}

/// The other machine has the word.
fn serve(u: &mut Unstructured<'_>, now: Instant, local: Local, served: Served) -> Result<()> {
    let Served { joined, predecessors, gap_ns: _ } = served;
    for predecessor in &predecessors {
        assert!(predecessor.generation < joined.generation, "{predecessor:?} before {joined:?}");
    }
    Life::new(now, Incumbent::serving(local, joined.generation, predecessors)).live(u)
}

/// A machine, and what its driver has done for it.
struct Attempt {
    machine: Successor,
    now: Instant,
    linked: bool,
    /// The number of the last batch that was acknowledged.
    received: u32,
    said: Said,
    end: Option<End>,
}

/// What was said already, and is said only once.
#[derive(Default)]
struct Said {
    complete: bool,
    ready: bool,
    open: bool,
}

enum End {
    Serves(Box<Served>),
    Other,
}

impl Attempt {
    fn something_happens(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        match u.int_in_range(0..=10)? {
            0 => self.now += Duration::from_millis(u.int_in_range(0..=20_000)?),
            1 => self.tick(),
            2 => {
                let joined = joined(u)?;
                let reply = if u.ratio(1, 8)? { Err(Refusal::NotServing) } else { Ok(joined) };
                self.handle(Event::Replied(reply));
            }
            3 if self.linked => {
                let fault = said::fault(u)?;
                self.handle(Event::Closed(fault));
            }
            4 if self.said.complete => {
                let ready = said::ready(u)?;
                self.handle(Event::Ready(ready));
            }
            5 => self.handle(Event::Opened { gap_ns: None }),
            6 if u.ratio(1, 4)? => self.handle(Event::GiveUp("changed my mind".to_owned())),
            7 if self.linked => self.handle(Event::Message(Message::Control { batch: self.received + 1 })),
            _ => {
                let message = said::message(u)?;
                if self.linked {
                    self.handle(Event::Message(message));
                }
            }
        }
        Ok(())
    }

    fn tick(&mut self) {
        let Some(deadline) = self.machine.deadline() else { return };
        self.now = self.now.max(deadline);
        self.handle(Event::Tick);
        let passed = self.machine.deadline().is_none_or(|next| next > self.now);
        assert!(passed, "a deadline that has passed stays: {:?}", self.machine);
    }

    fn handle(&mut self, event: Event) {
        for effect in self.machine.handle(self.now, event) {
            assert!(self.end.is_none(), "{effect:?} after the end");
            self.perform(effect);
        }
        let machine = &self.machine;
        assert_eq!(machine.is_done(), self.end.is_some(), "{machine:?}");
        let waits = machine.deadline().is_some();
        assert!(waits || machine.can_serve_alone() || machine.is_done(), "no deadline: {machine:?}");
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Send(message) => {
                assert!(self.linked, "says {message:?} on a closed link");
                match message {
                    Message::Received { batch } => {
                        assert_eq!(batch, self.received + 1);
                        self.received = batch;
                    }
                    Message::Ready(_) => once(&mut self.said.ready),
                    _ => {}
                }
            }
            Effect::Close => assert!(std::mem::take(&mut self.linked), "closes twice"),
            Effect::Complete(_) => once(&mut self.said.complete),
            Effect::Rebound(_) => assert!(self.said.complete && self.linked, "no control socket is here yet"),
            Effect::Open(_) => {
                assert!(self.said.complete, "opens what has not arrived");
                once(&mut self.said.open);
            }
            Effect::Serve(served) => {
                assert!(self.said.open, "serves before it was released");
                self.end = Some(End::Serves(Box::new(served)));
            }
            Effect::StartOver => {
                assert!(!self.said.complete, "has all it needs");
                self.end = Some(End::Other);
            }
            Effect::SendTo(..) | Effect::Read(_) => assert!(self.said.complete, "knows no predecessor yet"),
            Effect::Fail(_) => self.end = Some(End::Other),
        }
    }

    /// The other side says nothing any more, the application does its part.
    fn comes_to_an_end(&mut self) {
        for _ in 0..4 {
            self.tick();
            self.handle(Event::Ready(hotupdate_proto::message::Ready::default()));
            self.handle(Event::Opened { gap_ns: None });
        }
        assert!(self.end.is_some(), "this never ends: {:?}", self.machine);
    }
}

fn once(done: &mut bool) {
    assert!(!std::mem::replace(done, true), "done twice");
}

fn joined(u: &mut Unstructured<'_>) -> Result<Joined> {
    let Versions { min, max } = Versions { min: 1, max: 4 };
    Ok(Joined {
        version: u.int_in_range(min..=max)?,
        features: u
            .choose(&["", "migrate", "migrate", "teleport"])?
            .split_terminator(' ')
            .map(str::to_owned)
            .collect(),
        generation: said::generation(u)?,
        lease_ms: u.choose(&[0, 1, 60_000, u64::MAX]).copied()?,
        handoff: String::new(),
        incumbent: said::process(u)?,
        incumbent_generation: said::generation(u)?,
        manager: None,
        occupancy: None,
    })
}
