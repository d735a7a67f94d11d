//! Connections that migrate, as far as two processes have to agree about it.
//!
//! Deliberately absent: deaths, which the model plays in every order.

use hotupdate_proto::incumbent::{Effect, Event, Report};
use hotupdate_proto::message::{Generation, Message};
use hotupdate_proto::migration::{InboundEffect, Leaving, OutboundEffect};
use hotupdate_proto::operator::Command;
use hotupdate_proto::{Deadline, FEATURE_MIGRATE, Incumbent, Predecessor, Summary, Timing};

use crate::world::{App, Migration, World, kinds, local, process, resume};

fn app() -> App {
    // Longer than what is tested here takes.
    let timing = Timing::default().probation(Timing::default().drain);
    App { drains: false, accepts: true, timing, ..App::default() }
}

/// A successor serves and accepts connections; the first process drains.
pub(crate) fn migrating() -> (World, usize) {
    let mut world = World::new(app());
    let new = world.join(app());
    world.run();
    assert_eq!(world.accepting(), [new]);
    (world, new)
}

/// A connection of the first process asks to leave.
pub(crate) fn leave(world: &mut World, id: u64) {
    world.incumbent_event(0, Event::Leave(vec![Leaving { id, bytes: 0, descriptors: 1 }]));
}

fn said(world: &World, after: usize) -> Vec<(usize, &'static str)> {
    world.said[after..].to_vec()
}

/// The kinds came with `ready`: a connection knows where it can go before it is told that the process drains.
#[test]
fn what_is_accepted_is_known_before_the_drain_begins() {
    let (mut world, new) = migrating();
    let accepted = (0, Migration::Outbound(OutboundEffect::Accepted(kinds(&app()))));
    assert_eq!(world.migrations, [accepted, (0, Migration::Drain)]);
    let before = world.said.len();
    leave(&mut world, 7);
    world.run();
    assert_eq!(said(&world, before), [(0, "prepare"), (new, "prepared"), (0, "commit")]);
    let serve = (new, Migration::Inbound(Generation(1), InboundEffect::Serve(1)));
    assert_eq!(world.migrations.last(), Some(&serve));
}

/// Or else a connection that comes back could see that it has nowhere to go while its process drains, and
/// tell its client to leave.
#[test]
fn nothing_drains_any_more_when_connections_come_back() {
    let rolls_back = |world: &mut World, new| {
        world.say(new, 0, resume());
    };
    let dies = |world: &mut World, new| world.kill(new);
    let ends: [fn(&mut World, usize); 2] = [rolls_back, dies];
    for end in ends {
        let (mut world, new) = migrating();
        let done = world.migrations.len();
        end(&mut world, new);
        leave(&mut world, 7);
        world.run();
        let outbound = |effect| (0, Migration::Outbound(effect));
        let none = outbound(OutboundEffect::Accepted(Vec::new()));
        let first = [(0, Migration::Undrain), none, outbound(OutboundEffect::Return(vec![7]))];
        assert!(world.migrations[done..].starts_with(&first), "{world}");
    }
}

#[test]
fn a_process_that_serves_again_says_what_it_accepts_with_its_answer() {
    let (mut world, new) = migrating();
    let (before, done) = (world.said.len(), world.migrations.len());
    world.command(Command::Rollback);
    world.run();
    let words = [(new, "quiesce"), (0, "quiesced"), (new, "resume"), (0, "serving")];
    assert_eq!(said(&world, before), words);
    let accepted = (new, Migration::Outbound(OutboundEffect::Accepted(kinds(&app()))));
    assert!(world.migrations[done..].ends_with(&[accepted, (new, Migration::Drain)]), "{world}");
}

/// Older generations hear it once, and not what the process before accepted.
#[test]
fn older_generations_are_told_once() {
    let (mut world, _) = migrating();
    let before = world.said.len();
    let third = world.join(app());
    world.run();
    let accepts = said(&world, before).into_iter().filter(|(_, name)| *name == "accepts");
    assert_eq!(accepts.collect::<Vec<_>>(), [(third, "accepts")], "{world}");
}

/// Nothing stops as long as a predecessor may commit what is held here: the next process would not hold it.
#[test]
fn a_stop_waits_for_what_may_still_be_committed() {
    let (mut world, new) = migrating();
    let Timing { prepared, quiesce, .. } = Timing::default();
    leave(&mut world, 7);
    let waits = |world: &World| world.waits_for(new).map(|(deadline, _)| deadline);
    // It sleeps, and what it sent is held.
    world.hang(0, std::time::Duration::ZERO);
    for attempt in 1..=3 {
        assert_eq!(world.command(Command::Rollback), Some(Ok(())));
        assert_eq!(waits(&world), Some(Deadline::Quiesce), "attempt {attempt}: {world}");
        world.hang(0, quiesce);
        let failed = world.reports.iter().filter(|(_, r)| matches!(r, Report::RollbackFailed(_)));
        assert_eq!(failed.count(), attempt, "{world}");
        assert_eq!(world.accepting(), [new]);
    }
    // Whatever it reads first, it takes back what it sent.
    world.hang(0, prepared - 2 * quiesce);
    world.command(Command::Rollback);
    assert_eq!(waits(&world), Some(Deadline::Stop), "{world}");
    let done = world.migrations.len();
    world.run();
    let returned = (0, Migration::Outbound(OutboundEffect::Return(vec![7])));
    assert!(world.migrations[done..].contains(&returned), "{world}");
    assert_eq!(world.accepting(), [0]);
}

/// A process that stays for its supervisor alone would not answer.
#[test]
fn what_has_nothing_left_to_do_is_not_waited_for() {
    let now = World::new(app()).now;
    let asked = |said: &[Message]| {
        let older = Predecessor::released(now, Generation(1), process(0), Summary::default());
        let older = Predecessor { features: vec![FEATURE_MIGRATE.to_owned()], ..older };
        let machine = Incumbent::serving(local(1, &app()), Generation(2), vec![older]);
        let mut machine = machine.accepting(kinds(&app()));
        drop(machine.greet());
        for message in said {
            machine.handle(now, Event::Predecessor(Generation(1), message.clone()));
        }
        let effects = machine.command(now, Command::Stop { within: None }).unwrap();
        let quiesce = Effect::Inbound(Generation(1), InboundEffect::Send(Message::Quiesce));
        effects.contains(&quiesce)
    };
    let drained = Message::Drained { forced: 0 };
    assert!(asked(&[]) && asked(&[Message::LetGo]) && asked(std::slice::from_ref(&drained)));
    assert!(!asked(&[drained, Message::LetGo]));
}

/// When a process stops, what it holds for a predecessor is closed: by then it must not be possible any more
/// that it is committed.
#[test]
fn a_stop_for_good_waits_for_it_too() {
    let Timing { prepared, quiesce, .. } = Timing::default();
    let stopping = || {
        let (mut world, new) = migrating();
        leave(&mut world, 7);
        world.hang(0, std::time::Duration::ZERO);
        assert_eq!(world.command(Command::Stop { within: None }), Some(Ok(())));
        world.hang(0, quiesce);
        (world, new)
    };
    let waits = |world: &World, new| world.waits_for(new).map(|(deadline, _)| deadline);
    let inbound = |new, effect| (new, Migration::Inbound(Generation(1), effect));

    let (mut world, new) = stopping();
    assert_eq!(waits(&world, new), Some(Deadline::Quiesce), "{world}");
    world.run();
    assert!(world.migrations.contains(&inbound(new, InboundEffect::Serve(1))), "{world}");
    assert_eq!(waits(&world, new), Some(Deadline::Drain), "{world}");

    let (mut world, new) = stopping();
    world.hang(0, prepared);
    assert_eq!(waits(&world, new), Some(Deadline::Drain), "it does not wait for ever: {world}");
    assert!(world.migrations.contains(&inbound(new, InboundEffect::Discard(1))), "{world}");
    world.run();
    let returned = (0, Migration::Outbound(OutboundEffect::Return(vec![7])));
    assert!(world.migrations.contains(&returned), "{world}");
}
