//! Words that cross: each side says something before it knows what the other one said.
//!
//! Found by `tests/model`, and written down here one by one.

use std::time::Duration;

use hotupdate_proto::identity::Place;
use hotupdate_proto::incumbent::{Afterwards, Effect, Event, Report, Stopped};
use hotupdate_proto::message::{Generation, Message};
use hotupdate_proto::operator::{Command, OperatorError};
use hotupdate_proto::{Incumbent, Predecessor, Summary};

use crate::world::{App, World, local, process, resume};

/// Two processes, of which this one serves, and the other one is in probation.
struct Two {
    world: World,
    machine: Incumbent,
    other: Generation,
}

impl Two {
    fn new(own: u64, other: u64) -> Self {
        let world = World::new(App::default());
        let other = Generation(other);
        let predecessor = Predecessor::released(world.now, other, process(1), Summary::default());
        let machine = Incumbent::serving(local(0, &App::default()), Generation(own), vec![predecessor]);
        Self { world, machine, other }
    }

    fn says(&mut self, message: Message) -> Vec<Effect> {
        self.machine.handle(self.world.now, Event::Predecessor(self.other, message))
    }

    fn command(&mut self, command: Command) -> Result<Vec<Effect>, OperatorError> {
        self.machine.command(self.world.now, command)
    }

    fn resuming(mut self) -> Self {
        self.command(Command::Rollback).expect("it is in probation");
        self.machine.handle(self.world.now, Event::Stopped(Stopped::default()));
        self
    }

    /// A rollback, whose answer does not come in time.
    fn in_vain(self) -> Self {
        let mut two = self.resuming();
        let until = two.machine.deadline().expect("an answer is due");
        let effects = two.machine.handle(until, Event::Tick);
        assert!(effects.iter().any(is_failed), "{effects:?}");
        two
    }
}

fn is_failed(effect: &Effect) -> bool {
    matches!(effect, Effect::SendTo(_, Message::Failed { .. }))
}

fn failed() -> Message {
    Message::Failed { reason: "it serves".to_owned() }
}

fn serving() -> Message {
    Message::Serving { gap_ns: None, accepts: Vec::new() }
}

fn is_violation(effect: &Effect) -> bool {
    matches!(effect, Effect::Report(Report::Violation(..)))
}

#[test]
fn of_two_that_tell_each_other_that_they_serve_the_younger_stands_down() {
    let mut younger = Two::new(2, 1).in_vain();
    assert!(
        younger
            .says(failed())
            .iter()
            .any(|effect| matches!(effect, Effect::LetGo(Afterwards::ServedBy(Some(_)))))
    );
    assert!(!younger.machine.accepts());

    let mut elder = Two::new(1, 2).in_vain();
    assert_eq!(elder.says(failed()), []);
    assert!(elder.machine.accepts());
}

#[test]
fn the_answer_to_an_old_rollback_is_not_taken_for_that_to_a_new_one() {
    let mut two = Two::new(2, 1).in_vain();
    assert_eq!(two.command(Command::Rollback), Err(OperatorError::NoPredecessor));
    assert!(two.says(serving()).iter().any(is_failed), "it is told that the rollback is over");
    assert!(two.machine.accepts());
}

#[test]
fn one_that_takes_us_for_its_predecessor_is_told_that_we_serve() {
    let mut two = Two::new(2, 1).in_vain();
    for message in [serving(), Message::EndProbation, resume()] {
        let effects = two.says(message);
        assert!(!effects.iter().any(is_violation), "{effects:?}");
    }
    assert!(two.machine.accepts());
}

#[test]
fn one_that_was_told_is_not_passed_on_as_one_that_can_serve() {
    let two = Two::new(2, 1).in_vain();
    assert!(!two.machine.predecessors()[0].item(two.world.now).probation);
    assert!(Two::new(2, 1).machine.predecessors()[0].item(two.world.now).probation);
}

#[test]
fn one_that_was_asked_to_serve_is_not_hurried() {
    let mut two = Two::new(2, 1).resuming();
    assert_eq!(two.command(Command::Drain { within: Duration::from_secs(1) }), Ok(Vec::new()));
}

#[test]
fn who_stops_does_not_care_who_serves() {
    let mut two = Two::new(2, 1);
    two.command(Command::Stop { within: None }).expect("it serves");
    for message in [serving(), failed(), resume(), Message::Hurry { deadline_ms: 1 }] {
        assert_eq!(two.says(message), []);
    }
}

#[test]
fn two_that_drain_may_tell_each_other() {
    let mut two = Two::new(2, 1).resuming();
    // It stops for good, while the answer is on its way.
    two.command(Command::Terminate).expect("it serves");
    two.command(Command::TerminateNow).expect("it means now");
    for message in [Message::LetGo, Message::Drained { forced: 0 }, serving()] {
        assert_eq!(two.machine.handle(two.world.now, Event::Message(message)), []);
    }
}

/// The predecessor is asked after its probation, by a process that cannot know that. The answer comes at
/// once, and not at a deadline.
#[test]
fn one_that_has_let_go_says_so_to_whoever_asks() {
    let mut two = Two::new(2, 1).resuming();
    two.says(serving());
    two.machine.handle(two.world.now, Event::Message(Message::Farewell));
    let serves = |is_established| Message::Serves { pid: 3, place: Place::default(), is_established };
    for message in [resume(), serves(false)] {
        let effects = two.machine.handle(two.world.now, Event::Message(message));
        assert_eq!(effects, [Effect::Send(Message::LetGo)]);
    }
    assert_eq!(two.machine.handle(two.world.now, Event::Message(serves(true))), [], "it knows");
}
