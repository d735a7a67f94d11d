//! A supervisor's signals: which process goes on with the service, and when none does.

use std::time::Duration;

use hotupdate_proto::incumbent::{Afterwards, Effect, Event, Report};
use hotupdate_proto::message::{Generation, Message, Release};
use hotupdate_proto::operator::{Command, ProcessState};
use hotupdate_proto::{Deadline, Timing};

use crate::generations::{generations, pile, slow};
use crate::world::{Action, App, World};

fn terminate(world: &mut World, index: usize) {
    if world.procs[index].alive && world.incumbent(index).is_some() {
        world.command_to(index, Command::Terminate).expect("a signal is no question");
    }
}

/// Lets so many things happen; whether there were as many.
fn steps(world: &mut World, steps: usize) -> bool {
    (0..steps).all(|_| world.step())
}

#[test]
fn the_predecessor_in_probation_serves_again() {
    for drains in [true, false] {
        let mut world = pile(2, &App { drains, ..App::default() });
        terminate(&mut world, 1);
        world.run();
        assert_eq!(world.accepting(), [0], "{world}");
        assert!(world.gap.is_zero());
        // The one that is told to end does not wait to be asked back.
        assert_eq!(world.procs[1].alive, !drains, "{world}");
        assert!(!world.procs[1].holds && !world.fired.contains(&Deadline::Probation), "{world}");
        assert!(!world.reports.iter().any(|(_, report)| matches!(report, Report::Stopping)), "{world}");
        world.settle();
        assert_eq!(world.assert_one_serves(), 0);
        world.assert_next_works();
    }
}

#[test]
fn after_the_probation_the_service_stops() {
    let mut world = pile(2, &slow());
    world.advance(Timing::default().probation);
    world.run();
    terminate(&mut world, 1);
    world.settle();
    assert!(world.living().is_empty(), "{world}");
    world.assert_clean();
}

/// `systemctl stop` of a unit: each of its processes is told, in any order, so soon or so late after the
/// other.
#[test]
fn both_are_told_and_both_end() {
    for order in [[0, 1], [1, 0]] {
        for pause in 0.. {
            let mut world = pile(2, &slow());
            terminate(&mut world, order[0]);
            let more = steps(&mut world, pause);
            terminate(&mut world, order[1]);
            world.settle();
            assert!(world.living().is_empty(), "{order:?}, {pause} steps apart: {world}");
            world.assert_clean();
            assert!(world.gap <= Timing::default().drain + Timing::default().force, "{world}");
            if !more {
                assert!(pause > 1, "{pause}");
                break;
            }
        }
    }
}

/// In whatever order everything comes that comes of it: no deadline is waited for, where no process hangs.
#[test]
fn both_end_without_waiting_for_any_deadline() {
    let apps =
        [App::default(), App { accepts: true, ..App::default() }, App { has_hook: true, ..App::default() }];
    for app in apps {
        for order in [[0, 1], [1, 0]] {
            for pause in 0..4 {
                let courses = every_course(|course| {
                    let mut world = World::new(app.clone());
                    world.join(app.clone());
                    while world.accepting() != [1] && world.step() {}
                    terminate(&mut world, order[0]);
                    for _ in 0..pause {
                        course.step(&mut world);
                    }
                    terminate(&mut world, order[1]);
                    while course.step(&mut world) {}
                    assert!(world.living().is_empty(), "{order:?}, {pause} steps apart: {world}");
                    world.assert_clean();
                });
                assert!(courses > 1, "{courses}");
            }
        }
    }
}

/// Which of the things happens that can happen next, each time.
#[derive(Default)]
struct Course {
    /// Which, and of how many.
    choices: Vec<(usize, usize)>,
    at: usize,
}

impl Course {
    /// Lets one thing happen that needs no time; `false` if there is none.
    fn step(&mut self, world: &mut World) -> bool {
        let mut actions = world.actions();
        if actions.is_empty() {
            return false;
        }
        if self.at == self.choices.len() {
            self.choices.push((0, actions.len()));
        }
        let (choice, of) = self.choices[self.at];
        assert_eq!(of, actions.len(), "the same choices lead to the same world");
        self.at += 1;
        world.act(actions.swap_remove(choice));
        true
    }

    /// The next one, if there is one.
    fn advance(&mut self) -> bool {
        self.at = 0;
        while let Some((choice, of)) = self.choices.pop() {
            if choice + 1 < of {
                self.choices.push((choice + 1, of));
                return true;
            }
        }
        false
    }
}

/// Runs every course; returns how many there are.
fn every_course(mut run: impl FnMut(&mut Course)) -> usize {
    let mut course = Course::default();
    for courses in 1.. {
        run(&mut course);
        if !course.advance() {
            return courses;
        }
    }
    unreachable!("courses come to an end")
}

/// The same while the third of them is on its way, and with one that has let go long ago.
#[test]
fn all_are_told_while_a_successor_is_on_its_way() {
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        for release in [Release::Now, Release::OnCommand] {
            for first in 0..12 {
                let mut world = pile(2, &slow());
                world.join(App { release, ..App::default() });
                steps(&mut world, first);
                for index in order {
                    match world.incumbent(index) {
                        Some(_) => terminate(&mut world, index),
                        // As its driver does before it serves.
                        None => {
                            use hotupdate_proto::successor::Event::GiveUp;
                            world.successor_event(index, GiveUp("stopped by a signal".to_owned()));
                        }
                    }
                }
                world.settle();
                assert!(world.living().is_empty(), "{order:?} after {first} steps: {world}");
            }
        }
    }
}

/// Between both signals the first version has served again for long.
#[test]
fn one_that_serves_again_ends_when_its_own_signal_comes() {
    let mut world = pile(2, &slow());
    terminate(&mut world, 1);
    world.run();
    world.advance(Duration::from_secs(2));
    world.run();
    assert_eq!(world.accepting(), [0]);
    let said = world.said.len();
    terminate(&mut world, 0);
    world.run();
    assert!(!world.said[said..].contains(&(0, "resume")), "the other one ends, and is not asked: {world}");
    world.settle();
    assert!(world.living().is_empty(), "{world}");
}

/// What an operator took back on purpose does not come again because of a signal.
#[test]
fn a_version_that_was_rolled_back_does_not_serve_again() {
    let mut world = pile(2, &slow());
    assert_eq!(world.command(Command::Rollback), Some(Ok(())));
    world.run();
    terminate(&mut world, 0);
    world.run();
    assert!(world.accepting().is_empty(), "{world}");
    world.settle();
    assert!(world.living().is_empty());
}

/// It is told to end while its own successor is on its way, which then fails.
#[test]
fn when_the_successor_fails_the_predecessor_serves_again() {
    let mut world = pile(2, &slow());
    let third = world.join(App { readies: false, ..App::default() });
    world.run();
    terminate(&mut world, 1);
    world.run();
    assert_eq!(world.accepting(), [1], "the successor comes first: {world}");
    world.kill(third);
    world.run();
    assert_eq!(world.accepting(), [0], "{world}");
    world.settle();
    assert_eq!(world.assert_one_serves(), 0);
}

/// The predecessor that is asked reads it late, or never.
#[test]
fn one_that_is_asked_and_hangs() {
    // For a little longer than it is waited for: it serves whenever it reads that it should.
    let mut world = pile(2, &App { timing: Timing::default().probation(Duration::from_secs(60)), ..slow() });
    terminate(&mut world, 1);
    world.hang(0, Timing::default().resume + Duration::from_secs(1));
    assert!(world.reports.iter().any(|(index, r)| *index == 1 && matches!(r, Report::StoodDown(_))));
    world.run();
    assert_eq!(world.accepting(), [0], "{world}");
    world.settle();
    assert_eq!(world.assert_one_serves(), 0);
    world.assert_next_works();
}

#[test]
fn one_that_is_asked_and_dies_or_has_let_go() {
    for kills in [true, false] {
        for pause in 0..4 {
            let mut world = pile(2, &slow());
            terminate(&mut world, 1);
            steps(&mut world, pause);
            if world.procs[0].accepting {
                continue;
            }
            match kills {
                true => world.kill(0),
                false => world.incumbent_event(0, Event::Message(Message::EndProbation)),
            }
            world.settle();
            assert!(world.living().is_empty(), "told to end, and alone: {world}");
            world.assert_clean();
        }
    }
}

/// systemd says it again when the main process has ended, and a container runtime may, too.
#[test]
fn a_signal_that_comes_again_changes_nothing() {
    let apps = [slow(), App { has_hook: true, hook_ends: false, ..slow() }];
    for app in apps {
        for pause in 0..8 {
            let mut world = World::new(app.clone());
            world.join(App { release: Release::OnCommand, ..app.clone() });
            world.run();
            world.command(Command::Abort { why: None });
            terminate(&mut world, 0);
            steps(&mut world, pause);
            for _ in 0..3 {
                let before = world.incumbent(0).expect("it serves").clone();
                assert_eq!(before.clone().command(world.now, Command::Terminate), Ok(Vec::new()));
                terminate(&mut world, 0);
                assert_eq!(world.incumbent(0), Some(&before));
            }
        }
    }
    // What an operator has shortened stays so.
    let mut world = World::new(slow());
    world.command(Command::Stop { within: Some(Duration::from_secs(1)) });
    terminate(&mut world, 0);
    world.run();
    let (deadline, at) = world.waits_for(0).expect("it drains");
    assert_eq!((deadline, at - world.now), (Deadline::Drain, Duration::from_secs(1)));
}

/// A person's second Ctrl-C: the service goes back all the same, and what is open is closed.
#[test]
fn told_to_end_now_it_gives_the_service_back_first() {
    for has_hook in [true, false] {
        for pause in 0..4 {
            let mut world = pile(2, &App { has_hook, ..slow() });
            terminate(&mut world, 1);
            steps(&mut world, pause);
            world.command_to(1, Command::TerminateNow).expect("it is heard");
            let began = world.now;
            while world.procs[1].alive && (world.step() || world.tick()) {}
            assert!(world.now - began <= Timing::default().force, "{world}");
            world.settle();
            assert_eq!(world.assert_one_serves(), 0, "{world}");
        }
    }
}

/// `hotctl stop` ends the service whatever process could go on, and a signal that follows does not change it.
#[test]
fn an_operators_stop_is_for_good() {
    for signals in [vec![], vec![1], vec![0], vec![0, 1], vec![1, 0]] {
        let mut world = pile(2, &slow());
        assert_eq!(world.command(Command::Stop { within: None }), Some(Ok(())));
        for index in signals {
            terminate(&mut world, index);
            world.step();
        }
        world.settle();
        assert!(world.living().is_empty(), "{world}");
        assert!(!world.said.iter().any(|(_, said)| *said == "resume"), "{world}");
    }
    // A signal came first, and the service is not given back yet.
    let mut world = pile(2, &slow());
    terminate(&mut world, 1);
    assert!(world.actions().contains(&Action::Perform(1)), "its accept loops stop");
    assert_eq!(world.command_to(1, Command::Stop { within: None }), Ok(()));
    world.settle();
    assert!(world.living().is_empty(), "{world}");
}

/// What is said of the drain: whether clients that are told to leave have a process to turn to.
#[test]
fn a_drain_knows_whether_another_process_serves() {
    let drains = |effects: &[Effect]| {
        let drain = effects.iter().rev().find_map(|effect| match effect {
            Effect::Drain { is_succeeded, .. } => Some(*is_succeeded),
            _ => None,
        });
        drain.expect("it drains")
    };
    // A stop.
    let world = World::new(slow());
    let mut alone = world.incumbent(0).expect("it serves").clone();
    alone.command(world.now, Command::Terminate).expect("it is heard");
    let effects = alone.handle(world.now, Event::Stopped(Default::default()));
    assert!(!drains(&effects) && effects.contains(&Effect::LetGo(Afterwards::Stopped)));
    // A handoff, and then the other one stops: in probation, and after it.
    for waits in [Duration::ZERO, Timing::default().probation] {
        let mut world = pile(2, &slow());
        world.advance(waits);
        world.run();
        let mut older = world.incumbent(0).expect("it served").clone();
        assert_eq!(older.process_state(), ProcessState::Draining);
        let hurried = older.handle(world.now, Event::Message(Message::Hurry { deadline_ms: 9_000 }));
        assert!(drains(&hurried));
        assert!(!drains(&older.handle(world.now, Event::Message(Message::Farewell))));
        assert_eq!(older.handle(world.now, Event::Message(Message::Farewell)), [], "once");
        let hurried = older.handle(world.now, Event::Message(Message::Hurry { deadline_ms: 1_000 }));
        assert!(!drains(&hurried), "that stays so");
    }
    // And every one that drains is told.
    let mut world = pile(3, &slow());
    let said = world.said.len();
    world.command(Command::Stop { within: None });
    let told = world.said[said..].iter().filter(|(_, said)| *said == "farewell").count();
    assert_eq!((told, generations(&world, 2)), (2, vec![2, 1]));
    // Given back: the one that ends drains into the other.
    let mut world = pile(2, &slow());
    terminate(&mut world, 1);
    world.run();
    let mut former = world.incumbent(1).expect("it served").clone();
    assert!(drains(&former.handle(world.now, Event::Message(Message::Hurry { deadline_ms: 1 }))));
    assert_eq!(former.generation(), Generation(2));
}
