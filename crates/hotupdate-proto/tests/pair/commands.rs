//! What operators and supervisors want, at every stage.

use std::time::Duration;

use hotupdate_proto::incumbent::{Effect, Event, Report};
use hotupdate_proto::message::{Generation, Message, Release};
use hotupdate_proto::operator::{Command, OperatorError, ProcessState};
use hotupdate_proto::{Deadline, Fault, Incumbent};

use crate::world::{App, Pending, World};

/// Runs a handoff for so many steps; `None` when it has that few.
fn after(step: usize, release: Release) -> Option<(World, usize)> {
    let mut world = World::new(App { drains: false, ..App::default() });
    let new = world.join(App { release, ..App::default() });
    world.fuel = Some(step);
    world.run();
    let finished = world.fuel != Some(0);
    world.fuel = None;
    (!finished).then_some((world, new))
}

fn stages(release: Release) -> impl Iterator<Item = (World, usize)> {
    (0..).map_while(move |step| after(step, release))
}

fn doing(world: &World, index: usize) -> Option<ProcessState> {
    world.incumbent(index)?.successor().map(|(_, state)| state)
}

#[test]
fn abort_at_every_stage() {
    for release in [Release::Now, Release::OnCommand] {
        let (mut aborted, mut too_late) = (0, 0);
        for (mut world, new) in stages(release) {
            let stage = doing(&world, 0);
            let result = world.command_to(0, Command::Abort { why: None });
            let attempt = matches!(stage, Some(ProcessState::Starting | ProcessState::Standby));
            match result {
                Ok(()) => {
                    aborted += 1;
                    assert!(attempt && world.procs[0].accepting, "at once");
                    let failed =
                        |r: &Report| matches!(r, Report::Failed { fault: Fault::Aborted { .. }, .. });
                    assert!(world.reports.iter().any(|(_, report)| failed(report)));
                    world.run();
                    assert_eq!(world.accepting(), [0], "{world}");
                    let told = &world.procs[new].failed;
                    assert!(told.as_ref().is_some_and(|f| f.to_string().contains("aborted")), "{world}");
                }
                // From its release on it may serve, and is not called back.
                Err(OperatorError::Busy { doing }) => {
                    too_late += 1;
                    assert!(doing.contains("released"), "{doing}");
                    world.run();
                    assert_eq!(world.accepting(), [new], "{world}");
                }
                Err(error) => assert_eq!((error, attempt), (OperatorError::NoHandoff, false)),
            }
            world.settle();
            world.assert_next_works();
        }
        assert!(aborted >= 8, "{aborted}");
        assert_eq!(too_late > 0, release == Release::Now, "without a command it is never released");
    }
}

#[test]
fn an_operator_who_asks_for_a_handoff_hears_why_it_cannot_be() {
    let mut world = World::new(App { drains: false, ..App::default() });
    assert_eq!(world.command(Command::Handoff), Some(Err(OperatorError::NoSuccessor)));
    world.join(App { readies: false, ..App::default() });
    assert_eq!(world.command(Command::Handoff), Some(Err(OperatorError::NoSuccessor)));
    world.run();
    let busy = OperatorError::NotReady { doing: "warming up".to_owned() };
    assert_eq!(world.command(Command::Handoff), Some(Err(busy)));
    assert_eq!(world.command(Command::Rollback).map(|r| r.is_err()), Some(true));

    let mut world = World::new(App { drains: false, ..App::default() });
    world.join(App { opens: false, ..App::default() });
    world.run();
    assert_eq!(world.command(Command::Handoff), Some(Ok(())), "it is on its way already");

    let mut world = World::new(App { drains: false, ..App::default() });
    world.join(App::default());
    world.run();
    assert_eq!(world.command_to(0, Command::Handoff), Err(OperatorError::NotServing));
    assert_eq!(world.command_to(0, Command::Rollback), Err(OperatorError::NotServing));
}

/// The service stops, at whatever stage: no process takes over, all end, and both sides know why.
#[test]
fn stop_at_every_stage() {
    for release in [Release::Now, Release::OnCommand] {
        for (mut world, new) in stages(release) {
            let owner = world.owner().expect("a process serves");
            let handing_over =
                world.incumbent(owner).is_some_and(|m| !m.accepts() && m.successor().is_some());
            assert_eq!(world.command(Command::Stop { within: None }), Some(Ok(())));
            world.settle();
            assert!(world.living().is_empty(), "{new} {handing_over} {world}");
            world.assert_clean();
            assert!(world.reports.iter().any(|(_, r)| matches!(r, Report::Stopping | Report::StoodDown(_))));
            assert!(!world.reports.iter().any(|(_, r)| matches!(r, Report::TookOver { .. })), "{world}");
            world.first(App::default());
            world.assert_next_works();
        }
    }
}

/// SIGTERM while a successor is on its way: it takes over, and clients notice nothing.
#[test]
fn terminate_at_every_stage_lets_a_successor_take_over_first() {
    for release in [Release::Now, Release::OnCommand] {
        for (mut world, new) in stages(release) {
            let attempt = doing(&world, 0).is_some();
            assert_eq!(world.command_to(0, Command::Terminate), Ok(()));
            world.settle();
            if attempt {
                assert_eq!(world.assert_one_serves(), new, "{world}");
                assert!(world.gap.is_zero());
                assert!(
                    !world.fired.contains(&Deadline::Probation),
                    "who is told to end does not wait for that"
                );
                world.assert_next_works();
            } else {
                // The successor had not joined yet, or was not heard: it starts over, as a first start.
                assert!(!world.procs[0].alive, "{world}");
            }
        }
    }
}

#[test]
fn terminate_ends_the_process_when_the_successor_fails() {
    for (mut world, new) in stages(Release::Now) {
        if !matches!(doing(&world, 0), Some(ProcessState::Starting | ProcessState::Standby)) {
            continue;
        }
        assert_eq!(world.command_to(0, Command::Terminate), Ok(()));
        if world.accepting() != [0] {
            continue;
        }
        world.kill(new);
        world.settle();
        assert!(world.living().is_empty(), "{world}");
    }
}

#[test]
fn told_to_end_now_it_waits_for_nothing() {
    let mut seen = 0;
    for drains in [true, false] {
        for (mut world, _) in stages(Release::OnCommand) {
            world.procs[0].pending.retain(|pending| drains || !matches!(pending, Pending::Drained { .. }));
            assert_eq!(world.command_to(0, Command::Terminate), Ok(()));
            assert_eq!(world.command_to(0, Command::TerminateNow), Ok(()));
            let began = world.now;
            // Its loops stop, and whatever is open is forced in this very moment.
            while world.procs[0].alive && (world.step() || world.tick()) {}
            assert!(world.now - began <= Duration::from_secs(2), "{world}");
            seen += 1;
        }
    }
    assert!(seen > 10);
}

/// Whatever the first signal found.
#[test]
fn told_to_end_now_in_a_drain_and_in_a_rollback() {
    let slow = || App { drains: false, ..App::default() };
    let mut world = World::new(slow());
    world.command(Command::Terminate);
    world.run();
    assert_eq!(world.state(0), ProcessState::Draining);
    let began = world.now;
    world.command_to(0, Command::TerminateNow).expect("it is heard");
    world.settle();
    assert_eq!(world.now, began, "all were forced at once");

    let mut world = World::new(slow());
    let new = world.join(slow());
    world.run();
    world.command(Command::Rollback);
    assert_eq!(
        world.command_to(new, Command::Stop { within: None }),
        Ok(()),
        "no process was asked to resume yet"
    );
    world.settle();
    assert!(world.living().is_empty(), "{world}");

    let mut world = World::new(slow());
    let new = world.join(slow());
    world.run();
    world.command(Command::Rollback);
    assert!(world.step(), "its loops stop, it asks the predecessor");
    let busy = OperatorError::Busy { doing: "a rollback is under way".to_owned() };
    assert_eq!(world.command_to(new, Command::Stop { within: None }), Err(busy));
    world.command_to(new, Command::Terminate).expect("it waits for the rollback");
    world.command_to(new, Command::TerminateNow).expect("it does not");
    assert_eq!(world.state(new), ProcessState::Draining);
    world.settle();
    assert_eq!(world.assert_one_serves(), 0, "it was asked, so it serves");
    world.assert_next_works();
}

#[test]
fn a_farewell_ends_the_probation() {
    let mut world = World::new(App { drains: false, ..App::default() });
    let new = world.join(App::default());
    world.run();
    assert_eq!(world.command(Command::Stop { within: None }), Some(Ok(())));
    world.run();
    assert!(!world.procs[new].alive, "its drain was over at once");
    assert!(!world.procs[0].holds && !world.procs[0].accepting, "{world}");
    world.settle();
    assert!(world.living().is_empty());
    let names: Vec<_> = world.said.iter().map(|(_, name)| *name).collect();
    assert!(names.contains(&"farewell"));
}

/// The end of a drain, in virtual time from now.
fn ends_in(world: &World, index: usize) -> Duration {
    let (deadline, at) = world.waits_for(index).expect("it drains");
    assert_eq!(deadline, Deadline::Drain);
    at - world.now
}

#[test]
fn hurry_brings_the_end_of_a_drain_forward_and_never_back() {
    let mut world = World::new(App { drains: false, ..App::default() });
    let new = world.join(App::default());
    world.run();
    world.advance(Duration::from_secs(5));
    world.run();
    assert_eq!(ends_in(&world, 0), Duration::from_secs(55));
    for (within, then) in [(30, 30), (40, 30), (7, 7)] {
        world
            .command(Command::Drain { within: Duration::from_secs(within) })
            .expect("there is an owner")
            .expect("ok");
        world.run();
        assert_eq!(ends_in(&world, 0), Duration::from_secs(then));
    }
    assert!(world.incumbent(new).expect("it serves").predecessors()[0].hurried);
    // Asked itself, on a connection from before, it means its own.
    world.command_to(0, Command::Drain { within: Duration::from_secs(1) }).expect("ok");
    assert_eq!(ends_in(&world, 0), Duration::from_secs(1));
    world.settle();
    assert!(world.reports.contains(&(new, Report::Drained { generation: Generation(1), forced: 3 })));
    world.assert_next_works();
}

/// An attempt belongs to the operator that began it.
#[test]
fn an_operator_that_goes_takes_its_attempt_along_until_the_release() {
    let (mut abandoned, mut undisturbed) = (0, 0);
    for release in [Release::Now, Release::OnCommand] {
        for (mut world, new) in stages(release) {
            let stage = doing(&world, 0);
            let attempt = matches!(stage, Some(ProcessState::Starting | ProcessState::Standby));
            let before = world.incumbent(0).cloned();
            assert_eq!(world.command_to(0, Command::Abandon { attempt: "another".to_owned() }), Ok(()));
            assert_eq!(
                world.incumbent(0).map(Incumbent::successor),
                before.as_ref().map(Incumbent::successor)
            );
            assert_eq!(world.command_to(0, Command::Abandon { attempt: format!("attempt {new}") }), Ok(()));
            let failed = |r: &Report| matches!(r, Report::Failed { fault: Fault::Abandoned, .. });
            if world.reports.iter().any(|(_, report)| failed(report)) {
                abandoned += 1;
                assert!(attempt && world.procs[0].accepting, "at once");
                world.run();
                assert_eq!(world.accepting(), [0], "{world}");
                let told = &world.procs[new].failed;
                assert!(told.as_ref().is_some_and(|f| f.to_string().contains("has gone")), "{world}");
            } else if stage.is_some() {
                undisturbed += 1;
                world.run();
                assert_eq!(world.accepting(), [new], "{world}");
            }
            world.settle();
            world.assert_next_works();
        }
    }
    assert!(abandoned >= 10 && undisturbed >= 2, "{abandoned} abandoned, {undisturbed} undisturbed");
}

/// The process that it had started comes late.
#[test]
fn a_successor_whose_operator_has_gone_is_turned_away() {
    let mut world = World::new(App::default());
    for attempt in (0..100).map(|number| format!("earlier {number}")).chain(["attempt 1".to_owned()]) {
        world.command_to(0, Command::Abandon { attempt }).unwrap();
    }
    let late = world.join(App::default());
    world.run();
    assert_eq!(world.accepting(), [0], "{world}");
    let told = &world.procs[late].failed;
    assert!(told.as_ref().is_some_and(|f| f.to_string().contains("the attempt is over")), "{world}");
    world.assert_next_works();
}

/// What a refused command leaves behind: nothing.
#[test]
fn a_refused_command_changes_nothing() {
    let commands = [
        Command::Handoff,
        Command::Abort { why: None },
        Command::Rollback,
        Command::Drain { within: Duration::from_secs(1) },
        Command::Stop { within: Some(Duration::ZERO) },
        Command::Terminate,
        Command::TerminateNow,
    ];
    let mut refused = 0;
    for (world, _) in stages(Release::OnCommand) {
        for command in &commands {
            let before = world.incumbent(0).expect("it serves");
            let mut machine: Incumbent = before.clone();
            if machine.command(world.now, command.clone()).is_err() {
                refused += 1;
                assert_eq!(&machine, before, "{command:?}");
            }
        }
    }
    assert!(refused > 10);
}

/// A process that has nothing left to do hears nothing, whatever it is told.
#[test]
fn gone_is_gone() {
    let mut world = World::new(App::default());
    world.command(Command::Stop { within: Some(Duration::ZERO) });
    world.settle();
    let mut machine = world.incumbent(0).expect("it served").clone();
    assert!(machine.is_gone() && machine.process_state() == ProcessState::Gone);
    assert_eq!(machine.deadline(), None);
    for event in [Event::Tick, Event::Closed(Fault::PeerGone), Event::Message(Message::Farewell)] {
        assert_eq!(machine.handle(world.now, event), Vec::<Effect>::new());
    }
    assert_eq!(machine.command(world.now, Command::Handoff), Err(OperatorError::NotServing));
    assert_eq!(
        machine.command(world.now, Command::Drain { within: Duration::ZERO }),
        Err(OperatorError::NotServing)
    );
}
