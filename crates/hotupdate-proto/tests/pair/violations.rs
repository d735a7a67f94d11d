//! What breaks the protocol after the commit: it is reported, not believed, and no reason for a second owner.

use hotupdate_proto::incumbent::Report;
use hotupdate_proto::message::{Generation, Message};
use hotupdate_proto::operator::{Command, OperatorError};

use crate::generations::{pile, slow};
use crate::world::App;

/// After `serving` only end-of-file means death.
#[test]
fn garbage_in_probation_is_reported_and_is_no_second_owner() {
    for index in [0, 1] {
        let mut world = pile(2, &slow());
        world.garble(index);
        world.run();
        assert_eq!(world.accepting(), [1], "{world}");
        let violation =
            |r: &Report| matches!(r, Report::Violation(generation, _) if generation.0 == 2 - index as u64);
        assert!(world.reports.iter().any(|(by, r)| *by == index && violation(r)), "{world}");
        if index == 1 {
            assert_eq!(
                world.command(Command::Rollback),
                Some(Err(OperatorError::NoPredecessor)),
                "not to this one"
            );
        }
        // The link is still watched for its end.
        world.kill(1);
        world.run();
        assert_eq!(world.accepting(), [0], "{world}");
        world.settle();
        world.assert_next_works();
    }
}

/// A peer says that so many generation numbers were given away that none is left for a later process.
#[test]
fn a_counter_that_cannot_be_is_reported_and_not_believed() {
    for (from, to) in [(1, 0), (0, 1)] {
        let mut world = pile(2, &slow());
        for _ in 0..2 {
            world.say(from, to, Message::Issued { generation: Generation(u64::MAX) });
        }
        world.run();
        let of_it = |r: &Report| match r {
            Report::Violation(generation, what) => {
                assert_eq!(generation.0, from as u64 + 1, "whose fault it is");
                assert!(what.contains(&u64::MAX.to_string()) && what.ends_with("is 2"), "{what}");
                true
            }
            _ => false,
        };
        let violations = world.reports.iter().filter(|(by, r)| *by == to && of_it(r)).count();
        assert_eq!((violations, world.accepting()), (1, vec![1]), "{world}");
        // The process that serves next has a number for the one after it.
        world.kill(from);
        world.run();
        assert_eq!(world.accepting(), [to]);
        let next = world.join(App::default());
        world.settle();
        assert_eq!(world.incumbent(next).expect("it serves").generation(), Generation(3));
        world.assert_next_works();
    }
}

/// The one that served died before it had told all numbers that it gave away.
#[test]
fn a_counter_may_be_ahead_of_what_was_told() {
    let mut world = pile(2, &slow());
    let ahead = Generation(2 + Generation::MAX_UNTOLD);
    world.say(1, 0, Message::Issued { generation: ahead });
    world.kill(1);
    world.run();
    assert_eq!(world.accepting(), [0], "{world}");
    let next = world.join(App::default());
    world.settle();
    assert_eq!(world.incumbent(next).expect("it serves").generation(), ahead.next());
    world.assert_next_works();
}

/// What makes no sense to a process that drains, or from it.
#[test]
fn what_makes_no_sense_after_the_commit_is_reported_once() {
    let nonsense = || Message::Received { batch: 3 };
    let mut world = pile(2, &slow());
    for message in [nonsense(), nonsense(), Message::Failed { reason: "x".to_owned() }] {
        world.say(1, 0, message);
    }
    for message in [nonsense(), nonsense()] {
        world.say(0, 1, message);
    }
    world.run();
    let violations =
        |by| world.reports.iter().filter(|(i, r)| *i == by && matches!(r, Report::Violation(..))).count();
    assert_eq!((violations(0), violations(1)), (1, 1), "{world}");
    assert_eq!(world.accepting(), [1]);
    world.settle();
    world.assert_next_works();
}
