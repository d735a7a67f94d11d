//! What operators and supervisors want of the serving process.

use std::mem;
use std::time::{Duration, Instant};

use super::Incumbent;
use super::events::Effect;
use super::state::{Drain, Goal, State};
use crate::error::Fault;
use crate::message::Message;
use crate::operator::{Command, OperatorError};
use crate::timing::{after, millis};

/// Attempts without an operator that are remembered: of each of them at most one process is still to come,
/// and it comes soon.
const MAX_ABANDONED: usize = 64;

/// The state after a command, and whether the command was taken.
type Commanded = (State, Result<(), OperatorError>);

impl Incumbent {
    /// An operator wants something.
    ///
    /// # Errors
    /// The [`OperatorError`] that says why the command is refused; nothing has changed then.
    pub fn command(&mut self, now: Instant, command: Command) -> Result<Vec<Effect>, OperatorError> {
        let mut out = Vec::new();
        let state = mem::replace(&mut self.state, State::Gone);
        let (state, result) = match command {
            Command::Handoff => self.command_handoff(now, state, &mut out),
            Command::Abort { why } => self.command_abort(now, state, why, &mut out),
            Command::Abandon { attempt } => self.command_abandon(now, state, attempt, &mut out),
            Command::Rollback => self.command_rollback(now, state, &mut out),
            Command::Drain { within } => self.command_drain(now, state, within, &mut out),
            Command::Stop { within } => self.command_stop(now, state, within, true, &mut out),
            Command::Terminate => self.command_terminate(now, state, &mut out),
            Command::TerminateNow => self.command_terminate_now(now, state, &mut out),
        };
        self.state = self.when_quiesced(now, state, &mut out);
        result.map(|()| out)
    }

    fn command_handoff(&mut self, now: Instant, state: State, out: &mut Vec<Effect>) -> Commanded {
        match state {
            State::Standby { peer, .. } => (self.before(now, Goal::Release(peer), out), Ok(())),
            // It takes over by itself; this operator waits for the same outcome.
            state @ (State::BeforeRelease { goal: Goal::Release(_), .. }
            | State::Quiescing { goal: Goal::Release(_), .. }
            | State::Releasing { .. }
            | State::Released { .. }) => (state, Ok(())),
            state @ (State::Offering { .. } | State::Warming { .. }) => {
                let doing = state.stage().to_owned();
                (state, Err(OperatorError::NotReady { doing }))
            }
            State::Serving => (State::Serving, Err(OperatorError::NoSuccessor)),
            state => refuse(state),
        }
    }

    fn command_abort(
        &mut self,
        now: Instant,
        state: State,
        why: Option<String>,
        out: &mut Vec<Effect>,
    ) -> Commanded {
        match state {
            // The other may serve already. If this process accepted now and then died, the other would have
            // stood down for it, and no process would be left to serve.
            State::Released { .. } => refuse(state),
            state if state.is_attempt() => (self.fail(now, state, Fault::Aborted { why }, out), Ok(())),
            state => (state, Err(OperatorError::NoHandoff)),
        }
    }

    /// It always succeeds: there is no operator left to answer to.
    fn command_abandon(
        &mut self,
        now: Instant,
        state: State,
        attempt: String,
        out: &mut Vec<Effect>,
    ) -> Commanded {
        let is_its = state.successor().is_some_and(|peer| peer.attempt.as_ref() == Some(&attempt));
        if self.abandoned.len() == MAX_ABANDONED {
            self.abandoned.remove(0);
        }
        self.abandoned.push(attempt);
        match state {
            // From here on it is not undone.
            state @ State::Released { .. } => (state, Ok(())),
            state if is_its && state.is_attempt() => (self.fail(now, state, Fault::Abandoned, out), Ok(())),
            state => (state, Ok(())),
        }
    }

    fn command_rollback(&mut self, now: Instant, state: State, out: &mut Vec<Effect>) -> Commanded {
        match (state, self.predecessors.first()) {
            (State::Serving, Some(newest)) if newest.can_resume() => {
                let to = newest.generation;
                (self.before(now, Goal::RollBack(to), out), Ok(()))
            }
            (State::Serving, _) => (State::Serving, Err(OperatorError::NoPredecessor)),
            (state, _) => refuse(state),
        }
    }

    fn command_drain(
        &mut self,
        now: Instant,
        mut state: State,
        within: Duration,
        out: &mut Vec<Effect>,
    ) -> Commanded {
        match state {
            State::Gone => refuse(state),
            State::Probation { .. } | State::Retired { .. } => {
                state.hurry(after(now, within), out);
                (state, Ok(()))
            }
            state => {
                let deadline_ms = millis(within);
                // One that was asked to serve again does not drain when it reads this.
                let resuming = match state {
                    State::Resuming { to, .. } => Some(to),
                    _ => None,
                };
                for predecessor in self.predecessors.iter_mut().filter(|p| Some(p.generation) != resuming) {
                    predecessor.hurried = true;
                    out.push(Effect::SendTo(predecessor.generation, Message::Hurry { deadline_ms }));
                }
                (state, Ok(()))
            }
        }
    }

    fn command_stop(
        &mut self,
        now: Instant,
        mut state: State,
        within: Option<Duration>,
        for_good: bool,
        out: &mut Vec<Effect>,
    ) -> Commanded {
        let drain = within.unwrap_or(self.local.timing.drain);
        let loops_stop = state.loops_stop();
        if state.is_attempt() {
            self.dismiss(&state, Fault::Stopping, out);
            return (self.stop_service(now, drain, for_good, loops_stop, out), Ok(()));
        }
        match state {
            State::Serving
            | State::BeforeRelease { goal: Goal::RollBack(_), .. }
            | State::Quiescing { goal: Goal::RollBack(_), .. }
            | State::RollingBack { .. } => (self.stop_service(now, drain, for_good, loops_stop, out), Ok(())),
            State::BeforeRelease { goal: Goal::Stop { for_good: before, .. }, until } => {
                let goal = Goal::Stop { within: drain, for_good: before || for_good };
                (State::BeforeRelease { goal, until }, Ok(()))
            }
            State::Quiescing { goal: Goal::Stop { for_good: before, .. }, until } => {
                let goal = Goal::Stop { within: drain, for_good: before || for_good };
                (State::Quiescing { goal, until }, Ok(()))
            }
            State::Stopping { until, for_good: before, .. } => {
                (State::Stopping { until, within: drain, for_good: before || for_good }, Ok(()))
            }
            State::Probation { .. } | State::Retired { .. } => {
                if within.is_some() {
                    state.hurry(after(now, drain), out);
                }
                match state {
                    State::Probation { peer, drain, .. } => (self.let_go(&peer, drain, out), Ok(())),
                    state => (state, Ok(())),
                }
            }
            // The predecessor may serve already, and this process cannot stop it.
            state => refuse(state),
        }
    }

    /// A supervisor's signal. Another process that can go on with the service does, so that clients notice
    /// nothing.
    fn command_terminate(&mut self, now: Instant, state: State, out: &mut Vec<Effect>) -> Commanded {
        // systemd says it again when a main process has ended, and what is in flight takes as long as before.
        let again = mem::replace(&mut self.terminating, true);
        match state {
            State::Gone => refuse(state),
            state if again || state.stops() => (state, Ok(())),
            State::Standby { peer, .. } => (self.before(now, Goal::Release(peer), out), Ok(())),
            state if state.is_attempt() || state.is_rollback() => (state, Ok(())),
            State::Serving => (self.give_back_or_stop(now, out), Ok(())),
            state => self.command_stop(now, state, None, false, out),
        }
    }

    /// A person's signal that comes again: nothing is waited for but another process that goes on with the
    /// service.
    fn command_terminate_now(&mut self, now: Instant, state: State, out: &mut Vec<Effect>) -> Commanded {
        (self.terminating, self.ends_now) = (true, true);
        match state {
            State::Retired { drain: Drain::Tasks, .. } => (self.tasks_ended(state, out), Ok(())),
            // The predecessor was asked to serve again and does it, whenever it reads that.
            State::Resuming { to, .. } => (self.step_aside(now, to, Duration::ZERO, out), Ok(())),
            // The application's hook is not waited for.
            State::BeforeRelease { goal: Goal::Stop { for_good, .. }, .. } => {
                (self.quiesce(now, Goal::Stop { within: Duration::ZERO, for_good }, out), Ok(()))
            }
            State::BeforeRelease { goal: goal @ Goal::RollBack(_), .. } => {
                (self.quiesce(now, goal, out), Ok(()))
            }
            state if state.is_rollback() => (state, Ok(())),
            state => self.command_stop(now, state, Some(Duration::ZERO), false, out),
        }
    }
}

fn refuse(state: State) -> Commanded {
    let error = match &state {
        State::Probation { .. } | State::Retired { .. } | State::Gone => OperatorError::NotServing,
        state if state.is_rollback() => OperatorError::Busy { doing: "a rollback is under way".to_owned() },
        state if state.stops() => OperatorError::Busy { doing: "the service is stopping".to_owned() },
        State::Released { .. } => {
            let doing = "the successor is released; it serves in a moment, or this process accepts again";
            OperatorError::Busy { doing: doing.to_owned() }
        }
        state => OperatorError::Busy { doing: format!("a successor is {}", state.stage()) },
    };
    (state, Err(error))
}
