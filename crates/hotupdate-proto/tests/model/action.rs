//! Everything that can happen, by name: a counterexample is a list of these.

use hotupdate_proto::message::Release;
use hotupdate_proto::operator::Command;

use super::kernel::{End, Id};
use super::migration::Connection;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Start(Id),
    /// It looks for an owner of the control socket, and calls it, or becomes the first process.
    Find(Id),
    /// A call is accepted on the control socket.
    Accept(Id, usize),
    Deliver(Id, End),
    EndOfFile(Id, End),
    /// The deadline that the machine waits for.
    Deadline(Id),
    /// The application is warm.
    Ready(Id),
    Stopped(Id),
    CannotStop(Id),
    /// The process was released, and its listeners cannot be opened.
    CannotOpen(Id, End),
    Drained(Id),
    GiveUp(Id),
    Leave(Id, Connection),
    Command(Id, Command),
    Crash(Id),
    /// It dies in the middle of that, when only so many of the messages that come of it are written.
    DieIn(Box<Action>, usize),
    Hang(Id),
    /// The service manager reads the next word that was said to it.
    ManagerHears,
    /// Its answer arrives.
    Confirmed(Id),
    /// The process that served has died, and this one sees it.
    HeirEnded(Id),
    /// All processes stand still, so long that whatever migrates is not good any more.
    TimePasses,
}

impl Action {
    /// It comes about without applications, operators and mishaps: by messages on their way and deadlines
    /// alone.
    pub(crate) fn is_of_itself(&self) -> bool {
        use Action as A;
        matches!(self, A::Find(_) | A::Accept(..) | A::Deliver(..) | A::EndOfFile(..))
            || matches!(self, A::ManagerHears | A::Confirmed(_) | A::HeirEnded(_))
            || self.is_deadline()
    }

    /// Whose step it is.
    pub(crate) fn actor(&self) -> Id {
        use Action as A;
        match self {
            A::Start(p) | A::Find(p) | A::Accept(p, _) | A::Deliver(p, _) | A::EndOfFile(p, _) => *p,
            A::Deadline(p) | A::Ready(p) | A::Stopped(p) => *p,
            A::Confirmed(p) | A::HeirEnded(p) => *p,
            A::CannotStop(p) | A::CannotOpen(p, _) | A::Drained(p) | A::GiveUp(p) | A::Leave(p, _) => *p,
            A::Command(p, _) | A::Crash(p) | A::Hang(p) => *p,
            A::DieIn(action, _) => action.actor(),
            A::ManagerHears | A::TimePasses => unreachable!("it is the step of no process"),
        }
    }

    pub(crate) fn is_deadline(&self) -> bool {
        matches!(self, Self::Deadline(_))
    }
}

/// What may happen beside messages and deadlines.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) release: Release,
    pub(crate) commands: Vec<Command>,
    /// Applications give up, their loops do not stop or open.
    pub(crate) failures: bool,
    pub(crate) hangs: bool,
    /// Batches of connections that a process may offer.
    pub(crate) offers: u8,
}
