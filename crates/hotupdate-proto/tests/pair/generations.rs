//! Older generations: what the serving process sees of them, and what is left of them when it is gone.

use std::time::Duration;

use hotupdate_proto::incumbent::{Event, Report};
use hotupdate_proto::message::Generation;
use hotupdate_proto::operator::Command;
use hotupdate_proto::{Fault, Summary, Timing, Totals};

use crate::world::{App, World};

pub(crate) fn slow() -> App {
    App { drains: false, ..App::default() }
}

/// So many processes, each but the last draining a connection that does not end.
pub(crate) fn pile(count: usize, app: &App) -> World {
    let mut world = World::new(app.clone());
    for _ in 1..count {
        world.join(app.clone());
        world.run();
    }
    world
}

pub(crate) fn generations(world: &World, index: usize) -> Vec<u64> {
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
            Event::Progress { connections, closed: Vec::new(), totals: Totals::default(), tasks: Vec::new() },
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
fn since_when_each_drains_is_known_after_every_handoff() {
    let mut world = World::new(slow());
    let begun = world.now;
    let pause = Duration::from_secs(3);
    for _ in 0..3 {
        world.join(slow());
        world.run();
        world.advance(pause);
    }
    let predecessors = world.incumbent(3).expect("it serves").predecessors();
    let since: Vec<_> = predecessors.iter().map(|p| p.since - begun).collect();
    assert_eq!(since, [2 * pause, pause, Duration::ZERO]);
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
