//! Everything that can go wrong, at every point where it can.

use hotupdate_proto::counts::Counts;
use hotupdate_proto::incumbent::{Event, Report};
use hotupdate_proto::inventory::{ListenerKind, Summary, Totals};
use hotupdate_proto::message::{Generation, Message, Place, Ready, Release, Released};
use hotupdate_proto::operator::Command;
use hotupdate_proto::{Fault, ListenerItem, Timing, successor};

use crate::world::{App, Tamper, World, resume};

/// A course of events that may be cut off after any number of steps.
type Course = fn(&mut World);

fn handoff(world: &mut World) {
    world.join(App::default());
    world.run();
}

fn handoff_on_command(world: &mut World) {
    world.join(App { release: Release::OnCommand, ..App::default() });
    world.run();
    world.command(Command::Handoff);
    world.run();
}

fn rollback(world: &mut World) {
    handoff(world);
    world.command(Command::Rollback);
    world.run();
}

fn three_generations(world: &mut World) {
    for _ in 0..2 {
        world.join(App { drains: false, ..App::default() });
        world.run();
    }
}

fn rollback_with_an_older_generation(world: &mut World) {
    three_generations(world);
    world.command(Command::Rollback);
    world.run();
    handoff(world);
}

fn to_the_end(world: &mut World) {
    handoff(world);
    while world.tick() {
        world.run();
    }
}

const COURSES: [Course; 6] =
    [handoff, handoff_on_command, rollback, three_generations, rollback_with_an_older_generation, to_the_end];

/// The course cut off after so many steps; `None` when it is shorter.
fn cut(course: Course, steps: usize) -> Option<World> {
    let mut world = World::new(App { drains: false, ..App::default() });
    world.fuel = Some(steps);
    course(&mut world);
    let finished = world.fuel != Some(0);
    world.fuel = None;
    (!finished || steps == 0).then_some(world)
}

/// After whatever happened: one serves, and can be replaced.
fn assert_healthy(mut world: World) {
    world.settle();
    world.assert_one_serves();
    world.assert_next_works();
}

#[test]
fn either_side_dies_after_every_single_step() {
    let mut deaths = 0;
    for course in COURSES {
        for steps in 1.. {
            let Some(world) = cut(course, steps) else { break };
            for victim in world.living() {
                let mut world = cut(course, steps).expect("the same again");
                let heirs = world.living().iter().any(|index| *index != victim && world.procs[*index].holds);
                world.kill(victim);
                deaths += 1;
                world.settle();
                if heirs || !world.living().is_empty() {
                    assert_healthy(world);
                } else {
                    // The last one that held the listeners: a supervisor starts the next.
                    world.assert_clean();
                    world.first(App::default());
                    assert_healthy(world);
                }
            }
        }
    }
    assert!(deaths > 150, "{deaths}");
}

/// The table of DESIGN §5: what a death means for the process that is left, and how long no process accepts.
#[test]
fn a_death_before_the_commit_is_no_gap() {
    for steps in 1.. {
        let Some(mut world) = cut(handoff, steps) else { break };
        if world.said.iter().any(|(_, name)| *name == "released") {
            break;
        }
        world.kill(1);
        world.run();
        assert!(world.procs[0].accepting || world.procs[0].pending.is_empty(), "{world}");
        world.settle();
        assert!(world.gap.is_zero(), "at once");
        assert_healthy(world);
    }
}

#[test]
fn the_incumbent_dies_before_its_inventory_is_complete_and_after() {
    let (mut started_over, mut served) = (0, 0);
    for steps in 1.. {
        let Some(mut world) = cut(handoff, steps) else { break };
        let before = world.said.iter().filter(|(_, name)| *name == "control").count() == 0;
        world.kill(0);
        world.settle();
        let survivor = world.assert_one_serves();
        match survivor {
            1 => served += 1,
            _ => started_over += 1,
        }
        // What is on its way when a process dies still arrives.
        assert_eq!(survivor == 1, !before, "{world}");
        assert!(world.gap.is_zero(), "{world}");
        assert_healthy(world);
    }
    assert!(started_over > 2 && served > 3, "{started_over} {served}");
}

/// An application that does not want to any more, at any moment before it serves.
#[test]
fn the_successor_gives_up_at_every_step() {
    for steps in 1.. {
        let Some(mut world) = cut(handoff, steps) else { break };
        if world.incumbent(1).is_some() {
            break;
        }
        world.successor_event(1, successor::Event::GiveUp("no license".to_owned()));
        world.run();
        let says = |fault: &hotupdate_proto::Fault| fault.to_string().contains("no license");
        let failed = |r: &Report| matches!(r, Report::Failed { fault, .. } if says(fault));
        assert!(steps < 2 || world.reports.iter().any(|(_, report)| failed(report)), "{steps} {world}");
        assert_eq!(world.accepting(), [0]);
        assert_healthy(world);
    }
}

/// Bytes that are no message, at any moment, on either side.
#[test]
fn garbage_at_every_step() {
    for course in COURSES {
        for steps in 1.. {
            let Some(world) = cut(course, steps) else { break };
            for reader in world.living() {
                let mut world = cut(course, steps).expect("the same again");
                world.garble(reader);
                assert_healthy(world);
            }
        }
    }
}

/// The other side is stopped (as by SIGSTOP) at any moment, until every deadline that watches it has passed.
#[test]
fn either_side_hangs_after_every_single_step_and_wakes_up_again() {
    let timing = Timing::default();
    for course in COURSES {
        for steps in 1.. {
            let Some(world) = cut(course, steps) else { break };
            for sleeper in world.living() {
                let mut world = cut(course, steps).expect("the same again");
                world.hang(sleeper, timing.lease * 2);
                assert_healthy(world);
            }
        }
    }
}

fn tampered(course: Course, at: usize, tamper: Tamper) -> World {
    let mut world = World::new(App { drains: false, ..App::default() });
    world.tamper = Some((at, tamper));
    course(&mut world);
    world
}

fn failed(message: &Message) -> bool {
    matches!(message, Message::Failed { .. })
}

#[test]
fn each_message_is_lost_repeated_or_late() {
    for course in COURSES {
        for tamper in [Tamper::Drop, Tamper::Repeat, Tamper::Late] {
            for at in 0.. {
                let mut world = tampered(course, at, tamper.clone());
                world.settle();
                if world.tampered.is_none() {
                    assert!(at > 5);
                    break;
                }
                assert_healthy(world);
            }
        }
    }
}

/// One of each.
fn every_message() -> Vec<Message> {
    let item = ListenerItem {
        name: "x".to_owned(),
        kind: ListenerKind::Tcp,
        address: "127.0.0.1:1".to_owned(),
        cookie: 1,
    };
    let connections = Summary::new(1, 2, 3);
    vec![
        Message::Listeners { batch: 1, items: vec![item] },
        Message::State { batch: 2, items: Vec::new() },
        Message::Links { batch: 2, items: Vec::new() },
        Message::Control { batch: 2 },
        Message::Received { batch: 1 },
        Message::Received { batch: 2 },
        Message::Ready(Ready::default()),
        Message::Ready(Ready { release: Release::OnCommand, ..Ready::default() }),
        Message::Released(Released::default()),
        Message::Serving { gap_ns: Some(u64::MAX), accepts: Vec::new() },
        Message::Connections { items: Vec::new() },
        Message::Progress { connections, closed: vec![1], totals: Totals::default(), tasks: Vec::new() },
        Message::Drained { forced: 1 },
        Message::LetGo,
        Message::Hurry { deadline_ms: 0 },
        Message::Issued { generation: Generation(40) },
        Message::EndProbation,
        Message::Serves { pid: 1, place: Place::default(), is_established: true },
        Message::Counted { counts: Counts::default() },
        resume(),
        Message::Farewell,
        Message::Failed { reason: "altered".to_owned() },
    ]
}

#[test]
fn each_message_is_altered_into_each_other() {
    let mut runs = 0;
    for course in COURSES {
        for altered in every_message() {
            for at in 0.. {
                let mut world = tampered(course, at, Tamper::Alter(altered.clone()));
                world.settle();
                let Some((_, original)) = world.tampered.clone() else { break };
                runs += 1;
                // The only lie that ends a service: a predecessor claims to accept, and has let go.
                let lie =
                    failed(&altered) && world.reports.iter().any(|(_, r)| matches!(r, Report::StoodDown(_)));
                if lie && world.living().is_empty() {
                    continue;
                }
                // Or keeps an older generation to itself, whose probation then ends unseen.
                if original.name() == "links" && world.living().len() == 2 {
                    assert_eq!(world.accepting(), world.living());
                    continue;
                }
                assert_eq!(world.living().len(), 1, "{} became {}: {world}", original.name(), altered.name());
                assert_healthy(world);
            }
        }
    }
    assert!(runs > 1000, "{runs}");
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

fn trouble(world: &mut World, successor: usize, what: &str) {
    world.successor_event(successor, successor::Event::Trouble(what.to_owned()));
}

/// An application that cannot bind a listener often exits, and its end alone says nothing.
#[test]
fn what_went_wrong_before_it_died_is_the_reason() {
    let mut world = World::new(App::default());
    let successor = world.join(App { readies: false, ..App::default() });
    world.run();
    trouble(&mut world, successor, "port 80 is taken");
    trouble(&mut world, successor, "port 81 is taken");
    world.run();
    world.kill(successor);
    world.run();
    let failed = world.reports.iter().find_map(|(_, report)| match report {
        Report::Failed { fault, stage, .. } => Some((fault.clone(), *stage)),
        _ => None,
    });
    assert_eq!(failed, Some((Fault::PeerFailed("port 81 is taken".to_owned()), "warming up")), "{world}");
    assert_healthy(world);
}

#[test]
fn what_went_wrong_and_was_repaired_is_forgotten() {
    let mut world = World::new(App::default());
    let successor = world.join(App { readies: false, ..App::default() });
    world.run();
    trouble(&mut world, successor, "port 80 is taken");
    world.successor_event(successor, successor::Event::Ready(Ready::default()));
    world.run();
    assert_eq!(world.owner(), Some(successor), "{world}");
    world.kill(successor);
    world.run();
    let mut reports = world.reports.iter().map(|(_, report)| report);
    assert!(reports.all(|report| !matches!(report, Report::Failed { .. })), "{world}");
    assert_healthy(world);
}
