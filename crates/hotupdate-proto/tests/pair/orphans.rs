//! The incumbent dies before it has released its successor. The generation before it may be in its probation.

use hotupdate_proto::incumbent::Report;
use hotupdate_proto::message::{Generation, Message};
use hotupdate_proto::operator::ProcessState;
use hotupdate_proto::{Fault, Timing, successor};

use crate::generations::{generations, pile, slow};
use crate::world::{Action, App, World};

/// Generation 1 has handed over to 2, to which a third one has come that is not ready.
fn third_warms_up() -> (World, usize) {
    let slow = App { drains: false, ..App::default() };
    let mut world = World::new(slow.clone());
    world.join(slow.clone());
    world.run();
    let third = world.join(App { readies: false, ..slow });
    world.run();
    (world, third)
}

#[test]
fn the_one_in_probation_is_asked_and_serves_at_once() {
    let (mut world, third) = third_warms_up();
    world.kill(1);
    world.run();
    assert_eq!((world.accepting(), world.living()), (vec![0], vec![0]), "{world}");
    assert!(world.gap.is_zero());
    assert!(world.reports.iter().any(|(by, r)| *by == 0 && matches!(r, Report::Resumed { .. })), "{world}");
    let why = world.procs[third].failed.as_ref().expect("it gave up").to_string();
    assert_eq!(why, "the incumbent died, and generation 1 serves again");
    world.settle();
    world.assert_next_works();
}

#[test]
fn after_its_probation_the_orphan_serves() {
    let (mut world, third) = third_warms_up();
    world.advance(Timing::default().probation);
    world.run();
    world.kill(1);
    world.run();
    assert!(world.accepting().is_empty(), "no process is warm");
    world.settle();
    assert_eq!(world.assert_one_serves(), third);
    world.assert_next_works();
}

#[test]
fn the_orphan_is_ready_before_the_answer_comes() {
    let (mut world, third) = third_warms_up();
    world.kill(1);
    let end = world.actions().into_iter().find(|action| matches!(action, Action::EndOfFile { .. }));
    world.act(end.expect("it hears of the death"));
    assert!(world.orphans_get_ready());
    for _ in ["it is ready", "and open"] {
        world.act(Action::Perform(third));
    }
    world.run();
    assert_eq!(world.accepting(), [third], "{world}");
    let machine = world.incumbent(third).expect("it serves");
    assert_eq!(machine.generation(), Generation(3));
    assert!(!world.reports.iter().any(|(_, r)| matches!(r, Report::Violation(..))), "{world}");
    world.settle();
    world.assert_next_works();
}

/// The incumbent dies while another generation is in its probation: the successor, when it is ready, serves.
#[test]
fn an_orphan_inherits_the_older_generations() {
    let mut world = pile(2, &slow());
    let new = world.join(slow());
    while world.state(new) != ProcessState::Standby {
        assert!(world.step());
    }
    world.kill(1);
    world.run();
    assert_eq!(world.accepting(), [new], "{world}");
    assert_eq!(generations(&world, new), [1]);
    world.settle();
    world.assert_next_works();
}

/// An orphan is the only one left: nothing that still arrives makes it give up.
#[test]
fn an_orphan_cannot_be_talked_out_of_it() {
    let mut world = World::new(App::default());
    let new = world.join(App { readies: false, ..App::default() });
    world.run();
    world.kill(0);
    world.run();
    for message in [Message::EndProbation, Message::Failed { reason: "late".to_owned() }] {
        world.successor_event(new, successor::Event::Message(message));
    }
    world.successor_event(new, successor::Event::Closed(Fault::PeerMisbehaved("late".to_owned())));
    world.settle();
    assert_eq!(world.assert_one_serves(), new);
}
