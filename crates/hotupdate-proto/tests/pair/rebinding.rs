//! The control socket was made again: every process that may serve after the one that did it gets the new
//! one.

use hotupdate_proto::incumbent::Event;
use hotupdate_proto::message::{Join, Message, Release};
use hotupdate_proto::operator::{Command, ProcessState};
use hotupdate_proto::{Incumbent, SocketFile, VERSIONS};

use crate::generations::{pile, slow};
use crate::world::{App, World, local, process};

const FILE: SocketFile = SocketFile { device: 1, inode: 2 };

/// This process makes it again, and every message arrives. Returns which processes have got it.
fn rebinds(world: &mut World, index: usize) -> Vec<usize> {
    assert!(world.incumbent(index).expect("it serves").may_rebind());
    world.incumbent_event(index, Event::Rebound(FILE));
    world.run();
    let mut rebound = std::mem::take(&mut world.rebound);
    rebound.sort_unstable();
    rebound
}

fn may_rebind(world: &World, index: usize) -> bool {
    world.incumbent(index).expect("it serves").may_rebind()
}

#[test]
fn a_successor_and_a_predecessor_in_probation_get_it() {
    let mut world = pile(3, &slow());
    assert_eq!(rebinds(&mut world, 2), [1], "the oldest has let go");
    world.join(App { readies: false, ..App::default() });
    world.run();
    assert_eq!(rebinds(&mut world, 2), [1, 3], "one that warms up");
    world.kill(3);
    world.run();
    assert_eq!(rebinds(&mut world, 2), [1]);
    world.join(App { release: Release::OnCommand, ..App::default() });
    world.run();
    assert_eq!(rebinds(&mut world, 2), [1, 4], "one that stands by");
    world.command(Command::Handoff).expect("it serves").expect("one stands by");
    world.run();
    assert_eq!(world.state(4), ProcessState::Serving);
    world.settle();
    world.assert_next_works();
}

#[test]
fn it_is_made_again_only_while_every_process_can_be_told() {
    let mut world = World::new(App { stops: false, drains: false, ..App::default() });
    assert!(may_rebind(&world, 0));
    let successor = world.join(App::default());
    assert!(world.step(), "its call is heard");
    assert!(!may_rebind(&world, 0), "the inventory is on its way, perhaps with the old one");
    world.run();
    assert!(!may_rebind(&world, 0), "its accept loops stop");
    world.incumbent_event(0, Event::Stopped(Default::default()));
    assert!(!may_rebind(&world, 0), "it is released, and may serve already");
    world.run();
    assert!(!may_rebind(&world, 0), "another process serves");
    assert_eq!(rebinds(&mut world, successor), [0]);
}

/// A rollback leads to a process that has it, and back.
#[test]
fn the_process_that_gave_the_service_back_gets_it_too() {
    let mut world = pile(2, &slow());
    world.command(Command::Rollback).expect("it serves").expect("one is in probation");
    world.run();
    assert_eq!(world.state(0), ProcessState::Serving);
    assert_eq!(rebinds(&mut world, 0), [1]);
    world.command(Command::Rollback).expect("it serves").expect("one is in probation");
    world.run();
    assert_eq!(rebinds(&mut world, 1), [0]);
}

#[test]
fn a_peer_that_does_not_know_the_word_is_not_told() {
    let world = World::new(App::default());
    let mut machine = Incumbent::first(local(0, &App::default()));
    let join = Join { versions: VERSIONS, features: Vec::new(), process: process(1), attempt: None };
    let inventory = vec![Message::Control { batch: 1 }];
    machine.handle(world.now, Event::Join { join, handoff: "h".into(), inventory, occupancy: None });
    machine.handle(world.now, Event::Message(Message::Received { batch: 1 }));
    assert!(machine.may_rebind());
    assert_eq!(machine.handle(world.now, Event::Rebound(FILE)), []);
}
