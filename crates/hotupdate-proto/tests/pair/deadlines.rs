//! Every named deadline fires, and what it does.

use std::collections::BTreeSet;
use std::time::Duration;

use hotupdate_proto::incumbent::Report;
use hotupdate_proto::message::Release;
use hotupdate_proto::operator::Command;
use hotupdate_proto::{Deadline, Fault, Timing, successor};

use crate::migration::{leave, migrating};
use crate::world::{Action, App, Pending, World};

fn timed_out(world: &World, index: usize) -> Option<Deadline> {
    match world.procs[index].failed {
        Some(Fault::TimedOut(deadline)) => Some(deadline),
        _ => None,
    }
}

/// The deadlines at which the incumbent gave up an attempt.
fn failures(world: &World) -> Vec<Deadline> {
    let deadline = |report: &Report| match report {
        Report::Failed { fault: Fault::TimedOut(deadline), .. } => Some(*deadline),
        _ => None,
    };
    world.reports.iter().filter_map(|(_, report)| deadline(report)).collect()
}

/// Lets everything happen but what goes to this process, until a deadline fires.
fn starve(world: &mut World, index: usize) {
    loop {
        let action = world.actions().into_iter().find(|action| match action {
            Action::Deliver { reader, .. } | Action::EndOfFile { reader, .. } => *reader != index,
            Action::Perform(performer) => *performer != index,
        });
        match action {
            Some(action) => world.act(action),
            None => break,
        }
    }
    world.tick();
}

fn reply(fired: &mut BTreeSet<Deadline>) {
    let mut world = World::new(App::default());
    let new = world.join(App::default());
    starve(&mut world, 0);
    assert_eq!(timed_out(&world, new), Some(Deadline::Reply), "{world}");
    finish(world, fired);
}

fn batch(fired: &mut BTreeSet<Deadline>) {
    // The successor does not acknowledge.
    let mut world = World::new(App::default());
    let new = world.join(App::default());
    world.fuel = Some(1);
    world.run();
    world.fuel = None;
    starve(&mut world, new);
    assert_eq!(failures(&world), [Deadline::Batch], "{world}");
    finish(world, fired);
    // The incumbent does not go on.
    let mut world = World::new(App::default());
    let new = world.join(App::default());
    world.fuel = Some(3);
    world.run();
    world.fuel = None;
    world.now += Timing::default().batch;
    world.successor_event(new, successor::Event::Tick);
    assert_eq!(timed_out(&world, new), Some(Deadline::Batch), "{world}");
    finish(world, fired);
}

fn lease(fired: &mut BTreeSet<Deadline>) {
    let mut world = World::new(App::default());
    let new = world.join(App { readies: false, ..App::default() });
    world.run();
    let began = world.now;
    world.tick();
    assert_eq!(world.now - began, Timing::default().lease);
    assert_eq!(failures(&world), [Deadline::Lease]);
    assert!(world.accepting() == [0] && world.gap.is_zero());
    world.run();
    assert!(!world.procs[new].alive);
    finish(world, fired);
    // Acknowledging slowly does not make the lease longer.
    let timing = Timing::default().batch(Duration::from_secs(50));
    let mut world = World::new(App { timing: timing.clone(), ..App::default() });
    let new = world.join(App { timing, ..App::default() });
    world.fuel = Some(2);
    world.run();
    world.fuel = None;
    world.advance(Duration::from_secs(40));
    world.step();
    let began = world.now;
    starve(&mut world, new);
    assert_eq!(
        (failures(&world), world.now - began),
        (vec![Deadline::Lease], Duration::from_secs(20)),
        "{world}"
    );
    finish(world, fired);
    // The successor's own view of it, should the incumbent hang.
    let mut world = World::new(App::default());
    let new = world.join(App { readies: false, ..App::default() });
    world.run();
    world.successor_event(new, successor::Event::Tick);
    assert!(world.procs[new].alive, "not yet");
    world.now += Timing::default().lease;
    world.successor_event(new, successor::Event::Tick);
    assert_eq!(timed_out(&world, new), Some(Deadline::Lease));
    finish(world, fired);
}

fn standby(fired: &mut BTreeSet<Deadline>) {
    let mut world = World::new(App::default());
    let new = world.join(App { release: Release::OnCommand, ..App::default() });
    world.run();
    world.tick();
    assert_eq!(failures(&world), [Deadline::Standby], "the incumbent is first, and says why");
    world.run();
    assert!(
        matches!(&world.procs[new].failed, Some(Fault::PeerFailed(why)) if why.contains("`standby`")),
        "{world}"
    );
    finish(world, fired);
}

fn before_release(fired: &mut BTreeSet<Deadline>) {
    let hangs = || App { has_hook: true, hook_ends: false, ..App::default() };
    let mut world = World::new(hangs());
    let new = world.join(App::default());
    world.run();
    let began = world.now;
    world.tick();
    assert_eq!(world.now - began, Timing::default().before_release);
    assert_eq!(failures(&world), [Deadline::BeforeRelease]);
    assert!(world.accepting() == [0] && world.gap.is_zero() && world.procs[0].works, "it had not stopped");
    world.run();
    assert!(
        matches!(&world.procs[new].failed, Some(Fault::PeerFailed(why)) if why.contains("`before_release`")),
        "the incumbent is first, and says why: {world}"
    );
    finish(world, fired);
    // In a rollback.
    let mut world = World::new(App { drains: false, ..App::default() });
    let new = world.join(hangs());
    world.run();
    assert_eq!(world.command(Command::Rollback), Some(Ok(())));
    world.tick();
    let failed = |r: &Report| matches!(r, Report::RollbackFailed(why) if why.contains("`before_release`"));
    assert!(world.reports.iter().any(|(_, report)| failed(report)) && world.procs[new].works, "{world}");
    assert_eq!(world.accepting(), [new], "{world}");
    finish(world, fired);
    // When the service stops it is not waited for any longer.
    let mut world = World::new(hangs());
    world.command(Command::Stop { within: None });
    assert_eq!(world.waits_for(0).map(|(deadline, _)| deadline), Some(Deadline::BeforeRelease));
    world.settle();
    assert!(world.living().is_empty());
    fired.extend(&world.fired);
}

fn stop(fired: &mut BTreeSet<Deadline>) {
    let mut world = World::new(App { stops: false, ..App::default() });
    world.join(App::default());
    world.run();
    world.tick();
    assert_eq!(failures(&world), [Deadline::Stop]);
    assert_eq!(world.accepting(), [0], "it never stopped, or starts again");
    finish(world, fired);
    // In a rollback.
    let mut world = World::new(App::default());
    let new = world.join(App { stops: false, ..App::default() });
    world.run();
    assert_eq!(world.command(Command::Rollback), Some(Ok(())));
    world.tick();
    assert_eq!(world.accepting(), [new]);
    finish(world, fired);
    // When the service stops it is not waited for any longer.
    let mut world = World::new(App { stops: false, ..App::default() });
    world.command(Command::Stop { within: None });
    assert_eq!(world.waits_for(0).map(|(deadline, _)| deadline), Some(Deadline::Stop));
    world.settle();
    assert!(world.living().is_empty());
    fired.extend(&world.fired);
}

fn serving(fired: &mut BTreeSet<Deadline>) {
    let mut world = World::new(App::default());
    let new = world.join(App { opens: false, ..App::default() });
    world.run();
    assert!(world.accepting().is_empty());
    world.tick();
    assert_eq!(failures(&world), [Deadline::Serving]);
    assert_eq!(world.gap, Timing::default().serving);
    assert_eq!(world.accepting(), [0]);
    // It opens when it is too late and nothing was heard of it: the link is closed.
    world.run();
    assert!(!world.procs[new].alive);
    finish(world, fired);
}

fn released(fired: &mut BTreeSet<Deadline>) {
    let mut world = World::new(App::default());
    let new = world.join(App::default());
    while !world.said.iter().any(|(_, name)| *name == "ready") {
        assert!(world.step());
    }
    starve(&mut world, 0);
    while timed_out(&world, new).is_none() {
        starve(&mut world, 0);
    }
    assert_eq!(timed_out(&world, new), Some(Deadline::Released), "{world}");
    finish(world, fired);
}

fn probation_drain_force(fired: &mut BTreeSet<Deadline>) {
    // Connections that do not even go when they are forced.
    let mut world = World::new(App { drains: false, ends: false, ..App::default() });
    let began = world.now;
    world.join(App::default());
    world.run();
    let mut order = Vec::new();
    while let Some((deadline, _)) = world.waits_for(0) {
        order.push(deadline);
        world.tick();
    }
    assert_eq!(order, [Deadline::Probation, Deadline::Drain, Deadline::Force]);
    let timing = Timing::default();
    assert_eq!(world.now - began, timing.drain + timing.force, "a drain always ends");
    finish(world, fired);
    // A drain that is over before the probation.
    let timing = timing.clone().probation(timing.drain * 2);
    let mut world = World::new(App { drains: false, ends: false, timing, ..App::default() });
    world.join(App::default());
    world.run();
    let mut order = Vec::new();
    while let Some((deadline, _)) = world.waits_for(0) {
        order.push(deadline);
        world.tick();
    }
    assert_eq!(order, [Deadline::Drain, Deadline::Force, Deadline::Probation]);
    finish(world, fired);
}

fn resume(fired: &mut BTreeSet<Deadline>) {
    let mut world = World::new(App { drains: false, ..App::default() });
    let new = world.join(App::default());
    world.run();
    assert_eq!(world.command(Command::Rollback), Some(Ok(())));
    world.hang(0, Timing::default().resume);
    assert_eq!(world.accepting(), [new], "{world}");
    // The one that was asked wakes up: it resumes, hears that it was too late, and stands down.
    world.run();
    let by_it: Vec<_> =
        world.reports.iter().filter(|(index, _)| *index == 0).map(|(_, report)| report).collect();
    assert!(matches!(by_it[by_it.len() - 2..], [Report::Resumed { .. }, Report::StoodDown(_)]), "{world}");
    assert_eq!(world.accepting(), [new], "{world}");
    let former = &world.incumbent(new).expect("it serves").predecessors()[0];
    assert!(!former.probation && !former.quiet, "it said that it let go: {world}");
    finish(world, fired);
}

fn prepared(fired: &mut BTreeSet<Deadline>) {
    let (mut world, new) = migrating();
    leave(&mut world, 1);
    world.hang(new, Timing::default().prepared);
    assert!(world.said.contains(&(0, "abort")), "{world}");
    finish(world, fired);
}

fn quiesce(fired: &mut BTreeSet<Deadline>) {
    let (mut world, new) = migrating();
    assert_eq!(world.command(Command::Rollback), Some(Ok(())));
    world.hang(0, Timing::default().quiesce);
    assert_eq!(world.accepting(), [new], "nothing was stopped: {world}");
    finish(world, fired);
}

fn finish(mut world: World, fired: &mut BTreeSet<Deadline>) {
    world.settle();
    fired.extend(&world.fired);
    world.assert_next_works();
}

#[test]
fn every_deadline_fires() {
    let mut fired = BTreeSet::new();
    let ones = [
        reply,
        batch,
        lease,
        standby,
        before_release,
        stop,
        serving,
        released,
        probation_drain_force,
        resume,
        prepared,
        quiesce,
    ];
    for one in ones {
        one(&mut fired);
    }
    for deadline in Deadline::ALL {
        // The library looks for an owner before there is a machine.
        let reached = fired.contains(&deadline) || deadline == Deadline::Find;
        assert!(reached, "{deadline:?} never fired");
        let word = format!("{deadline:?}").to_lowercase();
        let says = deadline.to_string().replace('_', "");
        assert!(says.contains(&format!("`{word}`")), "its words name it: {deadline}");
    }
}

/// A tick before the time is nothing, wherever it comes.
#[test]
fn an_early_tick_changes_nothing() {
    for step in 0.. {
        let mut world = World::new(App { drains: false, ..App::default() });
        world.fuel = Some(step);
        world.join(App { drains: false, ..App::default() });
        world.run();
        if world.fuel != Some(0) {
            assert!(step > 10);
            break;
        }
        let before: Vec<_> =
            world.living().into_iter().map(|i| (world.state(i), world.waits_for(i))).collect();
        let said = world.said.len();
        world.advance(Duration::from_nanos(1));
        let after: Vec<_> =
            world.living().into_iter().map(|i| (world.state(i), world.waits_for(i))).collect();
        assert_eq!(before, after);
        assert_eq!(said, world.said.len());
    }
}

/// "For ever" is a setting that people make.
#[test]
fn the_longest_duration_is_no_panic() {
    let timing = Timing::default().scaled(f64::MAX);
    assert_eq!(timing.write, Duration::MAX);
    let mut world = World::new(App { timing: timing.clone(), ..App::default() });
    let new = world.join(App { timing, release: Release::OnCommand, ..App::default() });
    world.run();
    world.command(Command::Handoff);
    world.run();
    assert_eq!(world.accepting(), [new]);
    world.command(Command::Rollback);
    world.run();
    assert_eq!(world.accepting(), [0]);
    world.command(Command::Drain { within: Duration::MAX });
    world.command(Command::Stop { within: Some(Duration::MAX) });
    assert_eq!(world.procs[0].pending, [Pending::Stopped]);
    world.settle();
    assert!(world.living().is_empty());
}
