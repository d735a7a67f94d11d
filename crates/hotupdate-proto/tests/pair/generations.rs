//! Older generations, and the way back.

use std::time::Duration;

use hotupdate_proto::incumbent::{Effect, Event, Report, Stopped};
use hotupdate_proto::inventory::LinkRest;
use hotupdate_proto::message::{Generation, Message, Released};
use hotupdate_proto::operator::{Command, OperatorError, ProcessState};
use hotupdate_proto::{Fault, Incumbent, Predecessor, Summary, Timing, Totals, successor};

use crate::world::{Action, App, World, local, process};

fn slow() -> App {
    App { drains: false, ..App::default() }
}

/// So many processes, each but the last draining a connection that does not end.
fn pile(count: usize, app: &App) -> World {
    let mut world = World::new(app.clone());
    for _ in 1..count {
        world.join(app.clone());
        world.run();
    }
    world
}

fn generations(world: &World, index: usize) -> Vec<u64> {
    let machine = world.incumbent(index).expect("it serves");
    machine.predecessors().iter().map(|p| p.generation.0).collect()
}

#[test]
fn the_serving_process_sees_every_generation_that_is_left() {
    let mut world = pile(4, &slow());
    assert_eq!(generations(&world, 3), [3, 2, 1]);
    let probation: Vec<_> =
        world.incumbent(3).expect("it serves").predecessors().iter().map(|p| p.probation).collect();
    assert_eq!(
        probation,
        [true, false, false],
        "only the newest can take over: the others were told to settle"
    );
    assert!(!world.procs[0].holds && !world.procs[1].holds && world.procs[2].holds);

    // Each is heard, over links that went through several hands.
    for (index, active) in [(0, 7), (1, 8), (2, 9)] {
        let connections = Summary { active, ..Summary::default() };
        world.incumbent_event(
            index,
            Event::Progress { connections, closed: Vec::new(), totals: Totals::default() },
        );
    }
    world.run();
    let left: Vec<_> =
        world.incumbent(3).expect("it serves").predecessors().iter().map(|p| p.connections.active).collect();
    assert_eq!(left, [9, 8, 7]);
    // And hears.
    world.command(Command::Drain { within: Duration::from_secs(1) });
    world.run();
    for index in 0..2 {
        let (_, at) = world.waits_for(index).expect("it drains");
        assert_eq!(at - world.now, Duration::from_secs(1));
    }
    world.settle();
    world.assert_next_works();
}

#[test]
fn one_that_ends_during_a_handoff_is_not_passed_on_as_living() {
    let mut world = pile(2, &slow());
    world.advance(Timing::default().probation);
    let new = world.join(slow());
    // The link to generation 1 is in the inventory, and then generation 1 ends.
    while !world.said.iter().any(|(from, name)| *from == new && *name == "ready") {
        assert!(world.step());
    }
    world.incumbent_event(0, Event::Drained { forced: 0 });
    world.run();
    assert_eq!(generations(&world, new), [2], "{world}");
    assert!(!world.reports.iter().any(|(_, report)| matches!(report, Report::Lost { .. })));
    world.settle();
    world.assert_next_works();
}

#[test]
fn too_many_generations_hurry_the_oldest() {
    let app = App { max_draining: 2, ..slow() };
    let mut world = pile(4, &app);
    let hurried: Vec<_> =
        world.incumbent(3).expect("it serves").predecessors().iter().map(|p| p.hurried).collect();
    assert_eq!(hurried, [false, false, true]);
    let (_, at) = world.waits_for(0).expect("it drains");
    assert_eq!(at - world.now, Timing::default().hurry);
    let (_, at) = world.waits_for(1).expect("it drains");
    assert!(at - world.now > Timing::default().hurry);
    world.settle();
    world.assert_next_works();
}

#[test]
fn generations_never_go_back_after_a_takeover() {
    let mut world = pile(2, &slow());
    // The new process gives away 3, 4 and 5, to processes that fail; then it dies.
    for _ in 0..3 {
        let failed = world.join(App { readies: false, ..App::default() });
        world.run();
        world.kill(failed);
        world.run();
    }
    world.kill(1);
    world.run();
    assert_eq!(world.accepting(), [0]);
    assert!(world.reports.iter().any(|(_, r)| matches!(r, Report::TookOver { fault: Fault::PeerGone, .. })));
    assert_eq!(world.incumbent(0).expect("it serves").generation(), Generation(1), "under its own");
    let next = world.join(App::default());
    world.settle();
    assert_eq!(world.incumbent(next).expect("it serves").generation(), Generation(6));
    world.assert_next_works();
}

#[test]
fn death_in_probation_gives_the_service_back_with_the_older_generations() {
    let mut world = pile(3, &slow());
    world.kill(2);
    world.run();
    assert_eq!(world.accepting(), [1]);
    assert_eq!(generations(&world, 1), [1], "it reads the links again");
    world.incumbent_event(0, Event::Drained { forced: 0 });
    world.run();
    assert!(
        world.reports.contains(&(1, Report::Drained { generation: Generation(1), forced: 0 })),
        "{world}"
    );
    world.settle();
    world.assert_next_works();
}

#[test]
fn rollback_swaps_roles_and_links() {
    let mut world = pile(3, &slow());
    let said = world.said.len();
    assert_eq!(world.command(Command::Rollback), Some(Ok(())));
    world.run();
    let names: Vec<_> = world.said[said..].iter().map(|(from, name)| (*from, *name)).collect();
    assert_eq!(names, [(2, "resume"), (1, "serving")]);
    assert_eq!(world.accepting(), [1]);
    assert_eq!(generations(&world, 1), [3, 1], "{world}");
    assert!(world.gap.is_zero());
    assert_eq!(world.state(2), ProcessState::Draining);
    assert!(
        matches!(world.reports[world.reports.len() - 1], (2, Report::RolledBack(Generation(2), _))),
        "{world}"
    );
    assert!(world.reports.iter().any(|(index, r)| *index == 1 && matches!(r, Report::Resumed(_))));
    // The link works in both directions under its new name.
    world.command(Command::Drain { within: Duration::from_secs(1) });
    world.incumbent_event(
        2,
        Event::Progress { connections: Summary::default(), closed: vec![1], totals: Totals::default() },
    );
    world.run();
    assert_eq!(world.waits_for(2).map(|(_, at)| at - world.now), Some(Duration::from_secs(1)));
    // There is a way back and forth, as long as the probation lasts.
    assert_eq!(world.command(Command::Rollback), Some(Ok(())));
    world.run();
    assert_eq!((world.accepting(), generations(&world, 2)), (vec![2], vec![2, 1]));
    world.assert_handoff_while_others_drain();
    world.settle();
    world.assert_next_works();
}

#[test]
fn rollback_is_refused_when_the_predecessor_has_let_go() {
    let mut world = pile(2, &slow());
    world.advance(Timing::default().probation);
    world.run();
    assert_eq!(world.command(Command::Rollback), Some(Err(OperatorError::NoPredecessor)));
    assert_eq!(
        World::new(App::default()).command(Command::Rollback),
        Some(Err(OperatorError::NoPredecessor))
    );
    world.settle();
    world.assert_next_works();
}

/// The news that it let go crosses the question: the one that asked serves on, and still sees it drain.
#[test]
fn rollback_too_late_by_a_moment() {
    for when in 0..3 {
        let mut world = pile(2, &slow());
        world.command(Command::Rollback);
        for _ in 0..when {
            // Stopped; then the question arrives.
            let action = world.actions().into_iter().find(|a| *a == Action::Perform(1));
            action.into_iter().for_each(|action| world.act(action));
        }
        world.incumbent_event(0, Event::Message(Message::Settle));
        world.run();
        assert_eq!(world.accepting(), [1], "{world}");
        assert_eq!(generations(&world, 1), [1], "its drain goes on under its eyes");
        assert!(
            world
                .reports
                .iter()
                .any(|(_, r)| matches!(r, Report::RollbackFailed(why) if why.contains("let go")))
        );
        assert!(!world.reports.iter().any(|(_, r)| matches!(r, Report::StoodDown(_))));
        world.settle();
        world.assert_next_works();
    }
}

#[test]
fn rollback_to_one_that_dies_fails_and_the_service_goes_on() {
    for steps in 0.. {
        let mut world = pile(2, &slow());
        world.command(Command::Rollback);
        world.fuel = Some(steps);
        world.run();
        if world.fuel != Some(0) {
            assert!(steps > 2);
            break;
        }
        world.fuel = None;
        let resumed = world.procs[0].accepting;
        world.kill(0);
        world.settle();
        let stepped_back = world.living().is_empty();
        // A crash of the process that serves, after all is said and done, is not ours to heal.
        assert!(!stepped_back || resumed, "{world}");
        if !stepped_back {
            assert_eq!(world.assert_one_serves(), 1);
            world.assert_next_works();
        }
    }
}

#[test]
fn rollback_when_the_loops_cannot_be_stopped() {
    let mut world = pile(2, &slow());
    world.command(Command::Rollback);
    world.procs[1].pending.clear();
    world.incumbent_event(1, Event::CannotStop("stuck".to_owned()));
    assert!(matches!(world.reports.last(), Some((1, Report::RollbackFailed(why))) if why == "stuck"));
    world.run();
    assert_eq!(world.accepting(), [1]);
    assert_eq!(world.command(Command::Rollback), Some(Ok(())), "and again");
    world.run();
    assert_eq!(world.accepting(), [0]);
    world.settle();
    world.assert_next_works();
}

#[test]
fn a_handoff_whose_loops_cannot_be_stopped_fails() {
    let mut world = World::new(App { stops: false, ..App::default() });
    let new = world.join(App::default());
    world.run();
    world.incumbent_event(0, Event::CannotStop("the state cannot be exported".to_owned()));
    world.settle();
    assert!(world.procs[new].failed.as_ref().is_some_and(|f| f.to_string().contains("exported")), "{world}");
    assert_eq!(world.assert_one_serves(), 0);
    world.assert_next_works();
}

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

/// One says that so many were given away that nobody could come any more.
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
        // Whoever serves next has a number for the one after it.
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

/// What ended under the eyes of the one is not a death to the other, which had stopped looking.
#[test]
fn a_drain_that_ended_before_a_rollback_is_not_reported_as_lost() {
    let mut world = pile(3, &slow());
    world.incumbent_event(0, Event::Drained { forced: 0 });
    world.run();
    assert_eq!(generations(&world, 2), [2]);
    world.command(Command::Rollback);
    world.run();
    assert_eq!((world.accepting(), generations(&world, 1)), (vec![1], vec![3]));
    assert!(!world.reports.iter().any(|(_, report)| matches!(report, Report::Lost { .. })), "{world}");
    world.settle();
    world.assert_next_works();
}

/// The machine of generation 3, with 2 and 1 behind it, both in probation as far as it knows.
fn third() -> (World, Incumbent) {
    let world = World::new(App::default());
    let predecessor = |index: usize| {
        let generation = Generation(index as u64);
        Predecessor::released(world.now, generation, process(index), Summary::default())
    };
    let (predecessors, generation) = (vec![predecessor(2), predecessor(1)], Generation(3));
    let machine = Incumbent::serving(local(0, &App::default()), generation, predecessors);
    (world, machine)
}

#[test]
fn a_rollback_does_not_pass_the_link_to_its_receiver() {
    let (world, mut machine) = third();
    machine.command(world.now, Command::Rollback).expect("it is in probation");
    let rest = |generation| LinkRest { generation: Generation(generation), unread: "{".to_owned() };
    let stopped = Stopped { at_ns: 5, links: vec![rest(2), rest(1)], ..Stopped::default() };
    let resume = Message::Resume { stopped_at_ns: 5, links: vec![rest(1)] };
    let to = Generation(2);
    assert_eq!(
        machine.handle(world.now, Event::Stopped(stopped)),
        [Effect::Read(to), Effect::SendTo(to, resume)]
    );
}

/// It broke the protocol, and then it says that it accepts.
#[test]
fn even_a_quiet_predecessor_is_heard_when_it_accepts_again() {
    let (world, mut machine) = third();
    let from = Generation(2);
    let says =
        |machine: &mut Incumbent, message| machine.handle(world.now, Event::Predecessor(from, message));
    assert!(!says(&mut machine, Message::Released(Released::default())).is_empty(), "a violation");
    assert_eq!(says(&mut machine, Message::Released(Released::default())), []);
    assert_eq!(says(&mut machine, Message::LetGo), []);
    let effects = says(&mut machine, Message::Failed { reason: "aborted".to_owned() });
    assert!(effects.contains(&Effect::Promote(from)) && effects.contains(&Effect::LetGo), "{effects:?}");
}

/// Its link closes when this process ends, which must not look like a death.
#[test]
fn standing_down_for_one_says_farewell_to_the_others() {
    let (world, mut machine) = third();
    let failed = Message::Failed { reason: "too late".to_owned() };
    let effects = machine.handle(world.now, Event::Predecessor(Generation(2), failed));
    let at = |wanted: &Effect| effects.iter().position(|effect| effect == wanted);
    let farewell = at(&Effect::SendTo(Generation(1), Message::Farewell)).expect("the other is told");
    assert!(Some(farewell) < at(&Effect::LetGo), "as long as there is a link: {effects:?}");
    assert_eq!(at(&Effect::SendTo(Generation(2), Message::Farewell)), None);
    assert!(at(&Effect::Promote(Generation(2))).is_some());
}

/// An orphan is the only one left: nothing that still arrives makes it give up.
#[test]
fn an_orphan_cannot_be_talked_out_of_it() {
    let mut world = World::new(App::default());
    let new = world.join(App { readies: false, ..App::default() });
    world.run();
    world.kill(0);
    world.run();
    for message in [Message::Settle, Message::Failed { reason: "late".to_owned() }] {
        world.successor_event(new, successor::Event::Message(message));
    }
    world.successor_event(new, successor::Event::Closed(Fault::PeerMisbehaved("late".to_owned())));
    world.settle();
    assert_eq!(world.assert_one_serves(), new);
}
