//! The way back: an operator wants it, or the predecessor takes the service because it waited in vain.

use std::time::Duration;

use hotupdate_proto::counts::Counts;
use hotupdate_proto::incumbent::{Afterwards, Effect, Event, Report, Stopped};
use hotupdate_proto::inventory::UnreadLink;
use hotupdate_proto::message::{Generation, Message, Released};
use hotupdate_proto::operator::{Command, OperatorError, ProcessState};
use hotupdate_proto::{Fault, Incumbent, Predecessor, Summary, Timing, Totals};

use crate::generations::{generations, pile, slow};
use crate::world::{Action, App, World, local, process};

#[test]
fn rollback_swaps_roles_and_links() {
    let mut world = pile(3, &slow());
    let said = world.said.len();
    assert_eq!(world.command(Command::Rollback), Some(Ok(())));
    world.run();
    let names: Vec<_> = world.said[said..].iter().map(|(from, name)| (*from, *name)).collect();
    assert_eq!(names, [(2, "resume"), (1, "serving"), (1, "accepts")]);
    assert_eq!(world.accepting(), [1]);
    assert_eq!(generations(&world, 1), [3, 1], "{world}");
    assert!(world.gap.is_zero());
    assert_eq!(world.state(2), ProcessState::Draining);
    assert!(
        matches!(world.reports[world.reports.len() - 1], (2, Report::RolledBack(Generation(2), _))),
        "{world}"
    );
    assert!(world.reports.iter().any(|(index, r)| *index == 1 && matches!(r, Report::Resumed { .. })));
    // The link works in both directions under its new name.
    world.command(Command::Drain { within: Duration::from_secs(1) });
    world.incumbent_event(
        2,
        Event::Progress {
            connections: Summary::default(),
            closed: vec![1],
            totals: Totals::default(),
            tasks: Vec::new(),
        },
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
        world.incumbent_event(0, Event::Message(Message::EndProbation));
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

/// A peer that does without the links of older generations ends their probation and hangs up.
#[test]
fn the_end_of_a_link_after_the_probation_is_no_death() {
    let mut world = pile(2, &slow());
    world.incumbent_event(0, Event::Message(Message::EndProbation));
    world.incumbent_event(0, Event::Closed(Fault::PeerGone));
    world.run();
    assert_eq!(world.accepting(), [1], "{world}");
    assert!(world.incumbent(0).is_some_and(|machine| !machine.accepts() && !machine.is_gone()), "it drains");
    world.settle();
    world.assert_next_works();
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
    let rest = |generation| UnreadLink { generation: Generation(generation), unread: "{".to_owned() };
    let stopped = Stopped { at_ns: 5, links: vec![rest(2), rest(1)], ..Stopped::default() };
    let counts = Some(Box::new(Counts::default()));
    let stopped = Stopped { counts: counts.clone(), ..stopped };
    let (links, reason) = (vec![rest(1)], "an operator rolled it back".to_owned());
    let resume = Message::Resume { stopped_at_ns: 5, links, history: Vec::new(), counts, reason };
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
    assert!(
        effects.contains(&Effect::Promote(from))
            && effects.contains(&Effect::LetGo(Afterwards::ServedBy(Some(102)))),
        "{effects:?}"
    );
}

/// Its link closes when this process ends, which must not look like a death.
#[test]
fn standing_down_for_one_ends_the_probation_of_the_others() {
    let (world, mut machine) = third();
    let failed = Message::Failed { reason: "too late".to_owned() };
    let effects = machine.handle(world.now, Event::Predecessor(Generation(2), failed));
    let at = |wanted: &Effect| effects.iter().position(|effect| effect == wanted);
    let told = at(&Effect::SendTo(Generation(1), Message::EndProbation)).expect("the other is told");
    assert!(
        Some(told) < at(&Effect::LetGo(Afterwards::ServedBy(Some(102)))),
        "as long as there is a link: {effects:?}"
    );
    assert_eq!(at(&Effect::SendTo(Generation(2), Message::EndProbation)), None);
    assert!(at(&Effect::Promote(Generation(2))).is_some());
}
