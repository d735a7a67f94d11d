//! Which calls are refused, with which words; a refusal changes nothing.

use hotupdate_proto::message::{Generation, Joined, Message, Release, Released, Versions};
use hotupdate_proto::operator::{Command, ProcessState};
use hotupdate_proto::successor::{Effect, Event};
use hotupdate_proto::{Deadline, Fault, Occupancy, Refusal, Successor};

use crate::world::{App, World, local, process};

fn versions(min: u16, max: u16) -> Versions {
    Versions { min, max }
}

#[test]
fn a_second_successor_gets_busy_which_names_the_first() {
    let mut doings = Vec::new();
    for step in 1.. {
        let mut world = World::new(App::default());
        let first = world.join(App { release: Release::OnCommand, ..App::default() });
        world.fuel = Some(step);
        world.run();
        world.command(Command::Handoff);
        world.run();
        let finished = world.fuel != Some(0);
        world.fuel = None;
        if finished {
            break;
        }
        let attempt = world.incumbent(0).and_then(|m| m.successor()).is_some();
        let committed = world.state(0) == ProcessState::Draining;
        if world.owner() != Some(0) || committed || !attempt {
            continue;
        }
        let (before, second) = (world.incumbent(0).cloned(), world.join(App::default()));
        world.hear_call_of(second);
        assert_eq!(world.incumbent(0).cloned(), before, "nothing has changed by asking");
        let Some(Fault::PeerFailed(reason)) = &world.procs[second].failed else { panic!("{world}") };
        let doing = reason.strip_prefix("busy: successor 101 (v1) is already there (").expect(reason);
        if doings.last().map(String::as_str) != Some(doing) {
            doings.push(doing.to_owned());
        }
        world.settle();
        // The successor that stood by was dismissed in the end; the other ones took over.
        let serves = world.assert_one_serves();
        assert!(serves == first || world.fired.contains(&Deadline::Standby), "{world}");
        world.assert_next_works();
    }
    assert_eq!(doings, ["receiving the inventory)", "warming up)", "in standby)", "released)"]);
}

#[test]
fn versions_are_negotiated_both_ways() {
    let cases = [
        (versions(1, 1), versions(1, 2), Some(1)),
        (versions(1, 2), versions(1, 1), Some(1)),
        (versions(1, 2), versions(2, 3), Some(2)),
        (versions(2, 3), versions(1, 2), Some(2)),
        (versions(1, 3), versions(1, 3), Some(3)),
        (versions(1, 1), versions(2, 3), None),
        (versions(2, 3), versions(1, 1), None),
        (versions(1, 2), versions(9, 1), None),
        (versions(1, 2), versions(0, 0), None),
    ];
    for (ours, theirs, spoken) in cases {
        let mut world = World::new(App { versions: ours, ..App::default() });
        let new = world.join(App { versions: theirs, ..App::default() });
        world.run();
        match spoken {
            Some(version) => {
                let (peer, _) =
                    world.incumbent(0).and_then(|m| m.successor()).expect("it serves, in probation");
                assert_eq!(peer.version, version, "{ours} and {theirs}");
                assert_eq!(world.accepting(), [new]);
                world.settle();
                world.assert_one_serves();
            }
            None => {
                assert!(world.said.is_empty() && world.accepting() == [0], "nothing irreversible: {world}");
                let Some(Fault::PeerIncompatible(reason)) = &world.procs[new].failed else {
                    panic!("{world}")
                };
                assert!(
                    reason.contains(&ours.to_string()) && reason.contains(&theirs.to_string()),
                    "{reason}"
                );
                world.assert_next_works();
            }
        }
    }
}

#[test]
fn a_process_that_stops_or_has_handed_over_takes_nobody() {
    let mut world = World::new(App { stops: false, ..App::default() });
    let (_, join) = joining();
    world.command(Command::Stop { within: None });
    let machine = world.incumbent(0).expect("it serves");
    assert_eq!(machine.admits(world.now, &join), Err(Refusal::NotServing), "stopping");

    let mut world = World::new(App { drains: false, ..App::default() });
    world.join(App::default());
    world.run();
    let machine = world.incumbent(0).expect("it served");
    assert_eq!(machine.admits(world.now, &join), Err(Refusal::NotServing), "probation");

    // SIGTERM came while a successor was on its way.
    let mut world = World::new(App::default());
    world.join(App { readies: false, ..App::default() });
    world.run();
    world.command(Command::Terminate);
    assert_eq!(world.incumbent(0).expect("it serves").admits(world.now, &join), Err(Refusal::NotServing));
}

fn joining() -> (Successor, hotupdate_proto::Join) {
    let world = World::new(App::default());
    Successor::join(world.now, local(1, &App::default()), None)
}

fn joined() -> Joined {
    Joined {
        version: 1,
        features: vec!["migrate".to_owned()],
        generation: Generation(2),
        lease_ms: 60_000,
        handoff: "h".to_owned(),
        incumbent: process(0),
        incumbent_generation: Generation(1),
        manager: None,
        occupancy: None,
    }
}

#[test]
fn a_reply_that_makes_no_sense_ends_the_attempt() {
    let world = World::new(App::default());
    let reply = |change: fn(&mut Joined)| {
        let (mut machine, _) = joining();
        let mut joined = joined();
        change(&mut joined);
        let effects = machine.handle(world.now, Event::Replied(Ok(joined)));
        (machine, effects)
    };
    assert_eq!(reply(|_| {}).1, [], "the reply as it should be");
    for change in [
        (|joined| joined.version = 2) as fn(&mut Joined),
        |joined| joined.version = 0,
        |joined| joined.generation = Generation(1),
        |joined| joined.generation = Generation(u64::MAX),
        |joined| joined.features.push("telepathy".to_owned()),
    ] {
        let (machine, effects) = reply(change);
        assert!(machine.is_done());
        assert!(
            matches!(effects[..], [Effect::Send(Message::Failed { .. }), Effect::Close, Effect::Fail(_)]),
            "{effects:?}"
        );
    }
}

#[test]
fn an_incumbent_cannot_send_without_end_or_keep_back_the_control_socket() {
    let world = World::new(App::default());
    let start = || {
        let (mut machine, _) = joining();
        machine.handle(world.now, Event::Replied(Ok(joined())));
        machine
    };
    let says = |machine: &mut Successor, message| machine.handle(world.now, Event::Message(message));

    let mut machine = start();
    let effects = says(&mut machine, Message::Released(Released::default()));
    assert!(
        matches!(effects.last(), Some(Effect::Fail(Fault::PeerMisbehaved(_)))),
        "no control socket: {effects:?}"
    );

    for batch in [0, 2, u32::MAX] {
        let effects = says(&mut start(), Message::Control { batch });
        assert!(
            matches!(effects.last(), Some(Effect::Fail(Fault::PeerMisbehaved(_)))),
            "one is missing: {effects:?}"
        );
    }

    let mut machine = start();
    says(&mut machine, Message::Control { batch: 1 });
    let effects = says(&mut machine, Message::State { batch: 2, items: Vec::new() });
    assert!(
        matches!(effects.last(), Some(Effect::Fail(Fault::PeerMisbehaved(_)))),
        "it comes last: {effects:?}"
    );

    let mut machine = start();
    let most = hotupdate_proto::message::MAX_BATCHES;
    for batch in 1..=most {
        let effects = says(&mut machine, Message::State { batch, items: Vec::new() });
        assert_eq!(effects, [Effect::Send(Message::Received { batch })]);
    }
    let effects = says(&mut machine, Message::State { batch: most + 1, items: Vec::new() });
    assert!(matches!(effects.last(), Some(Effect::Fail(Fault::PeerMisbehaved(_)))), "{effects:?}");

    let item = hotupdate_proto::ListenerItem {
        name: "http".to_owned(),
        kind: hotupdate_proto::ListenerKind::Tcp,
        address: String::new(),
        cookie: 0,
    };
    let many = hotupdate_proto::inventory::MAX_LISTENERS + 1;
    let effects = says(&mut start(), Message::Listeners { batch: 1, items: vec![item; many] });
    assert!(matches!(effects.last(), Some(Effect::Fail(Fault::PeerMisbehaved(_)))), "{effects:?}");
}

/// It could not answer the clients that come to it. A limit that is just enough is no reason: the incumbent
/// may have the same.
#[test]
fn a_process_does_not_succeed_one_that_has_more_open_than_it_may() {
    let world = World::new(App::default());
    let reply = |max_descriptors, occupancy| {
        let mut machine = joining().0.with_max_descriptors(max_descriptors);
        machine.handle(world.now, Event::Replied(Ok(Joined { occupancy, ..joined() })))
    };
    let occupancy = Some(Occupancy { connections: 1500, descriptors: 1520 });
    for (limit, there) in [(Some(1520), occupancy), (None, occupancy), (Some(4), None)] {
        assert_eq!(reply(limit, there), [], "{limit:?}");
    }
    let effects = reply(Some(1519), occupancy);
    let [Effect::Send(Message::Failed { reason }), Effect::Close, Effect::Fail(Fault::Local(_))] =
        &effects[..]
    else {
        panic!("{effects:?}")
    };
    let why = "its limit of open files is 1519, and 100 (v0) has 1520 open, 1500 of them connections";
    assert!(reason.starts_with(why), "{reason}");
}

/// Numbers from the other side that are too large for a clock.
#[test]
fn no_number_is_too_large() {
    let world = World::new(App::default());
    let (mut machine, _) = joining();
    machine.handle(world.now, Event::Replied(Ok(Joined { lease_ms: u64::MAX, ..joined() })));
    machine.handle(world.now, Event::Message(Message::Control { batch: 1 }));
    assert!(machine.deadline().is_some_and(|at| at > world.now));

    let mut world = World::new(App { drains: false, ..App::default() });
    world.join(App::default());
    world.run();
    let hurry = Message::Hurry { deadline_ms: u64::MAX };
    world.incumbent_event(0, hotupdate_proto::incumbent::Event::Message(hurry));
    world.settle();
    world.assert_next_works();
}
