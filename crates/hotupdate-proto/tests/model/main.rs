//! Every interleaving: the shipped machines under the model checker [`stateright`].
//!
//! `tests/pair` plays courses of events that a person thought of, and random ones; here all of them are
//! played, up to a number of processes, mishaps and orders. The machines are those of the crate. Around them
//! are kernel and driver:
//!
//! * `kernel.rs`: links with what is on its way, and descriptors, which keep links, lock and control socket
//!   alive in flight;
//! * `process.rs`, `driver.rs`, `migration.rs`: what a process holds, and how its driver performs effects,
//!   mechanically;
//! * `manager.rs`: a service manager that takes one process for the service;
//! * `action.rs`, `world.rs`: what can happen, and the clock;
//! * `properties.rs`, `endings.rs`: what has to hold; `checking.rs`, `show.rs`: the checker, and
//!   counterexamples to read.
//!
//! A process may die at any moment, also in the middle of a step, when only a part of what it says is
//! written; successors may hang for ever. Any deadline may fire before anything that another process does.
//! Words may stay on their way as long as they like between two processes. With three, what was said arrives
//! at once (`prompt`): otherwise one word could be older than a whole handoff, which takes a process that
//! stops for seconds between two system calls. Under a manager, three do not even stand still as long as a
//! deadline lasts.
//!
//! Not in the model: garbage and lies (`tests/pair`, the fuzzer), clocks that are compared (`within_ms`),
//! `hotctl`.
//!
//! The number of states is printed: `cargo test -p hotupdate-proto --test model -- --nocapture`. The large
//! ones run with `make model`.

mod action;
mod checking;
mod driver;
mod endings;
mod kernel;
mod manager;
mod migration;
mod process;
mod properties;
mod show;
mod world;

use std::time::Duration;

use checking::Handoffs;
use hotupdate_proto::operator::Command;
use hotupdate_proto::{Inbound, Incumbent};
use world::World;

/// Two processes start at once; one is first, the other succeeds it.
#[test]
fn two_starts() {
    Handoffs::new(World::new(2, 1))
        .reaches("the second serves", |_, w| w.serves(1) && w.generation(1) == Some(2))
        .reaches("an orphan serves alone", |_, w| w.serves(0) && !w.procs[1].lives())
        .check("two starts");
}

/// A handoff on command, with everything that can fail.
#[test]
fn a_handoff_that_may_fail() {
    let orders = [Command::Handoff, Command::Abort { why: None }, Command::Rollback];
    Handoffs::new(World::serving(2, 1))
        .on_command()
        .orders(3, &orders)
        .failures()
        .reaches("it comes about", |_, w| w.serves(1) && w.procs[0].is_in_probation())
        .reaches("and is taken back", |_, w| w.serves(0) && w.procs[1].is_in_probation())
        .check("a handoff that may fail");
}

/// There and back, as often as operators like, with words that cross.
#[test]
fn rollbacks() {
    Handoffs::new(World::serving(2, 1))
        .orders(5, &[Command::Rollback])
        .reaches("both accept for a moment", |_, w| w.serves(0) && w.serves(1))
        .check("rollbacks");
}

/// Under a service manager that takes the end of one process for that of the service.
#[test]
fn a_manager_with_a_main_process() {
    for hears_all in [false, true] {
        Handoffs::new(World::supervised(2, 1, hears_all))
            .orders(2, &[Command::Rollback])
            .reaches("the second is the main process, and the first has left", |_, w| {
                w.manager.as_ref().is_some_and(|manager| manager.main == 1) && is_dead(w, 0)
            })
            .reaches("the first waits for the manager", |_, w| w.serves(1) && w.procs[0].exiting)
            .check("a manager with a main process");
    }
}

/// The same through three generations, each of which may be named while the next one comes.
#[test]
fn a_manager_and_three_generations() {
    for hears_all in [false, true] {
        Handoffs::new(World::supervised(3, 1, hears_all))
            .prompt()
            .reaches("the third is the main process, and no other is left", |_, w| {
                w.manager.as_ref().is_some_and(|manager| manager.main == 2) && w.living().count() == 1
            })
            .check("a manager and three generations");
    }
}

/// Operators and supervisors end the service, or hurry it.
#[test]
fn stops() {
    let drain = Command::Drain { within: Duration::from_secs(1) };
    let orders =
        [Command::Rollback, Command::Terminate, Command::TerminateNow, Command::Stop { within: None }, drain];
    Handoffs::new(World::serving(2, 1))
        .orders(2, &orders)
        .reaches("nobody is left", |_, w| w.living().next().is_none())
        .reaches("one that was told to end has given the service back", |_, w| {
            w.procs[1].terminated && w.serves(0) && w.generation(1) == Some(2) && !w.ended
        })
        .check("stops");
}

/// Two successors compete, and the later one may become the third generation.
#[test]
fn three_generations() {
    Handoffs::new(World::serving(3, 1))
        .prompt()
        .reaches("the third serves, and the first drains", |_, w| {
            w.serves(2) && w.generation(2) == Some(3) && w.procs[0].lives()
        })
        .reaches("the first serves again, although the third had come far", |_, w| {
            w.serves(0) && w.procs[1].role == process::Role::Dead && w.procs[2].is_orphan()
        })
        .check("three generations");
}

/// A connection migrates to the next version while any process dies, hangs back, or takes the service back.
#[test]
fn a_connection_migrates() {
    Handoffs::migrating(World::serving(2, 1))
        .orders(1, &[Command::Rollback])
        .reaches("it has migrated", |_, w| serves(w, 1))
        .reaches("and back", |_, w| serves(w, 0) && w.procs[1].connections.offers > 0)
        .reaches("what was on its way to a process that died stays with the one that takes over", |_, w| {
            w.serves(0) && is_dead(w, 1) && serves(w, 0) && w.procs[0].connections.offers > 0
        })
        .reaches("it can ask to leave while the other process hangs", |_, w| {
            serves(w, 0) && w.procs[0].incumbent().is_some_and(|machine| machine.outbound().is_stalled())
        })
        .check("a connection migrates");
}

/// The same while an operator insists on a rollback: what was late in the first attempt is there in the
/// second.
#[test]
#[ignore = "large: make model"]
fn a_connection_migrates_while_an_operator_insists() {
    Handoffs::migrating(World::serving(2, 1))
        .orders(2, &[Command::Rollback])
        .reaches("one that was late is awaited again, since it may still commit", |_, w| {
            inbound(w).any(|(_, inbound)| inbound.was_late() && inbound.is_awaited() && inbound.holds())
        })
        .reaches("one that was late is not awaited, since what it sent has expired", |_, w| {
            inbound(w).any(|(process, inbound)| process.stopping && inbound.was_late() && inbound.holds())
        })
        .check("a connection migrates, two rollbacks");
}

/// The same while the process that serves is replaced itself.
#[test]
#[ignore = "large: make model"]
fn a_connection_migrates_through_three_generations() {
    Handoffs::migrating(World::serving(3, 1))
        .prompt()
        .reaches("it has migrated twice", |_, w| serves(w, 2))
        .check("a connection migrates through three generations");
}

/// The process has the connection of the model.
fn serves(world: &World, p: usize) -> bool {
    world.procs[p].connections.serves.contains(&1)
}

fn is_dead(world: &World, p: usize) -> bool {
    world.procs[p].role == process::Role::Dead
}

/// What processes know of connections that come to them.
fn inbound(world: &World) -> impl Iterator<Item = (&process::Process, &Inbound)> {
    world.living().flat_map(|(_, process)| {
        let predecessors = process.incumbent().into_iter().flat_map(Incumbent::predecessors);
        predecessors.map(move |predecessor| (process, &predecessor.inbound))
    })
}

/// The same with all failures, another mishap and rollbacks.
#[test]
#[ignore = "large: make model"]
fn three_generations_at_length() {
    Handoffs::new(World::serving(3, 2)).prompt().check("three generations, two mishaps");
    Handoffs::new(World::serving(3, 1)).prompt().failures().check("three generations, with failures");
    Handoffs::new(World::serving(3, 1))
        .prompt()
        .orders(1, &[Command::Rollback])
        .check("three generations, with a rollback");
}

/// The third comes while an operator has not decided about the second, and decides otherwise later.
#[test]
#[ignore = "large: make model"]
fn three_generations_on_command() {
    let orders = [Command::Handoff, Command::Abort { why: None }, Command::Rollback];
    Handoffs::new(World::serving(3, 1))
        .prompt()
        .on_command()
        .orders(3, &orders)
        .reaches("the third serves", |_, w| w.serves(2))
        .reaches("the second serves again", |_, w| w.serves(1) && w.procs[2].is_in_probation())
        .check("three generations, on command");
}

/// No generation may drain for longer than its successor serves.
#[test]
fn three_generations_in_a_hurry() {
    let mut world = World::serving(3, 1);
    world.max_draining = 1;
    Handoffs::new(world)
        .prompt()
        .reaches("the first is hurried", |_, w| {
            w.procs[2].incumbent().is_some_and(|m| m.predecessors().iter().any(|p| p.hurried))
        })
        .check("three generations, in a hurry");
}

#[test]
#[ignore = "large: make model"]
fn stops_at_length() {
    let drain = Command::Drain { within: Duration::from_secs(1) };
    let orders =
        [Command::Rollback, Command::Terminate, Command::TerminateNow, Command::Stop { within: None }, drain];
    Handoffs::new(World::serving(2, 1)).orders(4, &orders).failures().check("stops, at length");
}
